"""python -m experiments as a user types it: what runs, what is shown, how it ends."""

import csv
import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from bpgrad.errors import BPGradError, Interrupted, RecordError
from bpgrad.training import trainer
from experiments.__main__ import SUITE, main
from experiments.engine import declaration

ROOT = Path(__file__).resolve().parents[3]
DECLARATION = """\
title: A comparison
seeds: [0]
tasks: [digits]
solvers:
  - {label: SGD, set: [solver=sgd]}
  - {label: "BPGrad, μ = 0", set: [solver=bpgrad, solver.momentum=0]}
"""
DIVERGES = "  - {label: Wild, set: [solver=sgd, solver.lr=1e30]}\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place with an experiment called mine."""
    monkeypatch.setattr("experiments.__main__.SUITE", replace(SUITE, folder=tmp_path))
    (tmp_path / "mine.yaml").write_text(DECLARATION, encoding="utf-8")
    return tmp_path


def run(folder: Path, *arguments: str, extra: Sequence[str] = ()) -> None:
    tiny = ["epochs=1", "scale.train_examples=64", "scale.val_examples=50", "threads=1"]
    roots = [f"results_root={folder}/results/runs", f"checkpoint_root={folder}/checkpoints"]
    main(["mine", "--scale", "smoke", *arguments, "--set", *tiny, *roots, *extra])


def test_a_table_is_written_without_a_figure(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    declared = folder / "mine.yaml"
    declared.write_text(declared.read_text(encoding="utf-8") + "shows: table\n", encoding="utf-8")
    run(folder)
    made = sorted(path.suffix for path in folder.glob("results/[tf]*/*"))
    assert made == [".csv", ".md", ".tex"]
    assert "figure  " not in capsys.readouterr().out


def table(folder: Path) -> list[dict[str, str]]:
    (path,) = (folder / "results/tables").glob("*.csv")
    with path.open(encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def test_runs_then_shows_then_skips(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(folder)
    out, err = capsys.readouterr()
    assert "[1/2] digits  SGD  seed 0\n" in out
    assert "[2/2] digits  BPGrad, μ = 0  seed 0\n" in out
    assert "scale=smoke" in out
    assert err == ""
    name = "mine-smoke-modified"
    made = sorted(path.name for path in folder.glob("results/[tf]*/*"))
    assert made == sorted(f"{name}.{suffix}" for suffix in ("csv", "md", "tex", "png", "svg"))
    markdown = (folder / f"results/tables/{name}.md").read_text(encoding="utf-8")
    assert markdown in out
    assert out.splitlines()[-2:] == [
        f"table   {folder}/results/tables/{name}.md, .csv, .tex",
        f"figure  {folder}/results/figures/{name}.svg, .png",
    ]
    rows = {row["solver"]: row for row in table(folder)}
    assert list(rows) == ["SGD", "BPGrad, μ = 0"]
    for solver, label in (("sgd", "SGD"), ("bpgrad", "BPGrad, μ = 0")):
        (path,) = folder.glob(f"results/runs/digits/{solver}/*/metrics.csv")
        with path.open() as lines:
            (*_, last) = csv.DictReader(lines)
        for column in ("train_objective", "train_top1_error", "val_objective", "val_top1_error"):
            assert float(rows[label][column]) == pytest.approx(float(last[column]), rel=1e-5)

    before = {path: path.read_bytes() for path in folder.glob("results/**/*") if path.is_file()}
    run(folder)
    assert capsys.readouterr().out.count("finished already") == 2
    assert before == {path: path.read_bytes() for path in before}


def test_show_trains_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BPGradError, match="no run has finished"):
        run(folder, "--show")
    run(folder)
    before = table(folder)
    capsys.readouterr()
    monkeypatch.setattr(trainer, "train", lambda cfg: pytest.fail("trained"))
    run(folder, "--show")
    assert "[1/2]" not in capsys.readouterr().out
    assert table(folder) == before


def test_a_failing_run_is_told_and_the_rest_goes_on(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "mine.yaml").write_text(
        DECLARATION.replace("solvers:\n", f"solvers:\n{DIVERGES}"), encoding="utf-8"
    )
    with pytest.raises(BPGradError, match=r"^1 of 3 runs failed") as failed:
        run(folder)
    assert failed.value.exit_code != 0
    out, err = capsys.readouterr()
    assert err.startswith("error: digits  Wild  seed 0: digits/sgd/seed0-")
    assert err.count("\n") == 1
    assert [row["solver"] for row in table(folder)] == ["SGD", "BPGrad, μ = 0"]
    assert "- Missing: Wild, seed 0: diverged at epoch 1, iteration " in out


def test_a_disk_that_is_full_for_one_run_does_not_stop_the_others(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_file = os.replace

    def full(source: Path, target: Path) -> None:
        if "/checkpoints/digits/sgd/" in str(target):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        replace_file(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(BPGradError, match=r"^1 of 2 runs failed"):
        run(folder)
    out, err = capsys.readouterr()
    assert err.startswith("error: digits  SGD  seed 0: cannot write ")
    assert os.strerror(errno.ENOSPC) in err
    assert err.count("\n") == 1
    assert [row["solver"] for row in table(folder)] == ["BPGrad, μ = 0"]
    assert "Missing: SGD, seed 0: " in out
    assert not list(folder.rglob("*.partial"))
    monkeypatch.undo()
    monkeypatch.setattr("experiments.__main__.SUITE", replace(SUITE, folder=folder))
    run(folder)
    assert [row["solver"] for row in table(folder)] == ["SGD", "BPGrad, μ = 0"]


def test_with_nothing_finished_there_is_no_table(folder: Path) -> None:
    (folder / "mine.yaml").write_text(DECLARATION.partition("  - ")[0] + DIVERGES)
    with pytest.raises(BPGradError, match="no run has finished"):
        run(folder)
    assert not (folder / "results/tables").exists()


def test_an_interrupt_stops_everything(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    def interrupted(cfg: object) -> None:
        started.append(cfg)
        raise Interrupted(15)

    monkeypatch.setattr(trainer, "train", interrupted)
    with pytest.raises(Interrupted) as stopped:
        run(folder)
    assert stopped.value.exit_code == 143
    assert len(started) == 1
    assert not (folder / "results/tables").exists()


def test_tampered_runs_are_not_compared(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(folder)
    (path,) = folder.glob("results/runs/digits/sgd/*/meta.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"batch_order_sha256": "0" * 64}))
    with pytest.raises(BPGradError, match="1 of 2 runs failed"):
        run(folder)
    assert f"{path} is damaged (changed since the run finished)" in capsys.readouterr().err

    # One that never had checksums, as older records, is refused beside the others.
    result = path.with_name("result.json")
    kept = {k: v for k, v in json.loads(result.read_text()).items() if k != "checksums"}
    result.write_text(json.dumps(kept))
    with pytest.raises(RecordError, match="differ in batch order"):
        run(folder)


def test_seeds_of_the_command_line_replace_the_declared(folder: Path) -> None:
    run(folder, "--seeds", "3,4")
    assert [row["seeds"] for row in table(folder)] == ["2", "2"]
    found = {path.name.partition("-")[0] for path in folder.glob("results/runs/digits/sgd/*")}
    assert found == {"seed3", "seed4"}


@pytest.mark.parametrize("seeds", ["", "0,x", "1,1", "-1"])
def test_seeds_that_are_none(seeds: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["figure7", f"--seeds={seeds}"])
    assert ended.value.code == 2
    assert "--seeds" in capsys.readouterr().err


def test_exit_codes_and_messages_of_the_process(tmp_path: Path) -> None:
    def start(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "experiments", *arguments],
            cwd=ROOT,
            env=os.environ | {"PYTHONIOENCODING": "ascii"},
            capture_output=True,
            text=True,
            check=False,
        )

    listed = start("list")
    assert listed.returncode == 0
    names = [line.split()[0] for line in listed.stdout.splitlines()]
    assert names == declaration.names(SUITE.folder)
    refused = start("figure7", "--set", "solver.lipschitz=3")
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: mnist  Adagrad  seed 0: unknown solver.lipschitz")
    assert refused.stderr.count("\n") == 1
    assert start("figur7").returncode == 2


def test_a_reader_that_goes_away_ends_the_command_quietly() -> None:
    """As in `python -m experiments list | head -1`."""
    with subprocess.Popen(
        [sys.executable, "-m", "experiments", "list"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 128 + signal.SIGPIPE


def test_list_and_help_start_at_once() -> None:
    """They import nothing that takes seconds."""
    program = """
import sys
from experiments.__main__ import main
main(["list"])
try:
    main(["--help"])
except SystemExit:
    slow = {"torch", "hydra", "omegaconf", "pandas", "scipy", "numpy", "matplotlib", "wandb"}
    sys.exit(", ".join(sorted(slow & set(sys.modules))) or 0)
"""
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "experiments and studies: adadelta_detection," in ran.stdout


def test_looking_imports_nothing_that_only_training_needs(tmp_path: Path) -> None:
    """Each takes a second or more."""
    (tmp_path / "mine.yaml").write_text(
        "title: T\nseeds: [98765]\ntasks: [voc_detection, voc_segmentation, imagenette, digits]\n"
        "solvers:\n  - {label: Adam, set: [solver=adam]}\n  - {label: Ours, set: [solver=bpgrad]}\n"
    )
    program = f"""
import sys
from dataclasses import replace
from pathlib import Path
from experiments import __main__ as suite
suite.SUITE = replace(suite.SUITE, folder=Path({str(tmp_path)!r}))
suite.main(["mine", "--dry-run"])
suite.main(["status"])
slow = {{"torchvision", "torch._dynamo", "torch._inductor", "sklearn", "scipy", "wandb", "cv2"}}
sys.exit(", ".join(sorted(slow & set(sys.modules))) or 0)
"""
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "mine: 8 of 8 runs to do" in ran.stdout
    assert "0 of 8 runs finished" in ran.stdout
