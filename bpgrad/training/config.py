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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bpgrad.errors import ConfigError, first_line
from bpgrad.training import composition, kept, slurm
from bpgrad.training.schedule import SCHEDULES
from bpgrad.training.signatures import (
    call,
    check_arguments,
    hints_of,
    import_object,
    parameters_of,
    unknown,
    without_dynamo,
)

CONFIG_DIR = Path(__file__).resolve().parents[2] / "configs"

CHOICES: dict[str, tuple[str, ...]] = {
    "precision": ("fp32", "tf32", "bf16"),
    "device": ("auto", "cpu", "cuda"),
    "step": ("auto", "graph", "eager"),
    "solver.objective": (
        *("batch", "epoch_mean", "regularized_batch"),
        *("constant", "previous_epoch_mean"),
    ),
    "solver.schedule": SCHEDULES,
    "solver.parameters": ("list", "named", "model"),
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
    step: str = "auto"
    threads: int | None = None
    workers: int | None = None
    data_root: str = "data"
    results_root: str = "results/runs"
    checkpoint_root: str = "checkpoints"
    checkpoint_minutes: float = 10.0
    download: bool = False
    rerun: bool = False


@dataclass(frozen=True)
class OptimizerSpec:
    """An optimizer's class, or a function that makes one, and the arguments that it is given.

    A value among the arguments may be an OptimizerSpec: that of an optimizer to be wrapped.
    """

    optimizer: Callable[..., Any]
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class GroupRule:
    """Which parameters form a group, and what they are given; by themselves if it names a class.

    All conditions have to hold; a rule without any takes the rest. With `flatten` what has more
    than two dimensions, as a convolution's kernels, is given as a matrix (shape[0], rest).
    """

    arguments: Mapping[str, Any]
    ndim: tuple[int, ...] = ()
    match: str = ""  # a shell-style pattern of names, as *.bias
    optimizer: Callable[..., Any] | None = None
    flatten: bool = False


@dataclass(frozen=True)
class SolverSpec:
    """The `solver` group, split into what the trainer does and what the optimizer is given.

    `schedule` multiplies the rate in every iteration, after the part `warmup` of them, in which it
    rises; `replay` names the file that has it instead (bpgrad.training.schedule). `source`
    identifies the code of a class from outside the suite: a package and its version, or the sha256
    of a file (experiments.engine.own_solver).
    """

    name: str
    optimizer: Callable[..., Any]
    arguments: Mapping[str, Any]
    objective: str = "batch"
    lr_multipliers: bool = False
    lr_factors: Mapping[int, float] = field(default_factory=dict)
    schedule: str = ""
    warmup: float = 0.0
    replay: str = ""
    source: str = ""
    closure: bool = False
    create_graph: bool = False
    parameters: str = "list"
    groups: Sequence[GroupRule] = ()

    @property
    def where(self) -> str:
        """The solver and its class, for messages."""
        return f"{self.name}: {self.optimizer.__qualname__}"


def register() -> None:
    """Make the schema and the resolvers known to Hydra; calling it again changes nothing.

    Raises ConfigError where the package is installed without the checkout's configurations.
    """
    if not CONFIG_DIR.is_dir():
        raise ConfigError(
            f"{CONFIG_DIR} is missing: the suite runs from a checkout, see its README"
        )
    if "schema.yaml" not in ConfigStore.instance().repo:
        ConfigStore.instance().store(name="schema", node=Config)
    OmegaConf.register_new_resolver("paper", _paper_setting, replace=True)
    OmegaConf.register_new_resolver("edition", _edition, replace=True)
    OmegaConf.register_new_resolver("of_task", _of_task, replace=True)
    OmegaConf.register_new_resolver("scratch_dir", _scratch_dir, replace=True)
    OmegaConf.register_new_resolver("slurm_gpus", slurm.default_gpus, replace=True)
    OmegaConf.register_new_resolver("slurm_path", slurm.export_path, replace=True)


@cache
def _paper_settings() -> DictConfig:
    return typing.cast(DictConfig, OmegaConf.load(CONFIG_DIR / "paper.yaml"))


def _paper_setting(key: str, default: Any, *, _root_: DictConfig) -> Any:
    settings = _paper_settings().get(_root_.task.name) or {}
    solver, form = _root_.solver.name, ""
    if _root_.task.get("batch_norm") is False:
        form = "_without_batch_norm"
    elif _root_.task.get("form") == "caffe":
        form = "_caffe"
    for section in (f"{solver}{form}", f"all{form}", solver, "all"):
        if key in (settings.get(section) or {}):
            return settings[section][key]
    return default


def _edition(paper: Any, reduced: Any, *, _root_: DictConfig) -> Any:
    """One value at scale=paper, and another at the smaller scales."""
    return paper if _root_.scale.name == "paper" else reduced


def _of_task(default: Any, named: DictConfig, *, _root_: DictConfig) -> Any:
    """One value for the tasks that are named, and another for all others."""
    return named.get(_root_.task.name, default)


@cache
def _scratch_dir() -> str:
    path = tempfile.mkdtemp(prefix="bpgrad-hydra-")
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


def load(overrides: Sequence[str] = ()) -> Config:
    """Compose and check a configuration from code, as `python run.py OVERRIDES` does.

    Raises ConfigError, one line, for values that could not be run, and what Hydra raises of
    overrides that it cannot read.
    """
    composition.check_choices(CONFIG_DIR, overrides)
    place = kept.place_of(CONFIG_DIR, overrides, _schema_text())
    content = None if place is None else kept.read(place)
    if content is None:
        register()
        cfg = _resolve(composition.composed(CONFIG_DIR, overrides))
        if place is not None:
            kept.write(place, asdict(cfg))
    else:
        groups = {"scale": Scale(**content["scale"]), "wandb": Wandb(**content["wandb"])}
        cfg = Config(**{**content, **groups})
        seeds = [override for override in overrides if kept.SEED.fullmatch(override)]
        cfg.seed = int(seeds[-1].removeprefix("seed=")) if seeds else Config.seed
    return check(cfg)


@cache
def _schema_text() -> str:
    return OmegaConf.to_yaml(OmegaConf.structured(Config))


def parse(composed: DictConfig) -> Config:
    """Resolve and check a composed configuration.

    Raises ConfigError, one line, for anything that could not be run.
    """
    if HydraConfig.initialized():  # on the command line
        composition.check_choices(CONFIG_DIR, HydraConfig.get().overrides.task)
    return check(_resolve(composed))


def _resolve(composed: DictConfig) -> Config:
    _refuse_added_keys(composed)
    try:
        cfg = typing.cast(Config, OmegaConf.to_object(composed))
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0]) from error
    missing = [f.name for f in fields(cfg) if getattr(cfg, f.name) == MISSING]
    if missing:
        raise ConfigError(f"{', '.join(missing)}: missing; set a value")
    return cfg


def check(cfg: Config) -> Config:
    """The configuration, if it can be run; raises ConfigError as `parse` does."""
    _check_finite("", asdict(cfg))
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
    """The keyword arguments of the task class; null leaves one at its default."""
    own = ("name", "target")
    return {k: v for k, v in cfg.task.items() if k not in own and v is not None}


def solver_spec(cfg: Config) -> SolverSpec:
    """Split the `solver` group and check it; of torch's and our own classes the constructor too."""
    options = {k: v for k, v in cfg.solver.items() if v is not None}
    for key in ("name", "optimizer"):
        if not isinstance(options.get(key), str):
            raise ConfigError(f"solver.{key}: missing; configs/solver/*.yaml must set it")
    name = options.pop("name")
    own: dict[str, Any] = {}
    if "objective" in options:
        own["objective"] = options.pop("objective")
    for key in ("lr_multipliers", "closure", "create_graph"):
        if key in options:
            own[key] = options.pop(key)
            if not isinstance(own[key], bool):
                raise ConfigError(f"solver.{key}={own[key]}: true or false")
    if "lr_factors" in options:
        own["lr_factors"] = _lr_factors(options.pop("lr_factors"))
    for key in ("source", "schedule", "replay"):
        if key in options:
            own[key] = str(options.pop(key))
    if "parameters" in options:
        own["parameters"] = options.pop("parameters")
    if own.get("schedule") and "warmup" in options:  # else an argument of the optimizer's own
        own["warmup"] = warmup = options.pop("warmup")
        if not isinstance(warmup, int | float) or not 0 <= warmup < 1:
            raise ConfigError(
                f"solver.warmup={warmup}: must be a part of the iterations, from 0 to below 1"
            )
    rules = options.pop("groups", [])
    made = _optimizer_spec("solver", options)
    if not isinstance(rules, list):
        raise ConfigError(f"solver.groups={rules}: must be a list of rules, as {GROUPS_EXAMPLE}")
    own["groups"] = tuple(_group_rule(f"solver.groups[{k}]", rule) for k, rule in enumerate(rules))
    spec = SolverSpec(name, made.optimizer, made.arguments, **own)
    if spec.parameters == "model" and (spec.groups or spec.lr_multipliers):
        raise ConfigError("solver.parameters=model: goes with neither groups nor lr_multipliers")
    if spec.replay and (spec.schedule or spec.lr_factors or spec.lr_multipliers):
        raise ConfigError(
            "solver.replay: sets the rate itself, without schedule, lr_factors and lr_multipliers"
        )
    if spec.closure and spec.objective != "batch":
        raise ConfigError(f"solver.objective={spec.objective}: a closure returns the minibatch's")
    if is_plain(spec):
        settings = spec.optimizer, repr(spec.arguments)
        if settings not in _accepted:
            import torch  # only now: a mistyped key is refused without waiting for torch

            try:
                with without_dynamo():
                    call(spec.optimizer, [torch.zeros(1, 1, requires_grad=True)], spec.arguments)
            except Exception as error:  # whatever a constructor raises is about these settings
                refusal = f"solver={name} refuses its settings: {first_line(error)}"
                raise ConfigError(refusal) from error
            _accepted.add(settings)
    return spec


# What the constructors of torch's and our classes have taken: a look at a thousand runs asks often.
_accepted: set[tuple[Callable[..., Any], str]] = set()


def is_plain(spec: SolverSpec) -> bool:
    """Whether the solver is torch's or ours, and driven as those are: known to work."""
    module = str(getattr(spec.optimizer, "__module__", ""))
    special = spec.closure or spec.create_graph or spec.groups or spec.parameters != "list"
    wraps = any(isinstance(value, OptimizerSpec) for value in spec.arguments.values())
    return module.partition(".")[0] in ("torch", "bpgrad") and not (special or wraps)


GROUPS_EXAMPLE = "[{ndim: 2, lr: 0.02}, {match: '*.bias', lr: 0.1}, {rest: true, lr: 0.001}]"
WRAPS_EXAMPLE = "{optimizer: torch.optim.SGD, lr: 0.1}"
# What the trainer passes for a required parameter of that name, beside the leading one.
SUPPLIED = ("params", "model")
OWN_KEYS = (
    *("name", "optimizer", "objective", "lr_multipliers", "lr_factors", "schedule", "warmup"),
    *("replay", "closure", "create_graph", "parameters", "groups", "wraps"),
)


def _optimizer_spec(key: str, block: Mapping[str, Any]) -> OptimizerSpec:
    """An optimizer and its arguments, checked against its signature; `key` is for messages."""
    options = {k: v for k, v in block.items() if v is not None}
    path = options.pop("optimizer")
    optimizer = _optimizer_class(path, f"{key}.optimizer")
    wrapped = _wrapped_argument(optimizer)
    if "wraps" in options:
        if wrapped is None:
            raise ConfigError(f"{key}.wraps: {path} has no argument that is another optimizer")
        options[wrapped] = options.pop("wraps")
    nested = {
        name: _optimizer_spec(f"{key}.{name}", value)
        for name, value in options.items()
        if isinstance(value, Mapping) and isinstance(value.get("optimizer"), str)
    }
    parameters = parameters_of(optimizer)
    if wrapped is not None and wrapped not in nested:
        required = any(p.name == wrapped and p.default is p.empty for p in parameters)
        if required or wrapped in options:
            raise ConfigError(
                f"{key}.wraps: {path} wraps another optimizer; say which, as wraps: {WRAPS_EXAMPLE}"
            )
    leading = 0 if parameters and parameters[0].name in options else 1
    check_arguments(
        optimizer,
        {name: value for name, value in options.items() if name not in nested},
        key,
        reserved=OWN_KEYS if key == "solver" else ("optimizer", "wraps"),
        given=leading,
        supplied=(*SUPPLIED, *nested),
    )
    return OptimizerSpec(optimizer, options | nested)


def _optimizer_class(path: str, key: str) -> Callable[..., Any]:
    """The class, or function, of that path; anything with a torch optimizer's methods."""
    found = import_object(path, key)
    methods = ("step", "zero_grad", "state_dict", "load_state_dict")
    if not callable(found) or (
        isinstance(found, type) and not all(hasattr(found, name) for name in methods)
    ):
        raise ConfigError(f"{key}={path}: not a torch.optim.Optimizer")
    return typing.cast(Callable[..., Any], found)


def _wrapped_argument(function: Callable[..., Any]) -> str | None:
    """The parameter that takes another optimizer, by its annotation or by its name."""
    names = ("optimizer", "base_optimizer", "base", "wrapped_optimizer", "inner_optimizer")
    hints = hints_of(function)
    for parameter in parameters_of(function):
        if parameter.name in names or "Optimizer" in str(hints.get(parameter.name, "")):
            return parameter.name
    return None


def _group_rule(key: str, rule: Any) -> GroupRule:
    if not isinstance(rule, Mapping):
        raise ConfigError(f"{key}={rule}: must be a rule, as in {GROUPS_EXAMPLE}")
    given = dict(rule)
    ndim, match, rest = given.pop("ndim", []), given.pop("match", ""), given.pop("rest", False)
    ndims = tuple(ndim) if isinstance(ndim, list) else (ndim,)
    if not all(isinstance(n, int) and not isinstance(n, bool) for n in ndims):
        raise ConfigError(f"{key}.ndim={ndim}: must be a number of dimensions, or several: [2, 4]")
    if not isinstance(match, str):
        raise ConfigError(f"{key}.match={match}: must be a pattern of names, as '*.bias'")
    flatten = given.pop("flatten", False)
    if not isinstance(flatten, bool):
        raise ConfigError(f"{key}.flatten={flatten}: true or false")
    if rest is not (not ndims and not match):
        raise ConfigError(f"{key}: needs either ndim or match (or both), or rest: true")
    if "optimizer" not in given:
        return GroupRule(given, ndims, match, flatten=flatten)
    made = _optimizer_spec(key, given)
    return GroupRule(made.arguments, ndims, match, made.optimizer, flatten)


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
