"""A captured iteration, driven on the CPU by a graph that only counts and calls."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bpgrad.errors import Interrupted
from bpgrad.records.run_record import RunRecord
from bpgrad.tasks.classification import Digits
from bpgrad.training import capture, iteration
from bpgrad.training.capture import EAGER_FIRST, Replayed
from bpgrad.training.config import Config
from bpgrad.training.identity import run_name
from bpgrad.training.trainer import train
from tests.training.test_config import SOLVERS

Tiny = Callable[..., Config]


class CallingGraph:
    """Calls at each replay the function that it was to capture, and writes down what is asked."""

    log: list[str] = []  # noqa: RUF012 of all graphs of a test

    def capture(self, function: Callable[[], None]) -> None:
        self.function = function
        self.log.append("capture")

    def replay(self) -> None:
        self.log.append("replay")
        self.function()

    def release(self) -> None:
        self.log.append("release")


@pytest.fixture
def log() -> Iterator[list[str]]:
    CallingGraph.log.clear()
    yield CallingGraph.log
    CallingGraph.log.clear()


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch, log: list[str]) -> list[str]:
    """Let the trainer capture on the CPU; what it asks its graphs."""
    monkeypatch.setattr(iteration, "obstacle", lambda *_: "")
    monkeypatch.setattr(iteration, "on_device", lambda *_: True)
    monkeypatch.setattr(capture, "CudaGraph", CallingGraph)
    return log


def counts(log: list[str]) -> tuple[int, int, int]:
    return log.count("capture"), log.count("replay"), log.count("release")


def record_of(cfg: Config) -> RunRecord:
    return RunRecord(Path(cfg.results_root), Path(cfg.checkpoint_root), run_name(cfg))


def numbers(cfg: Config) -> dict[str, Any]:
    """What a training comes to, but for its time."""
    return {key: value for key, value in train(cfg).items() if key != "train_seconds"}


def test_three_calls_are_eager_and_the_fourth_is_captured(log: list[str]) -> None:
    calls: list[None] = []
    replayed = Replayed(lambda: calls.append(None), CallingGraph)
    for done in range(1, 7):
        replayed("key")
        assert len(calls) == done
        assert counts(log) == ((0, 0, 0) if done <= EAGER_FIRST else (1, done - EAGER_FIRST, 0))
    assert replayed.replays == 2  # the one after the capture has had the host's part


def test_another_key_drops_the_graph(log: list[str]) -> None:
    replayed = Replayed(lambda: None, CallingGraph)
    for _ in range(5):
        replayed(0.1)
    replayed(0.01)
    replayed(0.01)
    assert log == ["capture", "replay", "replay", "release", "capture", "replay", "replay"]


@pytest.mark.parametrize("solver", SOLVERS)
def test_captured_training_has_the_bits_of_eager_training(
    solver: str, tiny: Tiny, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    settings = f"solver={solver}", "epochs=2", "scale.train_examples=330"
    eager = tiny(*settings)
    expected = numbers(eager)
    log = request.getfixturevalue("captured")
    cfg = tiny(*settings, f"results_root={tmp_path}/captured", f"checkpoint_root={tmp_path}/again")
    found = numbers(cfg)
    # 10 whole minibatches an epoch and a ragged one, the first three eager
    assert counts(log) == (1, 17, 0)
    assert found == expected
    for file in ("metrics.csv", "consumed.csv", "steps.npz"):
        one, other = (record_of(each).directory / file for each in (eager, cfg))
        assert one.read_bytes() == other.read_bytes()
    assert record_of(cfg).meta()["starts"][0]["captured"]
    assert not record_of(eager).meta()["starts"][0]["captured"]


@pytest.mark.parametrize(
    ("settings", "graphs"),
    [
        (("solver=bpgrad", "solver.schedule=cosine"), 1),
        (("solver=sgd", "solver.lr_factors={2: 0.1}"), 2),
        (("solver=bpgrad", "+solver.lr_factors={2: 0.5}", "solver.schedule=linear"), 1),
        (("solver=bpgrad", "micro_batch=10"), 1),
    ],
)
def test_learning_rates_of_a_captured_step(
    settings: tuple[str, ...],
    graphs: int,
    tiny: Tiny,
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    expected = numbers(tiny(*settings, "epochs=2"))
    log = request.getfixturevalue("captured")
    roots = f"results_root={tmp_path}/captured", f"checkpoint_root={tmp_path}/again"
    assert numbers(tiny(*settings, "epochs=2", *roots)) == expected
    assert counts(log) == (graphs, 17, graphs - 1)


def test_a_captured_run_is_resumed_with_the_same_bits(
    tiny: Tiny, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = "solver=bpgrad", "solver.schedule=cosine"
    expected = numbers(tiny(*settings, "epochs=3"))
    monkeypatch.setattr(iteration, "TURN", 4)  # the host looks up after as many
    log = request.getfixturevalue("captured")
    roots = f"results_root={tmp_path}/captured", f"checkpoint_root={tmp_path}/again"
    cfg = tiny(*settings, "epochs=3", *roots)
    stop_after(cfg, iterations=14)
    log.clear()
    assert numbers(cfg) == expected
    assert counts(log) == (1, 13, 0)  # three eager ones again


def stop_after(cfg: Config, iterations: int) -> None:
    """Train until a signal comes in the course of that iteration."""
    objective, done = Digits.objective, 0

    def and_count(self: Digits, model: torch.nn.Module, batch: object) -> object:
        nonlocal done
        done += 1
        if done == iterations:
            signal.raise_signal(signal.SIGTERM)
        return objective(self, model, batch)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Digits, "objective", and_count)
        with pytest.raises(Interrupted):
            train(cfg)
