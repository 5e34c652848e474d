"""The 1797 handwritten digits that scikit-learn carries: real data without a download."""

import hashlib

import numpy as np

from bpgrad.data.images import ImageSet, mean_centred
from bpgrad.errors import DataError

# Of the embedded arrays: pixels as uint8 (1797, 8, 8), labels as uint8 (1797,).
MD5: dict[str, str] = {
    "pixels": "fa70cba135d4cdd4cde65da70dbffde2",
    "labels": "96ecbac7ce6c9c7e9f9f82160cffba40",
}

SPLIT_SEED = 0
VAL_FRACTION = 0.2


def load() -> tuple[ImageSet, ImageSet]:
    """About 80 % of the images for training and 20 % for validation, (N, 1, 8, 8).

    Pixels are 0..16 minus the mean image of the training part. The split is the same in every run:
    drawn once, with a seed of its own, within each class.

    Raises:
        DataError: the installed scikit-learn carries other arrays.
    """
    import sklearn.datasets  # takes seconds to import, and the other tasks do not need it

    pixels, labels = sklearn.datasets.load_digits(return_X_y=True)
    pixels, labels = pixels.astype(np.uint8).reshape(-1, 8, 8), labels.astype(np.uint8)
    for name, array in (("pixels", pixels), ("labels", labels)):
        found = hashlib.md5(array.tobytes()).hexdigest()
        if found != MD5[name]:
            raise DataError(
                f"digits: the {name} of scikit-learn {sklearn.__version__}'s load_digits have md5 "
                f"{found}, expected {MD5[name]}; install the version in requirements.lock"
            )
    val = _validation_mask(labels)
    return mean_centred((pixels[~val], labels[~val]), (pixels[val], labels[val]))


def _validation_mask(labels: np.ndarray) -> np.ndarray:
    """Bool (N,), true for `VAL_FRACTION` of each class."""
    # RandomState, because numpy keeps its stream for good, while that of default_rng may change.
    stream = np.random.RandomState(SPLIT_SEED)
    mask = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = stream.permutation(np.flatnonzero(labels == label))
        mask[members[: round(VAL_FRACTION * len(members))]] = True
    return mask
