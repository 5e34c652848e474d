"""How fast the training loop is: make bench.

Three loops over the same data with the same net, one after another in rounds:

  bare         forward, backward and torch's fused SGD on minibatches already gathered in memory,
               in the trainer's memory format: nothing else can be as fast
  trainer      the suite's own loop as `run.py` starts it, with data order, mirroring, statistics,
               checkpoint and record (evaluation excluded), for solver=sgd and solver=bpgrad
  DataLoader   what a user would write: torchvision's data set and transforms, a DataLoader with two
               workers, nn.Conv2d in torch's default memory format, SGD, loss.item() every
               iteration; in a child process that waits for its turn, because the trainer's setting
               of the memory allocator cannot be undone

Prints the median images/s of each and the median over rounds of the ratios, and what of the rate of
a large matrix product the bare loop reaches: the room that is left to any loop. Writes them, with
machine and versions, to results/bench/training_loop.json.
"""

import argparse
import gzip
import json
import statistics
import tempfile
import time
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset
from torch.utils.flop_counter import FlopCounterMode

from bpgrad.models.first_layer import FirstConv2d
from bpgrad.models.lenet import FullWindowConv2d
from bpgrad.records.files import write_text
from bpgrad.records.provenance import describe_start
from bpgrad.tasks.classification import Classification
from bpgrad.tasks.task import Context
from bpgrad.training.cli import run_command
from bpgrad.training.config import Config, load, task_class, task_options
from bpgrad.training.identity import run_name
from bpgrad.training.numerics import configure_torch
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


def product_rate(size: int = 2048) -> float:
    """Floating-point operations a second of a large float32 matrix product."""
    one, other = torch.randn(size, size), torch.randn(size, size)
    begin = time.perf_counter()
    one @ other
    return 2 * size**3 / (time.perf_counter() - begin)


def operations(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> int:
    """Floating-point operations of forward and backward on one minibatch, products only."""
    with FlopCounterMode(display=False) as counter:
        F.cross_entropy(model(batch[0]), batch[1]).backward()
    return int(counter.get_total_flops())


def as_usual(model: nn.Module) -> nn.Module:
    """The model as most would write it: nn.Conv2d throughout, torch's default memory format."""
    for layer in model.modules():
        if isinstance(layer, FullWindowConv2d):
            layer.__class__ = WideConv2d  # type: ignore[assignment]
        elif isinstance(layer, FirstConv2d):
            layer.__class__ = nn.Conv2d  # type: ignore[assignment]
    return model.to(memory_format=torch.contiguous_format)


class WideConv2d(nn.Conv2d):
    """nn.Conv2d that also takes the flat output of its like."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input[..., None, None] if input.dim() == 2 else input).flatten(1)


def usual_data(task: str, data_root: Path, scratch: Path) -> Dataset[tuple[torch.Tensor, int]]:
    """Torchvision's MNIST or CIFAR-10 with the transforms of its tutorials."""
    from torchvision import datasets, transforms

    if task == "mnist":  # torchvision wants the files unpacked
        raw = scratch / "MNIST" / "raw"
        raw.mkdir(parents=True)
        for packed in (data_root / "MNIST" / "raw").glob("*.gz"):
            (raw / packed.stem).write_bytes(gzip.decompress(packed.read_bytes()))
        steps = [transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))]
        return datasets.MNIST(str(scratch), transform=transforms.Compose(steps))
    steps = [
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    ]
    return datasets.CIFAR10(str(data_root), transform=transforms.Compose(steps))


def data_loader_loop(
    model: nn.Module, data: Dataset[tuple[torch.Tensor, int]], batch_size: int
) -> float:
    """Seconds for the loop that a user would write; the workers start outside the clock."""
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


def serve_data_loader_loop(pipe: Connection, overrides: list[str], examples: int) -> None:
    """In a process of its own: run the user's loop whenever asked, answer its seconds."""
    cfg = load(overrides)
    task = build_task(cfg, examples)
    with tempfile.TemporaryDirectory() as scratch:
        data = Subset(
            usual_data(cfg.task["name"], Path(cfg.data_root), Path(scratch)), range(examples)
        )
        while pipe.recv():
            pipe.send(data_loader_loop(as_usual(task.build_model(0)), data, cfg.batch_size))


def build_task(cfg: Config, examples: int) -> Classification:
    """The configured task on so many training examples."""
    context = Context(
        World(torch.device("cpu")),
        Path(cfg.data_root),
        seed=0,
        batch_size=cfg.batch_size,
        train_examples=examples,
    )
    return task_class(cfg)(context, **task_options(cfg))


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


def bench(task_name: str, rounds: int, iterations: int, extra: list[str]) -> dict[str, Any]:
    """Measure one task; the first round warms up and does not count."""
    overrides = [f"task={task_name}", *extra]
    cfg = load(overrides)
    examples = iterations * cfg.batch_size
    context = get_context("spawn")
    pipe, end = context.Pipe()
    configure_torch(cfg, torch.device("cpu"))
    task = build_task(cfg, examples)  # before the other process: data may be missing
    user = context.Process(target=serve_data_loader_loop, args=(end, overrides, examples))
    user.start()
    batches = [(batch.inputs, batch.targets) for batch in task.train_batches(1)]

    def as_a_user() -> float:
        pipe.send(True)
        return float(pipe.recv())

    seconds: dict[str, list[float]] = {}
    products = []
    for k in range(rounds + 1):
        products.append(product_rate())
        taken = {
            "bare": bare_loop(task.build_model(0), batches),
            **{f"trainer {s}": trainer_loop(task_name, s, k, examples, extra) for s in SOLVERS},
            "DataLoader": as_a_user(),
        }
        if k > 0:
            for name, value in taken.items():
                seconds.setdefault(name, []).append(value)
    pipe.send(False)
    user.join()
    work = iterations * operations(task.build_model(0), batches[0])
    return {
        "iterations": iterations,
        "rounds": rounds,
        "gflops": {
            "matrix product": round(statistics.median(products) / 1e9),
            "bare": round(work / statistics.median(seconds["bare"]) / 1e9),
        },
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
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--output", type=Path, default=Path("results/bench/training_loop.json"))
    arguments = parser.parse_args()
    report: dict[str, Any] = {
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
        print(
            "  bare reaches {bare} GFLOP/s, a matrix product {matrix product}".format(
                **found["gflops"]
            )
        )
        for solver, ratio in found["trainer_to_DataLoader"].items():
            print(f"  trainer {solver} is {ratio:.2f} times as fast as the DataLoader loop")
    print(f"\n{arguments.output}")


if __name__ == "__main__":
    run_command(main)
