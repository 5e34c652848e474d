import hashlib
import math
from pathlib import Path

import pytest
import scipy.io
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bpgrad.data import cifar10, digits, order
from bpgrad.models.lenet import CifarLeNet, DigitsLeNet, MnistLeNet, load_matconvnet_weights

Net = type[MnistLeNet] | type[CifarLeNet] | type[DigitsLeNet]

SHAPES: dict[Net, list[tuple[int, ...]]] = {
    MnistLeNet: [(20, 1, 5, 5), (50, 20, 5, 5), (500, 50, 4, 4), (10, 500, 1, 1)],
    CifarLeNet: [(32, 3, 5, 5), (32, 32, 5, 5), (64, 32, 5, 5), (64, 64, 4, 4), (10, 64, 1, 1)],
    DigitsLeNet: [(20, 1, 3, 3), (50, 20, 3, 3), (500, 50, 2, 2), (10, 500, 1, 1)],
}
IMAGE = {MnistLeNet: (1, 28, 28), CifarLeNet: (3, 32, 32), DigitsLeNet: (1, 8, 8)}
STDS = {
    MnistLeNet: (0.01, 0.01, 0.01, 0.01),
    CifarLeNet: (0.01, 0.05, 0.05, 0.05, 0.05),
    DigitsLeNet: (0.05, 0.05, 0.05, 0.05),
}
NETS = pytest.mark.parametrize("net", SHAPES)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_images(net: Net, n: int = 3) -> Tensor:
    channels, height, width = IMAGE[net]
    pixels = torch.randn(n, height, width, channels, generator=seeded(7), dtype=torch.float64)
    return pixels.permute(0, 3, 1, 2)


def max_pool(x: Tensor) -> Tensor:
    """3×3, stride 2, one row below and one column at the right that never win."""
    return F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-math.inf), 3, 2)


def mean_pool(x: Tensor) -> Tensor:
    """3×3, stride 2, one row below and one column at the right that do not count."""
    cells = F.pad(torch.ones_like(x), (0, 1, 0, 1))
    return F.avg_pool2d(F.pad(x, (0, 1, 0, 1)), 3, 2) / F.avg_pool2d(cells, 3, 2)


def as_printed(net: Net, x: Tensor, parameters: list[Tensor]) -> Tensor:
    """The layers of reference §1 and §2 one by one, every convolution as one."""
    w, b = parameters[::2], parameters[1::2]
    if net is CifarLeNet:
        x = F.conv2d(x, w[0], b[0], padding=2)
        x = max_pool(x)
        x = F.relu(x)
        for k in (1, 2):
            x = F.conv2d(x, w[k], b[k], padding=2)
            x = F.relu(x)
            x = mean_pool(x)
        x = F.conv2d(x, w[3], b[3])
        x = F.relu(x)
        x = F.conv2d(x, w[4], b[4])
    else:
        padding = 1 if net is DigitsLeNet else 0
        for k in (0, 1):
            x = F.conv2d(x, w[k], b[k], padding=padding)
            x = F.max_pool2d(x, 2)
        x = F.conv2d(x, w[2], b[2])
        x = F.relu(x)
        x = F.conv2d(x, w[3], b[3])
    assert x.shape[2:] == (1, 1)
    return x[:, :, 0, 0]


@pytest.mark.parametrize(
    ("net", "count"), [(MnistLeNet, 431_080), (CifarLeNet, 145_578), (DigitsLeNet, 114_760)]
)
def test_parameter_count(net: Net, count: int) -> None:
    assert sum(p.numel() for p in net(seeded()).parameters()) == count


@NETS
def test_parameters_are_weights_and_biases_in_reading_order(net: Net) -> None:
    expected = []
    for k, shape in enumerate(SHAPES[net], start=1):
        expected += [(f"conv{k}.weight", shape), (f"conv{k}.bias", shape[:1])]
    assert [(n, tuple(p.shape)) for n, p in net(seeded()).named_parameters()] == expected


@NETS
def test_initial_weights_are_gaussian_and_biases_zero(net: Net) -> None:
    parameters = list(net(seeded()).parameters())
    for weight, bias, std in zip(parameters[::2], parameters[1::2], STDS[net], strict=True):
        assert not bias.any()
        error = 4 / math.sqrt(weight.numel())  # four standard errors of a mean in units of std
        assert abs(weight.mean()) < error * std
        assert weight.std().item() == pytest.approx(std, rel=error)
        if weight.numel() > 10_000:
            assert weight.abs().max() > 3.5 * std  # not truncated, not uniform


@NETS
def test_initial_weights_depend_on_the_generator_only(net: Net) -> None:
    torch.manual_seed(1)
    first = torch.cat([p.flatten() for p in net(seeded(5)).parameters()])
    torch.manual_seed(2)
    again = torch.cat([p.flatten() for p in net(seeded(5)).parameters()])
    other = torch.cat([p.flatten() for p in net(seeded(6)).parameters()])
    assert torch.equal(first, again)
    assert (first != other).float().mean() > 0.99


def test_initial_weights_are_the_same_on_every_machine() -> None:
    # Fairness hashes of records made on different machines are compared.
    weights = torch.cat([p.detach().flatten() for p in CifarLeNet(seeded(0)).parameters()])
    assert hashlib.sha256(weights.numpy().tobytes()).hexdigest() == (
        "4c3e6b57dace8668b5e82786ceeb249337b9b27a4e1177bd55beaf1b6b8b2e49"
    )


@NETS
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_logits_and_gradients_are_those_of_the_printed_layers(
    net: Net, memory_format: torch.memory_format
) -> None:
    model = net(seeded()).double()
    with torch.no_grad():
        for parameter in model.parameters():  # larger, and with biases, so that all of them matter
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=seeded(3)))
    model.to(memory_format=memory_format)
    images = random_images(net).contiguous(memory_format=memory_format)
    before = images.clone()
    labels = torch.tensor([0, 3, 9])

    copies = [p.detach().clone().requires_grad_() for p in model.parameters()]
    expected = as_printed(net, before, copies)
    expected_gradients = torch.autograd.grad(F.cross_entropy(expected, labels), copies)
    logits = model(images)
    F.cross_entropy(logits, labels).backward()

    assert torch.equal(images, before)
    torch.testing.assert_close(logits, expected)
    for parameter, gradient in zip(model.parameters(), expected_gradients, strict=True):
        assert gradient.any()
        torch.testing.assert_close(parameter.grad, gradient)


@NETS
def test_gradients_keep_the_memory_format_of_the_weights(net: Net) -> None:
    # Otherwise every optimizer step would pay for a transposition.
    model = net(seeded()).to(memory_format=torch.channels_last)
    model(random_images(net).float()).sum().backward()
    for weight in list(model.parameters())[::2]:
        assert weight.grad is not None
        assert weight.grad.is_contiguous(memory_format=torch.channels_last)


@NETS
def test_initial_loss_is_near_that_of_guessing(net: Net) -> None:
    loss = F.cross_entropy(net(seeded())(random_images(net).float()), torch.tensor([1, 2, 3]))
    assert loss.item() == pytest.approx(math.log(10), abs=0.1)


@NETS
def test_images_of_another_size_are_refused(net: Net) -> None:
    channels, height, width = IMAGE[net]
    with pytest.raises(RuntimeError, match="shape"):
        net(seeded())(torch.zeros(2, channels, height + 8, width + 8))


def test_learning_rate_multipliers() -> None:
    model = CifarLeNet(seeded())
    multipliers = model.lr_multipliers()
    assert list(multipliers) == [name for name, _ in model.named_parameters()]
    assert list(multipliers.values()) == [0.1, 2.0] * 4 + [0.01, 0.2]


def test_digits_net_learns_in_a_few_epochs() -> None:
    train, val = digits.load()
    model = DigitsLeNet(seeded()).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    for epoch in range(8):
        for indices in order.train_order(len(train), 0, epoch).split(100):
            images, labels = train.batch(indices)
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
    with torch.no_grad():
        accuracy = (model(val.images).argmax(1) == val.labels).float().mean().item()
    assert accuracy > 0.95


# The authors' weights.


@pytest.fixture
def weights_path(data_root: Path) -> Path:
    path = data_root / "bpgrad" / "Weights_init_cifar10.mat"
    if not path.exists():
        pytest.skip(f"{path} is missing")
    return path


@pytest.mark.realdata
def test_the_authors_weights_in_torch_order(weights_path: Path) -> None:
    model = CifarLeNet(seeded()).double().to(memory_format=torch.channels_last)
    load_matconvnet_weights(model, weights_path.read_bytes())
    cells = scipy.io.loadmat(weights_path)["Weights_init"][0]
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    for layer, index in zip(layers, (0, 3, 6, 9, 11), strict=True):
        filters, biases = cells[index][0]
        assert layer.weight.dtype == torch.float64
        assert layer.weight.is_contiguous(memory_format=torch.channels_last)
        for row, column, source, target in ((0, 0, 0, 0), (-1, 0, 1, 2), (0, -1, 2, 9)):
            assert layer.weight[target, source, row, column] == filters[row, column, source, target]
        assert layer.weight.sum().item() == pytest.approx(filters.sum(dtype="float64"))
        assert layer.bias is not None
        assert layer.bias.tolist() == biases.flatten().tolist()


@pytest.mark.realdata
def test_loss_of_the_authors_weights_on_the_first_hundred_images(
    data_root: Path, weights_path: Path
) -> None:
    model = CifarLeNet(seeded())
    load_matconvnet_weights(model, weights_path.read_bytes())
    images, labels = cifar10.load(data_root)[0].batch(torch.arange(100))
    assert F.cross_entropy(model(images), labels).item() == pytest.approx(2.7502, abs=1e-4)
