import math

import pytest
import torch
from torch import Tensor, nn

from bpgrad.models.fast_rcnn import FastRcnn, losses, vgg16_fast_rcnn
from tests.models.test_fcn32s import CHANNELS, HIDDEN, seeded, vgg_state


def narrow(**options: object) -> FastRcnn:
    return vgg16_fast_rcnn(vgg_state(), seeded(), channels=CHANNELS, hidden=HIDDEN, **options)  # type: ignore[arg-type]


def pooling() -> FastRcnn:
    """Only its regions are pooled."""
    return FastRcnn(nn.Sequential(), [nn.Linear(1, 1)], seeded())


def region(*corners: float) -> Tensor:
    return torch.tensor([[0, *corners]], dtype=torch.float32)


def reference(features: Tensor, corners: list[float]) -> Tensor:
    """Reference §6, in its own words: a loop over the cells of one region."""

    def half_away(value: float) -> int:
        return math.floor(value + 0.5)

    u1, v1, u2, v2 = (half_away((u - 1) / 16 + 1) - 1 for u in corners)
    found = torch.zeros(features.shape[0], 7, 7)
    for p in range(7):
        for q in range(7):
            rows = bin_of(p, v1, max(v2 - v1 + 1, 1), features.shape[1])
            columns = bin_of(q, u1, max(u2 - u1 + 1, 1), features.shape[2])
            cell = features[:, rows[0] : rows[1], columns[0] : columns[1]]
            if cell.numel():
                found[:, p, q] = cell.amax((1, 2))
    return found


def bin_of(p: int, start: int, size: int, limit: int) -> tuple[int, int]:
    low, high = p * size // 7 + start, -(-(p + 1) * size // 7) + start
    return min(max(low, 0), limit), min(max(high, 0), limit)


@pytest.mark.parametrize(
    "corners",
    [(1, 1, 320, 240), (9, 9, 41, 41), (100, 50, 230, 61), (17, 33, 17, 33), (281, 200, 320, 240)],
)
def test_regions_are_pooled_as_in_the_reference(corners: tuple[float, ...]) -> None:
    """Corners at half a cell too: x = 8 from 0 lies in cell 1, 40 in cell 3."""
    features = torch.randn(3, 15, 20, generator=seeded())
    found = pooling().pooled(features[None], region(*corners)).view(3, 7, 7)
    assert torch.equal(found, reference(features, list(corners)))


def test_a_bright_square_comes_out_at_its_cell() -> None:
    """At the scale 1/16; at 1/32 it would be elsewhere."""
    features = torch.zeros(1, 1, 14, 14)
    features[0, 0, 4, 10] = 1
    # Rows and columns 0 to 13: two to a cell.
    found = pooling().pooled(features, region(1, 1, 209, 209)).view(7, 7)
    assert torch.nonzero(found).tolist() == [[2, 5]]
    around = region(10 * 16 + 1, 4 * 16 + 1, 10 * 16 + 1, 4 * 16 + 1)
    assert pooling().pooled(features, around).all()


def test_coordinates_keep_float32_under_autocast() -> None:
    """1001 is 1000 in bfloat16; and the operator takes no half precision on a CPU."""
    features = torch.randn(1, 2, 70, 70, generator=seeded())
    expected = pooling().pooled(features, region(1, 1, 1001, 1001))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(pooling().pooled(features, region(1, 1, 1001, 1001)), expected)


def test_regions_belong_to_their_image() -> None:
    features = torch.stack([torch.full((1, 8, 8), value) for value in (1.0, 2.0)])
    both = torch.tensor([[1, 1, 1, 64, 64], [0, 1, 1, 64, 64]], dtype=torch.float32)
    assert pooling().pooled(features, both)[:, 0].tolist() == [2, 1]


def test_shapes_and_first_scores() -> None:
    model = narrow()
    regions = torch.tensor([[0, 1, 1, 60, 60], [1, 5, 5, 33, 44]], dtype=torch.float32)
    scores, changes = model(torch.randn(2, 3, 64, 80, generator=seeded()), regions)
    assert (scores.shape, changes.shape) == ((2, 21), (2, 84))
    assert model.trunk(torch.zeros(1, 3, 64, 80)).shape == (1, CHANNELS[-1], 4, 5)
    biases = {name for name, _ in model.named_parameters() if name.endswith("bias")}
    assert model.lr_multipliers() == dict.fromkeys(biases, 2.0)
    assert model.decay_multipliers() == dict.fromkeys(biases, 0.0)
    # N(0, 0.01²) and N(0, 0.001²): of n draws within 5 / √(2n).
    for layer, std in ((model.classes, 0.01), (model.boxes, 0.001)):
        spread = layer.weight.std().item()
        assert spread == pytest.approx(std, rel=5 / (2 * layer.weight.numel()) ** 0.5)
        assert not layer.bias.any()


def test_the_scale_of_the_features() -> None:
    model = FastRcnn(nn.Sequential(), [nn.Linear(1, 1)], seeded(), scale=0.5)
    assert model.pooled(torch.ones(1, 1, 4, 4), region(1, 1, 49, 49)).unique().tolist() == [0.5]


def test_losses_by_hand() -> None:
    """Background has no box; others are judged by the four columns of their class."""
    scores, changes = torch.zeros(3, 21), torch.zeros(3, 84)
    changes[1, 4 * 2 : 4 * 3] = torch.tensor([0.5, -3, 0, 1])
    labels = torch.tensor([20, 2, 0])
    targets = torch.tensor([[9.0] * 4, [0, 0, 0, 0], [0, 0, 0, 2]])
    entropy, box = losses(scores, changes, labels, targets)
    assert float(entropy) == pytest.approx(3 * math.log(21))
    assert float(box) == pytest.approx((0.125 + 2.5 + 0 + 0.5) + 1.5)
    assert float(losses(scores[:1], changes[:1], labels[:1], targets[:1])[1]) == 0
