"""Objective, batches and evaluation of detection, on generated photos and a narrow net."""

import dataclasses
import io
import itertools
import json
import math
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ImageDraw
from torch import Tensor
from torchvision.ops import box_iou

from bpgrad.data import detection, proposals
from bpgrad.data.detection import padded
from bpgrad.data.pretrained import Preprocessing
from bpgrad.data.proposals import BACKGROUND, encode
from bpgrad.data.voc import CLASSES, Photo
from bpgrad.errors import ConfigError, DataError, Interrupted
from bpgrad.metrics.voc import Detections, Ranked, average_precision, average_precision_of
from bpgrad.models.fast_rcnn import FastRcnn, losses
from bpgrad.tasks.detection import (
    Detection,
    ReducedVocDetection,
    VocDetection,
)
from bpgrad.tasks.detections import Thresholds, metrics, of_image
from bpgrad.tasks.pictures import Shown, detected
from bpgrad.tasks.task import Batch, Context
from bpgrad.training.config import load, solver_spec, task_options
from bpgrad.training.trainer import train
from bpgrad.training.trial import make_solver
from bpgrad.world import World
from experiments.claims.second.common import LAST
from tests.models.test_fast_rcnn import narrow
from tests.voc import write_photo

ONE = World(torch.device("cpu"))
SEED = torch.Generator()
TRAIN, TEST = 7, 3
NO_BOUND = np.full(BACKGROUND, -np.inf)
SIZES = ((110, 90), (90, 120))  # a little different from image to image


class Tiny(Detection):
    """Seven photos to train on and three to test on, below data_root; each has one or two areas."""

    def __init__(
        self,
        context: Context,
        short: int = 64,
        long: int = 100,
        proposals: str = "oracle",
        mirror: str = "coin",
        loss: str = "mean",
        shrinking_quota: bool = True,
        plus_one: bool = False,
        dropout: bool = True,
        holdout: float = 0.0,
        judged_last: int = 5,
    ) -> None:
        super().__init__(
            *(context, short, long, proposals, mirror, loss, shrinking_quota, plus_one),
            *(dropout, holdout, judged_last),
        )

    @staticmethod
    def data_md5(data_root: Path) -> Mapping[str, str]:
        return {"generated": "0" * 32}

    def _read_photos(self) -> tuple[list[Photo], list[Photo]]:
        photos = []
        for k in range(TRAIN + TEST):
            width, height = SIZES[k % 2]
            objects = [(k % 2, (10 + k, 12, 55 + k, 60 + k)), (2, (50, 50, 85, 85))]
            its = objects[: 1 + (k % 3 == 0)]
            size = (width + k, height)
            photos.append(write_photo(self.context.data_root, f"00{k}", size, its))
        return photos[:TRAIN], photos[TRAIN:]

    def _weights(self) -> tuple[Mapping[str, Tensor], Preprocessing]:
        return {}, Preprocessing((100.0, 100.0, 100.0), (50.0, 50.0, 50.0))

    def _build(self, generator: torch.Generator) -> FastRcnn:
        return narrow(dropout=self.dropout)


def tiny(folder: Path, changes: Mapping[str, Any] | None = None, **options: Any) -> Tiny:
    context = Context(ONE, folder, seed=3, batch_size=3)
    return Tiny(dataclasses.replace(context, **(changes or {})), **options)


# -- the objective -------------------------------------------------------------------------------


def by_hand(task: Tiny, model: torch.nn.Module, batch: Batch) -> tuple[float, float]:
    """The sums of cross-entropy and box loss, image by image."""
    entropy = box = 0.0
    for example in batch.inputs:
        regions = torch.cat([torch.zeros(len(example.boxes), 1), example.boxes], 1)
        # Alone it is not padded; where its features end, those of a batch are of zeros.
        scores, changes = model(example.image[None], regions)
        of = losses(scores, changes, example.labels, example.targets)
        entropy, box = entropy + of[0].item(), box + of[1].item()
    return entropy, box


@pytest.mark.parametrize("loss", ["mean", "sum"])
def test_the_objective_by_hand(loss: str, tmp_path: Path) -> None:
    task = tiny(tmp_path, {"batch_size": 1}, dropout=False, loss=loss)
    model = task.build_model(0)
    for batch in task.train_batches(1):
        entropy, box = by_hand(task, model, batch)
        whole = batch.targets
        assert whole.regions == len(batch.inputs[0].labels)
        assert whole.foreground == int((batch.inputs[0].labels != BACKGROUND).sum())
        found = {name: value.item() for name, value in task.objective(model, batch).items()}
        divisor = whole.regions if loss == "mean" else 1
        assert found["objective"] == pytest.approx((entropy + box) / divisor, rel=1e-5)
        assert found["classification"] == pytest.approx(entropy / whole.regions, rel=1e-5)
        assert found["box"] == pytest.approx(box / (4 * whole.foreground), rel=1e-5)


def test_micro_batches_sum_to_the_whole(tmp_path: Path) -> None:
    """Divisor and padding are those of the whole minibatch, whatever each image has."""
    task = tiny(tmp_path)
    model = task.build_model(0)
    (batch, *_) = task.train_batches(1)
    whole = task.objective(model, batch)
    parts = [task.objective(model, part) for part in batch.split(1)]
    for name, value in whole.items():
        total = sum(part[name].item() for part in parts)
        # Convolutions of a batch may be summed in another order.
        assert total == pytest.approx(value.item(), rel=1e-5)


def test_a_process_without_an_example_adds_nothing(tmp_path: Path) -> None:
    """In a last micro-batch; its gradients are there, for those of the others wait for them."""
    task = tiny(tmp_path)
    model = task.build_model(0)
    (batch, *_) = task.train_batches(1)
    none = dataclasses.replace(batch, inputs=batch.inputs[3:], targets=batch.targets[3:])
    found = task.objective(model, none)
    found["objective"].backward()
    assert {name: value.item() for name, value in found.items()} == dict.fromkeys(found, 0)
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert not p.grad.any(), name


def test_first_scores_are_nearly_uniform(tmp_path: Path) -> None:
    task = tiny(tmp_path)
    (batch, *_) = task.train_batches(1)
    found = task.objective(task.build_model(0), batch)
    assert float(found["classification"]) == pytest.approx(math.log(21), rel=0.05)


def test_under_autocast_boxes_stay_in_float32(tmp_path: Path) -> None:
    task = tiny(tmp_path, dropout=False)
    model = task.build_model(0)
    (batch, *_) = task.train_batches(1)
    exact = task.objective(model, batch)
    with torch.autocast("cpu", torch.bfloat16):
        found = task.objective(model, batch)
        regions = torch.tensor([[0.0, 1, 1, 50, 50]])
        assert model(batch.inputs[0].image[None], regions)[1].dtype == torch.float32
    # bfloat16 has 8 bits; a few layers of it.
    assert float(found["objective"]) == pytest.approx(float(exact["objective"]), rel=0.05)


# -- batches -------------------------------------------------------------------------------------


def test_batches_depend_on_seed_and_epoch_alone(tmp_path: Path) -> None:
    task = tiny(tmp_path)
    batches = list(task.train_batches(2))
    assert [batch.size for batch in batches] == [3, 3, 1]
    for start in range(3):
        again = list(tiny(tmp_path).train_batches(2, start))
        for one, other in zip(batches[start:], again, strict=True):
            assert one.consumed == other.consumed
            for example, its in zip(one.inputs, other.inputs, strict=True):
                assert example.key == its.key
                for name in ("image", "boxes", "labels", "targets"):
                    assert torch.equal(getattr(example, name), getattr(its, name))
    other = next(iter(tiny(tmp_path, {"seed": 4}).train_batches(2)))
    assert batches[0].consumed != other.consumed
    assert batches[0].consumed != next(iter(task.train_batches(3))).consumed


def test_what_a_batch_consumes_tells_its_proposals(tmp_path: Path) -> None:
    task = tiny(tmp_path)
    before = next(iter(task.train_batches(1))).consumed
    task.examples.digests = [bytes(8)] * (TRAIN + TEST)
    assert next(iter(task.train_batches(1))).consumed != before


def test_regions_belong_to_their_epoch_and_photo(tmp_path: Path) -> None:
    task = tiny(tmp_path, mirror="none")
    one, other = task.examples[1, 0], task.examples[2, 0]
    assert not torch.equal(one.boxes, other.boxes)
    assert torch.equal(one.image, other.image)
    # Those to judge by are the same in every epoch.
    index = task.examples.sampled()[0]
    assert torch.equal(task.examples[0, index].boxes, task.examples[0, index].boxes)
    assert (one.labels[: one.foreground] != BACKGROUND).all()
    assert (one.labels[one.foreground :] == BACKGROUND).all()


def test_a_mirror_image_has_its_boxes_mirrored(tmp_path: Path) -> None:
    """Both are of one scale, so a region of one is that of the other, seen in a mirror."""
    task = tiny(tmp_path, mirror="copies")
    assert task.trained == 2 * TRAIN
    assert len(task.batch_order(1)) == 2 * TRAIN
    plain, mirror = task.examples[1, 0], task.examples[1, TRAIN]
    # The weights of the interpolation are rounded.
    assert torch.allclose(mirror.image, plain.image.flip(2), atol=1e-4)
    truth = task.examples.photos[0].objects.boxes
    width = plain.image.shape[2]
    for example in (plain, mirror):
        its = example.targets[: example.foreground] * torch.from_numpy(
            task.examples.std[example.labels[: example.foreground]]
        ) + torch.from_numpy(task.examples.mean[example.labels[: example.foreground]])
        boxes = example.boxes[: example.foreground].double()
        sides = boxes[:, 2:] - boxes[:, :2] + 1
        centres = boxes[:, :2] + sides / 2 + its[:, :2] * sides
        factor = width / task.examples.photos[0].objects.width
        expected = factor * ((truth[:, :2] + truth[:, 2:]) / 2)
        if example is mirror:
            expected[:, 0] = width - expected[:, 0]
        # Every region points to an object; corners were rounded to whole pixels.
        gaps = (centres[:, None] - torch.from_numpy(expected)).abs().amax(2).amin(1)
        assert gaps.max() < 3


def test_the_quota_shrinks_over_a_batch(tmp_path: Path) -> None:
    task = tiny(tmp_path)
    task.examples.foreground[:] = 16
    task.examples.foreground[4] = 5
    for shrinking in (True, False):
        task.shrinking = shrinking
        for epoch in (1, 2):
            batches = zip(task.batch_order(epoch).split(3), task.train_batches(epoch), strict=True)
            for indices, batch in batches:
                quotas, left = [], 16
                for index in indices.tolist():
                    quotas.append(min(left, 5 if index == 4 else 16))
                    left = quotas[-1] if shrinking else 16
                assert [example.foreground for example in batch.inputs] == quotas
                shown = [int((e.labels != BACKGROUND).sum()) for e in batch.inputs]
                assert shown == quotas
                regions = sum(len(example.labels) for example in batch.inputs)
                assert batch.targets.regions == regions
                assert batch.targets.foreground == sum(quotas)


def test_two_processes_take_the_regions_that_one_takes(tmp_path: Path) -> None:
    sizes = {"batch_size": 2, "train_examples": 6}
    alone = list(tiny(tmp_path, sizes).train_batches(1))
    for rank in range(2):
        pair = World(ONE.device, rank, 2)
        shares = list(tiny(tmp_path, {"world": pair, **sizes}).train_batches(1))
        for part, whole in zip(shares, alone, strict=True):
            assert part.consumed == whole.consumed
            assert part.targets == whole.targets
            for example, its in zip(part.inputs, whole.inputs[rank::2], strict=True):
                assert torch.equal(example.boxes, its.boxes)


def test_images_are_padded_with_zeros_to_the_largest() -> None:
    found = padded([torch.ones(3, 2, 5), torch.ones(3, 4, 3)])
    assert found.shape == (2, 3, 4, 5)
    assert found.sum((1, 2, 3)).tolist() == [30, 36]
    assert found[1, :, :, 3:].sum() == 0


def test_the_scale_of_the_targets_by_hand(tmp_path: Path) -> None:
    """Mean and deviation over all regions that show a class, and over their mirror images."""
    task = tiny(tmp_path, mirror="none")
    its = [
        proposals.labelled(boxes, photo.objects)
        for photo, boxes in zip(
            task.examples.photos[:TRAIN], task.examples.boxes[:TRAIN], strict=True
        )
    ]
    targets = np.concatenate(
        [encode(each.boxes, each.targets)[each.labels == 2] for each in its if len(each.boxes)]
    )
    assert task.examples.mean[2] == pytest.approx(targets.mean(0))
    assert task.examples.std[2] == pytest.approx(targets.std(0))
    assert task.examples.std[7].tolist() == [1] * 4  # a class of no object
    both = tiny(tmp_path).examples
    assert both.mean[2] == pytest.approx([0, *targets.mean(0)[1:]], abs=1e-12)
    spread = np.sqrt((targets[:, 0] ** 2).mean())
    assert both.std[2] == pytest.approx([spread, *targets.std(0)[1:]])
    assert both.mean[BACKGROUND].tolist() == [0] * 4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"holdout": 1.0}, "task.holdout=1.0: must be a part of the 7 training examples"),
        ({"proposals": "edge"}, "task.proposals=edge: choose one of published, selective_search"),
        ({"mirror": "both"}, "task.mirror=both: choose one of copies, coin, none"),
        ({"loss": "median"}, "task.loss=median: choose one of mean, sum"),
        ({"short": 31}, "task.short=31: must be at least 32 pixels"),
        ({"long": 63}, "task.long=63: must be at least task.short=64"),
        ({"judged_last": 0}, "task.judged_last=0: must be at least 1"),
        ({"changes": {"batch_size": 8}}, "batch_size=8: above the 7 training examples"),
        (
            {"changes": {"world": World(ONE.device, 1, 2)}},
            "batch_size=3: the last minibatch of an epoch has 1 of 7 examples, fewer than the 2",
        ),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        tiny(tmp_path, **options)
    assert words in str(refused.value)


# -- evaluation ----------------------------------------------------------------------------------


class Knowing(FastRcnn):
    """Scores and changes that are given for each proposal, by the image's size and its corners."""

    def __init__(self, answers: Mapping[tuple[float, ...], Any]) -> None:
        torch.nn.Module.__init__(self)
        self.trunk, self.answers = torch.nn.Sequential(), answers

    def head(self, features: Tensor, regions: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
        its = ((*features.shape[2:], *region[1:].tolist()) for region in regions)
        scores, changes = zip(*(self.answers[key] for key in its), strict=True)
        return torch.stack(scores), torch.stack(changes)


def knowing(task: Tiny, *, wrong: float = 0.0) -> Knowing:
    """Proposals that overlap an object know its class, and by how much they are displaced."""
    answers: dict[tuple[float, ...], Any] = {}
    for index in task.examples.tested():
        example, number = task.examples[0, index], task.examples.photo(index)
        # One proposal for each of the answers.
        _, first = np.unique(rounded(example).numpy(), axis=0, return_index=True)
        task.examples.boxes[number] = task.examples.boxes[number][np.sort(first)]
        example = task.examples[0, index]
        its = proposals.labelled(task.examples.boxes[number], task.examples.photos[number].objects)
        cells = 16 * rounded(example) + 1
        for k, corners in enumerate(cells.tolist()):
            label = int(its.labels[k])
            scores, changes = torch.full((21,), -9.0), torch.zeros(21, 4)
            scores[label if label >= 0 else BACKGROUND] = 9.0
            if 0 <= label < BACKGROUND:
                exact = encode(its.boxes[k : k + 1], its.targets[k : k + 1])[0]
                changes[label] = torch.from_numpy(
                    (exact - task.examples.mean[label]) / task.examples.std[label] + wrong
                )
            answers[*example.image.shape[1:], *corners] = (scores, changes.flatten())
    return Knowing(answers)


def rounded(example: detection.Tested) -> Tensor:
    """The cells that the corners of its proposals lie in."""
    return torch.floor((example.boxes - 1) / 16 + 0.5)


def one_proposal(task: Tiny, box: tuple[int, ...]) -> None:
    """Leave the images to judge by with this proposal alone."""
    for number in range(TRAIN, TRAIN + TEST):
        task.examples.boxes[number] = np.array([box], float)


@pytest.mark.parametrize("plus_one", [True, False])
def test_regression_moves_a_displaced_box_onto_its_object(plus_one: bool, tmp_path: Path) -> None:
    """Exactly with the widths that it was encoded with; within a pixel as in the reference."""
    task = tiny(tmp_path, plus_one=plus_one)
    one_proposal(task, (20, 15, 60, 72))
    model = knowing(task)
    found = task.detections(model)
    best = [found.scores[found.images == n].argmax() + (found.images < n).sum() for n in range(3)]
    truth = np.stack([photo.objects.boxes[0] for photo in task.judged])
    gap = 0 if plus_one else 2
    assert np.abs(found.boxes[best] - truth).max() <= gap
    displaced = task.detections(model, regress=False)
    assert (displaced.boxes == [20, 15, 60, 72]).all()
    assert found.labels[best].tolist() == [int(p.objects.labels[0]) for p in task.judged]


def test_regression_is_no_worse_than_the_proposals(tmp_path: Path) -> None:
    """On oracle proposals: with it every object is found, without it at most as many."""
    task = tiny(tmp_path, short=256, long=400)
    model = knowing(task)
    maps = [
        np.nanmean(average_precision(task.detections(model, regress=r), task.truth, 20))
        for r in (True, False)
    ]
    assert maps[0] == 100
    assert maps[0] >= maps[1]
    off = knowing(task, wrong=2.0)
    assert np.nanmean(average_precision(task.detections(off), task.truth, 20)) < maps[1]


def test_a_bright_area_comes_out_at_its_region(tmp_path: Path) -> None:
    """Through scaling and pooling: what is read is where the box is, at a sixteenth of the size."""
    task = tiny(tmp_path, short=256, long=400)
    photo, example = task.judged[0], task.examples[0, task.examples.tested()[0]]
    height, width = example.image.shape[1:]
    assert width == 256
    # How far from the dark ground, in a channel.
    bright = (example.image - example.image[:, -1:, -1:]).abs().sum(0)
    model = FastRcnn(torch.nn.Sequential(torch.nn.AvgPool2d(16)), [torch.nn.Linear(1, 1)], SEED)
    features = model.trunk(bright[None, None])
    left, top, right, bottom = proposals.rescaled(
        photo.objects.boxes[:1], 256 / photo.objects.width, width, height
    )[0]
    inside = torch.tensor([[0, left + 24, top + 24, right - 24, bottom - 24]])
    below = torch.tensor([[0, left, bottom + 24, right, height - 1]])
    assert model.pooled(features, inside).min() > 0.9 * features.max()
    assert model.pooled(features, below).max() < 0.1 * features.max()


def test_thresholds_are_those_of_all_scores() -> None:
    """The 40 · n-th highest of a class over the whole set, in parts and at once."""
    generator = torch.Generator().manual_seed(0)
    parts = [torch.rand(n, BACKGROUND, generator=generator) for n in (7, 30, 2, 55, 40)]
    for count in (1, 9, 30):
        found = Thresholds(count)
        for part in parts:
            found.add(part)
            assert sum(map(len, found.parts)) <= 2 * count + len(part)
        found.best()
        every = torch.cat(parts).sort(dim=0, descending=True).values
        assert np.array_equal(found.bound, every[count - 1].numpy())
    assert len(Thresholds(9).best()) == 0  # of a process without an image
    few = Thresholds(500)
    few.add(parts[0])
    few.best()
    assert (few.bound == -np.inf).all()


def found_in(
    scores: Tensor, changes: Tensor, boxes: np.ndarray, bound: np.ndarray = NO_BOUND
) -> Detections:
    return of_image(0, scores, changes, boxes, (110, 90), bound, plus_one=False)


def test_suppression_and_the_most_of_an_image() -> None:
    """Per class; of two that overlap by exactly 0.3 both stay, by more only the first."""
    # 13 and 13 of 20 wide: 6 / 20 = 0.3 shared; then one pixel more.
    rows = [(1, 1, 13, 10), (8, 1, 20, 10), (40, 1, 52, 10), (46, 1, 58, 10)]
    boxes = np.array(rows, float)
    scores = torch.zeros(4, BACKGROUND)
    scores[:, 3] = torch.tensor([0.9, 0.8, 0.7, 0.6])
    scores[:, 4] = torch.tensor([0.5, 0.1, 0.4, 0.1])
    changes = torch.zeros(110, BACKGROUND, 4, dtype=torch.float64)
    found = found_in(scores, changes, boxes)
    its = found.labels == 3
    assert found.boxes[its].tolist() == [list(row) for row in rows[:3]]
    assert found.scores[its].tolist() == pytest.approx([0.9, 0.8, 0.7])
    assert (found.images == 0).all()
    apart = np.array([(1 + k % 50, 1 + k // 50, 1 + k % 50, 1 + k // 50) for k in range(110)])
    boxes = apart.astype(float)
    scores = torch.linspace(1, 0, 110)[:, None].expand(-1, BACKGROUND).contiguous()
    found = found_in(scores, changes, boxes)
    assert (found.labels == 0).sum() == 100


def test_what_is_below_the_bound_changes_nothing_above() -> None:
    """Scores of a tenth tie; the bound is that of a class, and may leave none of it."""
    generator, rng = torch.Generator().manual_seed(0), np.random.default_rng(0)
    corners = rng.integers(1, 60, (300, 2))
    boxes = np.concatenate([corners, corners + 20], 1).astype(float)
    scores = (100 * torch.rand(300, BACKGROUND, generator=generator)).round() / 100
    changes = 0.1 * torch.randn(300, BACKGROUND, 4, generator=generator, dtype=torch.float64)
    every = found_in(scores, changes, boxes)
    assert (np.diff(every.scores) <= 0).all()
    for bound in (np.linspace(0.2, 1.1, BACKGROUND), np.full(BACKGROUND, 2.0)):
        found = found_in(scores, changes, boxes, bound)
        its = every.scores >= bound[every.labels]
        for name in ("images", "labels", "scores", "boxes"):
            assert np.array_equal(getattr(found, name), getattr(every, name)[its])
    by_class = [every.boxes[every.labels == label] for label in range(BACKGROUND)]
    for its in by_class:
        ends = torch.from_numpy(its + np.array([0, 0, 1, 1]))
        assert (box_iou(ends, ends).fill_diagonal_(0) <= 0.3).all()


def test_proposals_in_the_same_cells_are_computed_once(tmp_path: Path) -> None:
    task = tiny(tmp_path)
    model = task.build_model(0).eval()
    assert isinstance(model, FastRcnn)
    example = task.examples[0, task.examples.tested()[0]]
    with torch.no_grad():
        scores, _ = task._heads(model, example)
        regions = torch.cat([torch.zeros(len(example.boxes), 1), example.boxes], 1)
        expected = torch.softmax(model(example.image[None], regions)[0], 1)[:, :BACKGROUND]
    # The products of a matrix with fewer rows may be summed in another order.
    assert torch.allclose(scores, expected, rtol=1e-5, atol=1e-7)
    assert len(torch.unique(scores, dim=0)) < len(scores)


def test_scores_by_epoch(tmp_path: Path) -> None:
    """The detections are judged in the last epochs; before them only the objective is."""
    task = tiny(tmp_path, {"epochs": 7}, judged_last=2)
    model = task.build_model(0)
    early, late = task.evaluate(model, 5), task.evaluate(model, 6)
    assert "map" not in early
    assert early == {name: late[name] for name in early}
    # No class has three objects there.
    absent = {"map_of_three", *(f"ap_{name}" for name in CLASSES)}
    assert set(task.metrics) - absent <= late.keys()
    assert late["ceiling"] == 100
    assert model.training
    assert [name for name in CLASSES if f"ap_{name}" in late] == ["aeroplane", "bicycle", "bird"]
    aps = [late[f"ap_{name}"] for name in ("aeroplane", "bicycle", "bird")]
    assert late["map"] == pytest.approx(np.mean(aps))
    assert not task.evaluate_training(model).keys() - {*late}


def test_a_record_is_kept_by_one_process_of_two(tmp_path: Path) -> None:
    """What a resume at the very end has to find again waits for no other process."""
    sizes = {"batch_size": 2, "train_examples": 6}
    task = tiny(tmp_path, {"world": World(ONE.device, 0, 2), **sizes})
    model = task.build_model(0)
    written: list[str] = []
    text = ImageDraw.ImageDraw.text

    def noted(pen: ImageDraw.ImageDraw, at: tuple[float, float], words: str, **how: Any) -> None:
        written.append(words)
        text(pen, at, words, **how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageDraw.ImageDraw, "text", noted)
        assert len(task.pictures(model)) == TEST
    assert written
    assert all(words.isascii() for words in written)  # Pillow's own font has no other characters
    assert set(task._last(model).images) == {0, 1, 2}
    assert task.world.size == 2


def test_a_model_that_finds_nothing_has_collapsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = tiny(tmp_path)
    model = task.build_model(0)
    with torch.no_grad():
        model.classes.bias[BACKGROUND] = 9.0  # type: ignore[index, union-attr, operator]
    found = task.evaluate(model, 1)
    assert found["not_background"] == 0
    # Scores below background's may be in the right order all the same.
    for precision, collapsed in ((5.0, 1), (5.1, 0)):
        with monkeypatch.context() as patch:
            measured = {"map": precision}
            patch.setattr("bpgrad.tasks.detections.metrics", lambda *_, its=measured: its)
            assert task.evaluate(model, 1)["collapsed"] == collapsed
    with torch.no_grad():
        model.classes.bias[BACKGROUND] = -9.0  # type: ignore[index, union-attr, operator]
    found = task.evaluate(model, 1)
    assert (found["collapsed"], found["not_background"]) == (0, 100)


def test_a_perfect_model_is_scored_so(tmp_path: Path) -> None:
    task = tiny(tmp_path, plus_one=True, short=256, long=400)
    task._found = task.detections(knowing(task))
    scores = metrics(task._found, task.truth, TEST)
    assert scores["map"] == scores["map_area"] == 100
    assert scores["coco_ap"] > 60  # one of several boxes at IoU 0.5 to 0.95 has the highest score
    assert scores["map_error"] == 0
    assert "ap_cow" not in scores


def test_images_without_an_object_teach_nothing(tmp_path: Path) -> None:
    class Empty(Tiny):
        def _read_photos(self) -> tuple[list[Photo], list[Photo]]:
            photos = [
                write_photo(self.context.data_root, f"10{k}", SIZES[k % 2], [])
                for k in range(TRAIN + TEST)
            ]
            full = write_photo(self.context.data_root, "120", SIZES[0], [(0, (10, 12, 55, 60))])
            return [full, *photos[:TRAIN]], photos[TRAIN:]

        def _proposals(self, kind: str, photos: Sequence[Photo]) -> list[np.ndarray]:
            return [np.array([[10.0, 12, 55, 60], [10, 12, 40, 40]]) for _ in photos]

    task = Empty(Context(ONE, tmp_path, seed=3, batch_size=1), proposals="oracle")
    model = task.build_model(0)
    found = [task.objective(model, batch) for batch in task.train_batches(1)]
    objectives = sorted(float(each["objective"]) for each in found)
    assert objectives[:TRAIN] == [0.0] * TRAIN
    assert objectives[-1] > 0
    assert task.evaluate(model, 1)["objective"] == 0


@pytest.mark.parametrize("solver", ["sgd", "adam", "bpgrad"])
def test_biases_are_not_decayed_by_any_solver(solver: str, tmp_path: Path) -> None:
    task = tiny(tmp_path)
    model = task.build_model(0)
    cfg = load(["task=voc_detection", f"solver={solver}"])
    rates, decays = task.lr_multipliers(model), task.decay_multipliers(model)
    built = make_solver(solver_spec(cfg), model, rates, ONE.device, decays=decays)
    biases = {id(p) for name, p in model.named_parameters() if name.endswith("bias")}
    decayed = {id(p): g["weight_decay"] for g in built.param_groups for p in g["params"]}
    assert {decayed[key] for key in biases} == {0.0}
    assert {decay for key, decay in decayed.items() if key not in biases} == {5e-4}


# -- what a run leaves ---------------------------------------------------------------------------


def test_the_record_keeps_what_the_spread_over_images_needs(tmp_path: Path) -> None:
    task = tiny(tmp_path)
    found = task._found = task.detections(knowing(task, wrong=0.4))
    small, large = task.outputs(task.build_model(0))
    with np.load(io.BytesIO(small["ranked.npz"])) as file:
        its = dict(file)
    true = np.unpackbits(its["true"], count=len(its["labels"])).astype(bool)
    kept = Ranked(its["labels"], its["images"], true, its["positives"])
    expected = average_precision(found, task.truth, BACKGROUND)
    assert np.array_equal(average_precision_of(kept), expected, equal_nan=True)
    lines = large["detections/comp3_det_test_bird.txt"].decode().splitlines()
    assert len(lines) == (found.labels == 2).sum()
    name, score, *box = lines[0].split()
    first = np.flatnonzero(found.labels == 2)[0]
    assert name == task.judged[found.images[first]].objects.name
    assert score == f"{found.scores[first]:.6f}"
    assert [int(value) for value in box] == found.boxes[first].tolist()
    rows = json.loads(large["detections/coco.json"])
    assert len(rows) == len(found.scores)
    left, top, right, bottom = found.boxes[0]
    assert rows[0]["bbox"] == [left - 1, top - 1, right - left + 1, bottom - top + 1]
    assert (rows[0]["image_id"], rows[0]["category_id"]) == (7, int(found.labels[0]) + 1)


def composed(folder: Path, *overrides: str) -> Any:
    own = ["task=voc_detection", "scale=smoke", f"task.target={__name__}.Tiny", "task.name=tiny"]
    places = [f"data_root={folder}/data", f"results_root={folder}/runs"]
    null = ["task.feature_scale=null", "task.short=64", "task.long=100", "task.proposals=oracle"]
    sizes = ["batch_size=3", "threads=1", "workers=0", "epochs=2", "task.judged_last=1"]
    return load([*own, *places, f"checkpoint_root={folder}/checkpoints", *null, *sizes, *overrides])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("trained")
    result = train(composed(folder, "solver.lipschitz=2000"))
    return result, folder


def test_a_run_is_recorded_with_its_pictures(trained: tuple[dict[str, Any], Path]) -> None:
    result, folder = trained
    record, checkpoints = (folder / root / result["run"] for root in ("runs", "checkpoints"))
    assert {path.stem for path in (record / "pictures").iterdir()} == {"007", "008", "009"}
    assert (record / "ranked.npz").is_file()
    assert (checkpoints / "detections" / "coco.json").is_file()
    rows = (record / "metrics.csv").read_text().splitlines()
    assert {"train_objective", "train_box", "val_map", "val_collapsed"} <= set(rows[0].split(","))
    first = dict(zip(rows[0].split(","), rows[1].split(","), strict=True))
    assert first["val_map"] == ""
    assert result["val_collapsed"] in (0, 1)
    meta = json.loads((record / "meta.json").read_text())
    assert meta["preprocessed_sha256"]


@pytest.mark.parametrize("overrides", [["workers=2"], ["micro_batch=1"]])
def test_workers_and_micro_batches_change_no_example(
    overrides: list[str], trained: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    result, folder = trained
    other = train(composed(tmp_path, "solver.lipschitz=2000", *overrides))
    consumed = (tmp_path / "runs" / other["run"] / "consumed.csv").read_bytes()
    assert consumed == (folder / "runs" / result["run"] / "consumed.csv").read_bytes()
    if overrides == ["workers=2"]:
        assert other["weights_sha256"] == result["weights_sha256"]


def test_a_cut_run_ends_with_the_same_bits(
    trained: tuple[dict[str, Any], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, folder = trained
    cfg, calls, real = (
        composed(tmp_path, "solver.lipschitz=2000"),
        itertools.count(1),
        Tiny.objective,
    )

    def cut(task: Tiny, model: torch.nn.Module, batch: Batch) -> dict[str, Tensor]:
        if next(calls) == 5:  # the second of the second epoch
            os.kill(os.getpid(), signal.SIGTERM)
        return real(task, model, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Tiny, "objective", cut)
        with pytest.raises(Interrupted):
            train(cfg)
    assert train(cfg)["weights_sha256"] == result["weights_sha256"]
    for file in ("metrics.csv", "consumed.csv", "ranked.npz"):
        one, other = (root / "runs" / result["run"] / file for root in (folder, tmp_path))
        assert one.read_bytes() == other.read_bytes()


# -- the editions --------------------------------------------------------------------------------


def test_the_scale_chooses_the_edition() -> None:
    paper, reduced = (load(["task=voc_detection", f"scale={s}"]) for s in ("paper", "reduced"))
    assert paper.task["target"].endswith(f".{VocDetection.__name__}")
    assert reduced.task["target"].endswith(f".{ReducedVocDetection.__name__}")
    assert (paper.epochs, reduced.epochs, paper.batch_size, reduced.batch_size) == (12, 10, 2, 2)
    options = task_options(paper)
    assert (options["short"], options["mirror"], options["proposals"]) == (
        *(600, "copies", "published"),
    )
    assert task_options(reduced)["feature_scale"] == 0.04
    assert options["judged_last"] == task_options(reduced)["judged_last"] == LAST
    with pytest.raises(ConfigError, match=r"unknown task.frozen"):
        load(["task=voc_detection", "scale=reduced", "task.frozen=conv2"])


def test_missing_data_is_one_line(tmp_path: Path) -> None:
    context = Context(ONE, tmp_path, seed=0, batch_size=2)
    for edition, words in ((VocDetection, "ImageSets/Main"), (ReducedVocDetection, "VOC2007")):
        with pytest.raises(DataError, match=words) as refused:
            edition(context)
        assert "\n" not in str(refused.value)
    with pytest.raises(ConfigError, match="nobody has published those"):
        ReducedVocDetection(context, proposals="published")  # type: ignore[arg-type]


def test_a_picture_has_a_panel_for_each() -> None:
    its = Shown(np.array([[10, 10, 40, 40]]), np.array([14]), np.array([0.75]))
    pixels = np.zeros((50, 75, 3), np.uint8)
    picture = detected(pixels, {"truth": Shown(its.boxes, its.labels), "found": its})
    assert picture.width == 2 * 300
    colors = {color for _, color in picture.getcolors(picture.width * picture.height) or []}
    assert (192, 128, 128) in colors  # a person's
    nothing = Detections(np.zeros(0, int), np.zeros(0, int), np.zeros(0), np.zeros((0, 4)))
    assert detected(pixels, {"": Shown(nothing.boxes, nothing.labels)}).width == 300
