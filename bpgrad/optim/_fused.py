"""The fused step on the CPU: one call into _cpu_kernel.c, which is built at installation."""

import ctypes
import importlib.util
from array import array
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

NUMBER = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2}  # of the kernel's types
GLOBAL_SCALARS = (
    "f_min",
    "grad_norm",
    "step",
    "skipped_steps",
    "negative_losses",
    "exceeded_steps",
)


@cache
def kernel() -> Any:
    """The compiled function, or None where there was no C compiler with OpenMP to build it."""
    spec = importlib.util.find_spec("bpgrad.optim._cpu_kernel")
    if spec is None or spec.origin is None:
        return None
    try:
        function = ctypes.CDLL(spec.origin).bpgrad_step_1
    except (OSError, AttributeError):  # built for another machine, or from older sources
        return None
    pointer, count = ctypes.c_void_p, ctypes.c_int64
    function.argtypes = (
        *(count, pointer, count, pointer, pointer, pointer),
        *(ctypes.c_double, count),
    )
    return function


def is_fused(
    options: dict[str, Any],
    params: Sequence[Sequence[Tensor]],
    velocities: Sequence[Sequence[Tensor]],
) -> bool:
    """Whether a step with these options (of the first group) can and should be the kernel's.

    Raises:
        RuntimeError: if ``fused=True`` cannot be honoured.
    """
    fused, foreach, f_min = options["fused"], options["foreach"], options["f_min"]
    if fused is False or (foreach is not None and not fused):
        return False
    possible = (
        not torch.compiler.is_compiling()  # the compiler fuses the operations itself
        and kernel() is not None
        and options["on_zero_gradient"] == "skip"
        and f_min.is_cpu
        and f_min.dtype == torch.float64
        and all(
            p.grad is not None and fits(p, p.grad, v)
            for ps, vs in zip(params, velocities, strict=True)
            for p, v in zip(ps, vs, strict=True)
        )
    )
    if fused and not possible:
        raise RuntimeError(
            "`fused=True` needs dense float32, float64 or bfloat16 parameters on the CPU with "
            "gradients laid out in memory like them, and no torch.compile; leave it at None."
        )
    return possible


def fits(param: Tensor, grad: Tensor, velocity: Tensor) -> bool:
    """Whether the kernel can walk the memory of the three side by side."""
    return (
        type(param) in (Parameter, Tensor)
        and type(grad) is Tensor
        and param.is_cpu
        and param.dtype in NUMBER
        and grad.dtype == velocity.dtype == param.dtype
        and not grad.is_neg()
        and (param.is_contiguous() or is_dense(param))
        and (
            param.stride() == grad.stride() == velocity.stride()  # most are
            or (same_layout(param, grad) and same_layout(param, velocity))
        )
    )


def is_dense(tensor: Tensor) -> bool:
    """Whether the elements fill one stretch of memory, in whatever order."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1:
            if stride != expected:
                return tensor.numel() == 0
            expected *= size
    return True


def same_layout(one: Tensor, other: Tensor) -> bool:
    """Whether the elements of two tensors of one shape lie in memory in the same order.

    The stride of a dimension of size 1 says nothing: convolutions of one input channel, or of 1×1
    kernels, come with either.
    """
    return one.stride() == other.stride() or all(
        a == b or size == 1
        for a, b, size in zip(one.stride(), other.stride(), one.shape, strict=True)
    )


def fused_step(
    groups: Sequence[dict[str, Any]],
    params: Sequence[Sequence[Tensor]],
    velocities: Sequence[Sequence[Tensor]],
    loss: Tensor,
) -> None:
    """The whole step: norm, scalars, velocities and parameters.

    Args:
        groups: the parameter groups; their 0-dim tensors are updated in place.
        params: of each group those with a gradient, all of which fit the kernel.
        velocities: theirs.
        loss: 0-dim, float64, on the CPU.
    """
    shared = groups[0]
    rows, options, pointers = array("q"), array("d"), array("q")
    rates = array("d", [0.0] * len(groups))
    kept = []  # alive until the call is over
    for k, group in enumerate(groups):
        for p, v in zip(params[k], velocities[k], strict=True):
            address = p.grad.data_ptr()  # type: ignore[union-attr]
            rows.extend((p.data_ptr(), address, v.data_ptr(), p.numel(), NUMBER[p.dtype], k))
        options.extend((group["lipschitz"], group["momentum"], group["weight_decay"]))
        lr = group["lr"]
        if isinstance(lr, Tensor):  # its value is not read here: that would be a read by the host
            kept.append(lr.to("cpu", torch.float64))
            address = kept[-1].data_ptr()
        else:
            rates[k] = lr
            address = rates.buffer_info()[0] + 8 * k
        pointers.extend((address, group["step_size"].data_ptr()))
    scalars = array("q", [loss.data_ptr(), *(shared[name].data_ptr() for name in GLOBAL_SCALARS)])
    failed = kernel()(
        len(rows) // 6,
        rows.buffer_info()[0],
        len(groups),
        options.buffer_info()[0],
        pointers.buffer_info()[0],
        scalars.buffer_info()[0],
        shared["rho"],
        shared["variant"] == "paper",
    )
    if failed:
        raise MemoryError("no memory for the list of blocks of a BPGrad step")
    # Autograd has to notice that the parameters have changed, which a pointer does not tell it.
    torch.autograd.graph.increment_version([t for ts in (*params, *velocities) for t in ts])
