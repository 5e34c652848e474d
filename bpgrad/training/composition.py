"""Hydra's composition of the configuration files, done once for settings that differ in values.

A composition takes a tenth of a second, and a comparison of hundreds of runs asks for one a run.
Which files it reads depends on the choices of groups alone, as task=mnist; values, as seed=1 or
solver.lr=0.1, are set in what these files gave, as Hydra itself does it.
"""

import copy
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bpgrad.errors import ConfigError
from bpgrad.training.kept import SEED
from bpgrad.training.signatures import unknown

Files = tuple[tuple[str, int, int], ...]  # path, time of the last change, size
# What the grammar of overrides reads as a name, and not as null, a truth or a number: most choices.
NAME = re.compile(r"(?!(?:null|true|false|inf|nan)$)[a-z_]\w*", re.IGNORECASE)
Stored = tuple[tuple[str, str], ...]  # choices that are in Hydra's store, and what they hold


def composed(folder: Path, overrides: Sequence[str]) -> DictConfig:
    """What `python run.py OVERRIDES` has before it is checked; the caller's own copy.

    Files under ``folder`` that have changed are read again. Raises what Hydra raises.
    """
    if any(override.lstrip("+~").startswith("hydra") for override in overrides):
        return _compose(str(folder), tuple(overrides))  # may name other folders: read them
    values = _values(folder, overrides)
    others = tuple(override for override in overrides if override not in values)
    try:
        parsed = OverridesParser.create().parse_overrides(values)
        found = copy.deepcopy(_remembered(str(folder), others, _files(folder), _stored(others)))
        for override in parsed:
            OmegaConf.update(found, override.key_or_group, override.value(), merge=True)
    except (HydraException, OmegaConfBaseException):
        return _compose(str(folder), tuple(overrides))  # says what is wrong
    return found


def check_choices(folder: Path, overrides: Sequence[str]) -> None:
    """Raise ConfigError for a group's choice that is no name, as solver=null or solver=[a,b].

    Hydra merges a list's choices, and has no words for the others.
    """
    for override in overrides:
        group, equals, text = override.lstrip("+").partition("=")
        if not (group and equals) or NAME.fullmatch(text) or not (folder / group).is_dir():
            continue
        parsed = OverridesParser.create().parse_override(override)
        value = parsed.value()
        if parsed.is_sweep_override() and not isinstance(value, ChoiceSweep):
            continue
        asked = value.list if isinstance(value, ChoiceSweep) else [value]
        if not all(isinstance(choice, str | QuotedString) for choice in asked):
            choices = sorted(path.stem for path in (folder / group).glob("*.yaml"))
            raise ConfigError(unknown(f"{group}={text}", choices, f"{group}="))


def _values(folder: Path, overrides: Sequence[str]) -> list[str]:
    """The overrides that set a value of a key that the files have.

    Those before an addition or a deletion, which may be of the same key, are left to Hydra; a seed
    is a key that nobody adds.
    """
    last = max(
        (i for i, override in enumerate(overrides) if override[:1] in ("+", "~")), default=-1
    )
    after = set(overrides[last + 1 :])
    plain = (override for override in overrides if re.match(r"[\w.]+=", override))
    return [
        override
        for override in plain
        if SEED.fullmatch(override)
        or (override in after and not (folder / override.partition("=")[0]).is_dir())
    ]


def _files(folder: Path) -> Files:
    stats = ((str(path), path.stat()) for path in sorted(folder.rglob("*.yaml")))
    return tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in stats)


def _stored(choices: Sequence[str]) -> Stored:
    """Of the choices of groups those that are a node in Hydra's store, as a solver of one's own."""
    repo = ConfigStore.instance().repo
    found = []
    for choice in choices:
        group, _, name = choice.lstrip("+").partition("=")
        entry = repo.get(group, {}).get(f"{name}.yaml")
        if entry is not None:
            found.append((choice, repr(entry.node)))
    return tuple(found)


def _compose(folder: str, overrides: tuple[str, ...]) -> DictConfig:
    with initialize_config_dir(folder, version_base="1.3"):
        return compose("config", overrides=list(overrides))


@lru_cache(maxsize=1024)
def _remembered(
    folder: str, overrides: tuple[str, ...], files: Files, stored: Stored
) -> DictConfig:
    return _compose(folder, overrides)
