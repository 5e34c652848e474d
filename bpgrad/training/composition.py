"""Hydra's composition of the configuration files, done once for settings that differ in the seed.

A composition takes a tenth of a second, and a comparison of hundreds of runs asks for one a run.
"""

import copy
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

Files = tuple[tuple[str, int, int], ...]  # path, time of the last change, size


def composed(folder: Path, overrides: Sequence[str]) -> DictConfig:
    """What `python run.py OVERRIDES` has before it is checked; the caller's own copy.

    Files under ``folder`` that have changed are read again. Raises what Hydra raises.
    """
    if any(override.lstrip("+~").startswith("hydra") for override in overrides):
        return _compose(str(folder), tuple(overrides))  # may name other folders: read them
    seeds = [override for override in overrides if re.fullmatch(r"seed=(0|[1-9]\d*)", override)]
    others = tuple(override for override in overrides if override not in seeds)
    found = copy.deepcopy(_remembered(str(folder), others, _files(folder)))
    if seeds:
        found.seed = int(seeds[-1].removeprefix("seed="))
    return found


def forget() -> None:
    """Compose anew from now on; to be called by whoever stores a node in Hydra's ConfigStore."""
    _remembered.cache_clear()


def _files(folder: Path) -> Files:
    stats = ((str(path), path.stat()) for path in sorted(folder.rglob("*.yaml")))
    return tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in stats)


def _compose(folder: str, overrides: tuple[str, ...]) -> DictConfig:
    with initialize_config_dir(folder, version_base="1.3"):
        return compose("config", overrides=list(overrides))


@lru_cache(maxsize=1024)
def _remembered(folder: str, overrides: tuple[str, ...], files: Files) -> DictConfig:
    return _compose(folder, overrides)
