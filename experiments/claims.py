"""The paper's claims (reference, section 8.4), each as a named check over runs and studies.

A check looks for the runs it needs by experiment, task and solver label, as the declarations in
this folder name them, or for the table of a study; where it finds none it says what is missing.
The thresholds of the reference stand first; they were fixed before any run. Those that it leaves
open are ours, and were written while the first runs were under way.

The value of a run is that of its last epoch unless a claim says otherwise. "Best" is BPGrad against
every competitor by itself; where a claim is about the best competitor, that is the one with the
best mean over seeds, and the choice is paid for: Holm counts every solver of the column.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from bpgrad.errors import RecordError
from bpgrad.reporting.runs import Comparison, Run
from bpgrad.reporting.statistics import BySeed, by_seed, summarise
from bpgrad.reporting.style import task_title
from bpgrad.reporting.verdicts import (
    Inequality,
    Number,
    Property,
    Verdict,
    all_of,
    between,
    decide,
    decide_properties,
    difference,
    lower,
    not_run,
    within_tolerance,
)

PAPER_VALUES = Path(__file__).parent / "paper_values.csv"

# Thresholds of the reference.
SLIGHTLY = 2.0  # points of test error
COMPETITIVE = 1.2  # times the best objective
MUCH = 1.5  # times lower
EQUAL_MAP = 0.5  # points
MARGIN = 3.2  # points of ImageNet top-1 error below RMSProp
EQ4_TOLERANCE = 1e-6  # times max(f, 1)
FIRST_EPOCHS = 5
EVE_EPOCHS = 20
FLUCTUATION_EPOCHS = 10

# Thresholds of our own, where the reference says what is measured but not where the line is.
MARGIN_TOLERANCE = 1.0  # points, as of a single value of Table 1
STEP_RATIO_TOLERANCE = 0.1  # relative: how far f_1 of MNIST and CIFAR-10 may be apart
CLUSTERED = 0.1  # of the descent from the start to the best objective
FILLED, KEPT = 0.1, 0.9  # shares of a valley's depth that are left of a narrow, of a wide one
LOOP = 1e-9  # distance to a point of the own history
RARELY = 0.1  # of the pairs
PREMISE = 0.05  # share of the functions on which a theorem's premise must have been true
WORKS = 10.0  # points of mAP that a solver may stay below Adagrad and still be said to work
CHANCE = 90.0  # error of guessing among ten classes, which a diverged run of a sweep counts with

BPGRAD, NO_MOMENTUM = "BPGrad, μ = 0.9", "BPGrad, μ = 0"
COMPETITORS = ("Adagrad", "Adadelta", "RMSProp", "Adam")
FIGURE5_L = {"mnist": (10.0, 15.0, 50.0, 100.0), "cifar10": (50.0, 100.0, 500.0, 1000.0)}
MOMENTA = (0.0, 0.25, 0.5, 0.75, 0.9, 0.99)
STATEMENTS = (
    *("Theorem 1", "Theorem 2", "Theorem 3", "Corollary 1", "Corollary 2"),
    "no smaller step reaches the optimum",
)
VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)

Of = Callable[[Run], float]
Columns = dict[str, dict[int, float]]  # by solver, by seed


@dataclass(frozen=True)
class Runs:
    """The runs of some solvers in an experiment on a task; the first solver is the one judged."""

    experiment: str
    task: str
    solvers: tuple[str, ...]


@dataclass(frozen=True)
class Study:
    """The result of a study that is not a comparison of training runs: a table."""

    name: str
    columns: tuple[str, ...]


@dataclass(frozen=True)
class Evidence:
    """All that checks may look at.

    `comparisons` holds the runs by experiment and task, `seeds` the planned seeds as the experiment
    declares them (for a study: if it has any), `studies` the tables by name.
    """

    comparisons: Mapping[tuple[str, str], Comparison] = field(default_factory=dict)
    seeds: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    studies: Mapping[str, pd.DataFrame] = field(default_factory=dict)

    def runs(self, experiment: str, task: str, solver: str) -> list[Run]:
        """The runs of a solver, of the planned seeds; finished, cut short or never started.

        Raises RecordError for runs that are not of the paper's size.
        """
        comparison = self.comparisons.get((experiment, task))
        runs = () if comparison is None else comparison.runs
        found = [r for r in runs if r.solver == solver and r.seed in self.seeds[experiment]]
        for run in found:
            scale = run.config.get("scale", {}).get("name", "paper")
            if scale != "paper":
                raise RecordError(
                    f"{run.directory} is of scale={scale}; the paper's claims are judged by runs "
                    "of scale=paper only"
                )
        return found

    def columns(self, runs: Runs, of: Of) -> Columns:
        """A value of every finished run."""
        return {
            solver: by_seed(
                (
                    (run.seed, of(run))
                    for run in self.runs(runs.experiment, runs.task, solver)
                    if run.finished
                ),
                f"{solver} in {runs.experiment} on {runs.task}",
            )
            for solver in runs.solvers
        }

    def family(self, runs: Runs) -> int:
        """The number of comparisons in a column of the experiment's table."""
        return max(1, len(self.comparisons[runs.experiment, runs.task].solvers) - 1)

    def missing(self, need: Runs | Study) -> str:
        """What there is nothing of, in words; empty if there is something of everything.

        Raises RecordError for the table of a study that lacks a column.
        """
        if isinstance(need, Study):
            table = self.studies.get(need.name)
            if table is None or table.empty:
                return f"the study {need.name}"
            if lacking := [name for name in need.columns if name not in table.columns]:
                raise RecordError(f"study {need.name}: has no column {', '.join(lacking)}")
            return ""
        waiting = []
        for solver in need.solvers:
            runs = self.runs(need.experiment, need.task, solver)
            if not any(run.finished for run in runs):
                state = runs[0].state if runs else "not run"
                waiting.append(solver if state == "not run" else f"{solver} ({state})")
        return f"{need.experiment} on {need.task}: {', '.join(waiting)}" if waiting else ""


@dataclass(frozen=True)
class Claim:
    """A claim of the paper: its id in the reference, what it says, and how it is decided.

    `sweep` is an experiment over whose settings it looks, whatever they are.
    """

    id: str
    text: str
    rule: str
    needs: tuple[Runs | Study, ...]
    check: Callable[[Evidence], Verdict]
    sweep: str = ""

    def judge(self, evidence: Evidence) -> Verdict:
        """The verdict; not run if there is nothing at all of something that the claim needs."""
        missing = [words for need in self.needs if (words := evidence.missing(need))]
        return not_run("; ".join(missing)) if missing else self.check(evidence)


# Values of a run.


def last(column: str) -> Of:
    """The value of the last epoch."""
    return lambda run: float(_column(run, column)[-1])


def early(column: str) -> Of:
    """The mean over the first five epochs."""
    return lambda run: float(_column(run, column)[:FIRST_EPOCHS].mean())


def fluctuation(column: str, epochs: int) -> Of:
    """The standard deviation over the last epochs.

    Raises RecordError, when called, for a run with fewer epochs.
    """

    def of(run: Run) -> float:
        values = _column(run, column)
        if len(values) < epochs:
            raise RecordError(f"{run.directory}: has {len(values)} epochs, {epochs} are needed")
        return float(values[-epochs:].std(ddof=1))

    return of


def average(*columns: str) -> Of:
    """The mean of several values of the last epoch."""
    return lambda run: float(np.mean([last(column)(run) for column in columns]))


def _column(run: Run, column: str) -> np.ndarray:
    if column not in run.rows.columns:
        raise RecordError(f"{run.directory}/metrics.csv: has no column {column}")
    return run.rows[column].to_numpy(dtype=np.float64)


SEGMENTATION_SCORES = ("val_mean_iu", "val_pixel_accuracy", "val_mean_accuracy")
DERIVED: Mapping[str, Of] = {"val_average": average(*SEGMENTATION_SCORES)}  # not in the records


# Inequalities that several claims share.


def beats_all(
    evidence: Evidence,
    runs: Runs,
    what: str,
    of: Of,
    *,
    factor: float = 1.0,
    higher_is_better: bool = False,
) -> list[Inequality]:
    """The first solver is better than each other by itself; `factor` times lower, if given."""
    columns, column = evidence.columns(runs, of), f"{what} on {task_title(runs.task)}"
    first, *others = runs.solvers
    family = evidence.family(runs)
    if higher_is_better:
        return [
            lower(f"{column}: {o} < {first}", columns[o], columns[first], column, family=family)
            for o in others
        ]
    times = "" if factor == 1 else f"{factor:g} × "
    return [
        lower(
            f"{column}: {times}{first} < {other}",
            *(columns[first], columns[other], column),
            factor=factor,
            family=family,
        )
        for other in others
    ]


def best_other(columns: Mapping[str, BySeed], *, higher_is_better: bool = False) -> str:
    """The solver with the best mean, but for the first."""
    sign = -1.0 if higher_is_better else 1.0
    others = list(columns)[1:]
    return min(others, key=lambda solver: _or_last(sign * summarise(columns[solver]).mean))


def _or_last(value: float) -> float:
    return math.inf if math.isnan(value) else value


# The checks, in the order of the claims.


def c1(evidence: Evidence) -> Verdict:
    """Check the composite of C10 to C20."""
    parts = [claim for claim in CLAIMS if 10 <= int(claim.id.removeprefix("C")) <= 20]
    return all_of([(claim.id, claim.judge(evidence)) for claim in parts])


THEOREMS = Study("theorems", ("statement", "functions", "premise", "held"))


def c2(evidence: Evidence) -> Verdict:
    """Each statement held on every random function on which its premise was true."""
    table = evidence.studies[THEOREMS.name].set_index("statement").to_dict("index")
    if lacking := [name for name in STATEMENTS if name not in table]:
        return not_run(f"the study {THEOREMS.name}: {', '.join(lacking)}")
    properties = []
    for name in STATEMENTS:
        functions, premise, held = (int(table[name][c]) for c in THEOREMS.columns[1:])
        holds = held == premise if premise >= PREMISE * functions and premise else None
        share = held / premise if premise else math.nan
        # One counterexample is enough, however rare the premise.
        holds = False if held < premise else holds
        properties.append(Property(f"{name} holds (share)", share, holds, premise))
    return decide_properties(properties)


SAMPLERS = Study("samplers", ("function", "gradient", "uniform"))


def c3(evidence: Evidence) -> Verdict:
    """Compare the evaluations to equal accuracy, by the logarithm, paired by test function."""
    table = evidence.studies[SAMPLERS.name]
    gradient, uniform = (
        by_seed(zip(table["function"], np.log(table[column]), strict=True), SAMPLERS.name)
        for column in SAMPLERS.columns[1:]
    )
    text = "log of the evaluations to equal accuracy: gradient < uniform"
    verdict = decide([lower(text, gradient, uniform, "evaluations")], set(table["function"]))
    return replace(verdict, sentence=f"{verdict.sentence} n counts test functions.")


SMOOTHING = Study("smoothing", ("valley", "before", "after"))


def c4(evidence: Evidence) -> Verdict:
    """Narrow valleys are filled, wide ones are kept."""
    properties = []
    for valley, before, after in evidence.studies[SMOOTHING.name][[*SMOOTHING.columns]].itertuples(
        index=False
    ):
        left = after / before
        narrow = valley == "narrow"
        holds = left <= FILLED if narrow else left >= KEPT
        properties.append(
            Property(f"depth left of a {valley} valley", left, _known(bool(holds), left))
        )
    kinds = set(evidence.studies[SMOOTHING.name]["valley"])
    if lacking := sorted({"narrow", "wide"} - kinds):
        return not_run(f"the study {SMOOTHING.name}: a {lacking[0]} valley")
    return decide_properties(properties)


LOOPS = Study("loop", ("solver", "nearest", "lipschitz", "slope"))


def c5(evidence: Evidence) -> Verdict:
    """Eq. 12 comes back to a point of its own history, with a right L, and Algorithm 1 does not."""
    table = evidence.studies[LOOPS.name].set_index("solver").to_dict("index")
    properties = []
    for solver, loops in (("Eq. 12", True), ("Algorithm 1", False)):
        if solver not in table:
            return not_run(f"the study {LOOPS.name}: {solver}")
        nearest, lipschitz, slope = (float(table[solver][c]) for c in LOOPS.columns[1:])
        holds = (nearest <= LOOP) == loops if lipschitz >= slope else None
        text = f"{solver}: distance to its own history {'≤' if loops else '>'} {LOOP:g}"
        properties.append(Property(text, nearest, _known(holds, nearest)))
    return decide_properties(properties)


FIGURE4 = (
    Runs("figure4", "mnist", ("BPGrad",)),
    Runs("figure4", "cifar10", ("BPGrad",)),
)


def c6(evidence: Evidence) -> Verdict:
    """The step size falls over the epochs, and the first ones differ as L does; for every seed.

    As η_1 = (1 − ρ) f_1/L, what their ratio lacks of that of L is the ratio of the objectives f_1.
    """
    properties, first, missing = [], [], set[int]()
    for runs in FIGURE4:
        found = evidence.columns(runs, lambda run: float(run.steps("step_size")[0]))
        first.append(found[runs.solvers[0]])
        missing |= set(evidence.seeds[runs.experiment]) - first[-1].keys()
        medians = [
            _epoch_medians(run, "step_size")
            for run in evidence.runs(runs.experiment, runs.task, runs.solvers[0])
            if run.finished
        ]
        falls = np.array([of_run[-1] / of_run[0] for of_run in medians])
        ranks = np.array([_rank_correlation(of_run) for of_run in medians])
        text = f"{task_title(runs.task)}: median step size"
        properties += [
            _of_worst_seed(f"{text}, last epoch / first < 1", falls, falls, limit=1.0),
            _of_worst_seed(f"{text}, rank correlation with the epoch < 0", ranks, ranks, limit=0.0),
        ]
    mnist, cifar10 = first
    ratios = np.array([mnist[s] / cifar10[s] / (50 / 15) for s in mnist.keys() & cifar10.keys()])
    text = "ratio of the first step sizes / (50/15), which is that of f_1, within 10 % of 1"
    properties.append(_of_worst_seed(text, ratios, np.abs(ratios - 1), limit=STEP_RATIO_TOLERANCE))
    verdict = decide_properties(properties, missing)
    return replace(verdict, numbers=(*verdict.numbers, *_relative_steps(evidence)))


def _of_worst_seed(
    text: str, values: np.ndarray, excesses: np.ndarray, *, limit: float
) -> Property:
    """That every seed's excess is below the limit, by the value of the one with the largest."""
    if len(values) == 0:
        return Property(text, math.nan, None, 0)
    worst = float(values[np.argmax(excesses)])  # NaN is the largest
    return Property(text, worst, _known(bool(np.max(excesses) < limit), worst), len(values))


def _epoch_medians(run: Run, column: str) -> np.ndarray:
    """The medians of the epochs of which every iteration is recorded."""
    ends = _column(run, "iterations").astype(int)
    values = run.steps(column)
    parts = np.split(values, ends[ends < len(values)])
    return np.array([np.median(part) for part in parts])


def _rank_correlation(values: np.ndarray) -> float:
    if len(values) < 2 or np.ptp(values) == 0:
        return 0.0  # constant: neither rises nor falls
    return float(stats.spearmanr(np.arange(len(values)), values).statistic)


def _relative_steps(evidence: Evidence) -> list[Number]:
    """The median of η/‖w‖ of each task at the paper's settings, where figure5 has it."""
    table = evidence.studies.get(FIGURE5.name)
    if table is None or "relative_step" not in table.columns:
        return []
    found = []
    for task, lipschitz in (("mnist", 15), ("cifar10", 50)):
        at_the_papers = (table["momentum"] == 0.9) & (table["lipschitz"] == lipschitz)
        rows = table[(table["task"] == task) & at_the_papers]
        if len(rows):
            text = f"{task_title(task)}: median η/‖w‖"
            median = float(rows["relative_step"].median())
            found.append(Number(text, median, rows["seed"].nunique()))
    return found


FIGURE5 = Study(
    "figure5", ("task", "momentum", "lipschitz", "seed", "lhs", "rhs", "objective")
)  # a row an iteration


def c7(evidence: Evidence) -> Verdict:
    """Eq. 4's sides, at every iteration: RHS ≥ LHS with momentum 0.9, RHS ≤ LHS with 0."""
    table = evidence.studies[FIGURE5.name]
    sign = (table["momentum"] > 0).map({True: 1.0, False: -1.0})
    room = sign * (table["rhs"] - table["lhs"])
    tolerance = EQ4_TOLERANCE * table["objective"].clip(lower=1.0) + _rounding(table)
    held = (room >= -tolerance).astype(float).where(room.notna() & tolerance.notna())
    table = table.assign(held=held)
    properties, absent, missing = [], [], set[int]()
    for task, momentum, lipschitz in _settings((0.0, 0.9)):
        rows = _rows(table, task, momentum, lipschitz)
        text = f"{task_title(task)}, μ = {momentum:g}, L = {lipschitz:g}"
        if rows.empty:
            absent.append(text)
            continue
        missing |= set(evidence.seeds.get(FIGURE5.name, ())) - set(rows["seed"])
        share = float(rows.groupby("seed")["held"].agg(_mean).agg(_min))
        side = "RHS ≥ LHS" if momentum else "RHS ≤ LHS (true by construction)"
        n = rows["seed"].nunique()
        holds = _known(share == 1, share)
        properties.append(Property(f"{text}: share of t with {side}", share, holds, n))
    if absent:
        return not_run(f"the study {FIGURE5.name}: {_listed(absent)}")
    return decide_properties(properties, missing)


def _rounding(table: pd.DataFrame) -> pd.Series:
    """What float32 weights may add to the half of C7 that is an equality by construction.

    Storing x moves it by at most 2⁻²⁴‖x‖, so L‖x_t − x_{t+1}‖ and L η_t, which are equal at μ = 0,
    differ by up to L times that. Zero with momentum: there the claim is not about an equality.
    """
    if "relative_step" not in table.columns:
        return pd.Series(0.0, index=table.index)
    step = (table["objective"] - table["rhs"]) / table["lipschitz"]  # η
    rounding = table["lipschitz"] * 2.0**-24 * step / table["relative_step"]
    return rounding.where(table["momentum"] == 0, 0.0)


def _listed(settings: Sequence[str]) -> str:
    return f"{len(settings)} of its trajectories, as {settings[0]}"


MOMENTUM = Study(
    "momentum", ("task", "momentum", "lipschitz", "seed", "held", "pairs13", "pairs15")
)  # a row a trajectory


def c8(evidence: Evidence) -> Verdict:
    """Whether Eq. 4 holds throughout depends on μ alone, and a large μ is enough."""
    table = evidence.studies[MOMENTUM.name]
    planned, missing, absent = set(evidence.seeds.get(MOMENTUM.name, ())), set[int](), []
    for task, momentum, lipschitz in _settings(MOMENTA):
        rows = _rows(table, task, momentum, lipschitz)
        if rows.empty:
            absent.append(f"{task_title(task)}, μ = {momentum:g}, L = {lipschitz:g}")
        missing |= planned - set(rows["seed"])
    if absent:
        return not_run(f"the study {MOMENTUM.name}: {_listed(absent)}")
    n = int(table.groupby(["task", "momentum", "lipschitz"])["seed"].nunique().min())
    properties = []
    for momentum in MOMENTA:
        held = table.loc[np.isclose(table["momentum"], momentum), "held"].to_numpy(dtype=float)
        share = _mean((held == 1).astype(float)) if not np.isnan(held).any() else math.nan
        text = f"μ = {momentum:g}: share of the data sets, L and seeds with Eq. 4 at every t"
        properties.append(
            Property(f"{text} is 0 or 1", share, _known(share in (0.0, 1.0), share), n)
        )
        if momentum == max(MOMENTA):
            properties.append(Property(f"{text} is 1", share, _known(share == 1, share), n))
    for column, equation in (("pairs13", "(13)"), ("pairs15", "(15)")):
        share = _max(table.loc[table["momentum"] == 0, column])
        text = f"μ = 0: largest share of pairs that satisfy {equation} ≤ {RARELY:g}"
        properties.append(Property(text, share, _known(share <= RARELY, share), n))
    return decide_properties(properties, missing)


def _settings(momenta: Sequence[float]) -> list[tuple[str, float, float]]:
    return [
        (task, mu, value) for task, each in FIGURE5_L.items() for mu in momenta for value in each
    ]


def _rows(table: pd.DataFrame, task: str, momentum: float, lipschitz: float) -> pd.DataFrame:
    same = np.isclose(table["momentum"], momentum) & np.isclose(table["lipschitz"], lipschitz)
    return table[same & (table["task"] == task)]


# pandas leaves NaN out of these, which would hide a trajectory that broke.
def _mean(values: pd.Series | np.ndarray) -> float:
    return float(np.mean(np.asarray(values, dtype=float)))


def _min(values: pd.Series | np.ndarray) -> float:
    return float(np.min(np.asarray(values, dtype=float)))


def _max(values: pd.Series | np.ndarray) -> float:
    return float(np.max(np.asarray(values, dtype=float)))


def _known(holds: bool | None, value: float) -> bool | None:
    return None if holds is None or math.isnan(value) else bool(holds)


FIGURE6 = (
    Runs("figure6", "mnist", tuple(f"L = {value}" for value in (10, 15, 20, 50, 100))),
    Runs("figure6", "cifar10", tuple(f"L = {value}" for value in (50, 100, 200, 500, 1000))),
)


def c9(evidence: Evidence) -> Verdict:
    """The largest spread over L of any epoch, as a share of the descent."""
    inequalities = []
    for runs in FIGURE6:
        curves = {
            solver: {
                run.seed: _column(run, "train_objective")
                for run in evidence.runs(runs.experiment, runs.task, solver)
                if run.finished
            }
            for solver in runs.solvers
        }
        starts = evidence.columns(runs, lambda run: float(run.steps("objective")[0]))
        spread = {}
        for seed in evidence.seeds[runs.experiment]:
            if all(seed in curve for curve in curves.values()):
                each = np.stack([curve[seed] for curve in curves.values()])
                start = max(column[seed] for column in starts.values())
                spread[seed] = float(np.ptp(each, axis=0).max() / (start - each.min()))
        text = f"spread over L / descent on {task_title(runs.task)}"
        limit = dict.fromkeys(spread, CLUSTERED)
        inequalities.append(lower(f"{text} < {CLUSTERED:g}", spread, limit, text))
    return decide(inequalities, evidence.seeds["figure6"])


MOMENTUM_MATTERS = tuple(
    Runs("figure7", task, (BPGRAD, NO_MOMENTUM)) for task in ("mnist", "cifar10")
)
MNIST = Runs("figure7", "mnist", (BPGRAD, *COMPETITORS))
CIFAR10 = Runs("figure7", "cifar10", (BPGRAD, *COMPETITORS, "Eve"))
OBJECTIVE, TEST_ERROR = last("train_objective"), last("val_top1_error")


def c10(evidence: Evidence) -> Verdict:
    """Momentum 0.9 against 0: objective 1.5 times lower, and test error lower, on both sets."""
    inequalities = []
    for runs in MOMENTUM_MATTERS:
        inequalities += beats_all(evidence, runs, "training objective", OBJECTIVE, factor=MUCH)
        inequalities += beats_all(evidence, runs, "test error", TEST_ERROR)
    return decide(inequalities, evidence.seeds["figure7"])


def c11(evidence: Evidence) -> Verdict:
    """The test error on MNIST is below each competitor's."""
    inequalities = beats_all(evidence, MNIST, "test error", TEST_ERROR)
    return decide(inequalities, evidence.seeds["figure7"])


def c12(evidence: Evidence) -> Verdict:
    """The test error on CIFAR-10 is 0 to 2 points above the best competitor's."""
    columns = evidence.columns(CIFAR10, TEST_ERROR)
    best = best_other(columns)
    text = f"test error on {task_title('cifar10')}: {BPGRAD} − {best}"
    gap = difference(columns[BPGRAD], columns[best])
    inequalities = between(text, 0, gap, SLIGHTLY, "test error", family=evidence.family(CIFAR10))
    return decide(inequalities, evidence.seeds["figure7"])


def c13(evidence: Evidence) -> Verdict:
    """The objective is within 1.2 times the best on MNIST, and the best on CIFAR-10."""
    columns, what = evidence.columns(MNIST, OBJECTIVE), "training objective"
    best, title = best_other(columns), task_title("mnist")
    competitive = lower(
        f"{what} on {title}: {BPGRAD} / {COMPETITIVE:g} < {best}",
        *(columns[BPGRAD], columns[best], f"{what} on {title}"),
        factor=1 / COMPETITIVE,
        family=evidence.family(MNIST),
    )
    inequalities = [competitive, *beats_all(evidence, CIFAR10, what, OBJECTIVE)]
    return decide(inequalities, evidence.seeds["figure7"])


def c14(evidence: Evidence) -> Verdict:
    """The mean objective of epochs 1 to 5 is 1.5 times below each competitor's, on both sets."""
    what, of = f"training objective, epochs 1–{FIRST_EPOCHS},", early("train_objective")
    inequalities = [
        inequality
        for runs in (MNIST, CIFAR10)
        for inequality in beats_all(evidence, runs, what, of, factor=MUCH)
    ]
    return decide(inequalities, evidence.seeds["figure7"])


EVE = Runs("figure7", "cifar10", (BPGRAD, "Eve"))


def c15(evidence: Evidence) -> Verdict:
    """The test error fluctuates less than Eve's over the last 20 epochs."""
    what = f"deviation of the test error over the last {EVE_EPOCHS} epochs"
    of = fluctuation("val_top1_error", EVE_EPOCHS)
    return decide(beats_all(evidence, EVE, what, of), evidence.seeds["figure7"])


IMAGENET = Runs("table1", "imagenet", ("BPGrad", *COMPETITORS))


def c16(evidence: Evidence) -> Verdict:
    """Best training and validation error, the margin to RMSProp, and the first epochs."""
    columns = evidence.columns(IMAGENET, TEST_ERROR)
    margin = difference(columns["RMSProp"], columns["BPGrad"])
    text, family = "validation error: RMSProp − BPGrad", evidence.family(IMAGENET)
    low, high = MARGIN - MARGIN_TOLERANCE, MARGIN + MARGIN_TOLERANCE
    early_objective = early("train_objective")
    inequalities = [
        *beats_all(evidence, IMAGENET, "training error", last("train_top1_error")),
        *beats_all(evidence, IMAGENET, "validation error", TEST_ERROR),
        *between(text, low, margin, high, "margin of the validation error", family=family),
        *beats_all(evidence, IMAGENET, "training objective, epochs 1–5,", early_objective),
    ]
    return decide(inequalities, evidence.seeds["table1"])


DETECTION = Runs("table2", "voc_detection", ("BPGrad", "Adagrad", "RMSProp", "Adam"))


def c17(evidence: Evidence) -> Verdict:
    """Training loss above Adam's, equal mAP, and best on 11 classes (10 without ties)."""
    loss, scores = (
        evidence.columns(DETECTION, last(column)) for column in ("train_objective", "val_map")
    )
    gap = difference(scores["BPGrad"], scores["Adam"])
    family = evidence.family(DETECTION)
    inequalities = [
        lower(
            "training objective: Adam < BPGrad",
            *(loss["Adam"], loss["BPGrad"], "training objective"),
            family=family,
        ),
        *between("mAP: BPGrad − Adam", -EQUAL_MAP, gap, EQUAL_MAP, "mAP", family=family),
    ]
    for words, ties, classes in (("best or tied", True, 11), ("strictly best", False, 10)):
        counts = _best_classes(evidence, ties=ties)
        # Half a class below: the counts are whole, and a mean of exactly 11 is enough.
        limit = dict.fromkeys(counts, classes - 0.5)
        text = f"classes with the {words} AP: at least {classes}"
        inequalities.append(Inequality(text, limit, counts, f"classes {words}"))
    return decide(inequalities, evidence.seeds["table2"])


def _best_classes(evidence: Evidence, *, ties: bool) -> dict[int, float]:
    """On how many of the 20 classes BPGrad has the best AP, as printed: to one decimal."""
    counts: dict[int, float] = {}
    for name in VOC_CLASSES:
        columns = evidence.columns(DETECTION, last(f"val_ap_{name}"))
        first, *others = (columns[solver] for solver in DETECTION.solvers)
        for seed in first:
            if all(seed in other for other in others):
                ap, best = round(first[seed], 1), max(round(other[seed], 1) for other in others)
                counts[seed] = counts.get(seed, 0) + (ap > best or (ties and ap == best))
    return counts


ADADELTA = "adadelta_detection"
ADAGRAD_DETECTION = Runs("table2", "voc_detection", ("Adagrad",))


def c18(evidence: Evidence) -> Verdict:
    """The best of Adadelta's tuned settings stays 10 points of mAP below Adagrad."""
    settings = _sweep(evidence, ADADELTA, "voc_detection", "val_map", diverged=0.0)
    if "Adadelta" not in settings:
        return not_run(f"{ADADELTA} on voc_detection: Adadelta with several settings")
    tuned = settings["Adadelta"]
    best = max(tuned, key=lambda setting: _or_first(summarise(tuned[setting]).mean))
    adagrad = evidence.columns(ADAGRAD_DETECTION, last("val_map"))["Adagrad"]
    raised = {seed: value + WORKS for seed, value in tuned[best].items()}
    text = f"mAP: Adadelta, {best}, + {WORKS:g} < Adagrad"
    inequalities = [lower(text, raised, adagrad, "mAP", family=len(tuned))]
    return decide(inequalities, evidence.seeds[ADADELTA])


def _or_first(value: float) -> float:
    return -math.inf if math.isnan(value) else value


def _sweep(
    evidence: Evidence, experiment: str, task: str, column: str, diverged: float
) -> dict[str, Columns]:
    """Last values by solver and setting, of labels "solver, setting"; `diverged` where it did."""
    comparison = evidence.comparisons.get((experiment, task))
    found: dict[str, Columns] = {}
    for label in comparison.solvers if comparison else ():
        solver, _, setting = label.partition(", ")
        runs = evidence.runs(experiment, task, label)
        found.setdefault(solver, {})[setting] = by_seed(
            (
                (run.seed, last(column)(run) if run.finished else diverged)
                for run in runs
                if run.finished or run.meta.get("diverged")
            ),
            f"{label} in {experiment} on {task}",
        )
    return found


SEGMENTATION = Runs("table3", "voc_segmentation", ("BPGrad", *COMPETITORS))


def c19(evidence: Evidence) -> Verdict:
    """Best mean IU, mean accuracy and average; another solver has the best pixel accuracy."""
    inequalities = []
    for what, of in (
        ("mean IU", last("val_mean_iu")),
        ("mean accuracy", last("val_mean_accuracy")),
        ("average", DERIVED["val_average"]),
    ):
        inequalities += beats_all(evidence, SEGMENTATION, what, of, higher_is_better=True)
    columns = evidence.columns(SEGMENTATION, last("val_pixel_accuracy"))
    best = best_other(columns, higher_is_better=True)
    text, family = f"pixel accuracy: BPGrad < {best}", evidence.family(SEGMENTATION)
    inequalities.append(
        lower(text, columns["BPGrad"], columns[best], "pixel accuracy", family=family)
    )
    return decide(inequalities, evidence.seeds["table3"])


def c20(evidence: Evidence) -> Verdict:
    """Final training objective within 1.2 times Adagrad's, either way; smallest fluctuation."""
    columns, what = evidence.columns(SEGMENTATION, OBJECTIVE), "training objective"
    one, other, factor = columns["BPGrad"], columns["Adagrad"], 1 / COMPETITIVE
    family = evidence.family(SEGMENTATION)
    of = fluctuation("val_objective", FLUCTUATION_EPOCHS)
    fluctuates = f"deviation of the validation objective, last {FLUCTUATION_EPOCHS} epochs,"
    inequalities = [
        lower(
            f"{what}: {left} / {COMPETITIVE:g} < {right}",
            *(values, others, what),
            factor=factor,
            family=family,
        )
        for left, right, values, others in (
            ("BPGrad", "Adagrad", one, other),
            ("Adagrad", "BPGrad", other, one),
        )
    ]
    inequalities += beats_all(evidence, SEGMENTATION, fluctuates, of)
    return decide(inequalities, evidence.seeds["table3"])


SENSITIVITY = "sensitivity"
TUNED = ("BPGrad", "Adagrad", "RMSProp", "Adam", "Eve")  # Adadelta has no learning rate


def c21(evidence: Evidence) -> Verdict:
    """Test error changes less over L than each competitor's over its learning rate."""
    settings = _sweep(evidence, SENSITIVITY, "cifar10", "val_top1_error", diverged=CHANCE)
    lacking = [s for s in TUNED if not any(settings.get(s, {}).values())]
    if lacking:
        return not_run(f"{SENSITIVITY} on cifar10: {', '.join(lacking)} with several settings")
    budgets = {solver: len(settings[solver]) for solver in TUNED}
    if len(set(budgets.values())) > 1 or budgets["BPGrad"] < 2:
        listed = ", ".join(f"{solver} {count}" for solver, count in budgets.items())
        return not_run(f"as many settings of every solver, two or more ({listed})")
    ranges: Columns = {}
    for solver in TUNED:
        each = list(settings[solver].values())
        seeds = set(each[0]).intersection(*each)
        ranges[solver] = {s: float(np.ptp([values[s] for values in each])) for s in seeds}
    what, first = "range of the test error over the settings", TUNED[0]
    inequalities = [
        lower(f"{what}: {first} < {other}", ranges[first], ranges[other], what)
        for other in TUNED[1:]
    ]
    return decide(inequalities, evidence.seeds[SENSITIVITY])


CLAIMS = (
    Claim(
        "C1",
        "BPGrad outperforms Adagrad, Adadelta, RMSProp and Adam in recognition, detection and "
        "segmentation",
        "all of C10 to C20, which contain the paper's own exceptions",
        (),
        c1,
    ),
    Claim(
        "C2",
        "Theorems 1 to 3, Corollaries 1 and 2, and that no smaller step can reach the optimum",
        "each, as printed, holds on every random function on which its premise is true; the "
        "premise is true on at least 5 % of them",
        (THEOREMS,),
        c2,
    ),
    Claim(
        "C3",
        "gradients guide the sampling better than a uniform sampler does",
        "fewer evaluations to equal accuracy (logarithm), paired by test function",
        (SAMPLERS,),
        c3,
    ),
    Claim(
        "C4",
        "Lipschitz continuity smooths narrow valleys away (Figure 2)",
        "of the majorant: at most 10 % of the depth is left of every narrow valley, at least 90 % "
        "of every wide one",
        (SMOOTHING,),
        c4,
    ),
    Claim(
        "C5",
        "Eq. 12 can fall into a loop where Algorithm 1 does not (Figure 3)",
        "on one function with L no smaller than its steepest slope: Eq. 12 comes within 1e-9 of a "
        "point of its own history, Algorithm 1 does not",
        (LOOPS,),
        c5,
    ),
    Claim(
        "C6",
        "the step size is small and decreases, and the initial gap between the data sets is due to "
        "L (Figure 4)",
        "in every run the median of the last epoch is below that of the first and the rank "
        "correlation of the epochs' medians is negative; the first step sizes are as 50 to 15, "
        "within 10 %",
        FIGURE4,
        c6,
    ),
    Claim(
        "C7",
        "with momentum 0.9 the right-hand side of Eq. 4 is at least the left one at every "
        "iteration, with 0 at most (Figure 5)",
        "at every iteration, for every L, on both data sets; tolerance 1e-6 · max(f, 1). The half "
        "on momentum 0 is true by construction, up to the rounding of float32 weights",
        (FIGURE5,),
        c7,
    ),
    Claim(
        "C8",
        "momentum is the only factor in Eq. 4, which holds for a sufficiently large one; plain "
        "gradients rarely satisfy (13) and (15)",
        "for each momentum Eq. 4 holds throughout for all L and data sets or for none, for 0.99 "
        "for all; with momentum 0 at most 10 % of the pairs satisfy (13), and (15)",
        (MOMENTUM,),
        c8,
    ),
    Claim(
        "C9",
        "the objective is robust in L: its curves are clustered (Figure 6)",
        "at every epoch the spread over L is below 10 % of the descent, from the objective at the "
        "start to the best; MNIST L 10 to 100, CIFAR-10 L 50 to 1000, four epochs",
        FIGURE6,
        c9,
    ),
    Claim(
        "C10",
        "momentum 0.9 is much better than 0 in training objective and test error, on both data "
        "sets",
        "objective at least 1.5 times lower, test error lower",
        MOMENTUM_MATTERS,
        c10,
    ),
    Claim(
        "C11",
        "BPGrad has the best test error on MNIST",
        "lower than each competitor's",
        (MNIST,),
        c11,
    ),
    Claim(
        "C12",
        "its test error on CIFAR-10 is slightly inferior",
        "above the best competitor's by more than 0 and at most 2 points",
        (CIFAR10,),
        c12,
    ),
    Claim(
        "C13",
        "its objective is competitive on MNIST and the best on CIFAR-10",
        "MNIST: at most 1.2 times the best competitor's; CIFAR-10: lower than each competitor's",
        (MNIST, CIFAR10),
        c13,
    ),
    Claim(
        "C14",
        "it decreases the objective much faster than all others in the first few epochs",
        "mean training objective of epochs 1 to 5 at least 1.5 times below each competitor's, on "
        "both data sets",
        (MNIST, CIFAR10),
        c14,
    ),
    Claim(
        "C15",
        "it is more reliable than Eve on CIFAR-10",
        "smaller standard deviation of the test error over the last 20 epochs",
        (EVE,),
        c15,
    ),
    Claim(
        "C16",
        "ImageNet: best training and validation top-1 error, 3.2 points below RMSProp; converges "
        "faster",
        "lower than each competitor's in both; validation margin to RMSProp 3.2 ± 1.0 points; mean "
        "training objective of epochs 1 to 5 lower than each competitor's",
        (IMAGENET,),
        c16,
    ),
    Claim(
        "C17",
        "detection: training loss above Adam's, mAP equal to Adam's, best AP on 11 of 20 classes",
        "loss above; mAP within 0.5 points; best or tied, to one decimal, on at least 11 classes "
        "and strictly best on at least 10",
        (DETECTION,),
        c17,
    ),
    Claim(
        "C18",
        "Adadelta cannot be made to work in detection",
        "the best of its tuned settings stays more than 10 points of mAP below Adagrad",
        (ADAGRAD_DETECTION,),
        c18,
        ADADELTA,
    ),
    Claim(
        "C19",
        "segmentation: best mean IU, mean accuracy and average, but not pixel accuracy",
        "higher than each competitor's in the three; pixel accuracy below the best competitor's",
        (SEGMENTATION,),
        c19,
    ),
    Claim(
        "C20",
        "segmentation: training curve like Adagrad's, smallest fluctuation on the validation set",
        "final objective within 1.2 times Adagrad's, either way; smaller standard deviation of the "
        "validation objective over the last 10 epochs than each competitor's",
        (SEGMENTATION,),
        c20,
    ),
    Claim(
        "C21",
        "heavily tuning L is unnecessary",
        "on CIFAR-10 the range of the final test error over L is smaller than each competitor's "
        "over as many learning rates; a run that diverged counts with the error of guessing",
        (),
        c21,
        SENSITIVITY,
    ),
)


def about(names: Collection[str]) -> list[str]:
    """The ids of the claims that look at runs or tables of any of these experiments or studies."""
    found = []
    for claim in CLAIMS:
        needs = {need.experiment if isinstance(need, Runs) else need.name for need in claim.needs}
        if (needs | {claim.sweep}) & set(names):
            found.append(claim.id)
    return found


# The paper's printed values.


def paper_values() -> pd.DataFrame:
    """The values that the paper prints: a row a number, `metric` as the records name it.

    Columns: table, task, solver, metric, value and tolerance (of that unit), unit, source.
    """
    return pd.read_csv(PAPER_VALUES)


def judge_table(table: str, evidence: Evidence) -> Verdict:
    """Whether every value of a table ("Table 1") is the paper's, within its tolerance.

    Raises KeyError for a table that the paper has no values of.
    """
    values = paper_values()
    values = values[values["table"] == table]
    if values.empty:
        raise KeyError(table)
    rows = ({str(key): value for key, value in row.items()} for row in values.to_dict("records"))
    return all_of([_judge_value(row, evidence) for row in rows])


def _judge_value(row: Mapping[str, object], evidence: Evidence) -> tuple[str, Verdict]:
    solver, metric = str(row["solver"]), str(row["metric"])
    experiment = str(row["table"]).lower().replace(" ", "")
    runs = Runs(experiment, str(row["task"]), (solver,))
    text = f"{solver} {metric}"
    if missing := evidence.missing(runs):
        return text, not_run(missing)
    values = evidence.columns(runs, DERIVED.get(metric, last(metric)))[solver]
    paper, tolerance = float(str(row["value"])), float(str(row["tolerance"]))
    inequalities = within_tolerance(text, values, paper, tolerance)
    return text, decide(inequalities, evidence.seeds[experiment])
