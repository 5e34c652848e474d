from pathlib import Path

import pytest

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
