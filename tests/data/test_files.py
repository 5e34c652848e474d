import gzip
import hashlib
import os
import shlex
from collections.abc import Callable, Sequence
from http.client import IncompleteRead
from pathlib import Path

import pytest
import torchvision.datasets

from bpgrad.data import files
from bpgrad.data.cifar10 import INITIAL_WEIGHTS
from bpgrad.data.files import Source, atomic_writer, check_tree, read_verified, tree_md5
from bpgrad.errors import DataError

CONTENTS = {"one": b"first file", "two": b"second file"}
SOURCE = Source(
    name="tiny",
    torchvision_name="Tiny",
    folder="Tiny/raw",
    md5={name: hashlib.md5(content).hexdigest() for name, content in CONTENTS.items()},
)


class Downloader:
    """Stands for a data set of torchvision; writes `contents` and then raises `error`."""

    contents: dict[str, bytes] = CONTENTS
    error: BaseException | None = None
    calls = 0

    def __init__(self, root: str, download: bool = False) -> None:
        assert download
        type(self).calls += 1
        folder = Path(root) / "Tiny" / "raw"
        folder.mkdir(parents=True)
        for name, content in self.contents.items():
            (folder / name).write_bytes(content)
        if self.error is not None:
            raise self.error


@pytest.fixture
def downloader(monkeypatch: pytest.MonkeyPatch) -> type[Downloader]:
    fresh = type("Fresh", (Downloader,), {})
    monkeypatch.setattr(torchvision.datasets, "Tiny", fresh, raising=False)
    return fresh


def place(root: Path, contents: dict[str, bytes] = CONTENTS) -> Path:
    folder = root / "Tiny" / "raw"
    folder.mkdir(parents=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return folder


def files_below(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_read_returns_the_contents(tmp_path: Path) -> None:
    place(tmp_path)
    assert SOURCE.read(tmp_path, "one") == b"first file"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "is missing"),
        (b"", "is truncated or corrupt: 0 bytes with md5 d41d8cd98f00b204e9800998ecf8427e"),
        (b"second", "is truncated or corrupt: 6 bytes"),
        (b"second fils", "is truncated or corrupt: 11 bytes"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    tmp_path: Path, content: bytes | None, problem: str
) -> None:
    path = place(tmp_path) / "two"
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        SOURCE.verify(tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    assert f"{path} {problem}" in message
    assert f"python scripts/get_data.py tiny --data-root {tmp_path}" in message
    assert f"md5 {SOURCE.md5['two']}" in message


def test_an_unreadable_file_is_said_in_one_line(tmp_path: Path) -> None:
    (place(tmp_path, {}) / "one").mkdir()
    with pytest.raises(DataError, match=r"one cannot be read \(Is a directory\)"):
        SOURCE.read(tmp_path, "one")


def test_read_verified_needs_the_md5(tmp_path: Path) -> None:
    path = place(tmp_path) / "one"
    assert read_verified(path, SOURCE.md5["one"]) == b"first file"
    with pytest.raises(DataError, match="truncated or corrupt"):
        read_verified(path, SOURCE.md5["two"])


def test_download_puts_whole_files_in_place(tmp_path: Path, downloader: type[Downloader]) -> None:
    SOURCE.download(tmp_path / "new" / "root")
    assert files_below(tmp_path / "new" / "root") == {
        "Tiny/raw/one": b"first file",
        "Tiny/raw/two": b"second file",
    }


def test_download_leaves_whole_data_alone(tmp_path: Path, downloader: type[Downloader]) -> None:
    place(tmp_path)
    SOURCE.download(tmp_path)
    assert downloader.calls == 0


def test_download_replaces_a_corrupt_file(tmp_path: Path, downloader: type[Downloader]) -> None:
    place(tmp_path, {"one": b"first fil"})
    SOURCE.download(tmp_path)
    SOURCE.verify(tmp_path)
    assert downloader.calls == 1


def test_download_follows_a_link_to_another_folder(
    tmp_path: Path, downloader: type[Downloader]
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "Tiny").symlink_to(tmp_path / "elsewhere")
    SOURCE.download(tmp_path / "root")
    assert sorted(files_below(tmp_path / "elsewhere")) == ["raw/one", "raw/two"]


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Error downloading one:\nTried http://a, got:\n<urlopen error>\n"),
        ConnectionResetError(104, "Connection reset by peer"),
        IncompleteRead(b"fir", 7),
        TimeoutError(),
    ],
)
def test_a_failed_download_is_one_line_and_leaves_nothing(
    tmp_path: Path, downloader: type[Downloader], error: Exception
) -> None:
    downloader.contents = {"one": b"first file", "two": b"seco"}
    downloader.error = error
    with pytest.raises(DataError, match=r"tiny: the download into .* failed") as caught:
        SOURCE.download(tmp_path)
    assert "\n" not in str(caught.value)
    assert f"two (md5 {SOURCE.md5['two']})" in str(caught.value)
    assert files_below(tmp_path) == {}


def test_an_interrupted_download_leaves_nothing(
    tmp_path: Path, downloader: type[Downloader]
) -> None:
    place(tmp_path, {"one": b"first file"})
    downloader.contents = {"one": b"first file", "two": b"seco"}
    downloader.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        SOURCE.download(tmp_path)
    assert files_below(tmp_path) == {"Tiny/raw/one": b"first file"}


def test_a_wrong_download_is_refused(tmp_path: Path, downloader: type[Downloader]) -> None:
    downloader.contents = {"one": b"first file", "two": b"<html>sign in first</html>"}
    with pytest.raises(DataError, match="truncated or corrupt: 26 bytes"):
        SOURCE.download(tmp_path)
    assert files_below(tmp_path) == {}


def test_a_root_that_cannot_be_written_is_one_line(
    tmp_path: Path, downloader: type[Downloader]
) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match="Not a directory") as caught:
        SOURCE.download(tmp_path / "file" / "root")
    assert "\n" not in str(caught.value)


def test_atomic_writer_replaces_the_file(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "file"
    for content in (b"old", b"new"):
        with atomic_writer(path) as file:
            file.write(content)
    assert files_below(tmp_path) == {"folder/file": b"new"}


def test_atomic_writer_keeps_the_old_file_on_an_error(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail_half_way() -> None:
        with atomic_writer(path) as file:
            file.write(b"ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_half_way()
    assert files_below(tmp_path) == {"file": b"old"}


def test_the_command_that_an_error_proposes_can_be_pasted(tmp_path: Path) -> None:
    root = tmp_path / "my dåta; rm"
    with pytest.raises(DataError) as caught:
        SOURCE.verify(root)
    command = str(caught.value).split("`")[1]
    assert shlex.split(command) == [
        *("python", "scripts/get_data.py", "tiny", "--data-root", str(root))
    ]


@pytest.mark.parametrize("content", [None, b"MATLAB 5.0 MAT-file"])
def test_what_is_placed_by_hand_says_where_to_get_it(tmp_path: Path, content: bytes | None) -> None:
    (file,) = INITIAL_WEIGHTS.md5
    if content is not None:
        (tmp_path / "bpgrad").mkdir()
        (tmp_path / "bpgrad" / file).write_bytes(content)
    with pytest.raises(DataError, match=r"github\.com/RyanCV/BPGrad") as caught:
        INITIAL_WEIGHTS.download(tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(tmp_path / "bpgrad" / file) in message
    assert INITIAL_WEIGHTS.md5[file] in message
    assert "get_data" not in message


# -- data sets of many files -----------------------------------------------------------------------


def tree(root: Path) -> Path:
    folder = root / "set"
    for name in ("train/a/1.jpg", "train/b/2.jpg", "val/ü.jpg", "with blank\nand line.txt"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return folder


def later(path: Path, content: bytes) -> None:
    """Change a file, and let it be seen whatever the clock's resolution."""
    path.write_bytes(content)
    os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + 1_000_000_000))


def test_the_digest_is_that_of_names_sizes_and_md5s(tmp_path: Path) -> None:
    folder = tree(tmp_path)
    lines = [
        f"{hashlib.md5(content).hexdigest()} {len(content)} {name}\0"
        for name, content in sorted(files_below(folder).items())
    ]
    assert tree_md5(tmp_path, "set") == hashlib.md5("".join(lines).encode()).hexdigest()


def test_the_digest_depends_on_nothing_but_the_files(tmp_path: Path) -> None:
    first = tree_md5(tree(tmp_path / "one").parent, "set")
    other = tree(tmp_path / "two")
    (other / ".DS_Store").write_bytes(b"of the system")
    for path in other.rglob("*.jpg"):
        os.utime(path, (1, 1))
    assert tree_md5(tmp_path / "two", "set") == first


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: later(folder / "train/a/1.jpg", b"train/a/2.jpg"),  # of the same size
        lambda folder: (folder / "val/ü.jpg").unlink(),
        lambda folder: (folder / "val/new.jpg").write_bytes(b""),
        lambda folder: (folder / "val/ü.jpg").rename(folder / "val/u.jpg"),
    ],
)
def test_a_change_is_found_beside_the_memory(
    tmp_path: Path, change: Callable[[Path], object]
) -> None:
    folder = tree(tmp_path)
    before = tree_md5(tmp_path, "set")
    assert tree_md5(tmp_path, "set") == before
    change(folder)
    assert tree_md5(tmp_path, "set") != before


def test_only_what_has_changed_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, read = tree(tmp_path), []
    digest = files._file_md5
    monkeypatch.setattr(files, "_file_md5", lambda path: (read.append(path), digest(path))[1])
    tree_md5(tmp_path, "set")
    assert len(read) == 4
    read.clear()
    later(folder / "val/ü.jpg", b"other")
    tree_md5(tmp_path, "set")
    assert read == [folder / "val/ü.jpg"]


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[:-3], lambda b: b"no gzip"])
def test_a_damaged_memory_is_not_believed(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    tree(tmp_path)
    before = tree_md5(tmp_path, "set")
    (memory,) = (tmp_path / "cache").iterdir()
    memory.write_bytes(damage(memory.read_bytes()))
    with pytest.warns(UserWarning, match="truncated or corrupt; reading all files again"):
        assert tree_md5(tmp_path, "set") == before
    assert tree_md5(tmp_path, "set") == before  # written anew: no warning


def test_an_altered_memory_is_not_believed(tmp_path: Path) -> None:
    folder = tree(tmp_path)
    before = tree_md5(tmp_path, "set")
    (memory,) = (tmp_path / "cache").iterdir()
    md5 = hashlib.md5((folder / "val/ü.jpg").read_bytes()).hexdigest().encode()
    content = gzip.decompress(memory.read_bytes())
    assert md5 in content
    memory.write_bytes(gzip.compress(content.replace(md5, md5[::-1])))
    with pytest.warns(UserWarning, match="truncated or corrupt"):
        assert tree_md5(tmp_path, "set") == before


def test_a_memory_that_cannot_be_written_is_a_warning(tmp_path: Path) -> None:
    tree(tmp_path)
    (tmp_path / "cache").write_bytes(b"in the way")
    with pytest.warns(UserWarning, match="going on without a cache"):
        tree_md5(tmp_path, "set")


def test_a_folder_that_is_missing_or_empty_is_one_line(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(DataError, match=f"{tmp_path}/set is missing or has no files"):
            tree_md5(tmp_path, "set")
        (tmp_path / "set").mkdir(exist_ok=True)
    (tmp_path / "set" / "link").symlink_to("nowhere")
    with pytest.raises(DataError, match=r"link cannot be read \(No such file"):
        tree_md5(tmp_path, "set")


def test_a_source_may_pin_whole_folders(tmp_path: Path) -> None:
    folder = tree(tmp_path)
    pinned = {f"{name}/": tree_md5(tmp_path, f"set/{name}") for name in ("train", "val")}
    source = Source("many", "set", pinned, by_hand="unpack many.tar there")
    source.verify(tmp_path)
    later(folder / "train/b/2.jpg", b"")
    with pytest.raises(DataError, match="files missing, added or changed") as caught:
        source.verify(tmp_path)
    assert "unpack many.tar there" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda folder: later(folder / "b/2.jpg", b"!"), "b/2.jpg (changed)"),
        (lambda folder: (folder / "b/2.jpg").unlink(), "b/2.jpg (missing)"),
        (lambda folder: (folder / "b/new").write_bytes(b""), "b/new (added)"),
        (
            lambda folder: [(folder / "b" / f"{k}\n").write_bytes(b"") for k in range(5)],
            r"'b/0\n' (added), 'b/1\n' (added), 'b/2\n' (added), and 2 more",
        ),
    ],
)
def test_files_that_were_whole_are_named(
    tmp_path: Path, change: Callable[[Path], object], words: str
) -> None:
    folder = tree(tmp_path) / "train"
    source = Source("many", "set", {"train/": tree_md5(tmp_path, "set/train")}, by_hand="get it")
    change(folder)
    for _ in range(2):
        with pytest.raises(DataError) as caught:
            source.verify(tmp_path)
        assert f"train has files missing, added or changed: {words}; get it" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_a_memory_the_files_are_looked_at(tmp_path: Path) -> None:
    seen = []

    def look(folder: Path, names: Sequence[str]) -> dict[str, str]:
        seen.append((folder, names))
        return {"b/2.jpg": "is cut"}

    folder = tree(tmp_path) / "train"
    with pytest.raises(DataError, match=r"or changed: b/2\.jpg \(is cut\)$"):
        check_tree(tmp_path, "set/train", "0" * 32, look)
    assert seen == [(folder, ["a/1.jpg", "b/2.jpg"])]
    with pytest.raises(DataError, match=r"they hash to [0-9a-f]{32}, expected 0{32}$"):
        check_tree(tmp_path, "set/train", "0" * 32)
