"""The settings of our own task stand far from where training breaks, whatever rounds how."""

import math
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_defaults_of_the_digits_learn(solver: str, tmp_path: Path) -> None:
    """The objective of a guess is ln 10, and 64 iterations halve it at least.

    Where BPGrad is at the edge, the norm of the gradient exceeds L long before a run diverges.
    """
    for seed in (0, 4) if solver.startswith("bpgrad") else (0,):
        found = smoke(solver, seed, tmp_path)
        assert found["fixed_objective"] < math.log(10) / 2
        assert found.get("exceeded_steps", 0) == 0


def test_an_l_at_the_edge_would_be_noticed(tmp_path: Path) -> None:
    """L = 5, which diverged with some seeds and on some processors."""
    assert smoke("bpgrad", 0, tmp_path, "solver.lipschitz=5", "epochs=1")["exceeded_steps"] > 10
