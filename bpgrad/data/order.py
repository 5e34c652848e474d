"""The order of the images and the mirror coins: functions of seed and epoch, and of nothing else.

Neither solver nor device, world size or resume point enters, so that all solvers of one seed see
the same batches (reference §0). Generators live on the CPU; numpy's SeedSequence mixes the numbers,
so that neighbouring seeds and epochs share nothing.
"""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

Phase = Literal["train", "val"]

# The streams of one epoch. SeedSequence reads a missing word as 0, so `order` is [seed, epoch].
_ORDER = 0
_MIRROR: dict[Phase, int] = {"train": 1, "val": 2}
_HOLDOUT, _LABEL_NOISE, _SUBSET = 3, 4, 5
_AUGMENTATION, _DROPOUT = 6, 7  # of single examples


def epoch_generator(seed: int, epoch: int) -> torch.Generator:
    """A CPU generator at the start of the stream that orders epoch `epoch` of seed `seed`.

    Raises:
        ValueError: `seed` or `epoch` is not in [0, 2³²).
    """
    return _generator(seed, epoch, _ORDER)


def train_order(n: int, seed: int, epoch: int) -> Tensor:
    """The permutation (n,), int64, in which epoch `epoch` visits the n training images."""
    return torch.randperm(n, generator=epoch_generator(seed, epoch))


def mirror_coins(batches: int, seed: int, epoch: int, phase: Phase) -> Tensor:
    """One fair coin a batch, bool (batches,): whether the whole batch is mirrored (reference §2).

    Training and validation batches have streams of their own, so that the number of batches of one
    phase cannot change the coins of the other.
    """
    generator = _generator(seed, epoch, _MIRROR[phase])
    return torch.randint(2, (batches,), generator=generator).bool()


def holdout_split(n: int, part: float) -> tuple[Tensor, Tensor]:
    """Indices (int64, ascending) of the examples to train on, and of the `part` held out.

    The last round(part · n) of a permutation that is the same for every seed of a run, so that all
    configurations that are tuned are judged by the same examples.
    """
    permutation = torch.randperm(n, generator=_generator(0, 0, _HOLDOUT))
    kept = n - round(part * n)
    return permutation[:kept].sort().values, permutation[kept:].sort().values


def fixed_subset(total: int, n: int) -> Tensor:
    """Some of `total` indices (int64, ascending), drawn evenly; the same for every seed of a run.

    For examples that lie sorted by class, of which the first n would be of few classes.
    """
    permutation = torch.randperm(total, generator=_generator(0, 0, _SUBSET))
    return permutation[:n].sort().values


def example_draws(seed: int, epoch: int, index: int, n: int) -> np.ndarray:
    """Numbers (n,), float64, in (0, 1), drawn to augment example `index` in an epoch.

    Made of a hash, which is the same in every version of numpy, unlike what a generator makes of
    its bits.
    """
    words = _example_words(seed, epoch, index, _AUGMENTATION, n, np.uint64)
    return ((words >> np.uint64(11)) + 0.5) * 2.0**-53


def example_coins(seed: int, epoch: int, index: int, n: int) -> np.ndarray:
    """Fair coins for example `index` in an epoch, n of them, eight a byte: uint8 (⌈n/8⌉,)."""
    words = _example_words(seed, epoch, index, _DROPOUT, -(-n // 32), np.uint32)
    return words.astype("<u4").view(np.uint8)[: -(-n // 8)]


def _example_words(
    seed: int, epoch: int, index: int, stream: int, n: int, kind: type[np.uint32] | type[np.uint64]
) -> np.ndarray:
    return np.random.SeedSequence([seed, epoch, stream, index]).generate_state(n, kind)


def noisy_labels(labels: Tensor, part: float, classes: int) -> Tensor:
    """The labels (N,), int64, with round(part · N) of them drawn uniformly over the classes.

    A drawn label may be the true one. The same for every seed of a run.
    """
    generator = _generator(0, 0, _LABEL_NOISE)
    chosen = torch.randperm(len(labels), generator=generator)[: round(part * len(labels))]
    drawn = torch.randint(classes, (len(chosen),), generator=generator)
    return labels.index_put((chosen.to(labels.device),), drawn.to(labels))


def _generator(seed: int, epoch: int, stream: int) -> torch.Generator:
    # Larger numbers would spill into the next word, and two different triples could coincide.
    for name, value in (("seed", seed), ("epoch", epoch)):
        if not 0 <= value < 2**32:
            raise ValueError(f"{name}={value}: expected an integer from 0 to 2**32 - 1")
    (mixed,) = np.random.SeedSequence([seed, epoch, stream]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(mixed))
