"""BPGrad's step on CUDA: three Triton kernels over a table of chunks, whatever the tensors.

A row of the table is a chunk of one tensor: its length, its group, and where it begins in the
parameter, the gradient and the velocity. Nothing is read back to the host, sums have one order,
and a CUDA graph can capture the step. _cpu_kernel.c computes the same.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from bpgrad.optim._lipschitz import MARGIN, MEMORY

CHUNK = 8192  # elements of a row; a multiple of 16 bytes in every dtype
BLOCK = 2048  # elements that a program holds at once
SUMS, GROUPS = 1024, 32  # partial sums and groups that the second kernel holds at once
TYPES = {
    torch.float32: tl.float32,
    torch.float64: tl.float64,
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
}
# What a captured graph copies from and to at every replay, by the f_min of the optimizer.
CAPTURED = WeakTensorKeyDictionary()

# Rows of the table, of the options and of the groups' addresses, as the kernels read them.
ROW = tl.constexpr(5)  # length, group, parameter, gradient, velocity
OPTIONS = tl.constexpr(4)  # L (0: the estimate), μ, λ, lr; the first row: ρ, MARGIN, MEMORY
ADDRESSES = tl.constexpr(3)  # of lr, its kind (NUMBER, FLOAT64, FLOAT32), of step_size
NUMBER = 0
FLOAT64 = tl.constexpr(1)
FLOAT32 = tl.constexpr(2)


@triton.jit
def _pointer(entry, DTYPE: tl.constexpr, ALIGNED: tl.constexpr):  # type: ignore[no-untyped-def]
    """The address that stands at ``entry``; whole vectors are loaded if it is known as aligned."""
    pointer = tl.load(entry).to(tl.pointer_type(DTYPE))
    if ALIGNED:
        pointer = tl.multiple_of(pointer, 16)
    return pointer


@triton.jit
def _load(pointer, offsets, length, COMPUTE: tl.constexpr, WHOLE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Elements of a chunk; a whole one needs no mask, which would take the vectors apart."""
    if WHOLE:
        return tl.load(pointer + offsets).to(COMPUTE)
    else:
        return tl.load(pointer + offsets, mask=offsets < length, other=0.0).to(COMPUTE)


@triton.jit
def _chunk_squares(  # type: ignore[no-untyped-def]
    params,
    grads,
    length,
    decay,
    COMPUTE: tl.constexpr,
    BLOCK: tl.constexpr,
    WHOLE: tl.constexpr,
):
    sums = tl.zeros((BLOCK,), tl.float64)
    for start in range(0, length, BLOCK):
        offsets = start + tl.arange(0, BLOCK)
        x = _load(grads, offsets, length, COMPUTE, WHOLE)
        if decay != 0.0:
            x += decay * _load(params, offsets, length, COMPUTE, WHOLE)
        x = x.to(tl.float64)
        sums += x * x
    return tl.sum(sums, axis=0)


@triton.jit(do_not_specialize=["first"])
def squares(  # type: ignore[no-untyped-def]
    table,
    options,
    partial,
    first,
    DTYPE: tl.constexpr,
    COMPUTE: tl.constexpr,
    ALIGNED: tl.constexpr,
    DECAY: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Sums of ‖g + λw‖², without ``DECAY`` ‖g‖², of each chunk from row ``first`` on."""
    row = first + tl.program_id(0)
    entry = table + row * ROW
    length = tl.load(entry).to(tl.int32)
    params = _pointer(entry + 2, DTYPE, ALIGNED)
    grads = _pointer(entry + 3, DTYPE, ALIGNED)
    decay = tl.load(options + (1 + tl.load(entry + 1)) * OPTIONS + 2).to(COMPUTE)
    if not DECAY:
        decay = decay * 0.0
    if length == CHUNK:
        total = _chunk_squares(params, grads, CHUNK, decay, COMPUTE, BLOCK, True)
    else:
        total = _chunk_squares(params, grads, length, decay, COMPUTE, BLOCK, False)
    tl.store(partial + row, total)


@triton.jit(do_not_specialize=["chunks", "groups"], do_not_specialize_on_alignment=["loss"])
def scalars(  # type: ignore[no-untyped-def]
    partial,
    options,
    addresses,
    factors,
    chunks,
    groups,
    loss,
    f_min,
    grad_norm,
    max_grad_norm,
    lipschitz_estimate,
    step,
    skipped_steps,
    negative_losses,
    exceeded_steps,
    PAPER: tl.constexpr,
    SUMS: tl.constexpr,
    GROUPS: tl.constexpr,
):
    """All scalars of the step, in float64; one program of one warp, so that no load is late.

    ``factors`` gets whether the step is taken, then for each group what multiplies the direction
    and what multiplies the velocity.
    """
    sums = tl.zeros((SUMS,), tl.float64)
    for start in range(0, chunks, SUMS):
        i = start + tl.arange(0, SUMS)
        sums += tl.load(partial + i, mask=i < chunks, other=0.0)
    norm = tl.sqrt(tl.sum(sums, axis=0))
    f = tl.load(loss)
    taken = tl.abs(f) + norm < float("inf")  # a NaN compares as False
    rho, margin, memory = tl.load(options), tl.load(options + 1), tl.load(options + 2)
    smallest_loss = tl.minimum(tl.load(f_min), f)
    largest_norm = tl.maximum(tl.load(max_grad_norm), norm)
    estimate = tl.maximum(margin * norm, memory * tl.load(lipschitz_estimate))
    gap = tl.maximum(f - rho * smallest_loss, 0.0)

    smallest = tl.full((GROUPS,), float("inf"), tl.float64)
    for start in range(0, groups, GROUPS):
        k = start + tl.arange(0, GROUPS)
        here = k < groups
        own = options + (1 + k) * OPTIONS
        lipschitz = tl.load(own, mask=here, other=float("inf"))
        lipschitz = tl.where(lipschitz > 0.0, lipschitz, estimate)
        smallest = tl.minimum(smallest, lipschitz)
        place = addresses + k * ADDRESSES
        where = tl.load(place, mask=here, other=0)
        kind = tl.load(place + 1, mask=here, other=0)
        lr = tl.load(own + 3, mask=here, other=0.0)
        double = where.to(tl.pointer_type(tl.float64))
        lr = tl.where(kind == FLOAT64, tl.load(double, mask=kind == FLOAT64, other=0.0), lr)
        single = where.to(tl.pointer_type(tl.float32))
        value = tl.load(single, mask=kind == FLOAT32, other=0.0).to(tl.float64)
        lr = tl.where(kind == FLOAT32, value, lr)
        eta = tl.where(lipschitz > 0.0, gap * lr / lipschitz, 0.0)
        step_size = tl.load(place + 2, mask=here, other=0).to(tl.pointer_type(tl.float64))
        if taken:
            tl.store(step_size, eta, mask=here)
        scale = eta if PAPER else tl.full((GROUPS,), 1.0, tl.float64)
        scale = tl.where(norm > 0.0, -scale / norm, 0.0)  # d = 0 where the norm is 0
        reach = tl.full((GROUPS,), 1.0, tl.float64) if PAPER else eta
        tl.store(factors + 1 + 2 * k, scale, mask=here)
        tl.store(factors + 2 + 2 * k, reach, mask=here)
    tl.store(factors, taken.to(tl.float64))

    if taken:
        negative = tl.load(negative_losses) + (f < 0.0).to(tl.int64)
        exceeded = tl.load(exceeded_steps) + (norm > tl.min(smallest, axis=0)).to(tl.int64)
        tl.store(f_min, smallest_loss)
        tl.store(grad_norm, norm)
        tl.store(max_grad_norm, largest_norm)
        tl.store(lipschitz_estimate, estimate)
        tl.store(step, tl.load(step) + 1)
        tl.store(negative_losses, negative)
        tl.store(exceeded_steps, exceeded)
    else:
        tl.store(skipped_steps, tl.load(skipped_steps) + 1)


@triton.jit
def _chunk_update(  # type: ignore[no-untyped-def]
    params,
    grads,
    velocities,
    length,
    momentum,
    decay,
    scale,
    reach,
    DTYPE: tl.constexpr,
    COMPUTE: tl.constexpr,
    BLOCK: tl.constexpr,
    WHOLE: tl.constexpr,
):
    for start in range(0, length, BLOCK):
        offsets = start + tl.arange(0, BLOCK)
        w = _load(params, offsets, length, COMPUTE, WHOLE)
        d = _load(grads, offsets, length, COMPUTE, WHOLE)
        v = _load(velocities, offsets, length, COMPUTE, WHOLE)
        d = tl.where(decay == 0.0, d, d + decay * w)
        v = (momentum * v + scale * d).to(DTYPE)
        w = (w + reach * v.to(COMPUTE)).to(DTYPE)
        if WHOLE:
            tl.store(velocities + offsets, v)
            tl.store(params + offsets, w)
        else:
            tl.store(velocities + offsets, v, mask=offsets < length)
            tl.store(params + offsets, w, mask=offsets < length)


@triton.jit(do_not_specialize=["first"])
def update(  # type: ignore[no-untyped-def]
    table,
    options,
    factors,
    first,
    DTYPE: tl.constexpr,
    COMPUTE: tl.constexpr,
    ALIGNED: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Each chunk: v ← μ v + scale · (g + λw), w ← w + reach · v, unless the step is skipped."""
    if tl.load(factors) != 0.0:
        entry = table + (first + tl.program_id(0)) * ROW
        length = tl.load(entry).to(tl.int32)
        group = tl.load(entry + 1)
        params = _pointer(entry + 2, DTYPE, ALIGNED)
        grads = _pointer(entry + 3, DTYPE, ALIGNED)
        velocities = _pointer(entry + 4, DTYPE, ALIGNED)
        own = options + (1 + group) * OPTIONS
        momentum = tl.load(own + 1).to(COMPUTE)
        decay = tl.load(own + 2).to(COMPUTE)
        scale = tl.load(factors + 1 + 2 * group)
        if COMPUTE == tl.float32:  # noqa: SIM300
            # Over a subnormal norm it would be infinite.
            scale = tl.maximum(scale, -3.4028234663852886e38)
        scale = scale.to(COMPUTE)
        reach = tl.load(factors + 2 + 2 * group).to(COMPUTE)
        if length == CHUNK:
            _chunk_update(
                params,
                grads,
                velocities,
                CHUNK,
                momentum,
                decay,
                scale,
                reach,
                DTYPE,
                COMPUTE,
                BLOCK,
                True,
            )
        else:
            _chunk_update(
                params,
                grads,
                velocities,
                length,
                momentum,
                decay,
                scale,
                reach,
                DTYPE,
                COMPUTE,
                BLOCK,
                False,
            )


def capturing(tensor: Tensor) -> bool:
    """Whether what is launched for ``tensor`` goes into a CUDA graph."""
    return tensor.is_cuda and torch.cuda.is_current_stream_capturing()


class Copied:
    """Numbers that the host has put on the device, and puts there again when they have changed."""

    key: Any = None
    tensor: Tensor

    def on(self, owner: Tensor, key: Any, make: Callable[[], Tensor]) -> Tensor:
        """What ``make`` returns, on the device of ``owner``; made again for another ``key``.

        The copy does not wait. A captured one is made again at every replay: graphs get memory of
        their own on both sides, which lives as long as ``owner``.
        """
        captured = capturing(owner)
        if key == self.key and not captured:
            return self.tensor
        host = make()
        if owner.is_cuda:
            host = host.pin_memory()
        tensor = host.to(owner.device, non_blocking=True)
        if captured:
            CAPTURED.setdefault(owner, []).append((host, tensor))
        else:
            if owner.is_cuda and self.key is not None:  # kernels under way may still read the old
                self.tensor.record_stream(torch.cuda.current_stream(owner.device))
            self.key, self.tensor = key, tensor
        return tensor


class Chunks:
    """How the tensors of a step are cut: all of the table that does not depend on addresses.

    Args:
        params: all parameters.
        groups: the group of each.
        columns: addresses in a row.
    """

    def __init__(self, params: Sequence[Tensor], groups: Sequence[int], columns: int) -> None:
        self.columns = columns
        self.table, self.options, self.addresses = Copied(), Copied(), Copied()
        # One launch for each dtype: its tensors lie together.
        order = sorted(range(len(params)), key=lambda k: str(params[k].dtype))
        sizes = [params[k].numel() for k in order]
        counts = torch.tensor([-(-size // CHUNK) for size in sizes], dtype=torch.int64)
        before = torch.repeat_interleave(counts.cumsum(0) - counts, counts)
        starts = (torch.arange(len(before)) - before) * CHUNK

        def of_chunks(values: list[int]) -> Tensor:
            return torch.repeat_interleave(torch.tensor(values, dtype=torch.int64), counts)

        self.index = of_chunks(order)
        self.bytes = starts * of_chunks([params[k].element_size() for k in order])
        self.fixed = torch.stack(
            ((of_chunks(sizes) - starts).clamp(max=CHUNK), of_chunks([groups[k] for k in order]))
        )
        self.spans: list[tuple[torch.dtype, int, int]] = []  # dtype, first row, rows
        row = 0
        for dtype in dict.fromkeys(params[k].dtype for k in order):
            rows = sum(-(-p.numel() // CHUNK) for p in params if p.dtype == dtype)
            if rows:
                self.spans.append((dtype, row, rows))
            row += rows
        self.count = row

    def rows(self, addresses: list[int]) -> Tensor:
        """The table, (chunks, 2 + columns), on the CPU."""
        columns = torch.tensor(addresses, dtype=torch.int64).view(
            self.columns, -1 if addresses else 0
        )
        return torch.cat((self.fixed, columns[:, self.index] + self.bytes)).t().contiguous()

    def on(
        self, owner: Tensor, tensors: list[Tensor], numbers: list[float], places: list[int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The table, the options and the addresses of the groups, on the device of ``owner``."""
        pointers = list(map(Tensor.data_ptr, tensors))
        self.aligned = all(pointer % 16 == 0 for pointer in pointers)
        return (
            self.table.on(owner, pointers, lambda: self.rows(pointers)),
            self.options.on(owner, numbers, lambda: torch.tensor(numbers, dtype=torch.float64)),
            self.addresses.on(owner, places, lambda: torch.tensor(places, dtype=torch.int64)),
        )

    def launches(self) -> Iterator[tuple[int, int, dict[str, Any]]]:
        """Programs, first row and constants for each dtype."""
        for dtype, start, rows in self.spans:
            constants: dict[str, Any] = {
                "DTYPE": TYPES[dtype],
                "COMPUTE": tl.float64 if dtype == torch.float64 else tl.float32,
                "ALIGNED": self.aligned,
                "CHUNK": CHUNK,
                "BLOCK": BLOCK,
                "num_warps": 8,
                "enable_fp_fusion": True,  # as in the CPU kernel; what Triton does unasked changes
            }
            yield rows, start, constants


def learning_rates(
    groups: Sequence[dict[str, Any]], results: Sequence[Tensor], like: Tensor
) -> tuple[list[float], list[int], list[Tensor]]:
    """The lr of each group where it is a number, else 0; its ADDRESSES, with those of ``results``.

    Returns:
        These two, and what has to stay alive until the kernels are launched.
    """
    numbers: list[float] = []
    places: list[int] = []
    kept: list[Tensor] = []
    for group, result in zip(groups, results, strict=True):
        lr, address, kind = group["lr"], 0, NUMBER
        if isinstance(lr, Tensor) and lr.device != like.device:
            lr = lr.item()  # of the CPU: nothing waits
        elif isinstance(lr, Tensor):
            kept.append(lr if lr.dtype == torch.float32 else lr.to(torch.float64))
            kind = FLOAT32.value if lr.dtype == torch.float32 else FLOAT64.value
            lr, address = 0.0, kept[-1].data_ptr()
        numbers.append(lr)
        places.extend((address, kind, result.data_ptr()))
    return numbers, places, kept


def step(
    groups: Sequence[dict[str, Any]],
    tensors: list[Tensor],
    chunks: Chunks,
    loss: Tensor,
    shared: list[Tensor],
) -> None:
    """The whole step: norm, scalars, velocities and parameters.

    Args:
        groups: the parameter groups; their 0-dim tensors are updated in place.
        tensors: all parameters with a gradient, all gradients, all velocities.
        chunks: of the parameters.
        loss: 0-dim, float64, on their device.
        shared: the global 0-dim tensors, in the order of the kernel's arguments.
    """
    first, f_min = groups[0], shared[0]
    numbers = [first["rho"], MARGIN, MEMORY, 0.0]
    rates, places, _kept = learning_rates(groups, [g["step_size"] for g in groups], loss)
    for group, rate in zip(groups, rates, strict=True):
        lipschitz = 0.0 if group["lipschitz"] == "auto" else group["lipschitz"]
        numbers.extend((lipschitz, group["momentum"], group["weight_decay"], rate))
    with torch.cuda.device_of(loss):
        table, options, addresses = chunks.on(f_min, tensors, numbers, places)
        partial = torch.empty(chunks.count, dtype=torch.float64, device=loss.device)
        factors = torch.empty(1 + 2 * len(groups), dtype=torch.float64, device=loss.device)
        paper = first["variant"] == "paper"
        for rows, start, constants in chunks.launches():
            squares[(rows,)](table, options, partial, start, DECAY=paper, **constants)
        scalars[(1,)](
            *(partial, options, addresses, factors, chunks.count, len(groups), loss, *shared),
            PAPER=paper,
            SUMS=SUMS,
            GROUPS=GROUPS,
            num_warps=1,
            enable_fp_fusion=True,
        )
        for rows, start, constants in chunks.launches():
            update[(rows,)](table, options, factors, start, **constants)
