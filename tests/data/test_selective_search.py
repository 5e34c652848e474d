from pathlib import Path

import numpy as np
import pytest

from bpgrad.data import proposals, selective_search
from bpgrad.errors import ConfigError, DataError
from tests.voc import square, write_pair


def fixed(*rectangles: tuple[int, int, int, int]):
    """OpenCV's part; the count of its calls is kept."""
    calls = []

    def search(pixels: np.ndarray) -> np.ndarray:
        calls.append(pixels.shape)
        return np.array(rectangles[:: 1 if len(calls) % 2 else -1])

    search.calls = calls  # type: ignore[attr-defined]
    return search


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return write_pair(tmp_path / "voc", "a", square(80, 100, 3, 40)).image


def test_rectangles_become_boxes_of_the_whole_image(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At half the size; left, top, width, height to the first and last pixel, counted from 1."""
    search = fixed((10, 5, 20, 15), (0, 0, 50, 40), (3, 3, 4, 4))
    monkeypatch.setattr(selective_search, "_opencv", search)
    found = selective_search.selective_search(tmp_path, image, short=40)
    assert search.calls == [(40, 50, 3)]
    assert found.tolist() == [[1, 1, 100, 80], [21, 11, 60, 40]]
    proposals.check("a", found, 100, 80)


def test_they_are_kept_by_content_and_whole_or_not_at_all(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = fixed((0, 0, 50, 40), (30, 30, 40, 40))
    monkeypatch.setattr(selective_search, "_opencv", search)
    first = selective_search.selective_search(tmp_path, image)
    moved = image.rename(image.with_name("b.jpg"))
    assert np.array_equal(selective_search.selective_search(tmp_path, moved), first)
    assert len(search.calls) == 1
    (kept,) = (tmp_path / "cache" / "selective-search").iterdir()
    kept.write_bytes(kept.read_bytes()[:-7])
    # In another order, as OpenCV gives them: sorted they are the same.
    assert np.array_equal(selective_search.selective_search(tmp_path, moved), first)
    assert len(search.calls) == 2
    selective_search.selective_search(tmp_path, moved, short=30)
    assert len(search.calls) == 3


def test_what_is_wrong_is_one_line(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match=r"none.jpg cannot be read"):
        selective_search.selective_search(tmp_path, tmp_path / "none.jpg")
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    with pytest.raises(ConfigError, match="needs OpenCV: pip install"):
        selective_search.selective_search(tmp_path, image)


def test_opencv_finds_the_square(image: Path, tmp_path: Path) -> None:
    """A coloured square on black: one of the boxes is nearly its own."""
    pytest.importorskip("cv2")
    found = selective_search.selective_search(tmp_path, image)
    gaps = np.abs(found - [7, 6, 46, 45]).max(1)
    assert gaps.min() <= 3
    proposals.check("a", found, 100, 80)
