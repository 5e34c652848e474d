"""Two and more dimensions: what the balls cover, decided by subdivision of the box."""

import math
from collections import deque
from dataclasses import dataclass

import numpy as np

from bpgrad.branch_prune.problem import Array, Box
from bpgrad.branch_prune.ray import Quadratic
from bpgrad.branch_prune.samples import Samples

#: Pairs of a box and a ball that are looked at together, at the most; more are dealt with in parts.
PAIRS = 10**6


@dataclass
class _Boxes:
    """Boxes of one size, with the balls that may meet them.

    Attributes:
        centres: (B, D).
        half: half the sides, (D,).
        low: max_i {f_i − L · (distance of x_i from the farthest corner)}, (B,).
        high: max_i {f_i − L · (distance of x_i from the centre)}, (B,).
        box, ball: pairs of a box (its number) and a sample, (P,).
    """

    centres: Array
    half: Array
    low: Array
    high: Array
    box: np.ndarray
    ball: np.ndarray

    def only(self, which: np.ndarray) -> "_Boxes":
        """Some of them; ``which`` is a mask, (B,)."""
        number = np.cumsum(which) - 1
        pairs = which[self.box]
        box, ball = number[self.box[pairs]], self.ball[pairs]
        return _Boxes(self.centres[which], self.half, self.low[which], self.high[which], box, ball)


class Cover:
    r"""Boxes that the balls have not yet been found to cover, as long as τ does not rise.

    With the threshold τ = ρm, a box is covered if it lies inside one ball, in the form
    max_i {f_i − L · (distance of x_i from the box's farthest corner)} ≥ τ. A box of which that
    maximum is at least τ − slack counts as covered too, so that boxes along the places where balls
    barely overlap need not be split for ever; `lowest` keeps the least maximum, and that is what a
    covering certifies. Every point of a covered box lies within slack/L of a ball: that is the
    resolution. A box with half-diagonal at most slack/L whose centre is covered passes the test, so
    that the subdivision comes to an end.

    Balls only grow while τ falls, so what is covered stays so. Boxes keep the balls that would meet
    them at the threshold ``floor`` < τ; below it the cover has to be built anew.

    Args:
        samples: the centres and values.
        box: X.
        lipschitz: L.
        threshold: τ at present.
        floor: the least τ for which the cover will be used.
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
        self.bounds = box
        self.lipschitz = lipschitz
        self.threshold = threshold
        self.floor = floor
        self.slack = slack
        self.lowest = math.inf
        centre, half = (box.lower + box.upper)[None] / 2, box.sides / 2
        ball = np.arange(samples.n)
        self.open = deque([self._boxes(centre, half, np.zeros_like(ball), ball)])

    @property
    def resolution(self) -> float:
        """How far a point of a covered box may lie from every ball, in units of length."""
        return max(0.0, self.threshold - self.lowest) / self.lipschitz

    def update(self, threshold: float, slack: float) -> None:
        """Take note of the newest sample, and of a τ that has fallen, not below ``floor``."""
        self.threshold = threshold
        self.slack = slack
        i = self.samples.n - 1
        x, f = self.samples.x[i], float(self.samples.f[i])
        reach = (f - self.floor) / self.lipschitz
        for boxes in self.open:
            away = np.abs(boxes.centres - x)
            far, near = away + boxes.half, np.maximum(away - boxes.half, 0.0)
            boxes.low = np.maximum(boxes.low, f - self.lipschitz * _length(far))
            boxes.high = np.maximum(boxes.high, f - self.lipschitz * _length(away))
            (meets,) = np.nonzero(_length(near) < reach)
            boxes.box = np.concatenate([boxes.box, meets])
            boxes.ball = np.concatenate([boxes.ball, np.full(len(meets), i)])

    def search(self, measure: Quadratic | None, budget: float) -> tuple[Array | None, bool]:
        """A point outside all open balls, if there is one in an open box.

        Args:
            measure: which of the points that come to light together to take; None to look for
                none and only to subdivide, the largest boxes first.
            budget: number of boxes after which to give up.

        Returns:
            The point, or None, and whether the search came to its end. None and True: every box is
            covered.
        """
        while self.open:
            boxes = self.open.pop()
            covered = boxes.low >= self.threshold - self.slack
            if covered.any():
                self.lowest = min(self.lowest, float(boxes.low[covered].min()))
                boxes = boxes.only(~covered)
            if len(boxes.centres) == 0:
                continue
            (outside,) = np.nonzero(boxes.high <= self.threshold)
            if measure is not None and len(outside):
                self.open.append(boxes)
                points = self.bounds.clip(boxes.centres[outside])
                return points[np.argmin(measure.of(points))], False
            if budget <= 0:
                self.open.append(boxes)
                return None, False
            budget -= len(boxes.centres)
            if measure is None:
                self.open.extendleft(self._split(boxes))
            else:
                self.open.extend(self._split(boxes))
        return None, True

    def nearest(
        self, measure: Quadratic, most: float, tolerance: float, budget: float
    ) -> tuple[Array | None, bool]:
        """The point outside all open balls that has the least measure, to a tolerance.

        Args:
            measure: of Eq. 5.
            most: the measure of a point that is known.
            tolerance: relative, of the measure.
            budget: number of boxes after which to give up.

        Returns:
            A point of a measure below ``most``, or None, and whether the search came to its end:
            no point of X then has a measure below that of the point found, or ``most``, divided by
            1 + tolerance, but for points within slack/L of a ball.
        """
        found = None
        while self.open:
            boxes = self.open.popleft()
            values = np.where(boxes.high <= self.threshold, measure.of(boxes.centres), np.inf)
            least = int(np.argmin(values))
            if values[least] < most:
                most, found = float(values[least]), self.bounds.clip(boxes.centres[least])
            boxes = boxes.only(
                (boxes.low < self.threshold - self.slack)
                & (measure.at_least(boxes.centres, boxes.half) < most / (1.0 + tolerance))
            )
            if len(boxes.centres) == 0:
                continue
            if budget <= 0:
                return found, False
            budget -= len(boxes.centres)
            self.open.extend(self._split(boxes))
        return found, True

    def bound(self) -> float:
        """A lower bound of f on the box: the least over covered and open boxes."""
        return min([self.lowest, *(float(boxes.low.min()) for boxes in self.open)])

    def weakest(self) -> Array:
        """The centre of the open box with the least bound."""
        boxes = min(self.open, key=lambda each: float(each.low.min()))
        return self.bounds.clip(boxes.centres[int(np.argmin(boxes.low))])

    def _split(self, boxes: _Boxes) -> list[_Boxes]:
        """Halves of the boxes across their longest side, in parts of bounded size."""
        axis = int(np.argmax(boxes.half))
        half = boxes.half.copy()
        half[axis] /= 2
        # Each box with its pairs first in the one half, then in the other.
        count = len(boxes.centres)
        centres = np.concatenate([boxes.centres, boxes.centres])
        centres[:count, axis] -= half[axis]
        centres[count:, axis] += half[axis]
        box = np.concatenate([boxes.box, boxes.box + count])
        ball = np.concatenate([boxes.ball, boxes.ball])
        parts = 1 + len(box) // PAIRS
        if parts == 1 or count == 1:
            return [self._boxes(centres, half, box, ball)]
        found = []
        for numbers in np.array_split(np.arange(2 * count), parts):
            first, last = numbers[0], numbers[-1] + 1
            which = (box >= first) & (box < last)
            found.append(self._boxes(centres[numbers], half, box[which] - first, ball[which]))
        return found

    def _boxes(self, centres: Array, half: Array, box: np.ndarray, ball: np.ndarray) -> _Boxes:
        """Boxes with what their balls, of those given, prove; balls that miss them are left out."""
        f = self.samples.f[ball]
        near, far, away = np.zeros(len(box)), np.zeros(len(box)), np.zeros(len(box))
        for k in range(len(half)):
            step = np.abs(self.samples.x[ball, k] - centres[box, k])
            away += step**2
            far += (step + half[k]) ** 2
            near += np.maximum(step - half[k], 0.0) ** 2
        reach = (f - self.floor) / self.lipschitz
        meets = near < reach**2
        low, high = np.full(len(centres), -np.inf), np.full(len(centres), -np.inf)
        np.maximum.at(low, box, f - self.lipschitz * np.sqrt(far))
        np.maximum.at(high, box, f - self.lipschitz * np.sqrt(away))
        return _Boxes(centres, half, low, high, box[meets], ball[meets])


def _length(x: Array) -> Array:
    return np.asarray(np.sqrt(np.einsum("ij,ij->i", x, x)))
