"""The step compiled by Inductor: the path on GPUs, checked here on the CPU."""

import math
import shutil
from typing import Any

import pytest
import torch

from bpgrad.optim import BPGrad, Eve
from bpgrad.optim._loss_aware import COMPILES

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not COMPILES, reason="this torch compiles the step wrongly; refused"),
    pytest.mark.skipif(
        shutil.which("g++") is None and shutil.which("clang++") is None,
        reason="torch.compile needs a C++ compiler on the CPU, and none is installed",
    ),
]

SHAPES = ((40, 30), (40,), (8, 4, 3, 3))


def draw(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("solver", ["paper", "released", "eve"])
def test_compiled_step_is_the_eager_one(solver: str) -> None:
    """Ten steps, one of them with a loss that is NaN; float32, 4 ulps of the largest weight."""
    runs = []
    for compiled in (False, True):
        params: Any = [torch.nn.Parameter(draw(s, k)) for k, s in enumerate(SHAPES)]
        lr = torch.tensor(1.0 if solver != "eve" else 1e-3)
        optimizer: Any = (
            Eve(params, lr=lr, weight_decay=1e-3)
            if solver == "eve"
            else BPGrad(params, 4.0, lr=lr, weight_decay=1e-3, variant=solver, foreach=True)
        )

        def step(loss: torch.Tensor, optimizer: Any = optimizer) -> None:
            optimizer.step(loss=loss)

        take = torch.compile(step, fullgraph=True) if compiled else step
        for t in range(10):
            for k, p in enumerate(params):
                p.grad = draw(SHAPES[k], 100 + 10 * t + k)
            take(torch.tensor(math.nan if t == 4 else 2.0 + math.cos(t)))
        runs.append((params, optimizer))
    (eager, first), (fused, second) = runs
    for p, q in zip(fused, eager, strict=True):
        eps = torch.finfo(q.dtype).eps * q.abs().max().item()
        assert (p - q).abs().max().item() <= 4 * eps
    for name, value in first.param_groups[0].items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(second.param_groups[0][name], value, rtol=1e-6, atol=0.0)
