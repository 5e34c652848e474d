"""Rates on a schedule or replayed, and the losses told that need a state."""

import math
import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from bpgrad.errors import ConfigError, Interrupted
from bpgrad.optim import BPGrad
from bpgrad.training.config import Config, load, solver_spec
from bpgrad.training.identity import run_name
from bpgrad.training.schedule import factor
from bpgrad.training.solver import LossFeedback, Solver
from bpgrad.training.trainer import train
from tests.training.conftest import tiny_overrides
from tests.training.test_resume import contents

SMALL = ["batch_size=64", "epochs=2"]  # five iterations an epoch
GIVEN = ["solver.objective=constant", "solver.rho=0", "solver.lipschitz=1"]


@pytest.mark.parametrize(
    ("schedule", "half", "last"), [("cosine", 0.5, 2.4672e-4), ("linear", 0.5, 0.01)]
)
def test_a_schedule_begins_at_1_and_has_0_behind_its_end(
    schedule: str, half: float, last: float
) -> None:
    found = [factor(schedule, t, 100) for t in (0, 50, 99, 100)]
    assert found == pytest.approx([1.0, half, last, 0.0], rel=1e-4, abs=1e-15)


def test_a_warm_up_rises_to_1_and_the_schedule_takes_the_rest() -> None:
    found = [factor("linear", t, 10, warmup=0.4) for t in range(11)]
    assert found[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert found[4:] == pytest.approx([factor("linear", t, 6) for t in range(7)])


def test_a_warm_up_is_the_schedules_or_the_optimizers() -> None:
    given = ["solver=sgd", "+solver.warmup=0.05"]
    assert solver_spec(load([*given, "+solver.schedule=cosine"])).warmup == 0.05
    with pytest.raises(ConfigError, match=r"warmup"):  # torch's SGD has none of its own
        load(given)
    with pytest.raises(ConfigError, match=r"^solver.warmup=1.0: must be a part of the iterations"):
        load(["solver=sgd", "+solver.schedule=cosine", "+solver.warmup=1.0"])


def test_a_schedule_multiplies_what_factors_and_multipliers_give() -> None:
    settings = ["solver=sgd", "solver.lr=0.2", "solver.lr_factors={2: 0.5}"]
    spec = solver_spec(load([*settings, "+solver.schedule=linear"]))
    solver = Solver(spec, torch.nn.Linear(2, 2), {"bias": 3.0})
    solver.set_length(epochs=2, iterations=5)
    rates = []
    for iteration in range(10):
        epoch = iteration // 5 + 1
        first = solver.set_learning_rate(epoch)
        assert first == pytest.approx((0.2, 0.05)[epoch - 1])  # of the epoch's first iteration
        solver.set_iteration(iteration)
        rates.append(sorted(group["lr"] for group in solver.param_groups))
    plain = [0.2 * (1 if t < 5 else 0.5) * (1 - t / 10) for t in range(10)]
    np.testing.assert_allclose(rates, [[rate, 3 * rate] for rate in plain], rtol=1e-12)


def test_the_mean_of_the_epoch_before() -> None:
    feedback = LossFeedback("previous_epoch_mean", None, torch.device("cpu"))  # type: ignore[arg-type]
    told = []
    for objectives in ((2.0, 4.0), (1.0, 0.0), (9.0, 9.0)):
        feedback.start_epoch()
        for objective, examples in zip(objectives, (10, 30), strict=True):
            told.append(float(feedback(torch.tensor(objective), examples)))
    assert told == [2.0, 2.0, 3.5, 3.5, 0.25, 0.25]  # (2·10 + 4·30)/40, (1·10 + 0·30)/40


def eta_of(folder: Path, cfg: Config) -> np.ndarray:
    columns = np.load(folder / "runs" / run_name(cfg) / "steps.npz")["columns"].tolist()
    steps = sorted((folder / "checkpoints" / run_name(cfg) / "steps").iterdir())
    return np.concatenate([np.load(path) for path in steps])[:, columns.index("step_size")]


def objectives_of(folder: Path, cfg: Config) -> np.ndarray:
    steps = sorted((folder / "checkpoints" / run_name(cfg) / "steps").iterdir())
    return np.concatenate([np.load(path) for path in steps])[:, 0]


def test_a_replay_of_its_own_steps_is_the_run_again(
    tiny: Callable[..., Config], tmp_path: Path
) -> None:
    own = tiny(*SMALL)
    train(own)
    replays = []
    for name, source in (("first", own), ("second", None)):
        np.save(tmp_path / f"{name}.npy", eta_of(tmp_path, source or replays[-1]))
        replays.append(tiny(*SMALL, *GIVEN, f"solver.replay={tmp_path}/{name}.npy"))
        train(replays[-1])
    # The steps are recorded as float32, relative error 2**-24; the weights then differ by rounding,
    # which ten steps of a smooth network enlarge: a thousandfold at most.
    for replay in replays:
        assert eta_of(tmp_path, replay).tobytes() == eta_of(tmp_path, own).tobytes()
        found, expected = objectives_of(tmp_path, replay), objectives_of(tmp_path, own)
        assert found[0] == expected[0]
        np.testing.assert_allclose(found, expected, rtol=1000 * 2**-24)
    # Of steps that are float32 already, bit for bit.
    first, second = (objectives_of(tmp_path, replay) for replay in replays)
    assert first.tobytes() == second.tobytes()


def test_the_step_of_a_told_constant_is_the_rate(
    tiny: Callable[..., Config], tmp_path: Path
) -> None:
    cfg = tiny(*SMALL, *GIVEN, "solver.lr=0.05", "solver.schedule=cosine")
    train(cfg)
    expected = [0.05 * (1 + math.cos(math.pi * t / 10)) / 2 for t in range(10)]
    np.testing.assert_allclose(eta_of(tmp_path, cfg), expected, rtol=2**-23)


@pytest.mark.parametrize(
    "settings",
    [
        ["solver.objective=previous_epoch_mean", "solver.rho=0"],
        [*GIVEN, "solver.lr=0.05", "solver.schedule=linear"],
        [*GIVEN, "solver.replay=REPLAY"],
        ["solver.schedule=cosine", "task.holdout=0.1", "task.label_noise=0.1"],
    ],
    ids=["previous_epoch_mean", "linear", "replay", "cosine"],
)
def test_resumed_in_the_middle_of_an_epoch_with_the_same_bits(
    settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "eta.npy", np.linspace(0.1, 0.01, 10, dtype=np.float32))
    settings = [each.replace("REPLAY", f"{tmp_path}/eta.npy") for each in settings] + SMALL
    whole = [*tiny_overrides(tmp_path / "whole"), *settings]
    train(load(whole))
    step, steps = BPGrad.step, 0

    def step_with_signal(self: BPGrad, **loss: object) -> object:
        nonlocal steps
        steps += 1
        if steps in (3, 8):
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, **loss)  # type: ignore[arg-type]

    monkeypatch.setattr(BPGrad, "step", step_with_signal)
    cut = [*tiny_overrides(tmp_path / "cut"), *settings]
    for where in ("epoch 1, iteration 3", "epoch 2, iteration 3"):
        with pytest.raises(Interrupted, match=where):
            train(load(cut))
    train(load(cut))
    assert contents(tmp_path / "cut", cut) == contents(tmp_path / "whole", whole)


def test_impossible_rates_are_refused_in_one_line(
    tiny: Callable[..., Config], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"^solver.schedule=steps: choose one of cosine, linear$"):
        tiny("solver.schedule=steps")
    with pytest.raises(ConfigError, match=r"^solver.replay: sets the rate itself"):
        tiny("solver.schedule=cosine", "solver.replay=eta.npy")
    file = tmp_path / "seed2-abcdef12.npy"
    cfg = tiny(*SMALL, f"solver.replay={file}")
    with pytest.raises(ConfigError, match=r"no such file; .* run seed2-abcdef12, and python -m"):
        train(cfg)
    for wrong in (np.ones(9), np.ones(10, dtype=int), np.full(10, np.nan)):
        np.save(file, wrong)
        with pytest.raises(ConfigError, match="a finite number for each of the 10 iterations"):
            train(cfg)
    file.write_text("no array")
    with pytest.raises(ConfigError, match=r"^solver.replay=.*abcdef12.npy: cannot be read"):
        train(cfg)


def test_a_run_is_named_after_its_rates_but_not_after_where_their_file_lies() -> None:
    names = {
        run_name(load([f"solver.{each}"]))
        for each in ("lr=1", "schedule=cosine", "schedule=linear", "replay=a/x.npy")
    }
    assert len(names) == 4
    assert run_name(load(["solver.replay=b/x.npy"])) in names
    assert run_name(load(["solver.replay=a/y.npy"])) not in names
