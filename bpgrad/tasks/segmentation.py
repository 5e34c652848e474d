"""Semantic segmentation with FCN-32s on Pascal VOC (reference §7), and its reduced edition."""

import io
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from bpgrad.data import pretrained, voc
from bpgrad.data.pipeline import EpochLoader
from bpgrad.data.pretrained import Preprocessing
from bpgrad.data.segmentation import Example, Examples
from bpgrad.errors import ConfigError
from bpgrad.metrics import Metric
from bpgrad.metrics.bootstrap import bootstrap
from bpgrad.metrics.segmentation import (
    all_background,
    class_iu,
    confusion_matrix,
    resampled_mean_iu,
    scores,
)
from bpgrad.models.fcn32s import (
    CLASSES,
    FORMS,
    STRIDE,
    FCN32s,
    squeezenet_fcn32s,
    vgg16_fcn32s,
)
from bpgrad.tasks.pictures import segmented
from bpgrad.tasks.task import Batch, Context
from bpgrad.tasks.voc import OnVoc, as_list, check_shares, divided

COLLAPSED = 1.0  # points of mean IU beside calling everything background
PICTURES = 4
EVAL_BATCH = 10  # of warped validation images


class Segmentation(OnVoc):
    """What the paper's edition and the reduced one share.

    Two validations, each epoch. The curves: the objective and `warped_*`, of images warped and
    mirrored at random as in training. The table: `mean_iu` and the others, of whole images at the
    nearest multiples of 32, the same in every epoch. `collapsed` is 1 where the latter's mean IU is
    within a point of calling every pixel background.

    Args:
        context: Of the trainer.
        size: Of the warped square.
        side: To which the longer side is scaled for the table; None leaves it.
        form: "matconvnet", or "caffe": whole images, not warped, padded by 100, and the sum over
            the pixels in the place of their mean. It is another f: L and rates mean other things.
        deconvolution: "frozen", without any parameter, or "moving" (see `FCN32s`).
        augment: False: neither scaled at random nor mirrored.
        dropout: False: none.
        holdout: The part of the training images, the last by name, that takes the place of the
            test images: for tuning.
    """

    metrics: Mapping[str, Metric] = {
        "objective": Metric("objective"),
        "mean_iu": Metric("mean IU", "%", higher_is_better=True),
        "mean_iu_error": Metric("mean IU, standard error over images", "%", compared=False),
        "pixel_accuracy": Metric("pixel accuracy", "%", higher_is_better=True),
        "mean_accuracy": Metric("mean accuracy", "%", higher_is_better=True),
        "average": Metric("average", "%", higher_is_better=True),
        "warped_mean_iu": Metric("mean IU, warped", "%", higher_is_better=True),
    }
    train_metrics: Sequence[str] = ("objective",)

    def __init__(
        self,
        context: Context,
        size: int,
        side: int | None,
        form: str,
        deconvolution: str,
        augment: bool,
        dropout: bool,
        holdout: float,
    ) -> None:
        _check_options(size, side, form, deconvolution)
        self.context, self.world = context, context.world
        train, judged = divided(*self._read_pairs(), context, holdout)
        voc.check_pairs([*train, *judged])
        self.caffe, self.moving, self.dropout = form == "caffe", deconvolution == "moving", dropout
        self.state, preprocessing = self._weights()
        self.examples = Examples(
            *(train, judged, preprocessing, context.seed),
            size=None if self.caffe else size,
            augment=augment,
            side=side,
            multiple=not self.caffe,
        )
        self.trained = self.examples.trained
        check_shares(self.trained, context)
        self._confusions: np.ndarray | None = None  # of the model as it was judged last
        self.load = EpochLoader(self.examples, as_list, context.workers)

    @abstractmethod
    def _read_pairs(self) -> tuple[list[voc.Pair], list[voc.Pair]]:
        """All pairs to train on, and to test on, by name."""

    @abstractmethod
    def _weights(self) -> tuple[Mapping[str, Tensor], Preprocessing]:
        """Those that the net starts from, and how its input is preprocessed."""

    @abstractmethod
    def _build(self, generator: torch.Generator) -> FCN32s:
        """The net, from these weights."""

    def train_batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        for indices, examples in self._loaded(epoch, start):
            drawn = [self.examples.drawn(epoch, index).tobytes() for index in indices]
            yield Batch(
                [(example.image, example.key) for example in examples],
                [example.labels for example in examples],
                size=len(indices),
                consumed=np.array(indices, np.int64).tobytes() + b"".join(drawn),
            )

    def objective(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        examples = [*zip(batch.inputs, batch.targets, strict=True)] or [_all_void()]
        size = 1 if self.caffe else len(examples)  # whole images differ in size
        losses = []
        for k in range(0, len(examples), size):
            inputs, labels = zip(*examples[k : k + size], strict=True)
            images, keys = zip(*inputs, strict=True)
            losses.append(self.losses(model(self.stacked(images), keys), labels))
        return {"objective": torch.cat(losses).sum() / (batch.size / self.world.size)}

    def stacked(self, images: Sequence[Tensor]) -> Tensor:
        """Images of one size as a tensor on the device."""
        return self.on_device(torch.stack(list(images)))

    def losses(self, found: Tensor, labels: Sequence[Tensor]) -> Tensor:
        """The loss of each image (N,), of scores (N, 21, H, W); 0 of one that is all void.

        The sum of the cross-entropies over the valid pixels, and this divided by one more than
        their number unless it is the Caffe form.
        """
        truth = torch.stack(list(labels)).to(found.device).long()
        # Over rows, where it is deterministic on a GPU too.
        rows = found.permute(0, 2, 3, 1).reshape(-1, CLASSES)
        each = F.cross_entropy(rows, truth.flatten(), ignore_index=voc.VOID, reduction="none")
        sums = each.view(len(truth), -1).sum(1)
        if self.caffe:
            return sums
        return sums / ((truth != voc.VOID).flatten(1).sum(1) + 1)

    def evaluate(self, model: nn.Module, epoch: int) -> dict[str, float]:
        each = self._confusions = self._tested(model, self.examples.tested).cpu().numpy()
        confusion, found = torch.from_numpy(each.sum(0)), self._warped(model, epoch)
        resampled = bootstrap(lambda counts: resampled_mean_iu(each, counts), len(each))
        found["mean_iu_error"] = float(resampled.std(ddof=1))
        ius = zip(("background", *voc.CLASSES), class_iu(confusion), strict=True)
        return found | self._table(confusion) | {f"iu_{name}": value for name, value in ius}

    def evaluate_training(self, model: nn.Module) -> dict[str, float]:
        return scores(self._tested(model, self.examples.training_tested).sum(0))

    def _table(self, confusion: Tensor) -> dict[str, float]:
        found, background = scores(confusion), all_background(confusion)
        collapsed = found["mean_iu"] <= background + COLLAPSED
        present = scores(confusion, present_only=True)["mean_iu"]
        return found | {
            "present_mean_iu": present,
            "background_iu": background,
            "collapsed": float(collapsed),
        }

    @torch.no_grad()
    def _warped(self, model: nn.Module, epoch: int) -> dict[str, float]:
        """Objective and scores of the images to judge by, warped at random."""
        model.eval()
        confusion = self._no_counts()
        losses = torch.zeros(1, dtype=torch.float64, device=self.world.device)
        for examples in self._share(epoch, self.examples.warped, 1 if self.caffe else EVAL_BATCH):
            labels = [example.labels for example in examples]
            found = model(self.stacked([example.image for example in examples]))
            losses += self.losses(found, labels).sum()
            truth = torch.stack(labels).to(found.device)
            confusion += confusion_matrix(truth, found.argmax(1), CLASSES, voc.VOID)
        model.train()
        total = float(self.world.sum_(losses)) / len(self.examples.warped)
        its = scores(self.world.sum_(confusion))
        return {"objective": total} | {f"warped_{name}": value for name, value in its.items()}

    @torch.no_grad()
    def _tested(self, model: nn.Module, indices: Sequence[int]) -> Tensor:
        """The confusion matrix of each of some whole images, at its own size: (N, 21, 21)."""
        model.eval()
        each = self._no_counts().repeat(len(indices), 1, 1)
        own = range(self.world.rank, len(indices), self.world.size)
        for k, (example,) in zip(own, self._share(0, indices, 1), strict=True):
            truth = example.labels.to(self.world.device)
            each[k] = confusion_matrix(truth, self._labels(model, example), CLASSES, voc.VOID)
        model.train()
        return self.world.sum_(each)

    def _labels(self, model: nn.Module, example: Example) -> Tensor:
        """The labels that the model gives the pixels of a mask, int64 (H, W)."""
        found = model(self.stacked([example.image])).argmax(1)
        if found.shape[1:] == example.labels.shape:
            return found[0]
        size = example.labels.shape
        return F.interpolate(found[None].to(torch.uint8), size=size, mode="nearest-exact")[0, 0]

    def _no_counts(self) -> Tensor:
        return torch.zeros(CLASSES, CLASSES, dtype=torch.int64, device=self.world.device)

    def outputs(self, model: nn.Module) -> tuple[Mapping[str, bytes], Mapping[str, bytes]]:
        """The confusion matrix of each image to judge by, for the spread over images."""
        if self._confusions is None:
            with self._alone():
                self._confusions = self._tested(model, self.examples.tested).cpu().numpy()
        memory = io.BytesIO()
        np.savez_compressed(memory, confusion=self._confusions.astype(np.int32))
        return {"confusion.npz": memory.getvalue()}, {}

    @torch.no_grad()
    def pictures(self, model: nn.Module) -> Mapping[str, Image.Image]:
        """A few of the images to judge by, evenly spread: image, truth and prediction."""
        model.eval()
        tested = self.examples.tested
        count = min(PICTURES, len(tested))
        drawn = {}
        for index in (tested[k * len(tested) // count] for k in range(count)):
            pair = self.examples.pairs[index % len(self.examples.pairs)]
            found = self._labels(model, self.examples[0, index]).cpu().numpy()
            pixels, truth = voc.read_image(pair.image), voc.read_mask(pair.mask)
            drawn[pair.name] = segmented(pixels, {"truth": truth, "prediction": found})
        model.train()
        return drawn


class VocSegmentation(Segmentation):
    """FCN-32s on VGG-16, VOC 2011 with SBD's masks, and the official 736 images to judge by.

    Args:
        context: Of the trainer.
        weights: VGG-16's: imagenet1k_v1 or imagenet1k_features, of torchvision, or a file in
            data_root/pretrained (see bpgrad.data.pretrained.vgg16).
        sbd: Train on the images that only SBD has masks of, too.
        size: As in `Segmentation`, and so are those below.
        side: See there.
        form: See there.
        deconvolution: See there.
        augment: See there.
        dropout: See there.
        holdout: See there.
    """

    def __init__(
        self,
        context: Context,
        weights: str = "imagenet1k_v1",
        sbd: bool = True,
        size: int = 384,
        side: int | None = None,
        form: Literal["matconvnet", "caffe"] = "matconvnet",
        deconvolution: Literal["frozen", "moving"] = "frozen",
        augment: bool = True,
        dropout: bool = True,
        holdout: float = 0.0,
    ) -> None:
        self.weights, self.sbd = weights, sbd
        super().__init__(context, size, side, form, deconvolution, augment, dropout, holdout)

    @staticmethod
    def data_md5(data_root: Path) -> Mapping[str, str]:
        return voc.ARCHIVES

    def _read_pairs(self) -> tuple[list[voc.Pair], list[voc.Pair]]:
        return voc.segmentation(self.context.data_root, sbd=self.sbd)

    def _weights(self) -> tuple[Mapping[str, Tensor], Preprocessing]:
        root, download = self.context.data_root, self.context.download
        return pretrained.vgg16(root, self.weights, download=download)

    def _build(self, generator: torch.Generator) -> FCN32s:
        return vgg16_fcn32s(
            self.state,
            generator,
            form="caffe" if self.caffe else "matconvnet",
            dropout=self.dropout,
            moving=self.moving,
        )


class Voc2012Segmentation(VocSegmentation):
    """The same on VOC 2012, with the 1,449 images of its own list to judge by."""

    @staticmethod
    def data_md5(data_root: Path) -> Mapping[str, str]:
        return voc.ARCHIVES_2012

    def _read_pairs(self) -> tuple[list[voc.Pair], list[voc.Pair]]:
        return voc.segmentation(self.context.data_root, 2012, sbd=self.sbd)


class ReducedVocSegmentation(Segmentation):
    """The same head on SqueezeNet 1.1, 106 images to train on and 104 to judge by.

    Args:
        context: Of the trainer.
        size: As in `Segmentation`, and so are those below.
        side: See there.
        deconvolution: See there.
        augment: See there.
        dropout: See there.
        holdout: See there.
    """

    def __init__(
        self,
        context: Context,
        size: int = 256,
        side: int | None = 256,
        deconvolution: Literal["frozen", "moving"] = "frozen",
        augment: bool = True,
        dropout: bool = True,
        holdout: float = 0.0,
    ) -> None:
        form = "matconvnet"
        super().__init__(context, size, side, form, deconvolution, augment, dropout, holdout)

    @staticmethod
    def data_md5(data_root: Path) -> Mapping[str, str]:
        return {**voc.REDUCED.md5, **pretrained.SQUEEZENET.md5}

    def _read_pairs(self) -> tuple[list[voc.Pair], list[voc.Pair]]:
        return voc.reduced_segmentation(self.context.data_root)

    def _weights(self) -> tuple[Mapping[str, Tensor], Preprocessing]:
        return pretrained.squeezenet(self.context.data_root), pretrained.CAFFE_BGR

    def _build(self, generator: torch.Generator) -> FCN32s:
        return squeezenet_fcn32s(self.state, generator, dropout=self.dropout, moving=self.moving)


def _all_void() -> tuple[tuple[Tensor, tuple[int, ...]], Tensor]:
    """What a process puts through the model where only others have examples: they wait for it."""
    labels = torch.full((STRIDE, STRIDE), voc.VOID, dtype=torch.uint8)
    return (torch.zeros(3, STRIDE, STRIDE), (0,)), labels


def _check_options(size: int, side: int | None, form: str, deconvolution: str) -> None:
    for key, value, choices in (
        ("form", form, FORMS),
        ("deconvolution", deconvolution, ("frozen", "moving")),
    ):
        if value not in choices:
            raise ConfigError(f"task.{key}={value}: choose one of {', '.join(choices)}")
    for key, pixels in (("size", size), ("side", side)):
        if pixels is not None and pixels < STRIDE:
            raise ConfigError(f"task.{key}={pixels}: must be at least {STRIDE} pixels")
