"""python run.py as a user types it: messages, exit codes, and what is left behind."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

import run
from bpgrad.training.cli import run_command
from tests.training.conftest import tiny_overrides

ROOT = Path(__file__).resolve().parents[2]


def run_in_process(arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> int:
    GlobalHydra.instance().clear()
    monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        run_command(run.command)
    GlobalHydra.instance().clear()
    return int(ended.value.code or 0)


def run_process(arguments: Sequence[str], folder: Path, **env: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(ROOT / "run.py"), *arguments],
        cwd=folder,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["task=mnits"], "unknown task=mnits: did you mean task=mnist? choices: cifar10, digits,"),
        (["solver=nope"], "unknown solver=nope: choices: adadelta, adagrad, adam, bpgrad,"),
        (["scale=tiny"], "unknown scale=tiny: choices: paper, reduced, smoke"),
        (["logger=tensorboard"], "unknown logger=tensorboard: choices: csv, wandb"),
        (["launcher=k8s"], "unknown launcher=k8s: choices: local, slurm"),
        (["taks=mnist"], "unknown taks: did you mean task? choices: "),
        (["solver.lipshitz=3"], "unknown solver.lipshitz: did you mean solver.lipschitz?"),
        (["scale.foo=3"], "unknown scale.foo: choices: name, train_examples, val_examples"),
        (["seed=abc"], "seed: Value 'abc' of type 'str' could not be converted to Integer"),
        (["epochs=1.5"], "epochs: Value '1.5' of type 'float' could not be converted to Integer"),
        (["solver=sgd,adam"], "Ambiguous value for argument 'solver=sgd,adam'"),
        (["nonsense"], "Error parsing override 'nonsense'"),
        (["+typo=1"], "unknown typo: "),
        (["solver.lipschitz=-1"], "solver=bpgrad refuses its settings: "),
        (["batch_size=100000"], "batch_size=100000: above the 1438 training examples"),
    ],
)
def test_one_line_that_names_the_choices(
    arguments: list[str],
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_in_process(arguments, monkeypatch) == 2
    error = capfd.readouterr().err
    assert error.startswith(f"error: {line}")
    assert error.count("\n") == 1


def test_slurm_without_a_sweep_is_refused(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """With the plugin or without: it never runs here instead."""
    assert run_in_process(["launcher=slurm"], monkeypatch) == 2
    error = capfd.readouterr().err
    assert error.startswith("error: launcher=slurm")
    assert error.count("\n") == 1


def test_slurm_without_a_cluster_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The plugin's words where there is no Slurm."""

    def no_cluster() -> None:
        raise RuntimeError('Could not detect "srun", are you indeed on a slurm cluster?')

    monkeypatch.setattr(run, "main", no_cluster)
    assert run_in_process(["-m", "launcher=slurm"], monkeypatch) == 2
    assert capfd.readouterr().err.startswith("error: launcher=slurm: srun is not on the PATH")


def test_debug_keeps_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BPGRAD_DEBUG", "1")
    monkeypatch.setattr(sys, "argv", ["run.py", "batch_size=0"])
    GlobalHydra.instance().clear()
    with pytest.raises(Exception, match="batch_size=0"):
        run_command(run.command)
    GlobalHydra.instance().clear()


def test_a_run_leaves_its_record_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["scale=smoke", "scale.train_examples=320", "epochs=1", "threads=1"]
    done = run_process(arguments, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoints", "results"]
    (record,) = (tmp_path / "results/runs/digits/bpgrad").iterdir()
    assert sorted(p.name for p in record.iterdir()) == [
        *("config.yaml", "meta.json", "metrics.csv", "result.json", "steps.npz", "timing.csv")
    ]
    monkeypatch.chdir(tmp_path)
    assert run_in_process(arguments, monkeypatch) == 0
    assert "finished already" in capfd.readouterr().out


def test_a_sweep_goes_on_after_a_failure_and_leaves_nothing_of_hydra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["-m", *tiny_overrides(tmp_path), "epochs=1", "solver=sgd", "batch_size=999,32"]
    assert run_in_process(arguments, monkeypatch) == 2
    assert "batch_size=999: above the 320 training examples" in capfd.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoints", "runs"]
    finished = list((tmp_path / "runs/digits/sgd").glob("*/result.json"))
    assert len(finished) == 1


def test_a_reader_that_goes_away_does_not_end_the_training(tmp_path: Path) -> None:
    """As in `python run.py | head -1`."""
    arguments = [*tiny_overrides(tmp_path), "epochs=3"]
    with subprocess.Popen(
        [sys.executable, str(ROOT / "run.py"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0
    assert len(list(tmp_path.rglob("result.json"))) == 1


def test_help_lists_groups_and_common_keys(tmp_path: Path) -> None:
    shown = run_process(["--help"], tmp_path).stdout
    for words in (
        "task: cifar10, digits, mnist",
        "solver: adadelta,",
        "solver.lipschitz",
        "seed=0",
    ):
        assert words in shown


def test_wrong_options_are_refused_before_torch_is_imported(tmp_path: Path) -> None:
    done = run_process(["task=mnits"], tmp_path, PYTHONPROFILEIMPORTTIME="1")
    assert "unknown task=mnits" in done.stderr
    assert "| torch\n" not in done.stderr
