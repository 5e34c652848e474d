"""How much hangs on the one setting of a solver: around the best of those tried, and by chance."""

import math
from itertools import pairwise

import numpy as np

NEAR = 2.0  # points of error that are near the best


def sides(settings: np.ndarray, errors: np.ndarray) -> tuple[float, float]:
    """Points per decade that the error rises from the best setting to its neighbours, left, right.

    NaN on a side on which the range ends. `settings` are logarithms to base 10, in order.
    """
    best = int(np.argmin(errors))
    slopes = np.diff(errors) / np.diff(settings)
    left = -slopes[best - 1] if best > 0 else math.nan
    right = slopes[best] if best < len(slopes) else math.nan
    return float(left), float(right)


def spread(settings: np.ndarray, errors: np.ndarray) -> float:
    """The mean of the two sides of the best setting, or the one that there is."""
    return float(np.nanmean(sides(settings, errors)))


def width(settings: np.ndarray, errors: np.ndarray) -> float:
    """Decades around the best setting within NEAR points of its error, linear between settings."""
    best = int(np.argmin(errors))
    limit = errors[best] + NEAR
    reach = []
    for steps in (range(best, len(errors)), range(best, -1, -1)):
        there = settings[best]
        for k, following in pairwise(steps):
            if errors[following] > limit:
                part = (limit - errors[k]) / (errors[following] - errors[k])
                there = settings[k] + part * (settings[following] - settings[k])
                break
            there = settings[following]
        reach.append(abs(there - settings[best]))
    return float(sum(reach))


def expected_best(errors: np.ndarray, trials: int) -> float:
    """The expected lowest error among so many different settings drawn at random."""
    n = len(errors)
    ways = [math.comb(n - 1 - k, trials - 1) for k in range(n)]
    return float(np.dot(np.sort(errors), ways) / math.comb(n, trials))
