from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from hypothesis import given
from hypothesis import strategies as st

from bpgrad.data import proposals, voc
from bpgrad.data.proposals import (
    BACKGROUND,
    decode,
    encode,
    filtered,
    labelled,
    quotas,
    read_mat,
    rescaled,
    scale_factor,
    shuffled,
)
from bpgrad.data.voc import Annotation
from bpgrad.errors import DataError


def boxes(*rows: tuple[float, ...]) -> np.ndarray:
    return np.array(rows, float).reshape(-1, 4)


def annotation(*rows: tuple[float, ...], labels: tuple[int, ...] = ()) -> Annotation:
    n = len(rows)
    flags = np.zeros(n, bool)
    return Annotation("a", 100, 80, boxes(*rows), np.array(labels or (3,) * n), flags, flags, flags)


# -- files ---------------------------------------------------------------------------------------


def test_a_file_of_one_image_counts_from_0(tmp_path: Path) -> None:
    its = np.array([[0, 1, 2, 3]], np.uint16)
    scipy.io.savemat(tmp_path / "000004_boxes.mat", {"boxes": its})
    found = read_mat(tmp_path / "000004_boxes.mat", ["000004"])
    assert found["000004"].tolist() == [[1, 2, 3, 4]]
    with pytest.raises(DataError, match="has no proposals for image 000005"):
        read_mat(tmp_path / "000004_boxes.mat", ["000005"])


def cells(*values: Any) -> np.ndarray:
    found = np.empty((1, len(values)), object)
    found[0, :] = values
    return found


def test_a_file_of_a_split_counts_from_1_with_rows_first(tmp_path: Path) -> None:
    path = tmp_path / "voc_2007_test.mat"
    content = {
        "images": cells("000001", "000002").T,
        "boxes": cells(np.array([[1, 2, 3, 4]], np.uint16), np.array([[5, 6, 7, 8.0]])),
    }
    scipy.io.savemat(path, content)
    found = read_mat(path, ["000002", "000001"])
    assert found["000001"].tolist() == [[2, 1, 4, 3]]
    assert found["000002"].tolist() == [[6, 5, 8, 7]]


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.mat"
    with pytest.raises(DataError, match=r"x.mat is missing"):
        read_mat(path, [])
    path.write_bytes(b"no")
    with pytest.raises(DataError, match=r"x.mat: truncated or no .mat file"):
        read_mat(path, [])
    scipy.io.savemat(path, {"boxes": np.zeros((3, 5))})
    with pytest.raises(DataError, match=r"boxes of shape \(3, 5\), expected \(N, 4\)"):
        read_mat(path, [])
    scipy.io.savemat(path, {"boxes": cells(np.zeros((1, 4)), np.zeros((1, 4)))})
    with pytest.raises(DataError, match="not as many names"):
        read_mat(path, [])
    scipy.io.savemat(path, {"other": 1})
    with pytest.raises(DataError, match="has no boxes"):
        read_mat(path, [])


def test_proposals_of_another_size_are_refused() -> None:
    proposals.check("a", boxes((1, 1, 100, 80)), 100, 80)
    for row in ((0, 1, 50, 50), (1, 1, 101, 50), (1, 1, 50, 81)):
        with pytest.raises(DataError, match="image a: has proposals outside its 100 × 80 pixels"):
            proposals.check("a", boxes(row), 100, 80)
    with pytest.raises(DataError, match="image a: has no proposals"):
        proposals.check("a", boxes(), 100, 80)


def test_the_published_boxes_of_two_images(data_root: Path) -> None:
    folder = data_root / "fast-rcnn-demo-proposals"
    for name, count in (("000004", 2888), ("001551", 2057)):
        found = read_mat(folder / f"{name}_boxes.mat", [name])[name]
        its = voc.read_annotation(data_root / voc.REDUCED.folder / "Annotations" / f"{name}.xml")
        assert len(found) == count
        proposals.check(name, found, its.width, its.height)
        # Counted from 1, the last ones end in the corner of the image.
        assert found[:, 2:].max(0).tolist() == [its.width, its.height]


# -- boxes ---------------------------------------------------------------------------------------


def test_small_ones_and_repeated_ones_are_dropped() -> None:
    """20 pixels are enough, both ends counted."""
    given = boxes((5, 5, 24, 24), (1, 1, 30, 19), (1, 1, 30, 20), (5, 5, 24, 24), (2, 1, 20, 90))
    assert filtered(given).tolist() == [[5, 5, 24, 24], [1, 1, 30, 20]]
    assert filtered(boxes()).shape == (0, 4)


def test_labels() -> None:
    """Of the object overlapped most; ½ is an object, a tenth background, less is left out."""
    truth = annotation((1, 1, 20, 20), (21, 1, 40, 20), labels=(3, 7))
    # The object itself; half of it; a quarter; 1/20; the other with a share of the first.
    given = boxes((1, 1, 20, 20), (1, 1, 20, 10), (1, 1, 10, 10), (1, 1, 20, 1), (19, 1, 40, 20))
    found = labelled(given, truth)
    assert found.labels.tolist() == [3, 3, BACKGROUND, -1, 7, 3, 7]
    assert found.boxes.tolist() == [*given.tolist(), *truth.boxes.tolist()]
    assert found.targets[[0, 4]].tolist() == truth.boxes.tolist()
    assert labelled(given, annotation()).labels.tolist() == [-1] * 5


def test_at_most_16_regions_show_an_object() -> None:
    labels = np.array([3] * 40 + [BACKGROUND] * 100 + [-1] * 60)
    draws = np.random.default_rng(0).random(200)
    shown, others = shuffled(labels, draws)
    assert (len(shown), len(others)) == (16, 64)
    assert shown.tolist() == np.argsort(draws[:40])[:16].tolist()
    assert (others - 40).tolist() == np.argsort(draws[40:140])[:64].tolist()
    few = np.array([3] * 5 + [BACKGROUND] * 2 + [-1])
    shown, others = shuffled(few, draws[:8])
    assert (sorted(shown), sorted(others)) == ([0, 1, 2, 3, 4], [5, 6])
    assert [part.tolist() for part in shuffled(np.array([-1, -1]), draws[:2])] == [[], []]


def test_the_quota_shrinks_in_place() -> None:
    assert quotas([5, 30]) == [5, 5]
    assert quotas([30, 5]) == [16, 5]
    assert quotas([5, 30], shrinking=False) == [5, 16]


def test_targets_by_hand() -> None:
    found = encode(boxes((1, 1, 10, 20)), boxes((6, 11, 25, 15)))
    # 10 × 20 at (6, 11) to 20 × 5 at (16, 13.5).
    assert found[0].tolist() == pytest.approx([1, 2.5 / 20, np.log(2), np.log(0.25)])


WHOLE = st.tuples(st.integers(1, 40), st.integers(1, 30), st.integers(41, 100), st.integers(31, 80))


@given(WHOLE, WHOLE)
def test_decoding_undoes_encoding(box: tuple[int, ...], target: tuple[int, ...]) -> None:
    changes = encode(boxes(box), boxes(target))
    assert decode(boxes(box), changes, 100, 80, plus_one=True).tolist() == [list(target)]


def test_the_reference_s_inverse_has_no_plus_one() -> None:
    """No change keeps a box; a shift by a tenth is of the width without one."""
    box = boxes((11, 11, 31, 31))
    assert decode(box, np.zeros((1, 4)), 100, 80).tolist() == box.tolist()
    assert decode(box, boxes((0.1, 0, 0, 0)), 100, 80).tolist() == [[13, 11, 33, 31]]
    assert decode(box, boxes((9, -9, 0, 0)), 100, 80)[0].tolist() == [100, 1, 100, 1]


def test_a_mirror_image_of_a_box() -> None:
    assert proposals.mirrored(boxes((1, 2, 10, 20)), 100).tolist() == [[91, 2, 100, 20]]
    assert proposals.mirrored(boxes((1, 2, 100, 20)), 100).tolist() == [[1, 2, 100, 20]]


def test_scales() -> None:
    assert scale_factor(500, 375) == 1.6
    assert scale_factor(500, 200) == 2.0  # 1000 / 500
    assert rescaled(boxes((1, 1, 10, 10)), 2, 200, 160).tolist() == [[1, 1, 19, 19]]
    assert rescaled(boxes((1, 1, 100, 80)), 1.6, 159, 127).tolist() == [[1, 1, 159, 127]]


def test_oracle_proposals_overlap_their_objects() -> None:
    truth = annotation((10, 10, 60, 60))
    found = proposals.jittered(truth, 50, np.random.default_rng(0))
    assert (labelled(found, truth).labels[:-1] == 3).mean() > 0.5
    proposals.check("a", found, 100, 80)
