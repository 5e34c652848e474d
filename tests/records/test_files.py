"""Files are written whole or not at all, and nowhere else."""

import resource
from pathlib import Path

import pytest
import torch

from bpgrad.errors import RecordError
from bpgrad.records.files import write_text
from bpgrad.training import checkpoint


def test_a_link_at_the_partial_files_name_is_not_followed(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("of somebody else")
    (tmp_path / ".file.partial").symlink_to(other)
    write_text(tmp_path / "file", "ours")
    assert other.read_text() == "of somebody else"
    assert not (tmp_path / "file").is_symlink()
    assert (tmp_path / "file").read_text() == "ours"


def test_what_a_killed_process_left_is_written_over(tmp_path: Path) -> None:
    (tmp_path / ".file.partial").write_text("a half")
    write_text(tmp_path / "file", "whole")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_limit_on_the_size_of_files_is_one_line(tmp_path: Path) -> None:
    """As `ulimit -f`: the old checkpoint stays, and no part of the new one."""
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, "a run", {"small": torch.zeros(3)})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16_384, hard))
    try:
        with pytest.raises(RecordError, match=r"cannot write .*File too large") as caught:
            checkpoint.save(path, "a run", {"large": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]
    state = checkpoint.load(path, "a run")
    assert state is not None
    assert list(state) == ["small"]
