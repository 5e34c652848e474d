"""Which commit a record names, and when none."""

import shutil
import subprocess
from pathlib import Path

import pytest

from bpgrad.records import provenance
from bpgrad.records.provenance import describe_code

SHA = "0123456789" * 4
ROOT = Path(__file__).resolve().parents[2]


def git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=A", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
    done = subprocess.run(
        ["git", *who, *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is taken for the suite's, in no repository."""
    folder = tmp_path / "above" / "suite"
    (folder / "bpgrad").mkdir(parents=True)
    (folder / "bpgrad" / "code.py").write_text("a = 1\n")
    monkeypatch.setattr(provenance, "ROOT", folder)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    monkeypatch.delenv(provenance.COMMIT_VARIABLE, raising=False)
    return folder


def commit_all(folder: Path) -> str:
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "all")
    return git(folder, "rev-parse", "HEAD")


def test_a_checkout_of_the_suite_counts(suite: Path) -> None:
    head = commit_all(suite)
    assert describe_code() == {"git_sha": head, "git_dirty": False}
    (suite / "bpgrad" / "code.py").write_text("a = 2\n")
    assert describe_code() == {"git_sha": head, "git_dirty": True}


def test_a_repository_above_does_not(suite: Path) -> None:
    commit_all(suite.parent)
    assert describe_code() == {"git_sha": None, "git_dirty": None}


def test_without_git_nothing_is_known(suite: Path) -> None:
    assert describe_code() == {"git_sha": None, "git_dirty": None}


def test_an_archive_names_its_commit(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unpacked inside another repository, at that."""
    for name in (".gitattributes", ".git_archival.txt"):
        shutil.copy(ROOT / name, suite)
    head = commit_all(suite)
    other = tmp_path / "other"
    (other / "copy").mkdir(parents=True)
    git(suite, "archive", "-o", str(tmp_path / "suite.tar"), "HEAD")
    shutil.unpack_archive(tmp_path / "suite.tar", other / "copy", filter="data")
    commit_all(other)
    monkeypatch.setattr(provenance, "ROOT", other / "copy")
    assert describe_code() == {"git_sha": head, "git_dirty": None}


def test_the_environment_may_name_it_where_git_does_not(
    suite: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(provenance.COMMIT_VARIABLE, SHA)
    assert describe_code() == {"git_sha": SHA, "git_dirty": None}
    head = commit_all(suite)
    assert describe_code()["git_sha"] == head
