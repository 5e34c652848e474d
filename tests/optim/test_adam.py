import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch.optim import Adam

from bpgrad.optim import MatConvNetAdam
from tests.optim.conftest import FailOnHostRead

Options = dict[str, Any]
Params = list[Any]  # torch.nn.Parameter: mypy cannot know that their gradients are set
Shapes = Sequence[tuple[int, ...]]
Transfer = Callable[[Params, Any, Callable[[Params], Any]], tuple[Params, Any]]

MODES: dict[str, Options] = {
    "default": {},
    "foreach": {"foreach": True},
    "loop": {"foreach": False},
    "fused": {"fused": True},
    "capturable": {"capturable": True},
}


@pytest.fixture(params=list(MODES.values()), ids=list(MODES))
def mode(request: pytest.FixtureRequest) -> Options:
    return request.param


def new_params(shapes: Shapes = ((3, 4), (4,))) -> Params:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64))
        for shape in shapes
    ]


def set_grads(params: Params, seed: int, scale: float = 1.0) -> None:
    generator = torch.Generator().manual_seed(1000 + seed)
    for p in params:
        p.grad = scale * torch.randn(p.shape, generator=generator, dtype=p.dtype)


def values(params: Params) -> list[torch.Tensor]:
    return [p.detach().clone() for p in params]


def same(first: Sequence[torch.Tensor], second: Sequence[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def transcription(
    weights: list[float],
    gradients: list[Any],
    lr: Any,
    betas: tuple[float, ...],
    eps: float,
    decay: float,
) -> list[float]:
    """MatConvNet's solver in plain Python for one list of floats."""
    w = list(weights)
    m, v = [0.0] * len(w), [0.0] * len(w)
    for t, g in enumerate(gradients, start=1):
        rate = lr * math.sqrt(1 - betas[1] ** t) / (1 - betas[0] ** t)
        for i in range(len(w)):
            decayed = g[i] + decay * w[i]
            m[i] = betas[0] * m[i] + (1 - betas[0]) * decayed
            v[i] = betas[1] * v[i] + (1 - betas[1]) * decayed**2
            w[i] -= rate * m[i] / (math.sqrt(v[i]) + eps)
    return w


@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_two_groups_follow_the_formula(mode: Options, scale: float) -> None:
    params = new_params()
    options: list[Options] = [
        {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0},
        {"lr": 1e-2, "betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.1},
    ]
    starts = [p.detach().flatten().tolist() for p in params]
    optimizer = MatConvNetAdam(
        [{"params": [p], **o} for p, o in zip(params, options, strict=True)], **mode
    )
    gradients = []
    for t in range(50):
        set_grads(params, t, scale)
        gradients.append([p.grad.flatten().tolist() for p in params])
        optimizer.step()
        assert [group["eps"] for group in optimizer.param_groups] == [1e-8, 1e-3]
    for i, (o, start) in enumerate(zip(options, starts, strict=True)):
        expected = transcription(
            start, [g[i] for g in gradients], o["lr"], o["betas"], o["eps"], o["weight_decay"]
        )
        torch.testing.assert_close(
            params[i].detach().flatten(),
            torch.tensor(expected, dtype=torch.float64),
            rtol=1e-12,
            atol=1e-14,
        )


def test_differs_from_torch_where_gradients_are_small() -> None:
    params, twins = new_params(), new_params()
    start = params[0].detach().clone()
    for ps, optimizer in ((params, MatConvNetAdam(params)), (twins, Adam(twins))):
        set_grads(ps, 0, 1e-8)
        optimizer.step()
    # In the first step √v = 0.0316 |g| is small beside ε here, but not beside torch's 3.2e-10.
    ours, theirs = (params[0] - start).norm(), (twins[0] - start).norm()
    assert ours < 0.1 * theirs


@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_modes_agree(mode: Options, scale: float) -> None:
    runs = []
    for options in (MODES["loop"], mode):
        params = new_params()
        optimizer = MatConvNetAdam(params, weight_decay=1e-3, **options)
        for t in range(50):
            set_grads(params, t, scale)
            optimizer.step()
        runs.append(values(params))
    for p, q in zip(*runs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-14)


def test_continues_identically(transfer: Transfer, mode: Options) -> None:
    def rebuild(params: Params) -> Any:
        groups: list[Options] = [{"params": params[:1], "lr": 0.1}, {"params": params[1:]}]
        return MatConvNetAdam(groups, **mode)

    params = new_params()
    optimizer = rebuild(params)
    for t in range(9):
        set_grads(params, t, 1e-6)
        optimizer.step()
    copies, other = transfer(params, optimizer, rebuild)
    runs = []
    for ps, opt in ((params, optimizer), (copies, other)):
        for t in range(9, 59):
            set_grads(ps, t, 1e-6)
            opt.step()
        runs.append(values(ps))
    assert same(*runs)
    assert [group["steps"] for group in other.param_groups] == [59, 59]


def test_steps_are_counted_per_group() -> None:
    params = new_params()
    optimizer = MatConvNetAdam([{"params": params[:1]}])
    for t in range(5):
        set_grads(params[:1], t)
        optimizer.step()
    optimizer.add_param_group({"params": params[1:]})
    optimizer.step()  # no gradient in the new group yet
    before = values(params)
    set_grads(params, 0, 1e-8)
    optimizer.step()
    assert [group["steps"] for group in optimizer.param_groups] == [7, 1]
    expected = transcription(
        before[1].tolist(), [params[1].grad.tolist()], 1e-3, (0.9, 0.999), 1e-8, 0.0
    )
    torch.testing.assert_close(params[1].tolist(), expected, rtol=1e-13, atol=0)


def test_closure_sees_the_epsilon_of_the_user() -> None:
    params = new_params()
    optimizer = MatConvNetAdam(params)

    def closure() -> Any:
        assert optimizer.param_groups[0]["eps"] == 1e-8
        optimizer.zero_grad()
        loss = torch.stack([(p**2).sum() for p in params]).sum()
        loss.backward()
        return loss

    first, second = optimizer.step(closure), optimizer.step(closure)
    assert second.item() < first.item()
    assert optimizer.param_groups[0]["steps"] == 2


def test_epsilon_and_count_survive_a_failing_step() -> None:
    embedding = torch.nn.Embedding(5, 2, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    optimizer = MatConvNetAdam(embedding.parameters())
    with pytest.raises(RuntimeError, match="sparse"):
        optimizer.step()
    assert optimizer.param_groups[0]["eps"] == 1e-8
    assert optimizer.param_groups[0]["steps"] == 0


def test_hooks_run_once_even_if_adam_was_used_before() -> None:
    Adam(new_params())
    params = new_params()
    optimizer = MatConvNetAdam(params)
    calls = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("pre"))
    optimizer.register_step_post_hook(lambda *_: calls.append("post"))
    set_grads(params, 0)
    optimizer.step()
    assert calls == ["pre", "post"]


def test_lr_scheduler() -> None:
    params = new_params()
    optimizer = MatConvNetAdam(params, lr=1e-2)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    before = params[0].detach().clone()
    set_grads(params, 0)
    optimizer.step()
    scheduler.step()
    torch.testing.assert_close(
        (params[0] - before).abs(), torch.full_like(before, 1e-2), rtol=1e-3, atol=0
    )
    assert optimizer.param_groups[0]["lr"] == 5e-3


def test_grad_scaler_skips_a_step_as_a_whole(mode: Options) -> None:
    params = [torch.nn.Parameter(torch.ones(3))]
    optimizer = MatConvNetAdam(params, **mode)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for factor in (math.inf, 1.0):
        optimizer.zero_grad()
        scaler.scale((params[0] * factor).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
    assert optimizer.param_groups[0]["steps"] == 1
    torch.testing.assert_close(params[0].detach(), torch.full((3,), 1.0 - 1e-3))


def test_capturable_reads_nothing_on_the_host(no_host_read: FailOnHostRead) -> None:
    params = new_params()
    optimizer = MatConvNetAdam(params, lr=torch.tensor(1e-2), weight_decay=0.1, capturable=True)
    set_grads(params, 0)
    with no_host_read:
        optimizer.step()
        optimizer.step()
    assert optimizer.param_groups[0]["steps"] == 2


def test_capturable_goes_on_from_a_state_that_is_not_and_back() -> None:
    moved = []
    for kinds in ((False, False), (False, True), (True, False)):
        params, state = new_params(), None
        for t, capturable in enumerate(kinds):
            optimizer = MatConvNetAdam(params, lr=1e-2)
            if state is not None:
                optimizer.load_state_dict(state)
            optimizer.param_groups[0].update(capturable=capturable)
            set_grads(params, t)
            optimizer.step()
            state = optimizer.state_dict()
        moved.append(params)
    for params in moved[1:]:
        for p, q in zip(params, moved[0], strict=True):
            torch.testing.assert_close(p, q, rtol=1e-13, atol=1e-15)


def test_capturable_counts_in_a_tensor() -> None:
    optimizer = MatConvNetAdam(new_params(), capturable=True)
    assert isinstance(optimizer.param_groups[0]["steps"], torch.Tensor)
    other = MatConvNetAdam([p.detach().to("meta") for p in new_params()], capturable=True)
    other.load_state_dict(optimizer.state_dict())
    assert other.param_groups[0]["steps"].device.type == "meta"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"eps": -1.0}, ValueError, "Invalid epsilon value: -1.0"),
        ({"betas": (0.9, 1.0)}, ValueError, "Invalid beta parameter at index 1: 1.0"),
        ({"fused": True, "foreach": True}, RuntimeError, "cannot be `True` together"),
        ({"fused": True, "capturable": True}, RuntimeError, "cannot be `True` together"),
    ],
)
def test_invalid_options(options: Options, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        MatConvNetAdam(new_params(), **options)
