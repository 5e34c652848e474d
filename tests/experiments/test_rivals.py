"""Rivals of today: what is declared, stages of made-up results, the answer, all of it small."""

import csv
import math
import re
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import yaml

from bpgrad.errors import ConfigError
from bpgrad.suite import RIVALS
from bpgrad.training.config import CONFIG_DIR, Config, load
from bpgrad.training.trainer import train
from experiments.engine import declaration, runner
from experiments.studies import rivals, staged
from experiments.studies.feedback_answers import DIVERGED, Outcome
from experiments.studies.rivals import ARMS, BPGRAD, SCHEDULED, SEEDS
from experiments.studies.staged import Cell

ROOT = Path(__file__).parents[2]
FILES = sorted((CONFIG_DIR / "solver" / "rivals").glob("*.yaml"))
SGD = "SGD (warm-up, cosine)"

Result = Callable[[Cell], Outcome]


def outcome(error: float, held_out: float | None = None) -> Outcome:
    return Outcome(error if held_out is None else held_out, 0.0, error, 0.0)


def best_at(position: int) -> Result:
    return lambda cell: outcome(20.0 + abs(cell.position - position))


def stages(result: Result, seeds: Sequence[int], task: str = "mnist") -> list[list[Cell]]:
    """What runs, one batch after the other."""
    found: dict[Cell, Outcome] = {}
    batches = []
    while batch := rivals.ready(found, task, seeds):
        batches.append(batch)
        found |= {cell: result(cell) for cell in batch}
    return batches


# -- what is declared ----------------------------------------------------------------------------


def test_every_rival_is_one_of_the_files_and_every_package_is_in_the_extra() -> None:
    used = {s for arms in ARMS.values() for arm in arms for s in arm.set if "rivals/" in s}
    assert used == {f"solver=rivals/{file.stem}" for file in FILES}
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = set(extras["optional-dependencies"]["rivals"])
    contents = [yaml.safe_load(file.read_text()) for file in FILES]
    foreign = [c for c in contents if not c["optimizer"].startswith("torch.")]
    # The version is a part of the run's name, and the one that is installed.
    assert {c["source"].replace(" ", "==") for c in foreign} == pinned
    assert {c["optimizer"].partition(".")[0] for c in foreign} == set(RIVALS)
    assert len({c["name"] for c in contents}) == len(contents)


def test_what_is_tuned_is_a_setting_of_each_solver() -> None:
    for task, arms in ARMS.items():
        assert len({arm.name for arm in arms}) == len(arms) == 11
        for arm in arms:
            values = [next(iter(arm.setting(k).values())) for k in range(-1, 6)]
            assert all(1.5 < b / a < 4.5 for a, b in pairwise(values))
            (key,) = arm.setting(0)
            file = arm.set[0].removeprefix("solver=")
            written = yaml.safe_load((CONFIG_DIR / "solver" / f"{file}.yaml").read_text())
            assert key in written
            if task == "cifar10" and "rivals" in file:
                assert written[key] == values[3]
    declared = declaration.load(ROOT / "experiments" / "rivals.yaml")
    assert isinstance(declared, declaration.Study)
    assert declared.seeds == SEEDS


def test_a_missing_package_is_one_line_that_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(rivals, "find_spec", lambda module: None if module == "momo" else module)
    with pytest.raises(ConfigError, match=r"^rivals: needs momo: pip install 'bpgrad\[rivals\]'$"):
        list(rivals.missing(tmp_path))
    monkeypatch.setitem(__import__("sys").modules, "momo", None)
    with pytest.raises(ConfigError) as caught:
        load(["task=digits", "solver=rivals/momo"])
    assert str(caught.value).startswith("solver.optimizer=momo.Momo: cannot be imported (")
    assert str(caught.value).endswith("; pip install 'bpgrad[rivals]'")


def test_a_package_of_another_version_is_refused_and_1_0_is_1_0_0(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plain = load(["task=digits"])

    def config(self: staged.Runs, cell: Cell) -> Config:
        file = CONFIG_DIR / f"{cell.arm.set[0].replace('=', '/')}.yaml"
        source = yaml.safe_load(file.read_text()).get("source", "")
        return replace(plain, solver={"source": source})

    sources = [yaml.safe_load(file.read_text()).get("source", "") for file in FILES]
    pinned = dict(source.split() for source in sources if source)
    monkeypatch.setattr(staged.Runs, "config", config)
    monkeypatch.setattr(rivals, "find_spec", lambda module: module)
    monkeypatch.setattr(rivals, "version", {**pinned, "sps-safe": "1.0.0"}.get)
    rivals._runs(tmp_path, [])
    monkeypatch.setattr(rivals, "version", {**pinned, "momo-opt": "0.1.1"}.get)
    with pytest.raises(ConfigError, match=r"momo-opt 0\.1\.1 is installed, .* of 0\.1\.0: pip"):
        rivals._runs(tmp_path, [])


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_each_as_its_package_ships_it(file: Path, tmp_path: Path) -> None:
    """Driven through the protocols of any solver; without its package there is nothing to see."""
    package = yaml.safe_load(file.read_text())["optimizer"].partition(".")[0]
    pytest.importorskip(package, reason=f"{package} is not installed (the extra `rivals`)")
    found = train(
        load(
            [
                *("task=digits", f"solver=rivals/{file.stem}", "epochs=2", "scale=smoke"),
                *("scale.train_examples=600", f"results_root={tmp_path}/runs"),
                f"checkpoint_root={tmp_path}/checkpoints",
            ]
        )
    )
    assert math.isfinite(found["train_objective"])
    assert found.get("evaluations", 0) == (76 if file.stem == "alig" else 0)  # 2 × 19 minibatches


# -- stages --------------------------------------------------------------------------------------


def test_tuning_comes_first_then_one_seed_after_the_other() -> None:
    first, *others = stages(best_at(2), [1, 2, 3])
    assert {(c.arm.name, c.position, c.seed) for c in first} == {
        (arm.name, k, 1) for arm in ARMS["mnist"] for k in range(5)
    }
    assert [{(c.seed, c.position) for c in batch} for batch in others] == [{(2, 2)}, {(3, 2)}]
    assert all(len(batch) == len(ARMS["mnist"]) for batch in others)
    assert len(stages(best_at(2), [1])) == 1


@pytest.mark.parametrize(("best", "more"), [(-1, -1), (-9, -1), (9, 5)])
def test_a_best_at_an_end_adds_one_setting_and_no_more(best: int, more: int) -> None:
    first, second, *others = stages(best_at(best), [1, 2])
    assert {c.position for c in second} == {more}
    assert {c.position for batch in others for c in batch} == {more}
    assert len(first) + len(second) == 6 * len(ARMS["mnist"])


def test_what_diverged_is_not_chosen() -> None:
    def result(cell: Cell) -> Outcome:
        return DIVERGED if cell.position < 2 else best_at(0)(cell)

    *_, last = stages(result, [1, 2])
    assert {c.position for c in last} == {2}


# -- answers -------------------------------------------------------------------------------------

NOISE = (0.00, 0.04, -0.03)


def series(error: float, shift: int = 0) -> dict[int, Outcome]:
    return {seed: outcome(error + NOISE[(seed + shift) % 3]) for seed in (1, 2, 3)}


def judge(outcomes: dict[str, dict[int, Outcome]], task: str = "cifar10") -> rivals.Judged:
    return rivals.judge(task, outcomes, {name: its[1] for name, its in outcomes.items()})


def arms(ours: float = 20.0, **others: float) -> dict[str, dict[int, Outcome]]:
    errors = {SGD: ours + 3, "MoMo": ours + 4, **others}
    return {
        **{BPGRAD: series(ours), SCHEDULED: series(ours + 5)},
        **{name: series(error, shift=1) for name, error in errors.items()},
    }


def test_yes_if_better_than_the_rival_that_held_out_images_put_first() -> None:
    found = judge(arms())
    assert (found.answer, found.version, found.rival) == ("yes", BPGRAD, SGD)
    assert found.why.startswith(f"Against {SGD}: better (-3.")
    assert found.why.endswith("The others, uncorrected: better than MoMo.")
    # Better than another is none of its concern.
    chosen = arms()
    chosen["MoMo"][1] = outcome(24.0, held_out=19.0)
    assert judge(chosen).rival == "MoMo"


def test_no_if_that_rival_is_better() -> None:
    found = judge(arms(MoMo=18.0))
    assert (found.answer, found.rival) == ("no", "MoMo")
    assert found.why.startswith("Against MoMo: worse (+2.00 points")


def test_as_good_as_the_best_if_they_tie() -> None:
    same = arms(MoMo=19.9, **{SGD: 20.1})
    assert judge(same).answer == "as good as the best"
    # The same differences are none that tie on MNIST, where errors are of about 1 %.
    assert judge(same, "mnist").answer != "as good as the best"


def test_undecided_if_the_seeds_differ_by_more_than_the_solvers() -> None:
    outcomes = {
        BPGRAD: {1: outcome(20.0), 2: outcome(26.0), 3: outcome(22.0)},
        SCHEDULED: series(30.0),
        "MoMo": {1: outcome(24.0), 2: outcome(21.0), 3: outcome(25.0)},
    }
    found = judge(outcomes)
    assert found.answer == "undecided"
    assert "needs n = " in found.why


def test_the_version_is_chosen_by_held_out_images_not_by_the_test_set() -> None:
    outcomes = {BPGRAD: series(20.0), SCHEDULED: series(25.0), "MoMo": series(30.0, 1)}
    held_out = {BPGRAD: outcome(20.0, held_out=22.0), SCHEDULED: outcome(25.0, held_out=21.0)}
    held_out["MoMo"] = outcome(30.0)
    assert rivals.judge("cifar10", outcomes, held_out).version == SCHEDULED


def made_up(task: str, error: Callable[[str], float]) -> dict[Cell, Outcome]:
    found: dict[Cell, Outcome] = {}
    while batch := rivals.ready(found, task, [1, 2, 3]):
        for cell in batch:
            name = sum(map(ord, cell.arm.name))
            noise = float(np.random.default_rng([name, cell.seed]).normal(scale=0.01))
            found[cell] = outcome(error(cell.arm.name) + abs(cell.position - 2) + noise)
    return found


def test_the_answer_in_words() -> None:
    found = {
        "mnist": made_up("mnist", lambda name: 1.0 if name == SGD else 3.0),
        "cifar10": made_up("cifar10", lambda name: 20.0 if name == SCHEDULED else 24.0),
    }
    text = rivals.words(found)
    either = "with(out)? a cosine"
    assert re.match(
        r"\*\*Is there any task here on which BPGrad is what you should take\? Yes: CIFAR-10, "
        rf"with a cosine, against .*\. No: MNIST, {either}, against SGD \(.*\)\.\*\*",
        text,
    ), text
    assert "Few seeds: n = 3." in text
    assert "A cosine makes BPGrad better (" in text
    half = rivals.words(found | {"mnist": {}})
    assert "MNIST: still to run: BPGrad, BPGrad × cosine, SGD" in half
    assert rivals.words({"mnist": {}, "cifar10": {}}).startswith(
        "**Is there any task here on which BPGrad is what you should take?** Not all of it"
    )


# -- all of it, small ----------------------------------------------------------------------------


def test_from_the_first_run_to_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = (BPGRAD, SCHEDULED, SGD)
    arms = tuple(
        replace(arm, setting=staged.around(next(iter(arm.setting(2))), middle))
        for arm, middle in zip(ARMS["cifar10"][:3], (20.0, 20.0, 0.01), strict=True)
    )
    assert tuple(arm.name for arm in arms) == kept
    monkeypatch.setattr(rivals, "ARMS", {"digits": arms})
    monkeypatch.setattr(rivals, "TASKS", ("digits",))
    monkeypatch.setattr(rivals, "POINTS", {"digits": 1.0})
    monkeypatch.setattr(rivals, "SETTINGS", range(2, 4))
    monkeypatch.setattr(rivals, "RIVALS", ())
    folder = tmp_path / "results" / "studies" / "rivals"
    given = [
        *(f"results_root={tmp_path}/results/runs", f"checkpoint_root={tmp_path}/checkpoints"),
        *("epochs=1", "scale.train_examples=100", "scale.val_examples=50", "batch_size=30"),
    ]
    lines = list(rivals.missing(folder, seeds=[1], overrides=given))
    assert not folder.exists()
    assert lines[0].startswith("rivals, Digits: 6 of 6 runs to do")
    assert lines[-1].endswith(f"more, once settings are chosen of {', '.join(kept)}")

    folder.mkdir(parents=True)
    rivals.run(folder, seeds=[1], overrides=given)
    with monkeypatch.context() as patch:
        patch.setattr(runner, "execute", None)  # nothing is left to run
        rivals.run(folder, seeds=[1], overrides=given)
    text = rivals.show(folder, tmp_path, tmp_path)
    assert text == rivals.show(folder, tmp_path, tmp_path)
    assert "| SGD (warm-up, cosine) | lr = " in text
    (opening,) = rivals.findings(folder)
    assert f"**{opening.partition('.')[0]}" in text
    rows = list(csv.DictReader((tmp_path / "rivals.csv").open()))
    assert {row["solver"] for row in rows} == set(kept)
    for row in rows:
        record = tmp_path / "results" / "runs" / row["run"]
        last = list(csv.DictReader((record / "metrics.csv").open()))[-1]
        assert float(row["test_error"]) == pytest.approx(float(last["val_test_top1_error"]))
        assert float(row["held_out_error"]) == pytest.approx(float(last["val_top1_error"]))

    # The page needs no package: which runs it shows is written beside it.
    def without(overrides: Sequence[str]) -> None:
        raise ConfigError("a package is missing")

    monkeypatch.setattr(staged, "load", without)
    assert rivals.show(folder, tmp_path, tmp_path) == text
