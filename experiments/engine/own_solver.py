"""A solver of one's own in a comparison: any importable optimizer, described by one YAML file.

    name: nadam                        # of its runs' folder; one that no other solver has
    optimizer: torch.optim.NAdam       # or my_module.MyClass, or lion.py:Lion beside this file
    lr: 0.002                          # what its constructor takes
    closure: true                      # optional, as create_graph, parameters, groups and wraps:
                                       # how it is driven (docs/bring-your-own.md)
    label: NAdam                       # optional: how tables and figures call it
    tune: {lr: {log: [1.0e-4, 1]}}     # optional: what --tune varies, as in configs/tuning.yaml

Everything else is as in `configs/solver/*.yaml`. Modules are also looked for beside the file.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from bpgrad.errors import FOREIGN, ConfigError, first_line
from bpgrad.training.config import CONFIG_DIR, SolverSpec
from bpgrad.training.signatures import import_object
from experiments.engine.declaration import Experiment, Solver

# Packages whose version or commit is in the record already.
RECORDED = ("torch", "bpgrad")


@dataclass(frozen=True)
class OwnSolver:
    """A solver that is not one of the suite's: how it is called, and what may be tuned."""

    path: Path  # its file
    name: str
    label: str
    tune: Mapping[str, Any]

    @property
    def entry(self) -> Solver:
        """Its line in an experiment."""
        return Solver(self.label, (f"solver={self.name}",))


def load(path: Path) -> OwnSolver:
    """Read the YAML file and make the solver known to Hydra, as solver=<name>.

    Of a class from outside torch and this suite the file's sha256 goes into the run's identity, as
    `solver.source`: runs of an edited class are other runs. Raises ConfigError, one line.
    """
    try:
        node = OmegaConf.load(path)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except Exception as error:  # of the file system, YAML and OmegaConf
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(node, DictConfig):
        raise ConfigError(f"{path}: must be a mapping with the keys name and optimizer")
    given: dict[str, Any] = {str(k): v for k, v in OmegaConf.to_container(node).items()}  # type: ignore[union-attr]
    for key in ("name", "optimizer"):
        if not isinstance(given.get(key), str):
            raise ConfigError(f"{path}: {key}: missing; as in {key}: {_EXAMPLES[key]}")
    name = given["name"]
    if not re.fullmatch(r"[A-Za-z]\w*", name):
        raise ConfigError(f"{path}: name: {name}: must be of letters, digits and _")
    if name.lower() in {known.stem for known in (CONFIG_DIR / "solver").glob("*.yaml")}:
        raise ConfigError(f"{path}: name: {name} is one of the suite's solvers; take another name")
    label, tune = str(given.pop("label", name)), given.pop("tune", None) or {}
    if not isinstance(tune, dict):
        raise ConfigError(f"{path}: tune: must be like {{lr: {{log: [1.0e-4, 1]}}}}")
    sources = dict.fromkeys(_resolve(path, given))
    if sources:
        all_of_them = "".join(sources)
        given["source"] = (
            all_of_them
            if len(sources) == 1
            else hashlib.sha256(all_of_them.encode()).hexdigest()[:16]
        )
    ConfigStore.instance().store(group="solver", name=name, node=given)
    return OwnSolver(path, name, label, tune)


_EXAMPLES = {"name": "nadam", "optimizer": "torch.optim.NAdam"}


def joined(experiment: Experiment, own: Sequence[OwnSolver]) -> Experiment:
    """The experiment with more solvers, under a name of its own.

    It no longer counts as the paper's. Raises ConfigError for a label that is there already.
    """
    labels = [solver.label for solver in experiment.solvers] + [solver.label for solver in own]
    for solver in own:
        if labels.count(solver.label) > 1:
            raise ConfigError(
                f"{solver.path}: {solver.label} is the label of another solver of "
                f"{experiment.name}; give yours another one (label: ...)"
            )
    names = [solver.name for solver in own]
    for solver in own:
        if names.count(solver.name) > 1:
            raise ConfigError(
                f"{solver.path}: name: {solver.name}: another solver that is added has it too"
            )
    title = f"{experiment.paper}: {experiment.title}" if experiment.paper else experiment.title
    return replace(
        experiment,
        name="-".join([experiment.name, "with", *(solver.name for solver in own)]),
        title=f"{title}, with {', '.join(solver.label for solver in own)}",
        paper=None,
        solvers=(
            *experiment.solvers,
            *(solver.entry for solver in own),
        ),
    )


def try_out(spec: SolverSpec, task: type) -> None:
    """A few steps on a model of the task and a checkpoint, as the trainer does them.

    Raises ConfigError with what fails: later it would be in the middle of a comparison.
    """
    import torch

    from bpgrad.models.lenet import DigitsLeNet
    from bpgrad.training.trial import make_solver

    model_class: Any = getattr(task, "model_class", DigitsLeNet)
    model = model_class(torch.Generator().manual_seed(0))
    model.to(memory_format=torch.channels_last)
    multipliers = {}
    if spec.lr_multipliers and hasattr(model, "lr_multipliers"):
        multipliers = model.lr_multipliers()
    make_solver(spec, model, multipliers, always=True)


def _resolve(path: Path, block: dict[str, Any]) -> Iterator[str]:
    """Write every class in a block as package.module.Name; the sha256 of files from outside."""
    for key, value in block.items():
        if key == "optimizer" and isinstance(value, str):
            block[key], source = _resolve_one(path, value)
            if source:
                yield source
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, dict):
                yield from _resolve(path, each)


def _resolve_one(path: Path, text: str) -> tuple[str, str]:
    """The class as package.module.Name, and its file's sha256 if it is from outside."""
    folder = path.resolve().parent
    _look_in(folder)
    key = f"{path}: optimizer"
    file, colon, name = text.rpartition(":")
    try:
        if colon:
            module = _load_file(folder / file, key)
            text = f"{module.__name__}.{name}"
        found = import_object(text, key)
    except ConfigError:
        raise
    except FOREIGN as error:
        raise ConfigError(f"{key}={text}: {type(error).__name__}: {first_line(error)}") from error
    module_name = str(getattr(found, "__module__", ""))
    if module_name.partition(".")[0] in RECORDED:
        return text, ""
    try:
        source = inspect.getsourcefile(found)
    except TypeError:  # not a class, which is refused with the other settings; or built in
        source = None
    if source is None:
        return text, ""
    return text, hashlib.sha256(Path(source).read_bytes()).hexdigest()[:16]


def _load_file(file: Path, key: str) -> ModuleType:
    """The module in a file, importable by the file's name from now on; `key` is for messages."""
    if not file.is_file():
        raise ConfigError(f"{key}: {file}: no such file")
    if not file.stem.isidentifier():
        raise ConfigError(f"{key}: {file}: cannot be a module's name; use letters, digits and _")
    _look_in(file.resolve().parent)
    found = importlib.util.find_spec(file.stem)
    if found is None or Path(found.origin or "").resolve() != file.resolve():
        raise ConfigError(f"{key}: {file}: another module is called {file.stem}; rename the file")
    return importlib.import_module(file.stem)


def _look_in(folder: Path) -> None:
    """Let modules be imported from a folder too, last: it must not hide an installed one."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    importlib.invalidate_caches()
