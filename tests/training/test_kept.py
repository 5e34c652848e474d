"""Configurations kept between commands: the same as composed anew, and never a stale one."""

import os
from pathlib import Path

import pytest

from bpgrad.training import composition, config, kept
from bpgrad.training.config import CONFIG_DIR


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "bpgrad" / "configurations"


def test_what_is_kept_is_what_would_be_composed(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adam's rates change at epochs, whose numbers are keys; the seed enters afterwards."""
    asked = ["task=cifar10", "solver=adam", "seed=3"]
    first = config.load(asked)
    (file,) = cache.glob("*/*")
    monkeypatch.setattr(composition, "composed", lambda *_: pytest.fail("composed again"))
    assert config.load(asked) == first
    assert config.load([*asked[:2], "seed=5"]).seed == 5
    assert config.load(asked[:2]).seed == 0
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.parents[1]))
    file.write_text(file.read_text(encoding="utf-8").replace("100", "999", 1), encoding="utf-8")
    assert config.load(asked) == first  # a damaged file counts as not there


def test_a_variable_that_the_files_name_is_part_of_the_question(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("here", "there"):
        monkeypatch.setenv("BPGRAD_DATA", folder)
        assert config.load(["task=digits"]).data_root == folder


def test_changed_files_are_another_place_and_hydras_own_settings_none(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("a: 1\n", encoding="utf-8")
    before = kept.place_of(tmp_path, ["task=x"], "schema")
    assert before == kept.place_of(tmp_path, ["task=x", "seed=4"], "schema")
    assert before != kept.place_of(tmp_path, ["task=y"], "schema")
    assert before != kept.place_of(tmp_path, ["task=x"], "another schema")
    file.write_text("a: 22\n", encoding="utf-8")
    assert before != kept.place_of(tmp_path, ["task=x"], "schema")
    assert kept.place_of(tmp_path, ["hydra.searchpath=[x]"], "schema") is None


def test_a_choice_without_a_file_is_kept_nowhere(tmp_path: Path) -> None:
    """It lies in Hydra's store, as a solver of one's own, and may be another one next time."""
    assert kept.place_of(CONFIG_DIR, ["solver=bpgrad"], "") is not None
    assert kept.place_of(CONFIG_DIR, ["solver=mine"], "") is None


def test_checkouts_leave_each_other_theirs_and_the_oldest_go(tmp_path: Path) -> None:
    """Each state of the files of each checkout has a folder."""
    places = [tmp_path / f"{k:02}" / "x" for k in range(kept.FOLDERS + 2)]
    for k, place in enumerate(places):
        kept.write(place, {"a": k})
        os.utime(place.parent, (k, k))
        kept.write(place.with_name("y"), {"a": k})
        os.utime(place.parent, (k, k))
    assert [kept.read(place) for place in places[:2]] == [None, None]
    assert [kept.read(place) for place in places[2:]] == [
        {"a": k} for k in range(2, kept.FOLDERS + 2)
    ]
