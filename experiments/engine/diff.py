"""Where two recorded runs part: what went in differently, and the first numbers that differ."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from bpgrad.errors import RecordError
from bpgrad.records.reading import read_config
from bpgrad.records.run_record import Row, RunRecord
from bpgrad.training import lookup
from experiments.engine.runner import leaves

ABSENT = "absent"
# Of each start of a run, what may change numbers; a run in several parts may have several values.
STARTS = {
    "commit": ("git_sha",),
    "uncommitted changes": ("git_dirty",),
    "python": ("versions", "python"),
    "torch": ("versions", "torch"),
    "torchvision": ("versions", "torchvision"),
    "numpy": ("versions", "numpy"),
    "hydra-core": ("versions", "hydra-core"),
    "cuda": ("versions", "cuda"),
    "device": ("machine", "device"),
    "gpu": ("machine", "gpu"),
    "cpu": ("machine", "cpu"),
    "threads": ("machine", "threads"),
    "world size": ("machine", "world_size"),
    "deterministic algorithms": ("deterministic_algorithms",),
    "mkldnn": ("mkldnn",),
}


@dataclass(frozen=True)
class Side:
    """One of the two runs, as far as its record goes."""

    record: RunRecord

    @cached_property
    def config(self) -> dict[str, Any]:
        return dict(leaves(read_config(self.record.directory)))

    @cached_property
    def rows(self) -> list[Row]:
        return self.record.rows("metrics.csv")

    @cached_property
    def steps(self) -> Mapping[str, np.ndarray]:
        there = (self.record.directory / "steps.npz").exists()
        return self.record.steps() if there else {}

    def series(self, epoch: int) -> dict[str, np.ndarray] | None:
        """The columns of an epoch, a value an iteration; None if they were not kept."""
        if "columns" not in self.steps:
            return None
        found = self.steps.get(f"epoch{epoch}")
        if found is None:
            path = self.record.checkpoints / "steps" / f"epoch{epoch:04d}.npy"
            try:
                found = np.load(path)
            except (OSError, ValueError, EOFError):
                return None
        return dict(zip(self.steps["columns"].tolist(), found.T, strict=True))


@dataclass(frozen=True)
class Parting:
    """The first place where two runs differ, and the columns that do so there.

    `iteration` counts from 1 within the epoch, `overall` from the start; both are None where only
    the values of the whole epoch are recorded.
    """

    epoch: int
    values: Mapping[str, tuple[float, float]]
    iteration: int | None = None
    overall: int | None = None


def find(text: str, results: Path, checkpoints: Path) -> RunRecord:
    """The run that is meant: its directory, its name, or the beginning of its name or hash.

    Names are those under `results`, and of the suite's records those that are not there.
    Raises RecordError if there is none, or more than one.
    """
    folder = Path(text).resolve()
    if (folder / "config.yaml").is_file() and len(folder.parents) > 2:
        root, name = folder.parents[2], str(folder.relative_to(folder.parents[2]))
        return RunRecord(results if root == results.resolve() else root, checkpoints, name)
    places = dict.fromkeys(_names(results), (results, checkpoints))
    for name in _names(lookup.SUITE_RECORDS):
        places.setdefault(name, (lookup.SUITE_RECORDS, lookup.SUITE_CHECKPOINTS))
    names = sorted(places)
    wanted = text.strip("/")
    found = [name for name in names if name == wanted] or [
        name for name in names if wanted and _begins(name, wanted)
    ]
    if not found:
        raise RecordError(
            f"{text}: no run has this directory or name; names are like "
            f"{names[0] if names else 'mnist/adam/seed0-0d013004'} and lie under {results}"
        )
    if len(found) > 1:
        raise RecordError(f"{text}: could be any of {', '.join(found)}; write more of it")
    return RunRecord(*places[found[0]], found[0])


def _names(root: Path) -> list[str]:
    return [str(path.parent.relative_to(root)) for path in root.glob("*/*/seed*/config.yaml")]


def _begins(name: str, wanted: str) -> bool:
    return name.startswith(wanted) or name.rpartition("-")[2].startswith(wanted)


def settings(one: Side, other: Side) -> Iterator[tuple[str, str, str]]:
    """What differs in configuration, code, machine, initial weights, batch order and data."""
    for key in dict.fromkeys([*one.config, *other.config]):
        values = (one.config.get(key, ABSENT), other.config.get(key, ABSENT))
        if values[0] != values[1]:
            yield f"config {key}", str(values[0]), str(values[1])
    metas = (one.record.meta(), other.record.meta())
    for name, path in STARTS.items():
        texts = [_over_starts(meta, path) for meta in metas]
        if texts[0] != texts[1]:
            yield name, texts[0], texts[1]
    hashes = [_hashes(meta) for meta in metas]
    for name in dict.fromkeys([*hashes[0], *hashes[1]]):
        texts = [found.get(name, ABSENT)[:12] for found in hashes]
        if texts[0] != texts[1]:
            yield name, texts[0], texts[1]


def _over_starts(meta: Mapping[str, Any], path: Sequence[str]) -> str:
    """The value at each start of the run, repeated ones once."""
    values = []
    for node in meta.get("starts", []):
        for key in path:
            node = node.get(key, ABSENT) if isinstance(node, Mapping) else ABSENT
        values.append(node[:12] if path == ("git_sha",) and node else str(node))
    return " then ".join(dict.fromkeys(values)) or ABSENT


def _hashes(meta: Mapping[str, Any]) -> dict[str, str]:
    found = {f"data {name} (md5)": value for name, value in meta.get("data_md5", {}).items()}
    for key in ("initial_weights_sha256", "batch_order_sha256"):
        if key in meta:
            found[key.removesuffix("_sha256").replace("_", " ") + " (sha256)"] = meta[key]
    return found


def parting(one: Side, other: Side) -> Parting | None:
    """The first iteration whose recorded values differ; None if no epoch of both has any.

    Compared are the columns that both have, epoch by epoch: first the values of each iteration,
    where both runs have kept them, then those of the whole epoch. NaN equals NaN.
    """
    before = 0
    for epoch, rows in enumerate(zip(one.rows, other.rows, strict=False), 1):
        series = one.series(epoch), other.series(epoch)
        if series[0] is not None and series[1] is not None:
            found = _first_difference(series[0], series[1])
            if found is not None:
                index, values = found
                return Parting(epoch, values, index + 1, before + index + 1)
        before = int(rows[0].get("iterations", 0))
        values = _differing(rows[0], rows[1])
        if values:
            return Parting(epoch, values)
    return None


def _first_difference(
    one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]
) -> tuple[int, dict[str, tuple[float, float]]] | None:
    common = [name for name in one if name in other]
    if not common:
        return None
    length = min(len(one[common[0]]), len(other[common[0]]))
    differs = np.zeros(length, bool)
    for name in common:
        a, b = one[name][:length], other[name][:length]
        differs |= ~((a == b) | (np.isnan(a) & np.isnan(b)))
    if not differs.any():
        return None
    k = int(differs.argmax())
    return k, _differing(
        {name: float(one[name][k]) for name in common},
        {name: float(other[name][k]) for name in common},
    )


def _differing(one: Row, other: Row) -> dict[str, tuple[float, float]]:
    return {
        name: (value, other[name])
        for name, value in one.items()
        if name in other and not _equal(value, other[name])
    }


def _equal(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other))


def relative(one: float, other: float) -> float:
    """The difference relative to the larger of the two magnitudes; NaN where one is not finite."""
    if not (math.isfinite(one) and math.isfinite(other)):
        return math.nan
    return abs(one - other) / max(abs(one), abs(other))


def compare(one: RunRecord, other: RunRecord) -> tuple[list[str], bool]:
    """The lines to print, and whether all numbers that both runs have recorded are the same.

    Raises RecordError if one of the records is damaged, or has no epoch yet.
    """
    a, b = Side(one), Side(other)
    for side in (a, b):
        if not side.rows:
            raise RecordError(f"{side.record.directory}: no epoch is recorded yet")
    lines = [f"A  {one.directory}", f"B  {other.directory}", ""]
    given = list(settings(a, b))
    lines += ["what went in", *_columns([("", "A", "B"), *given])] if given else []
    lines += ["" if given else "what went in: the same configuration, code, machine and data", ""]
    found = parting(a, b)
    same = found is None and _same_end(one, other)
    if found is not None:
        lines += _describe(found, a, b)
    elif not same:
        lines.append(f"all {_compared(a, b)} are the same, but the final weights differ")
    else:
        lines.append(f"identical: {_compared(a, b)}{_final(one, other)}")
    if len(a.rows) != len(b.rows):
        lines.append(f"A has {len(a.rows)} epochs, B has {len(b.rows)}")
    return [line for k, line in enumerate(lines) if line or (k and lines[k - 1])], same


def _describe(found: Parting, one: Side, other: Side) -> list[str]:
    if found.iteration is None:
        head = f"the first difference is in epoch {found.epoch}, whose iterations "
        kept = one.series(found.epoch) is not None and other.series(found.epoch) is not None
        head += "are the same in all that is recorded" if kept else "were not kept by both"
    else:
        head = f"the first difference is at epoch {found.epoch}, iteration {found.iteration}"
        if found.epoch > 1:
            head += f" (iteration {found.overall} of the run)"
    rows = [("", "A", "B", "relative difference")]
    for name, (a, b) in found.values.items():
        rows.append((name, f"{a:.9g}", f"{b:.9g}", f"{relative(a, b):.2g}"))
    lines = [head, *_columns(rows)]
    if (found.epoch, found.iteration) == (1, 1) and "objective" in found.values:
        lines += [
            "",
            "The objective is measured before the update: the first batch, the weights it met or "
            "the arithmetic differ, not the solvers.",
        ]
    return lines


def _same_end(one: RunRecord, other: RunRecord) -> bool:
    hashes = {(record.result() or {}).get("weights_sha256") for record in (one, other)} - {None}
    return len(hashes) < 2


def _compared(one: Side, other: Side) -> str:
    epochs = range(1, min(len(one.rows), len(other.rows)) + 1)
    whole = sum(one.series(k) is not None and other.series(k) is not None for k in epochs)
    rows = f"the recorded values of {_count(len(epochs), 'epoch')}"
    return rows + (f", and of every iteration of {whole} of them" if whole else "")


def _final(one: RunRecord, other: RunRecord) -> str:
    ended = [(record.result() or {}).get("weights_sha256") for record in (one, other)]
    return ", and the final weights" if None not in ended else ""


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" + ("" if n == 1 else "s")


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    padded = ("  ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)) for row in rows)
    return [f"  {line}".rstrip() for line in padded]
