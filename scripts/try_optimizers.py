"""Try every optimizer class of some packages: which join, and what the rest say.

    python scripts/try_optimizers.py pytorch_optimizer timm.optim heavyball ...

Each class gets a YAML of two lines, then the ways of driving it that docs/bring-your-own.md lists,
until one works. It trains the digits for an epoch of four minibatches, after the trial on a copy of
the model that every foreign class has, in which it is saved, loaded and gone on with. A line a
class, then the counts:

    joins       the run has ended; after the class, what the YAML needs beside the first two lines
    diverges    it has ended at a value that is not finite
    refused     one line says why
    traceback   anything else: a fault of the suite

The packages are no part of the suite's environment: install them into one of their own.
"""

import argparse
import contextlib
import importlib
import inspect
import io
import os
import pkgutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch.optim import Optimizer

from bpgrad.errors import BPGradError, Diverged, first_line
from bpgrad.training.config import Config, Scale
from bpgrad.training.trainer import train

LIMIT_S = 30
FLAGS = {"ndim": [2, 4], "use_muon": True}, {"rest": True, "use_muon": False}
MATRICES = {"ndim": [2], "use_muon": True}, {"rest": True, "use_muon": False}
FLAT = (
    {"ndim": [2, 4], "flatten": True},
    {"rest": True, "optimizer": "torch.optim.AdamW", "lr": 1e-3},
)
WRAPS = {"optimizer": "torch.optim.SGD", "lr": 0.01}
# Two lines first; then what an optimizer of that kind has in its documentation.
WAYS: tuple[dict[str, Any], ...] = (
    {},
    {"lr": 0.01},
    {"wraps": WRAPS},
    {"wraps": WRAPS, "closure": True},
    {"closure": True},
    {"create_graph": True},
    {"parameters": "named"},
    {"parameters": "model", "lr": 0.01},
    {"groups": list(FLAGS)},
    {"groups": list(MATRICES)},
    {"groups": list(FLAT)},
)


def classes(package: str) -> Iterator[str]:
    """The importable path of every optimizer class of a package and its modules, each once."""
    try:
        root = importlib.import_module(package)
    except Exception as error:
        print(f"not tried  {package}  {type(error).__name__}: {first_line(error)}", flush=True)
        return
    names = [package]
    for found in pkgutil.walk_packages(
        getattr(root, "__path__", []), f"{package}.", lambda _: None
    ):
        names.append(found.name)
    seen: set[Any] = {Optimizer}
    for name in names:
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                module = importlib.import_module(name)
        except Exception:  # a module that needs more than is installed
            continue
        for key, value in sorted(vars(module).items()):
            if inspect.isclass(value) and issubclass(value, Optimizer) and value not in seen:
                seen.add(value)
                ours = value.__module__.partition(".")[0] == package.partition(".")[0]
                if ours and not (key.startswith(("_", "Base")) or inspect.isabstract(value)):
                    yield f"{name}.{key}"


def configuration(path: str, way: dict[str, Any], folder: Path) -> Config:
    """A run of four minibatches on the digits."""
    target = "bpgrad.tasks.classification.Digits"
    return Config(
        task={"name": "digits", "target": target},
        solver={"name": "tried", "optimizer": path, **way},
        scale=Scale("smoke", 128, 64),
        epochs=1,
        batch_size=32,
        threads=1,
        results_root=str(folder / "runs"),
        checkpoint_root=str(folder / "checkpoints"),
    )


def outcome(path: str, way: dict[str, Any]) -> tuple[str, str]:
    """What a class comes to in one way: the word, and the line."""
    with (
        tempfile.TemporaryDirectory() as scratch,
        contextlib.redirect_stdout(io.StringIO()) as said,
    ):
        folder = Path(scratch)
        try:
            train(configuration(path, way, folder))
            unsaved = "begins again" in said.getvalue()
            return "joins", "keeps no checkpoint" if unsaved else ""
        except Diverged as error:
            return "diverges", str(error)
        except BPGradError as error:
            line = str(error)
            return ("refused" if "\n" not in line else "traceback"), line
        except TimeoutError:
            return "refused", f"not done in {LIMIT_S} s of the processor"
        except Exception:
            return "traceback", traceback.format_exc()


def stop(number: int, frame: FrameType | None) -> None:
    raise TimeoutError


def try_out(path: str) -> tuple[str, str]:
    """The best that a class comes to: the way that worked, or its first line."""
    first: tuple[str, str] | None = None
    for way in WAYS:
        signal.setitimer(signal.ITIMER_PROF, LIMIT_S)  # of the processor
        try:
            word, line = outcome(path, way)
        except TimeoutError:
            word, line = "refused", f"not done in {LIMIT_S} s of the processor"
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            torch.set_grad_enabled(True)  # what was cut may have left it off
        if word == "joins":
            return word, " ".join(filter(None, [str(way) if way else "", line]))
        if word == "traceback":
            return word, f"{way}: {line}"
        if first is None or (first[0] == "refused" and word == "diverges"):
            first = word, line
    assert first is not None
    return first


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("packages", nargs="+", help="importable: torch.optim, timm.optim, ...")
    packages = parser.parse_args().packages
    warnings.simplefilter("ignore")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    signal.signal(signal.SIGPROF, stop)
    counts: Counter[str] = Counter()
    for package in packages:
        for path in classes(package):
            word, line = try_out(path)
            counts[word] += 1
            print(f"{word:<9}  {path}  {line}".rstrip(), flush=True)
    total = sum(counts.values())
    print(f"{total} classes: " + ", ".join(f"{n} {word}" for word, n in counts.most_common()))
    sys.exit(bool(counts["traceback"]))


if __name__ == "__main__":
    main()
