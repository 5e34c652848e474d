"""Batches, objective and evaluation of the classification tasks, on generated images."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bpgrad.data import order
from bpgrad.data.images import ImageSet
from bpgrad.errors import ConfigError
from bpgrad.tasks.classification import Cifar10, Classification
from bpgrad.tasks.task import Context
from bpgrad.world import World

ONE = World(torch.device("cpu"))


class Tiny(Classification):
    """23 training and 11 validation images of 3×4 pixels, whose first pixel is their index."""

    def __init__(self, context: Context, mirror: bool = False, **options: Any) -> None:
        super().__init__(context, **options)
        self.mirror_training = self.mirror_validation = mirror

    def load(self, context: Context) -> tuple[ImageSet, ImageSet]:
        return numbered(23), numbered(11)

    @staticmethod
    def data_md5(data_root: Path) -> dict[str, str]:
        return {}


class Net(nn.Module):
    """Logits that see left and right differently."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images.flatten(1) / 100)


def numbered(n: int) -> ImageSet:
    nhwc = torch.rand(n, 3, 4, 1, generator=torch.Generator().manual_seed(n))
    nhwc[:, 0, 0, 0] = torch.arange(n)
    return ImageSet(nhwc.permute(0, 3, 1, 2), torch.arange(n) % 10)


def context(**changes: object) -> Context:
    return dataclasses.replace(Context(ONE, Path(), seed=3, batch_size=5), **changes)


def indices_of(images: Tensor) -> list[int]:
    return images[:, 0, 0, 0].long().tolist()


def test_an_epoch_is_a_permutation_in_batches() -> None:
    batches = list(Tiny(context()).train_batches(1))
    assert [batch.size for batch in batches] == [5, 5, 5, 5, 3]
    seen = [i for batch in batches for i in indices_of(batch.inputs)]
    assert sorted(seen) == list(range(23))
    assert seen == order.train_order(23, 3, 1).tolist()
    for batch in batches:
        assert batch.targets.tolist() == [i % 10 for i in indices_of(batch.inputs)]


def test_epochs_and_seeds_differ() -> None:
    orders = {
        tuple(Tiny(context(seed=seed)).batch_order(epoch).tolist())
        for seed in (0, 1)
        for epoch in (1, 2)
    }
    assert len(orders) == 4


def test_batches_do_not_depend_on_where_the_epoch_resumes() -> None:
    task = Tiny(context(), mirror=True)
    whole = list(task.train_batches(2))
    for start in range(6):
        rest = list(task.train_batches(2, start))
        assert len(rest) == 5 - start
        for expected, batch in zip(whole[start:], rest, strict=True):
            assert torch.equal(batch.inputs, expected.inputs)


def test_processes_share_each_batch() -> None:
    whole = list(Tiny(context(), mirror=True).train_batches(1))
    shares = [
        list(Tiny(context(world=World(ONE.device, rank, 3)), mirror=True).train_batches(1))
        for rank in range(3)
    ]
    for expected, *parts in zip(whole, *shares, strict=True):
        assert {part.size for part in parts} == {expected.size}
        together = torch.cat([part.inputs for part in parts]).flatten(1).tolist()
        assert sorted(together) == sorted(expected.inputs.flatten(1).tolist())


def test_whole_batches_are_mirrored_along_the_width() -> None:
    plain = Tiny(context(batch_size=1))
    mirrored = Tiny(context(batch_size=1), mirror=True)
    flips = []
    for epoch in range(1, 11):
        for one, other in zip(
            plain.train_batches(epoch), mirrored.train_batches(epoch), strict=True
        ):
            flips.append(torch.equal(other.inputs, one.inputs.flip(3)))
            assert flips[-1] or torch.equal(other.inputs, one.inputs)
    assert 0.4 < sum(flips) / len(flips) < 0.6


def test_the_objective_is_the_mean_cross_entropy_of_the_whole_batch() -> None:
    torch.manual_seed(0)
    model = Net()
    whole = next(Tiny(context()).train_batches(1))
    expected = F.cross_entropy(model(whole.inputs), whole.targets)
    values = Tiny(context()).objective(model, whole)
    torch.testing.assert_close(values["objective"], expected)
    wrong = (model(whole.inputs).argmax(1) != whole.targets).float().mean() * 100
    torch.testing.assert_close(values["top1_error"], wrong)

    shares = []
    for rank in range(3):  # uneven: 2, 2 and 1 examples
        task = Tiny(context(world=World(ONE.device, rank, 3)))
        shares.append(task.objective(model, next(task.train_batches(1))))
    for name in values:
        mean = torch.stack([share[name].detach() for share in shares]).mean()
        torch.testing.assert_close(mean, values[name].detach())


def test_evaluation_covers_every_image_once() -> None:
    torch.manual_seed(0)
    model, task = Net(), Tiny(context())
    found = task.evaluate(model, epoch=1)
    logits = model(task.val.images)
    expected = F.cross_entropy(logits, task.val.labels)
    assert found["objective"] == pytest.approx(expected.item(), rel=1e-6)
    wrong = (logits.argmax(1) != task.val.labels).sum().item()
    assert found["top1_error"] == pytest.approx(100 * wrong / 11)
    assert model.training


def test_mirrored_validation_changes_with_the_epoch_and_is_repeatable() -> None:
    torch.manual_seed(0)
    model = Net()
    plain = Tiny(context()).evaluate(model, 1)["objective"]
    quirk = [Tiny(context(), mirror=True).evaluate(model, epoch)["objective"] for epoch in range(6)]
    again = [Tiny(context(), mirror=True).evaluate(model, epoch)["objective"] for epoch in range(6)]
    assert quirk == again
    assert len(set(quirk)) > 1
    assert any(value != plain for value in quirk)


def test_limits_and_batch_sizes() -> None:
    task = Tiny(context(train_examples=7, val_examples=4))
    assert (len(task.train), len(task.val)) == (7, 4)
    with pytest.raises(ConfigError, match="batch_size=8: above the 7 training examples"):
        Tiny(context(train_examples=7, batch_size=8))


@pytest.mark.realdata
@pytest.mark.slow
def test_cifar10_from_the_released_weights(prepared_cifar10: Path) -> None:
    """Whatever the seed; and the multipliers are the model's."""
    from bpgrad.models.lenet import CifarLeNet, load_matconvnet_weights

    weights = prepared_cifar10 / "bpgrad" / "Weights_init_cifar10.mat"
    if not weights.exists():
        pytest.skip(f"{weights} is not there")
    task = Cifar10(context(data_root=prepared_cifar10, batch_size=100), initial_weights="released")
    assert task.mirror_training
    assert not task.mirror_validation
    expected = CifarLeNet(torch.Generator())
    load_matconvnet_weights(expected, weights.read_bytes())
    for seed in (0, 1):
        model = task.build_model(seed)
        for name, value in model.state_dict().items():
            assert torch.equal(value, expected.state_dict()[name])
    assert task.lr_multipliers(model)["conv5.bias"] == 0.2


def test_held_out_images_are_validated_on_and_never_trained_on() -> None:
    kept, held = order.holdout_split(23, 0.2)
    task = Tiny(context(), holdout=0.2)
    seen = [i for batch in task.train_batches(1) for i in indices_of(batch.inputs)]
    assert sorted(seen) == kept.tolist()
    assert indices_of(task.val.images) == held.tolist()
    assert task.val.labels.tolist() == [i % 10 for i in held.tolist()]
    for seed in (0, 1):  # the same for every run
        assert torch.equal(Tiny(context(seed=seed), holdout=0.2).val.images, task.val.images)
    # A smaller set is cut first: it never reaches beyond the examples that a run may see.
    small = Tiny(context(train_examples=10), holdout=0.2)
    assert max(indices_of(torch.cat([small.train.images, small.val.images]))) == 9
    assert len(small.val) == 2


@pytest.mark.parametrize("part", [-0.1, 1.0, 5000.0, 0.01, 0.99])
def test_a_holdout_that_leaves_nothing_is_refused(part: float) -> None:
    with pytest.raises(ConfigError, match=r"task.holdout=.* of the 23 training examples"):
        Tiny(context(), holdout=part)


def test_label_noise_is_of_the_examples_trained_on_alone() -> None:
    clean, noisy = Tiny(context(), holdout=0.2), Tiny(context(), holdout=0.2, label_noise=0.5)
    changed = clean.train.labels != noisy.train.labels
    assert 1 <= changed.sum() <= round(0.5 * len(clean.train))
    assert torch.equal(clean.train.images, noisy.train.images)
    assert torch.equal(clean.val.labels, noisy.val.labels)
    for seed in (0, 1):  # the same for every run
        other = Tiny(context(seed=seed), holdout=0.2, label_noise=0.5)
        assert torch.equal(other.train.labels, noisy.train.labels)
    with pytest.raises(ConfigError, match=r"task.label_noise=1.5: must be a part of the labels"):
        Tiny(context(), label_noise=1.5)


def test_a_tenth_of_the_labels_is_drawn_over_all_classes() -> None:
    drawn = order.noisy_labels(torch.zeros(10_000, dtype=torch.int64), 0.1, 10)
    # 1000 labels are drawn, and nine of ten are then another: five standard deviations of that.
    assert abs(int((drawn != 0).sum()) - 900) < 5 * (1000 * 0.9 * 0.1) ** 0.5
    assert set(drawn.tolist()) == set(range(10))


def test_the_test_images_are_judged_beside_the_held_out_ones() -> None:
    torch.manual_seed(0)
    model = Net()
    both = Tiny(context(), holdout=0.2, judge_test=True)
    held, test = Tiny(context(), holdout=0.2), Tiny(context())
    tested = {f"test_{name}": value for name, value in test.evaluate(model, 1).items()}
    assert both.evaluate(model, 1) == held.evaluate(model, 1) | tested
    assert (both.fixed_last, held.fixed_last) == (5, 1)
    with pytest.raises(ConfigError, match=r"task.judge_test: .* without a holdout"):
        Tiny(context(), judge_test=True)
