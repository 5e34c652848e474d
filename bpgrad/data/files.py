"""Files of the downloadable data sets: integrity, download, atomic writing.

Whatever is wrong ends in a `DataError` of one line: which file, where it was looked for, what is
wrong with it and how to get it. Nothing half-written stays behind.
"""

import hashlib
import os
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from io import BufferedRandom
from pathlib import Path

from bpgrad.errors import DataError


@dataclass(frozen=True)
class Source:
    """A data set as files with pinned md5s, in torchvision's own layout below the data root."""

    name: str  # what the user calls it
    torchvision_name: str  # the class of torchvision.datasets that downloads it
    folder: str  # below the data root
    md5: Mapping[str, str]  # file in that folder -> md5

    def read(self, data_root: Path, file: str) -> bytes:
        """The contents of `file`, verified.

        Raises:
            DataError: the file is missing, unreadable, truncated or corrupt.
        """
        try:
            return read_verified(data_root / self.folder / file, self.md5[file])
        except DataError as error:
            raise DataError(
                f"{self.name}: {error}; run `python scripts/get_data.py {self.name} "
                f"--data-root {data_root}`, or place there by hand the file with md5 "
                f"{self.md5[file]}"
            ) from error

    def verify(self, data_root: Path) -> None:
        """Check every file.

        Raises:
            DataError: one of them is missing, unreadable, truncated or corrupt.
        """
        for file in self.md5:
            self.read(data_root, file)

    def download(self, data_root: Path) -> None:
        """Have torchvision download the data set, unless it is there and whole.

        torchvision works in a folder of its own, whose files move into place after all of them
        have been verified: an interruption at any time leaves none or only whole ones.

        Raises:
            DataError: the download failed, or what came is not the data set.
        """
        try:
            return self.verify(data_root)
        except DataError:
            pass
        # Resolved, so that the move never crosses file systems.
        target = (data_root / self.folder).resolve()
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(
                prefix=f".{self.name}-download-", dir=target.parent
            ) as root:
                self._download_with_torchvision(root)
                for file, md5 in self.md5.items():
                    read_verified(Path(root, self.folder, file), md5)
                target.mkdir(exist_ok=True)
                for file in self.md5:
                    os.replace(Path(root, self.folder, file), target / file)
        except (OSError, RuntimeError, HTTPException, DataError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            wanted = ", ".join(f"{file} (md5 {md5})" for file, md5 in self.md5.items())
            raise DataError(
                f"{self.name}: the download into {target} failed ({reason}); try again later, or "
                f"place there by hand {wanted}"
            ) from error

    def _download_with_torchvision(self, root: str) -> None:
        import torchvision.datasets  # slow to import, and most runs do not need it

        getattr(torchvision.datasets, self.torchvision_name)(root, download=True)


def read_verified(path: Path, md5: str) -> bytes:
    """The contents of `path`.

    Raises:
        DataError: the file is missing, unreadable or does not have this md5.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from error
    found = hashlib.md5(data).hexdigest()
    if found != md5:
        raise DataError(
            f"{path} is truncated or corrupt: {len(data)} bytes with md5 {found}, expected {md5}"
        )
    return data


@contextmanager
def atomic_writer(path: Path) -> Iterator[BufferedRandom]:
    """A new binary file, readable too, that appears as `path` when the block ends without an error.

    Raises:
        OSError: the folder cannot be created or written, or the disk is full; `path` is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile's, which only its owner could read: a data root may be shared.
    temporary = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    try:
        with temporary.open("x+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
