"""Two processes train the model that one trains."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bpgrad.records.run_record import RunRecord
from bpgrad.training.checkpoint import load as load_checkpoint
from bpgrad.training.config import load
from bpgrad.training.identity import run_name
from bpgrad.training.trainer import train
from tests.training.conftest import tiny_overrides

CHILD = Path(__file__).with_name("world_child.py")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def train_in_two_processes(overrides: list[str]) -> list[str]:
    """Run both ranks and return what each printed as the hash of its weights."""
    port = str(free_port())
    ranks = [
        subprocess.Popen(
            [sys.executable, str(CHILD), str(rank), "2", port, *overrides],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    ended = [rank.communicate() for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], ended[0][1] + ended[1][1]
    return [out.split("weights ")[1].strip() for out, _ in ended]


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["solver=bpgrad", "solver=bpgrad_released", "solver=eve"])
def test_two_processes_make_one_run(solver: str, tmp_path: Path) -> None:
    """Odd batches (33 examples, the last one of 1: an empty share) and loss-aware solvers, which
    drift apart if a rank sees its own loss."""
    settings = [solver, "epochs=2", "batch_size=33", "scale.train_examples=331"]
    alone = [*tiny_overrides(tmp_path / "alone"), *settings]
    both = [*tiny_overrides(tmp_path / "both"), *settings]
    train(load(alone))
    first, second = train_in_two_processes(both)
    assert first == second  # to the bit

    name = run_name(load(both))
    records = [
        RunRecord(tmp_path / side / "runs", tmp_path / side / "checkpoints", name)
        for side in ("alone", "both")
    ]
    for one, two in zip(records[0].rows(), records[1].rows(), strict=True):
        assert two == pytest.approx(one, rel=1e-4)
    assert records[0].meta()["batch_order_sha256"] == records[1].meta()["batch_order_sha256"]
    weights = [
        load_checkpoint(record.checkpoints / "checkpoint.pt", name)["model"]  # type: ignore[index]
        for record in records
    ]
    for key, value in weights[0].items():
        torch.testing.assert_close(weights[1][key], value, rtol=1e-3, atol=1e-5)
