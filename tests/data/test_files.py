import hashlib
from http.client import IncompleteRead
from pathlib import Path

import pytest
import torchvision.datasets

from bpgrad.data.files import Source, atomic_writer, read_verified
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
