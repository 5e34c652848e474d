"""The settings of our own task stand far from where training breaks, whatever rounds how."""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bpgrad.training import trainer
from bpgrad.training.config import load
from bpgrad.training.trainer import train
from tests.training.test_config import SOLVERS


def smoke(solver: str, seed: int, folder: Path, *overrides: str) -> dict[str, float]:
    return train(
        load(
            [
                *("task=digits", "scale=smoke", f"solver={solver}", f"seed={seed}", *overrides),
                *(f"results_root={folder}/runs", f"checkpoint_root={folder}/checkpoints"),
            ]
        )
    )


@contextmanager
def warnings_of_l() -> Iterator[list[str]]:
    """What BPGrad says of its L, also what a run does not, because it counts it."""
    said: list[str] = []
    with warnings.catch_warnings(record=True) as caught, pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("always")
        patch.setattr(trainer.warnings, "filterwarnings", lambda *_: None)
        yield said
    said += [str(each.message) for each in caught if "L = " in str(each.message)]


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_defaults_of_the_digits_learn(solver: str, tmp_path: Path) -> None:
    """The objective of a guess is ln 10, and 64 iterations halve it at least.

    Where BPGrad is at the edge, the norm of the gradient exceeds L long before a run diverges.
    """
    for seed in (0, 4) if solver.startswith("bpgrad") else (0,):
        with warnings_of_l() as said:
            found = smoke(solver, seed, tmp_path)
        assert said == []
        assert found["fixed_objective"] < math.log(10) / 2
        assert found.get("exceeded_steps", 0) == 0


@pytest.mark.parametrize("solver", ["bpgrad", "bpgrad solver.momentum=0", "bpgrad_released"])
def test_the_defaults_are_not_warned_of(solver: str, tmp_path: Path) -> None:
    """135 steps of everything: an optimizer looks at its numbers after 10, 20 and every 100."""
    name, *more = solver.split()
    for seed in (0, 4):
        with warnings_of_l() as said:
            smoke(name, seed, tmp_path, "scale=paper", "epochs=3", *more)
        assert said == []


def test_an_l_at_the_edge_would_be_noticed(tmp_path: Path) -> None:
    """L = 5, which diverged with some seeds and on some processors."""
    with warnings_of_l() as said:
        found = smoke("bpgrad", 0, tmp_path, "solver.lipschitz=5", "epochs=1")
    assert found["exceeded_steps"] > 10
    assert len(said) == 1
