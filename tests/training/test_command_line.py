"""python run.py as a user types it: messages, exit codes, and what is left behind."""

import math
import os
import shlex
import signal
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra.core.global_hydra import GlobalHydra

import run
from bpgrad.errors import Diverged, Interrupted
from bpgrad.metrics import Metric
from bpgrad.records.reading import read_config, read_rows
from bpgrad.training.cli import run_command
from bpgrad.training.config import Config, load, solver_spec
from bpgrad.training.identity import run_name
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
        (["lr=0.1", "solver=sgd"], "unknown lr: did you mean solver.lr? choices: batch_size, "),
        (["lipshitz=3"], "unknown lipshitz: did you mean solver.lipschitz? choices: batch_size, "),
        (["train_examples=3"], "unknown train_examples: did you mean scale.train_examples?"),
        (["threads=1000000", "results_root=runs"], "threads=1000000: far more than the "),
        (["solver.lipshitz=3"], "unknown solver.lipshitz: did you mean solver.lipschitz?"),
        (["scale.foo=3"], "unknown scale.foo: choices: name, train_examples, val_examples"),
        (["seed=abc"], "seed: Value 'abc' of type 'str' could not be converted to Integer"),
        (["epochs=1.5"], "epochs: Value '1.5' of type 'float' could not be converted to Integer"),
        (["solver=sgd,adam"], "Ambiguous value for argument 'solver=sgd,adam'"),
        (["solver=null"], "unknown solver=null: choices: adadelta, adagrad, adam, bpgrad,"),
        (["solver=[a,b]"], "unknown solver=[a,b]: choices: adadelta, adagrad, adam, bpgrad,"),
        (["solver=[adam,eve]"], "unknown solver=[adam,eve]: choices: adadelta, "),
        (["solver={adam: 1}"], "unknown solver={adam: 1}: did you mean solver=adam? choices: "),
        (
            ["-m", "solver=null,adam"],
            "unknown solver=null,adam: did you mean solver=adam? choices: ",
        ),
        (["scale=1"], "unknown scale=1: choices: paper, reduced, smoke"),
        (["task=[null]"], "unknown task=[null]: choices: cifar10, digits, "),
        (["~epochs"], "epochs: missing; set a value"),
        (["nonsense"], "Error parsing override 'nonsense'"),
        (["+typo=1"], "unknown typo: "),
        (["task.name=../../x"], "task.name=../../x: names a folder"),
        (["solver.name=../x"], "solver.name=../x: names a folder"),
        (["solver.name=/tmp/x"], "solver.name=/tmp/x: names a folder"),
        (["task.name='..'"], "task.name=..: names a folder"),
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
    (record,) = (tmp_path / "results/smoke/digits/bpgrad").iterdir()
    assert sorted(p.name for p in record.iterdir()) == [
        *("config.yaml", "consumed.csv", "meta.json", "metrics.csv", "result.json"),
        *("steps.npz", "timing.csv"),
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


def test_a_sweeper_is_told_the_metric_that_tables_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Infinite for a failed run: Hydra's sweepers that optimize minimize it."""
    from hydra.core.plugins import Plugins

    Plugins.instance()  # it loads the module anew
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    from bpgrad.training import trainer

    def first_fails(cfg: Config) -> dict[str, float]:
        if cfg.seed == 0:
            raise Diverged("at once")
        return {"val_objective": 0.5, "val_top1_error": 46.0}

    told: list[float] = []
    sweep = BasicSweeper.sweep

    def listening(*given: Any, **options: Any) -> Any:
        returned = sweep(*given, **options)
        told.extend(job.return_value for batch in returned for job in batch)
        return returned

    monkeypatch.setattr(trainer, "train", first_fails)
    monkeypatch.setattr(BasicSweeper, "sweep", listening)
    monkeypatch.chdir(tmp_path)
    assert run_in_process(["-m", "seed=0,1"], monkeypatch) == Diverged.exit_code
    assert told == [float("inf"), 46.0]


@pytest.mark.parametrize(("higher_is_better", "worst"), [(False, math.inf), (True, -math.inf)])
def test_a_failed_run_is_the_worst_in_the_metric_s_direction(
    higher_is_better: bool, worst: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bpgrad.tasks.classification import Digits
    from bpgrad.training.sweep import shown_value, worst_value

    metrics = {"objective": Metric("objective"), "score": Metric("score", "", higher_is_better)}
    monkeypatch.setattr(Digits, "metrics", metrics)
    cfg = load([])
    assert worst_value(cfg) == worst
    assert shown_value(cfg, {"val_score": 3.0}) == 3.0
    assert shown_value(cfg, {"val_score": math.nan}) == worst


@pytest.mark.parametrize("error", [Interrupted(signal.SIGTERM), KeyboardInterrupt()])
def test_an_interrupted_sweep_says_what_is_left(
    error: KeyboardInterrupt,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    from bpgrad.training import trainer

    def second_is_interrupted(cfg: Config) -> dict[str, float]:
        if cfg.seed == 1:
            raise error
        return {"val_top1_error": 1.0}

    monkeypatch.setattr(trainer, "train", second_is_interrupted)
    monkeypatch.chdir(tmp_path)
    code = run_in_process(["-m", "seed=0,1,2", "solver=sgd,adam"], monkeypatch)
    assert code == 128 + (signal.SIGTERM if isinstance(error, Interrupted) else signal.SIGINT)
    said = capfd.readouterr().err
    assert "in run 3 of 6 (seed=1 solver=sgd); left are it and 3 after it" in said
    assert said.count("\n") == 1


def test_offline_mirroring_says_what_to_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "a folder"
    arguments = [*tiny_overrides(folder), "epochs=1", "logger=wandb"]
    arguments = [a.replace("=" + str(folder), f"='{folder}") + "'" * (" " in a) for a in arguments]
    monkeypatch.chdir(tmp_path)
    assert run_in_process(arguments, monkeypatch) == 0
    (line,) = [
        line for line in capfd.readouterr().out.splitlines() if line.startswith("upload to W&B")
    ]
    command = shlex.split(line.partition(": ")[2])
    assert command[:2] == ["wandb", "sync"]
    assert list(Path(command[2]).glob("*.wandb"))


def test_a_checkout_stays_clean_after_a_smoke_run(tmp_path: Path) -> None:
    for task in ("mnist", "cifar10", "digits"):
        cfg = load([f"task={task}", "scale=smoke"])
        record = f"{cfg.results_root}/{task}/bpgrad/seed0-00000000/result.json"
        ignored = subprocess.run(
            ["git", "check-ignore", "--quiet", "--no-index", record], cwd=ROOT, check=False
        )
        if ignored.returncode == 128:
            pytest.skip("not a git checkout")
        assert ignored.returncode == 0, record
    assert load(["task=mnist", "scale=reduced"]).results_root == "results/runs"


def test_bpgrad_s_multiplier_is_set_like_any_other_key(tmp_path: Path) -> None:
    assert solver_spec(load(["solver.lr=0.5"])).arguments["lr"] == 0.5


def test_a_run_with_an_estimate_of_l_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is another run than that with a number, named so in its record, and learns."""
    arguments = [*tiny_overrides(tmp_path), "epochs=2", "solver.lipschitz=auto"]
    monkeypatch.chdir(tmp_path)
    assert run_in_process(arguments, monkeypatch) == 0
    (path,) = (tmp_path / "runs/digits/bpgrad").iterdir()
    assert path.name == run_name(load(arguments)).rpartition("/")[2]
    assert path.name != run_name(load(arguments[:-1])).rpartition("/")[2]
    assert read_config(path)["solver"]["lipschitz"] == "auto"
    rows = read_rows(path, "metrics.csv")
    assert rows[1]["train_objective"] < rows[0]["train_objective"]
    assert rows[1]["step_size_median"] > 0


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
        "task: cifar10, digits, imagenet, imagenette, mnist, voc2012_segmentation, voc_detection, ",
        "solver: adadelta,",
        "solver.lipschitz",
        "seed=0",
        "--cfg job",
    ):
        assert words in shown
    assert "Hydra" not in shown.replace("all of Hydra's: --hydra-help", "")
    assert len(shown.splitlines()) < 50


def test_wrong_options_are_refused_before_torch_is_imported(tmp_path: Path) -> None:
    done = run_process(["task=mnits"], tmp_path, PYTHONPROFILEIMPORTTIME="1")
    assert "unknown task=mnits" in done.stderr
    assert "| torch\n" not in done.stderr


@pytest.mark.parametrize("debug", ["0", "1"])
def test_a_warning_is_one_line(monkeypatch: pytest.MonkeyPatch, debug: str) -> None:
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # to be restored
    monkeypatch.setenv("BPGRAD_DEBUG", debug)
    with pytest.raises(SystemExit):
        run_command(lambda: None)
    where = "data.py", 3
    told = warnings.formatwarning(UserWarning("2 images\n  are grey"), UserWarning, *where)
    assert (told == "warning: 2 images are grey\n") is (debug == "0")
    old = warnings.formatwarning(DeprecationWarning("old"), DeprecationWarning, *where)
    assert old.startswith("data.py:3: DeprecationWarning: old\n")
