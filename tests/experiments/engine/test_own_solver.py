"""A solver of one's own in a comparison, as a user adds it, and tuning at an equal budget."""

import csv
import importlib.util
import json
import math
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from bpgrad.errors import BPGradError, ConfigError
from bpgrad.training import lookup, trainer
from bpgrad.training.config import CONFIG_DIR, load, solver_spec
from bpgrad.training.identity import run_name
from experiments.__main__ import SUITE, main
from experiments.engine import own_solver, tuning
from experiments.engine.command import parser
from experiments.engine.declaration import Solver

DECLARATION = """\
title: A comparison
paper: Figure 0
seeds: [0]
tasks: [digits]
set: [threads=1]
solvers:
  - {label: SGD, set: [solver=sgd]}
  - {label: "BPGrad, μ = 0", set: [solver=bpgrad, solver.momentum=0]}
"""
NADAM = """\
name: nadam
optimizer: torch.optim.NAdam
lr: 0.002
tune: {lr: {log: [1e-4, 1e-1]}}
"""
# Loss-aware: a step of Polyak's length, at most `limit`.
POLYAK = """\
import torch


class Polyak(torch.optim.Optimizer):
    def __init__(self, params, limit: float = 1.0):
        super().__init__(params, {"limit": limit})

    @torch.no_grad()
    def step(self, closure=None, *, loss):
        for group in self.param_groups:
            square = sum(p.grad.square().sum() for p in group["params"])
            step = (loss / square).clamp(max=group["limit"])
            for p in group["params"]:
                p.sub_(step * p.grad)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A place with an experiment called mine; modules and paths of a test are forgotten."""
    monkeypatch.setattr("experiments.__main__.SUITE", replace(SUITE, folder=tmp_path))
    (tmp_path / "mine.yaml").write_text(DECLARATION, encoding="utf-8")
    monkeypatch.setattr(sys, "path", sys.path.copy())
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def write(folder: Path, name: str, text: str) -> Path:
    (folder / "user").mkdir(exist_ok=True)
    path = folder / "user" / name
    path.write_text(text, encoding="utf-8")
    return path


def run(folder: Path, *arguments: str, extra: Sequence[str] = ()) -> None:
    tiny = ["epochs=6", "scale.train_examples=160", "scale.val_examples=50"]
    roots = [f"results_root={folder}/results/runs", f"checkpoint_root={folder}/checkpoints"]
    main(["mine", "--scale", "smoke", *arguments, "--set", *tiny, *roots, *extra])


def rows(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / f"results/tables/{name}.csv").open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def config_of(folder: Path, run: str) -> dict:
    return yaml.safe_load((folder / "results/runs" / run / "config.yaml").read_text())


def test_a_yaml_of_a_few_lines_joins_the_comparison(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(folder, "nadam.yaml", NADAM.rpartition("tune")[0])
    run(folder, "--add", str(path), extra=["epochs=1"])
    out = capsys.readouterr().out
    name = "mine-with-nadam-smoke-modified"
    labels = ["SGD", "BPGrad, μ = 0", "nadam"]
    assert [row["solver"] for row in rows(folder, name)] == labels
    assert "# Figure 0: A comparison, with nadam (scale=smoke, not the full size; modified" in out
    made = {path.name for path in folder.glob("results/[tf]*/*")}
    ends = (".csv", ".md", ".tex", ".svg", ".png", "-runs.csv")
    assert made == {f"{name}{end}" for end in ends}
    runs = rows(folder, f"{name}-runs")
    assert [row["solver"] for row in runs] == labels
    metas = [
        json.loads((folder / "results/runs" / row["run"] / "meta.json").read_text()) for row in runs
    ]
    for key in ("initial_weights_sha256", "batch_order_sha256"):
        assert len({meta[key] for meta in metas}) == 1
    config = config_of(folder, runs[2]["run"])
    assert config["solver"] == {"name": "nadam", "optimizer": "torch.optim.NAdam", "lr": 0.002}

    roots = [f"results_root={folder}/results/runs"]
    main(["explain", name, "nadam", "top1 error", "--set", *roots])
    assert "equal to 6 significant digits" in capsys.readouterr().out


def test_a_loss_aware_class_of_the_users_folder_is_told_the_loss(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(folder, "my_polyak.py", POLYAK)
    text = "name: polyak\nlabel: Polyak\noptimizer: my_polyak.py:Polyak\nlimit: 0.5\n"
    path = write(folder, "polyak.yaml", text)
    run(folder, "--add", str(path), extra=["epochs=2"])
    (first,) = folder.glob("results/runs/digits/polyak/*")
    rows = list(csv.DictReader((first / "metrics.csv").open(newline="")))
    assert float(rows[1]["train_objective"]) < 0.8 * float(rows[0]["train_objective"])
    source = config_of(folder, f"digits/polyak/{first.name}")["solver"]["source"]

    # As a module beside the file it is the same class, and an edited class is another run.
    del sys.modules["my_polyak"]
    assert len(list(folder.glob("results/runs/digits/polyak/*"))) == 1
    write(folder, "my_polyak.py", POLYAK.replace("max=", "max=0.5 * "))
    write(folder, "polyak.yaml", text.replace(".py:", "."))
    run(folder, "--add", str(path), extra=["epochs=2"])
    (second,) = set(folder.glob("results/runs/digits/polyak/*")) - {first}
    assert config_of(folder, f"digits/polyak/{second.name}")["solver"]["source"] != source
    assert "finished already" in capsys.readouterr().out  # the others


def test_tuning_takes_the_best_of_n_on_held_out_training_examples(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(folder, "nadam.yaml", NADAM)
    tuned = (folder, "--add", str(path), "--tune", "3", "--tune-epochs", "1", "--tune-all")
    short = ["epochs=2"]
    run(*tuned, extra=short)
    out = capsys.readouterr().out
    name = "mine-with-nadam-tuned-smoke-modified"
    labels = ["SGD", "BPGrad, μ = 0", "nadam"]
    both = [label for one in labels for label in (one, f"{one} (tuned, 3 trials)")]
    assert [row["solver"] for row in rows(folder, name)] == both

    trials = rows(folder, f"{name}-tuning")
    assert [row["solver"] for row in trials] == [label for label in labels for _ in range(3)]
    assert [row["settings"] for row in trials][::3] == ["as given"] * 3
    for row in trials:
        config = config_of(folder, row["run"])
        assert (config["task"]["holdout"], config["epochs"], row["epochs"]) == (0.1, 1, "1")
        assert config["scale"]["train_examples"] == 160
    finals = {row["solver"]: row["run"] for row in rows(folder, f"{name}-runs")}
    for label in labels:
        three = [row for row in trials if row["solver"] == label]
        (chosen,) = [row for row in three if row["chosen"] == "1"]
        key = "holdout_top1_error", "holdout_objective"
        assert [float(chosen[k]) for k in key] == min([float(r[k]) for k in key] for r in three)
        final = config_of(folder, finals[f"{label} (tuned, 3 trials)"])
        assert (final["task"]["holdout"], final["epochs"]) == (0.0, 2)
        assert final["solver"] == config_of(folder, chosen["run"])["solver"]
        assert f"digits  {label}: trial {chosen['trial']} of 3" in out
    text = (folder / f"results/tables/{name}-tuning.md").read_text(encoding="utf-8")
    assert "90% of the training examples (epochs: 1 on digits)" in text

    before = {path: path.read_bytes() for path in folder.glob("results/**/*") if path.is_file()}
    run(*tuned, extra=short)
    assert capsys.readouterr().out.count("finished already") == 9 + 6
    run(*tuned, "--show", extra=short)
    assert "finished already" not in capsys.readouterr().out
    assert before == {path: path.read_bytes() for path in before}


def test_with_trials_missing_nothing_is_chosen(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trial that could not be run would leave the solver a smaller budget."""
    path = write(folder, "nadam.yaml", NADAM.replace("lr: 0.002", ""))
    train, done = trainer.train, []

    def failing(cfg) -> None:
        done.append(cfg)
        if len(done) == 2:
            raise BPGradError("no space left")
        train(cfg)

    monkeypatch.setattr(trainer, "train", failing)
    with pytest.raises(BPGradError, match=r"^1 of 5 runs failed"):
        run(folder, "--add", str(path), "--tune", "2", extra=["epochs=1"])
    out, err = capsys.readouterr()
    assert "nadam: not tuned, of 2 trials 1 done" in out
    assert "no space left" in err
    name = "mine-with-nadam-tuned-smoke-modified"
    assert [row["solver"] for row in rows(folder, name)] == ["SGD", "BPGrad, μ = 0", "nadam"]


def test_a_trial_that_diverges_is_a_trial_that_lost(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(folder, "wild.yaml", "name: wild\noptimizer: torch.optim.SGD\ntune: {lr: [1e30]}")
    run(folder, "--add", str(path), "--tune", "2", extra=["epochs=1"])
    out, err = capsys.readouterr()
    assert "wild: trial 1 of 2, as given; held-out top1_error" in out
    assert err.startswith("error: digits  wild, trial 2 of 2  seed 0: ")
    assert err.count("\n") == 1
    assert "--tune-all gives each of them 2 trials too" in out


def test_a_trial_that_ends_in_nan_never_wins() -> None:
    cfg = load(["task=digits"])
    trial = tuning.Trial("digits", Solver("Mine", ("solver=sgd",)), 1, (), None, cfg)  # type: ignore[arg-type]
    values = [(math.nan, 1.0), (5.0, math.nan), (5.0, 2.0), (5.0, 1.0), (7.0, 0.1)]
    scores = [
        tuning.Score(trial, {"top1_error": error, "objective": objective}, done=True)
        for error, objective in values
    ]
    scores.append(tuning.Score(trial, None, done=True))
    for order in (scores, scores[::-1]):
        assert tuning.best(order)[("digits", "Mine")].values == {
            "top1_error": 5.0,
            "objective": 1.0,
        }


@pytest.mark.parametrize(
    ("text", "arguments", "words"),
    [
        ("name: mine\noptimizer: torch.optim.NAdm", (), "cannot be imported"),
        ("name: mine\noptimizer: nothing.at.All", (), "cannot be imported"),
        ("name: mine\noptimizer: nothing.py:All", (), "no such file"),
        ("name: mine\noptimizer: json.py:All", (), "another module is called json"),
        ("name: mine\noptimizer: faulty.py:All", (), "optimizer=faulty.py:All: SyntaxError"),
        ("name: mine\noptimizer: script.py:All", (), "script.py:All: SystemExit: exits with 1"),
        ("name: mine\noptimizer: json.JSONDecoder", (), "not a torch.optim.Optimizer"),
        ("name: mine\noptimizer: abstract.py:Needy", (), "solver.strength: required by Needy"),
        ("name: mine\noptimizer: abstract.py:Idle", (), "Idle fails in step: NotImplementedError"),
        (
            "name: mine\noptimizer: abstract.py:Broken",
            (),
            "Broken fails in step: ZeroDivisionError",
        ),
        ("name: mine\noptimizer: abstract.py:Odd", (), "steps have not changed a weight"),
        ("name: mine\noptimizer: abstract.py:Holder", (), "Holder wraps another optimizer; say wh"),
        (
            "name: mine\noptimizer: abstract.py:Holder\nwraps: {optimizer: abstract.py:Gone}",
            (),
            "cannot be imported",
        ),
        ("name: mine\noptimizer: torch.optim.SGD\nlearning: 1", (), "unknown solver.learning"),
        ("name: mine\noptimizer: torch.optim.SGD\nlr: -1", (), "refuses its settings"),
        ("name: adam\noptimizer: torch.optim.Adam", (), "adam is one of the suite's solvers"),
        ("name: a/b\noptimizer: torch.optim.Adam", (), "name: a/b: must be of letters"),
        ("name: mine\nlabel: SGD\noptimizer: torch.optim.SGD", (), "label of another solver"),
        ("optimizer: torch.optim.SGD", (), "name: missing; as in name: nadam"),
        ("name: mine", (), "optimizer: missing; as in optimizer: torch.optim.NAdam"),
        ("- a\n- b", (), "must be a mapping"),
        ("name: [", (), "not YAML"),
        ("name: mine\noptimizer: torch.optim.SGD", ("--tune", "2"), "mine has no ranges"),
        (
            "name: mine\noptimizer: torch.optim.SGD\ntune: {lr: {log: [0, 1]}}",
            ("--tune", "2"),
            "tune: lr: .*must be {log: ",
        ),
        (
            "name: mine\noptimizer: torch.optim.SGD\ntune: {rate: [1, 2]}",
            ("--tune", "2"),
            "mine, trial 2 of 2  seed 0: unknown solver.rate",
        ),
        ("name: mine\noptimizer: torch.optim.SGD", ("--tune-all",), "add --tune N"),
    ],
)
def test_wrong_input_is_one_line_before_anything_trains(
    folder: Path, text: str, arguments: tuple[str, ...], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, "faulty.py", "class All(:\n")
    write(folder, "json.py", "class All: ...\n")
    write(folder, "script.py", "import sys\nsys.exit(1)\n")
    write(
        folder,
        "abstract.py",
        "from torch.optim import Optimizer\n"
        "class Needy(Optimizer):\n"
        "    def __init__(self, params, strength): super().__init__(params, {})\n"
        "class Idle(Optimizer):\n"
        "    def __init__(self, params): super().__init__(params, {})\n"
        "class Broken(Idle):\n"
        "    def step(self): 1 / 0\n"
        "class Odd(Idle):\n"
        "    def step(self): self.state[self.param_groups[0]['params'][0]]['me'] = Needy\n"
        "class Holder(Idle):\n"
        "    def __init__(self, optimizer): super().__init__(optimizer.param_groups)\n",
    )
    monkeypatch.setattr(trainer, "train", lambda cfg: pytest.fail("trained"))
    path = write(folder, "mine.yaml", text)
    with pytest.raises(ConfigError, match=words) as refused:
        run(folder, "--add", str(path), *arguments)
    assert "\n" not in str(refused.value)
    assert str(path) in str(refused.value) or arguments == ("--tune-all",)
    assert refused.value.exit_code == 2
    assert not (folder / "results").exists()


def test_of_several_files_the_one_that_fails_is_named_and_how_to_do_without_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, "b.py", "from torch.optim import SGD\nclass B(SGD):\n    def step(self): 1 / 0\n")
    good = write(folder, "nadam.yaml", NADAM)
    bad = write(folder, "my own.yaml", "name: own\noptimizer: b.py:B\n")
    monkeypatch.setattr(trainer, "train", lambda cfg: pytest.fail("trained"))
    with pytest.raises(ConfigError) as refused:
        run(folder, "--add", str(good), "--add", str(bad))
    assert str(refused.value) == (
        f"{bad}: own: B fails in step: ZeroDivisionError: division by zero; the others are "
        f"compared without --add '{bad}'"
    )
    # What is wrong with the options is not the file's.
    with pytest.raises(ConfigError, match=r"^digits  SGD  seed 0: epochs: Value 'abc'"):
        run(folder, "--add", str(good), "--add", str(bad), extra=["epochs=abc"])


def test_the_others_run_when_one_raises(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the middle of its run: the trial saw nothing."""
    write(
        folder,
        "late.py",
        "from torch.optim import SGD\n"
        "class Late(SGD):\n"
        "    def step(self, closure=None):\n"
        "        state = self.state[self.param_groups[0]['params'][0]]\n"
        "        state['step'] = state.get('step', 0) + 1\n"
        "        if state['step'] > 20: raise IndexError('too late')\n"
        "        super().step()\n",
    )
    path = write(folder, "late.yaml", "name: late\noptimizer: late.py:Late\nlr: 0.01\n")
    nadam = write(folder, "nadam.yaml", NADAM)
    with pytest.raises(BPGradError, match=r"^1 of 4 runs failed"):
        run(folder, "--add", str(path), "--add", str(nadam))
    err = capsys.readouterr().err
    assert "late: Late fails in step: IndexError: too late (at epoch " in err
    assert err.count("\n") == 1
    name = "mine-with-late-nadam-smoke-modified"
    assert [row["solver"] for row in rows(folder, name)] == ["SGD", "BPGrad, μ = 0", "nadam"]


def test_a_wrapped_class_of_a_file_is_part_of_the_identity(folder: Path) -> None:
    write(folder, "inner.py", "from torch.optim import SGD\nclass Inner(SGD): ...\n")
    outer = "class Outer:\n    step = zero_grad = state_dict = load_state_dict = None\n"
    write(folder, "outer.py", f"{outer}    def __init__(self, optimizer): ...\n")
    text = "name: mine\noptimizer: outer.py:Outer\nwraps: {optimizer: inner.py:Inner, lr: 0.1}\n"
    path = write(folder, "mine.yaml", text)
    found = set()
    for edit in ("", "# edited\n"):
        write(folder, "inner.py", f"from torch.optim import SGD\nclass Inner(SGD): ...\n{edit}")
        own_solver.load(path)
        found.add(run_name(load(["solver=mine"])))
    assert len(found) == 2


def test_a_comparison_is_read_from_the_suites_records_and_written_elsewhere(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is recorded there is not trained again, and nothing is written there."""
    suite = folder / "suite/results/runs"
    elsewhere = [f"results_root={suite}", f"checkpoint_root={folder}/suite/checkpoints"]
    short = ["epochs=1"]
    run(folder, extra=[*elsewhere, *short])
    monkeypatch.setattr(lookup, "SUITE_RECORDS", suite)
    before = {path: path.read_bytes() for path in suite.rglob("*") if path.is_file()}
    capsys.readouterr()
    path = write(folder, "nadam.yaml", NADAM)
    run(folder, "--add", str(path), "--dry-run", extra=short)
    assert "1 of 3 runs to do" in capsys.readouterr().out
    run(folder, "--add", str(path), extra=short)
    out = capsys.readouterr().out
    assert f"2 of 3 runs are read from {suite}" in out
    name = "mine-with-nadam-smoke-modified"
    labels = ["SGD", "BPGrad, μ = 0", "nadam"]
    assert [row["solver"] for row in rows(folder, name)] == labels
    assert [path.parent.name for path in folder.glob("results/runs/*/*/*")] == ["nadam"]
    assert before == {path: path.read_bytes() for path in suite.rglob("*") if path.is_file()}
    roots = [f"results_root={folder}/results/runs"]
    main(["explain", name, "SGD", "top1 error", "--set", *roots])
    assert "equal to 6 significant digits" in capsys.readouterr().out


def test_options_that_do_not_fit(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="of which solvers"):
        run(folder, "--tune", "2")
    with pytest.raises(ConfigError, match=r"none\.yaml: no such file"):
        run(folder, "--add", "none.yaml")
    path = write(folder, "nadam.yaml", NADAM)
    with pytest.raises(ConfigError, match="label of another solver"):
        run(folder, "--add", str(path), "--add", str(path))
    (folder / "sampling.yaml").write_text("title: A study\nstudy: sampling\n")
    with pytest.raises(ConfigError, match="sampling is a study, not a comparison"):
        main(["sampling", "--add", str(path)])
    for wrong in ("1", "0", "x", "-3", "2.5"):
        with pytest.raises(SystemExit) as ended:
            main(["mine", f"--tune={wrong}"])
        assert ended.value.code == 2
        assert "--tune" in capsys.readouterr().err


def test_configurations_are_spread_evenly_and_are_always_the_same() -> None:
    ranges = {"lr": {"log": [1e-4, 1e-1]}, "momentum": {"linear": [0, 0.9]}, "n": [True, False]}
    found = tuning.configurations(ranges, 31)
    assert len(found) == 30
    assert found == tuning.configurations(ranges, 31)
    assert found[:9] == tuning.configurations(ranges, 10)
    decades = [math.floor(math.log10(values["lr"])) for values in found]
    assert all(8 <= decades.count(decade) <= 12 for decade in (-4, -3, -2))
    assert all(0 <= values["momentum"] <= 0.9 for values in found)
    assert sum(values["momentum"] < 0.45 for values in found) in range(13, 18)
    assert sum(values["n"] is True for values in found) in range(12, 19)
    assert len({values["lr"] for values in found}) > 25


def test_every_solver_of_the_suite_has_ranges_that_hold_its_settings() -> None:
    ranges = tuning.suite_ranges()
    assert set(ranges) == {path.stem for path in (CONFIG_DIR / "solver").glob("*.yaml")}
    for name, found in ranges.items():
        assert len(found) == 1  # one setting for each, an equal budget in every respect
        ((key, spec),) = found.items()
        low, high = spec["log"]
        assert high / low == pytest.approx(1000)
        for task in ("digits", "mnist", "cifar10"):
            value = solver_spec(load([f"task={task}", f"solver={name}"])).arguments[key]
            assert low <= value <= high


def test_a_task_without_a_holdout_refuses_to_tune(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that nothing is ever tuned on a test set."""
    monkeypatch.setattr(trainer, "train", lambda cfg: pytest.fail("trained"))
    monkeypatch.setattr(tuning, "task_class", lambda cfg: lambda context: None)
    with pytest.raises(ConfigError, match="the task digits has no option holdout"):
        run(folder, "--add", str(write(folder, "nadam.yaml", NADAM)), "--tune", "2")


def test_the_yaml_of_the_page_is_read(folder: Path) -> None:
    """Where it names a package that is not installed, its form."""
    page = (CONFIG_DIR.parent / "docs/bring-your-own.md").read_text(encoding="utf-8")
    texts = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert len(texts) == 9
    for text in texts:
        given = yaml.safe_load(text)
        if importlib.util.find_spec(given["optimizer"].partition(".")[0]) is None:
            text = text.replace(given["optimizer"], "user_stub.py:Stub")
        write(
            folder,
            "user_stub.py",
            "class Stub:\n"
            "    step = zero_grad = state_dict = load_state_dict = None\n"
            "    def __init__(self, params, optimizer=None, **more): ...\n",
        )
        own_solver.load(write(folder, "given.yaml", text))
        spec = solver_spec(load([f"solver={given['name']}"]))
        assert spec.closure is given.get("closure", False)
        assert len(spec.groups) == len(given.get("groups", []))


def test_what_the_page_shows_can_be_typed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its YAML is read, and its commands are parsed; the first one runs, smaller."""
    page = (CONFIG_DIR.parent / "docs/bring-your-own.md").read_text(encoding="utf-8")
    text = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)[0]
    monkeypatch.chdir(write(folder, "nadam.yaml", text).parent)
    commands = re.findall(r"^python -m experiments (.*?)(?: +#.*)?$", page, re.MULTILINE)
    assert len(commands) == 4
    for command in commands:
        parser(SUITE.folder).parse_args(shlex.split(command))
    monkeypatch.setattr("experiments.__main__.SUITE", SUITE)
    small = ["epochs=1", "scale.train_examples=160", "scale.val_examples=50"]
    main([*shlex.split(commands[0])[:-1], "2", "--scale=smoke", "--set", *small])
    out = capsys.readouterr().out
    name = "quickstart-with-nadam-tuned"
    assert f"{name}-smoke-modified" in out
    assert name in commands[2]
    header = next(line for line in page.splitlines() if line.startswith("| solver"))
    assert [cell.strip() for cell in header.split("|")[1:-1]] == next(
        [cell.strip() for cell in line.split("|")[1:8]]
        for line in out.splitlines()
        if line.startswith("| solver")
    )
