"""Planned runs have the configuration that `python run.py` would compose for each."""

import pytest

from bpgrad.errors import ConfigError
from bpgrad.training.config import load
from experiments.__main__ import SUITE
from experiments.engine import declaration, runner
from experiments.engine.declaration import Experiment


def figure6() -> Experiment:
    found = declaration.load(SUITE.folder / "figure6.yaml")
    assert isinstance(found, Experiment)
    return found


def test_every_seed_is_composed_as_run_py_does() -> None:
    plan = runner.prepare(figure6(), seeds=(0, 3), overrides=["epochs=2"])
    ends = [plan.runs[0], plan.runs[-1]]
    assert [run.seed for run, _ in ends] == [0, 3]
    for run, cfg in ends:
        assert cfg == load([*run.overrides, "scale=paper", "epochs=2"])
    assert "modified: epochs=2" in plan.title


def test_no_two_runs_share_a_setting_that_can_be_changed() -> None:
    by_seed = {
        run.seed: cfg
        for run, cfg in runner.prepare(figure6(), seeds=(0, 1)).runs
        if run.task == "mnist"
    }
    one, other = by_seed[0], by_seed[1]
    one.solver["rho"] = 0.5
    assert other.solver.get("rho") != 0.5


def test_a_seed_that_is_too_large_is_told_with_its_run() -> None:
    with pytest.raises(ConfigError, match=r"^mnist  L = 10  seed 4294967296: seed=4294967296: "):
        runner.prepare(figure6(), seeds=(0, 2**32))
