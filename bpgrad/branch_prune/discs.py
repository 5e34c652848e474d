"""Two dimensions: whether open discs cover a small rectangle, decided at finitely many points."""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from bpgrad.branch_prune.problem import Array

#: Intersections of circles that nearly touch are right to the square root of the unit round-off.
BLUR = 1e-7


@cache
def _pairs(k: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    return np.triu_indices(k, 1)


def vertices(centres: Array, radii: Array, centre: Array, half: Array) -> Array:
    """Where boundaries meet in a rectangle: its corners, circles and sides, pairs of circles.

    If some point of the rectangle is outside all open discs, so is one of these: the part outside
    is bounded by sides and by arcs that bend into it, and cannot be without a corner.

    Args:
        centres: (k, 2).
        radii: (k,).
        centre: of the rectangle, (2,).
        half: half its sides, (2,).

    Returns:
        The points, (n, 2). Pairs of circles that touch but for rounding count as meeting.
    """
    corners = centre + half * np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]])
    lines = centre + half * np.array([[-1], [1]])  # [side, axis]
    found = [corners]
    for axis in (0, 1):
        root = radii**2 - (lines[:, axis, None] - centres[:, axis]) ** 2
        side, disc = np.nonzero(root >= 0.0)
        reach = np.sqrt(root[side, disc])
        for sign in (-1.0, 1.0):
            points = np.empty((len(side), 2))
            points[:, axis] = lines[side, axis]
            points[:, 1 - axis] = centres[disc, 1 - axis] + sign * reach
            found.append(points)
    i, j = _pairs(len(radii))
    between = centres[j] - centres[i]
    square = np.einsum("ij,ij->i", between, between)
    with np.errstate(divide="ignore", invalid="ignore"):
        part = (1.0 + (radii[i] ** 2 - radii[j] ** 2) / square) / 2
        root = radii[i] ** 2 / square - part**2
    blur = 1e-14 * np.maximum(radii[i], radii[j]) ** 2 / np.maximum(square, 1e-300)
    meet = np.flatnonzero(root >= -blur)
    foot = centres[i[meet]] + part[meet, None] * between[meet]
    across = np.sqrt(np.maximum(root[meet], 0.0))[:, None] * between[meet][:, ::-1] * [-1.0, 1.0]
    found += [foot - across, foot + across]
    points = np.concatenate(found)
    return np.asarray(points[np.all(np.abs(points - centre) <= half * (1.0 + 1e-9), axis=1)])


def uncovered(centres: Array, radii: Array, centre: Array, half: Array) -> tuple[Array, bool]:
    """Points of a rectangle outside all open discs, and whether the discs surely cover it.

    Returns:
        The `vertices` outside all open discs, (n, 2), and True if there is a disc around each
        vertex that reaches beyond it by more than rounding can account for. Neither may hold.
    """
    points = vertices(centres, radii, centre, half)
    offsets = points[:, None, :] - centres
    depth = radii - np.sqrt(np.einsum("ijk,ijk->ij", offsets, offsets))
    deepest = depth.max(axis=1)
    return points[deepest <= 1e-12 * radii.max()], bool(np.all(deepest > BLUR * radii.max()))
