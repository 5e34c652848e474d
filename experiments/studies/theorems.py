"""The theorems as experiments: is each statement true on random functions with known minimum?

On every function Algorithm 1 runs with a certificate and as printed, and Eq. 12 walks without a box
for three values of ρ. A statement is asked of all of them; where its premise is true at some step,
it holds if its conclusion is true at each of these steps.
"""

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import OptimizeResult

from bpgrad.branch_prune import Status, minimize, minimize_cheap
from bpgrad.errors import ConfigError
from bpgrad.records.files import write_text
from experiments.engine.studies import write_meta
from experiments.studies.functions import (
    Array,
    Function,
    late_raise,
    one_ball,
    random_functions,
    right_angle,
)

EPS = {1: 0.01, 2: 0.05, 3: 0.2}  # the gap to certify, by dimension
RHOS = (0.0, 0.1, 0.5)  # of the walks
WALK = 12  # evaluations of a walk
POINTS = 200  # random points of a box or a ball
LATE_RAISE = (0.0, 0.95, 0.99)  # the values of ρ with which the printed loop is refuted
ROUNDING = 1e-9  # smaller differences are not looked at
PREMISE = 0.05  # the least part of the functions on which a premise must be true

RECORD = "statements.csv"

#: True and false: the premise at some step, the conclusion at each of these.
Outcome = tuple[bool, bool]


@dataclass(frozen=True)
class Walk:
    """Steps of Eq. 12 with a constant ρ: T samples, the step from the last of them not taken."""

    rho: float
    found: OptimizeResult

    @functools.cached_property
    def steps(self) -> "list[Step]":
        """The steps that have a past: from the second sample on."""
        return [Step(self, t) for t in range(1, len(self.found.path_values) - 1)]


class Step:
    """The step from sample t (from 0) of a walk to the next, in the notation of Theorem 3.

    Attributes:
        threshold: ρ m_t with the m of that time.
        eta: r_t = η_t.
        radii: r_i of the earlier samples, (t,).
        away: D_i = ‖x_i − x_t‖, (t,).
        inner: ⟨x_i − x_t, d_t⟩, (t,).
        new_minimum: whether f(x_t) is below all earlier values.
    """

    def __init__(self, walk: Walk, t: int) -> None:
        path, values = walk.found.path, walk.found.path_values
        self.walk = walk
        self.t = t
        self.lipschitz = walk.found.lipschitz
        self.threshold = walk.rho * walk.found.f_min[t]
        self.eta = float(walk.found.steps[t])
        self.radii = (values[:t] - self.threshold) / self.lipschitz
        offsets = path[:t] - path[t]
        self.away = np.linalg.norm(offsets, axis=1)
        self.inner = offsets @ walk.found.directions[t]
        self.room = np.linalg.norm(path[:t] - path[t + 1], axis=1) - self.radii
        self.directions = walk.found.directions[: t + 1]

    @property
    def admissible(self) -> bool:
        """Eq. 4 for the next sample, but for rounding."""
        return bool(np.all(self.room >= -ROUNDING))

    @property
    def inside(self) -> bool:
        """Whether the next sample is in a ball, and not by rounding."""
        return bool(np.any(self.room < -ROUNDING))

    @property
    def ahead(self) -> bool:
        """(13): ⟨x_i − x_t, d_t⟩ ≥ 0 for all i < t."""
        return bool(np.all(self.inner >= 0.0))

    @property
    def far(self) -> bool:
        """The second condition of Theorem 3: D_i² + r_t² ≥ r_i² for all i < t."""
        return bool(np.all(self.away**2 + self.eta**2 >= self.radii**2))

    @property
    def exact(self) -> Array:
        """By how much the exact condition of Theorem 3 holds, (t,)."""
        right = self.radii**2 - self.eta**2 - self.away**2
        return np.asarray(2.0 * self.eta * self.inner - right)

    @property
    def turns_little(self) -> bool:
        """(15): ⟨d_i, d_j⟩ ≥ 0 for all i < j ≤ t."""
        return bool(np.all(self.directions @ self.directions.T >= 0.0))

    @property
    def one_direction(self) -> bool:
        """Whether d_1 = … = d_t."""
        return bool(np.all(np.abs(self.directions - self.directions[0]) <= 1e-12))

    @property
    def long(self) -> bool:
        """The condition that makes (15) enough: Σ_{k=i}^t η_k² ≥ r_i² for all i."""
        squares = self.walk.found.steps[: self.t + 1] ** 2
        return bool(np.all(np.cumsum(squares[::-1])[::-1][:-1] >= self.radii**2))


@dataclass(frozen=True)
class Trial:
    """A function with Algorithm 1's searches and Eq. 12's walks on it."""

    function: Function
    eps: float
    certified: OptimizeResult
    printed: OptimizeResult
    walks: tuple[Walk, ...]

    @classmethod
    def of(cls, function: Function, seed: int = 0) -> "Trial":
        """Run them."""
        f, eps = function, EPS[function.dim]
        where = (f, f.gradient, f.bounds, f.lipschitz)
        walks = []
        for rho in RHOS:
            found = minimize_cheap(
                *where, rho=rho, max_evals=WALK, clip=False, seed=seed, x0=f.start
            )
            found.lipschitz = f.lipschitz
            walks.append(Walk(rho, found))
        rhos = LATE_RAISE if f.name == late_raise().name else None
        return cls(
            f,
            eps,
            minimize(*where, eps=eps, seed=seed, x0=f.start),
            minimize(*where, eps=eps, seed=seed, x0=f.start, stopping="paper", rho_schedule=rhos),
            tuple(walks),
        )

    @property
    def steps(self) -> list[Step]:
        """The steps of all walks."""
        return list(chain.from_iterable(walk.steps for walk in self.walks))

    @property
    def coverings(self) -> list[tuple[int, float, float]]:
        """Number of samples, ρ and m whenever X was found covered with ρ > 0."""
        rows = self.certified.history.coverings
        return [(int(n), rho, m) for n, rho, m, _ in rows if rho > 0.0]

    def points(self) -> Array:
        """Corners of the box and random points of it, (n, D)."""
        bounds = np.array(self.function.bounds)
        rng = np.random.default_rng(0)
        corners = np.stack(np.meshgrid(*bounds, indexing="ij"), axis=-1).reshape(-1, len(bounds))
        inner = rng.uniform(bounds[:, 0], bounds[:, 1], (POINTS, len(bounds)))
        return np.concatenate([corners, inner])


def _each(steps: Iterable[Step], premise: str, conclusion: Callable[[Step], bool]) -> Outcome:
    """Whether any step has the premise, a property of it, and all of these the conclusion."""
    which = [step for step in steps if getattr(step, premise)]
    return bool(which), all(conclusion(step) for step in which)


# Bounds.


def theorem_1(trial: Trial) -> Outcome:
    """X covered at ρ > 0 ⇒ ρm ≤ f* ≤ m."""
    f_star = trial.function.minimum
    bounds = [(rho * m, m) for _, rho, m in trial.coverings]
    slack = trial.certified.lipschitz * trial.certified.resolution + ROUNDING
    return bool(bounds), all(low - slack <= f_star <= high + ROUNDING for low, high in bounds)


def covered(trial: Trial) -> Outcome:
    """X found covered ⇒ corners and random points are in closed balls, up to the resolution."""
    history, lipschitz = trial.certified.history, trial.function.lipschitz
    slack = lipschitz * trial.certified.resolution + ROUNDING
    points = trial.points()
    held = True
    for n, rho, m in trial.coverings:
        away = np.linalg.norm(points[:, None] - history.x[:n], axis=2)
        envelope = (history.f[:n] - lipschitz * away).max(axis=1)
        held &= bool(np.all(envelope >= rho * m - slack))
    return bool(trial.coverings), held


def corollary_1(trial: Trial) -> Outcome:
    """X covered at ρ and (1 − ρ)m ≤ ε at the same ρ ⇒ m − f* ≤ ε."""
    errors = [
        m - trial.function.minimum for _, rho, m in trial.coverings if (1.0 - rho) * m <= trial.eps
    ]
    return bool(errors), all(error <= trial.eps + ROUNDING for error in errors)


def certified_loop(trial: Trial) -> Outcome:
    """The search ends with success ⇒ m − f* ≤ ε; and its bound is valid after every sample."""
    found, f_star = trial.certified, trial.function.minimum
    valid = bool(np.all(found.history.lower_bound <= f_star)) and found.lower_bound <= f_star
    return bool(found.success), valid and found.fun - f_star <= trial.eps


def printed_loop(trial: Trial) -> Outcome:
    """The printed loop ends with m > ε, (1 − ρ)m ≤ ε ⇒ m − f* ≤ ε."""
    found = trial.printed
    stopped = found.status == Status.PAPER_RULE and found.fun > trial.eps
    return bool(stopped), found.fun - trial.function.minimum <= trial.eps


# The number of samples.


def _stages(trial: Trial) -> list[tuple[int, float, float]]:
    """Samples T, the greatest ρ with which they were looked for, and m_T: up to each covering.

    Samples with m ≤ ε are left out: there the search ends for another reason.
    """
    history = trial.certified.history
    counts = [*history.coverings[:, 0].astype(int), len(history.f)]
    counts = [n for n in counts if history.f_min[n - 1] > trial.eps]
    return [(n, float(history.rho[:n].max()), float(history.f_min[n - 1])) for n in counts]


def _ball(dim: int, radius: float) -> float:
    return float(math.pi ** (dim / 2) / math.gamma(dim / 2 + 1) * radius**dim)


def theorem_2(trial: Trial) -> Outcome:
    """‖x_i − x_j‖ ≥ 2r = (1 − ρ_max)m/L, and T ≤ Π(s_k + 2r)/(ω_D r^D)."""
    sides = np.diff(np.array(trial.function.bounds)).ravel()
    held = True
    for count, rho, m in _stages(trial):
        x = trial.certified.history.x[:count]
        r = (1.0 - rho) * m / (2.0 * trial.function.lipschitz)
        i, j = np.triu_indices(count, 1)
        apart = np.linalg.norm(x[i] - x[j], axis=1)
        held &= bool(np.all(apart >= 2.0 * r - ROUNDING))
        held &= count <= float(np.prod(sides + 2.0 * r)) / _ball(len(sides), r)
    return bool(_stages(trial)), held


def equation_9(trial: Trial) -> Outcome:
    """T ≤ Vol(X)/ω_D · (2L/((1 − ρ_max) f*))^D, with f* for f_min as the most it can allow."""
    f_star = trial.function.minimum
    stages = _stages(trial) if f_star > 0.0 else []
    sides = np.diff(np.array(trial.function.bounds)).ravel()
    radii = [(1.0 - rho) * f_star / (2.0 * trial.function.lipschitz) for _, rho, _ in stages]
    most = [float(np.prod(sides)) / _ball(len(sides), r) for r in radii]
    return bool(stages), all(stage[0] <= n for stage, n in zip(stages, most, strict=True))


# Steps.


def _smaller_steps(trial: Trial, lowest: bool) -> Outcome:
    """‖x* − x_t‖ ≥ η_t where f* ≤ ρ m_t (``lowest``), or where that is not so."""
    f_star, x_star = trial.function.minimum, trial.function.minimiser
    seen, held = False, True
    for walk in trial.walks:
        away = np.linalg.norm(walk.found.path - x_star, axis=1)
        which = (f_star <= walk.rho * walk.found.f_min) == lowest
        seen |= bool(which.any())
        held &= bool(np.all(away[which] >= walk.found.steps[which] - ROUNDING))
    return seen, held


def no_smaller_step(trial: Trial) -> Outcome:
    """f* ≤ ρ m_t ⇒ ‖x* − x_t‖ ≥ η_t."""
    return _smaller_steps(trial, lowest=True)


def no_smaller_step_ever(trial: Trial) -> Outcome:
    """f* > ρ m_t ⇒ ‖x* − x_t‖ ≥ η_t."""
    return _smaller_steps(trial, lowest=False)


def removed(trial: Trial) -> Outcome:
    """‖x − x_t‖ < η_t ⇒ f(x) > ρ m_t, at random points x."""
    rng = np.random.default_rng(0)
    seen, held = False, True
    for walk in trial.walks:
        for t, eta in enumerate(walk.found.steps):
            if eta <= ROUNDING:
                continue
            away = rng.standard_normal((POINTS // WALK, trial.function.dim))
            away /= np.linalg.norm(away, axis=1, keepdims=True)
            away *= 0.999 * eta * rng.uniform(size=(len(away), 1)) ** (1 / trial.function.dim)
            values = trial.function.values(walk.found.path[t] + away)
            seen = True
            held &= bool(np.all(values > walk.rho * walk.found.f_min[t]))
    return seen, held


def theorem_3_printed(trial: Trial) -> Outcome:
    """(13) ⇒ Eq. 4."""
    return _each(trial.steps, "ahead", lambda step: not step.inside)


def theorem_3_at_zero(trial: Trial) -> Outcome:
    """(13) so far, ρ = 0 ⇒ Eq. 4."""
    so_far = []
    for walk in trial.walks:
        for step in walk.steps if walk.rho == 0.0 else ():
            if not step.ahead:
                break
            so_far.append(step)
    return bool(so_far), all(step.admissible for step in so_far)


def theorem_3_sufficient(trial: Trial) -> Outcome:
    """(13) and D_i² + r_t² ≥ r_i² ⇒ Eq. 4."""
    steps = [step for step in trial.steps if step.ahead]
    return _each(steps, "far", lambda step: step.admissible)


def theorem_3_if(trial: Trial) -> Outcome:
    """2r_t ⟨x_i − x_t, d_t⟩ ≥ r_i² − r_t² − D_i² for all i < t ⇒ Eq. 4."""
    steps = [step for step in trial.steps if np.all(step.exact >= 0.0)]
    return bool(steps), all(step.admissible for step in steps)


def theorem_3_only_if(trial: Trial) -> Outcome:
    """Not so for some i ⇒ not Eq. 4."""
    steps = [step for step in trial.steps if np.any(step.exact < -ROUNDING)]
    return bool(steps), all(bool(np.any(step.room < 0.0)) for step in steps)


def corollary_2_printed(trial: Trial) -> Outcome:
    """(15) ⇒ Eq. 4."""
    return _each(trial.steps, "turns_little", lambda step: not step.inside)


def corollary_2_implies_13(trial: Trial) -> Outcome:
    """(15) ⇒ (13)."""
    return _each(trial.steps, "turns_little", lambda step: bool(np.all(step.inner >= -ROUNDING)))


def corollary_2(trial: Trial) -> Outcome:
    """(15) and Σ_{k=i}^t η_k² ≥ r_i² for all i ⇒ Eq. 4."""
    steps = [step for step in trial.steps if step.long]
    return _each(steps, "turns_little", lambda step: step.admissible)


def one_direction(trial: Trial) -> Outcome:
    """d_1 = … = d_t, ρ > 0 ⇒ Eq. 4."""
    steps = [step for step in trial.steps if step.walk.rho > 0.0]
    return _each(steps, "one_direction", lambda step: step.admissible)


@dataclass(frozen=True)
class Statement:
    """A row of the table: its name, whether it stands so in the paper, and its check."""

    name: str
    printed: bool
    check: Callable[[Trial], Outcome]

    @property
    def formula(self) -> str:
        """Premise ⇒ conclusion."""
        return (self.check.__doc__ or "").rstrip(".")


#: The printed ones have the names that the claim C2 looks for.
STATEMENTS = (
    Statement("Theorem 1", True, theorem_1),
    Statement("the covering is one", False, covered),
    Statement("Corollary 1", True, corollary_1),
    Statement("the loop of Algorithm 1", True, printed_loop),
    Statement("the certified loop", False, certified_loop),
    Statement("Theorem 2", True, equation_9),
    Statement("Theorem 2, corrected", False, theorem_2),
    Statement("no smaller step reaches the optimum", True, no_smaller_step),
    Statement("the same where f* > ρm", False, no_smaller_step_ever),
    Statement("no smaller step gets to ρm", False, removed),
    Statement("Theorem 3", True, theorem_3_printed),
    Statement("Theorem 3 at ρ = 0", False, theorem_3_at_zero),
    Statement("Theorem 3, sufficient", False, theorem_3_sufficient),
    Statement("Theorem 3, exact: if", False, theorem_3_if),
    Statement("Theorem 3, exact: only if", False, theorem_3_only_if),
    Statement("Corollary 2", True, corollary_2_printed),
    Statement("Corollary 2: (15) gives (13)", False, corollary_2_implies_13),
    Statement("Corollary 2, corrected", False, corollary_2),
    Statement("Corollary 2, one direction", False, one_direction),
)


def counterexamples() -> tuple[Function, ...]:
    """The functions with which the corrections refute printed statements."""
    return late_raise(), one_ball(), right_angle()


def trials(functions: Iterable[Function]) -> list[Trial]:
    """Everything that is to be run."""
    return [Trial.of(function, seed) for seed, function in enumerate(functions)]


def table(runs: Sequence[Trial]) -> pd.DataFrame:
    """A row a statement: on how many functions its premise was true, and on how many it held."""
    rows = []
    for statement in STATEMENTS:
        outcomes = [(trial.function.name, *statement.check(trial)) for trial in runs]
        premise = [(name, held) for name, seen, held in outcomes if seen]
        failed = [name for name, held in premise if not held]
        rows.append(
            {
                "statement": statement.name,
                "printed": statement.printed,
                "formula": statement.formula,
                "functions": len(runs),
                "premise": len(premise),
                "held": len(premise) - len(failed),
                "fails_on": failed[0] if failed else "",
                "counterexample": next((f.name for f in counterexamples() if f.name in failed), ""),
            }
        )
    return pd.DataFrame(rows)


# The study.


def run(folder: Path, *, seeds: Sequence[int] = (), overrides: Sequence[str] = ()) -> None:
    """Compute the table and write it into ``folder``, unless it is there; two minutes a seed.

    Args:
        folder: of the records.
        seeds: each draws as many functions; 0 if empty.
        overrides: there are no settings; any is refused.

    Raises:
        ConfigError: for an override.
    """
    if overrides:
        raise ConfigError(f"theorems: there is nothing to set, unlike {' '.join(overrides)}")
    drawn = [function for seed in seeds or (0,) for function in random_functions(seed)]
    functions = [*drawn, *counterexamples()]
    path = folder / RECORD
    if path.exists() and set(pd.read_csv(path)["functions"]) == {len(functions)}:
        return
    write_text(path, table(trials(functions)).to_csv(index=False))
    write_meta(folder)


def show(folder: Path, figures: Path, tables: Path) -> str:
    """The table as files, and the text of the section."""
    rows = pd.read_csv(folder / RECORD, keep_default_na=False)
    shown = pd.DataFrame(
        {
            "statement": rows["statement"],
            "as printed": np.where(rows["printed"], "yes", ""),
            "premise true": [
                f"{p} of {n}" for p, n in zip(rows["premise"], rows["functions"], strict=True)
            ],
            "held": rows["held"],
            "fails on": rows["counterexample"].where(
                rows["counterexample"] != "", rows["fails_on"]
            ),
            "what is checked": rows["formula"],
        }
    )
    write_text(tables / "theorems.csv", shown.to_csv(index=False))
    write_text(tables / "theorems.md", markdown(shown))
    write_text(tables / "theorems.tex", shown.iloc[:, :5].to_latex(index=False, escape=True))
    false = rows[rows["printed"] & (rows["held"] < rows["premise"])]["statement"]
    mended = rows[~rows["printed"] & (rows["held"] < rows["premise"])]["statement"]
    rare = rows[rows["premise"] < PREMISE * rows["functions"]]["statement"]
    return "\n\n".join(
        (
            f"Each statement on {rows['functions'].iloc[0]} functions with proven L and known "
            f"minimum: random cones, max-affine functions and sums of features in one, two and "
            f"three dimensions, and {len(counterexamples())} counterexamples to printed "
            "statements, which are counted too. A statement's premise counts as true on a function "
            "if it is so at some step, and the statement holds there if its conclusion is true at "
            "all of these.",
            markdown(shown),
            "The formulas of Eq. 9, Theorem 3 and Corollary 2 are reconstructed. Printed "
            f"statements that fail: {_listed(false)}. Others that fail: {_listed(mended)}. Premise "
            f"true on fewer than {PREMISE:.0%} of the functions: {_listed(rare)}. Every failure is "
            "explained, with its counterexample and what holds instead, in "
            "[docs/corrections.md](../docs/corrections.md).",
        )
    )


def evidence(folder: Path) -> dict[str, pd.DataFrame]:
    """The table for claim C2: statements as printed under their names, the others beside them."""
    rows = pd.read_csv(folder / RECORD, keep_default_na=False)
    return {"theorems": rows[["statement", "functions", "premise", "held"]]}


def markdown(rows: pd.DataFrame) -> str:
    """A table of text in Markdown."""
    lines = [list(rows.columns), ["---"] * len(rows.columns), *rows.astype(str).values.tolist()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _listed(names: pd.Series) -> str:
    return ", ".join(names) if len(names) else "none"
