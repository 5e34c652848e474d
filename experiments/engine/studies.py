"""Runs and shows studies: experiments that are not a comparison of training runs.

`package`, below, is the one that has a module for each study, and says what that offers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from bpgrad.errors import BPGradError, ConfigError, RecordError
from bpgrad.records.files import write_text
from bpgrad.training import lookup
from bpgrad.training.config import Config
from experiments.engine.declaration import Study

if TYPE_CHECKING:
    import pandas as pd

RESULTS = Path(Config.results_root).parent
# Overrides that say where and how something is computed, but not what.
NEUTRAL = ("results_root", "checkpoint_root", "data_root", "download", "threads", "device")


def write_meta(folder: Path) -> None:
    """Add time, commit, versions and machine of this process to the study's meta.json.

    Called when something has been computed, after its record; once is enough for what the same
    commit, versions and machine compute. Raises RecordError for a damaged file.
    """
    from bpgrad.records.provenance import describe_computation  # imports torch

    path = folder / "meta.json"
    try:
        meta = json.loads(path.read_text()) if path.exists() else {"computed": []}
        known = [{key: one[key] for key in one if key != "time"} for one in meta["computed"]]
    except (ValueError, KeyError, TypeError) as error:
        raise RecordError(f"{path} is damaged ({error}); delete the folder to run again") from error
    found = describe_computation()
    if {key: found[key] for key in found if key != "time"} not in known:
        meta["computed"].append(found)
        write_text(path, json.dumps(meta, indent=2) + "\n")


@dataclass(frozen=True)
class Place:
    """Where a study has its records, and where its figures and tables go."""

    folder: Path
    figures: Path
    tables: Path

    of_suite: bool = False  # the records, which are then only read

    @property
    def recorded(self) -> bool:
        """Whether the study has been computed."""
        return (self.folder / "meta.json").exists()


def place_of(
    study: Study,
    overrides: Sequence[str] = (),
    results: Path = RESULTS,
    *,
    compute: bool = False,
) -> Place:
    """The places of a study; what is computed with other settings has a folder of its own.

    Where nothing is recorded where the user stands, its records are the suite's, unless a folder
    is asked for or the study is to be computed here.
    """
    changed, asked = [], compute
    for override in overrides:
        key, _, value = override.partition("=")
        if key == "results_root":
            results, asked = Path(value).parent, True
        elif key not in NEUTRAL:
            changed.append(override)
    if not changed:
        here = Place(results / "studies" / study.study, results / "figures", results / "tables")
        ours = lookup.SUITE_RECORDS.parent / "studies" / study.study
        if asked or here.recorded or not replace(here, folder=ours).recorded:
            return here
        return replace(here, folder=ours, of_suite=True)
    folder = results / "studies" / f"{study.study}-modified"
    return Place(folder, folder / "figures", folder / "tables")


def run(
    package: str,
    study: Study,
    place: Place,
    seeds: Sequence[int],
    overrides: Sequence[str],
    jobs: int = 1,
) -> None:
    """Compute what is missing, but of the suite's records nothing.

    Raises ConfigError if there is no such module, or for `jobs`.
    """
    if place.of_suite:
        return
    module = _module(package, study)
    more: dict[str, int] = {}
    if hasattr(module, "missing"):
        more["jobs"] = jobs
    elif jobs > 1:
        raise ConfigError(f"--jobs {jobs}: {study.name} is a study, which is one process")
    place.folder.mkdir(parents=True, exist_ok=True)
    module.run(
        place.folder, seeds=tuple(seeds) or study.seen + study.seeds, overrides=overrides, **more
    )


def missing(
    package: str,
    study: Study,
    place: Place,
    seeds: Sequence[int],
    overrides: Sequence[str],
    jobs: int = 1,
) -> list[str]:
    """What `run` would do, in lines."""
    if place.of_suite:
        return [f"{study.name} is recorded in {place.folder}, which is only read from here"]
    module = _module(package, study)
    if hasattr(module, "missing"):
        seeds = tuple(seeds) or study.seen + study.seeds
        return list(module.missing(place.folder, seeds=seeds, overrides=overrides, jobs=jobs))
    state = "is recorded in" if place.recorded else "would be computed into"
    return [f"{study.name} {state} {place.folder}; no rate is measured of studies"]


def show(package: str, study: Study, place: Place) -> str:
    """Write figures and tables; the text about them, in Markdown.

    Raises BPGradError if nothing is recorded, ConfigError if there is no such module.
    """
    if not place.recorded:
        raise BPGradError(f"{study.name}: nothing is recorded in {place.folder}")
    for folder in (place.figures, place.tables):
        folder.mkdir(parents=True, exist_ok=True)
    return _module(package, study).show(place.folder, place.figures, place.tables)


def evidence(package: str, study: Study, place: Place) -> dict[str, pd.DataFrame]:
    """The tables that the study has for the claims; none if it is not recorded."""
    tables = getattr(_module(package, study), "evidence", None) if place.recorded else None
    return {} if tables is None else tables(place.folder)


def findings(package: str, study: Study, place: Place) -> Sequence[str]:
    """Sentences for the report's opening on what the study has found; most have none."""
    says = getattr(_module(package, study), "findings", None) if place.recorded else None
    return [] if says is None else list(says(place.folder))


def _module(package: str, study: Study) -> ModuleType:
    name = f"{package}.{study.study}"
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        path = f"{name.replace('.', '/')}.py"
        raise ConfigError(f"{study.name}: study: {study.study}: there is no {path}") from error
