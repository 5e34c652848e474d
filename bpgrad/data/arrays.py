"""Arrays that are kept in a file and mapped into memory, with a checksum."""

import hashlib
import warnings
from pathlib import Path

import numpy as np

from bpgrad.data.files import atomic_writer

_SHA256_BYTES = 32


def read_array(path: Path) -> np.ndarray | None:
    """The array of `write_array` as a private map of the file; None if absent or not whole."""
    whole = False
    try:
        raw = np.memmap(path, np.uint8, mode="r")
        content, digest = raw[:-_SHA256_BYTES], raw[-_SHA256_BYTES:]
        whole = hashlib.sha256(content.data).digest() == digest.tobytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError):  # numpy's answer to an empty file is ValueError
        pass
    if not whole:
        warnings.warn(f"{path}: truncated or corrupt; preparing the data again", stacklevel=3)
        return None
    # Copy-on-write, since torch wants writable memory: nothing ever reaches the file.
    return np.load(path, mmap_mode="c")


def write_array(path: Path, prepared: np.ndarray) -> None:
    """Write a .npy file and, behind the array, where numpy ignores it, the sha256 of all before."""
    try:
        with atomic_writer(path) as file:
            np.save(file, prepared)
            file.seek(0)
            file.write(hashlib.file_digest(file, "sha256").digest())
    except OSError as error:
        warnings.warn(
            f"{path}: not written ({error.strerror}); going on without a cache", stacklevel=3
        )
