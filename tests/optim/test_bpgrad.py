import ast
import inspect
import math
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed import fsdp
from torch.utils._python_dispatch import TorchDispatchMode

import bpgrad.optim
from bpgrad.optim import BPGrad
from bpgrad.optim._loss_aware import COMPILES
from tests.forked import Fork
from tests.kernel import BUILT, needs_kernel

Options = dict[str, Any]
Params = list[Any]  # torch.nn.Parameter: mypy cannot know that their gradients are set
Shapes = Sequence[tuple[int, ...]]
Transfer = Callable[[Params, Any, Callable[[Params], Any]], tuple[Params, Any]]

VARIANTS = ["paper", "released"]
MODES: dict[str, Options] = {
    "default": {},
    "foreach": {"foreach": True},
    "loop": {"foreach": False},
    "fused": {"fused": True},
}
AVAILABLE = [name for name in MODES if name != "fused" or BUILT]
NAN, INF = math.nan, math.inf


@pytest.fixture(
    params=[
        pytest.param(options, id=name, marks=needs_kernel if name == "fused" else ())
        for name, options in MODES.items()
    ]
)
def mode(request: pytest.FixtureRequest) -> Options:
    return request.param


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> str:
    return request.param


def new_params(
    shapes: Shapes = ((3, 4), (4,), (2, 3, 2, 2)), seed: int = 0, dtype: torch.dtype = torch.float64
) -> Params:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype)) for shape in shapes
    ]


def set_grads(params: Params, seed: int, scale: float = 1.0) -> None:
    generator = torch.Generator().manual_seed(1000 + seed)
    for p in params:
        p.grad = scale * torch.randn(p.shape, generator=generator, dtype=p.dtype)


def values(params: Params) -> list[torch.Tensor]:
    return [p.detach().clone() for p in params]


def bits(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    return [t.detach().contiguous().view(torch.uint8).clone() for t in tensors]


def same(first: Sequence[torch.Tensor], second: Sequence[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def displacement(before: Sequence[torch.Tensor], after: Sequence[torch.Tensor]) -> float:
    squares = [((a - b).double() ** 2).sum() for a, b in zip(before, after, strict=True)]
    return math.sqrt(sum(squares))


def velocities(optimizer: Any) -> list[torch.Tensor]:
    return [state["momentum_buffer"] for state in optimizer.state.values()]


# --- formulas -----------------------------------------------------------------------------------


def transcription(
    groups: list[Any], gradients: list[Any], losses: list[float], rho: float, variant: str
) -> Any:
    """Eq. 12 and Alg. 2, or the released code, in plain Python.

    groups: dicts of weights (a list of floats), lr, decay, momentum, lipschitz.
    gradients: for each step, for each group, a list of floats.
    """
    weights = [list(group["weights"]) for group in groups]
    velocity = [[0.0] * len(w) for w in weights]
    f_min = INF
    for f, gs in zip(losses, gradients, strict=True):
        f_min = min(f_min, f)
        decayed = [
            [gi + group["decay"] * wi for gi, wi in zip(g, w, strict=True)]
            for group, g, w in zip(groups, gs, weights, strict=True)
        ]
        normed = decayed if variant == "paper" else gs
        norm = math.sqrt(math.fsum(x * x for g in normed for x in g))
        for group, d, v, w in zip(groups, decayed, velocity, weights, strict=True):
            eta = group["lr"] * (f - rho * f_min) / group["lipschitz"]
            for i in range(len(w)):
                if variant == "paper":
                    v[i] = group["momentum"] * v[i] - eta * d[i] / norm
                    w[i] += v[i]
                else:
                    v[i] = group["momentum"] * v[i] - d[i] / norm
                    w[i] += eta * v[i]
    return weights, f_min, norm, eta


@pytest.mark.parametrize("rho", [0.0, 0.1, 0.9])
def test_two_groups_follow_the_formulas(variant: str, mode: Options, rho: float) -> None:
    options: list[Options] = [
        {"lr": 1.0, "decay": 5e-4, "momentum": 0.9, "lipschitz": 50.0},
        {"lr": 0.25, "decay": 0.0, "momentum": 0.0, "lipschitz": 7.0},
    ]
    params = new_params(((2, 3), (5,)))
    groups = [
        {**o, "weights": p.detach().flatten().tolist()}
        for o, p in zip(options, params, strict=True)
    ]
    optimizer = BPGrad(
        [
            {"params": [params[0]], "weight_decay": 5e-4},
            {"params": [params[1]], "lr": 0.25, "momentum": 0.0, "lipschitz": 7.0},
        ],
        50.0,
        rho=rho,
        variant=variant,
        **mode,
    )
    losses = [2.3, 2.9, 1.1, 0.4, 1.7, 0.05]
    gradients = []
    for t, f in enumerate(losses):
        set_grads(params, t)
        gradients.append([p.grad.flatten().tolist() for p in params])
        optimizer.step(loss=torch.tensor(f, dtype=torch.float64))
    weights, f_min, norm, eta = transcription(groups, gradients, losses, rho, variant)
    for p, w in zip(params, weights, strict=True):
        torch.testing.assert_close(
            p.detach().flatten(), torch.tensor(w, dtype=p.dtype), rtol=1e-13, atol=1e-15
        )
    assert optimizer.f_min.item() == f_min
    assert optimizer.grad_norm.item() == pytest.approx(norm, rel=1e-14)
    assert optimizer.param_groups[1]["step_size"].item() == pytest.approx(eta, rel=1e-14)
    assert optimizer.param_groups[0]["step"].item() == len(losses)


def test_first_step_by_hand() -> None:
    p = torch.nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))
    p.grad = torch.tensor([3.0, 4.0], dtype=torch.float64)
    optimizer = BPGrad([p], 10.0)
    optimizer.step(loss=torch.tensor(2.0))
    # η = 2 (1 - 0.1) / 10 = 0.18 along (0.6, 0.8)
    torch.testing.assert_close(p.detach(), torch.tensor([0.892, 1.856], dtype=torch.float64))
    assert optimizer.step_size.item() == pytest.approx(0.18)
    assert optimizer.grad_norm.item() == 5.0


def test_released_is_sgd_on_normalised_gradients_with_learning_rate_eta(mode: Options) -> None:
    decay = 5e-4
    params, twins = new_params(), new_params()
    optimizer = BPGrad(params, 50.0, weight_decay=decay, variant="released", **mode)
    sgd = torch.optim.SGD(twins, lr=1.0, momentum=0.9)
    f_min = INF
    for t in range(20):
        set_grads(params, t)
        f = 2.3 / (1 + 0.1 * t) + 0.3 * math.sin(t)
        f_min = min(f_min, f)
        norm = torch.cat([p.grad.flatten() for p in params]).norm()
        for p, q in zip(params, twins, strict=True):
            q.grad = (p.grad + decay * q.detach()) / norm
        sgd.param_groups[0]["lr"] = (f - 0.1 * f_min) / 50.0
        sgd.step()
        optimizer.step(loss=torch.tensor(f, dtype=torch.float64))
    for p, q in zip(params, twins, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("decay", [0.0, 5e-4])
@pytest.mark.parametrize("other", ["default", "foreach", pytest.param("fused", marks=needs_kernel)])
def test_modes_agree_with_the_loop(variant: str, other: str, decay: float) -> None:
    runs = []
    for mode in ("loop", other):
        params = new_params(((3, 4), (4,), (4, 3, 2, 2), (5,)))
        params[2].data = params[2].data.to(memory_format=torch.channels_last)
        optimizer = BPGrad(params, 5.0, weight_decay=decay, variant=variant, **MODES[mode])
        for t in range(50):
            set_grads(params, t)
            params[2].grad = params[2].grad.to(memory_format=torch.channels_last)
            params[3].grad = None if t < 10 else params[3].grad
            if t == 20:
                params[0].grad[0, 0] = NAN
            optimizer.step(loss=torch.tensor(2.0 + math.cos(t), dtype=torch.float64))
        runs.append(params)
    for p, q in zip(*runs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-14, atol=1e-15)
        assert p.stride() == q.stride()


def test_gradients_laid_out_unlike_their_parameters(variant: str) -> None:
    runs = []
    for layout in (torch.contiguous_format, torch.channels_last):
        params = new_params(((4, 3, 2, 2),))
        params[0].data = params[0].data.to(memory_format=layout)
        optimizer = BPGrad(params, 5.0, variant=variant)
        for t in range(5):
            set_grads(params, t)
            optimizer.step(loss=1.0)
        runs.append(params[0].detach())
    torch.testing.assert_close(*runs, rtol=1e-14, atol=1e-15)


def test_group_of_two_dtypes(variant: str, mode: Options) -> None:
    params = [*new_params(((3,),)), *new_params(((3,),), dtype=torch.float32)]
    wide = new_params(((3,), (3,)))
    wide[1].data = params[1].detach().double()
    optimizers = [
        BPGrad(ps, 5.0, weight_decay=0.1, variant=variant, **mode) for ps in (params, wide)
    ]
    for t in range(5):
        set_grads(params, t)
        for p, q in zip(params, wide, strict=True):
            q.grad = p.grad.double()
        for optimizer in optimizers:
            optimizer.step(loss=1.0)
    torch.testing.assert_close(params[0], wide[0], rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(params[1].double(), wide[1], rtol=1e-5, atol=1e-6)


def test_gradients_are_not_written_to(variant: str, mode: Options) -> None:
    for decay in (0.0, 0.1):
        params = new_params()
        optimizer = BPGrad(params, 5.0, weight_decay=decay, variant=variant, **mode)
        set_grads(params, 0)
        before = [p.grad.clone() for p in params]
        optimizer.step(loss=1.0)
        assert same(before, [p.grad for p in params])


# --- properties ---------------------------------------------------------------------------------

losses = st.floats(min_value=0.0, max_value=1e6)
few = settings(max_examples=40, deadline=None)


@few
@given(
    st.lists(losses, min_size=1, max_size=8),
    st.floats(min_value=0.0, max_value=0.99),
    st.floats(min_value=1e-3, max_value=1e4),
)
def test_step_size_lies_between_its_bounds(fs: list[float], rho: float, lipschitz: float) -> None:
    params = new_params(((3,),))
    optimizer = BPGrad(params, lipschitz, rho=rho)
    seen = INF
    for t, f in enumerate(fs):
        set_grads(params, t)
        optimizer.step(loss=torch.tensor(f, dtype=torch.float64))
        eta = optimizer.step_size.item()
        assert (1 - rho) * f / lipschitz * (1 - 1e-12) <= eta <= f / lipschitz * (1 + 1e-12)
        assert optimizer.f_min.item() <= seen
        seen = optimizer.f_min.item()
    assert seen == min(fs)


@few
@given(losses, st.integers(0, 100), st.sampled_from(VARIANTS), st.sampled_from(AVAILABLE))
def test_displacement_is_the_step_size(f: float, seed: int, variant: str, mode: str) -> None:
    params = new_params(seed=seed)
    optimizer = BPGrad(params, 3.0, momentum=0.0, variant=variant, **MODES[mode])
    for t in range(3):
        before = values(params)
        set_grads(params, t + seed)
        optimizer.step(loss=torch.tensor(f, dtype=torch.float64))
        moved = displacement(before, values(params))
        assert moved == pytest.approx(optimizer.step_size.item(), rel=1e-9, abs=1e-14)


@few
@given(st.floats(min_value=1e-100, max_value=1e100), st.sampled_from(VARIANTS))
def test_scale_of_the_gradient_does_not_matter(scale: float, variant: str) -> None:
    runs = []
    for factor in (1.0, scale):
        params = new_params()
        optimizer = BPGrad(params, 3.0, variant=variant)
        for t in range(3):
            set_grads(params, t, factor)
            optimizer.step(loss=1.0)
        runs.append(params)
    for p, q in zip(*runs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("scale", [1e-36, 1e-25, 1e25, 1e36])
def test_extreme_float32_gradients(scale: float, variant: str, mode: Options) -> None:
    params = new_params(dtype=torch.float32)
    before = values(params)
    set_grads(params, 0, scale)
    optimizer = BPGrad(params, 3.0, momentum=0.0, variant=variant, **mode)
    optimizer.step(loss=1.0)
    assert displacement(before, values(params)) == pytest.approx(0.3, rel=1e-5)


def test_subnormal_float32_gradients_stay_finite(variant: str, mode: Options) -> None:
    params = new_params(dtype=torch.float32)
    set_grads(params, 0)
    for p in params:
        p.grad.fill_(1e-45)
    BPGrad(params, 0.1, variant=variant, **mode).step(loss=1.0)
    assert all(p.isfinite().all() for p in params)


@few
@given(
    st.integers(0, 10_000),
    st.floats(0.0, 0.999),
    st.floats(1.0, 3.0),
    st.sampled_from(AVAILABLE),
)
def test_convex_losses_never_lead_away_from_the_minimiser(
    seed: int, rho: float, slack: float, mode: str
) -> None:
    """f = max_k a_k (x − x*), at least 0 and 0 at x*, with L ≥ max ‖a_k‖; μ = λ = 0, any ρ."""
    generator = torch.Generator().manual_seed(seed)
    slopes = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    slopes = torch.cat([slopes, -slopes.mean(0, keepdim=True)])  # 0 in their hull: f ≥ 0
    minimiser = torch.randn(3, generator=generator, dtype=torch.float64)
    p: Any = torch.nn.Parameter(torch.randn(3, generator=generator, dtype=torch.float64) * 3)
    # A sum of 3 squares rounds 5 times at most, by half an eps each, in whatever order the step
    # takes it and in this one: L is the largest norm as seen by either.
    rounding = 1 + 5 * torch.finfo(torch.float64).eps
    lipschitz = slack * rounding * slopes.norm(dim=1).max().item()
    optimizer = BPGrad([p], lipschitz, rho=rho, momentum=0.0, **MODES[mode])
    distance = (p.detach() - minimiser).norm().item()
    for _ in range(30):
        optimizer.zero_grad()
        loss = (slopes @ (p - minimiser)).max()
        loss.backward()
        optimizer.step(loss=loss)
        moved = (p.detach() - minimiser).norm().item()
        assert moved <= distance * (1 + 1e-12)
        distance = moved
    assert optimizer.exceeded_steps.item() == 0


@few
@given(st.lists(st.floats(-5, 5), min_size=2, max_size=5), st.floats(0.5, 4.0))
def test_steps_on_a_cone_approach_its_minimum(start: list[float], slope: float) -> None:
    # f = slope ‖x‖ with f* = 0: a Polyak step, shortened by slope / L, never moves away.
    p = torch.nn.Parameter(torch.tensor(start, dtype=torch.float64))
    optimizer = BPGrad([p], 4.0, rho=0.0, momentum=0.0)
    distance = p.detach().norm().item()
    for _ in range(5):
        optimizer.zero_grad()
        loss = slope * p.norm()
        loss.backward()
        optimizer.step(loss=loss)
        assert p.detach().norm().item() <= distance * (1 + 1e-12) + 1e-12
        distance = p.detach().norm().item()


# --- zero gradients -----------------------------------------------------------------------------


@pytest.mark.parametrize("decay", [0.0, 0.125])  # a power of two: −λw cancels exactly
def test_zero_gradient_leaves_the_remaining_velocity(
    variant: str, mode: Options, decay: float
) -> None:
    params = new_params()
    optimizer = BPGrad(params, 4.0, momentum=0.5, weight_decay=decay, variant=variant, **mode)
    set_grads(params, 0)
    optimizer.step(loss=2.0)
    before, velocity = values(params), values(velocities(optimizer))
    for p in params:  # paper: ‖g + λw‖ = 0; released: ‖g‖ = 0 while λw is not
        p.grad = -decay * p.detach() if variant == "paper" else torch.zeros_like(p)
    optimizer.step(loss=2.0)
    assert optimizer.grad_norm.item() == 0.0
    eta = optimizer.step_size.item()
    assert eta == pytest.approx(0.45)
    reach = 1.0 if variant == "paper" else eta
    for p, v, w, u in zip(params, velocities(optimizer), before, velocity, strict=True):
        torch.testing.assert_close(v, 0.5 * u)
        torch.testing.assert_close(p.detach(), w + reach * 0.5 * u)


def test_first_gradient_zero_does_not_move(variant: str, mode: Options) -> None:
    params = new_params()
    before = values(params)
    for p in params:
        p.grad = torch.zeros_like(p)
    optimizer = BPGrad(params, 4.0, weight_decay=0.0, variant=variant, **mode)
    optimizer.step(loss=2.0)
    optimizer.step(loss=0.0)
    assert same(before, values(params))
    assert optimizer.param_groups[0]["step"].item() == 2


@pytest.mark.parametrize("mode", [MODES["foreach"], MODES["loop"]], ids=["foreach", "loop"])
def test_random_direction_has_the_length_of_a_step(variant: str, mode: Options) -> None:
    params = new_params(dtype=torch.float32)
    optimizer = BPGrad(
        params, 4.0, momentum=0.0, variant=variant, on_zero_gradient="random", **mode
    )
    moves = []
    for _ in range(2):
        before = values(params)
        for p in params:
            p.grad = torch.zeros_like(p)
        optimizer.step(loss=2.0)
        assert displacement(before, values(params)) == pytest.approx(0.45, rel=1e-5)
        moves.append(torch.cat([(p - q).flatten() for p, q in zip(params, before, strict=True)]))
    cosine = torch.cosine_similarity(moves[0], moves[1], dim=0)
    assert abs(cosine.item()) < 0.9  # a new draw each time


def test_random_direction_is_only_for_zero_gradients(variant: str) -> None:
    runs = []
    for choice in ("skip", "random"):
        params = new_params()
        optimizer = BPGrad(params, 4.0, variant=variant, on_zero_gradient=choice, foreach=True)
        for t in range(3):
            set_grads(params, t)
            optimizer.step(loss=2.0)
        runs.append(values(params))
    assert same(*runs)


def random_walk(seed: int) -> torch.Tensor:
    torch.manual_seed(seed)
    params = new_params(((50,),))
    optimizer = BPGrad(params, 4.0, on_zero_gradient="random")
    before = torch.get_rng_state()
    for _ in range(3):
        params[0].grad = torch.zeros_like(params[0])
        optimizer.step(loss=2.0)
    assert torch.equal(before, torch.get_rng_state())
    return params[0].detach()


def test_random_direction_is_seeded_and_leaves_the_generators_alone() -> None:
    assert torch.equal(random_walk(1), random_walk(1))
    assert not torch.equal(random_walk(1), random_walk(2))


def test_random_direction_is_gaussian() -> None:
    params = [torch.nn.Parameter(torch.zeros(20_000)), torch.nn.Parameter(torch.zeros(20_000))]
    for p in params:
        p.grad = torch.zeros_like(p)
    BPGrad(params, 1.0, rho=0.0, on_zero_gradient="random").step(loss=1.0)
    x, y = (p.detach() * math.sqrt(40_000) for p in params)  # unit direction: entries of std 1
    for z in (x, y):
        assert abs(z.mean().item()) < 0.03
        assert z.std().item() == pytest.approx(1.0, abs=0.02)
        assert (z**4).mean().item() == pytest.approx(3.0, abs=0.2)
    for other in (y, x.roll(1)):
        assert abs((x * other).mean().item()) < 0.03


# --- steps that are not finite, negative losses -------------------------------------------------

BAD = {
    "nan loss": (NAN, None),
    "inf loss": (INF, None),
    "-inf loss": (-INF, None),
    "nan gradient": (0.01, NAN),
    "inf gradient": (0.01, INF),
    "-inf gradient": (0.01, -INF),
}


@pytest.mark.parametrize(("loss", "entry"), BAD.values(), ids=BAD.keys())
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_a_step_that_is_not_finite_changes_only_its_counter(
    variant: str, mode: Options, decay: float, loss: Any, entry: float | None
) -> None:
    params = new_params(dtype=torch.float32)
    params[0].data[0, 0], params[0].data[0, 1] = -0.0, 0.0
    optimizer = BPGrad(params, 4.0, weight_decay=decay, variant=variant, **mode)

    def bad_step() -> None:
        set_grads(params, 5)
        if entry is not None:
            params[1].grad[2] = entry
        optimizer.step(loss=torch.tensor(loss))

    bad_step()  # the very first one, before there is an f_min
    assert optimizer.f_min.item() == INF
    assert not any(v.any() for v in velocities(optimizer))
    set_grads(params, 0)
    optimizer.step(loss=1.0)
    params[0].data[0, 0] = -0.0
    before = bits([*params, *velocities(optimizer)])
    scalars = deepcopy(optimizer.state_dict()["param_groups"])
    bad_step()
    assert same(before, bits([*params, *velocities(optimizer)]))
    assert scalars[0].pop("skipped_steps").item() == 1
    after = optimizer.state_dict()["param_groups"]
    assert after[0].pop("skipped_steps").item() == 2
    assert scalars == after
    assert optimizer.skipped_steps.item() == 2


def test_one_bad_group_skips_all() -> None:
    params = new_params()
    optimizer = BPGrad([{"params": [p]} for p in params], 4.0)
    before = values(params)
    set_grads(params, 0)
    params[2].grad.fill_(NAN)
    optimizer.step(loss=1.0)
    assert same(before, values(params))


def test_negative_loss(variant: str) -> None:
    params = new_params()
    optimizer = BPGrad(params, 4.0, momentum=0.0, variant=variant)
    before = values(params)
    set_grads(params, 0)
    optimizer.step(loss=-2.0)
    assert same(before, values(params))
    assert optimizer.step_size.item() == 0.0
    assert optimizer.f_min.item() == -2.0
    assert optimizer.negative_losses.item() == 1
    optimizer.step(loss=1.0)
    assert optimizer.step_size.item() == pytest.approx((1.0 + 0.1 * 2.0) / 4.0)
    optimizer.step(loss=-INF)  # skipped, hence no negative loss
    optimizer.step(loss=0.0)
    assert optimizer.negative_losses.item() == 1
    assert optimizer.skipped_steps.item() == 1


# --- state --------------------------------------------------------------------------------------


def rough_step(params: Params, optimizer: Any, t: int) -> None:
    """Ordinary steps with a zero gradient, a NaN and a negative loss in between."""
    set_grads(params, t, 0.0 if t % 7 == 3 else 1.0)
    f = NAN if t % 11 == 5 else 1.0 + math.cos(1.3 * t) * 1.1
    optimizer.step(loss=torch.tensor(f, dtype=torch.float64))


@pytest.mark.parametrize("zero", ["skip", "random"])
def test_continues_identically(transfer: Transfer, variant: str, zero: str) -> None:
    def rebuild(params: Params) -> Any:
        groups = [{"params": params[:1], "lipschitz": 9.0}, {"params": params[1:], "momentum": 0.5}]
        return BPGrad(
            groups, 4.0, rho=0.3, weight_decay=1e-3, variant=variant, on_zero_gradient=zero
        )

    params = new_params()
    optimizer = rebuild(params)
    for t in range(9):
        rough_step(params, optimizer, t)
    torch.manual_seed(99)  # the seed of the random direction comes from the state
    copies, other = transfer(params, optimizer, rebuild)
    for t in range(9, 59):
        rough_step(params, optimizer, t)
    for t in range(9, 59):
        rough_step(copies, other, t)
    assert same(bits([*params, *velocities(optimizer)]), bits([*copies, *velocities(other)]))
    for name in ("f_min", "grad_norm", "step", "skipped_steps", "negative_losses", "step_size"):
        mine, others = optimizer.param_groups[0][name], other.param_groups[0][name]
        assert torch.equal(mine, others)
        assert mine.dtype == others.dtype
        assert mine.data_ptr() != others.data_ptr()
    assert other.param_groups[1]["step_size"] == optimizer.param_groups[1]["step_size"]


def test_every_scalar_is_a_tensor_in_the_state() -> None:
    params = new_params()
    optimizer = BPGrad([{"params": [p]} for p in params], 4.0, on_zero_gradient="random")
    set_grads(params, 0)
    optimizer.step(loss=1.0)
    groups = optimizer.state_dict()["param_groups"]
    for name in ("f_min", "grad_norm", "step", "skipped_steps", "negative_losses", "seed"):
        assert groups[0][name].shape == ()
        assert name not in groups[1]
    assert all(group["step_size"].shape == () for group in groups)


def test_added_group_shares_the_global_scalars() -> None:
    params = new_params()
    optimizer = BPGrad(params[:2], 4.0, momentum=0.0)
    set_grads(params[:2], 0)
    optimizer.step(loss=0.5)
    optimizer.add_param_group({"params": params[2:], "lr": 2.0})
    before = values(params)
    set_grads(params, 1)
    optimizer.step(loss=1.0)
    eta = (1.0 - 0.1 * 0.5) / 4.0
    assert optimizer.step_size.item() == pytest.approx(eta)
    assert optimizer.param_groups[1]["step_size"].item() == pytest.approx(2 * eta)
    norm = torch.cat([p.grad.flatten() for p in params]).norm()
    torch.testing.assert_close(params[2].detach(), before[2] - 2 * eta * params[2].grad / norm)


def test_state_moves_to_the_device_of_the_parameters() -> None:
    params = new_params()
    optimizer = BPGrad(params, 4.0)
    set_grads(params, 0)
    optimizer.step(loss=1.0)
    moved = [torch.nn.Parameter(p.detach().to("meta")) for p in params]
    other = BPGrad(moved, 4.0)
    other.load_state_dict(optimizer.state_dict())
    for p in moved:
        p.grad = torch.zeros_like(p)
    other.step(loss=torch.zeros((), device="meta"))
    scalars = [v for v in other.param_groups[0].values() if isinstance(v, torch.Tensor)]
    assert len(scalars) == 9
    assert all(s.device.type == "meta" for s in [*scalars, *velocities(other)])


def test_properties_are_copies() -> None:
    params = new_params()
    optimizer = BPGrad(params, 4.0)
    assert optimizer.f_min.item() == INF
    set_grads(params, 0)
    loss = (params[0] ** 2).sum()
    optimizer.step(loss=loss)
    for name in ("step_size", "f_min", "grad_norm", "skipped_steps", "negative_losses"):
        kept = getattr(optimizer, name).clone()
        handed_out = getattr(optimizer, name)
        assert not handed_out.requires_grad
        handed_out.fill_(77)
        assert torch.equal(getattr(optimizer, name), kept)


# --- how step is called -------------------------------------------------------------------------


def test_closure_and_loss_are_the_same(variant: str) -> None:
    runs = []
    for with_closure in (True, False):
        params = new_params()
        optimizer = BPGrad(params, 4.0, variant=variant)

        def closure(params: Params = params, optimizer: Any = optimizer) -> Any:
            optimizer.zero_grad()
            loss = torch.stack([(p**2).sum() for p in params]).sum()
            loss.backward()
            return loss

        for _ in range(3):
            given = optimizer.step(closure) if with_closure else optimizer.step(loss=closure())
            assert isinstance(given, torch.Tensor)
        runs.append(values(params))
    assert same(*runs)


def test_loss_is_a_named_keyword() -> None:
    parameter = inspect.signature(BPGrad(new_params(), 4.0).step).parameters["loss"]
    assert parameter.kind is inspect.Parameter.KEYWORD_ONLY


@pytest.mark.parametrize("zero", ["skip", "random"])
def test_nothing_is_read_by_the_host(
    no_host_read: TorchDispatchMode, variant: str, mode: Options, zero: str
) -> None:
    if mode.get("fused") and zero == "random":
        mode = {}
    params = new_params(dtype=torch.float32)
    optimizer = BPGrad(
        params, 4.0, weight_decay=0.1, variant=variant, on_zero_gradient=zero, **mode
    )
    for t, f in enumerate([1.0, NAN, -1.0, 0.5]):
        set_grads(params, t, 0.0 if t == 3 else 1.0)
        with no_host_read:
            optimizer.step(loss=torch.tensor(f))
            optimizer.step(loss=1.0)
            _ = optimizer.step_size, optimizer.f_min, optimizer.grad_norm
    with no_host_read, pytest.raises(AssertionError, match="host"):
        optimizer.f_min.item()


def test_parameters_without_gradient_are_left_alone(variant: str, mode: Options) -> None:
    params = new_params()
    optimizer = BPGrad(params, 4.0, weight_decay=0.1, variant=variant, **mode)
    before = values(params)
    optimizer.step(loss=2.0)  # none has one
    assert same(before, values(params))
    set_grads(params[1:], 0)
    optimizer.step(loss=1.0)
    assert torch.equal(params[0], before[0])
    assert params[0] not in optimizer.state
    assert not torch.equal(params[1], before[1])


def test_lr_schedulers_and_tensor_lr() -> None:
    runs = []
    for lr in (1.0, torch.tensor(1.0, dtype=torch.float64)):
        params = new_params()
        optimizer = BPGrad(params, 4.0, lr=lr)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)
        sizes = []
        for t in range(4):
            set_grads(params, t)
            optimizer.step(loss=1.0)
            scheduler.step()
            sizes.append(optimizer.step_size.item())
        assert sizes == pytest.approx([0.225, 0.225, 0.1125, 0.1125])
        runs.append(values(params))
    assert same(*runs)


def test_one_cycle_schedules_the_momentum() -> None:
    optimizer = BPGrad(new_params(), 4.0)
    torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=10)
    assert optimizer.param_groups[0]["momentum"] == 0.95


def test_grad_scaler_passes_the_unscaled_loss() -> None:
    params, twins = new_params(dtype=torch.float32), new_params(dtype=torch.float32)
    optimizer, plain = BPGrad(params, 4.0), BPGrad(twins, 4.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for _ in range(3):
        for ps, opt in ((params, optimizer), (twins, plain)):
            opt.zero_grad()
            loss = torch.stack([(p**2).sum() for p in ps]).sum()
            if opt is plain:
                loss.backward()
                opt.step(loss=loss)
            else:
                scaler.scale(loss).backward()
                scaler.step(opt, loss=loss)
                scaler.update()
    assert same(values(params), values(twins))


def test_bfloat16_parameters(mode: Options) -> None:
    p: Any = torch.nn.Parameter(torch.zeros(10_000, dtype=torch.bfloat16))
    set_grads([p], 0)
    # A factor η / ‖g‖ half-way between two bfloat16 numbers: rounding it would show.
    eta = 351 / 256 * p.grad.double().norm().item()
    optimizer = BPGrad([p], 1.0, rho=0.0, **mode)
    optimizer.step(loss=eta)
    assert p.detach().double().norm().item() == pytest.approx(eta, rel=1e-3)


@pytest.mark.skipif(not COMPILES, reason="this torch compiles the step wrongly; refused")
@pytest.mark.parametrize(("variant", "lr"), [("paper", 1.0), ("released", torch.tensor(1.0))])
def test_compiles_without_graph_breaks(variant: str, lr: Any) -> None:
    torch.compiler.reset()
    params, twins = new_params(), new_params()
    options = {"lr": lr, "weight_decay": 0.1, "variant": variant}
    optimizer, eager = BPGrad(params, 4.0, **options), BPGrad(twins, 4.0, **options)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def step(loss: Any) -> None:
        optimizer.step(loss=loss)

    for t, f in enumerate([2.0, NAN, 1.0]):
        set_grads(params, t)
        set_grads(twins, t)
        step(torch.tensor(f))
        eager.step(loss=torch.tensor(f))
    for p, q in zip(params, twins, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-13, atol=1e-14)
    assert optimizer.skipped_steps.item() == 1


def test_norm_of_many_float32_elements(mode: Options) -> None:
    p = torch.nn.Parameter(torch.zeros(20_000_000))
    p.grad = torch.full_like(p, 0.1)
    optimizer = BPGrad([p], 1.0, **mode)
    optimizer.step(loss=1.0)
    exact = p.grad[0].item() * math.sqrt(p.numel())
    assert optimizer.grad_norm.item() == pytest.approx(exact, rel=1e-7)


def follow_one_process(rank: int, store: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    every: list[Options] = [{}, {"foreach": True}, {"foreach": False}, {"variant": "released"}]
    for options in every:
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Linear(7, 3)).double()
        whole = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Linear(7, 3)).double()
        whole.load_state_dict(net.state_dict())
        fsdp.fully_shard(net, mesh=dist.device_mesh.init_device_mesh("cpu", (2,)))
        sharded = BPGrad(net.parameters(), 10.0, weight_decay=0.1, **options)
        single = BPGrad(whole.parameters(), 10.0, weight_decay=0.1, **options)
        x = torch.randn(8, 5).double()
        for _ in range(4):
            sharded.zero_grad()
            single.zero_grad()
            loss = net(x.chunk(2)[rank]).square().mean()
            loss.backward()
            mean = loss.detach().clone()
            dist.all_reduce(mean)
            sharded.step(loss=mean / 2)
            loss = whole(x).square().mean()
            loss.backward()
            single.step(loss=loss)
        for p, q in zip(net.parameters(), whole.parameters(), strict=True):
            torch.testing.assert_close(p.full_tensor(), q.detach(), rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(sharded.grad_norm, single.grad_norm, rtol=1e-12, atol=0.0)
    dist.barrier()


def test_sharded_parameters_use_the_norm_over_all_ranks(tmp_path: Path) -> None:
    for rank in [Fork(follow_one_process, rank, tmp_path / "store") for rank in range(2)]:
        rank.result()


# --- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lipschitz", "options", "message"),
    [
        (0.0, {}, r"Invalid lipschitz value: 0.0 \(a number in \(0, inf\), or 'auto'\)"),
        (-1.0, {}, "Invalid lipschitz value: -1.0"),
        (INF, {}, "Invalid lipschitz value: inf"),
        (NAN, {}, "Invalid lipschitz value: nan"),
        (1.0, {"rho": 1.0}, "Invalid rho value: 1.0"),
        (1.0, {"rho": -0.1}, "Invalid rho value: -0.1"),
        (1.0, {"rho": NAN}, "Invalid rho value: nan"),
        (1.0, {"momentum": -0.1}, "Invalid momentum value: -0.1"),
        (1.0, {"momentum": 1.0}, "Invalid momentum value: 1.0"),
        (1.0, {"lr": -1.0}, "Invalid learning rate: -1.0"),
        (1.0, {"lr": torch.ones(1)}, "Tensor lr must be 0-dim"),
        (1.0, {"weight_decay": -1.0}, "Invalid weight_decay value: -1.0"),
        (1.0, {"weight_decay": NAN}, "Invalid weight_decay value: nan"),
        (1.0, {"variant": "eve"}, "Invalid variant: 'eve'"),
        (1.0, {"on_zero_gradient": "stop"}, "Invalid on_zero_gradient: 'stop'"),
    ],
)
def test_invalid_options(lipschitz: float, options: Options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BPGrad(new_params(), lipschitz, **options)


@pytest.mark.parametrize("lipschitz", ["50", None, True, torch.tensor(50.0)])
def test_a_lipschitz_that_is_no_number(lipschitz: Any) -> None:
    with pytest.raises(TypeError, match=r"Invalid lipschitz: .*in \(0, inf\), or 'auto'"):
        BPGrad(new_params(), lipschitz)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lipschitz": 0.0}, "Invalid lipschitz value: 0.0"),
        ({"momentum": -1.0}, "Invalid momentum value: -1.0"),
        ({"lr": NAN}, "Invalid learning rate: nan"),
        ({"rho": 0.2}, "rho is global"),
        ({"variant": "released"}, "variant is global"),
    ],
)
def test_invalid_group(options: Options, message: str) -> None:
    params = new_params()
    optimizer = BPGrad(params[:1], 4.0)
    with pytest.raises(ValueError, match=message):
        optimizer.add_param_group({"params": params[1:], **options})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize(
    ("loss", "error", "message"),
    [
        (torch.ones(1), ValueError, r"Expected a 0-dim loss, but got shape \(1,\)"),
        (torch.ones((), device="meta"), ValueError, "Expected loss on cpu, but got one on meta"),
        ("1.0", TypeError, "Expected loss to be a 0-dim tensor or a float"),
    ],
)
def test_invalid_loss(loss: Any, error: type[Exception], message: str) -> None:
    params = new_params()
    before = values(params)
    optimizer = BPGrad(params, 4.0)
    set_grads(params, 0)
    with pytest.raises(error, match=message):
        optimizer.step(loss=loss)
    with pytest.raises(error, match=message):
        optimizer.step(lambda: loss)
    assert same(before, values(params))


def test_exactly_one_of_closure_and_loss() -> None:
    optimizer = BPGrad(new_params(), 4.0)
    both: list[Options] = [{}, {"closure": lambda: 1.0, "loss": 1.0}]
    for arguments in both:
        with pytest.raises(ValueError, match="exactly one of three ways"):
            optimizer.step(**arguments)
    with pytest.raises(TypeError, match="Expected loss"):
        optimizer.step(lambda: None)  # type: ignore[arg-type, return-value]


def test_sparse_gradients_are_refused() -> None:
    embedding = torch.nn.Embedding(5, 2, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    optimizer = BPGrad(embedding.parameters(), 4.0)
    with pytest.raises(RuntimeError, match="does not support sparse gradients"):
        optimizer.step(loss=1.0)


RUNTIMES = """
from bpgrad.optim._fused import kernel
assert kernel() is not None
maps = open("/proc/self/maps").read().splitlines()
print(len({line.split()[-1] for line in maps if "libgomp" in line}))
"""


@needs_kernel
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/maps")
def test_the_kernel_and_torch_share_their_threads() -> None:
    """Two OpenMP runtimes would wait for each other's threads, and not heed set_num_threads.

    In a process of its own: other packages bring runtimes along.
    """
    root = Path(bpgrad.optim.__file__).parents[2]
    found = subprocess.run(
        [sys.executable, "-c", RUNTIMES],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == "1"


def test_fused_that_cannot_be_honoured() -> None:
    with pytest.raises(RuntimeError, match="cannot be `True` together"):
        BPGrad(new_params(), 4.0, fused=True, foreach=True)
    with pytest.raises(RuntimeError, match="does not support on_zero_gradient"):
        BPGrad(new_params(), 4.0, fused=True, on_zero_gradient="random")
    meta = torch.nn.Parameter(torch.zeros(3, device="meta"))
    meta.grad = torch.zeros(3, device="meta")
    with pytest.raises(RuntimeError, match="`fused=True` needs"):
        BPGrad([meta], 4.0, fused=True).step(loss=1.0)


def test_optim_imports_nothing_but_torch_and_the_standard_library() -> None:
    """Triton, which comes with torch's CUDA builds, only where its kernels are."""
    for path in Path(bpgrad.optim.__file__).parent.glob("*.py"):
        allowed = {*sys.stdlib_module_names, "torch"}
        if path.name.startswith("_triton"):
            allowed.add("triton")
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                assert name.split(".")[0] in allowed or name.startswith("bpgrad.optim"), path
