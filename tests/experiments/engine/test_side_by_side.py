"""--jobs: runs in processes of their own, what they say, how they fail, stop and resume."""

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from multiprocessing import forkserver
from pathlib import Path

import pytest
from filelock import FileLock

from bpgrad.errors import BPGradError, ConfigError, Interrupted
from experiments.__main__ import SUITE, main
from experiments.engine import side_by_side

ROOT = Path(__file__).resolve().parents[3]
DECLARATION = """\
title: A comparison
seeds: [0]
tasks: [digits]
solvers:
  - {label: SGD, set: [solver=sgd]}
  - {label: SGD again, set: [solver=sgd]}
  - {label: Adam, set: [solver=adam]}
"""
WILD = "  - {label: Wild, set: [solver=sgd, solver.lr=1e30]}\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place with an experiment called mine."""
    monkeypatch.setattr("experiments.__main__.SUITE", replace(SUITE, folder=tmp_path))
    (tmp_path / "mine.yaml").write_text(DECLARATION, encoding="utf-8")
    return tmp_path


def run(folder: Path, *arguments: str, epochs: int = 1, name: str = "results") -> None:
    main(
        [
            *("mine", "--scale", "smoke", *arguments, "--set", f"epochs={epochs}"),
            *("scale.train_examples=320", "scale.val_examples=100"),
            *(f"results_root={folder}/{name}/runs", f"checkpoint_root={folder}/{name}/checkpoints"),
        ]
    )


def metrics(folder: Path, name: str = "results") -> dict[str, str]:
    paths = (folder / name / "runs").rglob("metrics.csv")
    return {str(path.relative_to(folder / name)): path.read_text() for path in paths}


def test_side_by_side_the_runs_are_the_same_and_one_that_fails_is_told(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with (folder / "mine.yaml").open("a") as file:
        file.write(WILD)
    with pytest.raises(BPGradError, match=r"^1 of 4 runs failed"):
        run(folder, "--jobs", "2")
    out, err = capfd.readouterr()
    lines = out.splitlines()
    for k, label in enumerate(("SGD", "Adam", "Wild"), 1):  # SGD has two labels and is run once
        assert f"[{k}/3] digits  {label}  seed 0" in lines
    assert any(line.startswith("digits  Adam  seed 0: epoch   1/1") for line in lines)
    assert err.startswith("error: digits  Wild  seed 0: digits/sgd/seed0-")
    assert "diverged" in err
    assert err.count("\n") == 1

    for path in folder.glob("results/runs/digits/*/*/meta.json"):
        (start,) = json.loads(path.read_text())["starts"]
        assert start["machine"]["threads"] == max(1, side_by_side.cores() // 2)
    (folder / "mine.yaml").write_text(DECLARATION)
    run(folder, name="serial")
    assert len(metrics(folder, "serial")) == 2
    assert metrics(folder, "serial").items() <= metrics(folder).items()


@pytest.mark.slow
def test_a_signal_stops_all_of_them_where_they_resume(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    epochs = 40

    def recorded_epochs() -> dict[str, int]:
        return {path: text.count("\n") - 1 for path, text in metrics(folder).items()}

    def wait(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 120
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.05)

    def parent() -> None:
        forkserver._forkserver._forkserver_pid = None  # type: ignore[attr-defined]  # not its child
        run(folder, "--jobs", "2", epochs=epochs)

    # First the parent is killed: its children have to end by themselves. A fork saves its imports.
    started = multiprocessing.get_context("fork").Process(target=parent)
    started.start()
    wait(lambda: len(recorded_epochs()) == 2)
    started.kill()
    started.join()
    for path in folder.glob("results/checkpoints/.locks/*.lock"):
        with suppress(FileNotFoundError):  # its run has stopped since
            FileLock(path).acquire(timeout=60).lock.release()
    killed = recorded_epochs()
    assert len(killed) == 2
    assert all(1 <= count < epochs for count in killed.values())

    def interrupt() -> None:
        wait(lambda: all(count > killed[path] for path, count in recorded_epochs().items()))
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(Interrupted) as stopped:
        run(folder, "--jobs", "2", epochs=epochs)
    thread.join()
    assert stopped.value.exit_code == 143
    out, err = capfd.readouterr()
    assert "stopping 2 runs\n" in out
    for label in ("SGD", "Adam"):
        # Between two epochs there is nothing to save, and a run ends with the second.
        ended = r"(digits/\S+ stopped at .*; the same command resumes|stopped by SIGTERM)"
        assert re.search(rf"^digits  {label}  seed 0: {ended}$", out, flags=re.MULTILINE)
    assert err == ""
    assert len(list(folder.glob("results/checkpoints/digits/*/*/checkpoint.pt"))) == 2
    assert not list(folder.glob("results/runs/digits/*/*/result.json"))

    run(folder, epochs=epochs)
    for path in folder.glob("results/runs/digits/*/*/meta.json"):
        assert len(json.loads(path.read_text())["starts"]) == 3
    assert capfd.readouterr().out.count(": resuming at epoch ") == 2
    run(folder, epochs=epochs, name="serial")
    assert metrics(folder, "serial") == metrics(folder)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_group_leaves_the_server_to_its_parent(number: signal.Signals) -> None:
    # The server would end by it while it imports, and the parent find nobody to fork a child.
    code = """if True:
        import multiprocessing, os, signal, sys
        from multiprocessing import forkserver
        from experiments.engine import side_by_side

        for caught in side_by_side.CAUGHT:
            signal.signal(caught, lambda *_: None)
        side_by_side._start_server()
        os.killpg(0, int(sys.argv[1]))
        child = multiprocessing.get_context("forkserver").Process(target=os._exit, args=(7,))
        child.start()
        child.join()
        side_by_side._start_server()
        sys.exit(child.exitcode)
    """
    command = [sys.executable, "-c", code, str(int(number))]
    ended = subprocess.run(command, capture_output=True, text=True, start_new_session=True)
    assert (ended.returncode, ended.stderr) == (7, "")


def test_a_process_that_is_killed_is_told(
    folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    start = side_by_side._start

    def killed(*arguments: object) -> object:
        child = start(*arguments)  # type: ignore[arg-type]
        child.process.kill()
        return child

    monkeypatch.setattr(side_by_side, "_start", killed)
    with pytest.raises(BPGradError, match="no run has finished"):
        run(folder, "--jobs", "3")
    assert sorted(capfd.readouterr().err.splitlines()) == [
        "error: digits  Adam  seed 0: its process ended with SIGKILL",
        "error: digits  SGD  seed 0: its process ended with SIGKILL",
    ]


@pytest.mark.parametrize("jobs", ["0", "-1", "two"])
def test_jobs_that_are_none(jobs: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["figure7", f"--jobs={jobs}"])
    assert ended.value.code == 2
    assert "--jobs" in capsys.readouterr().err


def test_a_study_is_one_process(folder: Path) -> None:
    (folder / "toy.yaml").write_text("{title: A toy, study: figure1}")
    with pytest.raises(ConfigError, match=r"^--jobs 2: toy is a study, which is one process$"):
        main(["toy", "--jobs", "2"])
