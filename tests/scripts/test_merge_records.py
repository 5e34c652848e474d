"""Records of another machine are taken up whole and unchanged, or not at all."""

import io
import json
import shutil
import tarfile
from argparse import Namespace
from pathlib import Path

import pytest

from bpgrad.errors import BPGradError, RecordError
from bpgrad.records.reading import CHECKSUMS
from bpgrad.records.run_record import RunRecord
from bpgrad.training import company
from bpgrad.training.config import Config, load
from bpgrad.training.identity import run_name
from bpgrad.training.trainer import train
from scripts import gpu_runs
from scripts.merge_records import merge
from tests.training.conftest import tiny_overrides


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The folder of another machine's work, and the names of its two runs."""
    work = tmp_path_factory.mktemp("work")
    names = []
    for solver in ("bpgrad", "sgd"):
        roots = f"results_root={work}/results/runs", f"checkpoint_root={work}/checkpoints"
        cfg = load([*tiny_overrides(work), f"solver={solver}", "epochs=1", *roots])
        train(cfg)
        names.append(run_name(cfg))
    (work / "results" / "studies" / "some").mkdir(parents=True)
    (work / "results" / "studies" / "some" / "meta.json").write_text("{}")
    (work / "results" / "studies" / "some" / "eta.csv").write_text("1\n")
    return work, names


@pytest.fixture
def parts(
    made: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> list[Path]:
    """Their archive, in several parts."""
    monkeypatch.setattr(gpu_runs, "PART", 2000)
    out = tmp_path / "out"
    out.mkdir()
    gpu_runs.pack(made[0], out)
    found = sorted(out.iterdir())
    assert len(found) > 2
    return found


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_records_arrive_as_they_were(
    made: tuple[Path, list[str]], parts: list[Path], tmp_path: Path
) -> None:
    into = tmp_path / "results" / "runs"
    assert merge(parts[::-1], into) == (2, 0)
    for name in made[1]:
        assert contents(into / name) == contents(made[0] / "results" / "runs" / name)
    assert (into.parent / "studies" / "some" / "eta.csv").read_text() == "1\n"
    before = contents(into.parent)
    assert merge(parts, into) == (0, 2)  # again: nothing is new
    assert contents(into.parent) == before
    assert not list(into.glob(".merge*"))


@pytest.mark.parametrize("file", ["metrics.csv", "result.json"])
def test_another_record_of_a_run_stops_all(
    file: str, made: tuple[Path, list[str]], parts: list[Path], tmp_path: Path
) -> None:
    into = tmp_path / "results" / "runs"
    name = made[1][1]
    shutil.copytree(made[0] / "results" / "runs" / name, into / name)
    record = RunRecord(into, into, name)
    result = json.loads((into / name / "result.json").read_text())
    if file == "metrics.csv":
        rows = record.recorded(file)
        rows[0]["train_objective"] = "0.125"
        record.write_rows(file, rows)
        result["train_objective"] = 0.125
    else:
        result["weights_sha256"] = "0" * 64
    del result[CHECKSUMS]
    record.write_result(result)
    record.result()  # a whole record, of other numbers
    before = contents(tmp_path / "results")
    found = "epoch 1: train_objective: 0.125 there" if file == "metrics.csv" else "weights_sha256"
    with pytest.raises(RecordError, match=found):
        merge(parts, into)
    assert contents(tmp_path / "results") == before


def test_a_damaged_archive_or_record_stops_all(
    made: tuple[Path, list[str]], parts: list[Path], tmp_path: Path
) -> None:
    into = tmp_path / "results" / "runs"
    with pytest.raises(RecordError, match="archive cannot be read"):
        merge(parts[:-1], into)
    work = tmp_path / "damaged"
    shutil.copytree(made[0] / "results", work / "results")
    with (work / "results" / "runs" / made[1][0] / "metrics.csv").open("a") as text:
        text.write("2,3,4\n")
    archive = tmp_path / "records.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(work / "results" / "runs", arcname="runs")
    with pytest.raises(RecordError, match=r"metrics\.csv"):
        merge([archive], into)
    assert contents(into) == {}


@pytest.mark.parametrize("name", ["../runs/a/b/seed0-1/x", "/runs/a/b/seed0-1/x", "runs/x", "y/z"])
def test_nothing_is_written_elsewhere(name: str, tmp_path: Path) -> None:
    archive = tmp_path / "records.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        member = tarfile.TarInfo(name)
        member.size = 1
        tar.addfile(member, io.BytesIO(b"x"))
    with pytest.raises(RecordError, match="no file of a record"):
        merge([archive], tmp_path / "results" / "runs")
    assert contents(tmp_path) == {"records.tar.gz": archive.read_bytes()}


def test_what_cannot_be_run_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained: list[str] = []

    def train_together(runs: list[tuple[str, Config]], jobs: int) -> int:
        trained.extend(label for label, _ in runs)
        return 0

    monkeypatch.setattr(company, "train_together", train_together)
    monkeypatch.setenv("BPGRAD_DATA", str(tmp_path))
    names = ["quickstart --set solver.nothing=1", "quickstart --seeds 0"]
    options = Namespace(names=names, device="cpu", work=tmp_path, scale="smoke")
    with pytest.raises(BPGradError, match=r"^1 runs failed$"):
        gpu_runs.train(options)
    assert capsys.readouterr().err.startswith("error: quickstart: digits  ")
    assert len(trained) == 8
