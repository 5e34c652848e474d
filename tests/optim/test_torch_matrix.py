"""The checks of torch's own optimizer suite (its test/test_optim.py), as far as they apply here.

There every optimizer is run through the same matrix of implementations, inputs and features. Its
infrastructure is not part of the wheel; the checks below keep its names.
"""

import inspect
import math
import pickle
from collections.abc import Callable, Iterable
from copy import deepcopy
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from bpgrad.optim import BPGrad, Eve, MatConvNetAdam
from tests.kernel import needs_kernel

Build = Callable[..., Any]
LOSS_AWARE: dict[str, Build] = {
    "paper": lambda params, **options: BPGrad(params, 100.0, **options),
    "released": lambda params, **options: BPGrad(params, 100.0, variant="released", **options),
    "eve": lambda params, **options: Eve(params, **{"lr": 0.01, **options}),
}
OPTIMIZERS = {**LOSS_AWARE, "adam": lambda p, **o: MatConvNetAdam(p, **{"lr": 0.01, **o})}
IMPLEMENTATIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "forloop": {"foreach": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
}
UNFUSED = [name for name in IMPLEMENTATIONS if name != "fused"]


def cases(optimizers: Iterable[str], implementations: Iterable[str]) -> list[Any]:
    """Their pairs; Eve has no fused implementation, and Adam's is torch's own."""
    return [
        pytest.param(
            pair,
            id="-".join(pair),
            marks=needs_kernel if pair[1] == "fused" and pair[0] != "adam" else (),
        )
        for pair in product(optimizers, implementations)
        if pair != ("eve", "fused")
    ]


@pytest.fixture(params=OPTIMIZERS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=cases(OPTIMIZERS, IMPLEMENTATIONS))
def build(request: pytest.FixtureRequest) -> Build:
    """A constructor in one of its implementations."""
    name, implementation = request.param
    return partial(OPTIMIZERS[name], **IMPLEMENTATIONS[implementation])


def problem(contiguous: bool = True, dtype: torch.dtype = torch.float64) -> tuple[Any, Any]:
    """torch's linear problem: ‖Wx + b‖ of a 10 × 5 matrix, as parameters and a closure's body."""
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(10, 5, generator=generator, dtype=torch.float64).to(dtype)
    bias = torch.randn(10, generator=generator, dtype=torch.float64).to(dtype)
    inputs = torch.randn(5, generator=generator, dtype=torch.float64).to(dtype)
    if not contiguous:
        weight = torch.stack([weight, weight], dim=-1)[..., 0]
        bias = torch.stack([bias, bias], dim=-1)[..., 0]
        assert not weight.is_contiguous()
        assert not bias.is_contiguous()
    params: Any = [torch.nn.Parameter(weight), torch.nn.Parameter(bias)]
    return params, lambda: (params[0].mv(inputs) + params[1]).square().sum()


def take_step(optimizer: Any, objective: Callable[[], Any]) -> float:
    optimizer.zero_grad()
    loss = objective()
    loss.backward()
    step_alone(optimizer, loss.detach())
    return loss.item()


def step_alone(optimizer: Any, loss: Any = 1.0) -> None:
    if isinstance(optimizer, MatConvNetAdam):
        optimizer.step()
    else:
        optimizer.step(loss=loss)


SCHEDULERS: dict[str, Callable[[Any], list[Any]]] = {
    "none": lambda o: [],
    "LambdaLR": lambda o: [lr_scheduler.LambdaLR(o, lambda epoch: 0.95**epoch)],
    "MultiplicativeLR": lambda o: [lr_scheduler.MultiplicativeLR(o, lambda epoch: 0.95)],
    "StepLR": lambda o: [lr_scheduler.StepLR(o, gamma=0.9, step_size=10)],
    "MultiStepLR": lambda o: [lr_scheduler.MultiStepLR(o, milestones=[5, 20], gamma=0.5)],
    "ConstantLR": lambda o: [lr_scheduler.ConstantLR(o, factor=0.4, total_iters=4)],
    "LinearLR": lambda o: [lr_scheduler.LinearLR(o, start_factor=0.4, total_iters=4)],
    "ExponentialLR": lambda o: [lr_scheduler.ExponentialLR(o, gamma=0.99)],
    "PolynomialLR": lambda o: [lr_scheduler.PolynomialLR(o, power=0.9, total_iters=80)],
    "CosineAnnealingLR": lambda o: [lr_scheduler.CosineAnnealingLR(o, T_max=80)],
    "CosineAnnealingWarmRestarts": lambda o: [lr_scheduler.CosineAnnealingWarmRestarts(o, T_0=20)],
    "CyclicLR": lambda o: [
        lr_scheduler.CyclicLR(o, base_lr=0.005, max_lr=0.02, cycle_momentum=False)
    ],
    "OneCycleLR": lambda o: [
        lr_scheduler.OneCycleLR(o, max_lr=0.02, total_steps=200, cycle_momentum=False)
    ],
    "ReduceLROnPlateau": lambda o: [lr_scheduler.ReduceLROnPlateau(o)],
    "SequentialLR": lambda o: [
        lr_scheduler.SequentialLR(
            o,
            [lr_scheduler.ConstantLR(o, 0.5, 5), lr_scheduler.ExponentialLR(o, 0.99)],
            milestones=[5],
        )
    ],
    "ChainedScheduler": lambda o: [
        lr_scheduler.ChainedScheduler(
            [lr_scheduler.LinearLR(o, 0.4, total_iters=4), lr_scheduler.ExponentialLR(o, 0.99)]
        )
    ],
    "several": lambda o: [
        lr_scheduler.StepLR(o, gamma=0.99, step_size=10),
        lr_scheduler.ExponentialLR(o, gamma=0.999),
        lr_scheduler.ReduceLROnPlateau(o),
    ],
}


def test_every_scheduler_of_torch_is_in_the_matrix() -> None:
    public = {
        name
        for name, kind in vars(lr_scheduler).items()
        if inspect.isclass(kind) and issubclass(kind, lr_scheduler.LRScheduler) and name[0] != "_"
    }
    assert public - {"LRScheduler"} == set(SCHEDULERS) - {"none", "several"}


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_goes_right_direction(build: Build, scheduler: str) -> None:
    check_direction(build, scheduler, contiguous=True)


# The fused kernels are not for parameters with gaps: BPGrad's refuses them (test_fused.py), torch's
# write into the gaps (torch 2.15).
@pytest.mark.parametrize("case", cases(OPTIMIZERS, UNFUSED))
@pytest.mark.parametrize("scheduler", ["none", "ExponentialLR"])
def test_strided_goes_right_direction(case: tuple[str, str], scheduler: str) -> None:
    build = partial(OPTIMIZERS[case[0]], **IMPLEMENTATIONS[case[1]])
    check_direction(build, scheduler, contiguous=False)


def check_direction(build: Build, scheduler: str, contiguous: bool) -> None:
    params, objective = problem(contiguous)
    optimizer = build(params)
    schedulers = SCHEDULERS[scheduler](optimizer)
    losses = [take_step(optimizer, objective)]
    for _ in range(60):
        for each in schedulers:
            if isinstance(each, lr_scheduler.ReduceLROnPlateau):
                each.step(losses[-1])
            else:
                each.step()
        losses.append(take_step(optimizer, objective))
    assert losses[-1] < 0.9 * losses[0]


def test_param_groups_with_own_lr_and_weight_decay(build: Build) -> None:
    params, objective = problem()
    before = [p.detach().clone() for p in params]
    groups = [{"params": params[:1]}, {"params": params[1:], "lr": 0.0, "weight_decay": 0.3}]
    optimizer = build(groups)
    for _ in range(3):
        take_step(optimizer, objective)
    assert not torch.equal(params[0], before[0])
    assert torch.equal(params[1], before[1])  # lr = 0: not even weight decay moves it


@pytest.mark.parametrize("lr", [torch.tensor(0.01), torch.tensor(0.01, dtype=torch.float64)])
@pytest.mark.parametrize("case", cases(LOSS_AWARE, IMPLEMENTATIONS))
def test_tensor_lr(case: tuple[str, str], lr: torch.Tensor) -> None:
    # torch's Adam takes a tensor in some implementations only
    build = partial(OPTIMIZERS[case[0]], **IMPLEMENTATIONS[case[1]])
    runs = []
    for value in (lr, lr.item()):
        params, objective = problem()
        optimizer = build(params, lr=value)
        for _ in range(5):
            take_step(optimizer, objective)
        runs.append(params)
    for p, q in zip(*runs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-7, atol=1e-9)
    assert isinstance(optimizer.param_groups[0]["lr"], float)


def test_step_is_noop_when_params_have_no_grad(build: Build) -> None:
    params, _ = problem()
    before = [p.detach().clone() for p in params]
    optimizer = build(params)
    step_alone(optimizer)
    assert all(torch.equal(p, q) for p, q in zip(params, before, strict=True))


def test_step_is_noop_for_zero_grads(build: Build) -> None:
    params, _ = problem()
    before = [p.detach().clone() for p in params]
    optimizer = build(params)
    for _ in range(3):
        for p in params:
            p.grad = torch.zeros_like(p)
        step_alone(optimizer)
    assert all(torch.equal(p, q) for p, q in zip(params, before, strict=True))


def test_state_dict_deterministic(build: Build) -> None:
    """The same steps again, from a copy of the state: bit for bit."""
    params, objective = problem()
    optimizer = build(params)
    for _ in range(5):
        take_step(optimizer, objective)
    copies, same_objective = problem()
    for p, q in zip(copies, params, strict=True):
        p.data.copy_(q.data)
    other = build(copies)
    other.load_state_dict(deepcopy(optimizer.state_dict()))
    for _ in range(50):
        take_step(optimizer, objective)
        take_step(other, same_objective)
        assert all(torch.equal(p, q) for p, q in zip(params, copies, strict=True))
    assert optimizer.state_dict()["state"].keys() == other.state_dict()["state"].keys()


def test_non_empty_state(build: Build) -> None:
    params, objective = problem()
    optimizer = build(params)
    take_step(optimizer, objective)
    assert all(len(optimizer.state[p]) > 0 for p in params)


def test_deepcopy_copies_all_public_attrs(name: str) -> None:
    optimizer = OPTIMIZERS[name](problem()[0])
    public = {key for key in vars(optimizer) if not key.startswith("_")}
    for copy in (deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert public <= set(vars(copy))


def test_optimizer_can_be_printed(name: str) -> None:
    optimizer = OPTIMIZERS[name](problem()[0])
    text = repr(optimizer)
    assert text.startswith(type(optimizer).__name__ + " (")
    assert "weight_decay: 0" in text


def test_step_hooks(name: str) -> None:
    params, objective = problem()
    optimizer = OPTIMIZERS[name](params)
    seen: list[str] = []
    handles = [
        optimizer.register_step_pre_hook(lambda *_: seen.append("before")),
        optimizer.register_step_post_hook(lambda *_: seen.append("after")),
    ]
    take_step(optimizer, objective)
    assert seen == ["before", "after"]
    for handle in handles:
        handle.remove()
    take_step(optimizer, objective)
    assert seen == ["before", "after"]


def test_a_pre_hook_can_change_the_loss() -> None:
    """As documented for torch: a hook may return new positional and keyword arguments."""
    optimizer = BPGrad(problem()[0], 4.0)
    optimizer.register_step_pre_hook(lambda _, args, kwargs: (args, {"loss": 2 * kwargs["loss"]}))
    optimizer.step(loss=3.0)
    assert optimizer.f_min.item() == 6.0


def test_step_all_hooks(name: str) -> None:
    params, objective = problem()
    optimizer = OPTIMIZERS[name](params)
    seen: list[str] = []
    handles = [
        register_optimizer_step_pre_hook(lambda *_: seen.append("global before")),
        optimizer.register_step_pre_hook(lambda *_: seen.append("before")),
        optimizer.register_step_post_hook(lambda *_: seen.append("after")),
        register_optimizer_step_post_hook(lambda *_: seen.append("global after")),
    ]
    take_step(optimizer, objective)
    for handle in handles:
        handle.remove()
    assert seen == ["global before", "before", "after", "global after"]


def test_state_dict_hooks(name: str) -> None:
    params, objective = problem()
    optimizer = OPTIMIZERS[name](params)
    take_step(optimizer, objective)
    seen: list[str] = []
    optimizer.register_state_dict_pre_hook(lambda *_: seen.append("save"))
    optimizer.register_state_dict_post_hook(lambda _, state: {**state, "note": 1})
    optimizer.register_load_state_dict_pre_hook(lambda *_: seen.append("load"))
    optimizer.register_load_state_dict_post_hook(lambda *_: seen.append("loaded"))
    state = optimizer.state_dict()
    assert state["note"] == 1
    optimizer.load_state_dict(state)
    assert seen == ["save", "load", "loaded"]


@pytest.mark.parametrize("set_to_none", [True, False])
def test_zero_grad(name: str, set_to_none: bool) -> None:
    params, objective = problem()
    optimizer = OPTIMIZERS[name](params)
    objective().backward()
    optimizer.zero_grad(set_to_none=set_to_none)
    for p in params:
        assert (p.grad is None) if set_to_none else (p.grad.count_nonzero() == 0)


def test_set_default_dtype_works_with_foreach(build: Build) -> None:
    before = torch.get_default_dtype()
    runs = []
    try:
        for dtype in (torch.float64, torch.float32):
            torch.set_default_dtype(dtype)
            params, objective = problem()
            optimizer = build(params)
            for _ in range(3):
                take_step(optimizer, objective)
            runs.append(params)
    finally:
        torch.set_default_dtype(before)
    for p, q in zip(*runs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-9)


def test_parameters_of_a_subclass_of_tensor(name: str) -> None:
    class Marked(torch.Tensor):
        pass

    runs = []
    for kind in (torch.Tensor, Marked):
        value = problem()[0][0].detach().as_subclass(kind)
        p: Any = torch.nn.Parameter(value)
        optimizer = OPTIMIZERS[name]([p])
        for _ in range(3):
            take_step(optimizer, lambda p=p: p.square().sum())
        runs.append(p.detach().as_subclass(torch.Tensor))
    torch.testing.assert_close(*runs, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("solver", LOSS_AWARE)
def test_grad_scaler_leaves_out_a_step_that_overflows(solver: str) -> None:
    """Nothing moves, nothing is counted: the scaler does not call step at all."""
    params, objective = problem(dtype=torch.float32)
    optimizer = LOSS_AWARE[solver](params)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=100)
    for overflow in (False, True, False):
        optimizer.zero_grad()
        loss = objective()
        scaler.scale(loss).backward()
        if overflow:
            params[0].grad[0, 0] = math.inf
        before = [p.detach().clone() for p in params]
        state = deepcopy(optimizer.state_dict())
        scaler.step(optimizer, loss=loss)
        scaler.update()
        moved = any(not torch.equal(p, q) for p, q in zip(params, before, strict=True))
        assert moved != overflow
        counted = (
            optimizer.state_dict()["param_groups"][0]["step"] != state["param_groups"][0]["step"]
        )
        assert bool(counted) != overflow
    assert scaler.get_scale() == 2.0**9


@pytest.mark.parametrize("solver", LOSS_AWARE)
def test_gradient_accumulation(solver: str) -> None:
    """The sum of the gradients of the parts, and the sum of their losses: the whole's step."""
    runs = []
    for parts in (1, 4):
        params, objective = problem()
        optimizer = LOSS_AWARE[solver](params)
        for _ in range(5):
            optimizer.zero_grad()
            total = torch.zeros((), dtype=torch.float64)
            for _ in range(parts):
                loss = objective() / parts
                loss.backward()
                total += loss.detach()
            optimizer.step(loss=total)
        runs.append(params)
    for p, q in zip(*runs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", LOSS_AWARE)
def test_complex_parameters_are_refused(name: str) -> None:
    number = torch.nn.Parameter(torch.zeros(3, dtype=torch.complex64))
    with pytest.raises(ValueError, match="does not support complex parameters"):
        OPTIMIZERS[name]([number])


# --- torch's own matrix of dtypes and shapes ------------------------------------------------------

DTYPES = {
    torch.float16: 2e-2,  # a few units of the last place of weights of size 1 to 4, over 4 steps
    torch.bfloat16: 1e-1,
    torch.float32: 1e-5,
    torch.float64: 1e-12,
}
TENSORS: dict[str, Callable[[], torch.Tensor]] = {
    "0-dim": lambda: torch.tensor(2.0),
    "no elements": lambda: torch.zeros(0, 3),
    "1 element": lambda: torch.ones(1, 1),
    "contiguous": lambda: torch.linspace(-2, 2, 24).view(4, 6),
    "transposed": lambda: torch.linspace(-2, 2, 24).view(4, 6).t(),
    "gaps": lambda: torch.linspace(-2, 2, 24).view(4, 6)[:, ::2],
    "odd strides": lambda: torch.linspace(-2, 2, 60).as_strided((3, 4), (7, 2)),
    "channels_last": lambda: (
        torch.linspace(-2, 2, 48).view(2, 3, 2, 4).to(memory_format=torch.channels_last)
    ),
}


@pytest.mark.parametrize("case", cases(OPTIMIZERS, IMPLEMENTATIONS))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", TENSORS)
def test_every_dtype_and_shape(case: tuple[str, str], dtype: torch.dtype, shape: str) -> None:
    """Each implementation alone, and beside a float32 tensor, against the loop in float64."""
    name, implementation = case
    strided = shape in ("gaps", "odd strides")
    if implementation == "fused" and (strided or (name != "adam" and dtype == torch.float16)):
        pytest.skip("the fused kernels are not for these")
    runs = []
    for options, kind in (
        (IMPLEMENTATIONS[implementation], dtype),
        (IMPLEMENTATIONS["forloop"], torch.float64),
    ):
        value = TENSORS[shape]()
        # Values that bfloat16 holds, in memory laid out like the tensor's.
        memory = torch.empty_strided(value.shape, value.stride(), dtype=kind)
        params: Any = [torch.nn.Parameter(memory.copy_(value.bfloat16()))]
        params.append(
            torch.nn.Parameter(torch.ones(3, dtype=torch.promote_types(kind, torch.float32)))
        )
        optimizer = OPTIMIZERS[name](params, weight_decay=0.125, **options)
        for t in range(4):
            for p in params:
                p.grad = torch.empty_strided(p.shape, p.stride(), dtype=p.dtype).fill_(1.5 - t)
            step_alone(optimizer, 40.0)
        assert all(p.dtype == m.dtype for p in params for m in moments(optimizer, p))
        assert params[0].stride() == value.stride()
        runs.append([p.detach().double() for p in params])
    for p, q in zip(*runs, strict=True):
        torch.testing.assert_close(p, q, rtol=DTYPES[dtype], atol=DTYPES[dtype])


def moments(optimizer: Any, p: Any) -> list[torch.Tensor]:
    return [v for key, v in optimizer.state[p].items() if key != "step"]
