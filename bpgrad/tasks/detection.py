"""Detection with Fast R-CNN on Pascal VOC 2007 (reference §6), and its reduced edition."""

import hashlib
import io
import itertools
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from bpgrad.data import pretrained, proposals, voc
from bpgrad.data.detection import MIRRORS, Example, Examples, Tested, padded
from bpgrad.data.pipeline import EpochLoader
from bpgrad.data.pretrained import Preprocessing
from bpgrad.data.proposals import BACKGROUND, FOREGROUND_IOU, REGIONS
from bpgrad.data.selective_search import selective_search
from bpgrad.errors import ConfigError
from bpgrad.metrics import Metric
from bpgrad.metrics.bootstrap import bootstrap
from bpgrad.metrics.voc import (
    Detections,
    GroundTruth,
    Ranked,
    average_precision,
    average_precision_of,
    box_iou,
    coco_average_precision,
    mean_of,
    ranked,
    resampled_precision,
)
from bpgrad.models.backbones import freeze_blocks
from bpgrad.models.fast_rcnn import (
    STRIDE,
    FastRcnn,
    losses,
    squeezenet_fast_rcnn,
    vgg16_fast_rcnn,
)
from bpgrad.tasks.pictures import Shown, detected
from bpgrad.tasks.task import Batch, Context
from bpgrad.tasks.voc import OnVoc, as_list, check_shares, divided
from bpgrad.tasks.voc_results import DECIMALS, coco_results, devkit_files

COLLAPSED = 1.0  # % of the regions that show an object which are called anything but background
KEPT, KEPT_OF_IMAGE = 40, 100  # detections of a class: an image of the set, and in one image
OVERLAP = 0.3  # of two detections of a class, above which the lower score is dropped
HEAD_BATCH = 512  # regions that are put through the head at once
EVAL_BATCH = 2
FEW = 3  # objects of a class below which its AP says little
PICTURES, SHOWN_SCORE = 4, 0.5
RECORDED = 100_000  # bytes of what a committed record keeps of the detections
ORACLES = 50  # proposals of each object

PROPOSALS = ("published", "selective_search", "oracle")
SMALLEST = 32  # pixels


@dataclass(frozen=True)
class Whole:
    """The whole minibatch, over all processes.

    How many regions it has, how many of them show an object, and the height and width that its
    images are padded to. A part of it, which may have no example, is one of the same whole.
    """

    regions: int
    foreground: int
    size: tuple[int, int]

    def __getitem__(self, part: slice) -> "Whole":
        return self


class Detection(OnVoc):
    """What the paper's edition and the reduced one share.

    Each epoch the objective of the images to judge by, over regions that are the same in every
    epoch. In each of the last `judged_last` epochs their detections: `map` and the others.
    `collapsed` is 1 where all but a hundredth of those regions that show an object are called
    background.

    Args:
        context: Of the trainer.
        short: To which the shorter side of an image is scaled.
        long: The most that the longer side may have then.
        proposals: "published", "selective_search" (by OpenCV), or "oracle".
        mirror: "copies": every image and its mirror image in each epoch, "coin", or "none".
        loss: "mean" over the regions of a minibatch, or "sum": over its images, as before 2018.
        shrinking_quota: Whether an image with few regions that show an object lowers the quota of
            those after it in the minibatch.
        plus_one: Whether regression is undone with the widths that it was done with.
        dropout: False: none.
        holdout: The part of the training images, the last by name, that takes the place of the
            test images: for tuning.
        judged_last: In how many of the last epochs all proposals are tested.
    """

    metrics: Mapping[str, Metric] = {
        "objective": Metric("objective"),
        "map": Metric("mAP", "%", higher_is_better=True),
        "map_of_three": Metric("mAP, 3 objects or more", "%", higher_is_better=True),
        "map_error": Metric("mAP, standard error over images", "%"),
        "map_area": Metric("mAP, all points", "%", higher_is_better=True),
        "coco_ap": Metric("COCO AP", "%", higher_is_better=True),
        "ceiling": Metric("mAP of perfect scores", "%", higher_is_better=True, detail=True),
        "classification": Metric("classification loss", detail=True),
        "box": Metric("box loss", detail=True),
        **{
            f"ap_{name}": Metric(name, "%", higher_is_better=True, detail=True)
            for name in voc.CLASSES
        },
    }
    train_metrics: Sequence[str] = ("objective", "classification", "box")

    def __init__(
        self,
        context: Context,
        short: int,
        long: int,
        proposals: str,
        mirror: str,
        loss: str,
        shrinking_quota: bool,
        plus_one: bool,
        dropout: bool,
        holdout: float,
        judged_last: int,
    ) -> None:
        _check_options(short, long, proposals, mirror, loss, judged_last)
        self.context, self.world = context, context.world
        train, judged = divided(*self._read_photos(), context, holdout)
        self.loss, self.shrinking, self.plus_one = loss, shrinking_quota, plus_one
        self.dropout, self.judged_last = dropout, judged_last
        self.state, preprocessing = self._weights()
        self.examples = Examples(
            *(train, judged, self._proposals(proposals, [*train, *judged]), preprocessing),
            context.seed,
            short=short,
            long=long,
            mirror=mirror,
        )
        self.judged, self.trained = judged, self.examples.trained
        check_shares(self.trained, context)
        self.load = EpochLoader(self.examples, as_list, context.workers)
        self.truth = _ground_truth([photo.objects for photo in judged])
        self.ceiling = self._ceiling()
        self._found: Detections | None = None  # of the model as it was judged last

    @abstractmethod
    def _read_photos(self) -> tuple[list[voc.Photo], list[voc.Photo]]:
        """All photos to train on, and to test on, by name."""

    @abstractmethod
    def _weights(self) -> tuple[Mapping[str, Tensor], Preprocessing]:
        """Those that the net starts from, and how its input is preprocessed."""

    @abstractmethod
    def _build(self, generator: torch.Generator) -> FastRcnn:
        """The net, from these weights."""

    def _proposals(self, kind: str, photos: Sequence[voc.Photo]) -> list[np.ndarray]:
        root = self.context.data_root
        if kind == "selective_search":
            with ThreadPoolExecutor() as pool:  # OpenCV lets go of the interpreter
                return list(pool.map(lambda photo: selective_search(root, photo.image), photos))
        if kind == "oracle":
            return [_oracle(photo.objects) for photo in photos]
        known = proposals.published(root, {photo.objects.name for photo in photos})
        return [proposals.filtered(known[photo.objects.name]) for photo in photos]

    def preprocessed(self) -> Mapping[str, Tensor]:
        """The proposals, which the images alone do not pin."""
        return {
            photo.objects.name: torch.from_numpy(boxes)
            for photo, boxes in zip(self.examples.photos, self.examples.boxes, strict=True)
        }

    # -- training --------------------------------------------------------------------------------

    def train_batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        for indices, examples in self._loaded(epoch, start):
            photos = [self.examples.photo(index) for index in indices]
            counts = self.examples.foreground[photos].tolist()
            quotas = proposals.quotas(counts, shrinking=self.shrinking)
            others = self.examples.background[photos].tolist()
            filled = (min(REGIONS - q, n) for q, n in zip(quotas, others, strict=True))
            sides = zip(*(self.examples.scaled_size(index) for index in indices), strict=True)
            height, width = map(max, sides)
            whole = Whole(sum(quotas) + sum(filled), sum(quotas), (height, width))
            own = quotas[self.world.rank :: self.world.size]
            consumed = [self.examples.consumed(epoch, index) for index in indices]
            yield Batch(
                [example.with_quota(q) for example, q in zip(examples, own, strict=True)],
                whole,
                size=len(indices),
                consumed=np.array([*indices, *quotas], np.int64).tobytes() + b"".join(consumed),
            )

    def objective(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        whole, share = batch.targets, 1 / self.world.size
        entropy, box, _ = self._sums(model, batch.inputs or [_no_regions()], whole.size)
        divisor = whole.regions if self.loss == "mean" else batch.size
        return {
            "objective": (entropy + box) / (divisor * share),
            "classification": entropy.detach() / (whole.regions * share),
            "box": box.detach() / (max(1, 4 * whole.foreground) * share),
        }

    def _sums(
        self, model: nn.Module, examples: Sequence[Example], size: tuple[int, int] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Sums over regions: cross-entropy, box loss, and what is called anything but background.

        The last of those that show an object. Images are padded to `size`.
        """
        images = self.on_device(padded([example.image for example in examples], size))
        counts = [len(example.boxes) for example in examples]
        number = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
        boxes = torch.cat([example.boxes for example in examples])
        regions = torch.cat([number[:, None].float(), boxes], 1)
        labels, targets = (
            torch.cat([getattr(example, name) for example in examples]).to(self.world.device)
            for name in ("labels", "targets")
        )
        keys = [example.key for example in examples]
        scores, changes = model(images, regions.to(self.world.device), keys, counts)
        found = (labels != BACKGROUND) & (scores.detach().argmax(1) != BACKGROUND)
        return (*losses(scores, changes, labels, targets), found.sum())

    # -- evaluation ------------------------------------------------------------------------------

    def evaluate(self, model: nn.Module, epoch: int) -> dict[str, float]:
        found, self._found = self._sampled(model, self.examples.sampled()), None
        epochs = self.context.epochs
        if epochs is None or epoch > epochs - self.judged_last:
            detections = self._found = self.detections(model)
            found |= self.world.from_main(lambda: self._scores(detections))
        return found

    def evaluate_training(self, model: nn.Module) -> dict[str, float]:
        return self._sampled(model, self.examples.sampled(training=True))

    @torch.no_grad()
    def _sampled(self, model: nn.Module, indices: Sequence[int]) -> dict[str, float]:
        """Objective and losses over regions that are the same in every epoch."""
        model.eval()
        sums = torch.zeros(5, dtype=torch.float64, device=self.world.device)
        for examples in self._share(0, indices, EVAL_BATCH):
            its = [example.with_quota(example.foreground) for example in examples]
            regions, shown = (
                torch.tensor(float(sum(of)), device=self.world.device)
                for of in ([len(e.boxes) for e in its], [e.foreground for e in its])
            )
            sums += torch.stack([*self._sums(model, its), regions, shown])
        model.train()
        entropy, box, found, regions, shown = self.world.sum_(sums).tolist()
        share = 100 * found / max(1, shown)
        return {
            "objective": (entropy + box) / (regions if self.loss == "mean" else len(indices)),
            "classification": entropy / regions,
            "box": box / max(1, 4 * shown),
            "not_background": share,
            "collapsed": float(share <= COLLAPSED),
        }

    @torch.no_grad()
    def detections(self, model: nn.Module, *, regress: bool = True) -> Detections:
        """What the model finds in the images to judge by, numbered in their order.

        Of each class the scores from a threshold on, which the 40 highest scores an image reach; of
        an image at most 100 of them; of those that overlap by more than 0.3 the highest. Scores
        have six decimals, as in the devkit's files.

        Args:
            model: As `build_model` returns it.
            regress: False leaves the proposals where they are.
        """
        assert isinstance(model, FastRcnn)
        model.eval()
        thresholds = _Thresholds(KEPT * len(self.judged))
        parts = []
        for (example,) in self._share(0, self.examples.tested(), 1):
            scores, changes = self._heads(model, example)
            thresholds.add(scores)
            changes = changes if regress else 0 * changes
            parts.append(self._candidates(example.index, scores, changes, thresholds.bound))
        model.train()
        shares = self.world.gather((thresholds.best(), parts))
        thresholds.parts = [best for best, _ in shares]
        thresholds.best()
        found = _joined([part for _, its in shares for part in its])
        found = _chosen(found, np.argsort(found.images, kind="stable"))
        found = _chosen(found, found.scores >= thresholds.bound[found.labels])
        return replace(found, scores=found.scores.astype(np.float64).round(DECIMALS))

    def _heads(self, model: FastRcnn, example: Tested) -> tuple[Tensor, Tensor]:
        """Probabilities (N, 20) of the classes, and changes (N, 20, 4) of the boxes, on the CPU.

        Proposals that round to the same cells share them, and are computed once.
        """
        features = model.trunk(self.on_device(example.image[None]))
        cells = torch.floor((example.boxes - 1) / STRIDE + 0.5)
        distinct, which = torch.unique(cells, dim=0, return_inverse=True)
        corners = STRIDE * distinct + 1
        regions = torch.cat([torch.zeros(len(corners), 1), corners], 1).to(self.world.device)
        found = [model.head(features, part) for part in regions.split(HEAD_BATCH)]
        scores = torch.cat([torch.softmax(scores.float(), 1) for scores, _ in found]).cpu()
        changes = torch.cat([changes for _, changes in found]).cpu().double()
        changes = changes.view(-1, BACKGROUND + 1, 4) * torch.from_numpy(self.examples.std)
        changes += torch.from_numpy(self.examples.mean)
        return scores[which, :BACKGROUND], changes[which, :BACKGROUND]

    def _candidates(
        self, index: int, scores: Tensor, changes: Tensor, bound: np.ndarray
    ) -> Detections:
        """The detections of an image after suppression, by descending score, from `bound` on.

        What lies below drops nothing that lies above.
        """
        objects = self.examples.photos[index].objects
        labels, rows, counts = _reaching(scores, bound)
        highest = scores.numpy()[rows, labels]
        order = np.lexsort((-highest, labels))  # class by class, equal scores as they are
        order = order[_places(counts) < KEPT_OF_IMAGE]
        labels, rows, highest = labels[order], rows[order], highest[order]
        boxes = proposals.decode(
            self.examples.boxes[index][rows],
            changes[rows, labels].numpy(),
            *(objects.width, objects.height),
            plus_one=self.plus_one,
        )
        # Both ends are inside: a box ends one pixel further on. Doubles hold 0.3 as it is meant.
        ends = torch.from_numpy(boxes + np.array([0, 0, 1, 1]))
        kept = _not_suppressed(ends, torch.from_numpy(highest).double(), labels)
        kept = kept[np.lexsort((kept, -highest[kept]))]
        number = np.full(len(kept), index - self.examples.photos_trained, np.int32)
        return Detections(number, labels[kept], highest[kept], boxes[kept])

    def _scores(self, found: Detections) -> dict[str, float]:
        its = self._ranked(found)
        each, objects = average_precision_of(its), its.positives.sum(0)
        maps = bootstrap(lambda counts: mean_of(resampled_precision(its, counts)), len(self.judged))
        scores = {
            "map": mean_of(each),
            "map_of_three": mean_of(each[objects >= FEW]),
            "map_error": maps.std(ddof=1),
            "map_area": mean_of(average_precision_of(its, points=None)),
            "coco_ap": coco_average_precision(found, self.truth, BACKGROUND),
            "ceiling": self.ceiling,
        }
        aps = {f"ap_{name}": ap for name, ap in zip(voc.CLASSES, each, strict=True)}
        # A class that nothing shows has none.
        return {name: float(value) for name, value in (scores | aps).items() if value == value}

    def _ranked(self, found: Detections) -> Ranked:
        its = ranked(found, self.truth, BACKGROUND)
        # Also of images at the end in which there is nothing.
        missing = len(self.judged) - len(its.positives)
        return replace(its, positives=np.pad(its.positives, ((0, missing), (0, 0))))

    def _ceiling(self) -> float:
        """The mAP of proposals as they are, if every object had its best one, and no other."""
        best = []
        for number, photo in enumerate(self.judged, self.examples.photos_trained):
            of, its = photo.objects.boxes, self.examples.boxes[number]
            pairs = np.repeat(of, len(its), 0), np.tile(its, (len(of), 1))
            best.append(its[box_iou(*pairs).reshape(len(of), len(its)).argmax(1)])
        boxes, truth = np.concatenate(best), self.truth
        found = Detections(truth.images, truth.labels, np.ones(len(boxes)), boxes)
        found = _chosen(found, box_iou(boxes, truth.boxes) >= FOREGROUND_IOU)
        return float(mean_of(average_precision(found, truth, BACKGROUND)))

    # -- what a finished run leaves --------------------------------------------------------------

    def outputs(self, model: nn.Module) -> tuple[Mapping[str, bytes], Mapping[str, bytes]]:
        """The ranked detections, for the spread over images; and all detections as files."""
        found = self._last(model)
        its, memory = self._ranked(found), io.BytesIO()
        kind = np.min_scalar_type(len(its.positives))
        np.savez_compressed(
            memory,
            labels=its.labels.astype(np.uint8),
            images=its.images.astype(kind),
            true=np.packbits(its.true),
            positives=its.positives.astype(np.uint8),
        )
        names = [photo.objects.name for photo in self.judged]
        small = {"ranked.npz": memory.getvalue()}
        large = {**devkit_files(found, names, "test"), "coco.json": coco_results(found, names)}
        large = {f"detections/{name}": content for name, content in large.items()}
        return (small, large) if len(small["ranked.npz"]) <= RECORDED else ({}, large | small)

    def pictures(self, model: nn.Module) -> Mapping[str, Image.Image]:
        """A few of the images to judge by, evenly spread: the objects, and what is found."""
        found, drawn = self._last(model), {}
        count = min(PICTURES, len(self.judged))
        for number in (k * len(self.judged) // count for k in range(count)):
            photo = self.judged[number]
            its = (found.images == number) & (found.scores >= SHOWN_SCORE)
            truth = Shown(photo.objects.boxes, photo.objects.labels)
            detections = Shown(found.boxes[its], found.labels[its], found.scores[its])
            panels = {"truth": truth, f"found, scores from {SHOWN_SCORE:g}": detections}
            drawn[photo.objects.name] = detected(voc.read_image(photo.image), panels)
        return drawn

    def _last(self, model: nn.Module) -> Detections:
        """What the model as it is finds; as it was judged, if it was."""
        if self._found is None:
            with self._alone():
                self._found = self.detections(model)
        return self._found


class _Thresholds:
    """The `count` highest scores of each class, of any number of images, in bounded memory.

    `bound` (classes,): what the `count`-th highest is at least.
    """

    def __init__(self, count: int) -> None:
        self.count, self.bound = count, np.full(BACKGROUND, -np.inf)
        self.parts = [torch.zeros(0, BACKGROUND)]

    def add(self, scores: Tensor) -> None:
        """Take up scores (N, classes)."""
        labels, rows, counts = _reaching(scores, self.bound)
        reaching = torch.full((int(counts.max()), BACKGROUND), -torch.inf)
        reaching[_places(counts), labels] = scores[rows, labels]
        self.parts.append(reaching)
        if sum(map(len, self.parts)) > 2 * self.count:
            self.best()

    def best(self) -> Tensor:
        """The scores that are needed."""
        its = torch.cat(self.parts).topk(min(self.count, sum(map(len, self.parts))), dim=0).values
        self.parts = [its]
        if len(its) == self.count:
            self.bound = its[-1].numpy()
        return its


def _reaching(scores: Tensor, bound: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where scores (N, classes) reach the bound of their class (classes,), class by class.

    The labels and the rows of those that do, and how many there are of each class.
    """
    labels, rows = np.nonzero(scores.T.numpy() >= bound[:, None])
    return labels, rows, np.bincount(labels, minlength=len(bound))


def _places(counts: np.ndarray) -> np.ndarray:
    """From 0 on in each of some groups of so many."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


def _not_suppressed(boxes: Tensor, scores: Tensor, labels: np.ndarray) -> np.ndarray:
    """Indices of the boxes (N, 4), class by class, that none of a higher score overlaps."""
    from torchvision.ops import nms  # slow, and checking settings does not need it

    ends = np.searchsorted(labels, np.arange(BACKGROUND + 1)).tolist()
    classes = [slice(first, end) for first, end in itertools.pairwise(ends)]
    return np.concatenate([its.start + nms(boxes[its], scores[its], OVERLAP) for its in classes])


class VocDetection(Detection):
    """Fast R-CNN on VGG-16 and all of VOC 2007.

    Args:
        context: Of the trainer.
        weights: VGG-16's: imagenet1k_v1 or imagenet1k_features, of torchvision, or a file in
            data_root/pretrained (see bpgrad.data.pretrained.vgg16).
        frozen: "none", or "conv2": the first two blocks, as Caffe's.
        swapped_mean: Whether the mean's green and blue change places, as in the MatConvNet demo.
        short: As in `Detection`, and so are those below.
        long: See there.
        proposals: See there.
        mirror: See there.
        loss: See there.
        shrinking_quota: See there.
        plus_one: See there.
        dropout: See there.
        holdout: See there.
        judged_last: See there.
    """

    def __init__(
        self,
        context: Context,
        weights: str = "imagenet1k_v1",
        frozen: Literal["none", "conv2"] = "none",
        swapped_mean: bool = False,
        short: int = 600,
        long: int = 1000,
        proposals: Literal["published", "selective_search", "oracle"] = "published",
        mirror: Literal["copies", "coin", "none"] = "copies",
        loss: Literal["mean", "sum"] = "mean",
        shrinking_quota: bool = True,
        plus_one: bool = False,
        dropout: bool = True,
        holdout: float = 0.0,
        judged_last: int = 5,
    ) -> None:
        _check_choice("frozen", frozen, ("none", "conv2"))
        self.weights, self.frozen, self.swapped = weights, frozen, swapped_mean
        super().__init__(
            *(context, short, long, proposals, mirror, loss, shrinking_quota, plus_one),
            *(dropout, holdout, judged_last),
        )

    @staticmethod
    def data_md5(data_root: Path) -> Mapping[str, str]:
        return {**voc.ARCHIVES_2007, **proposals.ARCHIVE}

    def _read_photos(self) -> tuple[list[voc.Photo], list[voc.Photo]]:
        return voc.detection_2007(self.context.data_root)

    def _weights(self) -> tuple[Mapping[str, Tensor], Preprocessing]:
        root, download = self.context.data_root, self.context.download
        state, preprocessing = pretrained.vgg16(root, self.weights, download=download)
        if self.swapped:
            red, green, blue = preprocessing.mean
            preprocessing = replace(preprocessing, mean=(red, blue, green))
        return state, preprocessing

    def _build(self, generator: torch.Generator) -> FastRcnn:
        model = vgg16_fast_rcnn(self.state, generator, dropout=self.dropout)
        if self.frozen == "conv2":
            freeze_blocks(model.trunk, 2)
        return model


class ReducedVocDetection(Detection):
    """One hidden layer of 512 on SqueezeNet 1.1; 106 images to train on and 106 to judge by.

    Args:
        context: Of the trainer.
        feature_scale: A factor of the pooled features, which are too large for usual rates.
        short: As in `Detection`, and so are those below.
        long: See there.
        proposals: See there.
        mirror: See there.
        loss: See there.
        shrinking_quota: See there.
        plus_one: See there.
        dropout: See there.
        holdout: See there.
        judged_last: See there.
    """

    def __init__(
        self,
        context: Context,
        feature_scale: float = 0.04,
        short: int = 400,
        long: int = 1000,
        proposals: Literal["selective_search", "oracle"] = "selective_search",
        mirror: Literal["copies", "coin", "none"] = "coin",
        loss: Literal["mean", "sum"] = "mean",
        shrinking_quota: bool = True,
        plus_one: bool = False,
        dropout: bool = True,
        holdout: float = 0.0,
        judged_last: int = 5,
    ) -> None:
        if proposals == "published":
            raise ConfigError(
                "task.proposals=published: nobody has published those of the reduced edition; "
                "choose one of selective_search, oracle"
            )
        if not feature_scale > 0:
            raise ConfigError(f"task.feature_scale={feature_scale}: must be above 0")
        self.feature_scale = feature_scale
        super().__init__(
            *(context, short, long, proposals, mirror, loss, shrinking_quota, plus_one),
            *(dropout, holdout, judged_last),
        )

    @staticmethod
    def data_md5(data_root: Path) -> Mapping[str, str]:
        return {**voc.REDUCED.md5, **pretrained.SQUEEZENET.md5}

    def _read_photos(self) -> tuple[list[voc.Photo], list[voc.Photo]]:
        return voc.reduced_detection(self.context.data_root)

    def _weights(self) -> tuple[Mapping[str, Tensor], Preprocessing]:
        return pretrained.squeezenet(self.context.data_root), pretrained.CAFFE_BGR

    def _build(self, generator: torch.Generator) -> FastRcnn:
        scale = self.feature_scale
        return squeezenet_fast_rcnn(self.state, generator, dropout=self.dropout, scale=scale)


def _no_regions() -> Example:
    """What a process puts through the model where only others have examples: they wait for it."""
    none = torch.zeros(0, 4)
    return Example(torch.zeros(3, 1, 1), none, torch.zeros(0, dtype=torch.int64), none, 0, (0,))


def _oracle(objects: voc.Annotation) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(objects.name.encode()).digest()[:8])
    return proposals.jittered(objects, ORACLES, np.random.default_rng(seed))


def _ground_truth(each: Sequence[voc.Annotation]) -> GroundTruth:
    counts = [len(objects.boxes) for objects in each]
    return GroundTruth(
        np.repeat(np.arange(len(each), dtype=np.int32), counts),
        np.concatenate([objects.labels for objects in each]),
        np.concatenate([objects.boxes for objects in each]),
        np.concatenate([objects.difficult for objects in each]),
    )


def _chosen(found: Detections, its: np.ndarray) -> Detections:
    return Detections(found.images[its], found.labels[its], found.scores[its], found.boxes[its])


def _joined(parts: Sequence[Detections]) -> Detections:
    return Detections(
        *(
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("images", "labels", "scores", "boxes")
        )
    )


def _check_choice(key: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ConfigError(f"task.{key}={value}: choose one of {', '.join(choices)}")


def _check_options(
    short: int, long: int, proposals: str, mirror: str, loss: str, judged_last: int
) -> None:
    _check_choice("proposals", proposals, PROPOSALS)
    _check_choice("mirror", mirror, MIRRORS)
    _check_choice("loss", loss, ("mean", "sum"))
    if short < SMALLEST:
        raise ConfigError(f"task.short={short}: must be at least {SMALLEST} pixels")
    if long < short:
        raise ConfigError(f"task.long={long}: must be at least task.short={short}")
    if judged_last < 1:
        raise ConfigError(f"task.judged_last={judged_last}: must be at least 1")
