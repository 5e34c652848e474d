import hashlib
import importlib
import pkgutil
from pathlib import Path

import pytest

import bpgrad.data
from bpgrad.data.files import Source
from bpgrad.data.sources import SOURCES
from bpgrad.errors import DataError
from scripts import get_data


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
    assert get_data.main(["--data-root", str(tmp_path)]) == 0
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
