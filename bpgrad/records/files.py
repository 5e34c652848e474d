"""Writing files so that a reader sees the old content or the new, never a part."""

import io
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import numpy as np

from bpgrad.errors import RecordError


@contextmanager
def told_as_one_line(path: Path) -> Iterator[None]:
    """Turn what the system says of a file that cannot be written into a RecordError."""
    try:
        yield
    except OSError as error:
        raise RecordError(
            f"cannot write {path}: {error.strerror or error}; free or unlock the folder and start "
            "the same command again, it resumes"
        ) from error


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Let `write` fill a temporary file beside `path`, sync it, and put it in place.

    Raises RecordError if the folder cannot be written or the disk is full; `path` is then as it
    was before. The temporary file has a fixed name, so that a killed process leaves at most one.
    """
    partial = path.with_name(f".{path.name}.partial")
    with told_as_one_line(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.unlink(missing_ok=True)  # a killed process's, or a link to somewhere else
            # O_EXCL: whatever stands there by now is neither followed nor written to.
            descriptor = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
            with os.fdopen(descriptor, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
            sync_folder(path.parent)
        except OSError:
            with suppress(OSError):  # the folder may be out of reach; the first error says why
                partial.unlink(missing_ok=True)
            raise


def sync_folder(folder: Path) -> None:
    """Let the names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def append_line(path: Path, line: str) -> None:
    """Append a line to a text file that is there, and sync it.

    Raises RecordError if the disk is full; the file is then as it was before. A process that is
    killed may leave a part of the line, which has no end.
    """
    with told_as_one_line(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW)
        try:
            size = os.fstat(descriptor).st_size
            data = f"{line}\n".encode()
            try:
                written = os.write(descriptor, data)
                if written < len(data):  # the disk's last bytes; the next write says so
                    os.write(descriptor, data[written:])
                os.fsync(descriptor)
            except OSError:
                with suppress(OSError):
                    os.ftruncate(descriptor, size)
                raise
        finally:
            os.close(descriptor)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    write_atomically(path, lambda file: file.write(content))


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, as UTF-8."""
    write_bytes(path, text.encode())


def write_array(path: Path, array: np.ndarray) -> None:
    """Write an array as .npy, atomically."""
    memory = io.BytesIO()  # a full disk is then the system's own error, not one of NumPy's
    np.save(memory, array)
    write_atomically(path, lambda file: file.write(memory.getbuffer()))


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write named arrays as a compressed .npz, atomically."""
    memory = io.BytesIO()
    np.savez_compressed(memory, **dict(arrays))  # type: ignore[arg-type]
    write_atomically(path, lambda file: file.write(memory.getbuffer()))


def replace_between(page: str, marks: tuple[str, str], text: str) -> str:
    """The page with `text` in the place of what stands between two marks, which stay.

    Raises ValueError if the page lacks a mark or has one twice.
    """
    before, between = page.split(marks[0])
    _, after = between.split(marks[1])
    return f"{before}{marks[0]}{text}{marks[1]}{after}"
