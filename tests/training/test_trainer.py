"""What the loop measures and tells the solver, and that all solvers meet the same conditions."""

import functools
import hashlib
import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bpgrad.optim import BPGrad
from bpgrad.records.run_record import RunRecord
from bpgrad.tasks.classification import Digits
from bpgrad.tasks.task import Context
from bpgrad.training import checkpoint
from bpgrad.training.config import Config, load, solver_spec
from bpgrad.training.identity import run_name
from bpgrad.training.solver import LossFeedback, Solver
from bpgrad.training.trainer import train
from bpgrad.world import World
from tests.training.test_config import SOLVERS

Tiny = Callable[..., Config]


def record_of(cfg: Config) -> RunRecord:
    return RunRecord(Path(cfg.results_root), Path(cfg.checkpoint_root), run_name(cfg))


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_trains_and_records(solver: str, tiny: Tiny) -> None:
    cfg = tiny(f"solver={solver}", "epochs=2")
    result = train(cfg)
    record = record_of(cfg)
    rows = record.rows()
    assert [row["epoch"] for row in rows] == [1, 2]
    assert result["val_top1_error"] == rows[-1]["val_top1_error"]
    assert rows[1]["train_objective"] < rows[0]["train_objective"]
    assert {"train_seconds", "eval_seconds", "log_seconds"} <= set(record.rows("timing.csv")[0])
    with np.load(record.directory / "steps.npz") as steps:
        assert steps["epoch1"].shape == (10, len(steps["columns"]))
        assert np.isfinite(steps["epoch2"]).all()
        assert steps["quantiles"].shape == (2, 5, len(steps["columns"]))
    full = np.load(record.checkpoints / "steps" / "epoch0002.npy")
    assert full.shape[0] == 10


def test_solvers_share_initial_weights_and_batch_order(tiny: Tiny) -> None:
    hashes = set()
    for solver in ("bpgrad", "adam", "sgd"):
        cfg = tiny(f"solver={solver}", "epochs=1")
        train(cfg)
        meta = record_of(cfg).meta()
        hashes.add((meta["initial_weights_sha256"], meta["batch_order_sha256"]))
    assert len(hashes) == 1
    other = tiny("solver=sgd", "epochs=1", "seed=1")
    train(other)
    meta = record_of(other).meta()
    assert (meta["initial_weights_sha256"], meta["batch_order_sha256"]) not in hashes


def test_the_loop_is_plain_sgd(tiny: Tiny) -> None:
    """The same training, written out: weights, objective, error and step order agree."""
    cfg = tiny("solver=sgd", "epochs=2", "batch_size=50", "scale.train_examples=320")
    result = train(cfg)
    context = Context(World(torch.device("cpu")), Path(), 0, 50, 320, 100)
    task = Digits(context)
    model = task.build_model(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    for epoch in (1, 2):
        losses, errors = [], []
        for indices in task.batch_order(epoch).split(50):
            images, labels = task.train.batch(indices)
            logits = model(images)
            loss = F.cross_entropy(logits, labels)
            losses.append(loss.item() * len(indices))
            errors.append((logits.argmax(1) != labels).sum().item())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    row = record_of(cfg).rows()[-1]
    assert row["train_objective"] == pytest.approx(sum(losses) / 320, rel=1e-5)
    assert row["train_top1_error"] == pytest.approx(100 * sum(errors) / 320)
    with torch.no_grad():
        images, labels = task.val.batch(torch.arange(100))
        objective = F.cross_entropy(model(images), labels).item()
    assert result["val_objective"] == pytest.approx(objective, rel=1e-4)


def test_bpgrad_is_told_the_minibatch_objective(tiny: Tiny) -> None:
    """η_t = (f_t − ρ min f)/L over the recorded objectives, to float32."""
    cfg = tiny("solver=bpgrad", "epochs=2", "solver.lipschitz=20")
    train(cfg)
    with np.load(record_of(cfg).directory / "steps.npz") as steps:
        columns = steps["columns"].tolist()
        series = np.concatenate([steps["epoch1"], steps["epoch2"]]).astype(np.float64)
    f, eta = series[:, columns.index("objective")], series[:, columns.index("step_size")]
    np.testing.assert_allclose(eta, (f - 0.1 * np.minimum.accumulate(f)) / 20, rtol=1e-5)


def test_the_released_code_is_told_the_running_epoch_mean(tiny: Tiny) -> None:
    cfg = tiny("solver=bpgrad_released", "epochs=2", "batch_size=50", "solver.lipschitz=20")
    train(cfg)
    with np.load(record_of(cfg).directory / "steps.npz") as steps:
        columns = steps["columns"].tolist()
        epochs = [steps["epoch1"].astype(np.float64), steps["epoch2"].astype(np.float64)]
    sizes = np.array([50, 50, 50, 50, 50, 50, 20])
    means = np.concatenate(
        [np.cumsum(s[:, columns.index("objective")] * sizes) / np.cumsum(sizes) for s in epochs]
    )
    eta = np.concatenate([s[:, columns.index("step_size")] for s in epochs])
    np.testing.assert_allclose(eta, (means - 0.1 * np.minimum.accumulate(means)) / 20, rtol=1e-5)


def test_the_regularized_objective_has_the_regularized_gradient() -> None:
    parameters = [torch.randn(3, 2, requires_grad=True), torch.randn(4, requires_grad=True)]
    optimizer = torch.optim.SGD(
        [
            {"params": parameters[:1], "weight_decay": 0.1},
            {"params": parameters[1:], "weight_decay": 0.0},
        ],
        lr=0.1,
    )
    feedback = LossFeedback("regularized_batch", optimizer, torch.device("cpu"))
    expected = 2.0 + 0.05 * parameters[0].detach().square().sum()
    torch.testing.assert_close(feedback(torch.tensor(2.0), 10), expected)


# -- learning rates ------------------------------------------------------------------------------


def test_multipliers_and_schedule_reach_the_groups() -> None:
    spec = solver_spec(load(["task=cifar10", "solver=adam"]))
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    multipliers = {"0.weight": 0.1, "0.bias": 2.0}
    solver = Solver(spec, model, multipliers)
    factor = {id(p): multipliers.get(name, 1.0) for name, p in model.named_parameters()}
    for epoch, lr in ((1, 0.01), (30, 0.01), (31, 0.005), (60, 0.005), (61, 0.001), (100, 0.001)):
        assert solver.set_learning_rate(epoch) == pytest.approx(lr)
        found = {factor[id(p)]: g["lr"] for g in solver.param_groups for p in g["params"]}
        assert found == pytest.approx({0.1: 0.1 * lr, 2.0: 2 * lr, 1.0: lr})


@pytest.mark.parametrize("solver", ["bpgrad", "bpgrad_released", "adadelta"])
def test_solvers_without_a_rate_ignore_the_multipliers(solver: str) -> None:
    spec = solver_spec(load(["task=cifar10", f"solver={solver}"]))
    model = torch.nn.Linear(2, 2)
    solver = Solver(spec, model, {"weight": 0.1, "bias": 2.0})
    solver.set_learning_rate(40)
    assert [g["lr"] for g in solver.param_groups] == [1.0]


def test_loss_aware_solvers_are_recognised() -> None:
    aware = {"bpgrad", "bpgrad_released", "eve"}
    for solver in SOLVERS:
        spec = solver_spec(load([f"solver={solver}"]))
        assert Solver(spec, torch.nn.Linear(2, 2), {}).loss_aware == [solver in aware]


# -- a loss-aware solver of one's own, the screen, the mirror ------------------------------------


def test_a_solver_of_ones_own_needs_one_yaml(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_solver.py").write_text(
        "import torch\n"
        "class ScaledByLoss(torch.optim.Optimizer):\n"
        "    def __init__(self, params, lr: float = 0.1):\n"
        "        super().__init__(params, {'lr': lr})\n"
        "    @torch.no_grad()\n"
        "    def step(self, closure=None, *, loss=None):\n"
        "        for group in self.param_groups:\n"
        "            for p in group['params']:\n"
        "                p -= group['lr'] * loss * p.grad\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "solver").mkdir()
    (tmp_path / "solver" / "mine.yaml").write_text(
        "name: mine\noptimizer: my_solver.ScaledByLoss\nlr: 0.02\n"
    )
    cfg = tiny(f"hydra.searchpath=[file://{tmp_path}]", "solver=mine", "epochs=2")
    assert train(cfg)["train_objective"] < 2.25  # ln 10 = 2.303
    assert record_of(cfg).name.startswith("digits/mine/seed0-")


def test_plain_lines_without_a_terminal(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    train(tiny("epochs=2"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("epoch   1/2  train objective ")
    assert "  test objective" in lines[1]  # of the digits, as the tables say
    assert "images/s" in lines[1]
    assert "ETA" in lines[1]
    assert lines[-1].startswith("recorded in ")


def test_steps_beyond_L_are_counted_and_said_at_the_end(
    tiny: Tiny, capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    cfg = tiny("solver=bpgrad", "solver.lipschitz=0.5", "solver.lr=0.02", "epochs=3")
    result = train(cfg)
    assert result["exceeded_steps"] > 0
    said = f"warning: {result['exceeded_steps']} of {result['iterations']} steps had a gradient"
    assert said in capsys.readouterr().out
    assert not [w for w in recwarn if "too small" in str(w.message)]
    clean = train(tiny("solver=bpgrad", "solver.lipschitz=1000", "epochs=1"))
    assert clean["exceeded_steps"] == 0
    assert "warning" not in capsys.readouterr().out


def test_only_what_the_record_counts_is_not_warned_of(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    """The optimizer's words on L and on skipped steps; all others are heard."""
    step = BPGrad.step
    counted = ("L = 0.5 is too small here: ‖g‖ reached 2", "3 of 9 steps were skipped: not finite")

    @functools.wraps(step)
    def warning(*given: Any, **named: Any) -> Any:
        for words in (*counted, "something else"):
            warnings.warn(words, stacklevel=1)
        return step(*given, **named)

    monkeypatch.setattr(BPGrad, "step", warning)
    train(tiny("solver=bpgrad", "epochs=1"))
    heard = {str(one.message) for one in recwarn}
    assert "something else" in heard
    assert not heard & set(counted)


def test_provenance_is_complete(tiny: Tiny) -> None:
    cfg = tiny("epochs=1")
    train(cfg)
    meta = json.loads((record_of(cfg).directory / "meta.json").read_text())
    (start,) = meta["starts"]
    assert {"time", "git_sha", "git_dirty", "versions", "machine"} <= set(start)
    assert {"python", "torch", "torchvision", "numpy"} <= set(start["versions"])
    assert start["machine"]["threads"] == 1
    assert start["deterministic_algorithms"] is True
    assert start["channels_last"] is True
    assert len(meta["initial_weights_sha256"]) == len(meta["batch_order_sha256"]) == 64
    assert meta["data_md5"]


def test_the_mirror_gets_the_rows_of_the_csv(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    from bpgrad.records import wandb_mirror

    seen: list[dict[str, float]] = []

    class Mirror:
        def __init__(self, **settings: object) -> None:
            assert settings["mode"] == "offline"

        def log(self, row: dict[str, float]) -> None:
            seen.append(row)

        def finish(
            self, summary: dict[str, float], exit_code: int, pictures: dict[str, bytes]
        ) -> None:
            assert (exit_code, pictures) == (0, {})

    monkeypatch.setattr(wandb_mirror, "WandbMirror", Mirror)
    cfg = tiny("epochs=2", "logger=wandb")
    train(cfg)
    rows = record_of(cfg).rows()
    measured = [{k: v for k, v in row.items() if not math.isnan(v)} for row in rows]
    assert [{k: row[k] for k in row if k in rows[0]} for row in seen] == measured


def test_what_every_epoch_consumed_is_recorded_and_the_same_for_every_solver(tiny: Tiny) -> None:
    consumed = []
    for overrides in (["solver=bpgrad"], ["solver=sgd"], ["solver=sgd", "seed=1"]):
        cfg = tiny("epochs=2", *overrides)
        train(cfg)
        consumed.append(record_of(cfg).consumed())
    one, same, other = consumed
    assert one == same
    assert len({*one, *other}) == 4  # every epoch of every seed is another order

    digits = Digits(Context(World(torch.device("cpu")), Path(), 0, 32, 320, 100))
    chain = ""
    for indices in digits.batch_order(1).split(32):
        chain = hashlib.sha256(chain.encode() + indices.numpy().tobytes() + b"\0").hexdigest()
    assert one[0] == chain


def test_the_training_set_at_fixed_weights_every_ten_epochs_and_at_the_end(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bpgrad.training.trainer.FIXED_EVERY", 2)
    cfg = tiny("solver=sgd", "epochs=3")
    result = train(cfg)
    rows = record_of(cfg).rows()
    assert [math.isnan(row["fixed_objective"]) for row in rows] == [True, False, False]
    assert result["fixed_top1_error"] == rows[-1]["fixed_top1_error"]

    task = Digits(Context(World(torch.device("cpu")), Path(), 0, 32, 320, 100))
    model = task.build_model(0)
    saved = checkpoint.load(record_of(cfg).checkpoints / "checkpoint.pt", record_of(cfg).name)
    assert saved is not None
    model.load_state_dict(saved["model"])
    with torch.no_grad():
        logits = model(task.train.images)
    assert rows[-1]["fixed_objective"] == pytest.approx(
        F.cross_entropy(logits, task.train.labels).item(), rel=1e-5
    )
    wrong = (logits.argmax(1) != task.train.labels).float().mean().item()
    assert rows[-1]["fixed_top1_error"] == pytest.approx(100 * wrong)
    assert "fixed_seconds" in record_of(cfg).rows("timing.csv")[0]
