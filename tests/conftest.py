"""Shared by all tests."""

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock
from hydra.core.config_store import ConfigStore
from hypothesis import settings

from bpgrad.data import cifar10
from bpgrad.training import lookup
from bpgrad.training.numerics import cores

# Triton has to know when it is imported, which torch's compiler does: where there is no GPU, its
# kernels are interpreted (test_triton_interpreted.py).
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

# How long an example takes is no property of the code: another machine, or a busy one, is slower.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first, so that of several processes none is left alone with one."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """What has been imported stays to the end: collections of garbage need not go through it."""
    gc.freeze()


def pytest_sessionfinish() -> None:
    gc.unfreeze()


def pytest_xdist_auto_num_workers() -> int:
    """Of -n auto: one more than there are cores, since tests also wait for their processes."""
    return cores() + 1


@pytest.fixture(scope="session", autouse=True)
def unsynced() -> Iterator[None]:
    """Let os.fsync return at once: it guards against a power cut, which no test makes.

    It waits for the disk, for thousands of small records. fstat still refuses a closed file.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)
        yield


@pytest.fixture(scope="session", autouse=True)
def own_cache(shared_folder: Path) -> Iterator[None]:
    """What is kept for the next command, here and in child processes, is not the user's.

    But for uv's cache of packages, under their hashes: it would download gigabytes again.
    """
    users = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UV_CACHE_DIR", os.environ.get("UV_CACHE_DIR") or str(Path(users, "uv")))
        patch.setenv("XDG_CACHE_HOME", str(shared_folder / "cache"))
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


@pytest.fixture(autouse=True)
def interruptible() -> None:
    """Let Ctrl-C reach child processes.

    They ignore it where this one does, started in the background of a shell or by a CI runner.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def no_solvers_of_earlier_tests() -> Iterator[None]:
    """A solver of one's own stays in Hydra's store for as long as the process lives."""
    store = ConfigStore.instance().repo.setdefault("solver", {})
    before = set(store)
    yield
    for name in set(store) - before:
        del store[name]


@pytest.fixture(scope="module")
def no_committed_records(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is recorded in this checkout is no part of a test that makes its own records."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lookup, "SUITE_RECORDS", tmp_path_factory.mktemp("suite") / "results/runs")
        yield


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all the processes of this run of the tests."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def whatever_data(shared_folder: Path) -> Path:
    """What data sets there are, in a folder where the tests may write; skips without any."""
    if not (value := os.environ.get("BPGRAD_DATA")):
        pytest.skip("set BPGRAD_DATA to the folder that holds MNIST/raw and cifar-10-batches-py")
    if not Path(value).is_dir():
        pytest.skip(f"BPGRAD_DATA={value} is no folder")
    root = shared_folder / "data"
    with FileLock(shared_folder / "data.lock"):
        if not root.exists():
            root.mkdir()
            for path in Path(value).resolve().iterdir():
                if path.name != "cache":  # of the code of today, not of earlier runs
                    (root / path.name).symlink_to(path)
    return root


def _with(root: Path, *needed: str) -> Path:
    for name in needed:
        if not (root / name).is_dir():
            pytest.skip(f"BPGRAD_DATA={os.environ['BPGRAD_DATA']} has no {name}; see get_data.py")
    return root


@pytest.fixture(scope="session")
def data_root(whatever_data: Path) -> Path:
    """That folder, with MNIST and CIFAR-10; skips where one of them is not there."""
    return _with(whatever_data, "MNIST/raw", "cifar-10-batches-py")


@pytest.fixture(scope="session")
def imagenette_root(whatever_data: Path) -> Path:
    """That folder, with Imagenette; skips without it, whatever else there is."""
    return _with(whatever_data, "imagenette2/train", "imagenette2/val")


@pytest.fixture(scope="session")
def prepared_cifar10(data_root: Path, shared_folder: Path) -> Path:
    """The `data_root`, whose cache has CIFAR-10: preparing it takes most of a minute."""
    kept = shared_folder / "eigenvectors.npy"
    with FileLock(shared_folder / "cifar10.lock"):
        if not kept.exists():
            found = []

            def eigh(matrix: np.ndarray, solve: Any = np.linalg.eigh) -> Any:
                found.append(solve(matrix))
                return found[0]

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(np.linalg, "eigh", eigh)
                cifar10.load(data_root)
            np.save(shared_folder / "eigenvalues.npy", found[0].eigenvalues)
            np.save(kept, found[0].eigenvectors)
    return data_root


@pytest.fixture(scope="session")
def cifar10_eigenvalues(prepared_cifar10: Path, shared_folder: Path) -> np.ndarray:
    """Of the covariance of the training images, as the preprocessing computed them, (3072,)."""
    return np.load(shared_folder / "eigenvalues.npy")


@pytest.fixture(scope="session")
def cifar10_eigenvectors(prepared_cifar10: Path, shared_folder: Path) -> np.ndarray:
    """To the `cifar10_eigenvalues`, as columns, over row, column and channel, (3072, 3072)."""
    return np.load(shared_folder / "eigenvectors.npy")
