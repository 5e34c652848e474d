"""The step on CUDA. Without a GPU its kernels are interpreted, and compiled for one."""

import importlib.util
import math
import os
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

from bpgrad.optim import BPGrad, Eve, MatConvNetAdam, _fused
from tests.golden.test_solvers import SOLVERS, STEPS, TOLERANCE, Step, deviation, measure, open_walk

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="this process interprets them")
@needs_triton
def test_the_kernels_in_tritons_interpreter() -> None:
    """In a process that knows of no GPU."""
    file = Path(__file__).with_name("test_triton_interpreted.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", file],
        cwd=file.parents[2],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


COMPILE = """
import re
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from bpgrad.optim import _triton, _triton_moments

TYPES = {tl.float64: "*fp64", tl.int64: "*i64"}
INTEGERS = ("table", "addresses", "step", "skipped_steps", "negative_losses", "exceeded_steps")


def compiled(kernel, **constants):
    names = [name for name in kernel.arg_names if name not in constants]
    signature = {name: "*i64" if name in INTEGERS else "*fp64" for name in names}
    signature |= {name: "i32" for name in ("first", "chunks", "groups") if name in names}
    source = ASTSource(
        kernel,
        {name: signature.get(name, "constexpr") for name in kernel.arg_names},
        {(kernel.arg_names.index(name),): value for name, value in constants.items()},
    )
    target = GPUTarget("cuda", 90, 32)
    return triton.compile(source, target, {"enable_fp_fusion": True}).asm["ptx"]


options = {"COMPUTE": tl.float32, "ALIGNED": True, "CHUNK": 8192, "BLOCK": 2048}
for kernel, more in (
    (_triton.squares, {"DTYPE": tl.float32, "DECAY": True}),
    (_triton.update, {"DTYPE": tl.bfloat16}),
    (_triton_moments.update, {"DTYPE": tl.float32}),
):
    assert "ld.global.v4.b32" in compiled(kernel, **options, **more)
for kernel, options in (
    (_triton.scalars, {"PAPER": True, "SUMS": 1024}),
    (_triton_moments.scalars, {"FEEDBACK": True}),
):
    ptx = compiled(kernel, GROUPS=32, **options)
    assert "sqrt.rn.f64" in ptx and "div.rn.f64" in ptx
    assert not re.search(r"(add|sub|mul|fma|div|sqrt|rcp|ex2)[.a-z0-9]*[.]f32 ", ptx)
print("compiled")
"""


@pytest.mark.slow
@needs_triton
def test_the_kernels_compile_for_a_gpu() -> None:
    """Whole vectors are loaded, and the scalars' kernel computes nothing in float32."""
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run(
        [sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True
    )
    assert done.stdout == "compiled\n", done.stderr


def test_without_triton_torch_takes_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "triton" else find(name)
    )
    assert _fused.triton_kernels.__wrapped__() is None


def test_a_fake_cuda_tensor_is_left_to_torch() -> None:
    """It has no memory; nor need there be a GPU to be asked what it can do."""

    class Fake(torch.Tensor):
        is_cuda = True

    assert not _fused.on_triton(torch.zeros(()).as_subclass(Fake))


# --- on a GPU -------------------------------------------------------------------------------------

SHAPES = ((300, 100), (100,), (8, 4, 3, 3), ())


def on_cuda(seed: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(s, generator=generator).to("cuda", dtype) for s in SHAPES]


def walk(optimizer: Any, params: list[Any], captured: bool) -> list[torch.Tensor]:
    """Twelve steps, of which the last eight are captured; the gradients are functions of w."""
    loss = torch.zeros((), device="cuda")

    def step() -> None:
        total = sum((p.double().cos().sum() for p in params), torch.zeros((), device="cuda"))
        loss.copy_(total.abs())
        for p in params:
            p.grad = torch.sin(p.detach())
        optimizer.step(loss=loss) if isinstance(optimizer, BPGrad | Eve) else optimizer.step()

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream), torch.no_grad():
        for _ in range(4):
            step()
        if captured:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=stream):
                step()
        for _ in range(8):
            graph.replay() if captured else step()
    torch.cuda.synchronize()
    state = [v for v in optimizer.param_groups[0].values() if isinstance(v, torch.Tensor)]
    return [p.detach() for p in params] + state


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


@pytest.mark.cuda
@needs_gpu
@needs_triton
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("solver", ["paper", "released", "eve", "adam"])
def test_a_graph_gives_the_bits_of_eager_steps(solver: str, dtype: torch.dtype) -> None:
    runs = []
    for captured in (False, False, True):
        params: list[Any] = [torch.nn.Parameter(p) for p in on_cuda(0, dtype)]
        optimizer: Any
        if solver == "eve":
            optimizer = Eve(params, weight_decay=1e-3)
        elif solver == "adam":
            optimizer = MatConvNetAdam(params, weight_decay=1e-3, capturable=True)
        else:
            optimizer = BPGrad(params, 30.0, variant=solver, weight_decay=1e-3)
        runs.append(walk(optimizer, params, captured))
        if isinstance(optimizer, BPGrad):
            assert optimizer._layout is not None
            assert optimizer._layout.chunks is not None
    for again in runs[1:]:
        assert all(torch.equal(one, other) for one, other in zip(runs[0], again, strict=True))


@pytest.mark.cuda
@needs_gpu
@needs_triton
@pytest.mark.parametrize("name", ["bpgrad-paper", "bpgrad-released"])
def test_the_kernels_follow_the_transcription_on_a_gpu(name: str) -> None:
    _, tensors, path = open_walk(SOLVERS[name], True, True)
    optimizer, moved, _ = open_walk(SOLVERS[name], True, True)
    optimizer = deepcopy(optimizer)
    moved = [p for group in optimizer.param_groups for p in group["params"]]
    for p in moved:
        p.data = p.data.cuda()
    for _ in range(STEPS):
        grads, loss = measure(tensors, path)
        for p, g in zip(moved, grads, strict=True):
            p.grad = torch.from_numpy(g.copy()).cuda()
        optimizer.step(loss=torch.tensor(loss, dtype=torch.float64, device="cuda"))  # type: ignore[call-arg]
        for p, q in zip(tensors, moved, strict=True):
            p.data.copy_(q)
        path.steps.append(Step(grads, loss, [p.detach().numpy().copy() for p in tensors]))
    assert deviation(SOLVERS[name].rule, path) <= TOLERANCE


@pytest.mark.cuda
@needs_gpu
@needs_triton
def test_the_kernels_agree_with_the_loop_on_a_gpu() -> None:
    runs = []
    for mode in ({"fused": True}, {"foreach": False}):
        params: list[Any] = [torch.nn.Parameter(p) for p in on_cuda(0)]
        options: dict[str, Any] = mode
        optimizer = BPGrad(params, "auto", weight_decay=1e-3, **options)
        for t, loss in enumerate((2.0, math.nan, 1.0, -0.5)):
            for p, g in zip(params, on_cuda(1 + t), strict=True):
                p.grad = g
            optimizer.step(loss=loss)
        runs.append((params, optimizer.param_groups[0]))
    (params, state), (loop, expected) = runs
    for p, q in zip(params, loop, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-6)
    for name in _fused.GLOBAL_SCALARS:
        torch.testing.assert_close(state[name], expected[name], rtol=1e-6, atol=0.0)
