"""Shared by all tests."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

# How long an example takes is no property of the code: another machine, or a busy one, is slower.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


# Started in the background of a shell, or by some CI runners, a process ignores Ctrl-C, and so do
# its children: what they do on it could not be tested.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first, so that of several processes none is left alone with one."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session", autouse=True)
def unsynced() -> Iterator[None]:
    """Let os.fsync return at once: it guards against a power cut, which no test makes.

    It waits for the disk, for thousands of small records. fstat still refuses a closed file.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)
        yield


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is kept for the next command, here and in child processes, is not the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache", numbered=True)))
        yield


@pytest.fixture(scope="session", autouse=True)
def own_compiler_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What torch.compile compiles, here and in child processes, shares no folder with other runs.

    Its usual one lies under /tmp, for all versions of torch and all processes of a user.
    """
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("inductor", numbered=True)
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder))
        patch.setenv("TRITON_CACHE_DIR", str(folder / "triton"))
        yield


@pytest.fixture(autouse=True)
def subnormal_numbers() -> Iterator[None]:
    """Undo for the next test what training does to this thread's arithmetic."""
    yield
    torch.set_flush_denormal(False)


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
