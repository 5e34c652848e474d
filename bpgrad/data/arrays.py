"""Arrays that are kept in a file and mapped into memory, with a checksum.

A file's name is its kind, a dash, and what its contents depend on. Other contents are another file;
of each kind those used last stay.
"""

import fcntl
import hashlib
import os
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np

from bpgrad.data.files import atomic_writer

KEPT = 3  # of a kind: a gigabyte each
_SHA256_BYTES = 32
_in_use: dict[Path, int] = {}  # files that are locked, and so not removed, until the process ends


def read_array(path: Path) -> np.ndarray | None:
    """The array of `write_array` as a private map of the file; None if absent or not whole."""
    found = -1
    whole = False
    try:
        found = os.open(path, os.O_RDONLY)
        with suppress(OSError):  # not every file system has locks
            fcntl.flock(found, fcntl.LOCK_SH)
        raw = np.memmap(path, np.uint8, mode="r")
        content, digest = raw[:-_SHA256_BYTES], raw[-_SHA256_BYTES:]
        whole = hashlib.sha256(content.data).digest() == digest.tobytes()
    except (FileNotFoundError, NotADirectoryError):  # or removed before it was locked
        return None
    except (OSError, ValueError):  # numpy's answer to an empty file is ValueError
        pass
    finally:
        if not whole and found >= 0:
            os.close(found)
    if not whole:
        warnings.warn(f"{path}: truncated or corrupt; preparing the data again", stacklevel=3)
        return None
    if path in _in_use:
        os.close(_in_use[path])
    _in_use[path] = found
    with suppress(OSError):  # when it was used last; it may be another user's
        os.utime(path)
    # Copy-on-write, since torch wants writable memory: nothing ever reaches the file.
    return np.load(path, mmap_mode="c")


def write_array(path: Path, prepared: np.ndarray) -> None:
    """Write a .npy file and, behind the array, where numpy ignores it, the sha256 of all before.

    Others of its kind go, but for those used last and those that a process has read.
    """
    try:
        with atomic_writer(path) as file:
            np.save(file, prepared)
            file.seek(0)
            file.write(hashlib.file_digest(file, "sha256").digest())
    except OSError as error:
        warnings.warn(
            f"{path}: not written ({error.strerror}); going on without a cache", stacklevel=3
        )
    else:
        _remove_unused(path)


def _remove_unused(path: Path) -> None:
    kind = path.name.rpartition("-")[0]
    with suppress(OSError):  # another process may do the same
        files = sorted(
            path.parent.glob(f"{kind}-*{path.suffix}"), key=lambda file: -file.stat().st_mtime_ns
        )
        for file in files[KEPT:]:
            with suppress(OSError):  # locked: in use
                descriptor = os.open(file, os.O_RDWR)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    file.unlink()
                finally:
                    os.close(descriptor)
