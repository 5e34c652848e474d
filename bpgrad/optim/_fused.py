"""The fused step: on the CPU one call into _cpu_kernel.c, which is built at installation; on CUDA
the kernels of _triton.py.
"""

import ctypes
import importlib.util
import os
import shutil
from array import array
from collections.abc import Callable, Collection, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from bpgrad.optim._lipschitz import MARGIN, MEMORY

try:  # what torch.compile guards its inputs with; not public, so nothing depends on it
    from torch._C._dynamo.guards import TensorGuards
except ImportError:
    TensorGuards = None  # type: ignore[assignment, misc]

NUMBER = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2}  # of the CPU kernel's types
CUDA_TYPES = (*NUMBER, torch.float16)
GLOBAL_SCALARS = (
    "f_min",
    "grad_norm",
    "max_grad_norm",
    "lipschitz_estimate",
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
        function = ctypes.CDLL(spec.origin).bpgrad_step_3
    except (OSError, AttributeError):  # built for another machine, or from older sources
        return None
    pointer, count = ctypes.c_void_p, ctypes.c_int64
    function.argtypes = (
        *(count, pointer, pointer, count, pointer, pointer, pointer),
        *(ctypes.c_double, ctypes.c_double, ctypes.c_double, count),
    )
    return function


def check_fused(foreach: bool | None, on_zero_gradient: str) -> None:
    """Refuse ``fused=True`` where the options or this installation exclude it.

    Raises:
        RuntimeError: with ``foreach`` or ``"random"``, or where there is no kernel.
    """
    if foreach:
        raise RuntimeError("`fused` and `foreach` cannot be `True` together.")
    if on_zero_gradient == "random":
        raise RuntimeError("`fused=True` does not support on_zero_gradient='random'")
    if kernel() is None and not (torch.cuda.is_available() and triton_kernels() is not None):
        raise RuntimeError(
            "`fused=True` needs the CPU kernel, which was not built, or CUDA with Triton: install"
            " bpgrad again where there is a C compiler with OpenMP, or leave it at None."
        )


@cache
def triton_kernels() -> Any:
    """The module of the Triton kernels, or None where Triton or the C compiler it needs is not."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    if not compiler or importlib.util.find_spec("triton") is None:
        return None
    from bpgrad.optim import _triton

    return _triton


def on_triton(tensor: Tensor) -> bool:
    """Whether a step of parameters that lie where ``tensor`` does can be Triton's."""
    return (
        type(tensor) is Tensor  # not a fake one
        and tensor.is_cuda
        and torch.cuda.get_device_capability(tensor.device) >= (7, 0)
        and triton_kernels() is not None
    )


def dtypes_on(tensor: Tensor) -> Collection[torch.dtype]:
    """What the kernels take of parameters that lie where ``tensor`` does; nothing without one."""
    if on_triton(tensor):
        return CUDA_TYPES
    return NUMBER if tensor.is_cpu and kernel() is not None else ()


def guard(tensors: list[Tensor]) -> Callable[..., bool] | None:
    """Tells whether tensors are like these, or None where this torch has no such guards."""
    if TensorGuards is None or not tensors:
        return None
    try:
        return TensorGuards(*tensors, dynamic_dims_sizes=None, dynamic_dims_strides=None).check
    except TypeError:  # of a version that wants other arguments
        return None


class Layout:
    """What the kernels have to know of the tensors of a step beside their addresses.

    It outlives the step, holds none of them, and says whether it describes the tensors of the next.
    On small models that takes a third of the time of looking at each of them.

    Args:
        tensors: all parameters, all gradients, all velocities.
        counts: number of parameters in each group.
        triton: whether it is for Triton's kernels.
    """

    def __init__(self, tensors: list[Tensor], counts: list[int], triton: bool = False) -> None:
        self.counts = counts
        params = tensors[: sum(counts)]
        groups = [k for k, count in enumerate(counts) for _ in range(count)]
        self.rows = array("q")  # the CPU kernel's tensor_row
        self.chunks: Any = None
        if triton:
            columns = len(tensors) // len(params) if params else 3
            self.chunks = triton_kernels().Chunks(params, groups, columns)
        else:
            for p, k in zip(params, groups, strict=True):
                self.rows.extend((p.numel(), NUMBER[p.dtype], k))
        self._same = guard(tensors)

    def describes(self, tensors: list[Tensor], counts: list[int]) -> bool:
        """Whether types, devices, dtypes, shapes, strides and groups are those it was made of."""
        return self.counts == counts and self._same is not None and self._same(*tensors)


def flat(params: Sequence[Sequence[Tensor]], velocities: Sequence[Sequence[Tensor]]) -> list[Any]:
    """All parameters, all their gradients, all their velocities, of all groups."""
    ps = [p for group in params for p in group]
    return ps + [p.grad for p in ps] + [v for group in velocities for v in group]


def fused_layout(
    options: dict[str, Any], tensors: list[Any], counts: list[int], known: Layout | None
) -> Layout | None:
    """The layout of the tensors if the kernel can and should take the step, else None.

    Args:
        options: the first group, which holds the global ones.
        tensors: all parameters, all gradients, all velocities.
        counts: number of parameters in each group.
        known: that of the step before; it is returned if it still holds.

    Raises:
        RuntimeError: if ``fused=True`` cannot be honoured.
    """
    fused, foreach, f_min = options["fused"], options["foreach"], options["f_min"]
    if fused is False or (foreach is not None and not fused):
        return None
    if (
        not torch.compiler.is_compiling()  # the compiler fuses the operations itself
        and options["on_zero_gradient"] == "skip"
        and f_min.dtype == torch.float64
        and (dtypes := dtypes_on(f_min))
    ):
        if known is not None and known.describes(tensors, counts):
            return known
        n = sum(counts)
        if all(
            param.device == f_min.device and fits(param, grad, velocity, dtypes)
            for param, grad, velocity in zip(
                tensors[:n], tensors[n : 2 * n], tensors[2 * n :], strict=True
            )
        ):
            return Layout(tensors, counts, on_triton(f_min))
    if fused:
        raise RuntimeError(
            "`fused=True` needs dense float32, float64 or bfloat16 parameters on the CPU, or these "
            "and float16 on one CUDA device with Triton, gradients laid out in memory like them, "
            "and no torch.compile; leave it at None."
        )
    return None


def triton_layout(
    like: Tensor, tensors: list[Any], counts: list[int], known: Layout | None
) -> Layout | None:
    """The layout of the tensors if Triton can take a step of Eve or MatConvNetAdam, else None.

    Args:
        like: one of the optimizer's 0-dim tensors.
        tensors: all parameters, all gradients, all means, all mean squares.
        counts: number of parameters in each group.
        known: that of the step before; it is returned if it still holds.
    """
    n = sum(counts)
    if torch.compiler.is_compiling() or not n or not on_triton(like):
        return None
    if known is not None and known.describes(tensors, counts):
        return known
    columns = zip(*(tensors[k : k + n] for k in range(0, 4 * n, n)), strict=True)
    if all(
        p.device == like.device and fits(p, g, m, CUDA_TYPES) and fits(p, g, v, CUDA_TYPES)
        for p, g, m, v in columns
    ):
        return Layout(tensors, counts, triton=True)
    return None


def triton_moments(
    groups: Sequence[dict[str, Any]],
    tensors: list[Tensor],
    layout: Layout,
    counts: list[Tensor],
    feedback: tuple[Tensor, Tensor, Tensor] | None,
) -> None:
    """The whole step of Eve, or without ``feedback`` of MatConvNetAdam: see _triton_moments.py."""
    from bpgrad.optim import _triton_moments

    moves = [count > 0 for count in layout.counts]
    _triton_moments.step(groups, tensors, layout.chunks, counts, moves, feedback)
    n = sum(layout.counts)
    torch.autograd.graph.increment_version(tensors[:n] + tensors[2 * n :])


def fits(
    param: Tensor, grad: Tensor, velocity: Tensor, dtypes: Collection[torch.dtype] = NUMBER
) -> bool:
    """Whether a kernel that takes ``dtypes`` can walk the memory of the three side by side."""
    return (
        type(param) in (Parameter, Tensor)
        and type(grad) is Tensor
        and param.dtype in dtypes
        and grad.dtype == velocity.dtype == param.dtype
        and not grad.is_neg()
        and param.shape == grad.shape == velocity.shape
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
    groups: Sequence[dict[str, Any]], tensors: list[Tensor], layout: Layout, loss: Tensor
) -> None:
    """The whole step: norm, scalars, velocities and parameters.

    Args:
        groups: the parameter groups; their 0-dim tensors are updated in place.
        tensors: all parameters with a gradient, all gradients, all velocities.
        layout: theirs.
        loss: 0-dim, float64, where the parameters are.
    """
    shared = groups[0]
    places = [shared[name] for name in GLOBAL_SCALARS]
    if layout.chunks is not None:
        triton_kernels().step(groups, tensors, layout.chunks, loss, places)
    else:
        cpu_step(groups, tensors, layout, loss, places)
    n = len(tensors) // 3
    # Autograd has to notice that the parameters have changed, which a pointer does not tell it.
    torch.autograd.graph.increment_version(tensors[:n] + tensors[2 * n :])


def cpu_step(
    groups: Sequence[dict[str, Any]],
    tensors: list[Tensor],
    layout: Layout,
    loss: Tensor,
    places: list[Tensor],
) -> None:
    """The step by the CPU kernel; ``places`` are the global 0-dim tensors."""
    shared = groups[0]
    addresses = array("q", list(map(Tensor.data_ptr, tensors)))
    options, pointers = array("d"), array("q")
    rates = array("d", [0.0] * len(groups))
    kept = []  # alive until the call is over
    for k, group in enumerate(groups):
        lipschitz = group["lipschitz"]
        options.append(0.0 if lipschitz == "auto" else lipschitz)
        options.extend((group["momentum"], group["weight_decay"]))
        lr = group["lr"]
        if isinstance(lr, Tensor):  # its value is not read here: that would be a read by the host
            kept.append(lr.to("cpu", torch.float64))
            address = kept[-1].data_ptr()
        else:
            rates[k] = lr
            address = rates.buffer_info()[0] + 8 * k
        pointers.extend((address, group["step_size"].data_ptr()))
    scalars = array("q", [loss.data_ptr(), *map(Tensor.data_ptr, places)])
    failed = kernel()(
        len(tensors) // 3,
        layout.rows.buffer_info()[0],
        addresses.buffer_info()[0],
        len(groups),
        options.buffer_info()[0],
        pointers.buffer_info()[0],
        scalars.buffer_info()[0],
        shared["rho"],
        MARGIN,
        MEMORY,
        shared["variant"] == "paper",
    )
    if failed:
        raise MemoryError("no memory for the list of blocks of a BPGrad step")
