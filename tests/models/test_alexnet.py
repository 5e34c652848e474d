import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bpgrad.models.alexnet import AlexNet, Initialisation, fc6_side
from bpgrad.models.batchnorm import EPS, BatchNorm, batch_statistics, reestimated


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small(**options: object) -> AlexNet:
    """The least image, few channels in the full layers."""
    return AlexNet(seeded(), 10, resolution=67, width=8, **options)  # type: ignore[arg-type]


def images(n: int = 2, side: int = 67) -> Tensor:
    return 50 * torch.randn(n, 3, side, side, generator=seeded(1))


SHAPES = {
    "conv1": ((96, 3, 11, 11), (96, 55, 55)),
    "conv2": ((256, 48, 5, 5), (256, 27, 27)),
    "conv3": ((384, 256, 3, 3), (384, 13, 13)),
    "conv4": ((384, 192, 3, 3), (384, 13, 13)),
    "conv5": ((256, 192, 3, 3), (256, 13, 13)),
    "fc6": ((4096, 256, 6, 6), (4096,)),
    "fc7": ((4096, 4096, 1, 1), (4096,)),
    "fc8": ((1000, 4096, 1, 1), (1000,)),
}


@pytest.mark.parametrize(("batch_norm", "count"), [(True, 60_984_360), (False, 60_965_224)])
def test_the_whole_net(batch_norm: bool, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parameters and the output of every layer, as reference §5 has them."""
    # 61 million draws, twice: torch's and ours.
    monkeypatch.setattr(nn.Conv2d, "reset_parameters", lambda _: None)
    monkeypatch.setattr(AlexNet, "_initialise", lambda *_: None)
    net = AlexNet(seeded(), batch_norm=batch_norm).eval()
    seen: dict[str, tuple[int, ...]] = {}
    for name, layer in net.named_children():
        layer.register_forward_hook(
            lambda _, __, output, name=name: seen.update({name: tuple(output.shape[1:])})
        )
    pools: list[int] = []
    pooled = net._pooled
    net._pooled = lambda x: pools.append((y := pooled(x)).shape[-1]) or y  # type: ignore
    with torch.no_grad():
        assert net(torch.zeros(1, 3, 227, 227)).shape == (1, 1000)
    assert sum(p.numel() for p in net.parameters()) == count
    assert pools == [27, 13, 6]
    for name, (weight, output) in SHAPES.items():
        assert (tuple(getattr(net, name).weight.shape), seen[name]) == (weight, output), name
    assert (net.conv1.stride, net.conv2.padding, net.conv3.padding) == ((4, 4), (2, 2), (1, 1))


@pytest.mark.parametrize(("resolution", "side"), [(227, 6), (224, 5), (131, 3), (67, 1)])
def test_fc6_follows_the_images(resolution: int, side: int) -> None:
    assert fc6_side(resolution) == side


def test_images_that_are_too_small_are_refused() -> None:
    with pytest.raises(ValueError, match="resolution=66: AlexNet needs images of at least 67"):
        AlexNet(seeded(), resolution=66)


def test_groups_see_half_of_the_channels() -> None:
    net = small()
    for layer, channels in ((net.conv2, 96), (net.conv4, 384), (net.conv5, 384)):
        x = torch.randn(1, channels, 7, 7, generator=seeded())
        before = layer(x)
        x[:, : channels // 2] = 0
        halves = (layer(x) - before).flatten(2).abs().sum(2).chunk(2, dim=1)
        assert halves[0].all()
        assert not halves[1].any()


@pytest.mark.parametrize("how", ["gaussian", "xavier", "xavierimproved"])
def test_initial_weights(how: Initialisation) -> None:
    net = AlexNet(seeded(), 10, resolution=67, width=300, initialisation=how)
    for name in SHAPES:
        layer = getattr(net, name)
        outputs, inputs, k, _ = layer.weight.shape
        std = {
            "gaussian": 0.01,
            "xavier": 1 / math.sqrt(k * k * inputs),  # of U(±√(3/n))
            "xavierimproved": math.sqrt(2 / (k * k * outputs)),
        }[how]
        if how != "gaussian" and name == "fc8":
            std /= 10
        n = layer.weight.numel()
        # Five standard errors of a standard deviation; a uniform one has a smaller error.
        assert float(layer.weight.detach().std()) == pytest.approx(std, rel=5 / math.sqrt(2 * n)), (
            name
        )
        if how == "xavier":
            assert float(layer.weight.detach().abs().max()) <= std * math.sqrt(3) * (1 + 1e-6)
        assert not layer.bias.any()
    again = AlexNet(seeded(), 10, resolution=67, width=300, initialisation=how)
    assert all(map(torch.equal, net.state_dict().values(), again.state_dict().values()))


def test_multipliers() -> None:
    net = small()
    rates, decays = net.lr_multipliers(), net.decay_multipliers()
    found = {n: (rates.get(n, 1.0), decays.get(n, 1.0)) for n, _ in net.named_parameters()}
    assert len(found) == 2 * 8 + 2 * 7
    for name, pair in found.items():
        kind = name.rpartition(".")[2]
        expected = {
            "bn": {"weight": (2, 0), "bias": (1, 0)},
            "co": {"weight": (1, 1), "bias": (2, 0)},
            "fc": {"weight": (1, 1), "bias": (2, 0)},
        }
        assert pair == expected[name[:2]][kind], name


def test_without_batch_normalisation_there_are_lrn_and_dropout() -> None:
    net = small(batch_norm=False).double()
    x = images().double()
    keep = torch.rand(2, 16, generator=seeded()) < 0.5

    def lrn(x: Tensor) -> Tensor:
        """Reference §5: x / (κ + α Σ x²)^β over 5 channels, [5 1 2e-5 0.75]."""
        padded = F.pad(x.square(), (0, 0, 0, 0, 2, 2))
        sums = torch.stack([padded[:, c : c + 5].sum(1) for c in range(x.shape[1])], 1)
        return x / (1 + 2e-5 * sums) ** 0.75

    w = {name: p.detach() for name, p in net.named_parameters()}

    def conv(x: Tensor, name: str, **how: int) -> Tensor:
        return F.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], **how).relu()

    y = F.max_pool2d(lrn(conv(x, "conv1", stride=4)), 3, 2)
    y = F.max_pool2d(lrn(conv(y, "conv2", padding=2, groups=2)), 3, 2)
    y = conv(y, "conv3", padding=1)
    y = conv(y, "conv4", padding=1, groups=2)
    y = F.max_pool2d(conv(y, "conv5", padding=1, groups=2), 3, 2)
    y = conv(y, "fc6") * keep[:, :8, None, None] * 2
    y = conv(y, "fc7") * keep[:, 8:, None, None] * 2
    logits = F.conv2d(y, w["fc8.weight"], w["fc8.bias"]).flatten(1)
    # Float64; the order of sums is the library's.
    torch.testing.assert_close(net(x, keep), logits, rtol=1e-9, atol=1e-15)
    assert not torch.equal(net(x), logits)  # nothing dropped
    assert not any(isinstance(module, BatchNorm) for module in net.modules())


def test_with_batch_normalisation_the_layers_are_those_of_the_reference() -> None:
    net = small().double()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=seeded(2), dtype=torch.float64))
    w = {name: p.detach() for name, p in net.named_parameters()}

    def layer(x: Tensor, name: str, **how: int) -> Tensor:
        y = F.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], **how)
        dims = (0, 2, 3)
        mean = y.mean(dims, keepdim=True)
        sigma = ((y - mean).square().mean(dims, keepdim=True) + 1e-4).sqrt()
        k = name[-1]
        scale, shift = (w[f"bn{k}.{n}"][None, :, None, None] for n in ("weight", "bias"))
        return ((y - mean) / sigma * scale + shift).relu()

    y = F.max_pool2d(layer(images().double(), "conv1", stride=4), 3, 2)
    y = F.max_pool2d(layer(y, "conv2", padding=2, groups=2), 3, 2)
    y = layer(layer(y, "conv3", padding=1), "conv4", padding=1, groups=2)
    y = F.max_pool2d(layer(y, "conv5", padding=1, groups=2), 3, 2)
    y = layer(layer(y, "fc6"), "fc7")
    logits = F.conv2d(y, w["fc8.weight"], w["fc8.bias"]).flatten(1)
    torch.testing.assert_close(net(images().double()), logits, rtol=1e-9, atol=1e-12)


# -- batch normalisation --------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(6, 5, 3, 4), (6, 5)])
def test_what_moves_is_the_mean_and_sigma_of_the_biased_variance(shape: tuple[int, ...]) -> None:
    layer = BatchNorm(5).double()
    mean, sigma = torch.zeros(5).double(), torch.ones(5).double()
    for seed in range(3):
        x = 3 + 2 * torch.randn(shape, generator=seeded(seed), dtype=torch.float64)
        layer(x)
        columns = x.transpose(0, 1).flatten(1)
        mean = 0.9 * mean + 0.1 * columns.mean(1)
        sigma = 0.9 * sigma + 0.1 * (columns.var(1, correction=0) + 1e-4).sqrt()
    torch.testing.assert_close(layer.running_mean, mean)
    torch.testing.assert_close(layer.running_sigma, sigma)
    # torch moves the variance, and the unbiased one: another number.
    theirs = nn.BatchNorm1d(5, eps=1e-4).double()
    if len(shape) == 2:
        for seed in range(3):
            theirs(3 + 2 * torch.randn(shape, generator=seeded(seed), dtype=torch.float64))
        assert ((theirs.running_var + 1e-4).sqrt() - sigma).abs().min() > 1e-3  # type: ignore
    layer.eval()
    x = torch.randn(shape, generator=seeded(9), dtype=torch.float64)
    view = (1, 5) + (1,) * (len(shape) - 2)
    torch.testing.assert_close(layer(x), (x - mean.view(view)) / sigma.view(view))


def test_gradients_are_those_of_torch() -> None:
    x = torch.randn(6, 5, 3, 3, generator=seeded(), dtype=torch.float64)
    theirs, ours = nn.BatchNorm2d(5, eps=EPS).double(), BatchNorm(5).double()
    found = []
    for layer in (theirs, ours):
        given = x.clone().requires_grad_()
        layer(given).pow(3).sum().backward()
        found.append((given.grad, layer.weight.grad, layer.bias.grad))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("shape", [(6, 5, 3, 3), (6, 5)])
def test_over_processes_it_is_the_same(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one process's sums as those of all: values, statistics and gradients."""
    monkeypatch.setattr("bpgrad.models.batchnorm.dist.all_reduce", lambda tensor: None)
    x = 3 + torch.randn(shape, generator=seeded())
    layer, found = BatchNorm(5), []
    for compute in (
        layer._over_processes,
        lambda x: torch.native_batch_norm(x, layer.weight, layer.bias, None, None, True, 0.0, EPS),
    ):
        given = x.clone().requires_grad_()
        output, mean, inverse = compute(given)
        output.pow(3).sum().backward()
        found.append((output, mean, inverse, given.grad))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)  # float32


def test_a_batch_of_one_value_a_channel_becomes_beta() -> None:
    layer = BatchNorm(3)
    with torch.no_grad():
        layer.bias.copy_(torch.tensor([1.0, 2.0, 3.0]))
    assert layer(torch.tensor([[7.0, 8.0, 9.0]])).tolist() == [[1.0, 2.0, 3.0]]


def test_reestimated_statistics_are_those_of_all_that_is_put_through() -> None:
    """Of batches of different sizes; afterwards everything is as it was."""
    layer = BatchNorm(5).double()
    parts = [torch.randn(n, 5, 2, 2, generator=seeded(n), dtype=torch.float64) for n in (3, 8)]
    layer(parts[0])
    before = {name: value.clone() for name, value in layer.state_dict().items()}

    def run() -> None:
        for part in parts:
            layer(part)

    with reestimated(layer, run):
        assert not layer.training
        columns = torch.cat(parts).transpose(0, 1).flatten(1)
        torch.testing.assert_close(layer.running_mean, columns.mean(1))
        sigma = (columns.var(1, correction=0) + EPS).sqrt()
        torch.testing.assert_close(layer.running_sigma, sigma)
    assert layer.training
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())
    with pytest.raises(ZeroDivisionError), reestimated(layer, lambda: 1 // 0):  # type: ignore
        pass
    assert layer.training
    assert layer.sums is None
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


def test_deeper_layers_are_estimated_on_what_reaches_them_in_training() -> None:
    net = nn.Sequential(BatchNorm(3), nn.ReLU(), BatchNorm(3)).double()
    x = torch.randn(50, 3, generator=seeded(), dtype=torch.float64)
    with reestimated(net, lambda: [net(x)].clear()):  # one batch: its statistics are all there is
        found = net(x)
    torch.testing.assert_close(found, net(x))


def test_batch_statistics_move_nothing() -> None:
    layer = BatchNorm(3)
    layer.eval()
    x = torch.randn(50, 3, generator=seeded())
    with batch_statistics(layer):
        assert layer(x).mean(0).abs().max() < 1e-6
    assert not layer.running_mean.any()
    assert layer.running_sigma.unique().tolist() == [1.0]
