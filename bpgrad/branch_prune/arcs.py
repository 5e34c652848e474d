"""Two dimensions: the boundary of what open discs leave of a rectangle, exactly, as arcs.

A point of a circle is on that boundary if it lies in no other disc and in the rectangle. Each disc
and each side takes an interval of angles from a circle; what is left are its exposed arcs. With the
pieces of the sides that no disc covers they bound the uncovered part, so that there is none where
there are neither (there being a disc that meets the rectangle).
"""

from collections.abc import Iterator

import numpy as np
from scipy.spatial import cKDTree

from bpgrad.branch_prune.problem import Array, Box
from bpgrad.branch_prune.ray import Quadratic

#: Shorter arcs, in radians, are rounding: circles that nearly touch meet at angles that are right
#: to the square root of the unit round-off.
SHORTEST = 1e-7
#: Discs whose neighbours are looked up at a time.
BLOCK = 4096


class Arcs:
    """The exposed arcs and pieces of sides.

    Args:
        x: centres in the rectangle, (n, 2).
        radii: (n,), positive.
        box: the rectangle.
        which: the discs that may have an exposed arc; None for all. A disc without any has none
            either after all radii grew by the same amount, or others came.
    """

    def __init__(self, x: Array, radii: Array, box: Box, which: np.ndarray | None = None) -> None:
        self.box = box
        self.count = len(x)
        which = np.arange(len(x)) if which is None else which
        # Exposed arcs: number of the disc, angles from -π to π, and the point where they start.
        # Where one ends another starts, or a piece of a side does.
        self.disc, self.start, self.end = np.empty(0, np.intp), np.empty(0), np.empty(0)
        self.corners = np.empty((0, 2))
        for block in _neighbours(x, radii, which):
            self._append(x, radii, *_exposed(x, radii, box, *block))
        # Pieces of sides: the axis along which they run, the other coordinate, and the ends.
        self.sides = np.array(
            [
                (axis, level, box.lower[axis], box.upper[axis])
                for axis in (0, 1)
                for level in (box.lower[1 - axis], box.upper[1 - axis])
            ]
        )
        for i in np.flatnonzero(_reach_out(x, radii, box)):
            self._cut_sides(x[i], radii[i])

    @property
    def discs(self) -> np.ndarray:
        """The discs that have exposed arcs."""
        return np.unique(self.disc)

    def add(self, x: Array, radii: Array) -> None:
        """Take the last of n discs in; the others are as they were."""
        i = len(x) - 1
        self.count = len(x)
        offsets = x[:i] - x[i]
        distances = np.sqrt(offsets[:, 0] ** 2 + offsets[:, 1] ** 2)
        meets = distances < radii[:i] + radii[i]
        (near,) = np.nonzero(meets)
        own = _exposed(
            x, radii, self.box, np.array([i]), np.full(len(near), i), near, distances[near]
        )
        hit = meets[self.disc]
        disc, start, end = self.disc[hit], self.start[hit], self.end[hit]
        self._keep(~hit)
        middle, width = _taken(x, radii, disc, np.full(len(disc), i), distances[disc])
        low, high = middle - width, middle + width
        # The interval, and what of it lies beyond ±π.
        disc, start, end, low, high = _minus(disc, start, end, low, high)
        turn = np.where(low + high > 0.0, -2.0 * np.pi, 2.0 * np.pi)
        disc, start, end, *_ = _minus(disc, start, end, low + turn, high + turn)
        self._append(x, radii, disc, start, end)
        self._append(x, radii, *own)
        self._cut_sides(x[i], radii[i])

    def nearest(self, measure: Quadratic, x: Array, radii: Array) -> tuple[float, Array] | None:
        """The uncovered point of least measure, with it; None if there is none.

        It is an end of an arc, a point of an arc where the measure is stationary (only circles
        around a part of the ray have such that are minima, just off the place where the ray leaves
        them), or on a side.
        """
        points = np.concatenate([self.corners, self._on_sides(measure)])
        values = measure.of(points)
        tips = self._tips(measure, x, radii, float(values.min(initial=np.inf)))
        points, values = np.concatenate([points, tips]), np.append(values, measure.of(tips))
        if len(points) == 0:
            return None
        best = int(np.argmin(values))
        return float(values[best]), points[best]

    def _tips(self, measure: Quadratic, x: Array, radii: Array, most: float) -> Array:
        """The points of arcs where the measure is stationary and perhaps less than ``most``."""
        tips, of = measure.tips(x, radii, most)
        number = np.full(len(x), -1)
        number[of] = np.arange(len(of))
        which = number[self.disc]
        (near,) = np.nonzero(which >= 0)
        which = which[near]
        away = tips[which] - x[self.disc[near]]
        angle = np.arctan2(away[:, 1], away[:, 0])
        exposed = (self.start[near] <= angle) & (angle <= self.end[near])
        return self.box.clip(tips[which[exposed]])

    def _keep(self, which: np.ndarray) -> None:
        self.disc, self.start, self.end = self.disc[which], self.start[which], self.end[which]
        self.corners = self.corners[which]

    def _append(self, x: Array, radii: Array, disc: np.ndarray, start: Array, end: Array) -> None:
        around = np.column_stack([np.cos(start), np.sin(start)])
        corners = self.box.clip(x[disc] + radii[disc, None] * around)
        self.disc = np.concatenate([self.disc, disc])
        self.start = np.concatenate([self.start, start])
        self.end = np.concatenate([self.end, end])
        self.corners = np.concatenate([self.corners, corners])

    def _on_sides(self, measure: Quadratic) -> Array:
        """The point of least measure of each piece of a side."""
        if len(self.sides) == 0:
            return np.empty((0, 2))
        axis = self.sides[:, 0].astype(np.intp)
        rows = np.arange(len(axis))
        lows, highs = np.empty((len(axis), 2)), np.empty((len(axis), 2))
        lows[rows, axis], highs[rows, axis] = self.sides[:, 2], self.sides[:, 3]
        lows[rows, 1 - axis] = highs[rows, 1 - axis] = self.sides[:, 1]
        return measure.on_segments(lows, highs)

    def _cut_sides(self, x: Array, radius: float) -> None:
        """Take the disc off the pieces of sides."""
        axis = self.sides[:, 0].astype(np.intp)
        room = radius**2 - (self.sides[:, 1] - x[1 - axis]) ** 2
        if not np.any(room > 0.0):
            return
        reach = np.sqrt(np.maximum(room, 0.0))
        low, high = x[axis] - reach, x[axis] + reach
        least = SHORTEST * radius
        left = [self.sides[room <= 0.0]]
        for start, end in (
            (self.sides[:, 2], np.minimum(self.sides[:, 3], low)),
            (np.maximum(self.sides[:, 2], high), self.sides[:, 3]),
        ):
            pieces = np.column_stack([self.sides[:, :2], start, end])
            left.append(pieces[(room > 0.0) & (end - start > least)])
        self.sides = np.concatenate(left)


def _reach_out(x: Array, radii: Array, box: Box) -> np.ndarray:
    """Which discs meet a side."""
    room = np.minimum(x - box.lower, box.upper - x).min(axis=1)
    return np.asarray(room < radii)


def _minus(
    disc: np.ndarray, start: Array, end: Array, low: Array, high: Array
) -> tuple[np.ndarray, Array, Array, Array, Array]:
    """What is left of arcs, one interval of angles taken off each; with disc and interval."""
    starts = np.concatenate([start, np.maximum(start, high)])
    ends = np.concatenate([np.minimum(end, low), end])
    (kept,) = np.nonzero(ends - starts > SHORTEST)
    of = kept % max(len(disc), 1)
    return disc[of], starts[kept], ends[kept], low[of], high[of]


def _taken(
    x: Array, radii: Array, i: np.ndarray, j: np.ndarray, distances: Array
) -> tuple[Array, Array]:
    """The angles that disc j takes from circle i: the middle, and half the width.

    The width is π for a circle inside the disc, and 0 for a disc inside the circle.
    """
    offsets = x[j] - x[i]
    middle = np.arctan2(offsets[:, 1], offsets[:, 0])
    with np.errstate(divide="ignore", invalid="ignore"):
        cosine = (
            distances / radii[i]
            + (radii[i] - radii[j]) * (radii[i] + radii[j]) / (radii[i] * distances)
        ) / 2.0
    cosine = np.where(distances > 0.0, cosine, np.where(radii[j] > radii[i], -1.0, 1.0))
    return middle, np.arccos(np.clip(cosine, -1.0, 1.0))


def _neighbours(
    x: Array, radii: Array, which: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, Array]]:
    """Blocks of discs, with pairs (i, j) of one of them and a disc that meets it, and distances."""
    tree = cKDTree(x)
    largest = float(radii.max(initial=0.0))
    for at in range(0, max(len(which), 1), BLOCK):
        block = which[at : at + BLOCK]
        # The smaller of two discs that meet is within twice the larger's radius of it.
        own = radii[block]
        found = tree.query_ball_point(x[block], np.minimum(2.0 * own, own + largest))
        lengths = np.array([len(each) for each in found], dtype=np.intp)
        i = np.repeat(block, lengths)
        j = np.fromiter((k for each in found for k in each), np.intp, int(lengths.sum()))
        i, j = i[i != j], j[i != j]
        small = cKDTree(x[block])
        larger = np.flatnonzero(radii > own.min(initial=np.inf))
        most = float(own.max(initial=0.0))
        found = small.query_ball_point(
            x[larger], np.minimum(2.0 * radii[larger], radii[larger] + most)
        )
        lengths = np.array([len(each) for each in found], dtype=np.intp)
        more = np.repeat(larger, lengths)
        less = block[np.fromiter((k for each in found for k in each), np.intp, int(lengths.sum()))]
        keep = radii[more] > radii[less]
        i, j = np.concatenate([i, less[keep]]), np.concatenate([j, more[keep]])
        offsets = x[i] - x[j]
        distances = np.sqrt(offsets[:, 0] ** 2 + offsets[:, 1] ** 2)
        # A pair may have been found twice, which does no harm.
        meets = distances < radii[i] + radii[j]
        yield block, i[meets], j[meets], distances[meets]


def _exposed(
    x: Array,
    radii: Array,
    box: Box,
    block: np.ndarray,
    i: np.ndarray,
    j: np.ndarray,
    distances: Array,
) -> tuple[np.ndarray, Array, Array]:
    """The exposed arcs of some discs, given the pairs with all that they meet."""
    middle, width = _taken(x, radii, i, j, distances)
    discs, middles, widths = [i], [middle], [width]
    own, r = x[block], radii[block]
    right, top = (box.upper - own).T
    left, bottom = (own - box.lower).T
    for room, angle in ((right, 0.0), (left, np.pi), (top, np.pi / 2), (bottom, -np.pi / 2)):
        out = room < r
        discs.append(block[out])
        middles.append(np.full(int(out.sum()), angle))
        widths.append(np.arccos(np.clip(room[out] / r[out], -1.0, 1.0)))
    disc, middle, width = map(np.concatenate, (discs, middles, widths))
    low, high = middle - width, middle + width
    under, over = low < -np.pi, high > np.pi
    ends = np.full(len(block), np.pi)
    disc = np.concatenate([disc, disc[under], disc[over], block, block])
    starts = np.concatenate(
        [low, low[under] + 2 * np.pi, np.full(int(over.sum()), -np.pi), -ends, ends]
    )
    stops = np.concatenate(
        [high, np.full(int(under.sum()), np.pi), high[over] - 2 * np.pi, -ends, ends]
    )
    order = np.lexsort((starts, disc))
    disc, starts, stops = disc[order], starts[order], stops[order]
    # The largest end so far, disc by disc: a shift that grows keeps them apart.
    rank = np.cumsum(np.concatenate([[0], disc[1:] != disc[:-1]])) if len(disc) else disc
    reached = np.maximum.accumulate(stops + 100.0 * rank) - 100.0 * rank
    gap = (disc[1:] == disc[:-1]) & (starts[1:] - reached[:-1] > SHORTEST)
    return disc[:-1][gap], reached[:-1][gap], starts[1:][gap]
