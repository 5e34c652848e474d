"""Figures 1 to 3, the test functions with their L, and the comparison with other minimisers."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bpgrad.errors import ConfigError
from bpgrad.reporting.page.interactive import widget
from experiments.claims import CLAIMS
from experiments.claims.second.theory import GRADIENTS
from experiments.claims.theory import FILLED, KEPT, LOOP
from experiments.engine.claim import Evidence
from experiments.studies import certifying, figure1, figure2, figure3, finding, samplers
from experiments.studies.adalipo import minimize_adalipo
from experiments.studies.counting import Counter, Over, cpu_limit
from experiments.studies.covering import covers, first_certified
from experiments.studies.lipschitz_branch_and_bound import minimize_branch_and_bound
from experiments.studies.test_functions import TestFunction, all_functions, deb, sphere

FUNCTIONS = {f.label: f for f in all_functions()}


def _points(function: TestFunction, count: int) -> np.ndarray:
    low, high = np.array(function.bounds).T
    corners = np.array(np.meshgrid(*function.bounds)).reshape(function.dim, -1).T
    inside = np.random.default_rng(0).uniform(low, high, (count, function.dim))
    return np.concatenate([corners, inside])


@pytest.fixture(params=FUNCTIONS, name="function")
def _function(request: pytest.FixtureRequest) -> TestFunction:
    return FUNCTIONS[request.param]


def test_no_gradient_is_longer_than_the_lipschitz_constant(function: TestFunction) -> None:
    norms = [np.linalg.norm(function.gradient(x)) for x in _points(function, 3000)]
    assert max(norms) <= function.lipschitz * (1 + 1e-12)
    assert max(norms) >= 0.7 * function.lipschitz, "a proven L that is far too large is of no use"


def test_gradients_are_those_of_finite_differences(function: TestFunction) -> None:
    for x in _points(function, 30)[-30:]:
        steps = 1e-6 * np.eye(function.dim)
        slopes = [(function(x + h) - function(x - h)) / 2e-6 for h in steps]
        np.testing.assert_allclose(function.gradient(x), slopes, rtol=1e-4, atol=1e-4)


def test_the_minimum_is_met_at_the_minimisers_and_nowhere_below(function: TestFunction) -> None:
    for x in function.minimisers:
        assert all(low <= v <= high for v, (low, high) in zip(x, function.bounds, strict=True))
        assert function(x) == pytest.approx(function.minimum, abs=1e-12)
        near = x + 1e-4 * np.random.default_rng(1).standard_normal((200, function.dim))
        near = np.clip(near, *np.array(function.bounds).T)
        assert function.values(near).min() >= function.minimum - 1e-12
    assert function.values(_points(function, 20_000)).min() >= function.minimum - 1e-12
    if function.nonnegative:
        assert function.minimum >= 0


def test_the_shift_uses_the_centre_alone_and_is_enough(function: TestFunction) -> None:
    shift = function.shift(function(function.centre))
    assert function.minimum + shift >= 0
    low, high = np.array(function.bounds).T
    half = np.linalg.norm(high - low) / 2
    assert shift == pytest.approx(function.lipschitz * half - function((low + high) / 2))


# Figures.


def _written(study: Any, folder: Path) -> tuple[str, Path]:
    study.run(folder)
    figures = folder / "figures"
    figures.mkdir()
    return study.show(folder, figures, figures), figures


@pytest.mark.parametrize("study", [figure2, figure3])
def test_figures_decide_their_claims_and_are_the_same_when_drawn_again(
    study: Any, tmp_path: Path
) -> None:
    text, figures = _written(study, tmp_path)
    name = study.__name__.rpartition(".")[2]
    first = {path.name: path.read_bytes() for path in figures.iterdir()}
    assert {f"{name}.svg", f"{name}.png", f"{name}.csv"} <= set(first)
    assert study.show(tmp_path, figures, figures) == text
    assert {path.name: path.read_bytes() for path in figures.iterdir()} == first
    evidence = Evidence(studies=study.evidence(tmp_path))
    claim = next(c for c in CLAIMS if c.id == {"figure2": "C4", "figure3": "C5"}[name])
    assert str(claim.judge(evidence).outcome) == "reproduced"
    with pytest.raises(ConfigError, match=name):
        study.run(tmp_path, overrides=["x=1"])


def test_the_majorant_is_lipschitz_above_f_and_the_smallest_such() -> None:
    x = np.linspace(0, 2, 401)
    f = np.sin(9 * x) + 0.3 * np.cos(31 * x)
    above = figure2.majorant(x, f, 3.0)
    brute = (f - 3.0 * np.abs(x[:, None] - x)).max(axis=1)
    np.testing.assert_allclose(above, brute, atol=1e-12)
    assert np.all(above >= f - 1e-12)
    assert np.abs(np.diff(above)).max() <= 3.0 * (x[1] - x[0]) * (1 + 1e-9)


def test_valleys_are_narrow_and_wide_relative_to_the_lipschitz_constant() -> None:
    kinds = [valley.kind for valley in figure2.VALLEYS]
    assert kinds.count("narrow") >= 3
    assert kinds.count("wide") >= 3
    for valley in figure2.VALLEYS:
        steepest = 8 / (3 * math.sqrt(3)) * valley.depth / valley.width
        wide = valley.kind == "wide"
        assert (steepest <= figure2.LIPSCHITZ) == wide
        # A slope of at most L cannot fall by more than wL from the rim.
        assert (valley.width * figure2.LIPSCHITZ / valley.depth <= FILLED) == (not wide)
        assert KEPT < 1


def test_figure3_loops_with_a_right_lipschitz_constant(tmp_path: Path) -> None:
    figure3.run(tmp_path)
    table = figure3.evidence(tmp_path)["loop"].set_index("solver")
    assert table.loc["Eq. 12", "nearest"] <= LOOP < table.loc["Algorithm 1", "nearest"]
    assert (table["lipschitz"] >= table["slope"]).all()
    starts = pd.read_csv(tmp_path / "starts.csv")
    assert starts["loop"].all()


def test_figure1_is_of_a_certified_run(tmp_path: Path) -> None:
    text, figures = _written(figure1, tmp_path)
    samples, coverings = figure1.read(tmp_path)
    last = samples.iloc[-1]
    assert (samples["lower_bound"] <= figure1.MINIMUM + 1e-9).all()
    assert (samples["f_min"] >= figure1.MINIMUM).all()
    assert last["f_min"] - last["lower_bound"] <= figure1.EPS + 1e-9
    assert coverings["rho"].is_monotonic_increasing
    assert (figures / "figure1.png").exists()
    assert f"{len(samples)} samples" in " ".join(text.split())
    x = np.random.default_rng(0).random((2000, 2))
    assert max(np.linalg.norm(figure1.gradient(v)) for v in x) <= figure1.LIPSCHITZ
    assert figure1.values(x).min() >= figure1.MINIMUM


# Comparators.


def test_adalipo_samples_potential_minimisers_of_the_running_slope() -> None:
    f = FUNCTIONS["Branin, D = 2"]
    found = minimize_adalipo(f, f.bounds, max_evals=60, seed=3, explore=0.0)
    grid = math.log1p(0.01 / 2)
    for n in range(2, 60):
        x, values = found.x[:n], found.f[:n]
        gaps = np.linalg.norm(x[:, None] - x, axis=2) + np.eye(n)
        slope = (np.abs(values[:, None] - values) / gaps).max()
        k = math.exp(grid * math.ceil(math.log(slope) / grid))
        bound = (values - k * np.linalg.norm(x - found.x[n], axis=1)).max()
        assert bound <= values.min() + 1e-9
    again = minimize_adalipo(f, f.bounds, max_evals=60, seed=3, explore=0.0)
    np.testing.assert_array_equal(found.x, again.x)


def test_adalipo_explores_uniformly_with_probability_one() -> None:
    f = sphere(2)
    found = minimize_adalipo(f, f.bounds, max_evals=4000, seed=0, explore=1.0)
    np.testing.assert_allclose(found.x.mean(axis=0), 0.5, atol=0.02)
    assert len(found.f) == 4000


def test_lipo_never_samples_where_no_minimum_can_be() -> None:
    f = sphere(1)
    found = minimize_adalipo(f, f.bounds, max_evals=100, seed=0, lipschitz=f.lipschitz, target=1e-3)
    for n in range(1, len(found.f)):
        x, values = found.x[:n, 0], found.f[:n]
        bound = (values - f.lipschitz * np.abs(x - found.x[n, 0])).max()
        assert bound <= values.min() + 1e-12
    assert found.f[-1] <= 1e-3 < found.f[:-1].min()


@pytest.mark.parametrize("name", ["Sphere, D = 2", "Ackley, D = 1", "Deb N.1, D = 1"])
def test_branch_and_bound_certifies(name: str) -> None:
    f = FUNCTIONS[name]
    found = minimize_branch_and_bound(f, f.bounds, f.lipschitz, eps=0.1, max_evals=5000)
    assert found.lower_bound <= f.minimum <= found.fun
    assert found.fun - found.lower_bound <= 0.1
    cut = minimize_branch_and_bound(f, f.bounds, f.lipschitz, eps=1e-6, max_evals=20)
    assert cut.nfev <= 20
    assert cut.lower_bound <= f.minimum <= cut.fun


def test_covering_is_told_from_almost_covering() -> None:
    square = np.array([[0.0, 1.0], [0.0, 1.0]])
    x = np.array([[0.25, 0.25], [0.25, 0.75], [0.75, 0.25], [0.75, 0.75]])
    exact = math.sqrt(2) / 4
    assert covers(x, np.full(4, exact * 1.01), square)
    assert not covers(x, np.full(4, exact * 0.99), square)
    assert not covers(x, np.array([exact * 1.01] * 3 + [-1.0]), square)


def test_samples_certify_as_soon_as_their_balls_cover() -> None:
    f = sphere(1)
    x = np.linspace(0, 1, 201)[:, None]
    values = f.values(x)
    eps = 0.05
    n = first_certified(x, values, f.lipschitz, np.array(f.bounds), eps)
    assert n is not None
    enough = [
        k
        for k in range(1, 202)
        if covers(x[:k], (values[:k] - values[:k].min() + eps) / f.lipschitz, np.array(f.bounds))
    ]
    assert enough[0] <= n <= 1.05 * enough[0] + 1
    assert first_certified(x[:10], values[:10], f.lipschitz, np.array(f.bounds), eps) is None


# The study.


def test_evaluations_are_counted_up_to_the_limit_and_the_target() -> None:
    f = sphere(1)
    counter = Counter(f, most=3)
    counter.fun(np.array([1.0]))
    counter.grad(np.array([1.0]))
    counter.fun(np.array([0.5]))
    with pytest.raises(Over):
        counter.fun(np.array([0.2]))
    assert (counter.nfev, counter.ngev) == (2, 1)
    assert counter.reached(f(np.array([0.5]))) == 3
    assert math.isnan(counter.reached(0.0))
    with pytest.raises(Over):
        Counter(f, most=3, target=1.0).fun(np.array([0.3]))


def test_a_run_ends_when_its_time_is_over() -> None:
    def work() -> None:
        with cpu_limit(0.02):
            while True:
                pass

    with pytest.raises(Over):
        work()


def test_every_method_finds_the_minimum_of_a_sphere() -> None:
    for method in finding.FINDERS:
        found = finding.find(sphere(1), method, 1)
        assert found["end"] == "target", method
        assert found["to_90"] <= found["to_95"] <= found["to_99"] <= found["nfev"] + found["ngev"]


def test_levels_are_parts_of_the_way_from_the_mean_to_the_minimum() -> None:
    f = sphere(2)
    mean = 2 * (1 / 3 - math.pi / 16 + (math.pi / 16) ** 2)
    assert finding.level(f, 0.0) == pytest.approx(mean, rel=1e-4)
    assert finding.level(f, 0.99) == pytest.approx(0.01 * mean, rel=1e-4)


@pytest.mark.parametrize("method", certifying.CERTIFIERS)
def test_every_method_certifies_in_one_dimension(method: str) -> None:
    found = certifying.certify(deb(1), 0.5, method, 0)
    assert found["gap"] <= 1 + 1e-9
    assert found["ngev"] == 0 or method == "Algorithm 1"


def test_the_study_resumes_decides_and_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = (sphere(1), FUNCTIONS["Ackley, D = 1"], FUNCTIONS["Branin, D = 2"])
    monkeypatch.setattr(samplers, "all_functions", lambda: few)
    monkeypatch.setattr(certifying, "GAPS", {1: (0.5,)})
    monkeypatch.setattr(samplers, "CERTIFIED_SEEDS", (0,))
    samplers.run(tmp_path, seeds=(0, 1))
    found = pd.read_csv(tmp_path / samplers.FOUND)
    assert len(found) == 3 * (6 * 2 + 2)
    records = (tmp_path / samplers.FOUND).read_text(), (tmp_path / samplers.CERTIFIED).read_text()
    with monkeypatch.context() as patched:
        patched.setattr(samplers, "write_meta", None)  # nothing is computed, and nothing signed
        samplers.run(tmp_path, seeds=(0, 1))
    assert (tmp_path / samplers.FOUND).read_text() == records[0]
    found.iloc[:-3].to_csv(tmp_path / samplers.FOUND, index=False)
    samplers.run(tmp_path, seeds=(0, 1))
    again = pd.read_csv(tmp_path / samplers.FOUND)
    columns = [c for c in found.columns if c != "seconds"]
    pd.testing.assert_frame_equal(again[columns], found[columns])

    table = samplers.evidence(tmp_path)["samplers"]
    assert list(table.columns) == ["function", "gradient", "uniform"]
    assert len(table) == 3
    gradients = samplers.evidence(tmp_path)["gradients"]
    assert list(gradients.columns) == list(GRADIENTS.columns)
    assert gradients["family"].unique().tolist() == ["Sphere", "Ackley", "Branin"]
    # A part of the runs without would decide C3 by fewer seeds, or families.
    without = pd.read_csv(tmp_path / samplers.WITHOUT)
    without[:-1].to_csv(tmp_path / samplers.WITHOUT, index=False)
    assert "gradients" not in samplers.evidence(tmp_path)
    (tmp_path / samplers.WITHOUT).unlink()
    assert "gradients" not in samplers.evidence(tmp_path)
    text = samplers.show(tmp_path, tmp_path, tmp_path)
    assert text == samplers.show(tmp_path, tmp_path, tmp_path)
    for name in ("samplers", "samplers_evaluations", "samplers_certificates"):
        assert all((tmp_path / f"{name}.{kind}").exists() for kind in ("csv", "md", "tex"))
    assert (tmp_path / "samplers.svg").exists()
    assert "Sphere, D = 1" in text
    with pytest.raises(ConfigError, match="samplers"):
        samplers.run(tmp_path, overrides=["x=1"])


def test_evaluations_with_and_without_gradients_by_hand() -> None:
    """Medians over seeds; what was never reached counts with the limit."""
    columns = ["function", "seed", "to_90", "to_95", "to_99"]
    ours = [("Deb N.1, D = 2", 0, 2, 9, 30), ("Deb N.1, D = 2", 1, 4, 9, 31)]
    without = [("Deb N.1, D = 2", 0, 5, 9, np.nan), ("Deb N.1, D = 2", 1, 5, 8, np.nan)]
    found = samplers.with_and_without(*(pd.DataFrame(r, columns=columns) for r in (ours, without)))
    assert found.to_numpy().tolist() == [
        ["Deb N.1", 90, 3.0, 5.0],
        ["Deb N.1", 95, 9.0, 8.5],
        ["Deb N.1", 99, 30.5, 1000.0],
    ]


def test_the_widget_asks_nothing_of_the_network() -> None:
    html = widget()
    assert "<canvas" in html
    assert html.count('type="range"') == 4
    for word in ("http:", "https:", "src=", "@import", "url(", "fetch(", "import("):
        assert word not in html
