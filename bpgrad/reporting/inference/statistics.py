"""Statistics over seeds: mean and deviation, and comparisons paired by seed (design: experiments).

Solvers start a seed from the same weights and see the same batches, so their results are compared
seed by seed: a paired t-test on the differences with a 95 % t-interval, and Holm's correction over
the comparisons of one table column. The t-test takes the differences as normally distributed; with
few seeds this is an assumption that cannot be tested. From eight seeds on the exact Wilcoxon test
stands beside it. With one or two seeds nothing is significant.

A value that is not finite (a solver that diverged) is never left out, which would flatter the
solver: it makes mean, deviation and p NaN, and NaN is never significant.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import optimize, stats

from bpgrad.errors import RecordError

ALPHA = 0.05  # family-wise
POWER = 0.8
MIN_SEEDS = 3  # for anything to be significant
MIN_SEEDS_WILCOXON = 8
MAX_SEEDS = 100_000  # above, a power estimate says as much as none
ROUND_OFF = 1e-12  # of the largest value: differences below are no differences

BySeed = Mapping[int, float]


def by_seed(pairs: Iterable[tuple[int, float]], what: str = "values") -> dict[int, float]:
    """The value of each seed.

    Raises RecordError that names `what` if a seed occurs twice: the seeds would not be independent.
    """
    found: dict[int, float] = {}
    for seed, value in pairs:
        if seed in found:
            raise RecordError(f"{what}: seed {seed} occurs twice; leave out one of the two runs")
        found[seed] = float(value)
    return found


@dataclass(frozen=True)
class Summary:
    """Number of seeds, mean, and standard deviation of the sample (n − 1; NaN for one seed)."""

    n: int
    mean: float
    std: float


def summarise(values: BySeed) -> Summary:
    """Mean and sample standard deviation over seeds; NaN where there are too few for them."""
    found = _finite_or_nan(np.array(list(values.values()), dtype=np.float64))
    mean = float(found.mean()) if len(found) else math.nan
    return Summary(len(found), mean, _std(found, ROUND_OFF * np.abs(found).max(initial=0)))


@dataclass(frozen=True)
class PairedTest:
    """Differences value − reference over the seeds that both have.

    `n` is the number of pairs, `unpaired` the number of seeds that only one of the two has and that
    are left out. `mean`, `std` (of the sample), `low` and `high` (95 % t-interval, not adjusted)
    are in the unit of the values. `p` is that of the two-sided paired t-test, `p_wilcoxon` of the
    exact Wilcoxon signed-rank test (None below eight pairs). `p_holm` is p after Holm's correction,
    `level` the level that p itself is held against there. Both are p and 5 % until `holm` has seen
    the whole column. With one pair, std, interval and p are NaN; for equal differences see
    `paired_test`.
    """

    n: int
    unpaired: int
    mean: float
    std: float
    low: float
    high: float
    p: float
    p_wilcoxon: float | None
    p_holm: float
    level: float

    @property
    def significant(self) -> bool:
        """Whether the difference is, after Holm; never with one or two pairs."""
        return self.n >= MIN_SEEDS and self.p_holm <= ALPHA  # False for NaN

    @property
    def needed(self) -> int | None:
        """The pairs needed for a power of 80 %; see `needed_pairs`."""
        return needed_pairs(self.mean, self.std, self.level)


def paired_test(values: BySeed, reference: BySeed) -> PairedTest:
    """Compare two solvers seed by seed; as a family of one until `holm` corrects it.

    Where all differences are equal the t-test does not apply, since normal ones never are: its p
    would be 0, and three errors that each differ by one image be significant. Then p is that of the
    exact sign test, 2^(1−n), and there is no interval; without any difference p is 1.
    """
    seeds = sorted(values.keys() & reference.keys())
    unpaired = len(values.keys() ^ reference.keys())
    one = _finite_or_nan(np.array([values[seed] for seed in seeds], dtype=np.float64))
    other = _finite_or_nan(np.array([reference[seed] for seed in seeds], dtype=np.float64))
    round_off = ROUND_OFF * np.abs([one, other]).max(initial=0)
    differences = one - other
    differences[np.abs(differences) <= round_off] = 0.0

    n = len(differences)
    mean = float(differences.mean()) if n else math.nan
    std = _std(differences, round_off)
    low = high = p = math.nan
    if n >= 2:
        if std == 0:
            p = 2.0 ** (1 - n) if mean else 1.0
        else:
            half = std / math.sqrt(n) * float(stats.t.isf(0.025, n - 1))
            low, high = mean - half, mean + half
            p = float(2 * stats.t.sf(abs(mean) / std * math.sqrt(n), n - 1))
    p_wilcoxon = exact_wilcoxon(differences) if n >= MIN_SEEDS_WILCOXON else None
    return PairedTest(n, unpaired, mean, std, low, high, p, p_wilcoxon, p, ALPHA)


def holm(tests: Sequence[PairedTest], family: int | None = None) -> list[PairedTest]:
    """Correct for the number of comparisons made: Holm's step-down procedure, `p_holm` and `level`.

    `family` is the number of comparisons of the whole column where `tests` are only some of them
    (the others count as larger, which is the cautious side). A p of NaN counts as the largest.

    Raises ValueError for a family smaller than the tests.
    """
    family = len(tests) if family is None else family
    if family < len(tests):
        raise ValueError(f"a family of {family} cannot hold {len(tests)} comparisons")
    adjusted = list(tests)
    largest = 0.0
    order = sorted(range(len(tests)), key=lambda k: (math.isnan(tests[k].p), tests[k].p))
    for rank, k in enumerate(order):
        p = tests[k].p
        if not math.isnan(p):
            p = largest = max(largest, min(1.0, (family - rank) * p))
        adjusted[k] = replace(tests[k], p_holm=p, level=ALPHA / (family - rank))
    return adjusted


def compare_column(column: Mapping[str, BySeed], reference: str) -> dict[str, PairedTest]:
    """Every other solver of a table column against `reference`, corrected after Holm.

    A solver without values stands there with n = 0, which is never significant.

    Raises KeyError if the column lacks `reference`.
    """
    others = [solver for solver in column if solver != reference]
    tests = [paired_test(column[solver], column[reference]) for solver in others]
    return dict(zip(others, holm(tests), strict=True))


def best_in_column(column: Mapping[str, BySeed], *, higher_is_better: bool = False) -> str | None:
    """The solver that is significantly better than every other of the column; None if none is."""
    sign = -1.0 if higher_is_better else 1.0
    means = {solver: sign * summarise(values).mean for solver, values in column.items()}
    if len(means) < 2 or any(math.isnan(mean) for mean in means.values()):
        return None
    best = min(means, key=lambda solver: means[solver])
    tests = compare_column(column, best).values()
    return best if all(t.significant and sign * t.mean > 0 for t in tests) else None


def needed_pairs(mean: float, std: float, level: float = ALPHA, power: float = POWER) -> int | None:
    """The pairs that a two-sided paired t-test at `level` needs for `power`, at least three.

    `mean` and `std` are those observed, taken for the true ones: an estimate, and a rough one if
    they come from few seeds. None where they are unknown (one seed), without a difference, or above
    100 000. For equal differences, the pairs that the sign test of `paired_test` needs.
    """
    if not (math.isfinite(mean) and math.isfinite(std)) or mean == 0:
        return None
    if std == 0:  # the sign test, as in paired_test
        return max(MIN_SEEDS, 1 + math.ceil(-math.log2(level)))
    effect = min(abs(mean) / std, 1000.0)  # more needs three pairs too, and is NaN in scipy
    if power_of(MIN_SEEDS, effect, level) >= power:
        return MIN_SEEDS
    low, high = MIN_SEEDS, 2 * MIN_SEEDS  # too few, and perhaps enough
    while power_of(high, effect, level) < power:
        if high > MAX_SEEDS:
            return None
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power_of(middle, effect, level) >= power else (middle, high)
    return high if high <= MAX_SEEDS else None


def largest_std(mean: float, n: int, level: float = ALPHA, power: float = POWER) -> float:
    """The standard deviation of the differences up to which `n` pairs have the power.

    What `needed_pairs` cannot say of a single pair, which has no deviation, turned round. `mean` is
    the one observed, taken for the true one.
    """
    effect = optimize.brentq(lambda d: power_of(n, d, level) - power, 0.0, 1000.0)
    return abs(mean) / float(effect)


def power_of(n: int, effect: float, level: float = ALPHA) -> float:
    """The power of a two-sided paired t-test of `n` pairs; `effect` is |mean| / std, both true."""
    critical = float(stats.t.isf(level / 2, n - 1))
    shift = effect * math.sqrt(n)
    # The lower tail is the upper one of the opposite shift: scipy's cdf is NaN far out there.
    tails = stats.nct.sf(critical, n - 1, [shift, -shift])
    return float(tails.sum())


def exact_wilcoxon(differences: np.ndarray) -> float:
    """Two-sided p of Wilcoxon's signed-rank test, exact also with ties, zeros left out.

    scipy's exact distribution knows no ties, which error rates in steps of one image often have.
    Every pattern of signs is equally likely; their rank sums are counted by convolution. NaN for
    NaN, 1 if no difference is left.
    """
    if np.isnan(differences).any():
        return math.nan
    differences = differences[differences != 0]
    ranks = np.rint(2 * stats.rankdata(np.abs(differences))).astype(int)  # doubled: ties are halves
    counts = np.ones(1)
    for rank in ranks:
        with_rank = np.concatenate([np.zeros(rank), counts])
        counts = np.concatenate([counts, np.zeros(rank)]) + with_rank
    shares = counts / counts.sum()
    positive = int(ranks[differences > 0].sum())
    return float(min(1.0, 2 * min(shares[: positive + 1].sum(), shares[positive:].sum())))


def _finite_or_nan(values: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(values), values, math.nan)


def _std(values: np.ndarray, round_off: float) -> float:
    """Of the sample; exactly 0 for values that differ by no more than round-off."""
    if len(values) < 2:
        return math.nan
    return 0.0 if np.ptp(values) <= round_off else float(values.std(ddof=1))
