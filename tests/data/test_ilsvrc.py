"""The official archives, imitated in small: three classes, with the same structure."""

import hashlib
import io
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from bpgrad.data import ilsvrc, unpacked
from bpgrad.data.ilsvrc import Archives, prepare
from bpgrad.data.unpacked import RECEIPT, Unpacked
from bpgrad.errors import DataError
from scripts import get_data

WNIDS = {2: "n00000002", 3: "n00000003", 1: "n00000001"}
TRUTH = [3, 1, 1, 2, 3]

Members = list[tuple[str, bytes]]


def tar(members: Members, mode: str = "w:") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def class_members(wnid: str, images: int = 2) -> Members:
    return [(f"{wnid}_{k}.JPEG", f"{wnid} {k}".encode()) for k in range(images)]


def training(changes: dict[str, bytes] | None = None) -> bytes:
    parts = {f"{wnid}.tar": tar(class_members(wnid)) for wnid in WNIDS.values()}
    return tar(list((parts | (changes or {})).items()))


def validation(extra: Members = ()) -> bytes:  # type: ignore[assignment]
    members = [(f"ILSVRC2012_val_{k:08}.JPEG", f"val {k}".encode()) for k in range(1, 6)]
    return tar([*members, *extra])


def devkit(blacklist: str | None = None) -> bytes:
    kinds = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("num_children", "O")]
    rows = [(k, wnid, 0) for k, wnid in WNIDS.items()] + [(4, "n00000004", 3)]
    meta = io.BytesIO()
    scipy.io.savemat(meta, {"synsets": np.array(rows, kinds)[:, None]})
    top = "ILSVRC2012_devkit_t12/data/"
    truth = "".join(f"{k}\n" for k in TRUTH).encode()
    members = [
        (f"{top}meta.mat", meta.getvalue()),
        (f"{top}ILSVRC2012_validation_ground_truth.txt", truth),
    ]
    if blacklist is not None:
        members.append((f"{top}ILSVRC2012_validation_blacklist.txt", blacklist.encode()))
    return tar(members, "w:gz")


@pytest.fixture
def archives(tmp_path: Path) -> Callable[..., Archives]:
    """Write archives into tmp_path/archives; their names, md5s and counts."""

    def write(**contents: bytes) -> Archives:
        given = {"train": training(), "val": validation(), "devkit": devkit()} | contents
        folder = tmp_path / "archives"
        folder.mkdir(exist_ok=True)
        found = Archives(classes=3, train_images=6, val_images=5)
        for kind, content in given.items():
            (folder / getattr(found, kind)).write_bytes(content)
            md5 = {f"{kind}_md5": hashlib.md5(content).hexdigest()}
            found = replace(found, **md5)  # type: ignore[arg-type]
        return found

    return write


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != RECEIPT
    }


EXPECTED = {
    **{
        f"train/{wnid}/{name}": content
        for wnid in sorted(WNIDS.values())
        for name, content in class_members(wnid)
    },
    **{
        f"val/{WNIDS[label]}/ILSVRC2012_val_{k:08}.JPEG": f"val {k}".encode()
        for k, label in enumerate(TRUTH, 1)
    },
}


def source_of(given: Archives) -> Unpacked:
    return Unpacked("imagenet", "imagenet", given.md5, by_hand="get it")


def test_archives_become_folders_of_classes(
    archives: Callable[..., Archives], tmp_path: Path
) -> None:
    given = archives()
    source = source_of(given)
    assert source.is_absent(tmp_path)
    with pytest.raises(DataError, match="is missing or not whole; get it"):
        source.verify(tmp_path)
    prepare(tmp_path, tmp_path / "archives", given)
    assert files(tmp_path / "imagenet") == EXPECTED
    source.verify(tmp_path)
    prepare(tmp_path, tmp_path / "archives", given)  # nothing left to do
    assert files(tmp_path / "imagenet") == EXPECTED


CAT, DOG = "train/n00000002/n00000002_1.JPEG", "val/n00000001/ILSVRC2012_val_00000002.JPEG"
DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:4]),
    "changed, of the same size": lambda path: path.write_bytes(path.read_bytes()[::-1]),
    "missing": lambda path: path.unlink(),
    "its class missing": lambda path: shutil.rmtree(path.parent),
}


@pytest.mark.parametrize("name", [CAT, DOG])
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("memory", [True, False])
def test_damage_is_named_and_mended_by_the_command(
    archives: Callable[..., Archives],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    damage: str,
    memory: bool,
) -> None:
    given, top = archives(), tmp_path / "imagenet"
    source = source_of(given)
    prepare(tmp_path, tmp_path / "archives", given)
    before = source.contents(tmp_path)
    DAMAGES[damage](top / name)
    part, _, path = name.partition("/")
    for _ in range(2):  # what was whole once is remembered
        with pytest.raises(DataError, match=f"imagenet/{part} has files missing, ") as refused:
            source.verify(tmp_path)
        assert f"{path} ({'missing' if 'missing' in damage else 'changed'})" in str(refused.value)
    if not memory:
        shutil.rmtree(tmp_path / "cache")
    written, write = [], unpacked.write
    monkeypatch.setattr(unpacked, "write", lambda *a: (written.append(a[-1].parent), write(*a)))
    prepare(tmp_path, tmp_path / "archives", given)
    assert set(written) == {(top / name).parent}  # nothing but what was damaged
    assert files(top) == EXPECTED
    source.verify(tmp_path)
    assert source.contents(tmp_path) == before


def test_a_mending_that_was_cut_is_gone_on_with(
    archives: Callable[..., Archives], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Contents are compared until the receipt fits again, not only in the first call."""
    given, top = archives(), tmp_path / "imagenet"
    prepare(tmp_path, tmp_path / "archives", given)
    for name in (CAT, DOG):
        DAMAGES["changed, of the same size"](top / name)
    with monkeypatch.context() as patch:
        patch.setattr(unpacked, "write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            prepare(tmp_path, tmp_path / "archives", given)
    with pytest.raises(DataError, match="missing, added or changed"):
        source_of(given).verify(tmp_path)
    prepare(tmp_path, tmp_path / "archives", given)
    assert files(top) == EXPECTED


def test_without_a_receipt_nothing_that_lies_there_is_believed(
    archives: Callable[..., Archives], tmp_path: Path
) -> None:
    """As zeros where the system went down while an image was written."""
    given, top = archives(), tmp_path / "imagenet"
    prepare(tmp_path, tmp_path / "archives", given)
    (top / RECEIPT).unlink()
    DAMAGES["changed, of the same size"](top / CAT)
    prepare(tmp_path, tmp_path / "archives", given)
    assert files(top) == EXPECTED


def test_two_may_unpack_at_once(
    archives: Callable[..., Archives], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, top, write = archives(), tmp_path / "imagenet", unpacked.write

    def slow(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
        write(archive, member, path)
        monkeypatch.setattr(unpacked, "write", write)
        prepare(tmp_path, tmp_path / "archives", given)  # another, in the middle of this

    monkeypatch.setattr(unpacked, "write", slow)
    prepare(tmp_path, tmp_path / "archives", given)
    assert files(top) == EXPECTED


def test_what_is_no_part_of_it_is_named_and_left(
    archives: Callable[..., Archives], tmp_path: Path
) -> None:
    given = archives()
    prepare(tmp_path, tmp_path / "archives", given)
    others = [tmp_path / "imagenet/train" / name for name in ("mine/1.JPEG", "n00000001/2.txt")]
    for path in others:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    words = r"mine/1\.JPEG \(added\), n00000001/2\.txt \(added\)"
    with pytest.raises(DataError, match=words):
        source_of(given).verify(tmp_path)
    with pytest.raises(DataError, match=f"its archive has not, remove them: {words}"):
        prepare(tmp_path, tmp_path / "archives", given)
    for path in others:
        path.unlink()
    source_of(given).verify(tmp_path)


def test_archives_that_are_not_there_leave_nothing_behind(
    archives: Callable[..., Archives], tmp_path: Path
) -> None:
    given, root = archives(), tmp_path / "root"
    with pytest.raises(DataError, match=r"typo/ILSVRC2012_img_train\.tar is missing"):
        prepare(root, tmp_path / "typo", given)
    assert not root.exists()
    with pytest.raises(DataError, match="truncated or corrupt"):
        prepare(root, tmp_path / "archives", replace(given, val_md5="0" * 32))
    (line,) = (line for line in get_data.states(root) if line.startswith("imagenet "))
    assert line.split()[1] == "missing"


@pytest.mark.parametrize("text", ["", "{}", '{"train": "x", "val": "y", "archives": {}}', "[1]"])
def test_a_damaged_receipt_is_refused(
    archives: Callable[..., Archives], tmp_path: Path, text: str
) -> None:
    given = archives()
    prepare(tmp_path, tmp_path / "archives", given)
    (tmp_path / "imagenet" / RECEIPT).write_text(text)
    with pytest.raises(DataError, match=r"prepared\.json is damaged; get it"):
        source_of(given).verify(tmp_path)


@pytest.mark.parametrize("after", [1, 2, 4, 7, 10])
def test_it_goes_on_where_it_was_cut(
    archives: Callable[..., Archives],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    after: int,
) -> None:
    given = archives()
    write, written = unpacked.write, iter(range(100))

    def cut(archive: tarfile.TarFile, member: tarfile.TarInfo, place: Path) -> None:
        if next(written) == after:
            place.write_bytes(b"half")
            raise KeyboardInterrupt
        write(archive, member, place)

    with monkeypatch.context() as patch:
        patch.setattr(unpacked, "write", cut)
        with pytest.raises(KeyboardInterrupt):
            prepare(tmp_path, tmp_path / "archives", given)
    with pytest.raises(DataError, match="not whole"):
        source_of(given).verify(tmp_path)
    done = set(files(tmp_path / "imagenet"))
    again = []
    monkeypatch.setattr(unpacked, "write", lambda a, m, p: (again.append(m.name), write(a, m, p)))
    prepare(tmp_path, tmp_path / "archives", given)
    assert files(tmp_path / "imagenet") == EXPECTED
    assert not {Path(name).name for name in done} & set(again)  # whole ones are not written again
    assert len(again) < 11 or after < 2


def test_blacklisted_validation_images_are_left_out(
    archives: Callable[..., Archives], tmp_path: Path
) -> None:
    prepare(tmp_path, tmp_path / "archives", archives(devkit=devkit("2\n5\n")))
    found = {name for name in files(tmp_path / "imagenet") if name.startswith("val/")}
    assert {name[-6:-5] for name in found} == {"1", "3", "4"}


def bad_class(*members: tuple[str, bytes]) -> bytes:
    return training({"n00000003.tar": tar([*class_members("n00000003"), *members])})


def with_link() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:") as archive:
        link = tarfile.TarInfo("n00000003_9.JPEG")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return training({"n00000003.tar": file.getvalue()})


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        ({"train": bad_class(("../../../evil.JPEG", b"x"))}, "'../../../evil.JPEG', which is no"),
        ({"train": bad_class(("/tmp/n00000003_7.JPEG", b"x"))}, "which is no image of its kind"),
        ({"train": bad_class(("n00000001_7.JPEG", b"x"))}, "'n00000001_7.JPEG', which is no"),
        ({"train": with_link()}, "'n00000003_9.JPEG', which is no image"),
        ({"train": training({"../up.tar": tar([])})}, "'../up.tar' is not the archive of a class"),
        ({"train": bad_class(("n00000003_7.JPEG", b"x"))}, "train: has 7 images, not 6"),
        ({"train": tar([("n00000001.tar", tar([]))])}, "has no archive of 2 classes"),
        ({"val": validation([("../ILSVRC2012_val_00000001.JPEG", b"x")])}, "refused"),
        ({"val": tar([])}, "val: has 0 images, not 5"),
        ({"val": b"no tar"}, "imagenet: an archive is damaged"),
        ({"devkit": tar([("data/other.txt", b"")], "w:gz")}, "meta.mat or the validation labels"),
    ],
)
def test_what_does_not_belong_there_is_refused(
    archives: Callable[..., Archives], tmp_path: Path, contents: dict[str, bytes], words: str
) -> None:
    given = archives(**contents)
    outside = set(tmp_path.iterdir()) | {tmp_path / "imagenet", tmp_path / "cache"}
    with pytest.raises(DataError) as refused:
        prepare(tmp_path, tmp_path / "archives", given)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)
    assert set(tmp_path.iterdir()) <= outside
    assert not list(tmp_path.rglob("*.partial"))
    with pytest.raises(DataError, match="not whole"):
        source_of(given).verify(tmp_path)


def test_other_archives_are_refused_before_anything_is_unpacked(
    archives: Callable[..., Archives], tmp_path: Path
) -> None:
    given = archives()
    wrong = replace(given, val_md5="0" * 32)
    with pytest.raises(DataError, match=r"img_val.tar is truncated or corrupt: \d+ bytes"):
        prepare(tmp_path, tmp_path / "archives", wrong)
    assert not (tmp_path / "imagenet" / "train").exists()
    (tmp_path / "archives" / given.train).unlink()
    with pytest.raises(
        DataError, match=r"img_train.tar is missing; get ILSVRC2012_img_train.tar \(md5 "
    ):
        prepare(tmp_path, tmp_path / "archives", given)
    with pytest.raises(DataError, match=r"validation labels, not 1000 and 5$"):
        prepare(tmp_path, tmp_path / "archives", replace(archives(), classes=1000))


def test_the_command(
    archives: Callable[..., Archives],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = archives()
    call = ["imagenet", "--from", str(tmp_path / "archives"), "--data-root", str(tmp_path)]
    assert get_data.main(call) == 2  # these are not the official ones
    assert "is truncated or corrupt" in capsys.readouterr().err
    monkeypatch.setattr(ilsvrc, "OFFICIAL", given)
    assert get_data.main(call) == 0
    assert capsys.readouterr().out == f"imagenet: complete in {tmp_path}/imagenet\n"
    for wrong in (["mnist", *call[1:]], call[1:]):
        with pytest.raises(SystemExit):
            get_data.main(wrong)
        assert "--from: goes with imagenet alone" in capsys.readouterr().err
