"""A sweep, seen from one of its runs: what a sweeper is told, what is left when it is stopped."""

import math
import signal
import sys
from collections.abc import Mapping
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from bpgrad.errors import Interrupted
from bpgrad.training.config import Config, task_class


def worst_value(cfg: Config) -> float:
    """What a failed run is worth: infinitely bad, in the direction of the metric of the tables."""
    return -math.inf if _shown_metric(cfg)[1].higher_is_better else math.inf


def shown_value(cfg: Config, result: Mapping[str, Any]) -> float:
    """The final validation metric that tables show, for sweepers that optimize."""
    value = result[f"val_{_shown_metric(cfg)[0]}"]
    return worst_value(cfg) if value is None or math.isnan(value) else float(value)


def _shown_metric(cfg: Config) -> tuple[str, Any]:
    """The task's second metric, by the protocol; the first is the objective."""
    return list(task_class(cfg).metrics.items())[1]


def what_is_left(error: KeyboardInterrupt) -> Interrupted:
    """The same interruption, with the run it came in and the number of those after it."""
    job = HydraConfig.get()
    number, total = job.job.num + 1, _size(sys.argv[1:])
    place = f"run {number}" + (f" of {total}" if total else "")
    after = "the others" if total is None else str(total - number)
    overrides = " ".join(job.overrides.task)
    code = getattr(error, "exit_code", 128 + signal.SIGINT) - 128
    return Interrupted(
        code,
        f"{error or 'interrupted'} in {place} ({overrides}); left are it and {after} after it: the "
        "same command resumes it and does them",
    )


def _size(arguments: list[str]) -> int | None:
    """The number of runs of Hydra's basic sweeper; None for another one."""
    if not HydraConfig.get().sweeper._target_.endswith(".BasicSweeper"):
        return None
    texts = [text for text in arguments if not text.startswith("-")]
    try:
        overrides = OverridesParser.create().parse_overrides(texts)
        sweeps = [o for o in overrides if o.is_sweep_override()]
        return math.prod(len(list(sweep.sweep_string_iterator())) for sweep in sweeps)
    except (HydraException, ValueError):  # as a glob, whose choices only Hydra knows
        return None
