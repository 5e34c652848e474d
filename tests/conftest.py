"""Shared by all tests."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of the real data sets; skips the test where there is none."""
    if not (value := os.environ.get("BPGRAD_DATA")):
        pytest.skip("set BPGRAD_DATA to the folder that holds MNIST/raw and cifar-10-batches-py")
    root = Path(value)
    for needed in ("MNIST/raw", "cifar-10-batches-py"):
        if not (root / needed).is_dir():
            pytest.skip(f"BPGRAD_DATA={value} has no {needed}; see scripts/get_data.py")
    return root
