"""Two processes train the model that one trains."""

import itertools
import json
import os
import re
import runpy
import signal
import socket
import sys
from pathlib import Path

import pytest
import torch
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher import elastic_launch
from torch.distributed.run import config_from_args, parse_args

from bpgrad.records.run_record import RunRecord
from bpgrad.training.checkpoint import load as load_checkpoint
from bpgrad.training.config import Config, load
from bpgrad.training.identity import run_name
from bpgrad.training.trainer import train
from tests.data.images import make_image_folder
from tests.forked import Fork
from tests.training.conftest import tiny_overrides

ROOT = Path(__file__).resolve().parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def train_as_rank(cfg: Config) -> None:
    print("weights", train(cfg)["weights_sha256"])


def weights_of_two_ranks(overrides: list[str]) -> list[str]:
    """Do a run with two processes; what each has as the hash of its weights."""
    cfg = load(overrides)
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    ranks = [
        Fork(train_as_rank, cfg, RANK=str(rank), LOCAL_RANK=str(rank), **shared)
        for rank in range(2)
    ]
    return [re.findall("^weights (.+)$", rank.result(), re.MULTILINE)[-1] for rank in ranks]


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
    for overrides in both:
        first, second = weights_of_two_ranks(overrides)
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


def launch(*overrides: str) -> None:
    """What torchrun does, with forks for the programs that it starts."""
    options = ["--nproc-per-node=2", f"--master-port={free_port()}", str(ROOT / "run.py")]
    config, _, _ = config_from_args(parse_args([*options, *overrides]))
    config.start_method = "fork"
    try:
        elastic_launch(config, run_script)(*overrides)
    except ChildFailedError:
        sys.exit(1)


def run_script(*overrides: str) -> None:
    """run.py, of which rank 1 is killed in its step KILL_AT, where that is set."""
    torch.set_num_threads(1)
    if (kill_at := os.environ.get("KILL_AT")) and os.environ["RANK"] == "1":
        step, steps = torch.optim.SGD.step, itertools.count(1)

        def killed(solver: torch.optim.SGD) -> None:
            if next(steps) == int(kill_at):
                os.kill(os.getpid(), signal.SIGKILL)
            step(solver)

        torch.optim.SGD.step = killed  # type: ignore[method-assign, assignment]
    sys.argv = [str(ROOT / "run.py"), *overrides]
    runpy.run_path(sys.argv[0], run_name="__main__")


def torchrun(*overrides: str, **environment: str) -> Fork:
    """Two ranks of run.py, as torchrun starts them."""
    return Fork(launch, *overrides, OMP_NUM_THREADS="1", **environment)


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
def test_two_ranks_of_which_one_is_killed_resume_to_the_same_bits(
    tmp_path: Path,
) -> None:
    """The other ends too, whether torchrun or the lost connection tells it first."""
    whole, cut = (
        [*tiny_overrides(tmp_path / side), "epochs=2", "solver=sgd", "checkpoint_minutes=0"]
        for side in ("whole", "cut")
    )
    started = torchrun(*cut, KILL_AT="12")
    out, err = started.communicate()
    assert started.returncode != 0
    assert out.count("epoch ") == 1
    assert len(errors(err)) <= 1
    name = run_name(load(cut))
    assert not (tmp_path / "cut/runs" / name / "result.json").exists()
    assert (tmp_path / "cut/checkpoints" / name / "checkpoint.pt").exists()

    hashes = {*weights_of_two_ranks(whole), *weights_of_two_ranks(cut)}
    assert len(hashes) == 1
    rows, cut_rows = (tmp_path / side / "runs" / name / "metrics.csv" for side in ("whole", "cut"))
    assert rows.read_bytes() == cut_rows.read_bytes()
    starts = json.loads((cut_rows.parent / "meta.json").read_text())["starts"]
    assert len(starts) == 2


@pytest.mark.slow
def test_batch_normalisation_is_over_the_whole_minibatch(tmp_path: Path) -> None:
    """24 images in batches of 10, 10 and 4, so that the two ranks have 2 of the last each.

    Of the last of those to judge by (21), and of those that the statistics are estimated again from
    (11), one has none: it comes by all the same, for the other waits.
    """
    for part, images in (("train", 8), ("val", 7)):
        make_image_folder(tmp_path / "generated" / part, images=images)
    own = ["task=imagenette", "task.target=tests.tasks.generated_images.Generated"]
    sizes = ["task.resolution=67", "task.width=8", "epochs=1", "batch_size=10", "workers=0"]
    demo = ["task.validation=training", "task.reestimation_images=11"]
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
    for overrides in both:
        first, second = weights_of_two_ranks(overrides)
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
