"""Whether the input pipeline keeps up with the network: make bench-input ARGS="task=...".

Of a task that streams its data: imagenette unless another is named. Three rates, in rounds one
after the other, each over the same number of minibatches:

  pipeline   reading, cropping and collating alone, with 0, 1, 2, 4, ..., cores - 1 worker processes
  model      forward, backward and torch's fused SGD on one minibatch that is there already
  both       a training as it is: the model fed by the workers

Prints medians in images/s, the loss of "both" against "model" in %, the first number of workers
with which that is 10 % at the most (or that it is so with none of these), the memory that training
took at the most (the GPU's, or this process's), with --evaluate the seconds of a pass over the test
images, and writes all of it to results/bench/input-<task>.json. Without a GPU the workers and the
model share the cores.
"""

import argparse
import json
import resource
import statistics
import time
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bpgrad.errors import ConfigError
from bpgrad.records.files import write_text
from bpgrad.records.provenance import describe_start
from bpgrad.tasks.task import Batch, Task
from bpgrad.training.cli import run_command
from bpgrad.training.config import Config, load, task_class, task_options
from bpgrad.training.numerics import configure_torch, context_of, cores
from bpgrad.world import World, choose_device

ACCEPTED_LOSS = 10  # % of the model's rate


class Stepper:
    """Trains a model on minibatches as they come."""

    def __init__(self, task: Task, cfg: Config) -> None:
        self.task, self.bf16 = task, cfg.precision == "bf16"
        self.device = choose_device(cfg.device)
        self.model: nn.Module = task.build_model(0)
        self.optimizer = torch.optim.SGD(self.model.parameters(), 1e-4, momentum=0.9, fused=True)

    def __call__(self, batch: Batch) -> None:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            objective = self.task.objective(self.model, batch)["objective"]
        self.optimizer.zero_grad()
        objective.backward()
        self.optimizer.step()

    def wait(self) -> None:
        """Until the device has done all that it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def peak_memory(self) -> int:
        """The most bytes at a time: the GPU's, or else this process's (Linux counts in KiB)."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def bench(
    overrides: list[str], batches: int, rounds: int, workers: list[int], evaluate: bool = False
) -> dict[str, Any]:
    """Rates in images/s, medians over the rounds, by what is measured and number of workers.

    Raises ConfigError for a task that does not stream its data.
    """
    cfg = load(["solver=sgd", *overrides])
    world = World(choose_device(cfg.device))
    configure_torch(cfg, world.device)
    tasks: dict[int, Task] = {}
    for count in workers:
        cfg.workers = count
        tasks[count] = task_class(cfg)(context_of(cfg, world), **task_options(cfg))
        if tasks[count].static_shapes:
            raise ConfigError(f"task={cfg.task['name']} holds its data in memory: nothing is read")
    step = Stepper(tasks[workers[0]], cfg)
    rates: dict[str, list[float]] = {}

    def timed(name: str, feed: Any, use: Any) -> None:
        step.wait()
        images, begin = 0, time.perf_counter()
        for batch in feed:
            use(batch)
            images += batch.size
        step.wait()
        rates.setdefault(name, []).append(images / (time.perf_counter() - begin))

    (held,) = islice(tasks[workers[0]].train_batches(1), 1)
    step(held)  # allocates
    for epoch in range(1, rounds + 1):
        timed("model", [held] * batches, step)
        for count, task in tasks.items():
            feeds = (fed(task, epoch, batches) for _ in range(2))
            timed(f"pipeline, {count} workers", next(feeds), lambda batch: None)
            timed(f"both, {count} workers", next(feeds), step)
    memory = step.peak_memory()
    begin = time.perf_counter()
    if evaluate:
        tasks[workers[-1]].evaluate(step.model, 1)
        step.wait()
    took = time.perf_counter() - begin
    found = {name: round(statistics.median(values), 1) for name, values in rates.items()}
    losses = {
        count: round(100 - 100 * found[f"both, {count} workers"] / found["model"], 1)
        for count in workers
    }
    return {
        "images_per_second": found,
        "loss_percent": {f"{count} workers": loss for count, loss in losses.items()},
        "workers_that_the_model_needs": enough(losses),
        "peak_memory_mib": round(memory / 2**20),
        **({"evaluation_seconds": round(took, 1)} if evaluate else {}),
    }


def worker_counts(available: int) -> list[int]:
    """0, 1, 2, 4, ... and one less than there are cores, which is what a training takes."""
    most = max(available - 1, 0)
    return sorted({0, most, *(2**k for k in range(most.bit_length()))})


def enough(losses: Mapping[int, float]) -> int | None:
    """The first number of workers whose loss, in %, is accepted; None if that of none is."""
    return min((count for count, loss in losses.items() if loss <= ACCEPTED_LOSS), default=None)


def fed(task: Task, epoch: int, batches: int) -> Any:
    """The first minibatches of an epoch; the first of all, which starts workers, is not timed."""
    found = iter(task.train_batches(epoch))
    next(found)
    return islice(found, batches)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Compare the input pipeline with the network.")
    parser.add_argument("overrides", nargs="*", help="as for run.py: task=imagenette device=cuda")
    parser.add_argument("--batches", type=int, default=8, help="minibatches a round and rate")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="+", help="default: 0, 1, 2, 4, ... cores - 1")
    parser.add_argument("--evaluate", action="store_true", help="time a pass over the test images")
    parser.add_argument("--output", type=Path, help="default: results/bench/input-<task>.json")
    options = parser.parse_args()
    overrides = ["task=imagenette", *options.overrides]
    workers = options.workers or worker_counts(cores())
    found = bench(overrides, options.batches, options.rounds, workers, options.evaluate)
    for name, rate in found["images_per_second"].items():
        print(f"{name:<22} {rate:>9.1f} images/s")
    for name, loss in found["loss_percent"].items():
        print(f"loss with {name:<12} {loss:>9.1f} %")
    needed = found["workers_that_the_model_needs"]
    print(f"workers needed         {'none of these' if needed is None else needed:>9}")
    print(f"memory at the most     {found['peak_memory_mib']:>9} MiB")
    if options.evaluate:
        print(f"a pass over the tests  {found['evaluation_seconds']:>9.1f} s")
    start = describe_start(device=choose_device("auto"), world_size=1, epoch=1, iteration=0)
    task = load(["solver=sgd", *overrides]).task["name"]
    output = options.output or Path(f"results/bench/input-{task}.json")
    write_text(output, json.dumps(found | {"with": overrides, "start": start}, indent=1))


if __name__ == "__main__":
    run_command(main)
