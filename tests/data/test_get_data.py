import hashlib
import importlib
import pkgutil
from pathlib import Path

import numpy as np
import pytest
import scipy.io

import bpgrad.data
from bpgrad.data import pretrained, proposals, voc
from bpgrad.data.files import Source
from bpgrad.data.sources import SOURCES
from bpgrad.errors import DataError
from scripts import get_data
from tests.voc import square, write_list, write_pair, write_photo


class FakeSource:
    folder = "Some/raw"

    def __init__(self, error: DataError | None = None) -> None:
        self.error = error
        self.roots: list[Path] = []

    def download(self, data_root: Path) -> None:
        self.roots.append(data_root)
        if self.error is not None:
            raise self.error


@pytest.fixture
def sources(monkeypatch: pytest.MonkeyPatch) -> dict[str, FakeSource]:
    fakes = {"mnist": FakeSource(), "cifar10": FakeSource()}
    monkeypatch.setattr(get_data, "SOURCES", fakes)
    return fakes


def test_gets_what_is_named(
    sources: dict[str, FakeSource], capsys: pytest.CaptureFixture[str]
) -> None:
    assert get_data.main(["cifar10", "mnist", "--data-root", "here"]) == 0
    assert sources["mnist"].roots == sources["cifar10"].roots == [Path("here")]
    assert capsys.readouterr().out == (
        "cifar10: complete in here/Some/raw\nmnist: complete in here/Some/raw\n"
    )


@pytest.mark.parametrize(("value", "expected"), [("/some/where", "/some/where"), (None, "data")])
def test_default_root(
    sources: dict[str, FakeSource],
    monkeypatch: pytest.MonkeyPatch,
    value: str | None,
    expected: str,
) -> None:
    monkeypatch.delenv("BPGRAD_DATA", raising=False)
    if value is not None:
        monkeypatch.setenv("BPGRAD_DATA", value)
    get_data.main(["mnist"])
    assert sources["mnist"].roots == [Path(expected)]
    assert sources["cifar10"].roots == []


def test_a_failure_is_one_line_and_exit_code_2(
    sources: dict[str, FakeSource], capsys: pytest.CaptureFixture[str]
) -> None:
    sources["mnist"].error = DataError("mnist: no network")
    assert get_data.main(["mnist"]) == 2
    assert capsys.readouterr().err == "mnist: no network\n"


def test_an_unknown_name_lists_the_choices(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        get_data.main(["minst"])
    assert caught.value.code == 2
    assert "'mnist', 'cifar10'" in capsys.readouterr().err


def test_without_names_it_lists_every_set_and_its_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content = b"one"
    md5 = {"file": hashlib.md5(content).hexdigest()}
    sources = [
        Source("whole", "whole", md5, torchvision_name="Some"),
        Source("cut", "cut", md5, torchvision_name="Some"),
        Source("absent", "absent", md5, torchvision_name="Some"),
        Source("elsewhere", "elsewhere", md5, by_hand="ask its authors"),
    ]
    monkeypatch.setattr(get_data, "SOURCES", {source.name: source for source in sources})
    for folder, there in (("whole", content), ("cut", content[:-1])):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "file").write_bytes(there)
    assert get_data.main(["--data-root", str(tmp_path)]) == 2
    lines = capsys.readouterr().out.splitlines()
    states = {line.split()[0]: line.split()[1] for line in lines}
    assert states == {
        "digits": "complete",
        "whole": "complete",
        "cut": "damaged",
        "absent": "missing",
        "elsewhere": "missing",
    }
    assert str(tmp_path / "absent") in lines[3]
    assert "get_data.py absent" in lines[3]
    assert "ask its authors" in lines[4]
    (tmp_path / "cut" / "file").write_bytes(content)
    assert get_data.main(["--data-root", str(tmp_path)]) == 0


def states(root: Path) -> dict[str, tuple[str, str]]:
    """State and remark of every set, by name."""
    lines = (line.split(maxsplit=2) for line in get_data.states(root))
    return {name: (state, rest) for name, state, rest in lines}


def test_of_every_set_it_says_where_it_goes_and_how_to_get_it(tmp_path: Path) -> None:
    found = states(tmp_path)
    assert found.pop("digits")[0] == "complete"
    assert list(found) == list(SOURCES)
    for name, (state, rest) in found.items():
        place, how = rest.split("  (", 1)
        assert state == "missing"
        assert place == str(tmp_path / SOURCES[name].folder)
        assert f"get_data.py {name}" in how or "by hand" in how or "md5 " in how or "take " in how
    for name in ("voc2007", "voc2007-proposals", "voc2011", "imagenet"):
        assert all(md5 in found[name][1] for md5 in SOURCES[name].md5.values())


def test_one_of_the_two_editions_of_voc_2007_lies_in_a_data_root(tmp_path: Path) -> None:
    names = voc.main_list(tmp_path / voc.VOC2007, "trainval")
    write_list(names, [f"{k:06}" for k in range(106)])
    found = states(tmp_path)
    assert found["voc2007-reduced"][0] == "damaged"  # of it there is this list alone
    assert found["voc2007"][0] == "missing"
    assert voc.ONE_EDITION in found["voc2007"][1]
    write_list(names, [f"{k:06}" for k in range(5011)])
    found = states(tmp_path)
    assert found["voc2007-reduced"][0] == "missing"
    assert voc.ONE_EDITION in found["voc2007-reduced"][1]
    assert found["voc2007"][0] == "damaged"
    assert "does not hold the official 5011 names" in found["voc2007"][1]
    with pytest.raises(DataError, match=r"VOC2007 holds the whole of VOC 2007; .* by hand"):
        voc.reduced_detection(tmp_path)


def test_the_sets_of_the_paper_s_editions_are_as_their_readers_find_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(voc, "_lies_whole", lambda root: True)
    monkeypatch.setattr(voc, "VALIDATION_MD5", hashlib.md5(b"b").hexdigest())
    folder, place = tmp_path / voc.VOC2007, tmp_path / voc.VOC2011
    lists = {"trainval": "000001", "test": "000002"}
    md5s = {split: (1, hashlib.md5(name.encode()).hexdigest()) for split, name in lists.items()}
    monkeypatch.setattr(voc, "LISTS_2007", md5s)
    for split, name in lists.items():
        write_list(voc.main_list(folder, split), [name])
        photo = write_photo(folder, name, (60, 40), [(6, (5, 6, 30, 36))])
        cells = np.array([[name], [np.array([[1, 2, 30, 40]])]], object)
        path = tmp_path / "selective_search_data" / f"voc_2007_{split}.mat"
        path.parent.mkdir(exist_ok=True)
        scipy.io.savemat(path, {"images": cells[:1], "boxes": cells[1:]})
    for name in "ab":
        pair = write_pair(place, name, square(40, 50, 3, 9))
    for split, names in (("train", "a"), ("val", "b")):
        write_list(place / "ImageSets" / "Segmentation" / f"{split}.txt", names)
        write_list(tmp_path / voc.SBD / f"{split}.txt", ["a"])
    sets = ("voc2007", "voc2007-proposals", "voc2011")
    found = states(tmp_path)
    assert [found[name][0] for name in sets] == ["complete"] * 3
    assert proposals.published(tmp_path, ["000001"])["000001"].tolist() == [[2, 1, 40, 30]]
    photo.image.write_bytes(b"cut")
    pair.mask.unlink()
    path.unlink()
    found = states(tmp_path)
    assert [found[name][0] for name in sets] == ["damaged"] * 3
    assert "000002.jpg is truncated or no image" in found["voc2007"][1]
    assert "voc_2007_test.mat is missing; unpack r-cnn" in found["voc2007-proposals"][1]
    assert "b.png is missing" in found["voc2011"][1]


def test_weights_of_vgg_16_are_fetched_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content = b"weights"
    digest = hashlib.sha256(content).hexdigest()[:8]
    known = pretrained.VggFile(f"x-{digest}.pth", pretrained.CAFFE)
    monkeypatch.setitem(pretrained.VGG16, "imagenet1k_v1", known)
    fetched = []

    def fetch(url: str, path: str, sha256: str, **options: object) -> None:
        fetched.append((url, sha256))
        Path(path).write_bytes(content)

    monkeypatch.setattr("torch.hub.download_url_to_file", fetch)
    for _ in range(2):
        assert get_data.main(["vgg16-imagenet1k_v1", "--data-root", str(tmp_path)]) == 0
    assert fetched == [(known.url, digest)]
    assert states(tmp_path)["vgg16-imagenet1k_v1"][0] == "complete"
    (tmp_path / "pretrained" / known.file).write_bytes(b"cut")
    assert states(tmp_path)["vgg16-imagenet1k_v1"][0] == "damaged"
    assert "complete in" in capsys.readouterr().out


def test_every_reader_s_source_is_listed() -> None:
    modules = pkgutil.iter_modules(bpgrad.data.__path__, "bpgrad.data.")
    found = [
        value
        for module in modules
        for value in vars(importlib.import_module(module.name)).values()
        if isinstance(value, Source)
    ]
    assert found
    assert all(SOURCES[source.name] == source for source in found)
