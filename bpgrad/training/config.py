"""What can be configured, and how it is checked.

The root keys are the dataclass `Config`, registered with Hydra. The `task` and `solver` groups are
open: there the signature of the class they name is the schema, so that adding a solver or a task
needs no code here.
"""

import atexit
import math
import re
import shutil
import tempfile
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bpgrad.errors import ConfigError
from bpgrad.training import composition, slurm
from bpgrad.training.signatures import check_arguments, import_object, unknown

CONFIG_DIR = Path(__file__).resolve().parents[2] / "configs"

CHOICES: dict[str, tuple[str, ...]] = {
    "precision": ("fp32", "tf32", "bf16"),
    "device": ("auto", "cpu", "cuda"),
    "solver.objective": ("batch", "epoch_mean", "regularized_batch"),
    "wandb.mode": ("offline", "online", "disabled"),
}


@dataclass
class Scale:
    """The size of an experiment; null means all examples."""

    name: str = MISSING
    train_examples: int | None = None
    val_examples: int | None = None


@dataclass
class Wandb:
    """The Weights & Biases mirror."""

    mode: str = "disabled"
    project: str = "bpgrad"
    entity: str | None = None


@dataclass
class Config:
    """The root of the configuration."""

    task: dict[str, Any] = MISSING
    solver: dict[str, Any] = MISSING
    scale: Scale = field(default_factory=Scale)
    logger: str = "csv"
    launcher: str = "local"
    wandb: Wandb = field(default_factory=Wandb)

    seed: int = 0
    epochs: int = MISSING
    batch_size: int = MISSING
    micro_batch: int | None = None
    precision: str = "fp32"
    deterministic: bool = True

    device: str = "auto"
    threads: int | None = None
    workers: int | None = None
    data_root: str = "data"
    results_root: str = "results/runs"
    checkpoint_root: str = "checkpoints"
    checkpoint_minutes: float = 10.0
    download: bool = False
    rerun: bool = False


@dataclass(frozen=True)
class SolverSpec:
    """The `solver` group, split into what the trainer does and what the optimizer is given.

    `source` identifies the code of a class from outside the suite (experiments.engine.own_solver).
    """

    name: str
    optimizer: type
    arguments: Mapping[str, Any]
    objective: str = "batch"
    lr_multipliers: bool = False
    lr_factors: Mapping[int, float] = field(default_factory=dict)
    source: str = ""


def register() -> None:
    """Make the schema and the resolvers known to Hydra; calling it again changes nothing.

    Raises ConfigError where the package is installed without the checkout's configurations.
    """
    if not CONFIG_DIR.is_dir():
        raise ConfigError(
            f"{CONFIG_DIR} is missing: the suite runs from a checkout, see its README"
        )
    ConfigStore.instance().store(name="schema", node=Config)
    OmegaConf.register_new_resolver("paper", _paper_setting, replace=True)
    OmegaConf.register_new_resolver("scratch_dir", _scratch_dir, replace=True)
    OmegaConf.register_new_resolver("slurm_gpus", slurm.default_gpus, replace=True)
    OmegaConf.register_new_resolver("slurm_path", slurm.export_path, replace=True)


@cache
def _paper_settings() -> DictConfig:
    return typing.cast(DictConfig, OmegaConf.load(CONFIG_DIR / "paper.yaml"))


def _paper_setting(key: str, default: Any, *, _root_: DictConfig) -> Any:
    settings = _paper_settings().get(_root_.task.name) or {}
    for section in (_root_.solver.name, "all"):
        if key in (settings.get(section) or {}):
            return settings[section][key]
    return default


@cache
def _scratch_dir() -> str:
    path = tempfile.mkdtemp(prefix="bpgrad-hydra-")
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


def load(overrides: Sequence[str] = ()) -> Config:
    """Compose and check a configuration from code, as `python run.py OVERRIDES` does."""
    register()
    return parse(composition.composed(CONFIG_DIR, overrides))


def parse(composed: DictConfig) -> Config:
    """Resolve and check a composed configuration.

    Raises ConfigError, one line, for anything that could not be run.
    """
    _refuse_added_keys(composed)
    try:
        cfg = typing.cast(Config, OmegaConf.to_object(composed))
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0]) from error
    _check_finite("", OmegaConf.to_container(composed, resolve=True))
    for key, choices in CHOICES.items():
        node: Any = cfg
        for part in key.split("."):
            node = node.get(part) if isinstance(node, dict) else getattr(node, part)
        if node is not None and node not in choices:
            raise ConfigError(f"{key}={node}: choose one of {', '.join(choices)}")
    for key, value in (
        ("epochs", cfg.epochs),
        ("batch_size", cfg.batch_size),
        ("micro_batch", cfg.micro_batch),
        ("threads", cfg.threads),
        ("scale.train_examples", cfg.scale.train_examples),
        ("scale.val_examples", cfg.scale.val_examples),
    ):
        if value is not None and value < 1:
            raise ConfigError(f"{key}={value}: must be at least 1")
    check_seed(cfg.seed)
    for group, options in (("task", cfg.task), ("solver", cfg.solver)):
        check_name(f"{group}.name", options.get("name"))
    for key, least in (("checkpoint_minutes", cfg.checkpoint_minutes), ("workers", cfg.workers)):
        if least is not None and least < 0:
            raise ConfigError(f"{key}={least}: must not be negative")
    task_class(cfg)
    solver_spec(cfg)
    return cfg


def check_seed(seed: int) -> None:
    """Raise ConfigError for a seed that a 32-bit generator cannot take."""
    if not 0 <= seed < 2**32:
        raise ConfigError(f"seed={seed}: must be from 0 to 2**32 - 1")


def check_name(key: str, name: Any) -> None:
    """Raise ConfigError for a name that cannot be that of a run's folder."""
    if name is not None and not (isinstance(name, str) and re.fullmatch(r"\w[\w.+-]*", name)):
        raise ConfigError(f"{key}={name}: names a folder; use letters, digits and _ . + -")


def _refuse_added_keys(composed: DictConfig) -> None:
    """Refuse what `+key=value` added where a dataclass is the schema; Hydra lets it pass."""
    for prefix, schema in (("", Config), ("scale.", Scale), ("wandb.", Wandb)):
        node = composed[prefix[:-1]] if prefix else composed
        choices = [f.name for f in fields(schema)]
        for key in map(str, node):
            if key not in choices and key != "hydra":
                raise ConfigError(unknown(f"{prefix}{key}", choices, prefix))


def task_class(cfg: Config) -> Any:
    """The class (a `Task`) that `task.target` names, its options checked by its signature."""
    task = import_object(cfg.task.get("target"), "task.target")
    check_arguments(task, task_options(cfg), "task", reserved=("name", "target"), given=1)
    return task


def task_options(cfg: Config) -> dict[str, Any]:
    """The keyword arguments of the task class."""
    return {k: v for k, v in cfg.task.items() if k not in ("name", "target")}


def solver_spec(cfg: Config) -> SolverSpec:
    """Split the `solver` group, check it, and try its constructor on a dummy parameter."""
    import torch  # only now: a mistyped key is refused without waiting for torch

    options = {k: v for k, v in cfg.solver.items() if v is not None}
    for key in ("name", "optimizer"):
        if not isinstance(options.get(key), str):
            raise ConfigError(f"solver.{key}: missing; configs/solver/*.yaml must set it")
    name, path = options.pop("name"), options.pop("optimizer")
    optimizer = import_object(path, "solver.optimizer")
    if not (isinstance(optimizer, type) and issubclass(optimizer, torch.optim.Optimizer)):
        raise ConfigError(f"solver.optimizer={path}: not a torch.optim.Optimizer")
    own: dict[str, Any] = {}
    if "objective" in options:
        own["objective"] = options.pop("objective")
    if "lr_multipliers" in options:
        own["lr_multipliers"] = options.pop("lr_multipliers")
        if not isinstance(own["lr_multipliers"], bool):
            raise ConfigError(f"solver.lr_multipliers={own['lr_multipliers']}: true or false")
    if "lr_factors" in options:
        own["lr_factors"] = _lr_factors(options.pop("lr_factors"))
    if "source" in options:
        own["source"] = str(options.pop("source"))
    reserved = ("name", "optimizer", "objective", "lr_multipliers", "lr_factors")
    check_arguments(optimizer, options, "solver", reserved=reserved, given=1)
    try:
        optimizer([torch.zeros(1, requires_grad=True)], **options)
    except Exception as error:  # whatever a foreign constructor raises is about these settings
        first_line = (str(error) or repr(error)).splitlines()[0]
        raise ConfigError(f"solver={name} refuses its settings: {first_line}") from error
    return SolverSpec(name=name, optimizer=optimizer, arguments=options, **own)


def _lr_factors(value: Any) -> dict[int, float]:
    try:
        factors = {int(epoch): float(factor) for epoch, factor in value.items()}
    except (AttributeError, TypeError, ValueError):
        factors = {0: 0.0}
    if any(epoch < 1 or factor < 0 for epoch, factor in factors.items()):
        raise ConfigError(
            f"solver.lr_factors={value}: must map epochs (from 1) to factors of lr, as {{31: 0.1}}"
        )
    return dict(sorted(factors.items()))


def _check_finite(key: str, node: Any) -> None:
    if isinstance(node, float) and not math.isfinite(node):
        raise ConfigError(f"{key}={node}: must be finite")
    if isinstance(node, Mapping):
        for name, value in node.items():
            _check_finite(f"{key}.{name}" if key else str(name), value)
    if isinstance(node, list):
        for value in node:
            _check_finite(key, value)
