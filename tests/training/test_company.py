"""Runs side by side in one process: each as by itself, stopped together, failing alone."""

import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bpgrad.data import digits
from bpgrad.errors import ConfigError, Interrupted
from bpgrad.records.run_record import RunRecord
from bpgrad.tasks.classification import Digits
from bpgrad.tasks.task import Batch
from bpgrad.training import company, iteration, progress, trainer
from bpgrad.training.company import AUTO, MEASURE_SECONDS, MOST, SETTLE_SECONDS, train_together
from bpgrad.training.config import Config
from bpgrad.training.identity import run_name
from bpgrad.training.trainer import train

Tiny = Callable[..., Config]
Pairs = list[tuple[str, Config]]

SETTINGS = {
    "BPGrad": ("solver=bpgrad",),
    "another seed": ("solver=bpgrad", "seed=1"),
    "Adam in bfloat16": ("solver=adam", "precision=bf16", "deterministic=false"),
}


@pytest.fixture(autouse=True)
def short_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (iteration, trainer):
        monkeypatch.setattr(module, "TURN", 2)


@pytest.fixture
def several(tiny: Tiny, tmp_path: Path) -> Callable[..., Pairs]:
    """Runs of two epochs, recorded in a folder of their own."""

    def compose(folder: str, *more: str) -> Pairs:
        roots = (
            f"results_root={tmp_path}/{folder}/runs",
            f"checkpoint_root={tmp_path}/{folder}/kept",
        )
        return [
            (label, tiny(*settings, "epochs=2", "scale.train_examples=160", *roots, *more))
            for label, settings in SETTINGS.items()
        ]

    return compose


def record_of(cfg: Config) -> RunRecord:
    return RunRecord(Path(cfg.results_root), Path(cfg.checkpoint_root), run_name(cfg))


def files(cfg: Config) -> dict[str, bytes]:
    """What is recorded of the run's numbers."""
    folder = record_of(cfg).directory
    return {name: (folder / name).read_bytes() for name in ("metrics.csv", "consumed.csv")}


@pytest.fixture
def drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the objective draw from every generator of the process, as dropout does."""

    def objective(self: Digits, model: nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        logits = model(F.dropout(batch.inputs, 0.1))
        noise = random.random() + np.random.random()  # noqa: NPY002
        loss = F.cross_entropy(logits, batch.targets) * (1 + noise)
        return {"objective": loss, "top1_error": loss.detach()}

    monkeypatch.setattr(Digits, "objective", objective)


def seeded(run: Callable[[], object]) -> None:
    """Python's and NumPy's generators are not the trainer's to seed."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    run()


@pytest.mark.usefixtures("drawing")
def test_a_run_has_the_same_bits_alone_and_among_others(
    several: Callable[..., Pairs], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone, together = several("alone"), several("together")
    loaded: list[None] = []
    load = digits.load
    monkeypatch.setattr(digits, "load", lambda: (loaded.append(None), load())[1])
    for _, cfg in alone:
        seeded(lambda cfg=cfg: train(cfg))  # type: ignore[misc]
    assert len(loaded) == len(SETTINGS)
    deterministic = torch.are_deterministic_algorithms_enabled()
    seeded(lambda: train_together(together, 2))
    assert len(loaded) == len(SETTINGS) + 1  # one copy for all
    assert torch.are_deterministic_algorithms_enabled() == deterministic
    for (label, one), (_, other) in zip(alone, together, strict=True):
        results = [record_of(cfg).result() for cfg in (one, other)]
        assert all(results), label
        assert len({result["weights_sha256"] for result in results if result}) == 1, label
        assert files(one) == files(other), label
        starts = [record_of(cfg).meta()["starts"][0] for cfg in (one, other)]
        assert starts[0].pop("deterministic_algorithms") == starts[1].pop(
            "deterministic_algorithms"
        )
    at_start = [record_of(cfg).meta()["starts"][0]["concurrent_runs"] for _, cfg in together]
    assert sorted(at_start)[-1] == 2
    (row, *_) = record_of(together[0][1]).rows("timing.csv")
    assert row["concurrent_runs"] == 2
    assert "concurrent_runs" not in record_of(alone[0][1]).rows("timing.csv")[0]


def test_a_signal_stops_all_where_they_resume(
    several: Callable[..., Pairs],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    alone, together = several("alone"), several("together")
    for _, cfg in alone:
        train(cfg)
    objective, calls = Digits.objective, 0

    def and_stop(self: Digits, model: nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        nonlocal calls
        calls += 1
        if calls == 14:
            signal.raise_signal(signal.SIGTERM)
        return objective(self, model, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Digits, "objective", and_stop)
        with pytest.raises(Interrupted):
            train_together(together, 3)
    said = capsys.readouterr().out
    assert said.count("stopped at epoch") == 3
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert train_together(together, 2) == 0
    for (_, one), (_, other) in zip(alone, together, strict=True):
        assert files(one) == files(other)
    assert sum(len(record_of(cfg).meta()["starts"]) for _, cfg in together) == 3 + 3


def test_an_error_ends_only_its_run(
    several: Callable[..., Pairs],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    runs = several("together")
    objective = Digits.objective

    def break_one(self: Digits, model: nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        if self.context.seed == 1:
            raise ZeroDivisionError("for once")
        return objective(self, model, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Digits, "objective", break_one)
        assert train_together(runs, 4) == 1
    told = capsys.readouterr()
    assert "error: another seed: ZeroDivisionError: for once" in told.err
    finished = [record_of(cfg).result() is not None for _, cfg in runs]
    assert finished == [True, False, True]
    assert train_together(runs, 4) == 0  # its lock is free
    assert capsys.readouterr().out.count("finished already") == 2


def test_on_a_terminal_there_are_no_bars(
    several: Callable[..., Pairs], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There can be one only."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(progress, "Progress", lambda *_, **__: pytest.fail("a bar"))
    assert train_together(several("terminal")[:2], 2) == 0


def test_a_run_with_two_labels_is_done_once(tiny: Tiny) -> None:
    cfg = tiny("epochs=1")
    assert train_together([("one", cfg), ("other", cfg)], 2) == 0


@pytest.mark.parametrize("setting", ["mirror", "torchrun"])
def test_what_needs_a_process_of_its_own(
    setting: str, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    if setting == "torchrun":
        monkeypatch.setenv("RANK", "0")
    cfg = tiny("wandb.mode=offline" if setting == "mirror" else "epochs=1")
    with pytest.raises(ConfigError, match="--jobs 1"):
        train_together([("one", cfg)], 2)


@pytest.mark.parametrize("fastest", [1, 4, MOST])
def test_auto_finds_how_many_are_fastest(fastest: int) -> None:
    now = 0.0
    seats = company._Seats(AUTO, lambda: now)
    counts = [seats.count]
    for _ in range(4000):
        now += 0.05
        # In sum as many iterations a second as there are runs, and no more beyond the fastest.
        seats.measure(min(seats.count, fastest) * 10, seats.count)
        if seats.count != counts[-1]:
            counts.append(seats.count)
    tried = [2**k for k in range(10) if 2**k <= min(2 * fastest, MOST)]
    assert counts == tried + ([] if fastest == MOST else [fastest])
    assert seats.count == fastest


def test_auto_measures_only_full_rounds() -> None:
    now = 0.0
    seats = company._Seats(AUTO, lambda: now)
    for _ in range(100):
        now += (SETTLE_SECONDS + MEASURE_SECONDS) / 2
        seats.measure(10, 0)
    assert seats.count == 1
