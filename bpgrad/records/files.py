"""Writing files so that a reader sees the old content or the new, never a part."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

from bpgrad.errors import RecordError


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Let `write` fill a temporary file beside `path`, sync it, and put it in place.

    Raises RecordError if the folder cannot be written or the disk is full; `path` is then as it
    was before. The temporary file has a fixed name, so that a killed process leaves at most one.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        with suppress(OSError):  # the folder itself may be out of reach; the first error says why
            partial.unlink(missing_ok=True)
        raise RecordError(
            f"cannot write {path}: {error.strerror or error}; free or unlock the folder and start "
            "the same command again, it resumes"
        ) from error


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, as UTF-8."""
    write_atomically(path, lambda file: file.write(text.encode()))


def replace_between(page: str, marks: tuple[str, str], text: str) -> str:
    """The page with `text` in the place of what stands between two marks, which stay.

    Raises ValueError if the page lacks a mark or has one twice.
    """
    before, between = page.split(marks[0])
    _, after = between.split(marks[1])
    return f"{before}{marks[0]}{text}{marks[1]}{after}"
