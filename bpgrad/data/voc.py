"""Pascal VOC in torchvision's layout: lists, images, boxes and masks, and SBD's masks beside them.

Masks are read by Pillow, as indices of their palette: 0 background, 1 to 20 the classes, 255 void.
Boxes are 1-based and inclusive, as in the files.
"""

import hashlib
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from bpgrad.data.files import Source, in_words
from bpgrad.data.imagefolder import look_at, unreadable
from bpgrad.errors import DataError

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
VOID = 255

VOC2007, VOC2011, SBD = "VOCdevkit/VOC2007", "TrainVal/VOCdevkit/VOC2011", "sbd"
VOC2012 = "VOCdevkit/VOC2012"
ONE_EDITION = "a data_root holds one edition of VOC 2007, the whole or the reduced one"


class _Reduced(Source):
    def is_absent(self, data_root: Path) -> bool:
        return super().is_absent(data_root) or _lies_whole(data_root)

    def verify(self, data_root: Path) -> None:
        if _lies_whole(data_root):
            folder = data_root / self.folder
            raise DataError(f"{self.name}: {folder} holds the whole of VOC 2007; {self.by_hand}")
        super().verify(data_root)


class _Whole(Source):
    """VOC 2007 as its reader checks it: the lists, every photo and every annotation."""

    def is_absent(self, data_root: Path) -> bool:
        return not _lies_whole(data_root)

    def verify(self, data_root: Path) -> None:
        detection_2007(data_root)


@dataclass(frozen=True)
class _WithSbd(Source):
    """VOC and SBD as their reader checks them: the lists, every mask, every image's size."""

    year: int = 2011

    def is_absent(self, data_root: Path) -> bool:
        return not (data_root / self.folder).exists()

    def verify(self, data_root: Path) -> None:
        train, validation = segmentation(data_root, self.year)
        check_pairs([*train, *validation])


def _lies_whole(data_root: Path) -> bool:
    """Whether the lists of VOC 2007 are longer than the reduced edition's."""
    path = main_list(data_root / VOC2007, "trainval")
    return path.is_file() and len(path.read_bytes().splitlines()) > 1000


#: 212 images of VOC 2007 with boxes, 210 of them with masks, divided as VOC 2011 and SBD divide
#: them (there they are 2007_NNNNNN): 106 to train on, 104 (with boxes 106) to test on.
REDUCED = _Reduced(
    "voc2007-reduced",
    VOC2007,
    {
        "Annotations/": "755dff2bb9ea65192bd371fb2b7461fd",
        "ImageSets/": "b679c68a17564397a122ec74fef82d59",
        "JPEGImages/": "1444c6ba5018713cb244717353d8c01e",
        "SegmentationClass/": "56925d8096b3f074bd38839c50b62743",
    },
    by_hand="place there by hand the 210 images of VOC 2007's segmentation test set with 000004 "
    f"and 001551, with lists that divide them as VOC 2011 and SBD do; {ONE_EDITION}",
    look=unreadable,
)
#: The archives that torchvision unpacks; what comes out of them is checked file by file.
ARCHIVES = {
    "VOCtrainval_25-May-2011.tar": "6c3384ef61512963050cb5d687e5bf1e",
    "benchmark.tgz": "82b4d87ceb2ed10f6038a1cba92111cb",
}
WHOLE_2011 = _WithSbd(
    "voc2011",
    VOC2011,
    ARCHIVES,
    by_hand=f"unpack {in_words(ARCHIVES)}: VOC 2011 into {VOC2011} below data_root, the folder "
    f"dataset/ of SBD into {SBD}, as torchvision does; docs/voc.md",
)
ARCHIVES_2012 = {
    "VOCtrainval_11-May-2012.tar": "6cd6e144f989b92b3379bac3b3de84fd",
    "benchmark.tgz": ARCHIVES["benchmark.tgz"],
}
WHOLE_2012 = _WithSbd(
    "voc2012",
    VOC2012,
    ARCHIVES_2012,
    by_hand=f"unpack {in_words(ARCHIVES_2012)}: VOC 2012 into {VOC2012} below data_root, the "
    f"folder dataset/ of SBD into {SBD}, as torchvision does; docs/voc.md",
    year=2012,
)
#: Those of the edition of 2007.
ARCHIVES_2007 = {
    "VOCtrainval_06-Nov-2007.tar": "c52e279531787c972589f7e41ab4ae64",
    "VOCtest_06-Nov-2007.tar": "b6e924de25625d8de591ea690078ad9f",
}
WHOLE_2007 = _Whole(
    "voc2007",
    VOC2007,
    ARCHIVES_2007,
    by_hand=f"unpack {in_words(ARCHIVES_2007)} into data_root, as torchvision does; {ONE_EDITION}; "
    "docs/voc.md",
)
# Number of names of the official lists of 2007, and the md5 of the names, sorted, a line each.
LISTS_2007 = {
    "trainval": (5011, "6bbc13b89b81841ff01d338d7aaceeda"),
    "test": (4952, "36633db6dcced83bc7dd9d1437554456"),
}
VALIDATION_2011 = 736
# Of the names of the official seg11valid, sorted, a line each.
VALIDATION_MD5 = "f5505c6091f9b7dda0dc5c887a1588ff"
# Of VOC 2012: the images of its list val, those that it or SBD has a mask of besides, and those of
# its list train.
VALIDATION_2012, TRAINED_2012, TRAINED_2012_ALONE = 1449, 10582, 1464


@dataclass(frozen=True)
class Pair:
    """An image and its mask: a palette PNG, or one of SBD's .mat files."""

    name: str
    image: Path
    mask: Path


@dataclass(frozen=True)
class Annotation:
    """The objects of an image (width, height in pixels).

    `boxes` (N, 4), float64: xmin, ymin, xmax, ymax, 1-based and inclusive. `labels` (N,), int64:
    indices of CLASSES. `difficult`, `truncated`, `occluded` (N,), bool; False where it is not said.
    """

    name: str
    width: int
    height: int
    boxes: np.ndarray
    labels: np.ndarray
    difficult: np.ndarray
    truncated: np.ndarray
    occluded: np.ndarray


@dataclass(frozen=True)
class Photo:
    """An image, and its objects."""

    image: Path
    objects: Annotation


def palette() -> np.ndarray:
    """VOC's colours, uint8 (256, 3): the bits of an index spread over red, green and blue."""
    index = np.arange(256)
    colors = np.zeros((256, 3), np.uint8)
    for place in range(8):
        for channel in range(3):
            bit = (index >> (3 * place + channel)) & 1
            colors[:, channel] |= (bit << (7 - place)).astype(np.uint8)
    return colors


def read_list(path: Path) -> list[str]:
    """The names of an image list; a second column, of class lists, is left out.

    Raises DataError: the file is missing, empty, or has a name twice.
    """
    try:
        names = [line.split()[0] for line in path.read_text().splitlines() if line.strip()]
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from error
    if not names:
        raise DataError(f"{path}: has no names")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{path}: has {twice} twice")
    return names


def read_image(path: Path) -> np.ndarray:
    """(H, W, 3), uint8, RGB; a grey image has three equal channels.

    Raises DataError: the file is missing, truncated or no image.
    """
    try:
        with Image.open(path) as image:
            return np.array(image.convert("RGB"))
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing") from error
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{path} is truncated or no image ({error})") from error


def read_mask(path: Path) -> np.ndarray:
    """The labels (H, W), uint8: 0 to 20, or VOID.

    Raises DataError: the file is missing or damaged, an RGB image, or has values of no class.
    """
    try:
        labels = _read_sbd(path) if path.suffix == ".mat" else _read_palette(path)
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing") from error
    except DataError:
        raise
    except Exception as error:  # whatever Pillow and SciPy raise of a damaged file
        raise DataError(f"{path} is truncated or no mask ({error})") from error
    if (wrong := labels[(labels > len(CLASSES)) & (labels != VOID)]).size:
        raise DataError(
            f"{path}: has the value {wrong[0]}; a mask has 0 to {len(CLASSES)}, and {VOID} for void"
        )
    return labels


def _read_palette(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        if image.mode not in ("P", "L"):
            raise DataError(
                f"{path}: is an image of colours ({image.mode}), not of indices; masks are PNGs "
                "with a palette"
            )
        return np.array(image)


def _read_sbd(path: Path) -> np.ndarray:
    import scipy.io  # slow to import, and the reduced edition does not need it

    content = scipy.io.loadmat(path)
    return np.ascontiguousarray(content["GTcls"][0]["Segmentation"][0], dtype=np.uint8)


def check_pairs(pairs: Sequence[Pair]) -> None:
    """Read every mask, and of every image its size and whether it is whole.

    Raises DataError, for the first pair that cannot be trained on: file and reason.
    """
    with ThreadPoolExecutor() as pool:
        for _ in pool.map(_check_pair, pairs):
            pass


def _check_pair(pair: Pair) -> None:
    labels = read_mask(pair.mask)
    if not pair.image.is_file():
        raise DataError(f"{pair.image} is missing; {pair.mask} is its mask")
    (width, height), note, readable = look_at(pair.image)
    if not readable:
        raise DataError(f"{pair.image} is truncated or no image ({note})")
    if labels.shape != (height, width):
        raise DataError(
            f"{pair.mask}: is {labels.shape[1]} × {labels.shape[0]} pixels, its image "
            f"{width} × {height}"
        )


def reduced_segmentation(data_root: Path) -> tuple[list[Pair], list[Pair]]:
    """The pairs of the reduced edition: 106 to train on and 104 to test on, by name.

    Raises DataError if the folder is not the one that is pinned.
    """
    REDUCED.verify(data_root)
    folder = data_root / REDUCED.folder
    train, test = (
        [_voc_pair(folder, name) for name in sorted(read_list(_segmentation_list(folder, split)))]
        for split in ("trainval", "test")
    )
    return train, test


def segmentation(
    data_root: Path, year: int = 2011, *, sbd: bool = True
) -> tuple[list[Pair], list[Pair]]:
    """The pairs of VOC 2011 or 2012 to train on, with SBD's unless told otherwise, and to judge by.

    Of 2011 the validation images are those of VOC's list that SBD's training list does not have,
    the official 736; of 2012 they are VOC's list. Training images are all others that VOC, or SBD,
    has a mask of. Where both have one it is VOC's.

    Raises DataError: a list is missing, or the lists are not the official ones.
    """
    whole = WHOLE_2011 if year == 2011 else WHOLE_2012
    voc, its = data_root / whole.folder, data_root / SBD
    lists = [_segmentation_list(voc, "train"), _segmentation_list(voc, "val")]
    if sbd or year == 2011:  # whose validation images are told by SBD's list
        lists += [its / "train.txt", its / "val.txt"]
    if missing := next((path for path in lists if not path.is_file()), None):
        raise DataError(f"{whole.name}: {missing} is missing; {whole.by_hand}")
    voc_train, voc_val, *of_sbd = map(read_list, lists)
    validation = sorted(set(voc_val) - (set(of_sbd[0]) if year == 2011 else set()))
    with_voc = {*voc_train, *voc_val}
    every = with_voc.union(*of_sbd) if sbd else with_voc
    if year == 2011:
        digest = hashlib.md5("\n".join(validation).encode()).hexdigest()
        if digest != VALIDATION_MD5:
            raise DataError(
                f"voc2011: {lists[1]} without {lists[2]} has {len(validation)} names that are not "
                f"the official {VALIDATION_2011}: lists of another edition"
            )
    else:
        counts = len(validation), len(every) - len(validation)
        expected = VALIDATION_2012, TRAINED_2012 if sbd else TRAINED_2012_ALONE
        if counts != expected:
            raise DataError(
                f"voc2012: {lists[1]} has {counts[0]} names and all lists {counts[1]} others, not "
                f"{expected[0]} and {expected[1]}: lists of another edition"
            )
    train = every - set(validation)
    return (
        [
            _voc_pair(voc, name) if name in with_voc else _sbd_pair(its, name)
            for name in sorted(train)
        ],
        [_voc_pair(voc, name) for name in validation],
    )


def reduced_detection(data_root: Path) -> tuple[list[Photo], list[Photo]]:
    """The photos of the reduced edition: 106 to train on and 106 to test on, by name.

    Raises DataError if the folder is not the one that is pinned.
    """
    REDUCED.verify(data_root)
    folder = data_root / REDUCED.folder
    train, test = (_photos(folder, read_list(main_list(folder, s))) for s in LISTS_2007)
    return train, test


def detection_2007(data_root: Path) -> tuple[list[Photo], list[Photo]]:
    """The 5,011 photos of VOC 2007 to train on, and the 4,952 to test on, by name.

    Raises DataError: a list is missing or not the official one, or a photo or its annotation is
    missing or wrong.
    """
    folder, found = data_root / VOC2007, []
    for split, (count, md5) in LISTS_2007.items():
        path = main_list(folder, split)
        if not path.is_file():
            raise DataError(f"voc2007: {path} is missing; {WHOLE_2007.by_hand}")
        names = read_list(path)
        if hashlib.md5("\n".join(sorted(names)).encode()).hexdigest() != md5:
            raise DataError(
                f"voc2007: {path} does not hold the official {count} names, but {len(names)} (the "
                f"reduced edition?); {WHOLE_2007.by_hand}"
            )
        found.append(_photos(folder, names))
    return found[0], found[1]


def main_list(folder: Path, split: str) -> Path:
    """Where a folder has the list of a split's images."""
    return folder / "ImageSets" / "Main" / f"{split}.txt"


def _photos(folder: Path, names: Sequence[str]) -> list[Photo]:
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda name: read_photo(folder, name), sorted(names)))


def read_photo(folder: Path, name: str) -> Photo:
    """A photo of a folder in VOC's layout, and its annotation.

    Raises DataError, with file and reason, if one of them is missing or damaged, or if they are not
    of one size.
    """
    path = folder / "JPEGImages" / f"{name}.jpg"
    objects = read_annotation(folder / "Annotations" / f"{name}.xml")
    if not path.is_file():
        raise DataError(f"{path} is missing; {name} is in a list of images")
    (width, height), note, readable = look_at(path)
    if not readable:
        raise DataError(f"{path} is truncated or no image ({note})")
    if (width, height) != (objects.width, objects.height):
        raise DataError(
            f"{path}: is {width} × {height} pixels, its annotation of "
            f"{objects.width} × {objects.height}"
        )
    return Photo(path, objects)


def _segmentation_list(folder: Path, split: str) -> Path:
    return folder / "ImageSets" / "Segmentation" / f"{split}.txt"


def _voc_pair(folder: Path, name: str) -> Pair:
    image, mask = (
        folder / "JPEGImages" / f"{name}.jpg",
        folder / "SegmentationClass" / f"{name}.png",
    )
    return Pair(name, image, mask)


def _sbd_pair(folder: Path, name: str) -> Pair:
    return Pair(name, folder / "img" / f"{name}.jpg", folder / "cls" / f"{name}.mat")


def read_annotation(path: Path) -> Annotation:
    """The objects of a VOC annotation; their parts (head, hand, foot) are no objects.

    Raises DataError, with file and reason: no XML, of another image, an unknown class, or a box
    that is empty or not inside the image.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing") from error
    except (OSError, ElementTree.ParseError) as error:
        raise DataError(f"{path}: no XML ({error})") from error
    named = Path(root.findtext("filename") or "").stem
    if named != path.stem:
        raise DataError(f"{path}: is the annotation of another image, {named or 'which it lacks'}")
    width, height = (round(_number(root, path, f"size/{side}")) for side in ("width", "height"))
    boxes, labels, flags = [], [], []
    for found in root.findall("object"):  # direct children: a part's box lies one level deeper
        name = (found.findtext("name") or "").strip()
        if name not in CLASSES:
            raise DataError(f"{path}: unknown class {name!r}")
        box = [_number(found, path, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")]
        _check_box(path, box, width, height)
        boxes.append(box)
        labels.append(CLASSES.index(name))
        flags.append([(found.findtext(key) or "0").strip() == "1" for key in FLAGS])
    difficult, truncated, occluded = np.array(flags, bool).reshape(-1, 3).T
    return Annotation(
        *(path.stem, width, height),
        np.array(boxes, np.float64).reshape(-1, 4),
        np.array(labels, np.int64),
        *(difficult, truncated, occluded),
    )


FLAGS = ("difficult", "truncated", "occluded")


def _number(node: ElementTree.Element, path: Path, key: str) -> float:
    text = node.findtext(key)
    with suppress(ValueError):
        if math.isfinite(found := float(text or "")):
            return found
    raise DataError(f"{path}: {key} is {text!r}, not a number")


def _check_box(path: Path, box: Sequence[float], width: int, height: int) -> None:
    xmin, ymin, xmax, ymax = box
    if min(xmin, ymin) < 1 or xmax > width or ymax > height:
        raise DataError(
            f"{path}: the box {_words(box)} is not inside the image of {width} × {height} pixels; "
            "coordinates are counted from 1"
        )
    if xmax < xmin or ymax < ymin:
        raise DataError(f"{path}: the box {_words(box)} is empty")


def _words(box: Sequence[float]) -> str:
    return "[" + ", ".join(f"{value:g}" for value in box) + "]"
