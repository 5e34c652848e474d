"""Equal tuning: settings, multipliers and weight decay in stages, and what the page says."""

import csv
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bpgrad.training.config import load
from bpgrad.training.identity import run_name
from experiments.engine import declaration
from experiments.studies import equal_tuning, staged
from experiments.studies.equal_tuning import ARMS, OURS, SEEDS
from experiments.studies.feedback_answers import Outcome
from experiments.studies.staged import Cell

ROOT = Path(__file__).parents[2]
ADAM = next(arm for arm in ARMS["cifar10"] if arm.name == "Adam")

Result = Callable[[Cell], Outcome]


def outcome(error: float) -> Outcome:
    return Outcome(error, 0.0, error, 0.0)


def run_all(
    task: str, result: Result, *, full: bool = False
) -> tuple[dict[Cell, Outcome], list[list[Cell]]]:
    found: dict[Cell, Outcome] = {}
    batches = []
    while batch := equal_tuning.ready(found, task, SEEDS, full):
        batches.append(batch)
        found |= {cell: result(cell) for cell in batch}
    return found, batches


def likes(position: int, multipliers: bool, decay: float) -> Result:
    """The best is one setting, with the others' keys as they say."""

    def result(cell: Cell) -> Outcome:
        also = dict(cell.also)
        default = equal_tuning.SOLVERS[cell.arm.name][1]
        error = 20.0 + abs(cell.position - position)
        error += 0.5 * (also.get("lr_multipliers", default) != multipliers)
        return outcome(error + 0.2 * (also.get("weight_decay", 5e-4) != decay))

    return result


def test_the_middle_of_each_range_is_the_papers_run(tmp_path: Path) -> None:
    """Figure 7's, at the paper's length: by name."""
    runs = staged.Runs(tmp_path, [])
    for task, arms in ARMS.items():
        assert [arm.name for arm in arms] == [
            name for name in equal_tuning.SOLVERS if name != "Eve" or task == "cifar10"
        ]
        for arm in arms:
            name, multiplied = equal_tuning.SOLVERS[arm.name]
            plain = load([f"task={task}", f"solver={name}", "seed=1"])
            assert bool(plain.solver.get("lr_multipliers")) == multiplied
            assert plain.solver["weight_decay"] == 5e-4
            cell = equal_tuning.as_in_the_paper(task, arm)
            full = runs.config(Cell(task, arm, cell.position, 1, full=True))
            assert run_name(full) == run_name(plain)
            tuned = runs.config(cell)
            assert (tuned.epochs, tuned.task["holdout"]) == (30, 0.1)
            drops = plain.solver.get("lr_factors") or {}
            expected = {{31: 10, 61: 19}[epoch]: factor for epoch, factor in drops.items()}
            assert (tuned.solver.get("lr_factors") or {}) == expected
    declared = declaration.load(ROOT / "experiments" / "equal_tuning.yaml")
    assert isinstance(declared, declaration.Study)
    assert declared.seeds == SEEDS


def test_settings_then_multipliers_then_weight_decay_then_seeds() -> None:
    found, batches = run_all("cifar10", likes(3, multipliers=False, decay=0.0))
    its = [[c for c in batch if c.arm is ADAM] for batch in batches]
    assert [[c.position for c in batch] for batch in its[:3]] == [[0, 1, 2, 3, 4], [3, 1], [3] * 3]
    assert {c.also for c in its[1]} == {(("lr_multipliers", False),)}
    assert [dict(c.also)["weight_decay"] for c in its[2]] == [0.0, 5e-5, 5e-3]
    assert all(dict(c.also)["lr_multipliers"] is False for c in its[2])
    chosen = equal_tuning.choice("cifar10", ADAM, found)
    assert chosen is not None
    assert chosen.also == (("lr_multipliers", False), ("weight_decay", 0.0))
    assert [{(c.seed, c.position) for c in batch} for batch in its[3:]] == [
        {(2, 2), (2, 3)},  # the paper's and the one chosen
        {(3, 2), (3, 3)},
    ]


def test_flipped_multipliers_are_tried_where_most_layers_step_as_far_as_before() -> None:
    """A tenth of the rate without them; with them ten times the rate, a tenth of L, 100 ε."""
    values = {}
    for arm in ARMS["cifar10"]:
        best = Cell("cifar10", arm, 2, 1)
        same, moved = equal_tuning.flipped(arm, best)
        assert same.position == 2
        (key,) = arm.setting(2)
        values[arm.name] = arm.setting(moved.position)[key] / arm.setting(2)[key]
    tenth, others = pytest.approx(0.1), ("Adagrad", "RMSProp", "Adam", "Eve", "SGD")
    assert values == {**dict.fromkeys(others, tenth), OURS: tenth, "Adadelta": pytest.approx(100)}


def test_a_best_at_an_end_adds_one_and_a_net_without_multipliers_has_no_such_stage() -> None:
    found, batches = run_all("mnist", likes(4, multipliers=False, decay=5e-4))
    assert {c.position for c in batches[1] if not c.also} == {5}
    assert not [cell for cell in found if "lr_multipliers" in dict(cell.also)]
    for arm in ARMS["mnist"]:
        cells = equal_tuning.tuning("mnist", arm, found)
        assert len(cells) == 9  # of each the same number
        assert equal_tuning.choice("mnist", arm, found) == Cell("mnist", arm, 4, 1)


def test_the_papers_length_is_for_what_is_shown_alone() -> None:
    found, _ = run_all("mnist", likes(3, multipliers=False, decay=0.0), full=True)
    full = {(c.arm.name, c.position, c.seed) for c in found if c.full}
    assert full == {(arm.name, k, s) for arm in ARMS["mnist"] for k in (2, 3) for s in SEEDS}
    cfg = staged.Runs(ROOT, []).config(next(c for c in found if c.full))
    assert (cfg.epochs, cfg.task["holdout"], cfg.task["judge_test"]) == (50, 0.0, False)


def test_what_the_page_says() -> None:
    def result(cell: Cell) -> Outcome:
        name = sum(map(ord, cell.arm.name))
        noise = float(np.random.default_rng([name, cell.position, cell.seed]).normal(scale=0.01))
        worse = 3.0 if cell.arm.name == OURS else 0.0
        # The paper's setting of the others is bad, of BPGrad it is the best.
        away = abs(cell.position - (2 if cell.arm.name == OURS else 3))
        return outcome(20.0 + worse + 6 * away + noise + 0.1 * len(cell.also))

    found, _ = run_all("cifar10", result)
    text = equal_tuning.words({"cifar10": found})
    rivals = "Adagrad, Adadelta, RMSProp, Adam, Eve, SGD"
    assert text == (
        "- CIFAR-10, 30 epochs, nine tenths of the training images: at the paper's settings BPGrad "
        f"is better than {rivals} (n = 3); with all tuned by the same budget it is worse than "
        f"{rivals} (n = 3)."
    )
    table = equal_tuning._markdown("cifar10", found, full=False)
    assert "nothing: the paper's is the best" in next(
        line for line in table.splitlines() if line.startswith("| BPGrad |")
    )
    numbers = r"(25|26|19|20)\.\d\d ± 0\.\d\d, n = 3"
    row = rf"\| Adam \| lr = 0\.01 \| {numbers} \| lr = 0\.032 \| {numbers} \| better \("
    assert re.search(row, table), table
    effects = equal_tuning._effects("cifar10", found)
    errors = [o.held_out for c, o in found.items() if c.arm is ADAM and c.seed == 1 and not c.also]
    best, more = f"{min(errors):.2f}", f"{min(errors) + 0.1:.2f}"
    assert f"| Adam | {more} | {best} | {more} | {more} | {best} | {more} |" in effects
    assert "multipliers" not in equal_tuning._effects("mnist", run_all("mnist", result)[0])
    assert equal_tuning.words({"cifar10": {}}) == "Not all of the tuning has been run."


def test_from_the_first_run_to_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arm = staged.Arm(OURS, ("solver=bpgrad",), staged.around("lipschitz", 20.0), "L")
    other = staged.Arm("SGD", ("solver=sgd",), staged.around("lr", 0.01), "lr")
    monkeypatch.setattr(equal_tuning, "ARMS", {"digits": (arm, other)})
    monkeypatch.setattr(equal_tuning, "SETTINGS", (1, 2, 3))
    monkeypatch.setattr(equal_tuning, "_on_gpu", lambda overrides: True)
    folder = tmp_path / "results" / "studies" / "equal_tuning"
    folder.mkdir(parents=True)
    given = [
        *(f"results_root={tmp_path}/results/runs", f"checkpoint_root={tmp_path}/checkpoints"),
        *("epochs=1", "scale.train_examples=100", "scale.val_examples=50", "batch_size=30"),
    ]
    monkeypatch.setitem(equal_tuning.POINTS, "digits", 1.0)
    equal_tuning.run(folder, seeds=[1], overrides=given)
    assert list(equal_tuning.missing(folder, seeds=[1], overrides=given)) == [
        "equal_tuning, Digits: all runs have ended"
    ]
    text = equal_tuning.show(folder, tmp_path, tmp_path)
    assert "**Digits. The paper's length.**" in text
    rows = list(csv.DictReader((tmp_path / "equal_tuning.csv").open()))
    assert {row["length"] for row in rows} == {"30 epochs", "paper"}
    for row in rows:
        record = tmp_path / "results" / "runs" / row["run"]
        last = list(csv.DictReader((record / "metrics.csv").open()))[-1]
        column = "val_top1_error" if row["length"] == "paper" else "val_test_top1_error"
        assert float(row["test_error"]) == pytest.approx(float(last[column]))
