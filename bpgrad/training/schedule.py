"""What the learning rate is at each iteration of a run: a function of the iteration, no state."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bpgrad.errors import ConfigError

SCHEDULES = ("cosine", "linear")


def factor(schedule: str, iteration: int, total: int, warmup: float = 0.0) -> float:
    """What a rate is multiplied with at an iteration (from 0): 1 at first, 0 after the last one.

    Over the part `warmup` of the iterations it rises to 1 in equal steps before that.
    """
    rising = round(warmup * total)
    if iteration < rising:
        return (iteration + 1) / (rising + 1)
    done = (iteration - rising) / (total - rising)
    return (1 + math.cos(math.pi * done)) / 2 if schedule == "cosine" else 1 - done


def recorded_rates(path: Path, total: int) -> Sequence[float]:
    """The rates of a file (.npy), one for each of a run's `total` iterations.

    Raises ConfigError if there is no such file, or it holds anything else.
    """
    if not path.is_file():
        raise ConfigError(
            f"solver.replay={path}: no such file; it has the step sizes of the run {path.stem}, "
            "and python -m experiments feedback writes it once that has finished"
        )
    try:
        rates = np.load(path)
    except (OSError, ValueError, EOFError) as error:
        raise ConfigError(f"solver.replay={path}: cannot be read ({error})") from error
    if rates.shape != (total,) or rates.dtype.kind != "f" or not np.isfinite(rates).all():
        raise ConfigError(
            f"solver.replay={path}: must hold a finite number for each of the {total} iterations, "
            f"not {rates.dtype} {rates.shape}"
        )
    return [float(rate) for rate in rates]
