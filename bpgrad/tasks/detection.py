"""Detection with Fast R-CNN on Pascal VOC 2007 (reference §6), and its reduced edition."""

import hashlib
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
from bpgrad.data.proposals import BACKGROUND, REGIONS
from bpgrad.data.selective_search import selective_search
from bpgrad.errors import ConfigError
from bpgrad.metrics import Metric
from bpgrad.metrics.voc import Detections
from bpgrad.models.backbones import freeze_blocks
from bpgrad.models.fast_rcnn import FastRcnn, losses, squeezenet_fast_rcnn, vgg16_fast_rcnn
from bpgrad.models.regions import STRIDE
from bpgrad.tasks import detections
from bpgrad.tasks.detections import KEPT, Thresholds
from bpgrad.tasks.pictures import Shown, detected
from bpgrad.tasks.task import Batch, Context
from bpgrad.tasks.voc import OnVoc, as_list, check_shares, divided
from bpgrad.tasks.voc_results import coco_results, devkit_files

COLLAPSED = 1.0  # % of the regions that show an object which are called anything but background
BACKGROUND_MAP = 5.0  # %: what scores reach by their order where all is called background
HEAD_BATCH = 256  # regions at once through the head: 25 MB of pooled features
EVAL_BATCH = 2
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
    background and, where it is measured, `map` is not above 5 either.

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
        "map_error": Metric("mAP, standard error over images", "%", compared=False),
        "map_area": Metric("mAP, all points", "%", higher_is_better=True),
        "coco_ap": Metric("COCO AP", "%", higher_is_better=True),
        "ceiling": Metric("mAP of perfect scores", "%", detail=True, compared=False),
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
        objects = [photo.objects for photo in judged]
        self.truth, its = detections.ground_truth(objects), self.examples.boxes[len(train) :]
        boxes = [of.boxes for of in objects]
        self.ceiling = detections.ceiling(self.truth, list(zip(boxes, its, strict=True)))
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

    def decay_multipliers(self, model: nn.Module) -> Mapping[str, float]:
        assert isinstance(model, FastRcnn)
        return model.decay_multipliers()

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
            regions = max(1, sum(quotas) + sum(filled))  # where nothing shows an object: none
            whole = Whole(regions, sum(quotas), (height, width))
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
            its = self._found = self.detections(model)
            found |= self.world.from_main(
                lambda: detections.metrics(its, self.truth, len(self.judged))
            )
            found["ceiling"] = self.ceiling
            found["collapsed"] *= found.get("map", 0.0) <= BACKGROUND_MAP  # none without an object
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
        regions = max(1, regions)  # of images that show no object there are none
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
        count = KEPT * len(self.judged)
        thresholds, parts = Thresholds(count), []
        for (example,) in self._share(0, self.examples.tested(), 1):
            scores, changes = self._heads(model, example)
            thresholds.add(scores)
            objects = self.examples.photos[example.index].objects
            parts.append(
                detections.of_image(
                    example.index - self.examples.photos_trained,
                    scores,
                    changes if regress else 0 * changes,
                    self.examples.boxes[example.index],
                    (objects.width, objects.height),
                    thresholds.bound,
                    plus_one=self.plus_one,
                )
            )
        model.train()
        return detections.of_all(self.world.gather((thresholds.best(), parts)), count)

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

    # -- what a finished run leaves --------------------------------------------------------------

    def outputs(self, model: nn.Module) -> tuple[Mapping[str, bytes], Mapping[str, bytes]]:
        """The ranked detections, for the spread over images; and all detections as files."""
        found = self._last(model)
        ranked = detections.packed(detections.ranked_of(found, self.truth, len(self.judged)))
        names = [photo.objects.name for photo in self.judged]
        small = {"ranked.npz": ranked}
        large = {**devkit_files(found, names, "test"), "coco.json": coco_results(found, names)}
        large = {f"detections/{name}": content for name, content in large.items()}
        return (small, large) if len(ranked) <= RECORDED else ({}, large | small)

    def pictures(self, model: nn.Module) -> Mapping[str, Image.Image]:
        """A few of the images to judge by, evenly spread: the objects, and what is found."""
        found, drawn = self._last(model), {}
        count = min(PICTURES, len(self.judged))
        for number in (k * len(self.judged) // count for k in range(count)):
            photo = self.judged[number]
            its = (found.images == number) & (found.scores >= SHOWN_SCORE)
            truth = Shown(photo.objects.boxes, photo.objects.labels)
            shown = Shown(found.boxes[its], found.labels[its], found.scores[its])
            panels = {"truth": truth, f"found, scores from {SHOWN_SCORE:g}": shown}
            drawn[photo.objects.name] = detected(voc.read_image(photo.image), panels)
        return drawn

    def _last(self, model: nn.Module) -> Detections:
        """What the model as it is finds; as it was judged, if it was."""
        if self._found is None:
            with self._alone():
                self._found = self.detections(model)
        return self._found


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
