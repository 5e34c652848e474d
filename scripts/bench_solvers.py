"""What a step of each solver costs: make bench-solvers.

Every solver takes steps on parameters of the same shapes with gradients that stay as they are: one
process, the solvers in turn, round after round, medians. Bytes a parameter is the least traffic
that the rule allows in float32: every tensor read and written once, and once more for a norm the
gradients, with weight decay in the norm the weights too. The fraction is that traffic in the median
time, of the highest rate that one of three simple operations reached in the same rounds: a copy, a
scaling and an addition in place. On sets that fit a cache it says nothing and is left out.

Prints the tables and writes them, with machine and versions, to results/bench/solvers.json and
results/bench/solvers.md, and into docs/solvers.md.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bpgrad.models.lenet import CifarLeNet, MnistLeNet
from bpgrad.optim import BPGrad, Eve, MatConvNetAdam
from bpgrad.records.files import replace_between, write_text
from bpgrad.records.provenance import describe_start
from bpgrad.training.cli import run_command

WEIGHT_DECAY = 5e-4
DOCS = Path(__file__).parents[1] / "docs" / "solvers.md"
MARKS = ("<!-- results/bench/solvers.md -->\n", "<!-- end -->\n")  # around the table in the docs
CACHE = 64 * 2**20  # bytes of parameters above which no cache holds the step's tensors

Shapes = Sequence[Sequence[int]]
#: Weights and biases of AlexNet (61 million): layers 2, 4 and 5 have two groups of filters.
ALEXNET: Shapes = (
    *((96, 3, 11, 11), (96,), (256, 48, 5, 5), (256,), (384, 256, 3, 3), (384,)),
    *((384, 192, 3, 3), (384,), (256, 192, 3, 3), (256,)),
    *((4096, 9216), (4096,), (4096, 4096), (4096,), (1000, 4096), (1000,)),
)


def solvers() -> dict[str, tuple[int, Callable[[Any], torch.optim.Optimizer]]]:
    """Bytes a parameter at the least, and how to build it; the first is the unit of the ratios."""
    momentum: dict[str, Any] = {"lr": 1e-4, "momentum": 0.9}
    return {
        "SGD with momentum, fused": (20, lambda p: torch.optim.SGD(p, fused=True, **momentum)),
        "SGD with momentum, foreach": (20, lambda p: torch.optim.SGD(p, foreach=True, **momentum)),
        "BPGrad": (24, lambda p: BPGrad(p, 1e3)),
        "BPGrad, λ in the norm": (28, lambda p: BPGrad(p, 1e3, weight_decay=WEIGHT_DECAY)),
        "BPGrad released": (
            24,
            lambda p: BPGrad(p, 1e3, weight_decay=WEIGHT_DECAY, variant="released"),
        ),
        "BPGrad, foreach": (24, lambda p: BPGrad(p, 1e3, foreach=True)),
        "Adam, fused": (28, lambda p: torch.optim.Adam(p, lr=1e-6, fused=True)),
        "Adam as in MatConvNet, fused": (28, lambda p: MatConvNetAdam(p, lr=1e-6, fused=True)),
        "Eve, foreach": (28, lambda p: Eve(p, lr=1e-6)),
        "Adagrad, fused": (20, lambda p: torch.optim.Adagrad(p, lr=1e-6, fused=True)),
        "RMSProp, foreach": (20, lambda p: torch.optim.RMSprop(p, lr=1e-6, foreach=True)),
        "Adadelta, foreach": (28, lambda p: torch.optim.Adadelta(p, lr=1e-6, foreach=True)),
    }


def parameters(shapes: Shapes, device: torch.device | None = None) -> list[nn.Parameter]:
    """Parameters of these shapes, with gradients."""
    params = [nn.Parameter(torch.randn(*shape, device=device)) for shape in shapes]
    for p in params:
        p.grad = torch.randn_like(p) * 1e-2
    return params


def stepper(optimizer: torch.optim.Optimizer) -> Callable[[], Any]:
    if isinstance(optimizer, BPGrad | Eve):
        loss = torch.tensor(2.3)
        return lambda: optimizer.step(loss=loss)
    return optimizer.step


def bench(shapes: Shapes, rounds: int, repeat: int) -> dict[str, Any]:
    """Median milliseconds of each solver's step, beside the memory's bandwidth."""
    params = parameters(shapes)
    count = sum(p.numel() for p in params)
    steps = {name: stepper(build(params)) for name, (_, build) in solvers().items()}
    source, target = torch.randn(count), torch.zeros(count)
    probes: dict[str, tuple[int, Callable[[], Any]]] = {
        "copy": (8, lambda: target.copy_(source)),
        "scale": (8, lambda: target.mul_(1.0)),
        "add": (12, lambda: target.add_(source)),
    }
    steps |= {name: probe for name, (_, probe) in probes.items()}
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for k in range(rounds + 1):  # the first round warms up
        for name, step in steps.items():
            begin = time.perf_counter()
            for _ in range(repeat):
                step()
            if k:
                taken[name].append((time.perf_counter() - begin) / repeat)
    bandwidth = max(
        traffic * count / statistics.median(taken.pop(name))
        for name, (traffic, _) in probes.items()
    )
    unit = next(iter(taken))
    rows = []
    for name, seconds in taken.items():
        traffic = solvers()[name][0]
        ratio = statistics.median(s / u for s, u in zip(seconds, taken[unit], strict=True))
        row = {
            "solver": name,
            "milliseconds": round(1e3 * statistics.median(seconds), 4),
            "ratio": round(ratio, 3),
            "bytes_per_parameter": traffic,
        }
        if 4 * count > CACHE:
            rate = traffic * count / statistics.median(seconds)
            row["fraction_of_bandwidth"] = round(rate / bandwidth, 3)
        rows.append(row)
    return {
        "parameters": count,
        "rounds": rounds,
        "gigabytes_per_second": round(bandwidth / 1e9, 1),
        "solvers": rows,
    }


def as_markdown(report: dict[str, Any]) -> str:
    """The tables as they stand in the docs."""
    machine, versions = report["start"]["machine"], report["start"]["versions"]
    lines = [
        f"{machine['cpu']}, {machine['threads']} threads, torch {versions['torch']}, float32.",
    ]
    for name, found in report["models"].items():
        lines += [
            "",
            f"**{name}**: {found['parameters']:,} parameters, median of {found['rounds']} rounds; "
            f"the memory (or cache) gave {found['gigabytes_per_second']} GB/s",
            "",
            "| solver | ms a step | of fused SGD | bytes a parameter, least | of the bandwidth |",
            "|---|---:|---:|---:|---:|",
        ]
        for row in found["solvers"]:
            part = row.get("fraction_of_bandwidth")
            lines.append(
                f"| {row['solver']} | {row['milliseconds']:.4g} | {row['ratio']:.2f} "
                f"| {row['bytes_per_parameter']} | {'' if part is None else f'{part:.0%}'} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--output", type=Path, help="elsewhere than results/bench and the docs")
    arguments = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    lenets = {"LeNet, MNIST": MnistLeNet(generator), "LeNet, CIFAR-10": CifarLeNet(generator)}
    models = {name: ([p.shape for p in net.parameters()], 50) for name, net in lenets.items()}
    report = {
        "start": describe_start(device=torch.device("cpu"), world_size=1, epoch=0, iteration=0),
        "models": {
            name: bench(shapes, arguments.rounds, repeat)
            for name, (shapes, repeat) in {**models, "AlexNet": (ALEXNET, 1)}.items()
        },
    }
    text = as_markdown(report)
    output = arguments.output or DOCS.parents[1] / "results" / "bench" / "solvers"
    write_text(output.with_suffix(".json"), json.dumps(report, indent=2) + "\n")
    write_text(output.with_suffix(".md"), text)
    if arguments.output is None:
        write_text(DOCS, replace_between(DOCS.read_text(), MARKS, text))
    print(text)


if __name__ == "__main__":
    run_command(main)
