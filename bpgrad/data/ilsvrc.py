"""ILSVRC 2012 from its official archives into folders of classes (reference §5)."""

import hashlib
import io
import re
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from bpgrad.data.files import in_words
from bpgrad.data.imagefolder import unreadable
from bpgrad.data.unpacked import PARTS, Placed, Unpacked
from bpgrad.errors import DataError


@dataclass(frozen=True)
class Archives:
    """The three archives by name, their md5s, and what they hold.

    `blacklisted` validation images are left out if the development kit has the list.
    """

    train: str = "ILSVRC2012_img_train.tar"
    val: str = "ILSVRC2012_img_val.tar"
    devkit: str = "ILSVRC2012_devkit_t12.tar.gz"
    train_md5: str = "1d675b47d978889d74fa0da5fadfb00e"
    val_md5: str = "29b22e2961454d5413ddabcf34fc5622"
    devkit_md5: str = "fa75699e90414af021442c21a62c3abf"
    classes: int = 1000
    train_images: int = 1_281_167
    val_images: int = 50_000

    @property
    def md5(self) -> dict[str, str]:
        """The md5 of each archive, by name."""
        return {
            self.train: self.train_md5,
            self.val: self.val_md5,
            self.devkit: self.devkit_md5,
        }


OFFICIAL = Archives()


SOURCE = Unpacked(
    name="imagenet",
    folder="imagenet",
    md5=OFFICIAL.md5,
    by_hand=f"get {in_words(OFFICIAL.md5)} from image-net.org (an account is needed; 145 GB, and "
    "as much again), then `python scripts/get_data.py imagenet --from FOLDER_OF_THE_ARCHIVES`",
    look=unreadable,
)


def prepare(data_root: Path, archives: Path, given: Archives = OFFICIAL) -> None:
    """Unpack the archives in a folder into `data_root`/imagenet/{train,val}/<class>/.

    What is whole already stays, and what is not is mended: files are compared by their sizes, and
    by their contents where they are not what an earlier receipt says. Archives are left as they
    are. Nothing outside of the data set's folder is written, whatever names an archive holds.

    Raises:
        DataError: an archive is missing, has another md5 or other contents than it should.
    """
    source = replace(SOURCE, md5=given.md5)
    top = data_root / source.folder
    try:
        for name in given.md5:
            if not (archives / name).is_file():
                raise DataError(f"{archives / name} is missing; {source.by_hand}")
        top.mkdir(parents=True, exist_ok=True)
        for name, md5 in given.md5.items():
            _check_md5(archives / name, md5, top)
        wnids, truth, blacklist = _read_devkit(archives / given.devkit)
        if len(wnids) != given.classes or len(truth) != given.val_images:
            raise DataError(
                f"{archives / given.devkit}: has {len(wnids)} classes and {len(truth)} validation "
                f"labels, not {given.classes} and {given.val_images}"
            )
        doubtful = source.doubtful(data_root)
        train, val = (Placed(top / part, contents=part in doubtful) for part in PARTS)
        _unpack_training(archives / given.train, train, set(wnids.values()))
        labels = {k: wnids[label] for k, label in enumerate(truth, 1) if k not in blacklist}
        _unpack_validation(archives / given.val, val, labels)
        for part, expected in ((train, given.train_images), (val, len(labels))):
            if len(part.names) != expected:
                raise DataError(f"{part.folder}: has {len(part.names)} images, not {expected}")
            part.check_nothing_else()
        source.write_receipt(data_root)
        for leftover in top.glob(".md5-*"):
            leftover.unlink()
    except tarfile.TarError as error:
        raise DataError(f"imagenet: an archive is damaged ({error})") from error
    except OSError as error:
        raise DataError(f"imagenet: {error.filename or top}: {error.strerror or error}") from error


def _check_md5(path: Path, md5: str, top: Path) -> None:
    """Hash an archive, unless that has been done since it was last changed."""
    stat = path.stat()
    known = top / f".md5-{path.name}"
    now = f"{stat.st_size} {stat.st_mtime_ns} {md5}"
    if known.exists() and known.read_text() == now:
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "md5").hexdigest()
    if found != md5:
        raise DataError(
            f"{path} is truncated or corrupt: {stat.st_size} bytes with md5 {found}, expected {md5}"
        )
    known.write_text(now)


def _read_devkit(path: Path) -> tuple[dict[int, str], list[int], set[int]]:
    """Class folder by ILSVRC id, the ids of the validation images, and the numbers left out."""
    import scipy.io  # slow to import, and nothing else here needs it

    found: dict[str, bytes] = {}
    with tarfile.open(path, "r:gz") as archive:
        for member in archive:
            name = PurePosixPath(member.name).name
            wanted = name in ("meta.mat", "ILSVRC2012_validation_ground_truth.txt")
            if member.isfile() and (wanted or name.endswith("validation_blacklist.txt")):
                content = archive.extractfile(member)
                assert content is not None
                found["blacklist" if "blacklist" in name else name] = content.read()
    try:
        synsets = scipy.io.loadmat(io.BytesIO(found["meta.mat"]), squeeze_me=True)["synsets"]
        truth = [int(line) for line in found["ILSVRC2012_validation_ground_truth.txt"].split()]
        wnids = {
            int(row["ILSVRC2012_ID"]): str(row["WNID"])
            for row in synsets
            if int(row["num_children"]) == 0
        }
        blacklist = {int(line) for line in found.get("blacklist", b"").split()}
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(
            f"{path}: meta.mat or the validation labels are missing or unread"
        ) from error
    if not set(truth) <= set(wnids):
        raise DataError(f"{path}: validation labels name classes that meta.mat does not")
    return wnids, truth, blacklist


def _unpack_training(path: Path, target: Placed, wnids: set[str]) -> None:
    """A tar of tars, one a class."""
    seen = set()
    with tarfile.open(path, "r:") as outer:
        for member in outer:
            wnid = member.name.removesuffix(".tar")
            if not (member.isfile() and member.name.endswith(".tar") and wnid in wnids):
                raise DataError(f"{path}: {member.name!r} is not the archive of a class; refused")
            seen.add(wnid)
            with tarfile.open(fileobj=outer.extractfile(member), mode="r:") as inner:
                for image in inner:
                    _check_name(path, image, rf"{wnid}_\d+\.JPEG")
                    target.place(inner, image, f"{wnid}/{image.name}")
    if missing := sorted(wnids - seen):
        raise DataError(f"{path}: has no archive of {len(missing)} classes, the first {missing[0]}")


def _unpack_validation(path: Path, target: Placed, labels: Mapping[int, str]) -> None:
    with tarfile.open(path, "r:") as archive:
        for member in archive:
            _check_name(path, member, r"ILSVRC2012_val_\d{8}\.JPEG")
            number = int(member.name[15:23])
            if number in labels:  # the others are blacklisted
                target.place(archive, member, f"{labels[number]}/{member.name}")


def _check_name(path: Path, member: tarfile.TarInfo, pattern: str) -> None:
    if not (member.isfile() and re.fullmatch(pattern, member.name)):
        raise DataError(f"{path}: holds {member.name!r}, which is no image of its kind; refused")
