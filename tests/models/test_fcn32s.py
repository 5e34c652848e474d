from collections.abc import Mapping

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bpgrad.models.backbones import (
    KeyedDropout,
    load_trunk,
    squeezenet_trunk,
    vgg16_trunk,
)
from bpgrad.models.fcn32s import FCN32s, bilinear_kernel, upsample, vgg16_fcn32s
from bpgrad.optim import BPGrad

CHANNELS = (2, 2, 3, 3, 4)
HIDDEN = 5


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def vgg_state(*, classifier: bool = True) -> dict[str, Tensor]:
    """Random weights of a narrow VGG-16, by torchvision's names."""
    trunk = vgg16_trunk(CHANNELS)
    shapes = {f"features.{name}": p.shape for name, p in trunk.state_dict().items()}
    if classifier:
        shapes |= {
            "classifier.0.weight": (HIDDEN, 49 * CHANNELS[-1]),
            "classifier.0.bias": (HIDDEN,),
            "classifier.3.weight": (HIDDEN, HIDDEN),
            "classifier.3.bias": (HIDDEN,),
        }
    draw = seeded(3)
    return {name: 0.3 * torch.randn(*shape, generator=draw) for name, shape in shapes.items()}


def narrow(state: Mapping[str, Tensor] | None = None, **options: object) -> FCN32s:
    given = vgg_state() if state is None else state
    return vgg16_fcn32s(given, seeded(), channels=CHANNELS, hidden=HIDDEN, **options)  # type: ignore[arg-type]


# -- trunks --------------------------------------------------------------------------------------


def test_the_trunks_are_torchvisions() -> None:
    """With its names, and on inputs of a multiple of 32 its values."""
    models = pytest.importorskip("torchvision.models")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = models.squeezenet1_1(weights=None).eval()
    images = torch.randn(2, 3, 95, 64, generator=seeded())
    ours = squeezenet_trunk(padding=0)
    load_trunk(ours, theirs.state_dict())
    torch.testing.assert_close(ours(images), theirs.features(images))
    names = [
        name for name in models.vgg16(weights=None).state_dict() if name.startswith("features")
    ]
    assert [f"features.{name}" for name in vgg16_trunk(CHANNELS).state_dict()] == names


@pytest.mark.parametrize(("size", "cells"), [(64, 4), (80, 5), (112, 7)])
def test_squeezenet_has_a_cell_for_each_16_pixels(size: int, cells: int) -> None:
    assert squeezenet_trunk()(torch.zeros(1, 3, size, size)).shape == (1, 512, cells, cells)


@pytest.mark.parametrize(("size", "cells"), [(64, 2), (65, 3), (97, 4)])
def test_pools_round_up(size: int, cells: int) -> None:
    assert vgg16_trunk(CHANNELS)(torch.zeros(1, 3, size, 32)).shape == (1, 4, cells, 1)


# -- the surgery ---------------------------------------------------------------------------------


def test_converted_fc6_and_fc7_are_the_linear_layers() -> None:
    """Where the 7×7 window lies inside the features."""
    state = vgg_state()
    model = narrow(state, dropout=False).double()
    features = torch.randn(2, CHANNELS[-1], 9, 8, generator=seeded(), dtype=torch.float64)
    x = features
    for layer in model.hidden:
        x = F.relu(layer(x))
    for row, column in ((3, 3), (5, 4)):
        window = features[:, :, row - 3 : row + 4, column - 3 : column + 4].flatten(1)
        y = window
        for name in ("classifier.0", "classifier.3"):
            weight, bias = state[f"{name}.weight"].double(), state[f"{name}.bias"].double()
            y = F.relu(F.linear(y, weight, bias))
        torch.testing.assert_close(x[:, :, row, column], y)


def test_without_a_classifier_the_hidden_layers_are_drawn() -> None:
    one, other = narrow(vgg_state(classifier=False)), narrow(vgg_state(classifier=False))
    weight = one.hidden[0].weight
    assert torch.equal(weight, other.hidden[0].weight)
    # Of n = 980 draws the standard deviation is within 5 / √(2n) = 11 %.
    assert weight.std().item() == pytest.approx((2 / weight[0].numel()) ** 0.5, rel=0.11)


@pytest.mark.parametrize("size", [(64, 96), (65, 40)])
@pytest.mark.parametrize("form", ["matconvnet", "caffe"])
def test_scores_are_uniform_at_first_and_of_the_image_s_size(
    size: tuple[int, int], form: str
) -> None:
    found = narrow(form=form)(torch.randn(2, 3, *size, generator=seeded()))
    assert found.shape == (2, 21, *size)
    assert not found.any()


def test_the_caffe_form_is_padded_in_the_trunk_instead() -> None:
    model = narrow(form="caffe")
    assert model.trunk[0].padding == (100, 100)
    assert model.hidden[0].padding == (0, 0)
    # (64 + 198) / 32 rounded up, less the window's 6.
    assert model.coarse(torch.zeros(1, 3, 64, 64)).shape[2:] == (3, 3)
    assert narrow().hidden[0].padding == (3, 3)


def test_the_multipliers_and_what_is_trained() -> None:
    model = narrow()
    biases = {name for name, _ in model.named_parameters() if name.endswith("bias")}
    assert model.lr_multipliers() == dict.fromkeys(biases, 2.0)
    assert not [name for name, _ in model.named_parameters() if "upsample" in name]
    moving = narrow(moving=True)
    assert moving.lr_multipliers() == model.lr_multipliers() | {"upsample.weight": 0.0}


# -- upsampling ----------------------------------------------------------------------------------


def transposed(scores: Tensor, padding: int) -> Tensor:
    """The reference's layer: a kernel for each class by itself."""
    channels = scores.shape[1]
    kernel = bilinear_kernel().to(scores).expand(channels, 1, 64, 64)
    return F.conv_transpose2d(scores, kernel, stride=32, padding=padding, groups=channels)


def test_the_kernel() -> None:
    kernel = bilinear_kernel()
    taps = kernel[31] / kernel[31, 31] * (63 / 64)
    assert taps[:3].tolist() == pytest.approx([1 / 64, 3 / 64, 5 / 64])
    assert float(taps.sum()) == pytest.approx(32)
    ones = upsample(torch.ones(1, 1, 12, 12), (384, 384))[0, 0]
    assert float(ones[192, 192]) == 1.0
    assert float(ones[0, 0]) == pytest.approx(0.26587, abs=5e-6)


def test_two_matrix_products_are_the_transposed_convolution() -> None:
    scores = torch.randn(2, 21, 3, 4, generator=seeded())
    # Sums of at most 4 products in float32, of values up to 4.
    found, expected = upsample(scores, (96, 128)), transposed(scores, 16)
    torch.testing.assert_close(found, expected, rtol=0, atol=4 * 4 * 2**-23)
    exact = upsample(scores.double(), (90, 101), 19)
    whole = transposed(scores.double(), 0)[..., 19 : 19 + 90, 19 : 19 + 101]
    torch.testing.assert_close(exact, whole)


def test_their_gradients_too() -> None:
    scores = torch.randn(1, 2, 2, 3, generator=seeded(), dtype=torch.float64)
    weights = torch.randn(1, 2, 64, 96, generator=seeded(1), dtype=torch.float64)
    one, other = (scores.clone().requires_grad_() for _ in range(2))
    (upsample(one, (64, 96)) * weights).sum().backward()
    (transposed(other, 16) * weights).sum().backward()
    torch.testing.assert_close(one.grad, other.grad)


def test_the_moving_one_starts_as_the_frozen_one_and_moves_under_bpgrad() -> None:
    frozen, moving = narrow(dropout=False), narrow(dropout=False, moving=True)
    for model in (frozen, moving):
        with torch.no_grad():
            model.score.weight.copy_(torch.randn(model.score.weight.shape, generator=seeded()))
    images = torch.randn(1, 3, 64, 64, generator=seeded())
    torch.testing.assert_close(frozen(images), moving(images), rtol=1e-5, atol=1e-5)
    assert moving.upsample is not None
    before = moving.upsample.weight.detach().clone()
    optimizer = BPGrad(moving.parameters(), 10.0)
    loss = moving(images).square().mean()
    loss.backward()
    optimizer.step(loss=loss.detach())
    assert not torch.equal(moving.upsample.weight, before)


# -- dropout -------------------------------------------------------------------------------------


def test_dropout_depends_on_the_keys_alone() -> None:
    layer = KeyedDropout(0)
    ones = torch.ones(3, 5, 7, 9)
    keys = [(0, 1, 4), (0, 1, 5), (0, 2, 4)]
    torch.manual_seed(1)
    whole = layer(ones, keys)
    torch.manual_seed(2)
    parts = torch.cat([layer(ones[:1], keys[:1]), layer(ones[1:], keys[1:])])
    assert torch.equal(whole, parts)
    assert set(whole.unique().tolist()) == {0.0, 2.0}
    # Three means of 315 coins: within 5 standard deviations of 1.
    assert np.allclose(whole.flatten(1).mean(1), 1, atol=5 / 315**0.5)
    assert not torch.equal(whole[0], whole[1])
    assert not torch.equal(whole[0], whole[2])
    assert not torch.equal(whole, KeyedDropout(1)(ones, keys))


def test_in_evaluation_nothing_is_dropped() -> None:
    model = narrow()
    with torch.no_grad():
        nn.init.ones_(model.score.weight)
    images = torch.randn(1, 3, 64, 64, generator=seeded())
    plain = model(images)
    assert not torch.equal(model(images, [(0, 0, 0)]), plain)
    assert torch.equal(model.eval()(images, [(0, 0, 0)]), plain)
