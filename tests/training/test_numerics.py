"""What training sets for its process."""

import subprocess
import sys

import pytest

PROGRAM = """
import torch
torch.set_num_threads(3)
from bpgrad.training.config import load
from bpgrad.training.numerics import configure_torch

for task in ("mnist", "digits", "mnist threads=2", "digits threads=null", "cifar10"):
    configure_torch(load(f"task={task}".split()), torch.device("cpu"))
    print(torch.get_num_threads(), end=" ")
print()

configure_torch(load(["threads=2"]), torch.device("cpu"))
assert torch.get_num_threads() == 2
small = torch.full((1_000_000,), 1e-30) * 1e-10
print(int(small.count_nonzero()), float(torch.tensor(1e-30) * 1e-7))
"""


@pytest.fixture(scope="module")
def printed() -> list[str]:
    """By one process for all: to import torch takes seconds."""
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    return ran.stdout.splitlines()


def test_every_run_has_its_own_number_of_threads(printed: list[str]) -> None:
    """A small task takes one; the run after it in the same process has all again."""
    assert printed[0].split() == ["3", "1", "2", "3", "3"]


def test_subnormal_numbers_are_zero_in_every_thread(printed: list[str]) -> None:
    """Dead units' weights decay below 1.2e-38, and slowed training to a fraction of its rate."""
    nonzero, normal = printed[1].split()
    assert nonzero == "0"
    assert 0.0 < float(normal) < 1.1e-37
