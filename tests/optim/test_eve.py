import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from bpgrad.optim import Eve
from bpgrad.optim._loss_aware import COMPILES

Options = dict[str, Any]
Params = list[Any]  # torch.nn.Parameter: mypy cannot know that their gradients are set
Shapes = Sequence[tuple[int, ...]]
Transfer = Callable[[Params, Any, Callable[[Params], Any]], tuple[Params, Any]]


def new_params(shapes: Shapes = ((3, 4), (4,)), dtype: torch.dtype = torch.float64) -> Params:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype)) for shape in shapes
    ]


def set_grads(params: Params, seed: int) -> None:
    generator = torch.Generator().manual_seed(1000 + seed)
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator, dtype=p.dtype)


def values(params: Params) -> list[torch.Tensor]:
    return [p.detach().clone() for p in params]


def same(first: Sequence[torch.Tensor], second: Sequence[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def feedbacks(
    losses: list[float], beta3: float = 0.999, k: float = 0.1, big_k: float = 10.0
) -> list[float]:
    """Rule A in plain Python: d_t for every t."""
    found, f_hat, d = [], None, 1.0
    for f in losses:
        if f_hat is None:
            f_hat = f
        else:
            low, high = (1 + k, 1 + big_k) if f >= f_hat else (1 / (1 + big_k), 1 / (1 + k))
            following = min(max(low, f / f_hat), high) * f_hat
            d = beta3 * d + (1 - beta3) * abs(following - f_hat) / min(following, f_hat)
            f_hat = following
        found.append(d)
    return found


def transcription(
    weights: list[float],
    gradients: list[Any],
    losses: list[float],
    lr: Any,
    betas: tuple[float, ...],
    eps: float,
    thresholds: tuple[float, float],
    decay: float,
) -> list[float]:
    """The whole update in plain Python for one list of floats."""
    w = list(weights)
    m, v = [0.0] * len(w), [0.0] * len(w)
    for t, (g, d) in enumerate(
        zip(gradients, feedbacks(losses, betas[2], *thresholds), strict=True), start=1
    ):
        for i in range(len(w)):
            decayed = g[i] + decay * w[i]
            m[i] = betas[0] * m[i] + (1 - betas[0]) * decayed
            v[i] = betas[1] * v[i] + (1 - betas[1]) * decayed**2
            m_hat, v_hat = m[i] / (1 - betas[0] ** t), v[i] / (1 - betas[1] ** t)
            w[i] -= lr * m_hat / (d * math.sqrt(v_hat) + eps)
    return w


LOSSES = [2.3, 2.3, 1.9, 1.95, 40.0, 0.01, 0.02, 0.02, 5.0, 1e-9, 1.0]


@pytest.mark.parametrize("foreach", [None, True, False])
@pytest.mark.parametrize("beta3", [0.999, 0.5])
def test_two_groups_follow_the_formulas(foreach: bool | None, beta3: float) -> None:
    params = new_params()
    options: list[Options] = [
        {"lr": 1e-3, "betas": (0.9, 0.999, beta3), "eps": 1e-8, "decay": 0.0},
        {"lr": 0.1, "betas": (0.5, 0.9, 0.0), "eps": 1e-2, "decay": 0.1},
    ]
    starts = [p.detach().flatten().tolist() for p in params]
    optimizer = Eve(
        [
            {
                "params": [p],
                **{k: v for k, v in o.items() if k != "decay"},
                "weight_decay": o["decay"],
            }
            for p, o in zip(params, options, strict=True)
        ],
        thresholds=(0.2, 5.0),
        foreach=foreach,
    )
    gradients = []
    for t, f in enumerate(LOSSES):
        set_grads(params, t)
        gradients.append([p.grad.flatten().tolist() for p in params])
        optimizer.step(loss=torch.tensor(f, dtype=torch.float64))
    for i, (o, start) in enumerate(zip(options, starts, strict=True)):
        betas = (*o["betas"][:2], beta3)  # the feedback is global, with the first group's β3
        expected = transcription(
            start,
            [g[i] for g in gradients],
            LOSSES,
            o["lr"],
            betas,
            o["eps"],
            (0.2, 5.0),
            o["decay"],
        )
        torch.testing.assert_close(
            params[i].detach().flatten(),
            torch.tensor(expected, dtype=torch.float64),
            rtol=1e-12,
            atol=1e-14,
        )


def test_foreach_agrees_with_the_loop() -> None:
    runs = []
    for foreach in (True, False):
        params = new_params(((3, 4), (4, 3, 2, 2), (5,)))
        params[1].data = params[1].data.to(memory_format=torch.channels_last)
        optimizer = Eve(params, lr=1e-2, weight_decay=1e-3, foreach=foreach)
        for t in range(50):
            set_grads(params, t)
            params[2].grad = None if t < 10 else params[2].grad
            optimizer.step(loss=torch.tensor(2.0 + math.cos(t), dtype=torch.float64))
        runs.append(params)
    for p, q in zip(*runs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-14, atol=1e-14)
        assert p.stride() == q.stride()


def test_first_step_is_adam() -> None:
    params, twins = new_params(), new_params()
    for ps, optimizer in ((params, Eve(params)), (twins, torch.optim.Adam(twins))):
        set_grads(ps, 0)
        if isinstance(optimizer, Eve):
            optimizer.step(loss=3.0)
        else:
            optimizer.step()
    for p, q in zip(params, twins, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-14, atol=1e-14)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(min_value=1e-30, max_value=1e30), min_size=1, max_size=12),
    st.floats(min_value=0.0, max_value=0.999),
)
def test_feedback_stays_between_the_thresholds(losses: list[float], beta3: float) -> None:
    params = new_params(((2,),))
    optimizer = Eve(params, betas=(0.9, 0.999, beta3))
    set_grads(params, 0)
    for f, expected in zip(losses, feedbacks(losses, beta3), strict=True):
        optimizer.step(loss=torch.tensor(f, dtype=torch.float64))
        assert 0.1 * (1 - 1e-9) <= optimizer.d.item() <= 10.0 * (1 + 1e-9)
        assert optimizer.d.item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_no_feedback(bad: float) -> None:
    params = new_params()
    optimizer = Eve(params)
    losses = [bad, 2.0, bad, 1.0]
    for f in losses:
        set_grads(params, 0)
        optimizer.step(loss=f)
    assert optimizer.d.item() == pytest.approx(feedbacks([2.0, 1.0])[-1], rel=1e-14)
    assert all(p.isfinite().all() for p in params)


@pytest.mark.parametrize("start", [0.0, -1.0])
def test_feedback_starts_at_the_first_positive_loss(start: float) -> None:
    params = new_params()
    optimizer = Eve(params)
    for f in (start, 2.0):
        set_grads(params, 0)
        optimizer.step(loss=f)
        assert optimizer.d.item() == 1.0
    optimizer.step(loss=0.0)
    optimizer.step(loss=-3.0)
    assert optimizer.d.item() == pytest.approx(feedbacks([2.0, 0.0, 0.0])[-1])


@pytest.mark.parametrize("foreach", [True, False])
def test_nothing_is_read_by_the_host(no_host_read: TorchDispatchMode, foreach: bool | None) -> None:
    params = new_params(dtype=torch.float32)
    optimizer = Eve(params, weight_decay=0.1, foreach=foreach)
    for t, f in enumerate([1.0, math.nan, 0.5]):
        set_grads(params, t)
        with no_host_read:
            optimizer.step(loss=torch.tensor(f))


def test_continues_identically(transfer: Transfer) -> None:
    def rebuild(params: Params) -> Any:
        groups: list[Options] = [{"params": params[:1], "lr": 0.1}, {"params": params[1:]}]
        return Eve(groups, weight_decay=1e-3)

    params = new_params()
    optimizer = rebuild(params)
    for t in range(9):
        set_grads(params, t)
        optimizer.step(loss=2.0 + math.cos(t))
    copies, other = transfer(params, optimizer, rebuild)
    for ps, opt in ((params, optimizer), (copies, other)):
        for t in range(9, 59):
            set_grads(ps, t)
            opt.step(loss=2.0 + math.cos(t))
    assert same(values(params), values(copies))
    for name in ("d", "f_hat", "step"):
        mine, others = optimizer.param_groups[0][name], other.param_groups[0][name]
        assert torch.equal(mine, others)
        assert mine.dtype == others.dtype
        assert mine.data_ptr() != others.data_ptr()
    assert optimizer.param_groups[0]["d"].shape == ()


def test_added_group_starts_its_moments_and_shares_the_feedback() -> None:
    params = new_params()
    optimizer = Eve(params[:1])
    for f in (2.0, 1.0):
        set_grads(params[:1], 0)
        optimizer.step(loss=f)
    optimizer.add_param_group({"params": params[1:]})
    before = params[1].detach().clone()
    set_grads(params, 1)
    optimizer.step(loss=1.0)
    g = params[1].grad
    torch.testing.assert_close(
        params[1].detach(), before - 1e-3 * g / (optimizer.d * g.abs() + 1e-8), rtol=1e-13, atol=0
    )


def test_closure_and_loss_are_the_same() -> None:
    runs = []
    for with_closure in (True, False):
        params = new_params()
        optimizer = Eve(params)

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


def test_parameters_without_gradient_are_left_alone() -> None:
    params = new_params()
    optimizer = Eve(params, weight_decay=0.1)
    before = values(params)
    optimizer.step(loss=2.0)
    assert same(before, values(params))
    assert optimizer.param_groups[0]["step"].item() == 0


def test_lr_scheduler_and_tensor_lr() -> None:
    runs = []
    for lr in (1e-2, torch.tensor(1e-2, dtype=torch.float64)):
        params = new_params()
        optimizer = Eve(params, lr=lr)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
        for t in range(3):
            set_grads(params, t)
            optimizer.step(loss=1.0)
            scheduler.step()
        assert float(optimizer.param_groups[0]["lr"]) == pytest.approx(1.25e-3)
        runs.append(values(params))
    for p, q in zip(*runs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-14, atol=1e-15)


@pytest.mark.skipif(not COMPILES, reason="this torch compiles the step wrongly; refused")
def test_compiles_without_graph_breaks() -> None:
    torch.compiler.reset()
    params, twins = new_params(), new_params()
    optimizer, eager = Eve(params), Eve(twins)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def step(loss: Any) -> None:
        optimizer.step(loss=loss)

    for t, f in enumerate([2.0, 1.0, 3.0]):
        set_grads(params, t)
        set_grads(twins, t)
        step(torch.tensor(f))
        eager.step(loss=torch.tensor(f))
    for p, q in zip(params, twins, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-13, atol=1e-14)


def test_loss_is_a_named_keyword() -> None:
    parameter = inspect.signature(Eve(new_params()).step).parameters["loss"]
    assert parameter.kind is inspect.Parameter.KEYWORD_ONLY


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1.0}, "Invalid learning rate: -1.0"),
        ({"betas": (0.9, 0.999)}, "Eve takes three"),
        ({"betas": (1.0, 0.999, 0.999)}, "Invalid beta parameter at index 0: 1.0"),
        ({"betas": (0.9, -0.1, 0.999)}, "Invalid beta parameter at index 1: -0.1"),
        ({"betas": (0.9, 0.999, math.nan)}, "Invalid beta parameter at index 2: nan"),
        ({"eps": -1.0}, "Invalid epsilon value: -1.0"),
        ({"thresholds": (0.0, 10.0)}, "Invalid thresholds"),
        ({"thresholds": (10.0, 0.1)}, "Invalid thresholds"),
        ({"weight_decay": -1.0}, "Invalid weight_decay value: -1.0"),
    ],
)
def test_invalid_options(options: Options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Eve(new_params(), **options)
    optimizer = Eve(new_params(((1,),)))
    with pytest.raises(ValueError, match=message):
        optimizer.add_param_group({"params": new_params(((2,),)), **options})
    assert len(optimizer.param_groups) == 1


def test_invalid_steps() -> None:
    optimizer = Eve(new_params())
    both: list[Options] = [{}, {"closure": lambda: 1.0, "loss": 1.0}]
    for arguments in both:
        with pytest.raises(ValueError, match="exactly one of three ways"):
            optimizer.step(**arguments)
    with pytest.raises(ValueError, match="Expected a 0-dim loss"):
        optimizer.step(loss=torch.ones(2))
    with pytest.raises(ValueError, match="Expected loss on cpu"):
        optimizer.step(loss=torch.ones((), device="meta"))
    with pytest.raises(TypeError, match="Expected loss to be"):
        optimizer.step(loss="low")  # type: ignore[arg-type]
    embedding = torch.nn.Embedding(5, 2, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match="does not support sparse gradients"):
        Eve(embedding.parameters()).step(loss=1.0)
