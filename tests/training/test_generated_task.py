"""What streamed, uneven, partly frozen tasks ask of the trainer, tried on a generated one."""

import multiprocessing
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bpgrad.errors import Interrupted
from bpgrad.records.run_record import RunRecord
from bpgrad.training import checkpoint
from bpgrad.training.config import Config, load
from bpgrad.training.identity import run_name
from bpgrad.training.trainer import train

Trained = tuple[dict[str, Any], RunRecord]


@pytest.fixture
def boxes(tmp_path: Path) -> Callable[..., Trained]:
    """Train three epochs of 22 images in batches of 8, each call in a folder of its own."""
    folders = (tmp_path / str(k) for k in range(9))

    def run(*overrides: str) -> Trained:
        folder = next(folders)
        cfg = composed(folder, *overrides)
        return train(cfg), record_of(cfg)

    return run


def composed(folder: Path, *overrides: str) -> Config:
    options = [f"~task.{key}" for key in ("holdout", "judge_test", "label_noise")]
    own = [*options, "task.name=boxes", "task.target=tests.training.boxes.Boxes"]
    places = [f"results_root={folder}/runs", f"checkpoint_root={folder}/checkpoints"]
    sizes = ["epochs=3", "batch_size=8", "threads=1", "workers=0"]
    return load([*own, *places, *sizes, *overrides])


def record_of(cfg: Config) -> RunRecord:
    return RunRecord(Path(cfg.results_root), Path(cfg.checkpoint_root), run_name(cfg))


def weights(record: RunRecord) -> dict[str, torch.Tensor]:
    state = checkpoint.load(record.checkpoints / "checkpoint.pt", record.name)
    assert state is not None
    return state["model"]


def test_workers_change_nothing(boxes: Callable[..., Trained]) -> None:
    alone, record = boxes()
    for workers in (1, 2):
        result, other = boxes(f"workers={workers}")
        assert result["weights_sha256"] == alone["weights_sha256"]
        assert other.consumed() == record.consumed()
        assert other.name == record.name


@pytest.mark.parametrize("solver", ["bpgrad", "bpgrad_released", "eve", "sgd"])
def test_micro_batches_make_the_step_of_the_whole_batch(
    solver: str, boxes: Callable[..., Trained]
) -> None:
    """The solver is told the mean over all of them, and takes one step with one norm.

    22 images in batches of 8 in parts of 3: 3 + 3 + 2, 3 + 3 + 2 and 3 + 3.
    """
    setting = "lipschitz=500" if solver.startswith("bpgrad") else "lr=0.001"
    overrides = [f"solver={solver}", f"solver.{setting}", "epochs=1"]
    whole = boxes(*overrides)[1]
    parts = boxes(*overrides, "micro_batch=3")[1]
    assert parts.name != whole.name
    for expected, row in zip(whole.rows(), parts.rows(), strict=True):
        assert row["iterations"] == expected["iterations"] == 3
        assert row == pytest.approx(expected, rel=1e-5)
    with (
        np.load(whole.directory / "steps.npz") as one,
        np.load(parts.directory / "steps.npz") as other,
    ):
        # The first step's numbers come from the same weights: sums of 8 in another order.
        assert other["epoch1"][0] == pytest.approx(one["epoch1"][0], rel=1e-6)
    for name, tensor in weights(whole).items():
        torch.testing.assert_close(weights(parts)[name], tensor, rtol=1e-5, atol=1e-6)


def test_frozen_parameters_stay_and_the_others_move(boxes: Callable[..., Trained]) -> None:
    from tests.training.boxes import Regressor

    initial = Regressor(torch.Generator().manual_seed(0)).state_dict()
    for solver in ("bpgrad", "bpgrad_released"):
        trained = weights(boxes(f"solver={solver}", "solver.lipschitz=500")[1])
        for name, tensor in trained.items():
            assert torch.equal(tensor, initial[name]) == name.startswith("frozen"), name


def test_metrics_of_classes_are_recorded_beside_the_scalars(boxes: Callable[..., Trained]) -> None:
    result, record = boxes()
    row = record.rows()[-1]
    assert row["val_distance"] == pytest.approx(
        (row["val_distance_small"] + row["val_distance_large"]) / 2
    )
    assert result["val_distance_large"] == row["val_distance_large"]
    assert record.rows()[0]["train_objective"] > row["train_objective"]


def test_pictures_are_drawn_at_the_end(boxes: Callable[..., Trained]) -> None:
    record = boxes()[1]
    with Image.open(record.directory / "pictures" / "first.webp") as picture:
        assert picture.size[0] >= 12
        assert np.asarray(picture).max() > 200


def test_a_streamed_run_resumes_in_the_middle_of_an_epoch(
    boxes: Callable[..., Trained], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some schedulers send their signal to each of its processes, and again."""
    whole, record = boxes("workers=2")
    cfg = composed(tmp_path / "cut", "workers=2")
    step, steps = torch.optim.Optimizer.zero_grad, iter(range(100))

    def stop_in_the_fifth(self: torch.optim.Optimizer, *arguments: object) -> None:
        if next(steps) == 4:
            processes = [*multiprocessing.active_children(), multiprocessing.current_process()]
            each = [str(process.pid) for process in processes] * 2
            subprocess.run(["sh", "-c", 'for it; do kill "$it"; done', "", *each], check=True)
        step(self)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.Optimizer, "zero_grad", stop_in_the_fifth)
        with pytest.raises(Interrupted, match="epoch 2, iteration 2"):
            train(cfg)
    result = train(cfg)
    assert result["weights_sha256"] == whole["weights_sha256"]
    assert record_of(cfg).consumed() == record.consumed()
    assert (record_of(cfg).directory / "metrics.csv").read_bytes() == (
        record.directory / "metrics.csv"
    ).read_bytes()
