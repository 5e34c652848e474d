"""One dimension: the union of closed intervals, exactly, on a line or along a ray."""

import numpy as np

from bpgrad.branch_prune.problem import Array


def gaps(centres: Array, radii: Array, lower: float, upper: float, width: float) -> Array:
    """What the intervals [c − r, c + r] leave open of [lower, upper].

    A point right of the first k centres and left of the others is open iff it is not left of any
    right end of the former and not right of any left end of the latter: two running extrema give
    all the gaps in linear time.

    Args:
        centres: (n,), ascending, in [lower, upper].
        radii: (n,), not negative.
        lower: left end of the stretch.
        upper: right end.
        width: gaps not wider than this count as closed: touching intervals leave one point open,
            or through rounding a few, and nothing is to be looked for there.

    Returns:
        The gaps in ascending order, (k, 2), as closed intervals.
    """
    starts = np.concatenate([[lower], np.maximum.accumulate(centres + radii)])
    ends = np.concatenate([np.minimum.accumulate((centres - radii)[::-1])[::-1], [upper]])
    return np.stack([starts, ends], axis=1)[ends - starts > width]


def first_exit(starts: Array, ends: Array, reach: float, width: float) -> float | None:
    """The least p in [0, reach] outside all intervals (start, end); None if there is none.

    Args:
        starts: (n,), in any order.
        ends: (n,), of the same intervals, one of which contains 0.
        reach: where the ray ends.
        width: as in `gaps`.
    """
    order = np.argsort(starts)
    covered = np.maximum.accumulate(ends[order])
    following = np.append(starts[order][1:], reach)
    following = np.minimum(following, reach)
    candidates = np.flatnonzero((following - covered > width) & (covered >= 0.0))
    return float(covered[candidates[0]]) if len(candidates) else None


def envelope_minimum(
    centres: Array, values: Array, lipschitz: float, lower: float, upper: float
) -> float:
    """The minimum over [lower, upper] of max_i {f_i − L |x − c_i|} (left of Eq. 3).

    Args:
        centres: (n,), ascending.
        values: (n,), of a function that is L-Lipschitz on the centres. Then the envelope between
            two neighbours is that of the two.
        lipschitz: L.
        lower: left end of the stretch.
        upper: right end.
    """
    inner = (values[1:] + values[:-1] - lipschitz * np.diff(centres)) / 2
    outer = [
        values[0] - lipschitz * (centres[0] - lower),
        values[-1] - lipschitz * (upper - centres[-1]),
    ]
    return float(np.min(np.concatenate([inner, outer])))
