"""Kept arrays: old ones go, but never one that a process may have mapped."""

import os
from pathlib import Path

import numpy as np

from bpgrad.data.arrays import KEPT, read_array, write_array
from tests.forked import forked


def write(folder: Path, kind: str, key: int) -> Path:
    """An array that was used last at the time `key`."""
    path = folder / f"{kind}-{key:02}.npy"
    write_array(path, np.full(5, key))
    os.utime(path, (key, key))
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_of_each_kind_those_used_last_stay(tmp_path: Path) -> None:
    (tmp_path / "decoded-train-notes.txt").touch()
    old, *_ = [write(tmp_path, "decoded-train", key) for key in range(1, KEPT + 1)]
    write(tmp_path, "decoded-val", 1)
    os.utime(old, (KEPT + 1, KEPT + 1))
    write(tmp_path, "decoded-train", 50)
    kept = ["01", *(f"{key:02}" for key in range(3, KEPT + 1)), "50"]
    expected = [f"decoded-train-{key}.npy" for key in kept]
    assert names(tmp_path) == [*expected, "decoded-train-notes.txt", "decoded-val-01.npy"]


def test_reading_is_use(tmp_path: Path) -> None:
    path = write(tmp_path, "zca", 1)

    def read() -> None:  # and end, which lets go of it
        assert read_array(path) is not None

    assert forked(read) == (0, "")
    for key in range(2, KEPT + 2):
        write(tmp_path, "zca", key)
    assert path.exists()


def test_what_a_process_has_read_stays_until_it_ends(tmp_path: Path) -> None:
    path = write(tmp_path, "zca", 1)
    array = read_array(path)
    os.utime(path, (1, 1))  # long ago

    def write_more() -> None:
        for key in range(2, KEPT + 5):
            write(tmp_path, "zca", key)

    assert forked(write_more) == (0, "")
    assert array is not None
    assert (array == 1).all()
    assert names(tmp_path) == ["zca-01.npy", *(f"zca-{k:02}.npy" for k in range(5, KEPT + 5))]
