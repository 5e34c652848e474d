"""On a GPU: captured training has the bits of eager training, alone and in company."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bpgrad.errors import Interrupted
from bpgrad.records.run_record import RunRecord
from bpgrad.tasks.classification import Classification
from bpgrad.tasks.task import Batch
from bpgrad.training.capture import CudaGraph, Replayed
from bpgrad.training.company import AUTO, train_together
from bpgrad.training.config import Config, load
from bpgrad.training.identity import run_name
from bpgrad.training.trainer import train
from tests.training.test_config import SOLVERS

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]
TARGETS = {"mnist": "GeneratedMnist", "cifar10": "GeneratedCifar10"}
Small = Callable[..., Config]


@pytest.fixture
def small(tmp_path: Path) -> Small:
    """A run of two epochs of 13 minibatches, the last of them smaller, on generated images."""

    def compose(folder: str, task: str, *more: str) -> Config:
        root = tmp_path / folder
        return load(
            [
                f"task={task}",
                f"task.target=scripts.bench_gpu.{TARGETS[task]}",
                *("device=cuda", "epochs=2", "batch_size=100", "scale.train_examples=1250"),
                "scale.val_examples=200",
                f"results_root={root}/runs",
                f"checkpoint_root={root}/checkpoints",
                *more,
            ]
        )

    return compose


def record_of(cfg: Config) -> RunRecord:
    return RunRecord(Path(cfg.results_root), Path(cfg.checkpoint_root), run_name(cfg))


def numbers(cfg: Config) -> dict[str, Any]:
    """What is recorded of a finished run, but for times and machines."""
    record = record_of(cfg)
    result = record.result()
    assert result is not None
    found = {key: value for key, value in result.items() if key not in ("run", "train_seconds")}
    steps = {name: array.tobytes() for name, array in record.steps().items()}
    return found | {"metrics": record.rows(), "consumed": record.consumed(), "steps": steps}


@pytest.mark.parametrize("task", TARGETS)
@pytest.mark.parametrize(
    "settings",
    [
        *SOLVERS,
        "bpgrad solver.schedule=cosine",
        "sgd +solver.schedule=linear",
        "bpgrad solver.foreach=true",
        "sgd precision=bf16",
        "bpgrad micro_batch=40",
    ],
)
def test_captured_equals_eager(settings: str, task: str, small: Small) -> None:
    solver, *more = settings.split()
    found = []
    for step in ("eager", "graph"):
        cfg = small(step, task, f"solver={solver}", f"step={step}", *more)
        train(cfg)
        assert record_of(cfg).meta()["starts"][0]["captured"] == (step == "graph")
        found.append(numbers(cfg))
    assert found[0] == found[1]


@pytest.mark.parametrize("task", TARGETS)
def test_in_company_of_eight_as_alone(task: str, small: Small) -> None:
    settings = [("bpgrad", seed) for seed in range(4)]
    settings += [("sgd", 0), ("adam", 0), ("eve", 0), ("rmsprop", 0)]
    runs = {
        folder: [small(folder, task, f"solver={solver}", f"seed={k}") for solver, k in settings]
        for folder in ("alone", "together")
    }
    for cfg in runs["alone"]:
        train(cfg)
    assert train_together([(run_name(cfg), cfg) for cfg in runs["together"]], 8) == 0
    for one, other in zip(runs["alone"], runs["together"], strict=True):
        assert numbers(one) == numbers(other)
    (*_, last) = runs["together"]
    assert record_of(last).rows("timing.csv")[0]["concurrent_runs"] == 8


def test_auto_takes_some(small: Small) -> None:
    runs = [small("auto", "mnist", f"seed={seed}") for seed in range(3)]
    assert train_together([(run_name(cfg), cfg) for cfg in runs], AUTO) == 0


@pytest.mark.parametrize("jobs", [1, 3])
def test_a_captured_run_is_resumed_with_the_same_bits(
    jobs: int, small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = "solver=bpgrad", "solver.schedule=cosine", "epochs=3"
    runs = {
        folder: [small(folder, "mnist", *settings, f"seed={seed}") for seed in range(jobs)]
        for folder in ("whole", "cut")
    }
    for cfg in runs["whole"]:
        train(cfg)
    cut = [(run_name(cfg), cfg) for cfg in runs["cut"]]
    objective, calls = Classification.objective, 0

    def and_stop(self: Classification, model: nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        nonlocal calls
        calls += 1
        if calls == 6 * jobs:  # of the eager last minibatch of the first epoch, or thereabouts
            signal.raise_signal(signal.SIGTERM)
        return objective(self, model, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Classification, "objective", and_stop)
        with pytest.raises(Interrupted):
            train_together(cut, jobs)
    assert train_together(cut, jobs) == 0
    for one, other in zip(runs["whole"], runs["cut"], strict=True):
        assert numbers(one) == numbers(other)
        assert len(record_of(other).meta()["starts"]) == 2


def test_a_graph_reads_what_is_in_its_buffers() -> None:
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        total, part = torch.zeros((), device="cuda"), torch.ones((), device="cuda")
        replayed = Replayed(lambda: (total.add_(part), None)[1], CudaGraph)
        for k in range(1, 8):
            part.fill_(k)
            replayed("key")
        assert total.item() == sum(range(1, 8))
        assert replayed.replays == 3


def test_what_the_record_says_of_the_machine(small: Small) -> None:
    cfg = small("run", "mnist", "epochs=1")
    train(cfg)
    (start,) = record_of(cfg).meta()["starts"]
    assert start["machine"]["gpu"] == torch.cuda.get_device_name()
    assert start["versions"]["cudnn"] == str(torch.backends.cudnn.version())
    assert "driver" in start["versions"]
