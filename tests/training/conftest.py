from collections.abc import Callable
from pathlib import Path

import pytest

from bpgrad.training.config import Config, load


@pytest.fixture
def tiny(tmp_path: Path) -> Callable[..., Config]:
    """Compose a run of a second on the embedded data, recorded under tmp_path."""

    def compose(*overrides: str) -> Config:
        return load([*tiny_overrides(tmp_path), *overrides])

    return compose


def tiny_overrides(folder: Path) -> list[str]:
    return [
        "scale=smoke",
        "scale.train_examples=320",
        "scale.val_examples=100",
        f"results_root={folder}/runs",
        f"checkpoint_root={folder}/checkpoints",
        "threads=1",
    ]
