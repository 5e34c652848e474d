"""The Triton kernels on the CPU, by Triton's interpreter (see TRITON_INTERPRET in conftest.py)."""

import gc
import math
import os
import pickle
import weakref
from copy import deepcopy
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bpgrad.optim import BPGrad, Eve, MatConvNetAdam, _fused
from tests.golden.test_solvers import SOLVERS, TOLERANCE, advance, deviation, open_walk
from tests.optim import test_fused as cpu
from tests.optim.conftest import FailOnHostRead
from tests.optim.test_fused import draw, parameter, ulps

pytest.importorskip("triton", reason="Triton is not installed")
from bpgrad.optim import _triton

pytestmark = pytest.mark.skipif(
    "TRITON_INTERPRET" not in os.environ, reason="on a GPU test_triton.py starts these"
)

LOOP: dict[str, Any] = {"foreach": False}


@pytest.fixture(autouse=True, scope="module")
def interpreted() -> Any:
    """Parameters on the CPU go to Triton's kernels, as those on CUDA do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_fused, "on_triton", lambda tensor: tensor.is_cpu)
        patch.setattr(_fused, "triton_kernels", lambda: _triton)
        yield


def on_triton(optimizer: BPGrad) -> bool:
    return optimizer._layout is not None and optimizer._layout.chunks is not None


def state_of(optimizer: BPGrad) -> list[float]:
    values = [group["step_size"].item() for group in optimizer.param_groups]
    return values + [optimizer.param_groups[0][name].item() for name in _fused.GLOBAL_SCALARS]


@pytest.mark.parametrize("name", ["bpgrad-paper", "bpgrad-released"])
def test_the_kernels_follow_the_transcription(name: str) -> None:
    optimizer, tensors, walk = open_walk(SOLVERS[name], True, True)
    for _ in range(6):
        advance(optimizer, tensors, walk)
    assert isinstance(optimizer, BPGrad)
    assert on_triton(optimizer)
    assert deviation(SOLVERS[name].rule, walk) <= TOLERANCE


@pytest.mark.parametrize(
    ("dtype", "variant"),
    [
        (torch.float32, "paper"),
        (torch.float32, "released"),
        (torch.float64, "released"),
        (torch.bfloat16, "paper"),
        (torch.float16, "released"),
    ],
    ids=str,
)
def test_the_kernels_agree_with_the_loop(dtype: torch.dtype, variant: str) -> None:
    """A tensor of two chunks and a rest, 0-dim and empty ones, channels_last, three groups."""
    shapes = ((16_389,), (7, 3), (5, 4, 3, 3), (), (0, 3))
    runs = []
    for mode in ({}, LOOP):
        params: list[Any] = [torch.nn.Parameter(draw(s, k, dtype)) for k, s in enumerate(shapes)]
        params[2].data = params[2].data.to(memory_format=torch.channels_last)
        groups = [
            {"params": params[:2]},
            {"params": params[2:3], "lr": 0.5, "momentum": 0.0, "lipschitz": 20.0},
            {"params": params[3:], "lipschitz": "auto", "weight_decay": 0.0},
        ]
        optimizer = BPGrad(groups, 5.0, variant=variant, weight_decay=5e-3, **mode)
        for t, loss in enumerate((2.0, math.nan, 1.0, -0.5)):
            for k, p in enumerate(params):
                p.grad = torch.empty_like(p).copy_(draw(shapes[k], 100 * t + k, dtype))
            optimizer.step(loss=loss)
        runs.append((params, optimizer))
    (params, optimizer), (loop, reference) = runs
    assert on_triton(optimizer)
    for p, q in zip(params, loop, strict=True):
        if p.numel():
            # where the roundings to half precision are made differs, as in the CPU kernel
            assert ulps(p.detach(), q.detach()) <= (2 if p.element_size() > 2 else 8)
    rtol = 1e-3 if dtype.itemsize == 2 else 1e-6 if dtype == torch.float32 else 1e-14
    assert state_of(optimizer) == pytest.approx(state_of(reference), rel=rtol)
    for name in ("step", "skipped_steps", "negative_losses", "exceeded_steps"):
        assert optimizer.param_groups[0][name] == reference.param_groups[0][name]
    assert optimizer.skipped_steps == optimizer.negative_losses == 1


losses = st.one_of(st.floats(-3.0, 3.0), st.sampled_from([math.nan, math.inf, -math.inf, 0.0]))
group = st.fixed_dictionaries(
    {
        "shapes": st.lists(
            st.sampled_from([(), (0,), (5,), (2, 3), (600,), (1, 513)]), min_size=1, max_size=3
        ),
        "lr": st.sampled_from([1.0, 0.0, 0.3, "float32", "float64", "float16"]),
        "momentum": st.sampled_from([0.0, 0.9]),
        "weight_decay": st.sampled_from([0.0, 0.1]),
        "lipschitz": st.sampled_from([2.0, 30.0, "auto"]),
    }
)


@given(
    st.lists(group, min_size=1, max_size=3),
    st.lists(losses, min_size=1, max_size=3),
    st.sampled_from(["paper", "released"]),
    st.sampled_from(["finite", "zero", "infinite"]),
    st.sampled_from([0.0, 0.1, 0.9]),
)
@settings(
    max_examples=10, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_whatever_the_groups(
    drawn: list[dict[str, Any]], fs: list[float], variant: str, kind: str, rho: float
) -> None:
    """float64 and float32 together; chunks of 512 elements, four partial sums at a time."""
    runs = []
    for mode in ({}, LOOP):
        params, groups = [], []
        for own in deepcopy(drawn):
            lr = own["lr"]
            own["lr"] = torch.tensor(0.7, dtype=getattr(torch, lr)) if isinstance(lr, str) else lr
            dtypes = [(torch.float64, torch.float32)[k % 2] for k in range(len(own["shapes"]))]
            own["params"] = [
                torch.nn.Parameter(draw(s, k, dtype))
                for k, (s, dtype) in enumerate(zip(own.pop("shapes"), dtypes, strict=True))
            ]
            params += own["params"]
            groups.append(own)
        optimizer = BPGrad(groups, 5.0, rho=rho, variant=variant, **mode)
        with pytest.MonkeyPatch.context() as patch:
            for name, value in {"CHUNK": 512, "BLOCK": 256, "SUMS": 4, "GROUPS": 2}.items():
                patch.setattr(_triton, name, value)
            for t, f in enumerate(fs):
                for k, p in enumerate(params):
                    p.grad = draw(tuple(p.shape), 50 + 9 * t + k, p.dtype)
                    if kind == "zero":
                        p.grad.zero_()
                if kind == "infinite" and t == 1 and params[0].numel():
                    params[0].grad.view(-1)[-1] = math.inf  # type: ignore[union-attr]
                optimizer.step(loss=f)
        runs.append((params, optimizer))
    (params, optimizer), (loop, reference) = runs
    assert on_triton(optimizer)
    assert state_of(optimizer) == pytest.approx(state_of(reference), rel=1e-6)
    for name in ("step", "skipped_steps", "negative_losses", "exceeded_steps"):
        assert optimizer.param_groups[0][name] == reference.param_groups[0][name]
    for p, q in zip(params, loop, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bad", ["loss", "gradient"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_step_that_is_not_finite_changes_only_its_counter(bad: str, value: float) -> None:
    params = [parameter(draw((9,), k), draw((9,), 9 + k)) for k in range(2)]
    optimizer = BPGrad(params, 3.0, weight_decay=0.1)
    optimizer.step(loss=1.0)
    before = deepcopy((params, optimizer.state_dict()))
    if bad == "gradient":
        params[1].grad[3] = value
    optimizer.step(loss=value if bad == "loss" else 0.5)
    assert all(torch.equal(p, q) for p, q in zip(params, before[0], strict=True))
    after = optimizer.state_dict()
    assert after["param_groups"][0].pop("skipped_steps") == 1
    assert before[1]["param_groups"][0].pop("skipped_steps") == 0
    assert str(after) == str(before[1])


def test_every_layout_gives_the_result_of_the_loop() -> None:
    """What is not dense goes to torch."""
    for name, (_, taken) in cpu.layouts().items():
        if name == "expanded":
            continue
        moved = []
        for mode in ({}, LOOP):
            value = cpu.layouts()[name][0]
            gradient = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype)
            p = parameter(value, gradient.copy_(draw(tuple(value.shape), 9)))
            optimizer = BPGrad([p], 5.0, weight_decay=0.1, **mode)
            optimizer.step(loss=1.0)
            assert on_triton(optimizer) == (taken and not mode), name
            moved.append(p.detach())
        torch.testing.assert_close(moved[0], moved[1], rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize(
    "change",
    [
        *(cpu.new_gradient, cpu.no_gradient_for_a_step, cpu.other_memory, cpu.negative_bit),
        *(cpu.everything_transposed, cpu.loaded_state, cpu.one_group_more, cpu.other_options),
    ],
)
def test_a_change_between_two_steps_is_noticed(
    change: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_triton, "CHUNK", 65_536)  # programs are slow here, elements are not
    monkeypatch.setattr(_triton, "BLOCK", 65_536)
    assert cpu.difference(change) < 1e-13


def test_the_table_is_made_again_only_when_an_address_changes() -> None:
    p = parameter(draw((9,), 0), draw((9,), 1))
    optimizer = BPGrad([p], 3.0)
    optimizer.step(loss=1.0)
    chunks = optimizer._layout.chunks  # type: ignore[union-attr]
    table, options = chunks.table.tensor, chunks.options.tensor
    optimizer.step(loss=1.0)
    optimizer.param_groups[0]["lr"] = 0.5
    optimizer.step(loss=1.0)
    assert chunks.table.tensor is table
    assert chunks.options.tensor is not options
    p.grad = p.grad.clone()
    optimizer.step(loss=1.0)
    assert optimizer._layout.chunks is chunks  # type: ignore[union-attr]
    assert chunks.table.tensor is not table


def test_a_graph_gets_memory_of_its_own_that_lives_as_long_as_the_optimizer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    owner, copied = torch.zeros(()), _triton.Copied()
    made: list[Any] = []

    def make() -> torch.Tensor:
        made.append(torch.tensor([float(len(made))]))
        return made[-1].clone()

    eager = copied.on(owner, "key", make)
    monkeypatch.setattr(_triton, "capturing", lambda tensor: True)
    first, second = (copied.on(owner, "key", make) for _ in range(2))
    assert len({tensor.data_ptr() for tensor in (eager, first, second)}) == 3
    first, second = weakref.ref(first), weakref.ref(second)  # type: ignore[assignment]
    assert first() is not None
    assert second() is not None
    monkeypatch.undo()
    assert copied.on(owner, "key", make) is eager
    assert len(made) == 3
    del owner
    gc.collect()
    assert first() is None
    assert second() is None


@pytest.mark.parametrize("copied", ["deepcopy", "pickle", "state_dict"])
def test_copies_go_on_as_the_original_does(copied: str) -> None:
    p = parameter(draw((9,), 0), draw((9,), 1))
    optimizer = BPGrad([p], "auto", weight_decay=0.1)
    optimizer.step(loss=1.0)
    if copied == "state_dict":
        q = deepcopy(p)
        other = BPGrad([q], "auto", weight_decay=0.1)
        other.step(loss=3.0)
        q.data.copy_(p)
        other.load_state_dict(optimizer.state_dict())
    elif copied == "pickle":
        q, other = pickle.loads(pickle.dumps((p, optimizer)))
    else:
        q, other = deepcopy((p, optimizer))
    q.grad = p.grad.clone()
    for each in (optimizer, other):
        each.step(loss=0.5)
        assert on_triton(each)
    assert torch.equal(p, q)
    assert state_of(optimizer) == state_of(other)


def test_nothing_is_read_by_the_host_and_autograd_notices(no_host_read: FailOnHostRead) -> None:
    p = parameter(draw((5,), 0), draw((5,), 1))
    optimizer = BPGrad([p], 3.0, lr=torch.tensor(0.5))
    loss = (p * p).sum()
    with no_host_read:
        optimizer.step(loss=loss.detach())
    assert on_triton(optimizer)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_without_a_gradient_the_loss_is_followed() -> None:
    states = []
    for mode in ({}, LOOP):
        optimizer = BPGrad([torch.nn.Parameter(draw((5,), 0))], 3.0, **mode)
        optimizer.step(loss=2.0)
        states.append(state_of(optimizer))
        if not mode:
            assert on_triton(optimizer)
    assert states[0] == states[1]


@pytest.mark.parametrize("name", ["eve", "eve-tuned", "matconvnet-adam", "matconvnet-adam-tuned"])
def test_the_moments_follow_the_transcription(name: str) -> None:
    options: dict[str, Any] = {} if "eve" in name else {"capturable": True}
    optimizer, tensors, walk = open_walk(SOLVERS[name], True, False, **options)
    for _ in range(5):
        advance(optimizer, tensors, walk)
    assert optimizer._layout is not None  # type: ignore[attr-defined]
    assert deviation(SOLVERS[name].rule, walk) <= TOLERANCE


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("solver", ["eve", "adam"])
def test_the_moments_agree_with_the_other_ways(solver: str, dtype: torch.dtype) -> None:
    """Two groups, one of them without a gradient at first; an lr that is a tensor; NaN losses."""
    shapes = ((8_200,), (7, 3), (), (0, 3), (5,))
    runs = []
    for mode in (None, False):
        params: list[Any] = [torch.nn.Parameter(draw(s, k, dtype)) for k, s in enumerate(shapes)]
        groups: list[dict[str, Any]] = [
            {"params": params[:2], "weight_decay": 0.1},
            {"params": params[2:4], "lr": torch.tensor(0.02, dtype=dtype), "betas": None},
            {"params": params[4:], "lr": 0.03, "eps": 1e-3},
        ]
        betas = (0.5, 0.0, 0.8)
        groups[1]["betas"] = betas if solver == "eve" else betas[:2]
        optimizer: Any
        if solver == "eve":
            optimizer = Eve(groups, lr=0.01, foreach=mode)
        else:
            optimizer = MatConvNetAdam(groups, lr=0.01, foreach=mode, capturable=True)
        for t, loss in enumerate((-1.0, 2.0, math.nan, 9.0, 1e-3)):
            for k, p in enumerate(params):
                p.grad = draw(shapes[k], 100 * t + k, dtype) if k < 4 or t > 2 else None
            optimizer.step(loss=loss) if solver == "eve" else optimizer.step()
        assert (optimizer._layout is not None) == (mode is None)
        runs.append((params, optimizer))
    (params, optimizer), (expected, reference) = runs
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 1e-12}
    tolerance.setdefault("atol", 1e-14)
    for p, q in zip(params, expected, strict=True):
        torch.testing.assert_close(p, q, **tolerance)
        for name, value in reference.state[q].items():
            torch.testing.assert_close(optimizer.state[p][name], value, **tolerance)
    for group, other in zip(optimizer.param_groups, reference.param_groups, strict=True):
        for name in ("d", "f_hat", "step", "steps"):
            if name in other:
                torch.testing.assert_close(group[name], other[name], rtol=1e-12, atol=0.0)


def test_random_directions_are_left_to_torch() -> None:
    optimizer = BPGrad([parameter(draw((5,), 0), draw((5,), 1))], 3.0, on_zero_gradient="random")
    optimizer.step(loss=1.0)
    assert optimizer._layout is None
