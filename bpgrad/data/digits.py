"""The 1797 handwritten digits that scikit-learn carries: real data without a download."""

import hashlib
import importlib.util
from pathlib import Path

import numpy as np

from bpgrad.data.images import ImageSet, mean_centred
from bpgrad.errors import DataError

# Of the embedded arrays: pixels as uint8 (1797, 8, 8), labels as uint8 (1797,).
MD5: dict[str, str] = {
    "pixels": "fa70cba135d4cdd4cde65da70dbffde2",
    "labels": "96ecbac7ce6c9c7e9f9f82160cffba40",
}

MEND = "install the scikit-learn of requirements.lock"

SPLIT_SEED = 0
VAL_FRACTION = 0.2


def load() -> tuple[ImageSet, ImageSet]:
    """About 80 % of the images for training and 20 % for validation, (N, 1, 8, 8).

    Pixels are 0..16 minus the mean image of the training part. The split is the same in every run:
    drawn once, with a seed of its own, within each class.

    Raises:
        DataError: the installed scikit-learn lacks the file, or carries other arrays.
    """
    path = _embedded_file()
    try:
        table = np.loadtxt(path, delimiter=",", dtype=np.uint8)
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"digits: {path} cannot be read ({error}); {MEND}") from error
    pixels, labels = table[:, :-1].reshape(-1, 8, 8), table[:, -1]
    for name, array in (("pixels", pixels), ("labels", labels)):
        found = hashlib.md5(array.tobytes()).hexdigest()
        if found != MD5[name]:
            raise DataError(
                f"digits: the {name} in {path} have md5 {found}, expected {MD5[name]}; {MEND}"
            )
    val = _validation_mask(labels)
    return mean_centred((pixels[~val], labels[~val]), (pixels[val], labels[val]))


def _embedded_file() -> Path:
    """The file behind `sklearn.datasets.load_digits`, whose import alone takes seconds."""
    spec = importlib.util.find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise DataError(f"digits: scikit-learn is not installed; {MEND}")
    return Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"


def _validation_mask(labels: np.ndarray) -> np.ndarray:
    """Bool (N,), true for `VAL_FRACTION` of each class."""
    # RandomState, because numpy keeps its stream for good, while that of default_rng may change.
    stream = np.random.RandomState(SPLIT_SEED)
    mask = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = stream.permutation(np.flatnonzero(labels == label))
        mask[members[: round(VAL_FRACTION * len(members))]] = True
    return mask
