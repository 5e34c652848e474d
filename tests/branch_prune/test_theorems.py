"""The statements about Algorithm 1 and Eq. 12 on random functions, and the counterexamples.

The functions and the checks are those of the study `theorems`, with another seed.
"""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bpgrad.errors import ConfigError
from experiments.claims import theory
from experiments.studies import theorems
from experiments.studies.functions import (
    COUNTS,
    FAMILIES,
    Function,
    late_raise,
    one_ball,
    random_functions,
    right_angle,
)
from experiments.studies.theorems import PREMISE, STATEMENTS, Trial

SEED = 1
#: Printed statements that are false, and one reading of another; docs/corrections.md.
FALSE = {
    "the loop of Algorithm 1": "late raise",
    "Theorem 2": "one ball",
    "the same where f* > ρm": "late raise",
    "Theorem 3": "right angle",
    "Corollary 2": "right angle",
}
TRUE = [statement.name for statement in STATEMENTS if statement.name not in FALSE]


def functions() -> list[Function]:
    return list(random_functions(SEED))


@pytest.fixture(scope="module")
def trials() -> list[Trial]:
    return theorems.trials(functions())


@pytest.fixture(scope="module")
def rows(trials: list[Trial]) -> dict[str, dict[str, object]]:
    table = theorems.table(trials)
    return table.set_index("statement").to_dict("index")


def test_there_are_enough_functions_and_none_is_constant() -> None:
    found = functions()
    assert len(found) == len(FAMILIES) * sum(count for _, count in COUNTS) >= 200
    assert {f.dim for f in found} == {1, 2, 3}
    assert {f.minimum > 0.0 for f in found} == {True, False}
    rng = np.random.default_rng(0)
    assert all(np.ptp(f.values(rng.random((50, f.dim)))) > 0.01 for f in found)


@pytest.mark.parametrize(
    "make", [random_functions, lambda: (late_raise(), one_ball(), right_angle())]
)
def test_the_constants_and_minima_are_right(make) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(0)
    for f in make():
        lower, upper = np.array(f.bounds).T
        x = rng.uniform(lower - 1.0, upper + 1.0, (300, f.dim))
        values = f.values(x)
        assert values.min() >= f.minimum - 1e-12, f.name
        assert f(f.minimiser) == pytest.approx(f.minimum, abs=1e-12), f.name
        assert np.all((f.minimiser >= lower) & (f.minimiser <= upper)), f.name
        near = x + 1e-3 * rng.standard_normal(x.shape)
        rise = np.abs(f.values(near) - values)
        assert np.all(rise <= f.lipschitz * np.linalg.norm(near - x, axis=1) + 1e-12), f.name
        for point in x[:5]:
            steps = 1e-7 * np.eye(f.dim)
            slopes = (f.values(point + steps) - f.values(point - steps)) / 2e-7
            assert f.gradient(point) == pytest.approx(slopes, abs=1e-3), f.name


@pytest.mark.parametrize("name", TRUE)
def test_the_statement_holds(name: str, rows: dict[str, dict[str, float]]) -> None:
    row = rows[name]
    assert row["premise"] >= PREMISE * row["functions"]
    assert row["held"] == row["premise"], row["fails_on"]


@pytest.mark.parametrize("name", FALSE)
def test_the_premise_of_a_false_statement_is_no_rarity(
    name: str, rows: dict[str, dict[str, float]]
) -> None:
    assert rows[name]["premise"] >= PREMISE * rows[name]["functions"]


@pytest.fixture(scope="module")
def refutations() -> dict[str, Trial]:
    return {f.name: Trial.of(f) for f in theorems.counterexamples()}


@pytest.mark.parametrize(("name", "counterexample"), FALSE.items())
def test_the_counterexample_refutes_it(
    name: str, counterexample: str, refutations: dict[str, Trial]
) -> None:
    (check,) = (statement.check for statement in STATEMENTS if statement.name == name)
    assert check(refutations[counterexample]) == (True, False)


@pytest.mark.parametrize("name", TRUE)
def test_the_others_survive_every_counterexample(name: str, refutations: dict[str, Trial]) -> None:
    (check,) = (statement.check for statement in STATEMENTS if statement.name == name)
    for trial in refutations.values():
        premise, held = check(trial)
        assert held or not premise, trial.function.name


def test_the_printed_loop_claims_a_gap_after_two_samples() -> None:
    found = Trial.of(late_raise()).printed
    assert found.nfev == 2
    assert (1.0 - 0.95) * found.fun == pytest.approx(0.005)  # the claim
    assert found.fun - 0.05 == pytest.approx(0.05)  # the error
    assert not found.success


@pytest.mark.parametrize("slope", [0.0, 0.1])
def test_equation_9_allows_less_than_one_sample(slope: float) -> None:
    f = one_ball(slope)
    trial = Trial.of(f)
    samples, rho, _ = theorems._stages(trial)[0]
    assert (samples, rho) == (1, 0.0)  # covered at ρ = 0
    allowed = 1.0 / 2.0 * (2.0 * f.lipschitz / f.minimum)  # Vol(X)/ω_1 · (2L/f_min)^1
    assert allowed == pytest.approx(0.5)
    assert theorems.equation_9(trial) == (True, False)
    assert theorems.theorem_2(trial) == (True, True)


def test_the_walk_round_the_corner_ends_in_a_ball() -> None:
    trial = Trial.of(right_angle())
    (walk,) = (walk for walk in trial.walks if walk.rho == 0.5)
    assert walk.found.path[:3] == pytest.approx(np.array([[0.0, 0.0], [-0.5, 0.0], [-0.5, -0.35]]))
    (step, *_) = walk.steps
    assert step.ahead
    assert step.turns_little
    assert not step.far
    assert step.radii[0] == pytest.approx(0.65)
    assert np.linalg.norm(walk.found.path[2] - walk.found.path[0]) == pytest.approx(
        0.6103, abs=1e-4
    )
    assert step.inside
    assert np.all(np.diff(walk.found.path_values[:3]) < 0.0)  # not even if the values fall


def test_the_gradient_of_the_corner_is_below_its_constant() -> None:
    f = right_angle()
    lower, upper = np.array(f.bounds).T
    axes = [np.linspace(a, b, 200) for a, b in zip(lower, upper, strict=True)]
    grid = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2)
    assert max(np.linalg.norm(f.gradient(x)) for x in grid) == pytest.approx(0.873, abs=1e-3)


def test_the_bound_and_the_gap_are_monotone(trials: list[Trial]) -> None:
    for trial in trials:
        history = trial.certified.history
        assert all(b >= a for a, b in pairwise(history.lower_bound))
        assert all(b <= a for a, b in pairwise(history.f_min))


# The study around them.


def test_the_study_has_the_statements_of_the_claim() -> None:
    printed = {statement.name for statement in STATEMENTS if statement.printed}
    assert set(theory.STATEMENTS) <= printed


def test_the_study_writes_what_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(theorems, "random_functions", lambda seed: [one_ball(0.2)])
    folder, out = tmp_path / "theorems", tmp_path / "out"
    for path in (folder, out):
        path.mkdir()
    theorems.run(folder)
    text = theorems.show(folder, out, out)
    assert "Printed statements that fail: the loop of Algorithm 1, Theorem 2, Theorem 3" in text
    written = {path.name: path.read_bytes() for path in out.iterdir()}
    assert set(written) == {"theorems.csv", "theorems.md", "theorems.tex"}
    assert theorems.show(folder, out, out) == text
    assert {path.name: path.read_bytes() for path in out.iterdir()} == written
    table = theorems.evidence(folder)["theorems"]
    assert list(table.columns) == ["statement", "functions", "premise", "held"]
    before = (folder / "statements.csv").stat().st_mtime_ns
    theorems.run(folder)  # there is nothing to do
    assert (folder / "statements.csv").stat().st_mtime_ns == before
    assert len(pd.read_csv(folder / "statements.csv")) == len(STATEMENTS)


def test_the_study_refuses_settings(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing to set"):
        theorems.run(tmp_path, overrides=["x=1"])
