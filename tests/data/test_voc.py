import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from PIL import Image

from bpgrad.data import voc
from bpgrad.data.voc import Pair, check_pairs, read_annotation, read_image, read_list, read_mask
from bpgrad.errors import DataError
from tests.voc import (
    an_object,
    annotation,
    square,
    write_image,
    write_list,
    write_mask,
    write_pair,
    write_photo,
)


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return write_pair(tmp_path, "2007_000001", square(40, 50, 15, 20))


def test_voc_s_colours() -> None:
    colors = voc.palette()
    assert colors[[0, 1, 2, 15, 255]].tolist() == [
        *([0, 0, 0], [128, 0, 0], [0, 128, 0], [192, 128, 128], [224, 224, 192]),
    ]


def test_a_mask_is_read_as_indices(pair: Pair) -> None:
    """convert("L") would give the brightness of the colours."""
    labels = read_mask(pair.mask)
    assert np.array_equal(labels, square(40, 50, 15, 20))
    assert set(np.unique(np.array(Image.open(pair.mask).convert("L")))) != {0, 15, 255}
    check_pairs([pair])


def test_a_grey_image_has_three_channels(tmp_path: Path) -> None:
    Image.new("L", (3, 2), 9).save(tmp_path / "grey.png")
    assert read_image(tmp_path / "grey.png").tolist() == [[[9, 9, 9]] * 3] * 2


def test_an_sbd_mask(tmp_path: Path) -> None:
    labels = square(20, 30, 7, 5)
    labels[labels == 255] = 0
    record = np.zeros(1, [("Segmentation", object), ("Boundaries", object)])
    record["Segmentation"][0] = labels
    scipy.io.savemat(tmp_path / "x.mat", {"GTcls": record})
    assert np.array_equal(read_mask(tmp_path / "x.mat"), labels)


def break_image(pair: Pair) -> None:
    pair.image.write_bytes(pair.image.read_bytes()[:50])


def cut_image(pair: Pair) -> None:
    """Its header is whole."""
    pair.image.write_bytes(pair.image.read_bytes()[:-100])


def without_image(pair: Pair) -> None:
    pair.image.unlink()


def without_mask(pair: Pair) -> None:
    pair.mask.unlink()


def of_another_size(pair: Pair) -> None:
    write_mask(pair.mask, square(41, 50, 15, 20))


def with_value_21(pair: Pair) -> None:
    write_mask(pair.mask, square(40, 50, 21, 20))


def in_colours(pair: Pair) -> None:
    Image.open(pair.mask).convert("RGB").save(pair.mask)


def cut(pair: Pair) -> None:
    pair.mask.write_bytes(pair.mask.read_bytes()[:60])


@pytest.mark.parametrize(
    ("damage", "file", "words"),
    [
        (break_image, "image", "is truncated or no image"),
        (cut_image, "image", "is truncated or no image"),
        (without_image, "image", "is missing"),
        (without_mask, "mask", "is missing"),
        (of_another_size, "mask", "is 50 × 41 pixels, its image 50 × 40"),
        (with_value_21, "mask", "has the value 21; a mask has 0 to 20, and 255 for void"),
        (in_colours, "mask", r"is an image of colours \(RGB\), not of indices"),
        (cut, "mask", "is truncated or no mask"),
    ],
)
def test_pairs_that_cannot_be_trained_on(damage, file: str, words: str, pair: Pair) -> None:
    damage(pair)
    with pytest.raises(DataError, match=words) as refused:
        check_pairs([pair])
    assert str(getattr(pair, file)) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_truncated_image_is_refused_when_it_is_read(pair: Pair) -> None:
    cut_image(pair)
    with pytest.raises(DataError, match=r"2007_000001.jpg is truncated"):
        read_image(pair.image)


# -- lists ---------------------------------------------------------------------------------------


def test_lists(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("000001 -1\n000002  1\n\n")
    assert read_list(path) == ["000001", "000002"]
    path.write_text("000001\n000001\n")
    with pytest.raises(DataError, match="has 000001 twice"):
        read_list(path)
    path.write_text("\n")
    with pytest.raises(DataError, match="has no names"):
        read_list(path)


@pytest.fixture
def of_2011(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Lists as VOC 2011's and SBD's, with two validation images."""
    monkeypatch.setattr(voc, "VALIDATION_MD5", "b1b8ed9a5d3b9d14f9e4b6f0e9a6d0c1")
    lists = tmp_path / voc.VOC2011 / "ImageSets" / "Segmentation"
    write_list(lists / "train.txt", ["a", "b"])
    write_list(lists / "val.txt", ["d", "c", "e"])
    write_list(tmp_path / voc.SBD / "train.txt", ["e", "s", "a"])
    write_list(tmp_path / voc.SBD / "val.txt", ["t", "c"])
    return tmp_path


def test_the_rule_of_the_736(of_2011: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """V = VOC's val without SBD's train; trained on is all else, by VOC's masks if there are."""
    import hashlib

    with pytest.raises(DataError, match="has 2 names that are not the official 736"):
        voc.segmentation(of_2011)
    monkeypatch.setattr(voc, "VALIDATION_MD5", hashlib.md5(b"c\nd").hexdigest())
    train, validation = voc.segmentation(of_2011)
    assert [pair.name for pair in validation] == ["c", "d"]
    masks = {pair.name: pair.mask.suffix for pair in train}
    assert masks == {"a": ".png", "b": ".png", "e": ".png", "s": ".mat", "t": ".mat"}
    train, _ = voc.segmentation(of_2011, sbd=False)
    assert [pair.name for pair in train] == ["a", "b", "e"]


def test_the_division_of_2012(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """V = VOC's val, whatever SBD trains on; trained on is all else."""
    lists = tmp_path / voc.VOC2012 / "ImageSets" / "Segmentation"
    write_list(lists / "train.txt", ["a", "b"])
    write_list(lists / "val.txt", ["d", "c", "e"])
    write_list(tmp_path / voc.SBD / "train.txt", ["e", "s", "a"])
    write_list(tmp_path / voc.SBD / "val.txt", ["t", "c"])
    with pytest.raises(DataError, match="has 3 names and all lists 4 others, not 1449 and 10582"):
        voc.segmentation(tmp_path, 2012)
    monkeypatch.setattr(voc, "VALIDATION_2012", 3)
    monkeypatch.setattr(voc, "TRAINED_2012", 4)
    monkeypatch.setattr(voc, "TRAINED_2012_ALONE", 2)
    for sbd, names in ((True, "abst"), (False, "ab")):
        train, validation = voc.segmentation(tmp_path, 2012, sbd=sbd)
        assert [pair.name for pair in validation] == ["c", "d", "e"]
        assert [pair.name for pair in train] == list(names)
        assert all(voc.VOC2012 in str(pair.mask) for pair in validation)
    assert not voc.WHOLE_2012.is_absent(tmp_path)
    assert voc.WHOLE_2011.is_absent(tmp_path)
    with pytest.raises(DataError, match="VOC2012/SegmentationClass"):
        voc.WHOLE_2012.verify(tmp_path)  # as 2012: of 2011 the lists would be missing
    (tmp_path / voc.SBD / "train.txt").unlink()
    assert len(voc.segmentation(tmp_path, 2012, sbd=False)[0]) == 2
    with pytest.raises(DataError, match=r"sbd/train.txt is missing"):
        voc.segmentation(tmp_path, 2012)


def test_missing_lists_say_what_to_unpack(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train.txt is missing; unpack VOCtrainval_11-May-2012"):
        voc.segmentation(tmp_path, 2012)
    with pytest.raises(DataError, match=r"train.txt is missing; unpack VOCtrainval_25-May-2011"):
        voc.segmentation(tmp_path)


# -- annotations ---------------------------------------------------------------------------------

PERSON = an_object(
    "person",
    (104, 7, 280, 475),
    "<difficult>1</difficult><truncated>1</truncated><part><name>head</name><bndbox>"
    "<xmin>177</xmin><ymin>9</ymin><xmax>238</xmax><ymax>89</ymax></bndbox></part>",
)


def written(tmp_path: Path, text: str, name: str = "000001") -> Path:
    path = tmp_path / f"{name}.xml"
    path.write_text(text)
    return path


def test_parts_are_no_objects_and_coordinates_are_floats(tmp_path: Path) -> None:
    """Image 001627's person, not its head (rbgirshick/fast-rcnn#107)."""
    dog = an_object("dog", ("45.70000076293945", 1, 50, 60), "<occluded>1</occluded>")
    found = read_annotation(written(tmp_path, annotation("000001", PERSON + dog, (500, 500))))
    assert found.boxes.tolist() == [[104, 7, 280, 475], [45.70000076293945, 1, 50, 60]]
    assert [voc.CLASSES[k] for k in found.labels] == ["person", "dog"]
    assert (found.width, found.height) == (500, 500)
    assert found.difficult.tolist() == found.truncated.tolist() == [True, False]
    assert found.occluded.tolist() == [False, True]


def test_an_image_without_objects(tmp_path: Path) -> None:
    found = read_annotation(written(tmp_path, annotation("000001", "")))
    assert found.boxes.shape == (0, 4)
    assert found.difficult.shape == (0,)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (annotation("000002", PERSON), "is the annotation of another image, 000002"),
        (annotation("000001", an_object("cart", (1, 1, 2, 2))), "unknown class 'cart'"),
        (annotation("000001", an_object("car", (0, 1, 2, 2))), r"box \[0, 1, 2, 2\] is not inside"),
        (
            annotation("000001", an_object("car", (1, 1, 501, 2))),
            "is not inside the image of 500 × 3",
        ),
        (annotation("000001", an_object("car", (5, 1, 4, 2))), r"the box \[5, 1, 4, 2\] is empty"),
        (
            annotation("000001", an_object("car", ("x", 1, 4, 2))),
            "bndbox/xmin is 'x', not a number",
        ),
        (
            annotation("000001", an_object("car", (1, "nan", 4, 2))),
            "bndbox/ymin is 'nan', not a number",
        ),
        (
            annotation("000001", PERSON, ("inf", 500)),
            "size/width is 'inf', not a number",
        ),
        ("<annotation>", "no XML"),
    ],
)
def test_annotations_that_are_refused(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=words) as refused:
        read_annotation(written(tmp_path, text))
    assert "000001.xml" in str(refused.value)


# -- photos --------------------------------------------------------------------------------------


def test_a_photo_and_its_objects(tmp_path: Path) -> None:
    photo = write_photo(tmp_path, "000001", (60, 40), [(6, (5, 6, 30, 36))])
    assert (photo.objects.width, photo.objects.height) == (60, 40)
    assert photo.objects.boxes.tolist() == [[5, 6, 30, 36]]


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda path: path.unlink(), "is missing; 000001 is in a list of images"),
        (lambda path: path.write_bytes(path.read_bytes()[:-40]), "is truncated or no image"),
        (lambda path: path.write_bytes(b"GIF"), "is truncated or no image"),
        (
            lambda path: write_image(path, np.zeros((40, 61, 3), np.uint8)),
            "is 61 × 40 pixels, its annotation of 60 × 40",
        ),
    ],
)
def test_photos_that_are_refused(harm: Any, words: str, tmp_path: Path) -> None:
    photo = write_photo(tmp_path, "000001", (60, 40), [(6, (5, 6, 30, 36))])
    harm(photo.image)
    with pytest.raises(DataError, match=words) as refused:
        voc.read_photo(tmp_path, "000001")
    assert str(photo.image) in str(refused.value)


def test_lists_of_another_edition_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"trainval.txt is missing; unpack VOCtrainval_06-Nov-2007"):
        voc.detection_2007(tmp_path)
    lists = tmp_path / voc.VOC2007 / "ImageSets" / "Main"
    write_list(lists / "trainval.txt", ["000005", "000007"])
    with pytest.raises(
        DataError, match=r"does not hold the official 5011 names, but 2 \(the reduced edition"
    ):
        voc.detection_2007(tmp_path)


# -- the real files ------------------------------------------------------------------------------


def test_the_reduced_edition(data_root: Path) -> None:
    """Divided as VOC 2011 and SBD are; the 16 images for tuning are the last by name."""
    train, test = voc.reduced_segmentation(data_root)
    assert (len(train), len(test)) == (106, 104)
    lists = data_root / voc.REDUCED.folder / "ImageSets" / "Segmentation"
    assert read_list(lists / "val.txt") == [pair.name for pair in train[-16:]]
    assert not {pair.name for pair in train} & {pair.name for pair in test}
    check_pairs([*train, *test])
    (cat,) = [pair for pair in (*train, *test) if pair.name == "000068"]
    assert set(np.unique(read_mask(cat.mask))) == {0, 3, 255}


def test_the_official_lists(data_root: Path) -> None:
    for split, (count, md5) in voc.LISTS_2007.items():
        path = data_root / "voc-lists" / "VOC2007" / "Main" / f"{split}.txt"
        if not path.is_file():
            pytest.skip(f"{path} is not there")
        names = sorted(read_list(path))
        assert len(names) == count
        assert hashlib.md5("\n".join(names).encode()).hexdigest() == md5


def test_the_reduced_edition_of_detection(data_root: Path) -> None:
    train, test = voc.reduced_detection(data_root)
    assert (len(train), len(test)) == (106, 106)
    names = [{photo.objects.name for photo in photos} for photos in (train, test)]
    assert not names[0] & names[1]
    assert {"000004", "001551"} <= names[1]


def test_every_real_annotation_is_read(data_root: Path) -> None:
    folder = data_root / voc.REDUCED.folder / "Annotations"
    found = [read_annotation(path) for path in sorted(folder.glob("*.xml"))]
    assert (len(found), sum(len(one.boxes) for one in found)) == (212, 617)
    assert set(np.concatenate([one.labels for one in found])) == set(range(20))
