"""The compiled CPU kernel: what it takes, what it leaves to torch, and that it is right."""

import ctypes
import math
import pickle
import subprocess
import weakref
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from bpgrad.optim import BPGrad, _fused
from tests.kernel import needs_kernel

DTYPES = [torch.float32, torch.float64, torch.bfloat16]

pytestmark = needs_kernel


@pytest.fixture
def without_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bpgrad.optim._fused.kernel", lambda: None)


def draw(shape: tuple[int, ...], seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def parameter(value: torch.Tensor, gradient: torch.Tensor) -> Any:
    p = torch.nn.Parameter(value)
    p.grad = gradient
    return p


def ulps(one: torch.Tensor, other: torch.Tensor) -> float:
    """Largest difference, in units of the last place of the largest element of ``other``."""
    difference = (one.double() - other.double()).abs().max().item()
    scale = 2.0 ** math.floor(math.log2(other.abs().max().item()))
    return float(difference / (scale * torch.finfo(other.dtype).eps))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("variant", ["paper", "released"])
@pytest.mark.parametrize("decay", [0.0, 5e-3])
def test_all_modes_agree_within_ulps(dtype: torch.dtype, variant: str, decay: float) -> None:
    """50 steps, two groups; 40000 elements are several blocks and a rest."""
    shapes = ((40_003,), (7, 3), (5, 4, 3, 3), (33,))
    runs = []
    for mode in ({"foreach": False}, {"foreach": True}, {"fused": True}):
        params = [torch.nn.Parameter(draw(s, k, dtype)) for k, s in enumerate(shapes)]
        params[2].data = params[2].data.to(memory_format=torch.channels_last)
        groups = [
            {"params": params[:2]},
            {"params": params[2:3], "lr": 0.5, "momentum": 0.0, "lipschitz": 20.0},
            {"params": params[3:], "lipschitz": "auto"},
        ]
        options: dict[str, Any] = mode
        optimizer = BPGrad(groups, 5.0, variant=variant, weight_decay=decay, **options)
        for t in range(50):
            for k, p in enumerate(params):
                p.grad = draw(shapes[k], 100 * t + k, dtype)
            params[2].grad = params[2].grad.to(memory_format=torch.channels_last)  # type: ignore
            optimizer.step(loss=2.0 + math.cos(t))
        runs.append((params, optimizer))
    (loop, first), *others = runs
    for params, optimizer in others:
        for p, q in zip(params, loop, strict=True):
            # bfloat16: where the roundings are made differs between the three.
            assert ulps(p.detach(), q.detach()) <= (8 if dtype == torch.bfloat16 else 2)
        for name in ("step_size", "f_min", "grad_norm", "lipschitz_estimate"):
            one, other = getattr(optimizer, name), getattr(first, name)
            # the norm follows weights that differ by the roundings above
            torch.testing.assert_close(
                one, other, rtol=1e-3 if dtype == torch.bfloat16 else 1e-6, atol=0.0
            )
        for name in ("step", "skipped_steps", "exceeded_steps"):
            assert optimizer.param_groups[0][name] == first.param_groups[0][name]


def layouts() -> dict[str, tuple[torch.Tensor, bool]]:
    """Parameters of 6 × 4 × 2 × 3 by name, and whether the kernel takes them."""
    base = draw((6, 4, 2, 3), 0)
    wide = draw((12, 4, 2, 3), 1)
    return {
        "contiguous": (base.clone(), True),
        "channels_last": (base.clone().to(memory_format=torch.channels_last), True),
        "transposed": (base.clone().transpose(0, 3), True),
        "every second row": (wide[::2], False),
        "a column": (draw((6, 4, 2, 4), 2)[..., :3], False),
        "expanded": (draw((1, 4, 2, 3), 3).expand(6, 4, 2, 3), False),
        "empty": (torch.zeros(0, 3, dtype=torch.float64), True),
        "scalar": (torch.tensor(2.0, dtype=torch.float64), True),
    }


@pytest.mark.parametrize("name", [n for n in layouts() if n != "expanded"])
def test_every_layout_gives_the_result_of_the_loop(name: str) -> None:
    moved = []
    for mode in ({}, {"foreach": False}):
        value, taken = layouts()[name]
        storage = value.untyped_storage()
        p = parameter(value, torch.empty_like(value).copy_(draw(tuple(value.shape), 9)))
        p.grad = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype).copy_(p.grad)
        options: dict[str, Any] = mode
        optimizer = BPGrad([p], 5.0, weight_decay=0.1, **options)
        velocity = torch.zeros_like(p)
        assert _fused.fits(p, p.grad, torch.empty_like(p.grad)) == taken or velocity.numel() == 0
        for _ in range(3):
            optimizer.step(loss=1.0)
        moved.append(torch.tensor([], dtype=value.dtype).set_(storage))  # type: ignore[call-overload]
    # the whole memory, what lies between the elements of the parameter included
    torch.testing.assert_close(moved[0], moved[1], rtol=1e-14, atol=1e-15)


def test_layouts_are_known_for_what_they_are() -> None:
    for name, (value, taken) in layouts().items():
        assert _fused.is_dense(value) == taken, name


@given(st.permutations(range(4)), st.lists(st.integers(1, 3), min_size=4, max_size=4))
@settings(max_examples=60, deadline=None)
def test_dense_is_one_stretch_of_memory(order: list[int], sizes: list[int]) -> None:
    tensor = torch.zeros(sizes).permute(order)
    assert _fused.is_dense(tensor)
    every_second = torch.zeros([2 * s for s in sizes])[::2].permute(order)
    reached = {
        sum(i * s for i, s in zip(index, every_second.stride(), strict=True))
        for index in torch.cartesian_prod(*[torch.arange(n) for n in every_second.shape]).tolist()
    }
    assert _fused.is_dense(every_second) == (reached == set(range(every_second.numel())))


def test_dimensions_of_size_one_have_any_stride() -> None:
    """Gradients of such convolutions in channels_last come with other strides, same order."""
    weight = torch.randn(4, 1, 3, 3).to(memory_format=torch.channels_last)
    gradient = torch.randn(4, 1, 3, 3)
    assert weight.stride() != gradient.stride()
    assert not _fused.same_layout(torch.zeros(2, 3), torch.zeros(3, 2).T)
    moved = []
    for mode in ({"fused": True}, {"foreach": False}):
        options: dict[str, Any] = mode
        p = parameter(weight.clone(), gradient.clone())
        BPGrad([p], 3.0, weight_decay=0.1, **options).step(loss=2.0)
        moved.append(p.detach())
    torch.testing.assert_close(moved[0], moved[1], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    "change",
    [
        lambda p: setattr(p, "data", p.data.half()) or setattr(p, "grad", p.grad.half()),
        lambda p: setattr(p, "grad", p.grad.t().contiguous().t()),
        lambda p: setattr(p, "grad", torch.view_as_complex(torch.randn(4, 4, 2)).conj().imag),
    ],
    ids=["float16", "gradient of another layout", "gradient with the negative bit"],
)
def test_what_the_kernel_does_not_take_goes_to_torch(change: Any) -> None:
    p = parameter(draw((4, 4), 0, torch.float32), draw((4, 4), 1, torch.float32))
    change(p)
    q = deepcopy(p)
    q.grad = p.grad.clone()
    BPGrad([p], 3.0).step(loss=1.0)
    BPGrad([q], 3.0, foreach=False).step(loss=1.0)
    torch.testing.assert_close(p, q)
    with pytest.raises(RuntimeError, match="`fused=True` needs dense"):
        BPGrad([p], 3.0, fused=True).step(loss=1.0)


def test_the_result_does_not_depend_on_the_number_of_threads() -> None:
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            p = parameter(draw((300_001,), 0, torch.float32), draw((300_001,), 1, torch.float32))
            optimizer = BPGrad([p], 3.0, weight_decay=1e-3, fused=True)
            optimizer.step(loss=1.0)
            results.append((p.detach(), optimizer.grad_norm))
    finally:
        torch.set_num_threads(before)
    for weights, norm in results[1:]:
        assert torch.equal(weights, results[0][0])
        assert torch.equal(norm, results[0][1])


def test_bfloat16_is_rounded_to_nearest_once() -> None:
    """With μ = 0 and w = 0 the weights become −(η/‖g‖) g, as torch would round it."""
    special = torch.tensor([3e38, 1e-38, -0.0, 1.0], dtype=torch.bfloat16)
    gradient = torch.cat([draw((4096,), 5, torch.bfloat16), special[1:]])
    p = parameter(torch.zeros_like(gradient), gradient)
    norm = gradient.double().norm().item()
    BPGrad([p], 1.0, rho=0.0, momentum=0.0, fused=True).step(loss=0.7 * norm)
    assert torch.equal(p.detach(), -(gradient.float() * 0.7).bfloat16())


def test_autograd_notices_that_the_parameters_have_changed() -> None:
    p = parameter(draw((5,), 0), draw((5,), 1))
    loss = (p * p).sum()
    BPGrad([p], 3.0, fused=True).step(loss=1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_without_a_compiler_torch_takes_the_step(without_kernel: None) -> None:
    p, q = (parameter(draw((9,), 0), draw((9,), 1)) for _ in range(2))
    BPGrad([p], 3.0).step(loss=1.0)
    BPGrad([q], 3.0, foreach=True).step(loss=1.0)
    assert torch.equal(p, q)
    with pytest.raises(RuntimeError, match="which was not built"):
        BPGrad([p], 3.0, fused=True)


def test_a_library_of_other_sources_is_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda path: object())
    assert _fused.kernel.__wrapped__() is None


@pytest.mark.parametrize("name", ["exceeded_steps", "max_grad_norm", "lipschitz_estimate"])
def test_states_saved_before_a_scalar_existed(name: str) -> None:
    p = parameter(draw((5,), 0), draw((5,), 1))
    optimizer = BPGrad([p], 3.0)
    optimizer.step(loss=1.0)
    state = deepcopy(optimizer.state_dict())
    del state["param_groups"][0][name]
    other = BPGrad([p], 3.0)
    other.load_state_dict(state)
    assert other.param_groups[0][name].item() == 0
    other.step(loss=1.0)
    assert other.param_groups[0]["step"].item() == 2


def test_a_gradient_of_norm_L_is_allowed() -> None:
    p = parameter(torch.zeros(4), torch.full((4,), 1.0))
    optimizer = BPGrad([p], 2.0)
    optimizer.step(loss=1.0)
    assert optimizer.exceeded_steps.item() == 0


# --- what is remembered from one step to the next -------------------------------------------------


def new_gradient(optimizer: BPGrad, params: list[Any]) -> None:
    params[0].grad = draw((4, 4), 50)


def no_gradient_for_a_step(optimizer: BPGrad, params: list[Any]) -> None:
    params[1].grad = None
    optimizer.step(loss=0.8)
    params[1].grad = draw((40_003,), 51)


def other_memory(optimizer: BPGrad, params: list[Any]) -> None:
    params[0].data = params[0].data.clone()


def same_memory_transposed(optimizer: BPGrad, params: list[Any]) -> None:
    params[0].data = params[0].data.t()


def everything_transposed(optimizer: BPGrad, params: list[Any]) -> None:
    params[0].data = params[0].data.t()
    params[0].grad.t_()
    optimizer.state[params[0]]["momentum_buffer"].t_()


def gradient_transposed(optimizer: BPGrad, params: list[Any]) -> None:
    params[0].grad.t_()


def velocity_transposed(optimizer: BPGrad, params: list[Any]) -> None:
    optimizer.state[params[0]]["momentum_buffer"].t_()


def gaps(optimizer: BPGrad, params: list[Any]) -> None:
    params[0].data = torch.cat([params[0].data, params[0].data], dim=1)[:, :4]


def negative_bit(optimizer: BPGrad, params: list[Any]) -> None:
    params[2].grad = torch._neg_view(params[2].grad)  # type: ignore[attr-defined]


def other_dtype(optimizer: BPGrad, params: list[Any]) -> None:
    for tensor in (params[0], params[0].grad, optimizer.state[params[0]]["momentum_buffer"]):
        tensor.data = tensor.data.float()


def loaded_state(optimizer: BPGrad, params: list[Any]) -> None:
    state = optimizer.state_dict()
    state["state"][0]["momentum_buffer"] = draw((4, 4), 52)
    state["param_groups"][0]["f_min"] = torch.tensor(0.1, dtype=torch.float64)
    optimizer.load_state_dict(state)


def one_group_more(optimizer: BPGrad, params: list[Any]) -> None:
    params.append(parameter(draw((6,), 53), draw((6,), 54)))
    optimizer.add_param_group({"params": params[-1:], "lr": 0.3})


def another_group(optimizer: BPGrad, params: list[Any]) -> None:
    one, other = optimizer.param_groups
    other["params"].insert(0, one["params"].pop())


def other_options(optimizer: BPGrad, params: list[Any]) -> None:
    optimizer.param_groups[0].update(lr=0.7, momentum=0.2)
    optimizer.param_groups[1].update(weight_decay=0.4, lipschitz=7.0)


CHANGES = (
    *(new_gradient, no_gradient_for_a_step, other_memory, same_memory_transposed),
    *(everything_transposed, gradient_transposed, velocity_transposed, gaps, negative_bit),
    *(other_dtype, loaded_state, one_group_more, another_group, other_options),
)


def change_between_steps(mode: dict[str, Any], change: Any) -> tuple[list[Any], BPGrad]:
    params = [
        parameter(draw(s, k), draw(s, 9 + k)) for k, s in enumerate(((4, 4), (40_003,), (5,)))
    ]
    groups = [{"params": params[:2]}, {"params": params[2:], "lr": 0.5, "momentum": 0.3}]
    optimizer = BPGrad(groups, 5.0, weight_decay=0.1, **mode)
    for loss in (1.0, 0.9):
        optimizer.step(loss=loss)
    change(optimizer, params)
    for loss in (0.7, 0.6):
        optimizer.step(loss=loss)
    return params, optimizer


def difference(change: Any) -> float:
    fused, loop = (change_between_steps(mode, change)[0] for mode in ({}, {"foreach": False}))
    pairs = zip(fused, loop, strict=True)
    return max((p.double() - q.double()).abs().max().item() for p, q in pairs)


@pytest.mark.parametrize("guards", [True, False], ids=["", "without torch's guards"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_between_two_steps_is_noticed(
    change: Any, guards: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not guards:
        monkeypatch.setattr(_fused, "TensorGuards", None)
    assert difference(change) < (1e-6 if change is other_dtype else 1e-13)


@pytest.mark.parametrize(
    "change",
    [same_memory_transposed, gradient_transposed, velocity_transposed, another_group, gaps],
)
def test_a_change_that_is_not_noticed_would_be_found(
    change: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_fused.Layout, "describes", lambda *_: True)
    assert difference(change) > 1e-4


@pytest.mark.skipif(_fused.TensorGuards is None, reason="this torch has no such guards")
def test_the_layout_is_looked_at_again_only_after_a_change() -> None:
    seen: list[Any] = []

    def look(optimizer: BPGrad, params: list[Any]) -> None:
        seen.append(optimizer._layout)
        for p in params:
            p.grad = p.grad.clone()

    params, optimizer = change_between_steps({}, look)
    assert seen[0] is not None
    assert optimizer._layout is seen[0]  # gradients elsewhere in memory, laid out as before
    everything_transposed(optimizer, params)  # of a square matrix: only the strides change
    params[0].data = params[0].data.t().contiguous().t()
    optimizer.step(loss=0.5)
    assert optimizer._layout is not seen[0]


@pytest.mark.parametrize("wanted", [ImportError, TypeError])
def test_guards_that_torch_has_changed_are_not_used(
    wanted: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def changed(*tensors: Any, **options: Any) -> None:
        raise wanted

    monkeypatch.setattr(_fused, "TensorGuards", None if wanted is ImportError else changed)
    assert _fused.guard([torch.zeros(3)]) is None


def test_no_gradient_is_kept_alive() -> None:
    p = parameter(draw((5,), 0), draw((5,), 1))
    gradient = weakref.ref(p.grad)
    optimizer = BPGrad([p], 3.0, fused=True)
    optimizer.step(loss=1.0)
    optimizer.zero_grad()
    assert gradient() is None


def test_a_gradient_that_is_shorter_than_its_parameter_is_not_walked_past() -> None:
    p = parameter(draw((4,), 0), draw((4,), 1))
    optimizer = BPGrad([p], 3.0, fused=True)
    optimizer.step(loss=1.0)
    p.data = draw((4000,), 2)
    with pytest.raises(RuntimeError, match="`fused=True` needs dense"):
        optimizer.step(loss=1.0)


def test_copies_go_on_as_the_original_does() -> None:
    params, optimizer = change_between_steps({"fused": True}, new_gradient)
    copies = [deepcopy((params, optimizer)), pickle.loads(pickle.dumps((params, optimizer)))]
    optimizer.step(loss=0.5)
    for others, copy in copies:
        for p, q in zip(params, others, strict=True):
            assert p.data_ptr() != q.data_ptr()
            q.grad = p.grad.clone()
        copy.step(loss=0.5)
        for p, q in zip(params, others, strict=True):
            assert torch.equal(p, q)


def test_two_optimizers_of_the_same_parameters() -> None:
    moved = []
    for mode in ({"fused": True}, {"foreach": False}):
        options: dict[str, Any] = mode
        params = [parameter(draw((9, 2), k), draw((9, 2), 9 + k)) for k in range(3)]
        one, other = BPGrad(params, 3.0, **options), BPGrad(params[1:], 4.0, rho=0.5, **options)
        for k in range(6):
            (one, other)[k % 2].step(loss=1.0 / (1 + k))
        moved.append(params)
    for p, q in zip(*moved, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-13, atol=1e-14)


def test_one_gradient_of_two_parameters() -> None:
    """Torch's guards take no tensor twice."""
    gradient = draw((7,), 3)
    moved = []
    for mode in ({"fused": True}, {"foreach": False}):
        options: dict[str, Any] = mode
        params = [parameter(draw((7,), k), gradient) for k in range(2)]
        optimizer = BPGrad(params, 3.0, **options)
        for _ in range(3):
            optimizer.step(loss=1.0)
        moved.append(params)
    for p, q in zip(*moved, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-13, atol=1e-14)


# --- teeth: mistakes in the kernel's source that the comparison with the loop has to find ---------

MUTANTS = {
    "decay outside the norm": ("paper ? group[list[b].group].weight_decay : 0", "0"),
    "decay inside the released norm": ("paper ? group[list[b].", "1 ? group[list[b]."),
    "decay of the first group": ("[list[b].group].weight_decay", "[0].weight_decay"),
    "mean for the sum": ("norm = sqrt(norm)", "norm = sqrt(norm / elements)"),
    "root missing": ("norm = sqrt(norm)", "norm = norm"),
    "rest of a tensor left out of the norm": ("for (; i < n; i++) {", "for (; i < n - 1; i++) {"),
    "weights left out of the rest": ("decay == 0 ? LOAD(g[i])", "1 ? LOAD(g[i])"),
    "last block left out": ("b < last; b++", "b < last - 1; b++"),
    "blocks of a run not updated": ("run.count += list[b].count", "run.count += 0"),
    "every run taken for a long one": ("end = b) {", "end -= RUN) {"),
    "gradients for parameters": ("address[tensors + t]", "address[t]"),
    "uphill": ("-(paper ? eta : 1) / norm", "(paper ? eta : 1) / norm"),
    "eta of the first group": ("*scalars[run.group].step_size;", "*scalars[0].step_size;"),
    "eta inside both variants": ("scale, paper ? 1 : eta)", "scale, 1)"),
    "minimum without the current loss": (
        "gap = fmax(f - rho * *global->f_min",
        "gap = fmax(f - rho * f",
    ),
    "maximum for minimum": ("= fmin(*global->f_min, f)", "= fmax(*global->f_min, f)"),
    "L dropped": ("/ lipschitz : 0", ": 0"),
    "L of the estimate dropped": ("group[k].lipschitz : estimate", "group[k].lipschitz : 1"),
    "estimate of the largest norm": ("memory * *global", "*global"),
    "estimate of the last norm": (
        "fmax(margin * norm, memory * *global->lipschitz_estimate)",
        "margin * norm",
    ),
    "estimate without margin": ("fmax(margin * norm", "fmax(norm"),
    "lr dropped": ("gap * *scalars[k].lr", "gap"),
    "skipped steps taken": ("!(fabs(f) + norm < INFINITY)", "0"),
}


def walk(mode: dict[str, Any], variant: str) -> torch.Tensor:
    """All weights after eight steps of two groups, one step with a gradient that is NaN."""
    shapes = ((40_003,), (7, 3), (33,), (2, 2))
    params: Any = [torch.nn.Parameter(draw(s, k)) for k, s in enumerate(shapes)]
    groups = [
        {"params": params[:2], "weight_decay": 0.3},
        {"params": params[2:3], "lr": 0.5, "momentum": 0.0, "lipschitz": 20.0},
        {"params": params[3:], "lr": 30.0, "lipschitz": "auto"},
    ]
    optimizer = BPGrad(groups, 5.0, variant=variant, **mode)
    for t in range(8):
        for k, p in enumerate(params):
            p.grad = draw(shapes[k], 100 * t + k) * 0.9**t  # the estimate remembers the first
        if t == 5:
            params[1].grad[0, 0] = math.nan
        optimizer.step(loss=3.0 - t + 0.4 * t * t)
    return torch.cat([p.detach().flatten() for p in params])


@pytest.mark.parametrize("label", MUTANTS)
def test_a_mistake_in_the_kernel_is_found(
    label: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = MUTANTS[label]
    source = Path(_fused.__file__).with_name("_cpu_kernel.c").read_text()
    assert old in source
    changed = tmp_path / "mutant.c"
    changed.write_text(source.replace(old, new))
    library = tmp_path / "mutant.so"
    command = ["cc", "-O1", "-w", "-fPIC", "-shared", "-fopenmp", str(changed), "-o", str(library)]
    subprocess.run([*command, "-lm"], check=True)
    function = ctypes.CDLL(str(library)).bpgrad_step_3
    real = _fused.kernel()
    assert real is not None
    function.argtypes = real.argtypes
    differs = []
    for variant in ("paper", "released"):
        reference = walk({"foreach": False}, variant)
        torch.testing.assert_close(
            walk({"fused": True}, variant), reference, rtol=1e-12, atol=1e-14
        )
        with monkeypatch.context() as patch:
            patch.setattr(_fused, "kernel", lambda: function)
            moved = walk({"fused": True}, variant)
        differs.append(not torch.allclose(moved, reference, rtol=1e-9, atol=1e-12))
    assert any(differs)


class LargestResult(TorchDispatchMode):
    """Remembers the size of the largest tensor that any operation returns."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, torch.Tensor):
                self.elements = max(self.elements, value.numel())
        return result


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_a_step_allocates_nothing_of_the_size_of_the_parameters(variant: str) -> None:
    def largest(mode: dict[str, Any]) -> int:
        p = parameter(draw((1000,), 0), draw((1000,), 1))
        optimizer = BPGrad([p], 3.0, weight_decay=0.1, variant=variant, **mode)
        optimizer.step(loss=1.0)  # the velocity is made now
        with LargestResult() as seen:
            optimizer.step(loss=1.0)
        return seen.elements

    assert largest({"fused": True}) <= 1
    assert largest({"foreach": True}) == 1000  # the check can fail


@pytest.mark.parametrize("target", DTYPES, ids=str)
def test_a_state_is_loaded_into_parameters_of_another_dtype(target: torch.dtype) -> None:
    p = parameter(draw((50,), 0, torch.float32), draw((50,), 1, torch.float32))
    optimizer = BPGrad([p], 3.0, momentum=0.5)
    optimizer.step(loss=1.0)
    q = parameter(p.detach().to(target), p.grad.to(target))
    other = BPGrad([q], 3.0, momentum=0.5)
    other.load_state_dict(optimizer.state_dict())
    assert other.state[q]["momentum_buffer"].dtype == target
    assert other.f_min.dtype == torch.float64
    optimizer.step(loss=0.7)
    other.step(loss=0.7)
    tolerance = 2e-2 if target == torch.bfloat16 else 1e-6
    torch.testing.assert_close(q.detach().float(), p.detach(), rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(other.step_size, optimizer.step_size, rtol=0.0, atol=0.0)
