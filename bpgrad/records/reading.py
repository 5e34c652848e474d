"""Reading a run's record: every file is checked before anything in it is believed.

Whatever is wrong with a file (of another kind, cut, not UTF-8, a key or column missing, a value of
another type or out of range, at odds with another file) is a DamagedRecordError of one line that
names it. A finished run's result.json holds the sha256 of every file, its own included, so that no
changed byte passes; older records lack them, and of those that are in no list either (`listed`) the
other checks have to do.
"""

import csv
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import yaml

from bpgrad.errors import DamagedRecordError
from bpgrad.records import listed

Row = dict[str, float]

CHECKSUMS = "checksums"  # of the record's files, in result.json
REQUIRED = {  # columns that every record has
    "metrics.csv": ("train_objective",),
    "timing.csv": ("train_seconds", "images_per_second"),
}
NOT_OF_THE_LAST_ROW = ("run", "epochs", "train_seconds", "weights_sha256")  # of result.json
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Content:
    """What the small files of a record hold; empty where a run has not come so far.

    In `result` a metric that was not finite is None.
    """

    config: dict[str, Any] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)
    metrics: list[Row] = field(default_factory=list)
    timing: list[Row] = field(default_factory=list)
    consumed: list[str] = field(default_factory=list)
    result: dict[str, Any] | None = None


def read(directory: Path) -> Content:
    """Read a run's record, steps.npz apart, and compare its files with one another.

    Raises DamagedRecordError if it is damaged.
    """
    result = read_result(directory)
    content = Content(
        config=read_config(directory),
        meta=read_meta(directory),
        metrics=read_rows(directory, "metrics.csv"),
        timing=read_rows(directory, "timing.csv"),
        consumed=read_consumed(directory),
        result=result,
    )
    for file, needed in (
        ("config.yaml", content.config),
        ("meta.json", content.meta.get("starts")),
    ):
        with checked(directory / file):
            require(needed or not content.metrics, "missing, or it says nothing of the run's start")
    with checked(directory / "metrics.csv"):
        epochs = content.config.get("epochs", math.inf)
        require(len(content.metrics) <= epochs, f"more rows than the run's {epochs} epochs")
    if result is not None:
        _compare(directory, content, result)
        return content
    for file, rows in (("timing.csv", content.timing), ("consumed.csv", content.consumed)):
        if file == "timing.csv" or rows:  # a kill may have come between the files
            with checked(directory / file):
                every = len(content.metrics)
                require(every - len(rows) in (0, 1), f"{len(rows)} rows, metrics.csv has {every}")
    return content


def _compare(directory: Path, content: Content, result: Mapping[str, Any]) -> None:
    """Compare a finished run's files with its result."""
    epochs = result["epochs"]
    with checked(directory / "result.json"):
        planned = content.config.get("epochs")
        require(planned == epochs, f"of {epochs} epochs, config.yaml of {planned}")
    for file, rows in (("metrics.csv", content.metrics), ("timing.csv", content.timing)):
        with checked(directory / file):
            require(len(rows) == epochs, f"{len(rows)} whole rows, result.json is of {epochs}")
    if content.consumed:
        with checked(directory / "consumed.csv"):
            found = len(content.consumed)
            require(found == epochs, f"{found} whole rows, result.json is of {epochs}")
    with checked(directory / "result.json"):
        last = content.metrics[-1]
        for key, value in result.items():
            if key not in NOT_OF_THE_LAST_ROW:
                require(key in last, f"{key} is no column of metrics.csv")
                same = value == last[key] if value is not None else not math.isfinite(last[key])
                require(same, f"{key} is {value}, {last[key]} in the last row of metrics.csv")


def read_config(directory: Path) -> dict[str, Any]:
    """What identifies the run; empty if it has not started."""
    path = directory / "config.yaml"
    if not there(path):
        return {}
    with checked(path):
        config = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
        _require_mapping(config)
        require(_whole(config.get("epochs"), 1), "epochs: not a whole number from 1 on")
        require(isinstance(config.get("precision"), str), "precision: not a word")
        for key in ("task", "solver", "scale", "data_md5"):
            require(isinstance(config.get(key, {}), dict), f"{key}: not a mapping")
    return config


def read_meta(directory: Path) -> dict[str, Any]:
    """What is known of the run's starts and hashes; empty for a new run."""
    path = directory / "meta.json"
    if not there(path):
        return {}
    with checked(path):
        meta = _read_json(path)
        for key, value in meta.items():
            if key.endswith("_sha256"):
                require(isinstance(value, str) and value, f"{key}: not a hash")
        md5 = meta.get("data_md5", {})
        require(isinstance(md5, dict), "data_md5: not a mapping")
        require(all(isinstance(value, str) for value in md5.values()), "data_md5: not hashes")
        starts = meta.get("starts", [])
        require(isinstance(starts, list), "starts: not a list")
        for start in starts:
            _check_start(start)
        if "diverged" in meta:
            where = meta["diverged"]
            require(isinstance(where, dict), "diverged: not a mapping")
            for key in ("epoch", "iteration"):
                require(_whole(where.get(key), 1), f"diverged.{key}: not a whole number from 1 on")
    return meta


def _check_start(start: Any) -> None:
    require(isinstance(start, dict), "starts: an entry is not a mapping")
    machine = start.get("machine")
    require(isinstance(machine, dict), "starts.machine: not a mapping")
    require(isinstance(machine.get("device"), str), "starts.machine.device: not a word")
    for key in ("cpu", "gpu"):
        require(isinstance(machine.get(key), str | None), f"starts.machine.{key}: not a word")
    for key in ("threads", "world_size"):
        require(_whole(machine.get(key, 1), 1), f"starts.machine.{key}: not a whole number")
    require(isinstance(start.get("versions", {}), dict), "starts.versions: not a mapping")
    for key in ("time", "git_sha"):
        require(isinstance(start.get(key), str | None), f"starts.{key}: not a word")
    require(isinstance(start.get("git_dirty"), bool | None), "starts.git_dirty: not true or false")


def read_rows(directory: Path, file: str) -> list[Row]:
    """The rows of a CSV file of numbers, a row an epoch; none if it is not there yet.

    What only other rows have is NaN. A last line without an end, which a killed process leaves, is
    passed over.
    """
    path = directory / file
    if not there(path):
        return []
    with checked(path):
        rows = [
            {key: float(value) if value else math.nan for key, value in row.items()}
            for row in read_texts(path)
        ]
        for column in REQUIRED[file]:
            require(not rows or column in rows[0], f"no column {column}")
        if file == "timing.csv":
            # How many runs there were is written only of epochs in company.
            values = (v for row in rows for key, v in row.items() if key != "concurrent_runs")
            require(all(0 <= v < math.inf for v in values), "a time that is negative or no number")
    return rows


def read_consumed(directory: Path) -> list[str]:
    """The sha256 of what each epoch has consumed; none in records older than that file."""
    path = directory / "consumed.csv"
    if not there(path):
        return []
    with checked(path):
        hashes = [row["sha256"] for row in read_texts(path)]
        require(all(map(_is_sha256, hashes)), "a value that is not a sha256")
    return hashes


def read_texts(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file as they stand there; raises ValueError if epochs are not 1, 2, …"""
    text = path.read_bytes().decode()
    whole = text[: text.rfind("\n") + 1]
    require(whole, "no whole line")
    header, *lines = csv.reader(whole.splitlines(), strict=True)
    require(header[0] == "epoch" and len(set(header)) == len(header), "not our header")
    for k, line in enumerate(lines, 1):
        require(len(line) == len(header), f"row {k} has {len(line)} values, not {len(header)}")
        require(float(line[0]) == k, f"row {k} is of epoch {line[0][:20]}")
    return [dict(zip(header, line, strict=True)) for line in lines]


def read_steps(directory: Path) -> dict[str, np.ndarray]:
    """The arrays of steps.npz: columns (their names), quantile_levels (Q), quantiles (epochs, Q,
    columns) and epoch1, epoch2, … (iterations, columns). Raises DamagedRecordError.
    """
    path = directory / "steps.npz"
    with checked(path):
        with np.load(path) as file:
            steps = {name: file[name] for name in file.files}
        require(steps["columns"].dtype.kind == "U", "columns: not names")
        width, levels = len(steps["columns"]), steps.get("quantile_levels", np.empty(0))
        if "quantiles" in steps:
            expected = (len(steps["quantiles"]), len(levels), width)
            require(steps["quantiles"].shape == expected, "quantiles: of another shape")
        whole = [name for name in steps if name not in ("columns", "quantile_levels", "quantiles")]
        require(bool(whole), "no epoch is whole")  # a damaged list of contents may hide some
        require(whole == [f"epoch{k}" for k in range(1, len(whole) + 1)], "epochs are missing")
        for name in whole:
            shape, kind = steps[name].shape, steps[name].dtype.kind
            require(kind == "f" and shape == (len(steps[name]), width), f"{name}: of another shape")
    return steps


def read_result(directory: Path) -> dict[str, Any] | None:
    """The final metrics if the run has finished, else None; no file has changed since."""
    path = directory / "result.json"
    if not there(path):
        return None
    with checked(path):
        result = _read_json(path)
        recorded = result.pop(CHECKSUMS, None)
        require(_whole(result.get("epochs"), 1), "epochs: not a whole number from 1 on")
        for key, value in result.items():
            words = key in ("run", "weights_sha256")
            kind = str if words else int | float | None
            require(isinstance(value, kind) and not isinstance(value, bool), f"{key}: {value!r}")
        if recorded is not None:
            require(isinstance(recorded, dict) and recorded, f"{CHECKSUMS}: not a mapping")
            own = recorded.pop(path.name, None)
            require(own == _digest(result, recorded), "its checksum is another")
    for file, expected in (listed.of_record(directory) if recorded is None else recorded).items():
        with checked(directory / file):
            require(_sha256(directory / file) == expected, "changed since the run finished")
    return result


def checksums(directory: Path, result: Mapping[str, Any]) -> dict[str, str]:
    """The sha256 of each file of a record, and of the result that is about to join them."""
    found = files_sha256(directory)
    found.pop("result.json", None)
    return {**found, "result.json": _digest(result, found)}


def files_sha256(directory: Path) -> dict[str, str]:
    """The sha256 of each file of a record, by its path there."""
    files = (path for path in sorted(directory.rglob("[!.]*")) if path.is_file())
    return {path.relative_to(directory).as_posix(): _sha256(path) for path in files}


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _digest(result: Mapping[str, Any], others: Mapping[str, str]) -> str:
    """The sha256 of what result.json holds beside it."""
    return hashlib.sha256(json.dumps([result, others], sort_keys=True).encode()).hexdigest()


@contextmanager
def checked(path: Path) -> Iterator[None]:
    """Turn whatever goes wrong in reading a file into a DamagedRecordError of one line."""
    try:
        yield
    except DamagedRecordError:
        raise
    except Exception as error:  # what parsers raise about a damaged file has no end
        why = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        why = " ".join((getattr(error, "strerror", None) or why or "empty").split())[:160]
        raise DamagedRecordError(
            f"{path} is damaged ({why}); restore it, or make the run again with rerun=true"
        ) from error


def require(condition: object, why: str) -> None:
    """Raise ValueError unless the condition holds."""
    if not condition:
        raise ValueError(why)


def there(path: Path) -> bool:
    """Whether there is anything of that name, a broken link included."""
    return path.exists() or path.is_symlink()


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_sha256(text: str) -> bool:
    return len(text) == 64 and set(text) <= set("0123456789abcdef")


def _require_mapping(content: Any) -> None:
    require(isinstance(content, dict), f"not a mapping but {type(content).__name__}")


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _read_json(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    _require_mapping(content)
    return content
