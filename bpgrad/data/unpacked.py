"""Images unpacked from archives with pinned md5s into train/<class>/ and val/<class>/."""

import json
import os
import shutil
import tarfile
import uuid
from collections.abc import Mapping
from pathlib import Path

from bpgrad.data.files import Source, atomic_writer, check_tree, named, names_below, tree_md5
from bpgrad.errors import DataError

PARTS = ("train", "val")
RECEIPT = "prepared.json"  # in the data set's folder, written last: the md5s of archives and parts


class Unpacked(Source):
    """Such a data set; its md5s are the archives', which were checked and a receipt names."""

    def is_absent(self, data_root: Path) -> bool:
        """Whether there is nothing of it: neither images nor a receipt."""
        folder = data_root / self.folder
        return not any((folder / name).exists() for name in (*PARTS, RECEIPT))

    def verify(self, data_root: Path) -> None:
        """Check the receipt, and every file against it: read once, then by size and times.

        Raises:
            DataError: there is none, or files are missing, added or changed.
        """
        for part, md5 in self.contents(data_root).items():
            try:
                check_tree(data_root, f"{self.folder}/{part}", md5, self.look)
            except DataError as error:
                raise DataError(f"{self.name}: {error}; {self._remedy_of(data_root)}") from error

    def contents(self, data_root: Path) -> Mapping[str, str]:
        """The `tree_md5` of each part, as the receipt says; DataError if there is no whole one."""
        folder, remedy = data_root / self.folder, self._remedy_of(data_root)
        try:
            receipt = json.loads((folder / RECEIPT).read_bytes())
            if receipt["archives"] == dict(self.md5):
                return {part: str(receipt[part]) for part in PARTS}
        except FileNotFoundError:
            raise DataError(f"{self.name}: {folder} is missing or not whole; {remedy}") from None
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            pass
        raise DataError(f"{self.name}: {folder / RECEIPT} is damaged; {remedy}")

    def doubtful(self, data_root: Path) -> frozenset[str]:
        """The parts of which no receipt says that they are what they should be."""
        found = set(PARTS)
        try:
            for part, md5 in self.contents(data_root).items():
                check_tree(data_root, f"{self.folder}/{part}", md5)
                found.remove(part)
        except DataError:
            pass
        return frozenset(found)

    def write_receipt(self, data_root: Path) -> None:
        """Say that all is there, and what it is."""
        parts = {part: tree_md5(data_root, f"{self.folder}/{part}") for part in PARTS}
        with atomic_writer(data_root / self.folder / RECEIPT) as file:
            file.write(json.dumps(parts | {"archives": dict(self.md5)}).encode())

    def _remedy_of(self, data_root: Path) -> str:
        return f"run `{self.command(data_root)}`" if self.torchvision_name else self.by_hand


class Placed:
    """The files of a folder that is to hold what an archive does, and nothing else.

    What lies there already by its size stays; with `contents` only if all of its bytes are right.
    """

    def __init__(self, folder: Path, *, contents: bool) -> None:
        self.folder, self.contents = folder, contents
        self.names: set[str] = set()

    def place(self, archive: tarfile.TarFile, member: tarfile.TarInfo, name: str) -> None:
        """Have a member lie in the folder by that name; it appears when it is whole."""
        self.names.add(name)
        path = self.folder / name
        if self._lies(archive, member, path):
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}-{uuid.uuid4().hex}")  # another may write it too
        try:
            write(archive, member, partial)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)

    def _lies(self, archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> bool:
        try:
            if path.stat().st_size != member.size:
                return False
            return not self.contents or path.read_bytes() == _read(archive, member)
        except OSError:  # it is not there, or cannot be read
            return False

    def check_nothing_else(self) -> None:
        """Raises DataError that names files of others."""
        others = dict.fromkeys(set(names_below(self.folder)) - self.names, "added")
        if others:
            raise DataError(
                f"{self.folder} has files that its archive has not, remove them: {named(others)}"
            )


def write(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    """Write a member, a plain file, to a path that is not the archive's choice."""
    content = archive.extractfile(member)
    assert content is not None
    with path.open("xb") as file:
        shutil.copyfileobj(content, file)


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    content = archive.extractfile(member)
    assert content is not None
    return content.read()
