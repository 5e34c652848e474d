"""How fast the training loop is: make bench.

Three loops over the same data with the same model, in one process, one after another in rounds:

  bare         forward, backward and torch's fused SGD on minibatches already gathered in memory,
               in the trainer's memory format: nothing else can be as fast
  trainer      the suite's own loop as `run.py` starts it, with data order, mirroring, statistics,
               checkpoint and record (evaluation excluded), for solver=sgd and solver=bpgrad
  DataLoader   what a user would write: TensorDataset, DataLoader with two workers, torch's default
               memory format, SGD, loss.item() every iteration

Prints the median images/s of each and the median over rounds of the ratios; writes them, with
machine and versions, to results/bench/training_loop.json.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from bpgrad.records.files import write_text
from bpgrad.records.provenance import describe_start
from bpgrad.tasks.task import Context
from bpgrad.training.cli import run_command
from bpgrad.training.config import load, task_class, task_options
from bpgrad.training.identity import run_name
from bpgrad.training.trainer import train
from bpgrad.world import World

SOLVERS = ("sgd", "bpgrad")


def bare_loop(model: nn.Module, batches: list[tuple[torch.Tensor, torch.Tensor]]) -> float:
    """Seconds for plain forward, backward and fused SGD over gathered batches."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, fused=True)
    begin = time.perf_counter()
    for images, labels in batches:
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return time.perf_counter() - begin


def data_loader_loop(model: nn.Module, data: TensorDataset, batch_size: int) -> float:
    """Seconds for the loop that a user would write, workers started outside the clock."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    loader = DataLoader(
        data, batch_size, shuffle=True, num_workers=2, persistent_workers=True, drop_last=False
    )
    next(iter(loader))
    running = 0.0
    begin = time.perf_counter()
    for images, labels in loader:
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        running += loss.item()
    return time.perf_counter() - begin


def trainer_loop(task: str, solver: str, seed: int, examples: int, extra: list[str]) -> float:
    """Seconds that the suite's loop takes for an epoch, logging included."""
    with tempfile.TemporaryDirectory() as scratch:
        cfg = load(
            [
                f"task={task}",
                f"solver={solver}",
                f"seed={seed}",
                "epochs=1",
                f"scale.train_examples={examples}",
                "scale.val_examples=500",
                f"results_root={scratch}/runs",
                f"checkpoint_root={scratch}/checkpoints",
                *extra,
            ]
        )
        train(cfg)
        timing = Path(cfg.results_root, run_name(cfg), "timing.csv").read_text().splitlines()
        row = dict(zip(timing[0].split(","), map(float, timing[1].split(",")), strict=True))
        return row["train_seconds"] + row["log_seconds"]


def bench(task_name: str, rounds: int, iterations: int, extra: list[str]) -> dict[str, object]:
    """Measure one task; the first round warms up and does not count."""
    cfg = load([f"task={task_name}", *extra])
    world = World(torch.device("cpu"))
    examples = iterations * cfg.batch_size
    context = Context(
        world, Path(cfg.data_root), seed=0, batch_size=cfg.batch_size, train_examples=examples
    )
    task = task_class(cfg)(context, **task_options(cfg))
    batches = [(batch.inputs, batch.targets) for batch in task.train_batches(1)]
    plain = TensorDataset(task.train.images.contiguous(), task.train.labels)

    seconds: dict[str, list[float]] = {}
    for k in range(rounds + 1):
        default_format = task.build_model(0).to(memory_format=torch.contiguous_format)
        taken = {
            "bare": bare_loop(task.build_model(0), batches),
            **{f"trainer {s}": trainer_loop(task_name, s, k, examples, extra) for s in SOLVERS},
            "DataLoader": data_loader_loop(default_format, plain, cfg.batch_size),
        }
        if k > 0:
            for name, value in taken.items():
                seconds.setdefault(name, []).append(value)
    return {
        "iterations": iterations,
        "rounds": rounds,
        "images_per_second": {
            name: round(examples / statistics.median(taken)) for name, taken in seconds.items()
        },
        "ratio_to_bare": {
            name: round(
                statistics.median(b / t for b, t in zip(seconds["bare"], taken, strict=True)), 4
            )
            for name, taken in seconds.items()
        },
        "trainer_to_DataLoader": {
            solver: round(
                statistics.median(
                    d / t
                    for d, t in zip(
                        seconds["DataLoader"], seconds[f"trainer {solver}"], strict=True
                    )
                ),
                3,
            )
            for solver in SOLVERS
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tasks", nargs="*", default=["mnist", "cifar10"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--output", type=Path, default=Path("results/bench/training_loop.json"))
    arguments = parser.parse_args()
    report = {
        "start": describe_start(device=torch.device("cpu"), world_size=1, epoch=1, iteration=0),
        "tasks": {
            task: bench(task, arguments.rounds, arguments.iterations, arguments.set)
            for task in arguments.tasks
        },
    }
    write_text(arguments.output, json.dumps(report, indent=2) + "\n")
    for task, found in report["tasks"].items():
        print(f"\n{task}: median of {found['rounds']} rounds of {found['iterations']} iterations")
        for name, rate in found["images_per_second"].items():
            print(f"  {name:16} {rate:>7} images/s   {found['ratio_to_bare'][name]:.3f} of bare")
        for solver, ratio in found["trainer_to_DataLoader"].items():
            print(f"  trainer {solver} is {ratio:.2f} times as fast as the DataLoader loop")
    print(f"\n{arguments.output}")


if __name__ == "__main__":
    run_command(main)
