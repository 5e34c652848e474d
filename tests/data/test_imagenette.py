"""The two editions of Imagenette: torchvision's archive, imitated in small, and which is read."""

import hashlib
import io
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torchvision.datasets

from bpgrad.data import imagenette, unpacked
from bpgrad.data.files import DOWNLOAD_ERRORS, tree_md5
from bpgrad.data.imagefolder import unreadable
from bpgrad.data.unpacked import Unpacked
from bpgrad.errors import DataError
from bpgrad.records.run_record import RunRecord
from bpgrad.tasks.imagenet import Imagenette
from bpgrad.training.config import Config, load
from bpgrad.training.identity import describe, run_name
from bpgrad.training.trainer import train
from scripts import get_data
from tests.data.images import make_image_folder

FOLDER, ARCHIVE = "imagenette2-160", "imagenette2-160.tgz"
CLASSES = ("n01440764", "n02102040")


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """What torchvision would unpack."""
    top = tmp_path / "made" / FOLDER
    make_image_folder(top / "train", CLASSES, images=6)
    make_image_folder(top / "val", CLASSES, images=3)
    (top / "noisy_imagenette.csv").write_bytes(b"path,label")
    return top


@pytest.fixture
def archive(made: Path, tmp_path: Path) -> Path:
    """The same as an archive, with members that have no business there."""
    path = tmp_path / "archive.tgz"
    with tarfile.open(path, "w:gz") as content:
        content.add(made, FOLDER)
        for name in ("../evil.JPEG", f"{FOLDER}/train/../../evil.JPEG", "/tmp/evil.JPEG"):
            content.addfile(tarfile.TarInfo(name), io.BytesIO())
        link = tarfile.TarInfo(f"{FOLDER}/train/{CLASSES[0]}/link.JPEG")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        content.addfile(link)
    return path


@pytest.fixture
def source(archive: Path, monkeypatch: pytest.MonkeyPatch) -> Unpacked:
    """The edition with that archive's md5, for the task and the command too; no network."""
    md5 = {ARCHIVE: hashlib.md5(archive.read_bytes()).hexdigest()}
    found = replace(imagenette.IMAGENETTE_160, md5=md5)
    monkeypatch.setattr(Imagenette, "other", found)
    monkeypatch.setitem(get_data.SOURCES, found.name, found)

    def no_network(url: str, path: Path, md5: str) -> None:
        raise RuntimeError("no\nnetwork")

    monkeypatch.setattr(imagenette, "fetch", no_network)
    return found


@pytest.fixture
def network(archive: Path, source: Unpacked, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is fetched; the archive comes."""
    fetched: list[str] = []

    def fetch(url: str, path: Path, md5: str) -> None:
        fetched.append(url)
        shutil.copy(archive, path)

    monkeypatch.setattr(imagenette, "fetch", fetch)
    return fetched


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for part in ("train", "val")
        for path in (folder / part).rglob("*")
        if path.is_file()
    }


def test_it_is_torchvision_s(tmp_path: Path) -> None:
    (md5,) = imagenette.IMAGENETTE_160.md5.values()
    assert torchvision.datasets.Imagenette._ARCHIVES["160px"] == (imagenette.URL, md5)


def test_the_command_downloads_and_unpacks_it(
    source: Unpacked,
    network: list[str],
    made: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = tmp_path / "root"
    assert source.is_absent(root)
    for _ in range(2):
        assert get_data.main([FOLDER, "--data-root", str(root)]) == 0
    assert network == [imagenette.URL]
    assert files(root / FOLDER) == files(made)
    assert sorted(path.name for path in root.iterdir()) == ["cache", FOLDER, ARCHIVE]
    assert not list(tmp_path.rglob("evil*"))
    assert not list(root.rglob("link*"))
    (line,) = (line for line in get_data.states(root) if line.startswith(FOLDER))
    assert line.split()[1] == "complete"


def test_what_torchvision_has_unpacked_is_compared_with_its_archive(
    source: Unpacked, archive: Path, made: Path, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    shutil.copytree(made, root / FOLDER)
    path = root / FOLDER / "val" / CLASSES[1] / f"{CLASSES[1]}_1.JPEG"
    path.write_bytes(path.read_bytes()[::-1])
    with pytest.raises(DataError, match=f"get_data.py {FOLDER} --data-root {root}`"):
        source.verify(root)
    with pytest.raises(DataError, match=r"failed \(no network\); .* place there by hand") as told:
        source.download(root)
    assert "\n" not in str(told.value)
    assert [path.name for path in root.iterdir()] == [FOLDER]
    shutil.copy(archive, root / ARCHIVE)
    source.download(root)
    source.verify(root)
    assert files(root / FOLDER) == files(made)


@pytest.mark.parametrize("content", [lambda b: b[: len(b) // 2], lambda b: b[::-1], None])
def test_damage_is_named_and_mended(
    source: Unpacked,
    network: list[str],
    made: Path,
    tmp_path: Path,
    content: Callable[[bytes], bytes] | None,
) -> None:
    root, name = tmp_path / "root", f"{CLASSES[0]}/{CLASSES[0]}_2.JPEG"
    source.download(root)
    path = root / FOLDER / "train" / name
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content(path.read_bytes()))
    with pytest.raises(DataError, match=rf"{name} \((changed|missing)\); run `python scripts/get_"):
        source.verify(root)
    source.download(root)
    assert files(root / FOLDER) == files(made)
    (root / FOLDER / "val" / "mine.txt").write_bytes(b"")
    with pytest.raises(DataError, match=r"remove them: mine\.txt \(added\)"):
        source.download(root)
    assert len(network) == 1


def test_an_archive_that_was_cut_is_fetched_again(
    source: Unpacked, network: list[str], tmp_path: Path
) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / ARCHIVE).write_bytes(b"half")
    source.download(tmp_path / "root")
    assert len(network) == 1


def test_an_unpacking_that_was_cut_is_gone_on_with(
    source: Unpacked,
    network: list[str],
    made: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write, written = unpacked.write, []

    def cut(content: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
        written.append(member.name)
        if len(written) == 4:
            path.write_bytes(b"half")
            raise KeyboardInterrupt
        write(content, member, path)

    monkeypatch.setattr(unpacked, "write", cut)
    with pytest.raises(KeyboardInterrupt):
        source.download(tmp_path / "root")
    assert not source.is_absent(tmp_path / "root")
    source.download(tmp_path / "root")
    assert len(written) == 18 + 1
    assert files(tmp_path / "root" / FOLDER) == files(made)


def test_a_fetched_file_has_the_md5(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "*")
    md5 = hashlib.md5(archive.read_bytes()).hexdigest()
    handler = partial(SimpleHTTPRequestHandler, directory=str(archive.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/{archive.name}"
        imagenette.fetch(url, tmp_path / "here" / ARCHIVE, md5)
        for wrong, words in ((url, "corrupt"), (f"{url}.none", "404")):
            with pytest.raises(DOWNLOAD_ERRORS, match=words):
                imagenette.fetch(wrong, tmp_path / "there" / ARCHIVE, "0" * 32)
        server.shutdown()
    assert (tmp_path / "here" / ARCHIVE).read_bytes() == archive.read_bytes()


def test_an_unreadable_image_is_named_at_the_first_look(made: Path, tmp_path: Path) -> None:
    """Also where the images were never seen whole: of our edition."""
    root, name = tmp_path / "root", "n01440764/n01440764_2.JPEG"
    shutil.copytree(made, root / "imagenette2")
    parts = {f"{part}/": tree_md5(root, f"imagenette2/{part}") for part in ("train", "val")}
    shutil.rmtree(root / "cache")
    path = root / "imagenette2" / "train" / name
    path.write_bytes(path.read_bytes()[:700])
    assert imagenette.IMAGENETTE.look is unreadable
    with pytest.raises(DataError, match=rf"or changed: {name} \(image file is truncated"):
        replace(imagenette.IMAGENETTE, md5=parts).verify(root)


# -- which edition a run is of ---------------------------------------------------------------------


def configured(root: Path, *overrides: str) -> Config:
    places = [f"data_root={root}", f"results_root={root}/r", f"checkpoint_root={root}/c"]
    small = ["task.resolution=67", "task.width=8", "task.reestimation_images=10", "threads=1"]
    options = ["task=imagenette", "solver=sgd", "epochs=1", "batch_size=6", "workers=0"]
    return load([*options, *small, *places, *overrides])


def test_a_run_is_named_after_the_edition_that_lies_there(source: Unpacked, tmp_path: Path) -> None:
    roots = {name: tmp_path / name for name in ("none", "ours", "torchvision", "both")}
    for name, folders in (
        ("ours", ["imagenette2"]),
        ("torchvision", [FOLDER]),
        ("both", ["imagenette2", FOLDER]),
    ):
        for folder in folders:
            (roots[name] / folder / "train").mkdir(parents=True)
    names = {name: run_name(configured(root)) for name, root in roots.items()}
    assert names["none"] == names["ours"] == names["both"] != names["torchvision"]
    found = describe(configured(roots["torchvision"]))["data_md5"]
    assert found == source.md5


def test_a_run_that_downloads_it_is_recorded_as_of_it(
    source: Unpacked, network: list[str], tmp_path: Path
) -> None:
    """Images of sides that differ, from end to end; a second run finds it done."""
    cfg = configured(tmp_path / "root", "download=true")
    before = run_name(cfg)
    result = train(cfg)
    record = RunRecord(Path(cfg.results_root), Path(cfg.checkpoint_root), run_name(cfg))
    assert record.name != before
    assert record.meta()["data_md5"] == source.md5
    assert [path.parent.name for path in Path(cfg.results_root).rglob("result.json")] == [
        record.name.rpartition("/")[2]
    ]
    assert train(cfg) == result
    assert len(network) == 1


def test_a_run_that_is_done_is_found_without_the_images(
    source: Unpacked,
    network: list[str],
    made: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is downloaded in their place, which would make it another run."""
    root = tmp_path / "root"
    shutil.copytree(made, root / "imagenette2")
    md5 = {f"{part}/": tree_md5(root, f"imagenette2/{part}") for part in ("train", "val")}
    monkeypatch.setattr(Imagenette, "source", replace(imagenette.IMAGENETTE, md5=md5))
    result = train(configured(root))
    shutil.rmtree(root / "imagenette2")
    assert train(configured(root, "download=true")) == result
    assert network == []


def test_without_any_edition_it_is_said_how_to_get_one(source: Unpacked, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"thunderInfy.*python scripts/get_data.py {FOLDER}"):
        train(configured(tmp_path))
    with pytest.raises(DataError, match=r"failed \(no network\)"):
        train(configured(tmp_path, "download=true"))
