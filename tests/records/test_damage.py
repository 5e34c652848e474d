"""No damaged file of a run is taken for what was written, and the other runs are still shown."""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from bpgrad.errors import CheckpointError, DamagedRecordError
from bpgrad.models.lenet import CifarLeNet, DigitsLeNet, MnistLeNet
from bpgrad.optim import BPGrad
from bpgrad.records import listed
from bpgrad.records.reading import CHECKSUMS, Content, read, read_steps
from bpgrad.records.run_record import RunRecord
from bpgrad.reporting.display.tables import as_markdown
from bpgrad.reporting.runs import look_at
from bpgrad.training import checkpoint
from bpgrad.training.config import load
from bpgrad.training.identity import run_name
from bpgrad.training.trainer import train
from scripts import list_checksums
from tests.records.damage import OF_BYTES, WAYS, damage
from tests.reporting.records import compare, make_run
from tests.training.conftest import tiny_overrides

ROOT = Path(__file__).resolve().parents[2]
FILES = (
    *("config.yaml", "meta.json", "metrics.csv", "timing.csv", "consumed.csv", "steps.npz"),
    "result.json",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The record of a finished run, to be copied."""
    folder = tmp_path_factory.mktemp("finished")
    settings = [*tiny_overrides(folder), "epochs=2", "solver=bpgrad"]
    train(load(settings))
    return folder / "runs" / run_name(load(settings))


@pytest.fixture
def record(finished: Path, tmp_path: Path) -> RunRecord:
    """A copy of it."""
    name = "digits/bpgrad/seed0-00000000"
    shutil.copytree(finished, tmp_path / "runs" / name)
    return RunRecord(tmp_path / "runs", tmp_path / "checkpoints", name)


def refusal(call: Callable[[], object], path: Path) -> str:
    """The one line that names the file."""
    with pytest.raises(DamagedRecordError) as caught:
        call()
    line = str(caught.value)
    assert str(path) in line
    assert "rerun=true" in line
    assert "\n" not in line
    return line


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("how", WAYS)
def test_a_damaged_file_of_a_finished_run_is_named(record: RunRecord, file: str, how: str) -> None:
    path = record.directory / file
    damage(path, how, random.Random(f"{file} {how}"))
    line = refusal(record.read, path)
    refusal(lambda: record.begin(), path)  # "finished already" would be untrue
    run = look_at(record, "BPGrad", 0)
    assert (run.finished, run.state) == (False, f"damaged: {line}")


def test_every_byte_of_a_finished_record_counts(record: RunRecord) -> None:
    points = random.Random(0)
    for file in FILES:
        path = record.directory / file
        whole = path.read_bytes()
        for how in OF_BYTES:
            for _ in range(6):
                damage(path, how, points)
                refusal(record.read, path)
                path.write_bytes(whole)
    assert record.read().result is not None


def test_the_others_are_shown_beside_a_damaged_run(record: RunRecord, tmp_path: Path) -> None:
    (record.directory / "meta.json").write_text("[]")
    good = make_run(tmp_path, "Adam")
    shown = as_markdown("A title", [compare(good, look_at(record, "BPGrad", 0))])
    assert "| Adam " in shown
    assert f"Missing: BPGrad, seed 0: damaged: {record.directory / 'meta.json'}" in shown
    assert "| BPGrad " not in shown


# -- records that have no checksums: older ones, and those of runs that have not finished ---------


def without_checksums(record: RunRecord) -> None:
    path = record.directory / "result.json"
    result = json.loads(path.read_text())
    del result[CHECKSUMS]
    path.write_text(json.dumps(result))


def edit_json(path: Path, change: Callable[[dict], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def edit_config(path: Path, change: Callable[[dict], object]) -> None:
    content = yaml.safe_load(path.read_text())
    change(content)
    path.write_text(yaml.safe_dump(content))


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


ODD: dict[str, tuple[str, Callable[[Path], object]]] = {
    "epochs is a word": ("config.yaml", lambda p: edit_config(p, lambda c: c.update(epochs="2"))),
    "another number of epochs": (
        "result.json",
        lambda p: edit_json(p, lambda c: c.update(epochs=3)),
    ),
    "a metric is a word": (
        "result.json",
        lambda p: edit_json(p, lambda c: c.update(val_objective="low")),
    ),
    "a metric is another": (
        "result.json",
        lambda p: edit_json(p, lambda c: c.update(val_objective=0.5)),
    ),
    "a metric is NaN, which is not JSON": (
        "result.json",
        lambda p: edit_json(p, lambda c: c.update(val_objective=float("nan"))),
    ),
    "null where there is a number": (
        "result.json",
        lambda p: edit_json(p, lambda c: c.update(val_objective=None)),
    ),
    "starts is no list": ("meta.json", lambda p: edit_json(p, lambda c: c.update(starts=3))),
    "no start": ("meta.json", lambda p: edit_json(p, lambda c: c.update(starts=[]))),
    "a start without machine": (
        "meta.json",
        lambda p: edit_json(p, lambda c: c["starts"][0].pop("machine")),
    ),
    "diverged is a word": (
        "meta.json",
        lambda p: edit_json(p, lambda c: c.update(diverged="early")),
    ),
    "a needed column renamed": ("metrics.csv", lambda p: replace(p, "train_objective", "loss")),
    "two columns of one name": (
        "metrics.csv",
        lambda p: replace(p, "val_objective", "train_objective"),
    ),
    "a row too much": ("metrics.csv", lambda p: p.write_text(p.read_text() * 2)),
    "a row without its end": ("metrics.csv", lambda p: p.write_text(p.read_text()[:-1])),
    "a row of too many values": ("metrics.csv", lambda p: replace(p, "\n2,", "\n2,,")),
    "an epoch twice": ("timing.csv", lambda p: replace(p, "\n2,", "\n1,")),
    "a negative time": ("timing.csv", lambda p: replace(p, "\n2,", "\n2,-")),
    "a hash cut": ("consumed.csv", lambda p: p.write_text(p.read_text()[:-4] + "\n")),
}


@pytest.mark.parametrize("how", ODD)
def test_files_without_checksums_are_checked_against_each_other(
    record: RunRecord, how: str
) -> None:
    without_checksums(record)
    assert record.read().result is not None
    file, change = ODD[how]
    change(record.directory / file)
    # What contradicts another file may be told of either.
    with pytest.raises(DamagedRecordError, match="is damaged"):
        record.read()
    assert not look_at(record, "BPGrad", 0).finished


@pytest.mark.parametrize("file", FILES[:-1])
@pytest.mark.parametrize("how", [how for how in WAYS if how not in OF_BYTES])
def test_files_of_another_kind_need_no_checksums(record: RunRecord, file: str, how: str) -> None:
    without_checksums(record)
    path = record.directory / file
    damage(path, how, random.Random(0))
    refusal(lambda: (record.read(), record.steps()), path)


@pytest.mark.parametrize("how", OF_BYTES)
def test_damaged_steps_are_noticed_by_their_reader(record: RunRecord, how: str) -> None:
    path = record.directory / "steps.npz"
    whole, points = path.read_bytes(), random.Random(how)
    expected = read_steps(record.directory)
    for _ in range(20):
        damage(path, how, points)
        try:
            found = read_steps(record.directory)
        except DamagedRecordError:
            pass
        else:  # a byte that nothing depends on, as a date in the archive's list
            assert all(np.array_equal(found[name], expected[name]) for name in expected)
        path.write_bytes(whole)


# -- older records that are in a list -------------------------------------------------------------


@pytest.fixture
def listed_record(record: RunRecord, capsys: pytest.CaptureFixture[str]) -> RunRecord:
    without_checksums(record)
    list_checksums.main([str(record.roots[0])])
    assert capsys.readouterr().out.startswith("1 records are new")
    return record


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("how", WAYS)
def test_a_damaged_file_of_a_listed_record_is_named(
    listed_record: RunRecord, file: str, how: str
) -> None:
    assert listed_record.result() is not None
    path = listed_record.directory / file
    for seed in range(3 if how in OF_BYTES else 1):
        whole = path.read_bytes()
        damage(path, how, random.Random(seed))
        refusal(listed_record.result, path)
        if how in OF_BYTES:
            path.write_bytes(whole)


def test_what_is_listed_is_never_replaced(listed_record: RunRecord) -> None:
    root = listed_record.roots[0]
    before = (root / listed.LIST).read_bytes()
    other = root / "digits/bpgrad/seed1-00000000"
    shutil.copytree(listed_record.directory, other)
    steps = listed_record.directory / "steps.npz"
    whole = steps.read_bytes()
    steps.write_bytes(whole + b"x")
    refusal(lambda: list_checksums.add(root), steps)
    assert (root / listed.LIST).read_bytes() == before
    steps.write_bytes(whole)
    assert list_checksums.add(root) == 1
    assert list_checksums.add(root) == 0
    *lines, last = (root / listed.LIST).read_text().splitlines()
    assert lines[1:] == sorted(lines[1:])
    assert set(before.decode().splitlines()[:-1]) < set(lines)
    assert last.startswith("checksums.csv,")


def test_a_record_that_is_made_again_needs_no_list(listed_record: RunRecord) -> None:
    result = listed_record.result()
    assert result is not None
    edit_json(listed_record.directory / "meta.json", lambda meta: meta.update(more=1))
    listed_record.write_result(result)
    assert listed_record.result() == result


@pytest.mark.parametrize("how", sorted(set(WAYS) - {"a link to nowhere"}))
def test_a_damaged_list_is_named(listed_record: RunRecord, how: str) -> None:
    path = listed_record.roots[0] / listed.LIST
    for seed in range(20 if how in OF_BYTES else 1):
        whole = path.read_bytes()
        damage(path, how, random.Random(seed))
        with pytest.raises(DamagedRecordError, match=r"checksums\.csv is not what was written; re"):
            listed_record.result()
        if how in OF_BYTES:
            path.write_bytes(whole)


def test_no_recorded_run_is_without_checksums() -> None:
    root = ROOT / "results" / "runs"
    for path in root.glob("*/*/seed*/result.json"):
        if CHECKSUMS not in json.loads(path.read_text()):
            assert {"result.json", "steps.npz"} <= set(listed.of_record(path.parent)), path


def test_the_recorded_runs_pass() -> None:
    """Those of this repository, the oldest included."""
    found = sorted((ROOT / "results" / "runs").glob("*/*/seed*"))
    assert found
    for directory in found:
        content = read(directory)
        assert content != Content()
        assert content.result is not None or "diverged" in content.meta or content.metrics
        read_steps(directory)


# -- checkpoints ---------------------------------------------------------------------------------

MODELS = {"digits": DigitsLeNet, "mnist": MnistLeNet, "cifar10": CifarLeNet}


@pytest.mark.parametrize("task", MODELS)
@pytest.mark.parametrize("how", OF_BYTES)
def test_damaged_checkpoints_are_refused(task: str, how: str, tmp_path: Path) -> None:
    """Some of each kind and task; BPGRAD_DAMAGED=70 makes it 630 in all."""
    model = MODELS[task](torch.Generator().manual_seed(0))
    optimizer = BPGrad(model.parameters(), lipschitz=5.0)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step(loss=torch.tensor(1.0))
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(
        path, "a run", {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    )
    assert checkpoint.load(path, "a run") is not None
    whole, points = path.read_bytes(), random.Random(f"{task} {how}")
    for _ in range(int(os.environ.get("BPGRAD_DAMAGED", "6"))):
        damage(path, how, points)
        with pytest.raises(CheckpointError, match=r"damaged|has the format") as caught:
            checkpoint.load(path, "a run")
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
        path.write_bytes(whole)
