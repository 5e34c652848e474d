"""What is recorded grows by a row an epoch, and is what the checkpoint was saved after."""

import gc
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from bpgrad.errors import DamagedRecordError, RecordError
from bpgrad.records.run_record import RunRecord
from bpgrad.training import trainer
from bpgrad.training.config import load
from bpgrad.training.history import FILES, History
from bpgrad.training.trainer import train
from tests.training.conftest import tiny_overrides

COLUMNS = ("objective", "step_size")


@pytest.fixture
def record(tmp_path: Path) -> RunRecord:
    return RunRecord(tmp_path / "runs", tmp_path / "checkpoints", "digits/sgd/seed0-00000000")


def do_epochs(record: RunRecord, history: History, last: int) -> dict:
    """Record epochs up to `last`, every third with a column more; the checkpoint after it."""
    state = history.state_dict()
    for epoch in range(history.epochs + 1, last + 1):
        series = np.full((3, 2), epoch, dtype=np.float32)
        metrics = {"epoch": epoch, "train_objective": 1 / epoch, "val_objective": math.nan}
        if epoch % 3 == 0:
            metrics = {"epoch": epoch, "fixed_objective": 2.0 / epoch, **metrics}
        timing = {"epoch": epoch, "train_seconds": 0.5, "images_per_second": 3.0}
        history.add(series, metrics, timing, f"{epoch:064x}")
        history.write_series(record, series)
        state = history.state_dict()
        history.write_rows(record)
    history.write_steps(record)
    return state


def contents(record: RunRecord) -> dict:
    files = {path.name: path.read_bytes() for path in record.directory.iterdir()}
    del files["steps.npz"]
    return files | {name: array.tobytes() for name, array in record.steps().items()}


def resumed(record: RunRecord, state: dict) -> History:
    history = History(COLUMNS)
    history.load_state_dict(state)
    history.bring_back(record)
    return history


def test_a_checkpoint_does_not_grow(record: RunRecord) -> None:
    history = History(COLUMNS)
    sizes = {len(repr(do_epochs(record, history, epoch))) for epoch in (3, 6, 9)}
    assert max(sizes) - min(sizes) < 20  # digits of the numbers


@pytest.mark.slow
def test_an_epoch_of_a_long_run_writes_and_keeps_no_more_than_an_early_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """150 epochs stand for 10,000; every one has a checkpoint here."""
    epochs, written, kept = 150, [0], {}

    def replace(origin: Path, place: Path, move: Callable = os.replace) -> None:
        written[-1] += os.stat(origin).st_size
        move(origin, place)

    def write(descriptor: int, data: bytes, write: Callable = os.write) -> int:
        written[-1] += len(data)
        return write(descriptor, data)

    @contextmanager
    def mirrored(*_: object, **__: object) -> Iterator[Callable]:
        def mirror(row: dict[str, float]) -> None:
            written.append(0)
            if row["epoch"] in (30, epochs):
                gc.collect()
                kept[row["epoch"]] = sys.getallocatedblocks()

        yield mirror

    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr(os, "write", write)
    monkeypatch.setattr(trainer, "mirrored", mirrored)
    monkeypatch.setattr(trainer, "EPOCH_SECONDS", 0.0)
    tiny = [*tiny_overrides(tmp_path), "scale.train_examples=32", "scale.val_examples=10"]
    train(load([*tiny, "solver=bpgrad", f"epochs={epochs}"]))
    # Every tenth epoch has more columns, and those of a power of two bring steps.npz up to date.
    ordinary = [k for k in range(20, epochs) if k % 10 and k.bit_count() > 1]
    sizes = [written[k - 1] for k in ordinary]
    assert min(sizes) > 100_000  # a checkpoint
    assert max(sizes[-50:]) < max(sizes[:50]) + 2_000  # bytes; fifty rows have more
    # What Python keeps for reuse comes and goes; a row that is kept has some twenty values.
    assert kept[epochs] - kept[30] < 12 * (epochs - 30)


@pytest.mark.parametrize("saved", [0, 1, 2, 3, 5, 7])
def test_rows_beyond_the_checkpoint_are_cut(record: RunRecord, saved: int) -> None:
    """As after a kill, or where the checkpoint before the last is gone on from."""
    history = History(COLUMNS)
    state = do_epochs(record, history, saved) if saved else history.state_dict()
    do_epochs(record, history, 7)
    whole = contents(record)
    history = resumed(record, state)
    for file in FILES:
        assert len(record.recorded(file)) == saved
    do_epochs(record, history, 7)
    assert contents(record) == whole


def test_a_row_that_was_not_written_comes_from_the_checkpoint(record: RunRecord) -> None:
    """Killed after any of the files: none, one or two of them lack the last row."""
    state = do_epochs(record, History(COLUMNS), 6)
    whole = contents(record)
    for k in range(len(FILES) + 1):
        for file in FILES[k:]:
            path = record.directory / file
            path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
        resumed(record, state)
        assert contents(record) == whole


def test_a_part_of_a_row_is_not_taken_for_one(record: RunRecord) -> None:
    state = do_epochs(record, History(COLUMNS), 4)
    whole = contents(record)
    for file in FILES:
        path = record.directory / file
        path.write_text(path.read_text() + "5,0.2")
    assert [len(record.recorded(file)) for file in FILES] == [4, 4, 4]
    resumed(record, state)
    assert contents(record) == whole


def replaced(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


CHANGES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a digit": ("metrics.csv", lambda path: replaced(path, "0.5", "0.6")),
    "a hash": ("consumed.csv", lambda path: replaced(path, "0002", "0003")),
    "rows": ("metrics.csv", lambda path: path.write_text(path.read_text()[:60] + "\n")),
    "a time": ("timing.csv", lambda path: replaced(path, "0.5", "half")),
    "the file": ("consumed.csv", lambda path: path.unlink()),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_was_changed_since_is_refused(record: RunRecord, what: str) -> None:
    state = do_epochs(record, History(COLUMNS), 4)
    file, change = CHANGES[what]
    change(record.directory / file)
    if what == "a time":  # no number depends on it: the reader refuses it
        resumed(record, state)
        with pytest.raises(DamagedRecordError, match=file):
            record.read()
        return
    with pytest.raises(DamagedRecordError, match=file) as caught:
        resumed(record, state)
    assert "rerun=true" in str(caught.value)


@pytest.mark.parametrize("how", ["another value", "cut", "missing", "another shape"])
def test_a_changed_series_is_refused(record: RunRecord, how: str) -> None:
    state = do_epochs(record, History(COLUMNS), 4)
    path = record.checkpoints / "steps" / "epoch0002.npy"
    if how == "another value":
        np.save(path, np.full((3, 2), 7, dtype=np.float32))
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:-3])
    elif how == "missing":
        path.unlink()
    else:
        np.save(path, np.zeros((3, 1), dtype=np.float32))
    with pytest.raises(DamagedRecordError, match="steps"):
        resumed(record, state)


def test_a_row_that_does_not_fit_on_the_disk_leaves_no_part(
    record: RunRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = do_epochs(record, history := History(COLUMNS), 2)
    whole = contents(record)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(RecordError, match="No space left on device"):
            record.append_row("timing.csv", history.last["timing.csv"])
    assert contents(record) == whole
    resumed(record, state)
