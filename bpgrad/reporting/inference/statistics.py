"""Statistics over seeds: mean and deviation, and comparisons paired by seed (design: experiments).

Solvers start a seed from the same weights and see the same batches, so their results are compared
seed by seed: a paired t-test on the differences with a 95 % t-interval, and Holm's correction over
the comparisons of one table column. The t-test takes the differences as normally distributed; with
few seeds this is an assumption that cannot be tested. Welch's test, which does not pair, stands
beside it, and from eight seeds on the exact Wilcoxon test. With one or two seeds nothing is
significant. That two solvers are alike within a limit is shown by two one-sided tests (TOST).

An infinite value is that of a run that diverged, and ranks last: no t-test takes it, so p is that
of the exact Wilcoxon test, in which it is the largest of all. A value that is NaN is never left
out, which would flatter the solver: it makes mean, deviation and p NaN, never significant.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import integrate, optimize, special, stats

from bpgrad.errors import RecordError

ALPHA = 0.05  # family-wise
POWER = 0.8
MIN_SEEDS = 3  # for anything to be significant
MIN_SEEDS_WILCOXON = 8
MAX_SEEDS = 100_000  # above, a power estimate says as much as none
ROUND_OFF = 1e-12  # of the largest value: differences below are no differences

BySeed = Mapping[int, float]
Needed = tuple[int, int | None]  # from – to, without an end if None


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
    found = np.array(list(values.values()), dtype=np.float64)
    return Summary(len(found), _mean(found), _std(found, _round_off(found)))


@dataclass(frozen=True)
class PairedTest:
    """Differences value − reference over the seeds that both have.

    `n` is the number of pairs, `unpaired` the number of seeds that only one of the two has and that
    are left out. `mean`, `std` (of the sample), `low` and `high` (95 % t-interval, not adjusted)
    are in the unit of the values. `p` is that of the two-sided paired t-test, `p_wilcoxon` of the
    exact Wilcoxon signed-rank test (None below eight pairs). `p_holm` is p after Holm's correction,
    `level` the level that p itself is held against there. Both are p and 5 % until `holm` has seen
    the whole column. With one pair, std, interval and p are NaN; for equal and for infinite
    differences see `paired_test`.
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
    def needed(self) -> Needed | None:
        """The pairs needed for a power of 80 %; see `needed_range`."""
        return needed_range(self.mean, self.std, self.n, self.level)


def paired_test(values: BySeed, reference: BySeed) -> PairedTest:
    """Compare two solvers seed by seed; as a family of one until `holm` corrects it.

    Where all differences are equal the t-test does not apply, since normal ones never are: its p
    would be 0, and three errors that each differ by one image be significant. Then p is that of the
    exact sign test, 2^(1−n), and there is no interval; without any difference p is 1.

    Where a difference is infinite, p is that of the exact Wilcoxon test, and the mean is ±inf, on
    the side of the larger rank sum. Both infinite, of the same sign, is no difference.
    """
    unpaired = len(values.keys() ^ reference.keys())
    differences, round_off = _differences(values, reference)
    n = len(differences)
    mean = _mean(differences)
    std = _std(differences, round_off)
    low = high = p = math.nan
    if n >= 2 and np.isinf(differences).any():
        p = exact_wilcoxon(differences)
        mean = _towards(differences)
    elif n >= 2:
        if std == 0:
            p = 2.0 ** (1 - n) if mean else 1.0
        else:
            half = std / math.sqrt(n) * float(stats.t.isf(0.025, n - 1))
            low, high = mean - half, mean + half
            p = float(2 * stats.t.sf(abs(mean) / std * math.sqrt(n), n - 1))
    p_wilcoxon = exact_wilcoxon(differences) if n >= MIN_SEEDS_WILCOXON else None
    return PairedTest(n, unpaired, mean, std, low, high, p, p_wilcoxon, p, ALPHA)


def welch(values: BySeed, reference: BySeed) -> float:
    """Two-sided p of Welch's t-test, which does not pair and lets the variances differ.

    NaN where one side has fewer than two values, a value is not finite, or neither side varies.
    """
    one, other = (np.array(list(side.values()), dtype=np.float64) for side in (values, reference))
    if min(len(one), len(other)) < 2 or not np.isfinite([*one, *other]).all():
        return math.nan
    round_off = _round_off(one, other)
    parts = [_std(side, round_off) ** 2 / len(side) for side in (one, other)]
    if sum(parts) == 0:
        return math.nan
    degrees = sum(parts) ** 2 / sum(
        part**2 / (len(side) - 1) for part, side in zip(parts, (one, other), strict=True)
    )
    t = abs(one.mean() - other.mean()) / math.sqrt(sum(parts))
    return float(2 * stats.t.sf(t, degrees))


@dataclass(frozen=True)
class Equivalence:
    """Whether a mean difference lies within low_limit and high_limit: two one-sided t-tests.

    `p` is the larger of the two tests', that of the whole; `low` and `high` are the 90 %
    t-interval, which lies within the limits just where p is below 5 %. A limit may be infinite:
    then the other one is tested alone (no worse than).
    """

    n: int
    mean: float
    std: float
    low: float
    high: float
    low_limit: float
    high_limit: float
    p: float

    @property
    def holds(self) -> bool:
        """Whether both tests reject at 5 %; never with one or two pairs."""
        return self.n >= MIN_SEEDS and self.p <= ALPHA


def tost(values: BySeed, reference: BySeed, low_limit: float, high_limit: float) -> Equivalence:
    """Two one-sided paired t-tests that low_limit < value − reference < high_limit on average.

    For ratios give logarithms of values and limits. Equal differences within the limits have the p
    of the one-sided sign test, 2^(−n); with an infinite one the tests are Wilcoxon's, exact.

    Raises ValueError for limits that are both infinite, or not in order.
    """
    if not low_limit < high_limit or math.inf == -low_limit == high_limit:
        raise ValueError(f"limits {low_limit:g} and {high_limit:g}: the first must be the lower")
    differences, round_off = _differences(values, reference)
    n, mean, std = len(differences), _mean(differences), _std(differences, round_off)
    low = high = p = math.nan
    if n >= 2 and not np.isnan(differences).any():
        if np.isinf(differences).any():
            rooms = ((differences, low_limit), (-differences, -high_limit))
            p = max(_one_sided_wilcoxon(d - limit) for d, limit in rooms if math.isfinite(limit))
        elif std == 0:
            p = 2.0**-n if low_limit < mean < high_limit else 1.0
        else:
            error = std / math.sqrt(n)
            half = error * float(stats.t.isf(ALPHA, n - 1))
            low, high = mean - half, mean + half
            away = np.array([mean - low_limit, high_limit - mean]) / error
            p = float(stats.t.sf(away, n - 1).max())
    return Equivalence(n, mean, std, low, high, low_limit, high_limit, p)


def tost_power(n: int, limit: float, std: float, mean: float = 0.0) -> float:
    """The power of `tost` with `n` pairs and the limits ±limit, all others true values.

    Both tests reject where |mean difference| ≤ limit − t s/√n; integrated over s, which is
    independent of the mean.
    """
    degrees, error = n - 1, std / math.sqrt(n)
    critical = float(stats.t.isf(ALPHA, degrees))

    def at(relative: float) -> float:  # s/σ
        room = limit - critical * relative * error
        if room <= 0:
            return 0.0
        inside = stats.norm.cdf((room - mean) / error) - stats.norm.cdf((-room - mean) / error)
        density = stats.chi.pdf(relative * math.sqrt(degrees), degrees) * math.sqrt(degrees)
        return float(inside * density)

    end = limit / (critical * error)
    middle = min(1.0, end / 2)  # near it the density has its peak
    return float(sum(integrate.quad(at, *part)[0] for part in ((0, middle), (middle, end))))


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


def needed_range(
    mean: float, std: float, n: int, level: float = ALPHA, power: float = POWER
) -> Needed | None:
    """Between which numbers the pairs needed lie, with 80 % confidence, as far as n pairs can say.

    The ends are `needed_pairs` at the effects |mean| / std of which 10 % and 90 % of such samples
    would show a smaller one: from three seeds the estimate itself may be off by a factor of 10.
    None where nothing is known of it; without an end where no effect at all is within the range, or
    more than 100 000 would be needed. For equal differences, which have no t, a single number.
    """
    best = needed_pairs(mean, std, level, power)
    if std == 0 and best is not None:
        return best, best
    if n < 2 or not (math.isfinite(mean) and math.isfinite(std)) or std == 0:
        return None
    t = min(abs(mean) / std, 1000.0) * math.sqrt(n)  # more needs three too, and is NaN in scipy
    ends = []
    for share in (0.1, 0.9):  # of samples with a smaller t: the large effect, the small one
        shift = max(0.0, float(special.nctdtrinc(n - 1, share, t)))
        ends.append(needed_pairs(shift / math.sqrt(n), 1.0, level, power))
    few, many = ends
    return None if few is None else (few, many)


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
    return min(1.0, 2 * min(_one_sided_wilcoxon(differences), _one_sided_wilcoxon(-differences)))


def _one_sided_wilcoxon(differences: np.ndarray) -> float:
    """How often chance gives the positive differences a rank sum as large as theirs."""
    differences = differences[differences != 0]
    ranks = _ranks(differences)
    counts = np.ones(1)
    for rank in ranks:
        with_rank = np.concatenate([np.zeros(rank), counts])
        counts = np.concatenate([counts, np.zeros(rank)]) + with_rank
    positive = int(ranks[differences > 0].sum())
    return float(counts[positive:].sum() / counts.sum())


def _ranks(differences: np.ndarray) -> np.ndarray:
    """Ranks of the absolute values, infinite ones last; doubled, as ties are halves."""
    return np.rint(2 * stats.rankdata(np.abs(differences))).astype(int)


def _towards(differences: np.ndarray) -> float:
    """±inf, or 0, by the sign of the sum of signed ranks; NaN for NaN."""
    if np.isnan(differences).any():
        return math.nan
    balance = int((np.sign(differences) * _ranks(differences)).sum())
    return math.copysign(math.inf, balance) if balance else 0.0


def _differences(values: BySeed, reference: BySeed) -> tuple[np.ndarray, float]:
    """Value − reference of the seeds that both have, in order, and what is round-off in them."""
    seeds = sorted(values.keys() & reference.keys())
    one, other = (
        np.array([side[seed] for seed in seeds], dtype=np.float64) for side in (values, reference)
    )
    round_off = _round_off(one, other)
    with np.errstate(invalid="ignore"):
        differences = np.where(one == other, 0.0, one - other)  # inf − inf is none
    differences[np.abs(differences) <= round_off] = 0.0
    return differences, round_off


def _round_off(*values: np.ndarray) -> float:
    """What is no difference between them: relative to the largest that is finite."""
    found = np.abs(np.concatenate(values))
    return ROUND_OFF * float(found[np.isfinite(found)].max(initial=0.0))


def _mean(values: np.ndarray) -> float:
    with np.errstate(invalid="ignore"):
        return float(values.mean()) if len(values) else math.nan


def _std(values: np.ndarray, round_off: float) -> float:
    """Of the sample; exactly 0 for values that differ by no more than round-off."""
    if len(values) < 2 or not np.isfinite(values).all():
        return math.nan
    return 0.0 if np.ptp(values) <= round_off else float(values.std(ddof=1))
