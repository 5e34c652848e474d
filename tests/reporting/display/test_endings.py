"""The tables that answer what variants and sweeps ask."""

from pathlib import Path

import numpy as np
import pytest

from bpgrad.records.run_record import RunRecord
from bpgrad.reporting.display.endings import Factor, answer, factors
from bpgrad.reporting.runs import Run, read_run
from tests.reporting.records import compare, make_record, make_run


def _rows(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def _noisy(folder: Path, solver: str, level: float, seed: int = 0) -> Run:
    """A run around `level` from epoch to epoch, alternately 0.01 above and below."""
    record = make_record(folder, solver, seed, epochs=20, level=level)
    rows = record.rows("metrics.csv")
    for k, row in enumerate(rows):
        row["train_objective"] = level
        row["val_top1_error"] = 20.0 * level + (0.01 if k % 2 else -0.01)
    record.write_rows("metrics.csv", rows)
    return read_run(record, solver, seed)


LEVELS = {"paper": 1.0, "c: other": 1.5, "ρ = 0.9": 2.0, "twin of ρ = 0.9: ρ = 0": 2.0005}


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_variants_stand_beside_the_first_and_twins_beside_theirs(
    tmp_path: Path, seeds: int
) -> None:
    """Bold from three seeds on, where the change is beyond chance; never with fewer."""
    runs = []
    for k, (solver, level) in enumerate(LEVELS.items()):
        for seed in range(seeds):
            noise = 0.001 * ((seed + k) % 3 - 1)
            runs.append(_noisy(tmp_path, solver, level + (noise if seeds > 1 else 0), seed))
    text = answer("variants", compare(*runs))
    cells = [row[2:] for row in _rows(text)]
    plain = [[cell.strip("*") for cell in row] for row in cells]
    assert [row[:2] for row in _rows(text)] == [
        ["c: other", "paper"],
        ["ρ = 0.9", "paper"],
        ["twin of ρ = 0.9: ρ = 0", "ρ = 0.9"],
    ]
    if seeds != 2:  # whose noise does not cancel out
        assert plain == [["+0.5000", "+10.00"], ["+1.000", "+20.00"], ["+0.0005000", "+0.01"]]
    bold = [["**" in cell for cell in row] for row in cells]
    assert bold == [[seeds == 3] * 2, [seeds == 3] * 2, [False] * 2]
    assert f"with fewer than 3 seeds nothing is bold (here {seeds})" in text
    steps = np.diff(0.01 * (-1.0) ** np.arange(10), 2)
    assert f"{np.sqrt(np.mean(steps**2) / 6):.2f} (test top-1 error (%))" in text


def test_a_variant_whose_companion_has_not_run_has_no_change(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, "paper"), make_run(tmp_path, "twin of ρ = 0.5: ρ = 0")]
    assert _rows(answer("variants", compare(*runs)))[0][1:] == ["ρ = 0.5", "–", "–"]


def test_a_sweep_shows_the_middle_and_what_the_training_objective_chooses(tmp_path: Path) -> None:
    levels = {"A, lr = 10": 3.0, "A, lr = 0.1": 0.6, "A, lr = 1": 0.9, "B, L = 1": 1.5}
    runs = [make_run(tmp_path, label, level=level) for label, level in levels.items()]
    record = RunRecord(tmp_path / "runs", tmp_path / "checkpoints", "mnist/B/seed0-1")
    record.write_config({"epochs": 3, "precision": "fp32"})
    record.write_meta(runs[0].meta | {"diverged": {"epoch": 1, "iteration": 3}})
    cut = [make_run(tmp_path, "C, lr = 1"), make_run(tmp_path, "C, lr = 2", done=1)]
    assert answer("sweep", compare(*cut)) == ""
    text = answer("sweep", compare(*runs, read_run(record, "B, L = 2", 0), *cut))
    assert _rows(text) == [
        [
            "A",
            "lr = 1",
            "6.00",
            "lr = 0.1",
            "4.00",
            "4.00 – 20.00",
            "none",
            "a factor of 10 or more",
        ],
        ["B", "L = 2", "–", "L = 1", "10.00", "10.00 – 10.00", "L = 2", "a factor of 1 or more"],
    ]
    assert "with 3 settings a solver" in text
    assert "Beside" not in text
    auto = make_run(tmp_path, "A, lr = auto", level=0.3)
    text_with = answer("sweep", compare(*runs, read_run(record, "B, L = 2", 0), *cut, auto))
    said = (
        "Beside the settings, and none of them: A, lr = auto, whose test top-1 error (%) is 2.00."
    )
    assert text_with == f"{text}\n{said}"


@pytest.mark.parametrize("shows", ["epochs", "variants", "sweep"])
def test_there_is_no_answer_without_a_question_or_a_run(tmp_path: Path, shows: str) -> None:
    run = make_run(tmp_path, "A, lr = 1", done=1 if shows != "epochs" else None)
    assert answer(shows, compare(run)) == ""


def test_factors_are_over_the_seeds_that_all_settings_have(tmp_path: Path) -> None:
    """The error ends at 20/3 of the level: 20, 21, 26 of A, 20 and guessing of B."""
    levels = {"A, lr = 1": 3.0, "A, lr = 10": 3.15, "A, lr = 100": 3.9, "B, L = 1": 3.0}
    runs = [
        make_run(tmp_path, name, seed, level=levels[name]) for name in levels for seed in (1, 2)
    ]
    runs.append(make_run(tmp_path, "A, lr = 1", 3, level=300.0))  # only this one has seed 3
    begun = make_record(tmp_path, "B2", 1, done=0, diverged={"epoch": 1, "iteration": 3})
    runs += [read_run(begun, "B, L = 10", seed) for seed in (1, 2)]
    runs += [make_run(tmp_path, "C, lr = 1", 7), make_run(tmp_path, "C, lr = 2", 7, done=1)]
    found, n = factors(compare(*runs))
    assert n == 2
    assert found == {
        "A": Factor(pytest.approx(10 ** (1 + 1 / 5)), more=True),  # 22: a fifth on from 21 to 26
        "B": Factor(pytest.approx(10 ** (2 / 80)), more=True),
    }
    shown = [str(f) for f in (Factor(2.24), Factor(24.1, more=True), Factor(1000.0))]
    assert shown == ["2.2", "24 or more", "1000"]
    assert factors(compare(make_run(tmp_path, "A, lr = 1", done=1))) == ({}, 0)


def test_a_factor_is_or_more_where_the_best_reaches_the_end_of_the_settings(tmp_path: Path) -> None:
    """The error is 20/3 of the level; that at an end counts only if all up to there are near."""

    def found(*errors: float) -> Factor:
        runs = [
            make_run(tmp_path / f"{errors}", f"A, lr = {10**k}", level=0.15 * error)
            for k, error in enumerate(errors)
        ]
        return factors(compare(*runs))[0]["A"]

    assert not found(21, 30, 20, 30, 40).more
    assert found(21, 21.5, 20, 30, 40).more
    assert found(40, 30, 20, 21).more
    assert not found(30, 20, 30).more


def test_what_has_no_factor(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, label) for label in ("A, μ = 0", "A, μ = 1", "B, L = 1", "B, L = 2")]
    object.__setattr__(runs[2], "rows", runs[2].rows.drop(columns="val_top1_error"))
    assert factors(compare(*runs)) == ({}, 1)
    assert "| B | L = 2 |" in answer("sweep", compare(*runs))
