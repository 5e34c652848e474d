"""What training sets for its process."""

import subprocess
import sys


def test_subnormal_numbers_are_zero_in_every_thread() -> None:
    """Dead units' weights decay below 1.2e-38, and slowed training to a fraction of its rate."""
    program = """
import torch
from bpgrad.training.config import load
from bpgrad.training.numerics import configure_torch

configure_torch(load(["threads=2"]), torch.device("cpu"))
assert torch.get_num_threads() == 2
small = torch.full((1_000_000,), 1e-30) * 1e-10
print(int(small.count_nonzero()), float(torch.tensor(1e-30) * 1e-7))
"""
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    nonzero, normal = ran.stdout.split()
    assert nonzero == "0"
    assert 0.0 < float(normal) < 1.1e-37


def test_every_run_has_its_own_number_of_threads() -> None:
    """A small task takes one; the run after it in the same process has all again."""
    program = """
import torch
torch.set_num_threads(3)
from bpgrad.training.config import load
from bpgrad.training.numerics import configure_torch

for task in ("mnist", "digits", "mnist threads=2", "digits threads=null", "cifar10"):
    configure_torch(load(f"task={task}".split()), torch.device("cpu"))
    print(torch.get_num_threads())
"""
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ran.stdout.split() == ["3", "1", "2", "3", "3"]
