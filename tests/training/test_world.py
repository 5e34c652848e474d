"""Two processes train the model that one trains."""

import json
import os
import re
import signal
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

ROOT = Path(__file__).resolve().parents[2]
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


def torchrun(*overrides: str) -> subprocess.Popen[str]:
    """Two ranks of run.py, as torchrun starts them."""
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"),
            *(f"--master-port={free_port()}", str(ROOT / "run.py"), *overrides),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def errors(text: str) -> list[str]:
    """The lines of the suite's own among torchrun's, which tell of every rank that has ended."""
    return [line for line in text.splitlines() if line.startswith("error: ")]


@pytest.mark.slow
def test_two_ranks_at_a_run_that_is_in_use_end_in_one_line(tmp_path: Path) -> None:
    overrides = [*tiny_overrides(tmp_path), "epochs=1", "solver=sgd"]
    record = RunRecord(tmp_path / "runs", tmp_path / "checkpoints", run_name(load(overrides)))
    record.lock()
    out, err = torchrun(*overrides).communicate()
    assert out == ""
    assert errors(err) == [
        f"error: {record.directory} is in use by another process; wait for it or stop it"
    ]
    assert err.count("Traceback (most recent call last)") <= 1  # torchrun's own
    assert list(record.directory.iterdir()) == []
    record.unlock()


@pytest.mark.slow
def test_two_ranks_of_which_one_is_killed_resume_to_the_same_bits(tmp_path: Path) -> None:
    """The other ends too, whether torchrun or the lost connection tells it first."""
    results = []
    for side in ("whole", "cut"):
        overrides = [*tiny_overrides(tmp_path / side), "epochs=40", "solver=sgd"]
        if side == "cut":
            ranks = torchrun(*overrides)
            assert ranks.stdout is not None
            for line in ranks.stdout:
                if line.startswith("epoch "):
                    break
            children = Path(f"/proc/{ranks.pid}/task/{ranks.pid}/children").read_text().split()
            assert len(children) == 2
            os.kill(int(children[1]), signal.SIGKILL)
            _, err = ranks.communicate()
            assert ranks.returncode != 0
            assert len(errors(err)) <= 1
            record = tmp_path / "cut/runs" / run_name(load(overrides))
            assert not (record / "result.json").exists()
        ended = torchrun(*overrides)
        out, err = ended.communicate()
        assert (ended.returncode, errors(err)) == (0, [])
        assert ("resuming at epoch " in out) == (side == "cut")
        record = tmp_path / side / "runs" / run_name(load(overrides))
        results.append(
            (
                (record / "metrics.csv").read_bytes(),
                json.loads((record / "result.json").read_text()),
            )
        )
    (rows, whole), (cut_rows, cut) = results
    assert rows == cut_rows
    assert whole["weights_sha256"] == cut["weights_sha256"]


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
