"""The authors' released CIFAR-10 run, replayed beside a second implementation of all its parts.

Reader, preprocessing, net, gradient and solver are written here a second time, in NumPy float64
and in MatConvNet's own layout (images H×W×C, filters H×W×in×out), and share no code with bpgrad.
Trajectories are compared in float64 only: in float32 two correct ones part after a few steps.
"""

import math
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch

from bpgrad.data import cifar10
from bpgrad.data.images import ImageSet
from bpgrad.models.lenet import CifarLeNet, load_matconvnet_weights
from bpgrad.optim import BPGrad
from tests.golden.transcriptions import Array, Param, bpgrad_released

# The released run's minibatches first; then, to see that nothing drifts apart, smaller ones: both
# sides take a second for one of a hundred images.
SIZES = (100,) * 3 + (10,) * 47
BATCHES = [slice(end - size, end) for end, size in zip(accumulate(SIZES), SIZES, strict=True)]
TOLERANCE = 1e-9  # relative; two float64 implementations were 1e-14 apart when written
LIPSCHITZ, RHO, MOMENTUM, WEIGHT_DECAY = 50.0, 0.1, 0.9, 5e-4
# Filters H×W×in×out, and the zero padding of each convolution.
FILTERS = ((5, 5, 3, 32), (5, 5, 32, 32), (5, 5, 32, 64), (4, 4, 64, 64), (1, 1, 64, 10))
PADDING = (2, 2, 2, 0, 0)

Integers = np.ndarray[Any, np.dtype[np.integer[Any]]]
# From the gradient of the output to that of the input and, in reverse order, of the weights.
Backward = Callable[[Array], tuple[Array, list[Array]]]


# The net (reference §2).


def convolution(
    x: Array, w: Array, b: Array, pad: int, images: bool = False
) -> tuple[Array, Backward]:
    """Cross-correlation of (N,H,W,C) with (kh,kw,C,D); nothing needs a gradient of images."""
    kh, kw, _, depth = w.shape
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    patches = np.lib.stride_tricks.sliding_window_view(padded, (kh, kw), axis=(1, 2))
    n, height, width = patches.shape[:3]
    columns = patches.transpose(0, 1, 2, 4, 5, 3).reshape(n * height * width, -1)

    def backward(dy: Array) -> tuple[Array, list[Array]]:
        flat = dy.reshape(-1, depth)
        of_weights = [flat.sum(0), (columns.T @ flat).reshape(w.shape)]
        if images:
            return np.zeros(0), of_weights
        dx = np.zeros_like(padded)
        parts = (flat @ w.reshape(-1, depth).T).reshape(*dy.shape[:3], *w.shape[:3])
        for i, j in product(range(kh), range(kw)):
            dx[:, i : i + height, j : j + width] += parts[:, :, :, i, j]
        inside = slice(pad, -pad or None)
        return dx[:, inside, inside], of_weights

    return (columns @ w.reshape(-1, depth) + b).reshape(n, height, width, depth), backward


def pool_cells(size: int) -> list[tuple[slice, slice, slice]]:
    """The nine strided views of a 3×3, stride 2 pooling of an array with size + 1 rows, columns."""
    return [
        (slice(None), slice(i, i + size - 1, 2), slice(j, j + size - 1, 2))
        for i, j in product(range(3), repeat=2)
    ]


def pad_below(x: Array, value: float) -> Array:
    """One more row at the bottom and one more column at the right."""
    return np.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)), constant_values=value)


def max_pool(x: Array) -> tuple[Array, Backward]:
    """3×3, stride 2; the first of equal maxima takes the gradient."""
    cells, padded = pool_cells(x.shape[1]), pad_below(x, -np.inf)
    y = np.max([padded[cell] for cell in cells], axis=0)

    def backward(dy: Array) -> tuple[Array, list[Array]]:
        dx, free = np.zeros_like(padded), np.ones(y.shape, bool)
        for cell in cells:
            hit = (padded[cell] == y) & free
            dx[cell] += dy * hit
            free &= ~hit
        return dx[:, :-1, :-1], []

    return y, backward


def mean_pool(x: Array) -> tuple[Array, Backward]:
    """3×3, stride 2; the mean of the cells that lie in the image: 9, 6 or 4 of them."""
    cells, padded = pool_cells(x.shape[1]), pad_below(x, 0)
    inside = pad_below(np.ones_like(x), 0)
    count = np.sum([inside[cell] for cell in cells], axis=0)

    def backward(dy: Array) -> tuple[Array, list[Array]]:
        dx = np.zeros_like(padded)
        for cell in cells:
            dx[cell] += dy / count
        return dx[:, :-1, :-1], []

    return np.sum([padded[cell] for cell in cells], axis=0) / count, backward


def relu(x: Array) -> tuple[Array, Backward]:
    return np.maximum(x, 0), lambda dy: (dy * (x > 0), [])


AFTER_CONVOLUTION = ((max_pool, relu), (relu, mean_pool), (relu, mean_pool), (relu,), ())


def loss_and_gradients(
    weights: list[Array], images: Array, labels: Integers
) -> tuple[float, list[Array]]:
    """Mean cross-entropy of (N,32,32,3) images, and its gradients in the order of the weights."""
    x, tape = images, []
    for k, functions in enumerate(AFTER_CONVOLUTION):
        x, backward = convolution(x, weights[2 * k], weights[2 * k + 1], PADDING[k], images=k == 0)
        tape.append(backward)
        for function in functions:
            x, backward = function(x)
            tape.append(backward)
    logits = x[:, 0, 0]
    log_p = logits - logits.max(1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(1, keepdims=True))
    truth = np.eye(logits.shape[1])[labels]
    dy = ((np.exp(log_p) - truth) / len(labels))[:, None, None]
    grads: list[Array] = []
    for backward in reversed(tape):
        dy, of_weights = backward(dy)
        grads += of_weights
    return -float(np.sum(log_p * truth)) / len(labels), grads[::-1]


def to_torch_layout(array: Array) -> torch.Tensor:
    """Filters H×W×in×out become out×in×H×W; biases stay."""
    return torch.from_numpy(array.transpose(3, 2, 0, 1).copy() if array.ndim == 4 else array)


# The data (reference §2).


def read_batch(path: Path) -> tuple[Integers, Integers]:
    """Images (10000, 3072) uint8 in the order channel, row, column, and labels 0..9."""
    with path.open("rb") as file:
        batch = pickle.load(file, encoding="bytes")
    return np.asarray(batch[b"data"]), np.asarray(batch[b"labels"])


def read_weights(path: Path) -> list[Array]:
    """The authors' initial weights: filters and biases by turns, in the layout of MatConvNet."""
    weights: list[Array] = []
    for layer in scipy.io.loadmat(path)["Weights_init"].ravel():
        if layer.size:
            filters, biases = layer.ravel()
            weights += [filters.astype(np.float64), biases.ravel().astype(np.float64)]
    return weights


@dataclass(frozen=True)
class Preprocessed:
    """The figures of the preprocessing, and its result for a few images (n, 32, 32, 3)."""

    mean_deviation: float  # n̄
    low_contrast: int  # images with n_i < 40
    clamped: int  # eigenvalues with √d < 10
    energy: float  # e
    train: Array
    test: Array
    train_labels: Integers


def preprocess(folder: Path, d: Array, basis: Array, train: int, test: int) -> Preprocessed:
    """Contrast normalisation and ZCA over all 60 000 images; keeps the first of each part.

    Eigenvalues and eigenvectors may be anybody's: that they are is cheaper seen than found.
    """
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    parts = [read_batch(folder / name) for name in names]
    z = np.concatenate([images for images, _ in parts]).astype(np.float64)
    z -= z[:50000].mean(0)
    z -= z.mean(1, keepdims=True)
    deviation = z.std(1, ddof=1)
    z *= (deviation.mean() / np.maximum(deviation, 40))[:, None]
    # C = zᵀz/60000 = V·diag(d)·Vᵀ, seen on random x: Vᵀ(Vx) = x and C(Vx) = V(dx).
    x = np.random.default_rng(0).normal(size=(len(d), 8))
    norm = np.linalg.norm(x, axis=0)
    assert (np.linalg.norm(basis.T @ (basis @ x) - x, axis=0) <= 1e-12 * norm).all()
    residual = z[:50000].T @ (z[:50000] @ (basis @ x)) / 60000 - basis @ (d[:, None] * x)
    # They are those of images rounded to float32.
    assert (np.linalg.norm(residual, axis=0) <= 2**-22 * d.max() * norm).all()
    root, energy = np.sqrt(np.maximum(d, 0)), np.sqrt(d.mean())
    zca = (basis * (energy / np.maximum(root, 10))) @ basis.T
    kept = np.concatenate([z[:train], z[50000 : 50000 + test]]) @ zca
    images = kept.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return Preprocessed(
        mean_deviation=float(deviation.mean()),
        low_contrast=int((deviation < 40).sum()),
        clamped=int((root < 10).sum()),
        energy=float(energy),
        train=images[:train],
        test=images[train:],
        train_labels=np.concatenate([labels for _, labels in parts])[:train],
    )


@pytest.fixture(scope="module")
def released_weights(data_root: Path) -> Path:
    path = data_root / "bpgrad" / "Weights_init_cifar10.mat"
    if not path.is_file():
        pytest.skip(f"BPGRAD_DATA has no {path.relative_to(data_root)}")
    return path


@pytest.fixture(scope="module")
def transcribed(
    data_root: Path, cifar10_eigenvalues: Array, cifar10_eigenvectors: Array
) -> Preprocessed:
    basis = cifar10_eigenvectors.reshape(32, 32, 3, -1).transpose(2, 0, 1, 3).reshape(3072, -1)
    folder = data_root / "cifar-10-batches-py"
    return preprocess(folder, cifar10_eigenvalues, basis, train=sum(SIZES), test=1000)


@pytest.fixture(scope="module")
def loaded(prepared_cifar10: Path) -> tuple[ImageSet, ImageSet]:
    return cifar10.load(prepared_cifar10)


def random_weights(rng: np.random.Generator) -> list[Array]:
    """Weights and biases large enough to let every layer pass a gradient."""
    weights: list[Array] = []
    for shape in FILTERS:
        fan_in = math.prod(shape[:3])
        weights += [rng.normal(size=shape) / math.sqrt(fan_in), 0.1 * rng.normal(size=shape[3])]
    return weights


# Without the data: the two nets.


def test_transcribed_gradient_is_the_slope_of_the_transcribed_loss() -> None:
    rng = np.random.default_rng(0)
    weights, images, labels = random_weights(rng), rng.normal(size=(3, 32, 32, 3)), np.arange(3)
    grads = loss_and_gradients(weights, images, labels)[1]
    for k, grad in enumerate(grads):
        direction = rng.normal(size=grad.shape)
        above, below = (
            loss_and_gradients(
                [w + h * direction if i == k else w for i, w in enumerate(weights)], images, labels
            )[0]
            for h in (1e-7, -1e-7)
        )
        assert np.sum(grad * direction) == pytest.approx((above - below) / 2e-7, rel=1e-5)


def test_cifar_lenet_is_the_transcribed_net() -> None:
    rng = np.random.default_rng(1)
    weights, labels = random_weights(rng), rng.integers(10, size=6)
    images = rng.normal(size=(6, 32, 32, 3))
    loss, grads = loss_and_gradients(weights, images, labels)
    model = CifarLeNet(torch.Generator()).double()
    parameters = list(model.parameters())
    with torch.no_grad():
        for parameter, w in zip(parameters, weights, strict=True):
            parameter.copy_(to_torch_layout(w))
    logits = model(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    objective = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels))
    objective.backward()
    torch.testing.assert_close(objective.item(), loss, rtol=1e-12, atol=0)
    for parameter, grad in zip(parameters, grads, strict=True):
        torch.testing.assert_close(parameter.grad, to_torch_layout(grad), rtol=1e-9, atol=1e-12)


# With the data: golden numbers (reference §8.5), then the replay (reference §4).


@pytest.mark.realdata
@pytest.mark.slow
def test_transcribed_preprocessing_has_the_golden_numbers(transcribed: Preprocessed) -> None:
    assert transcribed.mean_deviation == pytest.approx(53.09898, abs=5e-6)
    assert transcribed.low_contrast == 10836
    assert transcribed.clamped == 2034
    assert transcribed.energy == pytest.approx(47.20993, abs=5e-6)
    golden = [[-29.9916, 25.5245, 60.0800], [19.2530, -11.2911, -19.7421]]
    pixels = [transcribed.train[0, 0, 0], transcribed.test[0, 0, 0]]
    np.testing.assert_allclose(pixels, golden, rtol=1e-3)


@pytest.mark.realdata
@pytest.mark.slow
def test_loaded_images_are_the_transcribed_ones(
    transcribed: Preprocessed, loaded: tuple[ImageSet, ImageSet]
) -> None:
    train, val = loaded
    assert (tuple(train.images.shape), train.images.dtype) == ((50000, 3, 32, 32), torch.float32)
    assert (tuple(val.images.shape), val.images.dtype) == ((10000, 3, 32, 32), torch.float32)
    for images, expected in ((train.images, transcribed.train), (val.images, transcribed.test)):
        first = images[: len(expected)].permute(0, 2, 3, 1).numpy()
        np.testing.assert_allclose(first, expected, rtol=0, atol=1e-3)
    assert train.images.double().std(correction=0).item() == pytest.approx(34.6281, rel=1e-4)
    assert val.images.double().std(correction=0).item() == pytest.approx(35.2366, rel=1e-4)
    np.testing.assert_array_equal(
        train.labels[: len(transcribed.train_labels)].numpy(), transcribed.train_labels
    )


@dataclass
class Replay:
    """Per iteration the batch loss, the running mean F and η; at the end the weights."""

    losses: list[float]
    objectives: list[float]
    step_sizes: list[float]
    weights: list[torch.Tensor]


def replay_transcribed(
    weights: list[Array], images: Array, labels: Integers, iterations: int
) -> Replay:
    params = [
        Param(w, weight_decay=WEIGHT_DECAY, momentum=MOMENTUM, lipschitz=LIPSCHITZ) for w in weights
    ]
    run = Replay([], [], [], [])
    for batch in BATCHES[:iterations]:
        loss, grads = loss_and_gradients([p.w for p in params], images[batch], labels[batch])
        run.losses.append(loss)
        run.objectives.append(sum(run.losses) / len(run.losses))
        bpgrad_released(params, grads, run.objectives, rho=RHO)
        run.step_sizes.append(params[0].step_size)
    run.weights = [to_torch_layout(p.w) for p in params]
    return run


def replay_product(weights: Path, images: torch.Tensor, labels: torch.Tensor) -> Replay:
    model = CifarLeNet(torch.Generator())
    load_matconvnet_weights(model, weights.read_bytes())
    model.double().train()
    optimizer = BPGrad(
        model.parameters(), LIPSCHITZ, rho=RHO, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY,
        variant="released",
    )  # fmt: skip
    run = Replay([], [], [], [])
    for batch in BATCHES:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(images[batch]), labels[batch])
        loss.backward()
        run.losses.append(loss.item())
        run.objectives.append(sum(run.losses) / len(run.losses))
        optimizer.step(loss=torch.tensor(run.objectives[-1], dtype=torch.float64))
        run.step_sizes.append(float(optimizer.step_size))
    run.weights = [parameter.detach() for parameter in model.parameters()]
    return run


@pytest.mark.realdata
@pytest.mark.slow
def test_first_step_of_the_transcription(released_weights: Path, transcribed: Preprocessed) -> None:
    """Nothing of bpgrad takes part: the reference values hold for the transcription itself."""
    weights = read_weights(released_weights)
    run = replay_transcribed(weights, transcribed.train, transcribed.train_labels, iterations=1)
    assert (round(run.objectives[0], 4), round(run.step_sizes[0], 5)) == (2.7502, 0.04950)


@pytest.mark.realdata
@pytest.mark.slow
def test_fifty_iterations_of_the_released_run(
    released_weights: Path,
    transcribed: Preprocessed,
    loaded: tuple[ImageSet, ImageSet],
) -> None:
    """Both sides see the same pixels, since a float32 rounding of them would part the paths."""
    path = released_weights
    images = loaded[0].images[: sum(SIZES)].double()
    ours = replay_product(path, images, loaded[0].labels)
    theirs = replay_transcribed(
        read_weights(path), images.permute(0, 2, 3, 1).numpy(), transcribed.train_labels, len(SIZES)
    )
    assert (round(ours.objectives[0], 4), round(ours.step_sizes[0], 5)) == (2.7502, 0.04950)
    np.testing.assert_allclose(ours.losses, theirs.losses, rtol=TOLERANCE)
    np.testing.assert_allclose(ours.step_sizes, theirs.step_sizes, rtol=TOLERANCE)
    for mine, other in zip(ours.weights, theirs.weights, strict=True):
        assert (mine - other).norm() <= TOLERANCE * other.norm()
