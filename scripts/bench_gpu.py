"""What a GPU gives: python scripts/bench_gpu.py PART... (make bench on a machine with one).

  probe   forward and backward pass, captured: memory layouts and precisions
  loop    iterations a second of the trainer, eager, captured, and in company of 2, 4, 8 and 16 runs
          (in sum), beside the loop that a user would write: a DataLoader, loss.item() a step, eager
          SGD; and the time that the products of an iteration need at the rate of a large one
  steps   a step of BPGrad beside torch's fused ones, eager and captured, on the LeNets, AlexNet and
          VGG-16; and the time of the least traffic at the rate of a large copy

On images drawn at random, of the data sets' sizes. --device cpu --smoke rehearses it, without
graphs. Prints tables and writes them, with machine and versions, to --output with .json and .md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `scripts`

from bpgrad.data.images import ImageSet
from bpgrad.models.lenet import CifarLeNet, MnistLeNet
from bpgrad.optim import BPGrad
from bpgrad.records.files import write_text
from bpgrad.records.provenance import describe_start
from bpgrad.tasks import classification
from bpgrad.tasks.task import Context
from bpgrad.training.capture import CudaGraph
from bpgrad.training.cli import run_command
from bpgrad.training.company import train_together
from bpgrad.training.config import Config, load
from bpgrad.training.identity import run_name
from bpgrad.training.numerics import configure_torch, own_stream
from bpgrad.world import World, choose_device
from scripts.bench_loop import as_usual, operations
from scripts.bench_solvers import ALEXNET, Shapes, parameters

NETS = {"mnist": (MnistLeNet, (28, 28, 1)), "cifar10": (CifarLeNet, (32, 32, 3))}
BATCH = 100
COMPANY = (1, 2, 4, 8, 16)
#: Weights and biases of VGG-16 for the 20 classes of VOC and background (134 million).
VGG: Shapes = (
    *[
        shape
        for one, other in zip(
            (3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512),
            (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512),
            strict=True,
        )
        for shape in ((other, one, 3, 3), (other,))
    ],
    *((4096, 25088), (4096,), (4096, 4096), (4096,), (21, 4096), (21,)),
)


def generated(shape: Sequence[int], count: int) -> ImageSet:
    """So many images of noise, (H, W, C), with labels."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(count, *shape, generator=generator)
    return ImageSet.from_nhwc(pixels, torch.randint(10, (count,), generator=generator))


class GeneratedMnist(classification.Mnist):
    """MNIST's sizes."""

    def load(self, context: Context) -> tuple[ImageSet, ImageSet]:
        size = context.train_examples or 60_000
        return generated((28, 28, 1), size), generated((28, 28, 1), context.val_examples or 500)


class GeneratedCifar10(classification.Cifar10):
    """CIFAR-10's sizes."""

    def load(self, context: Context) -> tuple[ImageSet, ImageSet]:
        size = context.train_examples or 50_000
        return generated((32, 32, 3), size), generated((32, 32, 3), context.val_examples or 500)


class Clock:
    """Times what is launched on a device, and captures it where that can be."""

    def __init__(self, device: torch.device, smoke: bool) -> None:
        self.device, self.rounds, self.repeat = device, (2 if smoke else 5), (2 if smoke else 50)

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def seconds(self, call: Callable[[], object], repeat: int | None = None) -> float:
        """Median over rounds, of one call."""
        repeat = repeat or self.repeat
        for _ in range(3):
            call()
        found = []
        for _ in range(self.rounds):
            self.wait()
            begin = time.perf_counter()
            for _ in range(repeat):
                call()
            self.wait()
            found.append((time.perf_counter() - begin) / repeat)
        return statistics.median(found)

    def captured(self, call: Callable[[], object], repeat: int | None = None) -> float | None:
        """The same of a graph's replay; None where there are no graphs."""
        if self.device.type != "cuda":
            return None
        for _ in range(3):
            call()
        graph = CudaGraph()
        graph.capture(lambda: (call(), None)[1])
        seconds = self.seconds(graph.replay, repeat)
        graph.release()
        return seconds


def settings(task: str, device: torch.device, *more: str) -> Config:
    """A configuration of the suite on this device."""
    return load([f"task={task}", f"device={device.type}", *more])


def probe(clock: Clock, smoke: bool) -> list[dict[str, Any]]:
    """Microseconds of forward and backward pass by layout, precision and determinism."""
    rows = []
    precisions = ("fp32", "tf32", "bf16") if clock.device.type == "cuda" else ("fp32",)
    for task, (net, shape) in NETS.items():
        batch = generated(shape, 4 if smoke else BATCH).to(clock.device)
        for precision in precisions:
            for deterministic in (True, False):
                cfg = settings(task, clock.device, f"precision={precision}")
                cfg.deterministic = deterministic
                configure_torch(cfg, clock.device)
                for layout in ("NHWC", "NCHW"):
                    memory = torch.channels_last if layout == "NHWC" else torch.contiguous_format
                    model = net(torch.Generator().manual_seed(0)).to(
                        clock.device,
                        memory_format=memory,  # type: ignore[call-overload]
                    )
                    images = batch.images.contiguous(memory_format=memory)
                    call = pass_of(model, images, batch.labels, precision == "bf16")
                    seconds = clock.captured(call) or clock.seconds(call)
                    rows.append(
                        {
                            "task": task,
                            "precision": precision,
                            "deterministic": deterministic,
                            "layout": layout,
                            "microseconds": round(1e6 * seconds, 1),
                        }
                    )
    return rows


def pass_of(model: nn.Module, images: Tensor, labels: Tensor, half: bool) -> Callable[[], None]:
    """Forward and backward pass."""

    def call() -> None:
        model.zero_grad()
        with torch.autocast(images.device.type, torch.bfloat16, enabled=half):
            loss = F.cross_entropy(model(images), labels)
        loss.backward()

    return call


def loop(clock: Clock, smoke: bool) -> list[dict[str, Any]]:
    """Iterations a second of the trainer and of the usual loop."""
    rows = []
    for task, (net, shape) in NETS.items():
        iterations, size = (2, 4) if smoke else (500, BATCH)
        batch = generated(shape, size).to(clock.device)
        model = net(torch.Generator().manual_seed(0)).to(clock.device)
        work = operations(model, (batch.images, batch.labels))
        floor = work / product_rate(clock, 256 if smoke else 8192)
        usual = usual_rate(as_usual(model), generated(shape, size * iterations), size, clock.device)
        found: dict[str, float] = {}
        for solver in ("sgd", "bpgrad"):
            found[f"{solver}, eager"] = trainer_rate(
                task, solver, clock, iterations, size, 1, "eager"
            )
        for jobs in COMPANY[:2] if smoke else COMPANY:
            name = "bpgrad, captured" if jobs == 1 else f"bpgrad, {jobs} in company"
            found[name] = trainer_rate(task, "bpgrad", clock, iterations, size, jobs, "auto")
        rows += [
            {
                "task": task,
                "loop": name,
                "iterations_per_second": round(rate, 1),
                "of_the_usual_loop": round(rate / usual, 2),
                "of_the_fp32_floor": round(rate * floor, 3),
            }
            for name, rate in {"usual: DataLoader, SGD": usual, **found}.items()
        ]
    return rows


def product_rate(clock: Clock, size: int) -> float:
    """Floating-point operations a second of a large float32 matrix product."""
    one, other = (torch.randn(size, size, device=clock.device) for _ in range(2))
    return 2 * size**3 / clock.seconds(lambda: one @ other, 5)


def usual_rate(model: nn.Module, images: ImageSet, size: int, device: torch.device) -> float:
    """Iterations a second of the loop that a user would write, after some that warm up."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    data = TensorDataset(images.images.contiguous(), images.labels)
    loader = DataLoader(data, size, shuffle=True, pin_memory=device.type == "cuda")
    count = len(loader)
    running = 0.0
    begin = time.perf_counter()
    for k, (inputs, labels) in enumerate(loader):
        if k == count // 4:
            begin = time.perf_counter()
        inputs, labels = (each.to(device, non_blocking=True) for each in (inputs, labels))
        loss = F.cross_entropy(model(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        running += loss.item()
    return (count - count // 4) / (time.perf_counter() - begin)


def trainer_rate(
    task: str, solver: str, clock: Clock, iterations: int, size: int, jobs: int, step: str
) -> float:
    """Iterations a second, in sum, of so many runs of the suite side by side; evaluation apart.

    Of three epochs the last two count: in the first kernels are chosen and graphs are captured.
    """
    kind = GeneratedMnist if task == "mnist" else GeneratedCifar10
    with tempfile.TemporaryDirectory() as scratch:
        first = settings(
            task,
            clock.device,
            f"task.target=scripts.bench_gpu.{kind.__name__}",
            f"solver={solver}",
            f"step={step}",
            "epochs=3",
            f"batch_size={size}",
            f"scale.train_examples={size * iterations}",
            "scale.val_examples=100",
            f"results_root={scratch}/runs",
            f"checkpoint_root={scratch}/checkpoints",
        )
        runs = [replace(first, seed=seed) for seed in range(jobs)]
        if train_together([(run_name(cfg), cfg) for cfg in runs], jobs):
            raise RuntimeError(f"{task}, {solver}, {jobs} in company: a run has failed")
        return sum(iterations / seconds_of(cfg) for cfg in runs)


def seconds_of(cfg: Config) -> float:
    """Of an epoch's training, after the first."""
    text = Path(cfg.results_root, run_name(cfg), "timing.csv").read_text().splitlines()
    names, *rows = (line.split(",") for line in text)
    return statistics.mean(float(row[names.index("train_seconds")]) or 1e-3 for row in rows[1:])


def steps(clock: Clock, smoke: bool) -> list[dict[str, Any]]:
    """Microseconds of a step, eager and captured, beside the least traffic."""
    generator = torch.Generator().manual_seed(0)
    models: dict[str, Shapes] = {
        "LeNet, MNIST": [p.shape for p in MnistLeNet(generator).parameters()],
        "LeNet, CIFAR-10": [p.shape for p in CifarLeNet(generator).parameters()],
        "AlexNet": ALEXNET,
        "VGG-16": VGG,
    }
    if smoke:
        models = {name: [(10, 20), (10,)] for name in models}
    rows = []
    for name, shapes in models.items():
        params = parameters(shapes, clock.device)
        count = sum(p.numel() for p in params)
        bandwidth = copy_rate(clock, 10**4 if smoke else 2**28)
        loss = torch.tensor(2.3, device=clock.device)
        for solver, traffic, step in solvers(params, loss, clock.device.type == "cuda"):
            repeat = None if count < 10**7 else 10
            row = {
                "model": name,
                "parameters": count,
                "solver": solver,
                "eager_microseconds": round(1e6 * clock.seconds(step, repeat), 1),
                "least_microseconds": round(1e6 * traffic * count / bandwidth, 1),
            }
            if (captured := clock.captured(step, repeat)) is not None:
                row["captured_microseconds"] = round(1e6 * captured, 1)
            rows.append(row)
        del params, step
    return rows


def solvers(
    params: list[nn.Parameter], loss: Tensor, capturable: bool
) -> Iterator[tuple[str, int, Callable[[], object]]]:
    """Each solver, the bytes a parameter that it has to move, and its step; one at a time."""
    sgd = torch.optim.SGD(params, lr=1e-6, momentum=0.9, fused=True)
    yield "SGD with momentum, fused", 20, sgd.step
    del sgd
    adam = torch.optim.Adam(params, lr=1e-6, fused=True, capturable=capturable)
    yield "Adam, fused", 28, adam.step
    del adam
    for name, traffic, options in (
        ("BPGrad", 24, {}),
        ("BPGrad, λ in the norm", 28, {"weight_decay": 5e-4}),
        ("BPGrad released", 24, {"weight_decay": 5e-4, "variant": "released"}),
    ):
        solver = BPGrad(params, 1e6, **options)
        yield name, traffic, lambda solver=solver: solver.step(loss=loss)  # type: ignore[misc]
        del solver


def copy_rate(clock: Clock, count: int) -> float:
    """Bytes a second, read and written, of a large copy."""
    source, target = (torch.zeros(count, device=clock.device) for _ in range(2))
    return 8 * count / clock.seconds(lambda: target.copy_(source), 10)


PARTS = {"probe": probe, "loop": loop, "steps": steps}


def as_markdown(report: dict[str, Any]) -> str:
    """The tables."""
    machine, versions = report["start"]["machine"], report["start"]["versions"]
    where = machine["gpu"] or machine["cpu"]
    lines = [f"{where}, torch {versions['torch']}, batches of {BATCH}, medians."]
    for part, rows in report["parts"].items():
        names = list(dict.fromkeys(name for row in rows for name in row))
        titles = [name.replace("_", " ") for name in names]
        lines += ["", f"**{part}**", "", f"| {' | '.join(titles)} |", "|---" * len(names) + "|"]
        lines += [f"| {' | '.join(str(row.get(name, '')) for name in names)} |" for row in rows]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Parse the command line and do what it says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="+", choices=[*PARTS])
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--smoke", action="store_true", help="smallest sizes: a rehearsal")
    parser.add_argument("--output", type=Path, default=Path("results/bench/gpu"))
    arguments = parser.parse_args()
    device = choose_device(arguments.device)
    report: dict[str, Any] = {
        "start": describe_start(device=device, world_size=1, epoch=1, iteration=0),
        "parts": {},
    }
    for part in arguments.parts:
        configure_torch(settings("mnist", device), device)
        with own_stream(World(device)):
            report["parts"][part] = PARTS[part](Clock(device, arguments.smoke), arguments.smoke)
        write_text(arguments.output.with_suffix(".json"), json.dumps(report, indent=2) + "\n")
        write_text(arguments.output.with_suffix(".md"), as_markdown(report))
    print(as_markdown(report))


if __name__ == "__main__":
    run_command(main)
