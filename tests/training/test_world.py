"""Two processes train the model that one trains."""

import re
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
from tests.data.images import make_image_folder
from tests.training.conftest import tiny_overrides

CHILD = Path(__file__).with_name("world_child.py")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def train_in_two_processes(runs: list[list[str]]) -> list[list[str]]:
    """Do the runs one after another; what each rank printed as the hashes of its weights."""
    port = str(free_port())
    arguments = " / ".join(" ".join(run) for run in runs).split()
    ranks = [
        subprocess.Popen(
            [sys.executable, str(CHILD), str(rank), "2", port, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    ended = [rank.communicate() for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], ended[0][1] + ended[1][1]
    return [re.findall(r"^weights (\w+)$", out, flags=re.MULTILINE) for out, _ in ended]


@pytest.mark.slow
def test_two_processes_make_the_run_of_one(tmp_path: Path) -> None:
    """Odd batches (33 examples; the last has one, so that a rank has none), and loss-aware solvers,
    which drift apart if a rank is told its own loss."""
    settings = ["epochs=2", "batch_size=33", "scale.train_examples=331"]
    # Steps this short that one rounding does not grow into another trajectory.
    short = "solver.lipschitz=100"
    solvers = [
        ["solver=bpgrad", short],
        ["solver=bpgrad_released", short],
        ["solver=eve"],
        ["solver=sgd"],
    ]
    alone, both = (
        [[*tiny_overrides(tmp_path / side), *solver, *settings] for solver in solvers]
        for side in ("alone", "both")
    )
    first, second = train_in_two_processes(both)
    assert len(first) == len(solvers)
    assert first == second  # to the bit

    for overrides in alone:
        train(load(overrides))
        name = run_name(load(overrides))
        one, two = (
            RunRecord(tmp_path / side / "runs", tmp_path / side / "checkpoints", name)
            for side in ("alone", "both")
        )
        for expected, row in zip(one.rows(), two.rows(), strict=True):
            assert row == pytest.approx(expected, rel=1e-4, nan_ok=True)
        assert one.meta()["batch_order_sha256"] == two.meta()["batch_order_sha256"]
        assert one.consumed() == two.consumed()
        assert two.meta()["starts"][0]["machine"]["world_size"] == 2
        weights = [
            load_checkpoint(record.checkpoints / "checkpoint.pt", name)["model"]  # type: ignore[index]
            for record in (one, two)
        ]
        for key, value in weights[0].items():
            torch.testing.assert_close(weights[1][key], value, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_batch_normalisation_is_over_the_whole_minibatch(tmp_path: Path) -> None:
    """24 images in batches of 10, 10 and 4, so that the two ranks have 2 of the last each."""
    for part, images in (("train", 8), ("val", 3)):
        make_image_folder(tmp_path / "generated" / part, images=images)
    own = ["task=imagenette", "task.target=tests.tasks.generated_images.Generated"]
    sizes = ["task.resolution=67", "task.width=8", "epochs=1", "batch_size=10", "workers=0"]
    demo = ["task.validation=training", "task.reestimation_images=14"]
    # A step this short leaves the next minibatch's gradients what they are.
    solvers = [["solver=sgd", "solver.lr=1e-5"], ["solver=bpgrad", "solver.lipschitz=1e5"]]
    alone, both = (
        [
            [
                *(*own, *sizes, *demo, *solver, f"data_root={tmp_path}", "threads=1"),
                *(f"results_root={tmp_path / side}/runs", f"checkpoint_root={tmp_path / side}/c"),
            ]
            for solver in solvers
        ]
        for side in ("alone", "both")
    )
    first, second = train_in_two_processes(both)
    assert first == second
    for overrides in alone:
        train(load(overrides))
        name = run_name(load(overrides))
        one, two = (
            RunRecord(tmp_path / side / "runs", tmp_path / side / "c", name)
            for side in ("alone", "both")
        )
        assert one.consumed() == two.consumed()
        for expected, row in zip(one.rows(), two.rows(), strict=True):
            assert row == pytest.approx(expected, rel=1e-4)
