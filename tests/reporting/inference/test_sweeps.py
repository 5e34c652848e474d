"""How much hangs on one setting, by hand."""

import math

import numpy as np
import pytest

from bpgrad.reporting.inference import sweeps

GRID = np.array([0.5, 1.0, 1.5, 2.0, 2.5])


def test_spread_and_width_by_hand() -> None:
    errors = np.array([40.0, 21.0, 20.0, 24.0, 30.0])
    assert sweeps.sides(GRID, errors) == (2.0, 8.0)  # 1 and 4 points over half a decade
    assert sweeps.spread(GRID, errors) == 5.0
    # Left to 1.0 and 1/19 of the next half decade, right half of one.
    assert sweeps.width(GRID, errors) == pytest.approx(0.5 + 0.5 / 19 + 0.25)
    first = np.array([20.0, 21.0, 22.0, 22.1, 21.0])
    left, right = sweeps.sides(GRID, first)
    assert math.isnan(left)
    assert right == sweeps.spread(GRID, first) == 2.0
    assert sweeps.width(GRID, first) == pytest.approx(1.0)  # exactly 2 points are within
    last = first[::-1]
    assert math.isnan(sweeps.sides(GRID, last)[1])
    assert sweeps.width(GRID, last) == pytest.approx(1.0)
    assert sweeps.width(GRID, np.full(5, 90.0)) == 2.0
    # Exactly 2 points do not end it: on to a third of the way from 21 to 24.
    touching = np.array([20.0, 22.0, 21.0, 24.0, 30.0])
    assert sweeps.width(GRID, touching) == pytest.approx(1.0 + 0.5 / 3)


def test_the_expected_best_of_some_trials() -> None:
    errors = np.array([30.0, 10.0, 20.0, 50.0, 40.0])
    assert sweeps.expected_best(errors, 1) == errors.mean()
    # Of 10 pairs the lowest is 10 in 4, 20 in 3, 30 in 2, 40 in 1; of 10 triples in 6, 3, 1.
    assert sweeps.expected_best(errors, 2) == (40 + 60 + 60 + 40) / 10
    assert sweeps.expected_best(errors, 3) == (60 + 60 + 30) / 10
    assert sweeps.expected_best(errors, 5) == 10
