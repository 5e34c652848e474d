"""Which images there are, the odd ones among them, and what is kept of them."""

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bpgrad.data.imagefolder import (
    ORIENTATION,
    Pixels,
    Scan,
    decoded,
    image_folder,
    read_rgb,
    scan,
    unreadable,
)
from bpgrad.errors import DataError
from tests.data.images import make_image_folder, picture


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_image_folder(tmp_path / "train", images=2)


def scanned(folder: Path, digest: str = "contents") -> Scan:
    return scan(image_folder(folder), folder.parent / "cache", digest)


def listed(folder: Path) -> str:
    (path,) = (folder.parent / "cache").glob("odd-*.txt")
    return path.read_text()


def test_images_are_sorted_by_class_and_name(folder: Path) -> None:
    (folder / ".hidden").mkdir()
    (folder / "n01" / ".DS_Store.png").write_bytes(b"")
    (folder / "n01" / "notes.txt").write_bytes(b"")
    (folder / "n02" / "A.png").write_bytes(b"")
    found = image_folder(folder)
    assert found.classes == ("n01", "n02", "n03")
    assert [os.fsdecode(name) for name in found.names] == [
        *("n01/n01_0.JPEG", "n01/n01_1.JPEG", "n02/A.png"),
        *("n02/n02_0.JPEG", "n02/n02_1.JPEG", "n03/n03_0.JPEG", "n03/n03_1.JPEG"),
    ]
    assert found.labels.tolist() == [0, 0, 1, 1, 1, 2, 2]
    assert found.path(2) == folder / "n02" / "A.png"
    assert image_folder(folder, classes=2).labels.tolist() == [0, 0, 1, 1, 1]


def test_what_is_no_folder_of_classes_is_told_in_one_line(folder: Path) -> None:
    with pytest.raises(DataError, match=r"has 3 folders of classes, not 10$"):
        image_folder(folder, classes=10)
    with pytest.raises(DataError, match=r"none cannot be read \(No such file or directory\)$"):
        image_folder(folder / "none")
    (folder / "n01" / "deep").mkdir()
    with pytest.raises(DataError, match=r"has no images; expected .*CLASS/NAME\.JPEG"):
        image_folder(folder / "n01")


def make_odd(folder: Path) -> dict[str, str]:
    """Images that can be read and are unusual, with what is said of each."""
    image = picture(0, 0)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    image.convert("CMYK").save(folder / "n01" / "cmyk.JPEG", "JPEG")
    image.convert("L").save(folder / "n01" / "grey.JPEG", "JPEG")
    image.save(folder / "n01" / "png.JPEG", "PNG")
    image.convert("RGBA").save(folder / "n01" / "alpha.png", "PNG")
    image.convert("P").save(folder / "n01" / "palette.png", "PNG")
    image.save(folder / "n02" / "turned.JPEG", "JPEG", exif=exif)
    image.save(folder / "n02" / "longer.JPEG", "JPEG")
    with (folder / "n02" / "longer.JPEG").open("ab") as file:
        file.write(b"\0\0\0")  # bytes after the end: readable, and nothing odd about the pixels
    return {
        "n01/alpha.png": "RGBA",
        "n01/cmyk.JPEG": "CMYK",
        "n01/grey.JPEG": "greyscale",
        "n01/palette.png": "palette",
        "n01/png.JPEG": "PNG named .JPEG",
        "n02/turned.JPEG": "turned by EXIF (ignored)",
    }


def test_odd_images_are_named_once_and_read_as_rgb(folder: Path) -> None:
    odd = make_odd(folder)
    with pytest.warns(UserWarning, match="1 CMYK, 1 PNG named .JPEG, 1 RGBA, 1 greyscale") as told:
        found = scanned(folder)
    assert len(told) == 1
    assert found.odd == odd
    assert listed(folder).splitlines() == [f"{name}: {note}" for name, note in odd.items()]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = scanned(folder)
    assert again.odd == odd
    assert (again.sizes == found.sizes).all()
    images = image_folder(folder)
    plain = np.asarray(picture(0, 0))
    for k in range(len(images)):
        assert read_rgb(images.path(k)).size == tuple(found.sizes[k])
    for name, tolerance in (("n01/alpha.png", 0), ("n01/png.JPEG", 0), ("n01/cmyk.JPEG", 100)):
        seen = np.asarray(read_rgb(folder / name)).astype(int)
        assert abs(seen - plain).mean() <= tolerance / 4  # JPEG of noise; an inverted one is at 100
    grey = np.asarray(read_rgb(folder / "n01/grey.JPEG"))
    assert (grey == grey[..., :1]).all()
    turned = np.asarray(read_rgb(folder / "n02/turned.JPEG"))
    assert turned.shape == plain.shape  # as stored, not as EXIF says


def make_bad(folder: Path) -> dict[str, str]:
    """Images that cannot be read, with what is said of each."""
    whole = (folder / "n01" / "n01_0.JPEG").read_bytes()
    (folder / "n01" / "cut.JPEG").write_bytes(whole[: len(whole) // 2])
    (folder / "n01" / "empty.JPEG").write_bytes(b"")
    (folder / "n02" / "html.JPEG").write_bytes(b"<html>404</html>")
    picture(0, 0).save(folder / "n02" / "cut.png", "PNG")
    cut = (folder / "n02" / "cut.png").read_bytes()
    (folder / "n02" / "cut.png").write_bytes(cut[: len(cut) // 2])
    return {
        "n01/cut.JPEG": "image file is truncated",
        "n01/empty.JPEG": "empty",
        "n02/cut.png": "truncated",
        "n02/html.JPEG": "it is none",
    }


def test_bad_images_are_all_named_before_anything_is_trained(folder: Path) -> None:
    bad = make_bad(folder)
    for _ in range(2):  # nothing of it is kept as good
        with pytest.raises(DataError) as refused:
            scanned(folder)
        text = str(refused.value)
        assert "\n" not in text
        assert f"{folder}/n01/cut.JPEG: cannot be read as an image (image file is trunc" in text
        assert ", and 3 more, listed in " in text
        for line, (name, note) in zip(listed(folder).splitlines(), bad.items(), strict=True):
            assert line.startswith(f"{name}: ")
            assert note in line
    for name in bad:
        (folder / name).unlink()
    assert scanned(folder).sizes.shape == (6, 2)
    with pytest.raises(DataError, match=r"gone.JPEG: cannot be read as an image \(.*No such file"):
        read_rgb(folder / "gone.JPEG")


def test_images_that_cannot_be_read_are_found_among_files(folder: Path) -> None:
    make_odd(folder)
    bad = make_bad(folder)
    (folder / "n01" / "notes.txt").write_bytes(b"")
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    found = unreadable(folder, names)
    assert found.keys() == bad.keys()
    assert all(note in found[name] for name, note in bad.items())


def test_other_contents_are_looked_at_again(folder: Path) -> None:
    scanned(folder, "one")
    (folder / "n01" / "n01_0.JPEG").write_bytes(b"")
    scanned(folder, "one")  # it stands for the same contents
    with pytest.raises(DataError, match="empty"):
        scanned(folder, "other")


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-9], lambda b: b"", lambda b: b[:40] + b"x" + b[41:]]
)
def test_a_damaged_cache_is_made_again(folder: Path, damage: object) -> None:
    found = scanned(folder)
    (path,) = (folder.parent / "cache").glob("scan-*")
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    with pytest.warns(UserWarning, match="truncated or corrupt; looking at all images again"):
        again = scanned(folder)
    assert (again.sizes == found.sizes).all()


def test_decoded_pixels_are_those_of_the_files(folder: Path) -> None:
    make_odd(folder)
    images, cache = image_folder(folder), folder.parent / "cache"
    with pytest.warns(UserWarning, match="greyscale"):
        sizes = scan(images, cache, "c").sizes
    array = decoded(images, cache, "c")
    kept, read = Pixels(images, sizes, array), Pixels(images, sizes, None)
    for k in range(len(images)):
        assert (np.asarray(kept(k)) == np.asarray(read(k))).all()
    for path in folder.glob("*/*"):
        path.write_bytes(b"")
    assert (decoded(images, cache, "c") == array).all()  # from the file
    with pytest.raises(DataError, match="cannot be read as an image"):
        decoded(images, cache, "other contents")
