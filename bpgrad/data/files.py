"""Files of the data sets: where they are looked for, what they must hash to, how to get them.

Whatever is wrong ends in a `DataError` of one line: which file, where it was looked for, what is
wrong with it and how to get it. Nothing half-written stays behind.
"""

import gzip
import hashlib
import os
import shlex
import tempfile
import uuid
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from io import BufferedRandom
from pathlib import Path

from bpgrad.errors import DataError

DOWNLOAD_ERRORS = (OSError, ImportError, RuntimeError, HTTPException, DataError)
NAMED = 3  # files in one line
_Stat = tuple[int, ...]  # size and times
_Files = Mapping[str, tuple[_Stat, str]]  # those, and the md5, by a file's path in the folder
Look = Callable[[Path, Sequence[str]], Mapping[str, str]]


@dataclass(frozen=True)
class Source:
    """A data set as files with pinned md5s, in torchvision's own layout below the data root.

    A set of thousands of files pins a whole folder: a name that ends in "/" is one, its md5 that of
    `tree_md5`. What torchvision does not download is placed by hand.
    """

    name: str  # what the user calls it
    folder: str  # below the data root
    md5: Mapping[str, str]  # file in that folder, or folder in it -> md5
    torchvision_name: str = ""  # the class of torchvision.datasets that downloads it
    by_hand: str = ""  # where to get it, if nothing downloads it
    look: Look | None = None  # finds what is wrong with files of a folder (see `check_tree`)

    @property
    def how(self) -> str:
        """How to get it: a command, or what to place by hand."""
        return f"python scripts/get_data.py {self.name}" if self.torchvision_name else self.by_hand

    def read(self, data_root: Path, file: str) -> bytes:
        """The contents of `file`, verified.

        Raises:
            DataError: the file is missing, unreadable, truncated or corrupt.
        """
        with self._remedy(data_root, file):
            return read_verified(data_root / self.folder / file, self.md5[file])

    def verify(self, data_root: Path) -> None:
        """Check every file.

        Raises:
            DataError: one of them is missing, unreadable, truncated or corrupt.
        """
        for file, md5 in self.md5.items():
            if not file.endswith("/"):
                self.read(data_root, file)
                continue
            with self._remedy(data_root, file):
                check_tree(data_root, f"{self.folder}/{file[:-1]}", md5, self.look)

    def contents(self, data_root: Path) -> Mapping[str, str]:
        """The md5s that stand for the verified contents, for what is computed of them and kept."""
        return self.md5

    def is_absent(self, data_root: Path) -> bool:
        """Whether none of its files is there."""
        return not any((data_root / self.folder / file).exists() for file in self.md5)

    @contextmanager
    def _remedy(self, data_root: Path, file: str) -> Iterator[None]:
        """Say of an error how to get the file."""
        try:
            yield
        except DataError as error:
            if self.torchvision_name:
                how = f"run `{self.command(data_root)}`, or place there by hand the file with md5 "
                how += self.md5[file]
            else:
                how = f"{self.by_hand} (md5 {self.md5[file]})"
            raise DataError(f"{self.name}: {error}; {how}") from error

    def command(self, data_root: Path) -> str:
        """What downloads it into a data root, to be pasted into a shell."""
        words = ("python", "scripts/get_data.py", self.name, "--data-root", str(data_root))
        return shlex.join(words)

    def download(self, data_root: Path) -> None:
        """Have torchvision download the data set, unless it is there and whole.

        What torchvision does not download has to be there.

        torchvision works in a folder of its own, whose files move into place after all of them
        have been verified: an interruption at any time leaves none or only whole ones.

        Raises:
            DataError: the download failed, or what came is not the data set.
        """
        try:
            return self.verify(data_root)
        except DataError:
            if not self.torchvision_name:
                raise
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
        except DOWNLOAD_ERRORS as error:
            raise self._failed(target, error) from error

    def _failed(self, target: Path, error: Exception) -> DataError:
        """What to say of a download that ended in an error."""
        reason = " ".join(str(error).split()) or type(error).__name__
        return DataError(
            f"{self.name}: the download into {target} failed ({reason}); try again later, or "
            f"place there by hand {in_words(self.md5)}"
        )

    def _download_with_torchvision(self, root: str) -> None:
        import torchvision.datasets  # slow to import, and most runs do not need it

        getattr(torchvision.datasets, self.torchvision_name)(root, download=True)


def in_words(md5: Mapping[str, str]) -> str:
    """Files and their md5s."""
    return ", ".join(f"{file} (md5 {digest})" for file, digest in md5.items())


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


def tree_md5(data_root: Path, folder: str) -> str:
    """The identity of a data set of thousands of files: an md5 of their names, sizes and md5s.

    Of all files below `data_root`/`folder`, by their paths in it, hidden ones left out. Their md5s
    are remembered in `data_root`/cache; one is computed again where size or times of the file have
    changed, all of them where that memory is damaged.

    Raises:
        DataError: the folder is missing or has no files, or one cannot be read.
    """
    known, found = _known_and_found(data_root, folder)
    if known != found:
        _write_memory(_memory(data_root, folder), found)
    return _identity(found)


def check_tree(data_root: Path, folder: str, md5: str, look: Look | None = None) -> None:
    """Compare a folder with the `tree_md5` that it should have.

    While it has another one, what is remembered of the files as they should be stays. Where that
    was never seen, `look` is asked what is wrong with the files, by their paths in the folder.

    Raises:
        DataError: as `tree_md5` does, or files are missing, added or changed; the first of them
            are named where that can be known.
    """
    known, found = _known_and_found(data_root, folder)
    seen_whole, now = _identity(known) == md5, _identity(found)
    if known != found and (now == md5 or not seen_whole):
        _write_memory(_memory(data_root, folder), found)
    if now == md5:
        return
    if seen_whole:
        wrong = dict.fromkeys(known.keys() - found.keys(), "missing")
        wrong |= dict.fromkeys(found.keys() - known.keys(), "added")
        both = known.keys() & found.keys()
        wrong |= {name: "changed" for name in both if known[name][1] != found[name][1]}
    else:
        wrong = {} if look is None else dict(look(data_root / folder, sorted(found)))
    which = named(wrong) or f"they hash to {now}, expected {md5}"
    raise DataError(f"{data_root / folder} has files missing, added or changed: {which}")


def named(wrong: Mapping[str, str]) -> str:
    """Some files by their paths, with what is wrong with each: the first, and how many more."""
    names = sorted(wrong)
    first = [
        f"{name if name.isprintable() else ascii(name)} ({wrong[name]})" for name in names[:NAMED]
    ]
    more = [f"and {len(names) - NAMED} more"] if len(names) > NAMED else []
    return ", ".join([*first, *more])


def _known_and_found(data_root: Path, folder: str) -> tuple[_Files, _Files]:
    """The files below a folder as they are remembered, and as they are."""
    top = data_root / folder
    try:
        stats = {
            name: (found.st_size, found.st_mtime_ns, found.st_ctime_ns)
            for name in names_below(top)
            for found in ((top / name).stat(),)
        }
        known = _read_memory(_memory(data_root, folder))
        stale = [name for name in stats if known.get(name, ((), ""))[0] != stats[name]]
        with ThreadPoolExecutor() as pool:  # hashing and reading let go of the interpreter
            fresh = dict(
                zip(stale, pool.map(_file_md5, (top / name for name in stale)), strict=True)
            )
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read ({error.strerror})") from error
    if not stats:
        raise DataError(f"{top} is missing or has no files")
    return known, {
        name: (stats[name], fresh[name] if name in fresh else known[name][1])
        for name in sorted(stats)
    }


def _memory(data_root: Path, folder: str) -> Path:
    return data_root / "cache" / f"md5-{hashlib.md5(folder.encode()).hexdigest()[:12]}.gz"


def _identity(files: _Files) -> str:
    lines = (f"{md5} {size} {name}\0" for name, ((size, *_), md5) in sorted(files.items()))
    return hashlib.md5("".join(lines).encode(errors="surrogateescape")).hexdigest()


def names_below(top: Path) -> Iterator[str]:
    """Files below a folder by their paths in it, with forward slashes."""
    for folder, folders, files in os.walk(top, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if not name.startswith("."):
                yield Path(folder, name).relative_to(top).as_posix()


def _file_md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def _read_memory(path: Path) -> _Files:
    """What `_write_memory` wrote; empty if absent or not whole."""
    try:
        digest, _, content = gzip.decompress(path.read_bytes()).partition(b"\n")
        if hashlib.sha256(content).hexdigest().encode() == digest:
            text = content.decode(errors="surrogateescape")
            entries = (entry.split(" ", 4) for entry in text.split("\0")[:-1])
            return {name: (tuple(map(int, stat)), md5) for md5, *stat, name in entries}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, EOFError, ValueError, zlib.error):
        pass
    warnings.warn(f"{path}: truncated or corrupt; reading all files again", stacklevel=3)
    return {}


def _write_memory(path: Path, known: _Files) -> None:
    text = "".join(
        f"{md5} {' '.join(map(str, stat))} {name}\0" for name, (stat, md5) in known.items()
    )
    content = text.encode(errors="surrogateescape")
    digest = hashlib.sha256(content).hexdigest().encode()
    try:
        with atomic_writer(path) as file:
            file.write(gzip.compress(digest + b"\n" + content))
    except OSError as error:
        warnings.warn(
            f"{path}: not written ({error.strerror}); going on without a cache", stacklevel=3
        )


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
