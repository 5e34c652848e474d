"""How far a score over images would be off with other images: the bootstrap."""

from collections.abc import Callable

import numpy as np

TIMES = 200  # resamples: a standard error of them is right to 5 %
BLOCK = 50  # resamples at once


def bootstrap(
    statistic: Callable[[np.ndarray], np.ndarray], images: int, *, times: int = TIMES, seed: int = 0
) -> np.ndarray:
    """A statistic of images that are drawn from these with replacement: float64 (times,).

    Args:
        statistic: Takes (B, images), int64: how often each image was drawn, in B resamples; returns
            (B,).
        images: Their number; as many are drawn.
        times: The number of resamples.
        seed: What is drawn is a hash of it, the same in every version of numpy.
    """
    words = np.random.SeedSequence([seed, images]).generate_state(times * images, np.uint64)
    drawn = np.floor((words >> np.uint64(11)) * 2.0**-53 * images).astype(np.int64)
    rows = np.repeat(np.arange(times), images)
    counts = np.bincount(rows * images + drawn, minlength=times * images).reshape(times, images)
    blocks = [statistic(counts[k : k + BLOCK]) for k in range(0, times, BLOCK)]
    return np.concatenate(blocks).astype(np.float64)
