"""Which run a configuration describes: the record's content and its directory's name."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from bpgrad.training.config import Config, Scale, SolverSpec, solver_spec, task_class
from bpgrad.training.signatures import parameters_of

# Settings of a solver that only change the order of a floating-point reduction, or nothing at all.
IMPLEMENTATION_KEYS = frozenset({"foreach", "fused", "capturable"})


def describe(cfg: Config) -> dict[str, Any]:
    """All that can change a number of the run beyond reduction order, and nothing else.

    Not the paths, the logger, the launcher, the device, the number of threads or processes.
    """
    return {
        "task": dict(cfg.task),
        "solver": _solver(cfg),
        "scale": vars(cfg.scale).copy(),
        "seed": cfg.seed,
        "epochs": cfg.epochs,
        "batch_size": cfg.batch_size,
        # Its statistics are those of a micro-batch where a model normalises over a batch.
        **({} if cfg.micro_batch is None else {"micro_batch": cfg.micro_batch}),
        "precision": cfg.precision,
        "deterministic": cfg.deterministic,
        # By itself it is the device's; what is asked for has the same bits, and is kept apart.
        **({} if cfg.step == Config.step else {"step": cfg.step}),
        "data_md5": dict(task_class(cfg).data_md5(Path(cfg.data_root))),
    }


def _solver(cfg: Config) -> dict[str, Any]:
    kept = {k: v for k, v in cfg.solver.items() if k not in IMPLEMENTATION_KEYS}
    # Named after the run whose step sizes it holds; where it lies is not part of a run.
    return kept | ({"replay": Path(kept["replay"]).name} if kept.get("replay") else {})


def run_name(cfg: Config) -> str:
    """The run's relative directory, <task>/<solver>/seed<k>-<hash8>.

    Values at their default do not enter the hash, so that an option which is added later does not
    rename the runs recorded before.
    """
    spec = solver_spec(cfg)
    found = describe(cfg)
    found["task"] = _changed(task_class(cfg), found["task"])
    found["solver"] = _changed(SolverSpec, _changed(spec.optimizer, found["solver"]))
    if found["scale"]["name"] == "paper":
        del found["scale"]["name"]
    found["scale"] = _changed(Scale, found["scale"]) or None
    found = _changed(Config, found)
    text = json.dumps(_canonical(found), sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{cfg.task['name']}/{spec.name}/seed{cfg.seed}-{digest}"


def _changed(schema: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """What differs from the defaults of a class; null never does."""
    defaults = _defaults(schema)
    return {
        key: value
        for key, value in given.items()
        if value is not None and _canonical(value) != defaults.get(key, ...)
    }


@lru_cache(maxsize=256)
def _defaults(schema: Callable[..., Any]) -> dict[str, Any]:
    if schema in (Config, SolverSpec):
        pairs = ((each.name, each.default) for each in fields(schema))
    else:
        pairs = ((each.name, each.default) for each in parameters_of(schema))
    return {name: _canonical(default) for name, default in pairs}


def _canonical(value: Any) -> Any:
    """One form for values that YAML can write in several: 50 and 50.0, tuples and lists."""
    if isinstance(value, Mapping):
        return {str(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
