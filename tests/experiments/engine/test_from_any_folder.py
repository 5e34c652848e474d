"""The commands from a folder of one's own: they read the checkout's records, and write only there.

The records are those that are committed.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bpgrad.errors import BPGradError
from bpgrad.training import lookup, trainer
from bpgrad.training.config import load
from bpgrad.training.identity import run_name
from bpgrad.training.trainer import train
from experiments.__main__ import SUITE, main
from experiments.engine import declaration, studies

ROOT = Path(__file__).resolve().parents[3]
RESULTS = ROOT / "results"
ADAM = ["task=mnist", "solver=adam"]


def stamps() -> dict[Path, int]:
    """Every file of the checkout's results, and when it was written."""
    return {path: path.stat().st_mtime_ns for path in RESULTS.rglob("*")}


DECLARATION = """\
title: A comparison
seeds: [0]
tasks: [mnist]
solvers:
  - {label: Adam, set: [solver=adam]}
  - {label: Adagrad, set: [solver=adagrad]}
"""


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder; there are two recorded runs and a recorded study to ask for."""
    declared, here = tmp_path / "experiments", tmp_path / "here"
    declared.mkdir()
    here.mkdir()
    (declared / "mine.yaml").write_text(DECLARATION)
    shutil.copy(SUITE.folder / "samplers.yaml", declared)
    suite = replace(SUITE, folder=declared, findings=lambda comparisons, claims: ())
    monkeypatch.setattr("experiments.__main__.SUITE", suite)
    monkeypatch.setattr(trainer, "train", lambda cfg: pytest.fail("trained"))
    monkeypatch.setattr(lookup, "SUITE_RECORDS", RESULTS / "runs")
    monkeypatch.chdir(here)
    return here


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a command prints, after a check that it writes nothing into the checkout."""
    before = stamps()
    capsys.readouterr()
    main(arguments)
    assert stamps() == before
    return capsys.readouterr().out


@pytest.mark.parametrize("command", ["status", "verdict"])
def test_what_is_read_is_the_same_from_everywhere(
    command: str,
    elsewhere: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    here = said(capsys, command)
    if command == "status":
        assert "  2 of 2 runs finished" in here
        assert "study recorded" in here
    assert list(elsewhere.iterdir()) == []
    monkeypatch.chdir(ROOT)
    assert said(capsys, command) == here


def test_commands_as_they_are_typed_from_elsewhere(tmp_path: Path) -> None:
    def typed(*arguments: str) -> str:
        ran = subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},  # as pip install -e does
            capture_output=True,
            text=True,
            check=False,
        )
        assert (ran.returncode, ran.stderr) == (0, "")
        return ran.stdout

    out = typed(str(ROOT / "run.py"), *ADAM)
    assert out.startswith(f"{RESULTS}/runs/mnist/adam/seed0-")
    assert "finished already" in out
    name = run_name(load(ADAM))
    assert "identical: the recorded values" in typed("-m", "experiments", "diff", name, name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("show", ["--show", "--jobs=1"])
def test_an_experiment_is_shown_where_the_user_stands(
    show: str, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --show, and without where all that it asks for is recorded."""
    out = said(capsys, "mine", show)
    assert (f"2 of 2 runs are read from {RESULTS}/runs" in out) == (show != "--show")
    assert {path.name for path in elsewhere.rglob("*.*")} == {
        f"mine.{suffix}" for suffix in ("csv", "md", "tex", "png", "svg")
    }
    explained = said(capsys, "explain", "mine", "Adam", "val_top1_error")
    assert "equal to 6 significant digits" in explained
    assert f"{RESULTS}/runs/mnist/adam/seed0-" in explained


def test_a_damaged_record_is_named_beside_the_others(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By every command; those that only read end well, one that would run does not."""
    for name in (run_name(load(ADAM)), run_name(load(["task=mnist", "solver=adagrad"]))):
        shutil.copytree(RESULTS / "runs" / name, elsewhere / "results/runs" / name)
    damaged = Path("results/runs", run_name(load(ADAM)), "metrics.csv")
    damaged.write_bytes(damaged.read_bytes()[:-1])

    lines = said(capsys, "status").splitlines()
    assert any("  1 of 2 runs finished" in line for line in lines)
    (line,) = [line for line in lines if "damaged" in line]
    assert line.split("seed 0: ")[1].startswith(f"damaged: {damaged} is damaged")
    verdicts = said(capsys, "verdict").splitlines()
    (line,) = [line for line in verdicts if "damaged" in line]
    assert line.startswith(f"left out: {damaged} is damaged")
    said(capsys, "report")
    table = (elsewhere / "results/tables/mine.csv").read_text().splitlines()
    assert [line.split(",")[1] for line in table[1:]] == ["Adagrad"]
    for shown in ("README.md", "index.html", "tables/mine.md"):
        text = (elsewhere / "results" / shown).read_text()
        assert text.count(f"Missing: Adam, seed 0: damaged: {damaged}") == 1
    assert "Missing: Adam, seed 0: damaged: " in said(capsys, "mine", "--show")

    monkeypatch.setattr(trainer, "train", train)
    with pytest.raises(BPGradError, match="1 of 2 runs failed"):
        main(["mine"])
    out, err = capsys.readouterr()
    assert out.count("finished already") == 1
    assert err.startswith(f"error: mnist  Adam  seed 0: {damaged} is damaged")
    assert err.count("\n") == 1


def test_a_study_is_shown_where_the_user_stands(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = RESULTS / "studies/samplers"
    assert f"recorded in {folder}, which is only read" in said(capsys, "samplers", "--dry-run")
    assert list(elsewhere.iterdir()) == []
    assert f"records {folder}" in said(capsys, "samplers")
    made = {path.name for path in elsewhere.rglob("*.csv")}
    assert made == {path.name for path in RESULTS.glob("tables/samplers*.csv")}


def test_the_report_is_written_where_the_user_stands(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its links lead to the records in the checkout."""
    assert said(capsys, "report") == "results/README.md\n"
    page = (elsewhere / "results/index.html").read_text()
    links = [link for link in re.findall(r'href="([^"#]+)"', page) if "metrics.csv" in link]
    assert links
    for link in links:
        assert (elsewhere / "results" / link).resolve().is_relative_to(RESULTS / "runs")


def test_a_number_of_the_suites_table_and_a_difference_of_its_runs(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = run_name(load(ADAM))
    assert "identical: the recorded values" in said(capsys, "diff", name, name)
    monkeypatch.setattr("experiments.__main__.SUITE", SUITE)
    explained = said(capsys, "explain", "figure7", "Adam", "val_top1_error", "--task", "mnist")
    assert "equal to 6 significant digits" in explained
    assert list(elsewhere.iterdir()) == []


def test_what_is_recorded_here_comes_first(elsewhere: Path) -> None:
    cfg = load(ADAM)
    assert lookup.here_or_in_suite(cfg).results_root == str(RESULTS / "runs")
    assert lookup.here_or_in_suite(load([*ADAM, "rerun=true"])).results_root == cfg.results_root
    own = load([*ADAM, f"results_root={elsewhere}/runs"])
    assert lookup.here_or_in_suite(own).results_root == str(RESULTS / "runs")
    assert lookup.for_training(own) == own
    here = Path(cfg.results_root, run_name(cfg))
    shutil.copytree(RESULTS / "runs" / run_name(cfg), here)
    assert lookup.here_or_in_suite(cfg) == cfg
    (here / "result.json").unlink()
    assert lookup.here_or_in_suite(cfg) != cfg  # cut here, finished there
    meta = json.loads((here / "meta.json").read_text())
    (here / "meta.json").write_text(json.dumps(meta | {"diverged": {"epoch": 1, "iteration": 2}}))
    assert lookup.here_or_in_suite(cfg) == cfg
    (here / "meta.json").write_text("[")
    assert lookup.here_or_in_suite(cfg) == cfg


def test_a_diverged_run_of_the_suite_is_shown_and_not_trained_again(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = load(ADAM)
    suite = elsewhere / "suite"
    record = suite / run_name(cfg)
    record.mkdir(parents=True)
    monkeypatch.setattr(lookup, "SUITE_RECORDS", suite)
    assert lookup.here_or_in_suite(cfg) == cfg
    for meta in ('{"diverged": {"epoch": 1, "iteration": 2}}', "["):  # or damaged: told as such
        (record / "meta.json").write_text(meta)
        found = lookup.here_or_in_suite(cfg)
        assert lookup.is_in_suite(found)
        assert lookup.for_training(cfg) == cfg  # a single run diverges again, here
    assert not lookup.is_in_suite(cfg)


def test_a_study_of_other_seeds_is_computed_here(elsewhere: Path) -> None:
    study = declaration.load(SUITE.folder / "samplers.yaml")
    assert isinstance(study, declaration.Study)
    assert studies.place_of(study).of_suite
    asked = studies.place_of(study, ["results_root=results/runs"])
    assert not asked.of_suite
    assert asked == studies.place_of(study, compute=True)
    (elsewhere / "results/studies/samplers").mkdir(parents=True)
    (elsewhere / "results/studies/samplers/meta.json").write_text("{}")
    assert studies.place_of(study) == asked
