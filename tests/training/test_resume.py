"""A run that is cut anywhere and started again ends with the same bits."""

import functools
import itertools
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bpgrad.errors import (
    CheckpointError,
    DataError,
    Diverged,
    Interrupted,
    RecordError,
    SolverError,
)
from bpgrad.records import reading
from bpgrad.records.run_record import RunRecord
from bpgrad.tasks.classification import Classification
from bpgrad.training import checkpoint, trainer
from bpgrad.training.config import Config, load, solver_spec
from bpgrad.training.identity import run_name
from bpgrad.training.trainer import train
from tests.forked import Fork
from tests.training.conftest import tiny_overrides


def train_until_killed(kill_at: int, cfg: Config) -> None:
    """Train, but die of SIGKILL at the `kill_at`-th of all events that matter: optimizer steps,
    evaluations, and the stages of every file's writing."""
    events = itertools.count(1)

    def counted(function: Callable) -> Callable:
        @functools.wraps(function)
        def wrapper(*args: object, **kwargs: object) -> object:
            if next(events) == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return wrapper

    for owner, name in (
        *((solver_spec(cfg).optimizer, "step"), (Classification, "evaluate"), (torch, "save")),
        *((os, name) for name in ("fsync", "replace", "write")),
    ):
        setattr(owner, name, counted(getattr(owner, name)))
    train(cfg)


def contents(folder: Path, overrides: list[str]) -> tuple[bytes, dict, str, dict]:
    """All of a run that must not depend on where it was cut."""
    record = folder / "runs" / run_name(load(overrides))
    result = json.loads((record / "result.json").read_text())
    with np.load(record / "steps.npz") as arrays:
        steps = {name: arrays[name].tobytes() for name in arrays.files}
    series = (folder / "checkpoints" / run_name(load(overrides)) / "steps").iterdir()
    full = {path.name: path.read_bytes() for path in series}
    return (record / "metrics.csv").read_bytes(), steps, result["weights_sha256"], full


@pytest.mark.slow
@pytest.mark.parametrize(
    "solver",
    [
        "solver=bpgrad solver.on_zero_gradient=random",
        "solver=bpgrad_released",
        "solver=eve",
        "solver=adam",
    ],
)
def test_sigkill_anywhere_then_the_same_bits(solver: str, tmp_path: Path) -> None:
    """Every iteration writes a checkpoint here (checkpoint_minutes=0): the kills fall between
    iterations, into the writing of checkpoints and rows, into evaluation, and onto the result."""
    settings = [*solver.split(), "epochs=2", "batch_size=64", "checkpoint_minutes=0"]
    whole = [*tiny_overrides(tmp_path / "whole"), *settings]
    train(load(whole))

    cut = [*tiny_overrides(tmp_path / "cut"), *settings]
    points = random.Random(solver)
    kills = 0
    while True:
        trained = Fork(train_until_killed, points.randint(1, 25), load(cut))
        output = trained.communicate()
        if trained.returncode == 0:
            break
        assert trained.returncode == -signal.SIGKILL, output
        kills += 1
        assert kills < 100
    assert kills >= 4
    assert contents(tmp_path / "cut", cut) == contents(tmp_path / "whole", whole)
    record = tmp_path / "cut" / "runs" / run_name(load(cut))
    assert len(json.loads((record / "meta.json").read_text())["starts"]) > 2
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_resumable_run(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ["solver=sgd", "epochs=2", "batch_size=64"]
    whole = [*tiny_overrides(tmp_path / "whole"), *settings]
    train(load(whole))
    cut = [*tiny_overrides(tmp_path / "cut"), *settings]

    step, steps = torch.optim.SGD.step, 0

    def step_with_signal(self: torch.optim.SGD) -> None:
        nonlocal steps
        steps += 1
        if steps == 7:
            os.kill(os.getpid(), number)
        step(self)

    monkeypatch.setattr(torch.optim.SGD, "step", step_with_signal)
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match="epoch 2, iteration 2; the same command resumes") as stop:
        train(load(cut))
    assert stop.value.exit_code == 128 + number
    assert signal.getsignal(number) is before
    train(load(cut))
    assert steps == 10  # none was done twice
    assert contents(tmp_path / "cut", cut) == contents(tmp_path / "whole", whole)


def test_a_signal_during_evaluation_does_not_wait_for_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate, calls = Classification.evaluate, 0

    def evaluate_with_signal(self: Classification, *arguments: object) -> dict[str, float]:
        nonlocal calls
        calls += 1
        if calls == 1:
            os.kill(os.getpid(), signal.SIGTERM)
            raise AssertionError("evaluation went on")
        return evaluate(self, *arguments)

    settings = ["solver=sgd", "epochs=1", "batch_size=64"]
    whole = [*tiny_overrides(tmp_path / "whole"), *settings]
    train(load(whole))
    cut = [*tiny_overrides(tmp_path / "cut"), *settings]
    monkeypatch.setattr(Classification, "evaluate", evaluate_with_signal)
    with pytest.raises(Interrupted, match="epoch 1, iteration 5"):
        train(load(cut))
    train(load(cut))
    assert contents(tmp_path / "cut", cut) == contents(tmp_path / "whole", whole)


def signals_after_epochs(
    monkeypatch: pytest.MonkeyPatch, epoch: int, *numbers: signal.Signals
) -> list[int]:
    """Send signals after an epoch, before the next one; the epochs after which it went on."""
    gone_on: list[int] = []

    @contextmanager
    def mirrored(*arguments: object, **options: object) -> Iterator[Callable]:
        def mirror(row: dict[str, Any]) -> None:
            for number in numbers if row["epoch"] == epoch else ():
                os.kill(os.getpid(), number)
            gone_on.append(row["epoch"])

        yield mirror

    monkeypatch.setattr(trainer, "mirrored", mirrored)
    return gone_on


@pytest.mark.parametrize(
    ("epoch", "words"),
    [(1, "stopped at epoch 2, iteration 1; the same"), (2, "stopped by SIGTERM")],
)
def test_a_signal_between_two_epochs_loses_none(
    epoch: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last checkpoint is younger than ten seconds here, but an epoch may be as long."""
    settings = ["solver=sgd", "epochs=2", "batch_size=64"]
    whole = [*tiny_overrides(tmp_path / "whole"), *settings]
    train(load(whole))
    cut = [*tiny_overrides(tmp_path / "cut"), *settings]
    with monkeypatch.context() as patch:
        assert signals_after_epochs(patch, epoch, signal.SIGTERM) == []
        with pytest.raises(Interrupted, match=words):
            train(load(cut))
    assert (tmp_path / "cut/checkpoints" / run_name(load(cut)) / "checkpoint.pt").exists()
    step, steps = torch.optim.SGD.step, []
    monkeypatch.setattr(torch.optim.SGD, "step", lambda self: steps.append(step(self)))
    train(load(cut))
    assert len(steps) == (4 if epoch == 1 else 0)
    assert contents(tmp_path / "cut", cut) == contents(tmp_path / "whole", whole)


def test_a_second_ctrl_c_between_two_epochs_raises_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [*tiny_overrides(tmp_path), "solver=sgd", "epochs=3", "batch_size=64"]
    gone_on = signals_after_epochs(monkeypatch, 2, signal.SIGINT, signal.SIGINT)
    with pytest.raises(Interrupted, match=r"^stopped by SIGINT$"):
        train(load(settings))
    assert gone_on == [1]


def test_what_is_written_after_the_last_epoch_can_be_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [*tiny_overrides(tmp_path), "solver=sgd", "epochs=1", "batch_size=64"]

    def pictures(self: Classification, model: object) -> dict[str, Any]:
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("it went on")

    with monkeypatch.context() as patch:
        patch.setattr(Classification, "pictures", pictures)
        with pytest.raises(Interrupted, match=r"^stopped by SIGTERM$"):
            train(load(settings))
    assert train(load(settings))["epochs"] == 1


@pytest.mark.parametrize("saved", [0, 1, 2])
def test_epochs_after_the_last_checkpoint_are_done_again(
    saved: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the first `saved` of two epochs have one; the rows of the others are there, and go."""
    settings = ["solver=sgd", "epochs=3", "batch_size=64"]
    whole = [*tiny_overrides(tmp_path / "whole"), *settings]
    train(load(whole))
    cut = [*tiny_overrides(tmp_path / "cut"), *settings]
    record = tmp_path / "cut" / "runs" / run_name(load(cut))
    path = tmp_path / "cut" / "checkpoints" / run_name(load(cut)) / "checkpoint.pt"
    step, steps = torch.optim.SGD.step, 0

    def counted(self: torch.optim.SGD) -> None:
        nonlocal steps
        steps += 1
        monkeypatch.setattr(trainer, "EPOCH_SECONDS", 0.0 if steps <= 5 * saved else math.inf)
        if steps == 12:
            raise MemoryError("the end of the process")
        step(self)

    monkeypatch.setattr(torch.optim.SGD, "step", counted)
    with pytest.raises(SolverError):
        train(load(cut))
    assert len((record / "metrics.csv").read_text().splitlines()) == 3  # head and two epochs
    assert path.exists() == bool(saved)
    train(load(cut))
    assert steps == 12 + 15 - 5 * saved
    assert contents(tmp_path / "cut", cut) == contents(tmp_path / "whole", whole)


def test_a_finished_run_is_not_repeated_unless_asked(tmp_path: Path) -> None:
    settings = [*tiny_overrides(tmp_path), "epochs=1"]
    first = train(load(settings))
    record = tmp_path / "runs" / run_name(load(settings))
    before = (record / "meta.json").stat().st_mtime_ns
    assert train(load(settings)) == first
    assert (record / "meta.json").stat().st_mtime_ns == before
    again = train(load([*settings, "rerun=true"]))
    assert again["weights_sha256"] == first["weights_sha256"]
    assert (record / "meta.json").stat().st_mtime_ns > before


def test_a_rerun_that_cannot_start_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bpgrad.data import digits

    settings = [*tiny_overrides(tmp_path), "epochs=1"]
    train(load(settings))
    before = files(tmp_path)
    monkeypatch.setattr(digits, "_embedded_file", lambda: tmp_path / "nowhere.csv.gz")
    with pytest.raises(DataError):
        train(load([*settings, "rerun=true"]))
    assert files(tmp_path) == before


def files(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_cut_rerun_leaves_the_old_record_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [*tiny_overrides(tmp_path), "epochs=2", "solver=sgd"]
    first = train(load(settings))
    name = run_name(load(settings))
    before = files(tmp_path / "runs" / name)
    (tmp_path / "runs" / name / "config.yaml").write_text("epochs: edited")  # and damaged at that
    again = [*settings, "rerun=true"]
    interrupted(again, monkeypatch)
    (tmp_path / "runs" / name / "config.yaml").write_bytes(before["config.yaml"])
    assert files(tmp_path / "runs" / name) == before
    assert train(load(settings)) == first  # finished already, as ever
    capsys.readouterr()
    assert train(load(again))["weights_sha256"] == first["weights_sha256"]
    assert "resuming at epoch 2" in capsys.readouterr().out
    after = files(tmp_path / "runs" / name)
    assert after["meta.json"] != before["meta.json"]
    assert after["metrics.csv"] == before["metrics.csv"]
    for root in ("runs", "checkpoints"):
        assert [path.name for path in (tmp_path / root).iterdir()] == ["digits"]


def test_a_rerun_whose_own_files_are_damaged_begins_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [*tiny_overrides(tmp_path), "epochs=2", "solver=sgd"]
    first = train(load(settings))
    again = [*settings, "rerun=true"]
    interrupted(again, monkeypatch)
    (path,) = (tmp_path / "checkpoints" / ".rerun").rglob("checkpoint.pt")
    damaged(path, "truncated")
    assert train(load(again))["weights_sha256"] == first["weights_sha256"]
    assert "the rerun begins again: checkpoint" in capsys.readouterr().out


class Killed(BaseException):
    """Takes the place of a SIGKILL."""


def test_a_new_record_takes_the_old_ones_place_or_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at each call that changes a folder, then begun again."""
    calls = ((os, "rename"), (os, "mkdir"), (os, "rmdir"), (os, "unlink"), (shutil, "rmtree"))
    kills = 0
    for kill_at in range(1, 100):
        folder = tmp_path / str(kill_at)
        record = RunRecord(folder / "runs", folder / "checkpoints", "digits/sgd/seed0-00000000")
        for side, content in ((record, "old"), (record.rerun, "new")):
            side.write_config({"epochs": 1, "precision": "fp32"})
            for place in (side.directory, side.checkpoints):
                place.mkdir(parents=True, exist_ok=True)
                (place / "content").write_text(content)
            (side.directory / "result.json").write_text("{}")
        record.lock()
        done = 0

        def counted(function: Callable, kill_at: int = kill_at) -> Callable:
            def call(*arguments: object, **keywords: object) -> object:
                nonlocal done
                done += 1
                if done == kill_at:
                    raise Killed
                return function(*arguments, **keywords)

            return call

        with monkeypatch.context() as patch:
            for owner, name in calls:
                patch.setattr(owner, name, counted(getattr(owner, name)))
            try:
                record.rerun.complete()
            except Killed:
                kills += 1
        whole = [
            path.read_text()
            for path in (folder / "runs").rglob("content")
            if (path.parent / "config.yaml").exists()
        ]
        assert set(whole) & {"old", "new"}
        killed = done == kill_at
        record.unlock()
        record.begin(rerun=True)
        assert (record.directory / "content").read_text() in ("old", "new")
        assert not (folder / "runs" / ".old").exists()
        assert not (folder / "checkpoints" / ".old").exists()
        if not record.rerun.directory.exists():  # then the checkpoints have moved as well
            assert (record.checkpoints / "content").read_text() == "new"
        record.unlock()
        if not killed:
            break
    assert kills > 8


def test_a_rerun_killed_at_thirty_moments_leaves_a_whole_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time at another call that changes the disk, and gone on with at the next."""
    settings = [*tiny_overrides(tmp_path), "scale.train_examples=64", "epochs=1", "solver=sgd"]
    weights = train(load(settings))["weights_sha256"]
    record = RunRecord(tmp_path / "runs", tmp_path / "checkpoints", run_name(load(settings)))
    again = load([*settings, "rerun=true"])
    changes = (
        *((os, name) for name in ("replace", "rename", "mkdir", "rmdir", "unlink", "write")),
        *((os, "fsync"), (shutil, "rmtree")),
    )

    def rerun(kill_at: int) -> int:
        """The number of changes that were made, the last of them not."""
        done = 0

        def counted(function: Callable) -> Callable:
            def call(*arguments: object, **keywords: object) -> object:
                nonlocal done
                done += 1
                if done == kill_at:
                    raise Killed
                return function(*arguments, **keywords)

            return call

        with monkeypatch.context() as patch:
            for owner, name in changes:
                patch.setattr(owner, name, counted(getattr(owner, name)))
            train(again)
        return done

    total = rerun(0)
    assert total > 30
    killed, drawn = 0, random.Random(0)
    while killed < 30:
        try:
            rerun(drawn.randrange(1, total + 1))
        except Killed:
            killed += 1
        # Between the two moves the new one lies whole beside its place.
        there = (record.directory / "result.json").exists()
        found = reading.read(record.directory if there else record.rerun.directory).result
        assert found, killed
        assert found["weights_sha256"] == weights
    rerun(0)
    assert train(load(settings))["weights_sha256"] == weights
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [".locks", "digits"]


# -- checkpoints that do not fit -----------------------------------------------------------------


def damaged(path: Path, how: str) -> None:
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "text":
        path.write_text("not a checkpoint")
    elif how == "other tensors":
        torch.save({"weights": torch.zeros(3)}, path)
    elif how == "pickled object":
        torch.save(Path("x"), path)
    elif how == "foreign":
        checkpoint.save(path, "mnist/adam/seed3-00000000", {})


@pytest.mark.parametrize(
    "how", ["truncated", "empty", "text", "other tensors", "pickled object", "foreign"]
)
def test_a_bad_checkpoint_is_refused_by_name(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [*tiny_overrides(tmp_path), "epochs=2", "solver=sgd"]
    interrupted(settings, monkeypatch)
    path = tmp_path / "checkpoints" / run_name(load(settings)) / "checkpoint.pt"
    rows = (tmp_path / "runs" / run_name(load(settings)) / "metrics.csv").read_text()
    damaged(path, how)
    content = path.read_bytes()
    with pytest.raises(CheckpointError) as caught:
        train(load(settings))
    assert str(path) in str(caught.value)
    assert "rerun=true" in str(caught.value)
    assert "\n" not in str(caught.value)
    if how == "foreign":
        assert "mnist/adam/seed3-00000000" in str(caught.value)
    assert path.read_bytes() == content
    assert (path.parents[4] / "runs" / run_name(load(settings)) / "metrics.csv").read_text() == rows
    assert train(load([*settings, "rerun=true"]))["epochs"] == 2


def test_the_checkpoint_before_a_damaged_one_is_offered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "EPOCH_SECONDS", 0.0)
    settings = ["epochs=2", "solver=sgd"]
    whole = [*tiny_overrides(tmp_path / "whole"), *settings]
    train(load(whole))
    cut = [*tiny_overrides(tmp_path / "cut"), *settings]
    interrupted(cut, monkeypatch)
    path = tmp_path / "cut" / "checkpoints" / run_name(load(cut)) / "checkpoint.pt"
    damaged(path, "truncated")
    offer = "previous-checkpoint.pt, is whole: delete checkpoint.pt to go on from there"
    with pytest.raises(CheckpointError, match=offer):
        train(load(cut))
    path.unlink()
    train(load(cut))
    assert contents(tmp_path / "cut", cut) == contents(tmp_path / "whole", whole)


def state_of(path: Path, name: str) -> dict:
    state = checkpoint.load(path, name)
    assert state is not None
    return state


UNFIT: dict[str, Callable[[dict], object]] = {
    "a key is missing": lambda state: state.pop("rng"),
    "a weight is missing": lambda state: state["model"].popitem(),
    "another shape": lambda state: state.update(series=torch.zeros(3)),
    "an epoch that the run has not": lambda state: state["position"].update(epoch=99),
    "an iteration before the first": lambda state: state["position"].update(iteration=-1),
    "a time that is no number": lambda state: state["position"].update(train_seconds=math.nan),
    "a group of parameters too few": lambda state: state["solver"]["optimizer"][
        "param_groups"
    ].pop(),
    "no rows": lambda state: state["history"].update(last={}),
}


@pytest.mark.parametrize("how", UNFIT)
def test_a_whole_checkpoint_that_does_not_fit_is_refused(
    how: str, cut_run: tuple[Path, list[str]]
) -> None:
    folder, settings = cut_run
    name = run_name(load(settings))
    path = folder / "checkpoints" / name / "checkpoint.pt"
    content = path.read_bytes()
    state = state_of(path, name)
    UNFIT[how](state)
    checkpoint.save(path, name, state)
    with pytest.raises(CheckpointError, match="does not fit the run") as caught:
        train(load(settings))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    path.write_bytes(content)


@pytest.fixture(scope="module")
def cut_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    folder = tmp_path_factory.mktemp("cut")
    settings = [*tiny_overrides(folder), "epochs=2", "solver=sgd"]
    with pytest.MonkeyPatch.context() as patch:
        interrupted(settings, patch)
    return folder, settings


def interrupted(settings: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the first epoch and an iteration of the second."""
    step, steps, wanted = torch.optim.SGD.step, 0, 11

    def step_with_signal(self: torch.optim.SGD) -> None:
        nonlocal steps
        steps += 1
        if steps == wanted:
            os.kill(os.getpid(), signal.SIGTERM)
        step(self)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.SGD, "step", step_with_signal)
        with pytest.raises(Interrupted):
            train(load(settings))


# -- the other ways a run can end ----------------------------------------------------------------


def test_divergence_names_epoch_and_iteration(tmp_path: Path) -> None:
    settings = [*tiny_overrides(tmp_path), "solver=sgd", "solver.lr=1e30", "epochs=2"]
    with pytest.raises(Diverged, match=r"epoch 1, iteration [23]") as caught:
        train(load(settings))
    assert caught.value.exit_code == 3
    with pytest.raises(Diverged, match="recorded earlier, rerun=true repeats"):
        train(load(settings))
    with pytest.raises(Diverged):
        train(load([*settings, "rerun=true"]))
    assert not (tmp_path / "runs" / run_name(load(settings)) / "result.json").exists()


def test_two_processes_on_one_run(tmp_path: Path) -> None:
    """The second one says so, and the first one ends undisturbed."""
    settings = [*tiny_overrides(tmp_path), "epochs=1"]
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, pathlib\n"
            "from bpgrad.records.run_record import RunRecord\n"
            "record = RunRecord(*map(pathlib.Path, sys.argv[1:3]), sys.argv[3])\n"
            "record.lock()\n"
            "print('locked', flush=True)\n"
            "sys.stdin.read()\n",
            str(tmp_path / "runs"),
            str(tmp_path / "checkpoints"),
            run_name(load(settings)),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(RecordError, match="in use by another process"):
            train(load(settings))
        assert holder.poll() is None
    finally:
        holder.kill()
        holder.wait()
    assert train(load(settings))["epochs"] == 1  # a killed holder leaves no lock behind


def test_two_runs_into_one_record_whatever_their_checkpoints(tmp_path: Path) -> None:
    name = "digits/sgd/seed0-00000000"
    for roots in (("runs", "other"), ("other", "checkpoints")):
        first = RunRecord(tmp_path / "runs", tmp_path / "checkpoints", name)
        second = RunRecord(tmp_path / roots[0], tmp_path / roots[1], name)
        assert first.begin() is None
        with pytest.raises(RecordError, match="in use by another process"):
            second.begin()
        first.unlock()
        assert second.begin() is None
        second.unlock()


def test_a_run_that_cannot_start_leaves_no_folder(tmp_path: Path) -> None:
    """Its data is missing; folders of one's own, and what other runs have made, stay."""
    own = tmp_path / "results"
    own.mkdir()
    settings = ["task=mnist", f"data_root={tmp_path / 'nothing'}"]
    places = [f"results_root={own / 'runs'}", f"checkpoint_root={tmp_path / 'a' / 'checkpoints'}"]
    with pytest.raises(DataError):
        train(load([*settings, *places]))
    assert list(tmp_path.rglob("*")) == [own]
    other = RunRecord(own / "runs", tmp_path / "a" / "checkpoints", "mnist/sgd/seed0-00000000")
    other.lock()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError):
        train(load([*settings, *places]))
    assert sorted(tmp_path.rglob("*")) == before
    other.unlock()
    assert list(tmp_path.rglob("*")) == [own]


def test_a_folder_that_another_process_removes_while_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = RunRecord(tmp_path / "runs", tmp_path / "checkpoints", "digits/sgd/seed0-00000000")
    mkdir, removed = Path.mkdir, []

    def removed_at_once(path: Path, *arguments: Any, **options: Any) -> None:
        mkdir(path, *arguments, **options)
        if path.name == ".locks" and len(removed) < 3:
            path.rmdir()
            removed.append(path)

    monkeypatch.setattr(Path, "mkdir", removed_at_once)
    record.lock()
    assert len(removed) == 3
    assert len(list(tmp_path.glob("*/.locks/*.lock"))) == 2
    record.unlock()
    assert list(tmp_path.iterdir()) == []


def test_a_finished_run_is_not_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a file system that can only be read."""
    settings = [*tiny_overrides(tmp_path), "epochs=1", "solver=sgd"]
    first = train(load(settings))
    before = files(tmp_path)

    def read_only(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    for name in ("mkdir", "replace", "rename", "unlink"):
        monkeypatch.setattr(os, name, read_only)
    monkeypatch.setattr(RunRecord, "lock", read_only)
    assert train(load(settings)) == first
    assert files(tmp_path) == before


def test_a_validation_that_is_not_finite_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate = Classification.evaluate
    monkeypatch.setattr(
        Classification, "evaluate", lambda *a: evaluate(*a) | {"objective": math.nan}
    )
    settings = [*tiny_overrides(tmp_path), "epochs=1", "solver=sgd"]
    result = train(load(settings))
    assert result["val_objective"] is None
    assert "finished, but val_objective is not finite" in capsys.readouterr().out
    assert train(load(settings)) == result


def test_results_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file where the folder should be")
    with pytest.raises(RecordError, match=r"cannot write .*runs.*results_root"):
        train(load([*tiny_overrides(tmp_path), "epochs=1"]))
    assert (tmp_path / "runs").read_text() == "a file where the folder should be"


def test_a_full_disk_loses_nothing_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [*tiny_overrides(tmp_path), "epochs=3", "solver=sgd"]
    record = tmp_path / "runs" / run_name(load(settings))
    fsync = os.fsync

    def full_after_first_rows(descriptor: int) -> None:
        if (record / "steps.npz").exists():
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_after_first_rows)
        with pytest.raises(RecordError, match="No space left on device") as caught:
            train(load(settings))
    assert "\n" not in str(caught.value)
    assert len((record / "metrics.csv").read_text().splitlines()) == 2
    assert not list(tmp_path.rglob("*.partial"))
    assert train(load(settings))["epochs"] == 3
