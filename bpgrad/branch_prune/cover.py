"""Two and more dimensions: which part of the box the balls cover, by subdivision."""

import heapq
import math
from dataclasses import dataclass

import numpy as np

from bpgrad.branch_prune.discs import uncovered
from bpgrad.branch_prune.problem import Array, Box
from bpgrad.branch_prune.samples import Samples

#: Most discs with which a rectangle is decided by their intersections.
MOST_DISCS = 16


@dataclass(frozen=True)
class Quadratic:
    """Twice the distortion of Eq. 5 as a function of x, the best η for each x put in.

    Minimising ½‖x − (x_t − ηd)‖² + γη² over η ≥ 0 leaves ½ (q² + κp²), where p is how far x lies
    ahead of x_t along −d, q its distance from that line, and κ = 2γ/(1 + 2γ) ahead, 1 behind. It
    is the square of a norm-like function whose balls are long ahead of x_t: the smaller γ, the
    longer.
    """

    origin: Array
    direction: Array
    kappa: float

    def __call__(self, x: Array) -> float:
        """q² + κp² (p² behind)."""
        step = self.origin - x
        p = float(step @ self.direction)
        square = float(step @ step)
        return max(square - p * p, 0.0) + (self.kappa if p > 0.0 else 1.0) * p * p


class _Node:
    """A box of the tree: centre and half sides, and the balls that may meet it."""

    __slots__ = ("centre", "closed", "half", "ids", "kids", "parent")

    def __init__(
        self, centre: tuple[float, ...], half: tuple[float, ...], parent: "_Node | None"
    ) -> None:
        self.centre = centre
        self.half = half
        self.parent = parent
        self.kids: tuple[_Node, _Node] | None = None
        self.ids: list[int] = []
        self.closed = False


class Cover:
    r"""A tree of boxes that knows what the balls cover as long as the threshold does not rise.

    With the threshold τ = ρm, a box is covered if it lies inside one ball, in the form
    max_i {f_i − L · (distance of x_i from the box's farthest corner)} ≥ τ. A box of which that
    maximum is at least τ − slack counts as covered too, so that boxes along the places where balls
    barely overlap need not be split for ever; `lowest` keeps the least maximum, and that is what a
    covering certifies. Every point of a covered box lies within slack/L of a ball: that is the
    resolution. A box with half-diagonal at most slack/L whose centre is covered passes the test, so
    that the subdivision comes to an end.

    Balls only grow while τ falls, so what is covered stays so. Each open leaf lists the balls that
    would meet it at the threshold ``floor`` < τ; below it the tree has to be built anew.

    Args:
        samples: the centres and values.
        box: X.
        lipschitz: L.
        threshold: τ at present.
        floor: the least τ for which the tree will be used.
        slack: how much a covered box may miss τ by.
    """

    def __init__(
        self,
        samples: Samples,
        box: Box,
        lipschitz: float,
        threshold: float,
        floor: float,
        slack: float,
    ) -> None:
        self.samples = samples
        self.lipschitz = lipschitz
        self.threshold = threshold
        self.floor = floor
        self.slack = slack
        self.lowest = math.inf
        self.boxes = 0
        centre = tuple(((box.lower + box.upper) / 2).tolist())
        half = tuple((box.sides / 2).tolist())
        self.lower, self.upper = box.lower, box.upper
        self.root = _Node(centre, half, None)
        self.root.ids = list(range(samples.n))

    @property
    def resolution(self) -> float:
        """How far a point of a covered box may lie from every ball, in units of length."""
        return max(0.0, self.threshold - self.lowest) / self.lipschitz

    def update(self, threshold: float, slack: float) -> None:
        """Take note of a τ that has fallen, not below ``floor``."""
        self.threshold = threshold
        self.slack = slack

    def insert(self, i: int) -> None:
        """Let sample i close the boxes inside its ball; the leaves that it meets remember it."""
        x = self.samples.x[i].tolist()
        f = float(self.samples.f[i])
        reach = (f - self.floor) / self.lipschitz
        inside = (f - (self.threshold - self.slack)) / self.lipschitz
        if reach <= 0.0:
            return
        reach, inside = reach * reach, inside * inside if inside > 0.0 else -1.0
        stack = [self.root]
        while stack:
            node = stack.pop()
            if node.closed:
                continue
            near = far = 0.0
            for xk, c, h in zip(x, node.centre, node.half, strict=True):
                a = abs(xk - c)
                far += (a + h) * (a + h)
                if a > h:
                    near += (a - h) * (a - h)
            if near >= reach:
                continue
            if far <= inside:
                self._close(node, f - self.lipschitz * math.sqrt(far))
            elif node.kids is not None:
                stack += node.kids
            else:
                node.ids.append(i)

    def nearest(
        self,
        measure: Quadratic,
        tolerance: float,
        found: tuple[float, Array] | None,
        budget: float,
    ) -> tuple[tuple[float, Array] | None, bool]:
        """An uncovered point whose measure is at most (1 + tolerance) times the least there is.

        Boxes are visited in the order of a lower bound of the measure on them. Uncovered means that
        the point is in no open ball; points which only boxes that count as covered contain are not
        found.

        Args:
            measure: what is to be small.
            tolerance: relative.
            found: measure of an uncovered point that is known, and the point.
            budget: number of boxes after which to give up.

        Returns:
            The point with its measure (None if there is none, or none was found) and whether the
            search came to its end. None and True: the box is covered.
        """
        origin = measure.origin.tolist()
        direction = measure.direction.tolist()
        best = math.inf if found is None else found[0]
        heap: list[tuple[float, int, _Node]] = []
        count = 0
        fresh = [self.root]
        while True:
            for node in fresh:
                if not node.closed:
                    count += 1
                    low = _least(node, origin, direction, measure.kappa)
                    if low * (1.0 + tolerance) < best:
                        heapq.heappush(heap, (low, count, node))
            if not heap:
                return found, True
            low, _, node = heapq.heappop(heap)
            if low * (1.0 + tolerance) >= best:
                return found, True
            fresh = []
            if node.kids is None:
                if budget <= 0:
                    return found, False
                budget -= 1
                points = self._examine(node)
                if len(points):
                    values = [measure(point) for point in points]
                    value = min(values)
                    if value < best:
                        best, found = value, (value, points[values.index(value)])
                if not node.closed and low * (1.0 + tolerance) < best:
                    self._split(node)
            if node.kids is not None:
                fresh = list(node.kids)

    def bound(self) -> float:
        """A lower bound of f on the box: the least over covered boxes and open leaves."""
        lowest = self.lowest
        stack = [self.root]
        while stack:
            node = stack.pop()
            if node.closed:
                continue
            if node.kids is not None:
                stack += node.kids
            elif node.ids:
                lowest = min(lowest, float(self._lower_bounds(node).max()))
            else:
                return -math.inf
        return lowest

    def _lower_bounds(self, node: _Node) -> Array:
        """f_i − L · (distance of x_i from the farthest corner) for the balls of a leaf."""
        far = np.abs(self.samples.x[node.ids] - node.centre)
        far += node.half
        distances = np.sqrt(np.einsum("ij,ij->i", far, far))
        return np.asarray(self.samples.f[node.ids] - self.lipschitz * distances)

    def _examine(self, node: _Node) -> Array:
        """Close a leaf that is covered; points of it that are not, (n, D), if any are seen."""
        self.boxes += 1
        centre = np.array(node.centre)
        if not node.ids:
            return self._clip(centre[None])
        bound = float(self._lower_bounds(node).max())
        if bound >= self.threshold - self.slack:
            self._close(node, bound)
            return np.empty((0, len(centre)))
        x = self.samples.x[node.ids]
        radii = (self.samples.f[node.ids] - self.threshold) / self.lipschitz
        if len(centre) == 2 and len(radii) <= MOST_DISCS:
            points, covered = uncovered(x, radii, centre, np.array(node.half))
            if covered:
                self._close(node, self.threshold)
            return self._clip(points)
        away = x - centre
        distances = np.sqrt(np.einsum("ij,ij->i", away, away))
        return self._clip(centre[None][: int(np.all(distances >= radii))])

    def _clip(self, points: Array) -> Array:
        return np.clip(points, self.lower, self.upper)

    def _split(self, node: _Node) -> None:
        """Halve a leaf across its longest side; each half keeps the balls that may meet it."""
        axis = max(range(len(node.half)), key=node.half.__getitem__)
        quarter = node.half[axis] / 2
        half = (*node.half[:axis], quarter, *node.half[axis + 1 :])
        ids = np.array(node.ids, dtype=np.intp)
        x = self.samples.x[ids]
        reach = (self.samples.f[ids] - self.floor) / self.lipschitz
        outside = np.maximum(np.abs(x - node.centre) - half, 0.0)
        outside[:, axis] = 0.0
        room = reach**2 - np.einsum("ij,ij->i", outside, outside)
        kids = []
        for sign in (-1.0, 1.0):
            c = node.centre[axis] + sign * quarter
            kid = _Node((*node.centre[:axis], c, *node.centre[axis + 1 :]), half, node)
            gap = np.maximum(np.abs(x[:, axis] - c) - quarter, 0.0)
            kid.ids = ids[(gap * gap < room) & (reach > 0.0)].tolist()
            kids.append(kid)
        node.kids = (kids[0], kids[1])
        node.ids = []

    def _close(self, node: _Node, bound: float) -> None:
        """Mark a box as covered, and the boxes around it of which nothing else is open."""
        self.lowest = min(self.lowest, bound)
        while True:
            node.closed = True
            node.kids = None
            node.ids = []
            if node.parent is None:
                return
            node = node.parent
            if node.kids is None or not all(kid.closed for kid in node.kids):
                return


def _least(node: _Node, origin: list[float], direction: list[float], kappa: float) -> float:
    """A lower bound of the measure on a box.

    A point of the box has p within Σ|d_k|h_k of the centre's and q within the half-diagonal.
    """
    p = extent = square = diagonal = 0.0
    for o, d, c, h in zip(origin, direction, node.centre, node.half, strict=True):
        step = o - c
        p += step * d
        square += step * step
        extent += abs(d) * h
        diagonal += h * h
    q = math.sqrt(max(square - p * p, 0.0)) - math.sqrt(diagonal)
    least = q * q if q > 0.0 else 0.0
    if p > extent:
        least += kappa * (p - extent) ** 2
    elif p < -extent:
        least += (p + extent) ** 2
    return least
