"""AlexNet on ImageNet, and the same on Imagenette, its ten classes (reference §5)."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bpgrad.data import ilsvrc, imagenette, order
from bpgrad.data.augmentation import DRAWS, ColourShift, draws_of
from bpgrad.data.files import Source
from bpgrad.data.imagefolder import ImageFolder, Pixels, decoded, image_folder, scan
from bpgrad.data.imagenet import Crops, Examples, collated, colours
from bpgrad.data.pipeline import EpochLoader
from bpgrad.errors import ConfigError, DataError
from bpgrad.metrics import Metric
from bpgrad.models.alexnet import AlexNet, Initialisation, fc6_side
from bpgrad.models.batchnorm import batch_statistics, reestimated
from bpgrad.tasks.task import Batch, Context, Task

EVAL_BATCH = 250
AGAIN = "_reestimated"  # ends the names of what is measured with statistics estimated again

OBJECTIVE = {"objective": Metric("objective")}
ERRORS = {"top1_error": Metric("top-1 error", "%"), "top5_error": Metric("top-5 error", "%")}
ERRORS_AGAIN = {
    f"{name}{AGAIN}": Metric(f"{metric.title}, statistics re-estimated", metric.unit)
    for name, metric in (OBJECTIVE | ERRORS).items()
}


class ImageNet(Task):
    """AlexNet on the 1000 classes of ILSVRC 2012, streamed from its files.

    Every metric of validation is measured twice: with the moving statistics of batch normalisation,
    which lag behind the weights, and under <name>_reestimated with those of training images at the
    weights as they are: one pass without gradient over the first `reestimation_images` of the
    epoch's order, augmented as in it. Without batch normalisation the two are the same.

    Args:
        classes: How many of the classes, the first by name; null is all of them.
        resolution: Side of the crops in pixels; the net's first full layer follows it.
        width: Channels of fc6 and fc7.
        batch_norm: The demo's default; false is local response normalisation and dropout.
        initialisation: gaussian, xavier or xavierimproved.
        colour_shift: implemented, as the demo's code has it; documented, as it was meant; off.
        validation: "test" crops the middle and uses no batch statistics; "training" repeats what
            the demo showed while it trained: crops, flips and shifts as in training, and the
            statistics of batches of validation images.
        reestimation_images: See above.
        holdout: A part of the training images takes the place of the validation images: for tuning.
    """

    metrics: Mapping[str, Metric] = OBJECTIVE | ERRORS | ERRORS_AGAIN
    train_metrics: Sequence[str] = tuple(OBJECTIVE | ERRORS)
    source: Source = ilsvrc.SOURCE
    keep_decoded = False  # all images in one file in data_root/cache, mapped into memory

    def __init__(
        self,
        context: Context,
        classes: int | None = None,
        resolution: int = 227,
        width: int = 4096,
        batch_norm: bool = True,
        initialisation: Initialisation = "gaussian",
        colour_shift: ColourShift = "implemented",
        validation: Literal["test", "training"] = "test",
        reestimation_images: int = 12_800,
        holdout: float = 0.0,
    ) -> None:
        _check(classes, resolution, width, reestimation_images)
        self.context, self.world = context, context.world
        self.source = self.source_in(context.data_root)
        self.resolution, self.width, self.batch_norm = resolution, width, batch_norm
        self.initialisation, self.validation = initialisation, validation
        self.reestimation_images = reestimation_images
        if context.download:
            self.source.download(context.data_root)
        self.source.verify(context.data_root)
        folders = self._folders(classes)
        self.classes = len(folders[0].classes)
        cache = context.data_root / "cache"
        if self.world.size > 1:  # one process looks at the images, and fills the caches
            self.world.from_main(lambda: self._pools(folders, cache) and None)
        pools = self._pools(folders, cache)
        train = _limited(len(folders[0]), context.train_examples)
        judged = 1, _limited(len(folders[1]), context.val_examples)
        if holdout:
            kept, held = _held_out(len(train), holdout)
            judged = 0, train[held][: context.val_examples]
            train = train[kept]
        if context.batch_size > len(train):
            raise ConfigError(
                f"batch_size={context.batch_size}: above the {len(train)} training examples"
            )
        if 0 < len(train) % context.batch_size < self.world.size:
            raise ConfigError(
                f"batch_size={context.batch_size}: leaves a last minibatch smaller than the "
                f"{self.world.size} processes"
            )
        mean, basis = colours(pools[0], train, cache, self._digest(self.classes))
        self.mean = torch.tensor(mean, dtype=torch.float32, device=self.world.device)
        which, others = judged
        self.labels = torch.from_numpy(folders[0].labels[train])
        self.val_labels = torch.from_numpy(folders[which].labels[others])
        units = 0 if batch_norm else 2 * width
        self.load = EpochLoader(
            Examples(
                [(pools[0], train), (pools[which], others)],
                *(resolution, context.seed, basis, colour_shift, units),
            ),
            collated,
            context.workers,
            pin_memory=self.world.device.type == "cuda",
        )

    @staticmethod
    def data_md5(data_root: Path) -> Mapping[str, str]:
        return ilsvrc.SOURCE.md5

    @classmethod
    def source_in(cls, data_root: Path) -> Source:
        """The data set that is read from a data root."""
        return cls.source

    def _folders(self, classes: int | None) -> tuple[ImageFolder, ImageFolder]:
        """The training and the validation images."""
        top = self.context.data_root / self.source.folder
        train, val = (image_folder(top / part, classes) for part in ("train", "val"))
        if odd := sorted(set(train.classes) ^ set(val.classes)):
            raise DataError(f"{top}: the class {odd[0]} is in train or in val alone")
        return train, val

    def _pools(self, folders: Sequence[ImageFolder], cache: Path) -> list[Pixels]:
        """The pixels of folders whose images can all be read."""
        found = []
        for folder in folders:
            digest = self._digest(len(folder.classes))
            sizes = scan(folder, cache, digest).sizes
            kept = decoded(folder, cache, digest) if self.keep_decoded else None
            found.append(Pixels(folder, sizes, kept))
        return found

    def _digest(self, classes: int) -> str:
        """What stands for the contents of the verified files of so many classes."""
        return f"{sorted(self.source.contents(self.context.data_root).items())} {classes}"

    def build_model(self, seed: int) -> nn.Module:
        model = AlexNet(
            torch.Generator().manual_seed(seed),
            self.classes,
            resolution=self.resolution,
            width=self.width,
            batch_norm=self.batch_norm,
            initialisation=self.initialisation,
        )
        return model.to(self.world.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def lr_multipliers(self, model: nn.Module) -> Mapping[str, float]:
        assert isinstance(model, AlexNet)
        return model.lr_multipliers()

    def decay_multipliers(self, model: nn.Module) -> Mapping[str, float]:
        assert isinstance(model, AlexNet)
        return model.decay_multipliers()

    def preprocessed(self) -> Mapping[str, Tensor]:
        """The mean colour and the labels; pixels are streamed."""
        return {"mean": self.mean, "labels": self.labels, "val_labels": self.val_labels}

    def batch_order(self, epoch: int) -> Tensor:
        return order.train_order(len(self.labels), self.context.seed, epoch)

    def train_batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        batches = self.batch_order(epoch).split(self.context.batch_size)[start:]
        for indices, (crops, labels) in zip(batches, self._read(epoch, batches), strict=True):
            drawn = self._drawn(epoch, indices, crops)
            consumed = indices.numpy().tobytes() + drawn.tobytes()
            yield Batch(crops, labels, size=len(indices), consumed=consumed)

    def _drawn(self, epoch: int, indices: Tensor, crops: Crops) -> np.ndarray:
        """What a minibatch is augmented by, (N, DRAWS): this process's share has been read."""
        assert crops.draws is not None
        rank, step = self.world.rank, self.world.size
        if step == 1:
            return crops.draws.numpy()
        drawn = np.empty((len(indices), DRAWS))
        for row, index in enumerate(indices.tolist()):
            if row % step != rank:  # another process has read it
                drawn[row] = draws_of(self.context.seed, epoch, index)
        drawn[rank::step] = crops.draws.numpy()
        return drawn

    def _read(self, epoch: int, batches: Sequence[Tensor]) -> Iterator[tuple[Crops, Tensor]]:
        """The shares of batches of training examples that are this process's, on the device."""
        shares = [indices[self.world.rank :: self.world.size] for indices in batches]
        for share, crops in zip(shares, self._crops(epoch, shares), strict=True):
            yield crops, self.labels[share].to(self.world.device)

    def _crops(self, epoch: int, shares: Sequence[Tensor]) -> Iterator[Crops]:
        """Crops of examples on the device; of none too, where other processes have some."""
        some = [share.tolist() or [0] for share in shares]
        for share, crops in zip(shares, self.load(epoch, some), strict=True):
            yield crops[: len(share)].to(self.world.device)

    def objective(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        crops: Crops = batch.inputs
        keep = None if self.batch_norm else crops.keep(2 * self.width)
        logits = model(crops.images(self.mean), keep)
        examples = batch.size / self.world.size
        objective, wrong1, wrong5 = _sums(logits, batch.targets)
        return {
            "objective": objective / examples,
            "top1_error": wrong1 * (100 / examples),
            "top5_error": wrong5 * (100 / examples),
        }

    def evaluate(self, model: nn.Module, epoch: int) -> dict[str, float]:
        first = len(self.labels)
        images = torch.arange(first, first + len(self.val_labels)), self.val_labels
        if self.validation == "test":
            moving = self._evaluated(model, *images)
        else:
            with batch_statistics(model):
                moving = self._evaluated(model, *images, epoch)
        return moving | self._evaluated_again(model, epoch, *images)

    def evaluate_training(self, model: nn.Module) -> dict[str, float]:
        images = torch.arange(len(self.labels)), self.labels
        moving = self._evaluated(model, *images)
        return moving | self._evaluated_again(model, 1, *images)

    def _evaluated_again(
        self, model: nn.Module, epoch: int, indices: Tensor, labels: Tensor
    ) -> dict[str, float]:
        batches = self.batch_order(epoch)[: self.reestimation_images].split(self.context.batch_size)

        def run() -> None:
            for crops, _ in self._read(epoch, batches):
                model(crops.images(self.mean))

        context = reestimated(model, run, self.world.sum_) if self.batch_norm else nullcontext()
        with context:
            found = self._evaluated(model, indices, labels)
        return {f"{name}{AGAIN}": value for name, value in found.items()}

    @torch.no_grad()
    def _evaluated(
        self, model: nn.Module, indices: Tensor, labels: Tensor, epoch: int | None = None
    ) -> dict[str, float]:
        """Metrics of examples in test mode, in the middle; as `epoch` trains on them if given."""
        device, size = self.world.device, EVAL_BATCH
        if epoch is None:
            model.eval()
        else:  # shuffled, for their files are sorted by class
            size = self.context.batch_size
            mixed = order.train_order(len(indices), self.context.seed, epoch)
            indices, labels = indices[mixed], labels[mixed]
        places = torch.arange(len(indices)).split(size)
        rank, step = self.world.rank, self.world.size
        if epoch is None:
            places = places[rank::step]
        else:  # a share of each, for the statistics are those of the whole batch
            places = tuple(place[rank::step] for place in places)
        batches = self._crops(epoch or 0, [indices[place] for place in places])
        sums = torch.zeros(3, dtype=torch.float64, device=device)
        for place, crops in zip(places, batches, strict=True):
            logits = model(crops.images(self.mean))
            sums += torch.stack(_sums(logits, labels[place].to(device)))
        model.train()
        objective, *wrong = (self.world.sum_(sums) / len(indices)).tolist()
        return {"objective": objective} | {
            name: 100 * part for name, part in zip(ERRORS, wrong, strict=True)
        }


class Imagenette(ImageNet):
    """Ten classes of ImageNet, 9 469 + 3 925 images of 160 × 160 pixels: the reduced edition.

    Judged, and tuned, by the error with statistics estimated again. Where these images are not
    there, those of torchvision's edition are read: runs of it have names of their own.
    """

    metrics: Mapping[str, Metric] = (
        OBJECTIVE
        | {name: ERRORS_AGAIN[name] for name in (f"top1_error{AGAIN}", f"top5_error{AGAIN}")}
        | ERRORS
        | ERRORS_AGAIN
    )
    source: Source = imagenette.IMAGENETTE
    other: Source = imagenette.IMAGENETTE_160
    keep_decoded = True

    @classmethod
    def source_in(cls, data_root: Path) -> Source:
        """The edition that lies there; torchvision's only where the other does not."""
        there = cls.source.is_absent(data_root) and not cls.other.is_absent(data_root)
        return cls.other if there else cls.source

    @classmethod
    def fetch(cls, data_root: Path) -> None:
        if cls.source.is_absent(data_root):
            cls.other.download(data_root)

    @staticmethod
    def data_md5(data_root: Path) -> Mapping[str, str]:
        return Imagenette.source_in(data_root).md5


def _check(classes: int | None, resolution: int, width: int, images: int) -> None:
    for key, value, least in (
        ("classes", classes, 2),
        ("width", width, 1),
        ("reestimation_images", images, 1),
    ):
        if value is not None and value < least:
            raise ConfigError(f"task.{key}={value}: must be at least {least}")
    try:
        fc6_side(resolution)
    except ValueError as error:
        raise ConfigError(f"task.{error}") from error


def _limited(total: int, n: int | None) -> np.ndarray:
    """Indices of at most n of `total` images."""
    return np.arange(total) if n is None else order.fixed_subset(total, n).numpy()


def _held_out(total: int, part: float) -> tuple[np.ndarray, np.ndarray]:
    if not 0 < part < 1 or not 0 < round(part * total) < total:
        raise ConfigError(
            f"task.holdout={part}: must be a part of the {total} training examples, 0.1 for a "
            "tenth of them"
        )
    kept, held = order.holdout_split(total, part)
    return kept.numpy(), held.numpy()


def _sums(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Σ cross-entropy, and how many labels are not the first, and not among the first five."""
    logits = logits.float()
    with torch.no_grad():
        best = logits.topk(min(5, logits.shape[1])).indices
        hits = best == labels[:, None]
    wrong1, wrong5 = (len(labels) - hits[:, :k].sum() for k in (1, 5))
    return F.cross_entropy(logits, labels, reduction="sum"), wrong1, wrong5
