"""Take up records that were made on another machine: python scripts/merge_records.py FILES...

FILES are the parts of an archive that scripts/gpu_runs.py has packed, in any order. Every record is
read and checked first, and compared with the one of the same run that is there already: if they
differ, nothing is taken up, and the first difference is named. The same one again is passed over.
So are the files of studies, but for meta.json, of which the one that is there stays.
"""

from __future__ import annotations

import argparse
import io
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `experiments`

from bpgrad.errors import RecordError, first_line
from bpgrad.records.reading import Content
from bpgrad.records.run_record import RunRecord
from bpgrad.training.cli import run_command
from bpgrad.training.lookup import SUITE_RECORDS

CSV = ("metrics.csv", "consumed.csv")  # what a run's numbers are; its times may differ


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and do what it says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--into", type=Path, default=SUITE_RECORDS, metavar="results/runs")
    options = parser.parse_args(arguments)
    taken, same = merge(options.files, options.into)
    print(f"{taken} records taken up into {options.into}, {same} were there already")


def merge(files: Sequence[Path], into: Path) -> tuple[int, int]:
    """Take up the records of an archive's parts; how many, and how many were there already.

    Raises RecordError, and leaves everything as it was, if the archive or a record in it is
    damaged, or differs from the one that is there.
    """
    into.mkdir(parents=True, exist_ok=True)
    # Beside the records, so that a rename takes them up; in a folder that git does not see.
    with tempfile.TemporaryDirectory(prefix=".merge-", dir=into) as scratch:
        root = Path(scratch)
        _unpack(files, root)
        records = [
            RunRecord(root / "runs", root / "runs", str(folder.relative_to(root / "runs")))
            for folder in sorted((root / "runs").glob("*/*/*"))
        ]
        new, same = [], 0
        for record in records:
            content = _checked(record)
            there = RunRecord(into, into, record.name)
            if not there.directory.exists():
                new.append(record)
                continue
            if difference := _difference(content, record, there):
                raise RecordError(
                    f"{there.directory} is another: {difference}; nothing is taken up"
                )
            same += 1
        moves = [(record.directory, into / record.name) for record in new]
        studies = into.parent / "studies"
        for path in sorted(p for p in (root / "studies").rglob("*") if p.is_file()):
            place = studies / path.relative_to(root / "studies")
            if not place.exists():
                moves.append((path, place))
            elif place.name != "meta.json" and place.read_bytes() != path.read_bytes():
                raise RecordError(f"{place} is another; none is taken up")
        _take_up(moves)
    return len(new), same


def _unpack(files: Sequence[Path], root: Path) -> None:
    """Unpack the parts below `root`; only files in the folders of runs and studies."""
    try:
        content = b"".join(path.read_bytes() for path in sorted(files, key=lambda p: p.name))
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            for member in tar:
                parts = PurePosixPath(member.name).parts
                if not (member.isfile() or member.isdir()) or ".." in parts:
                    raise RecordError(f"{member.name}: no file of a record")
                if parts[0] != "studies" and (
                    parts[0] != "runs" or (member.isfile() and not 4 < len(parts) < 7)
                ):
                    raise RecordError(f"{member.name}: no file of a record")
                tar.extract(member, root, filter="data")
    except (OSError, EOFError, tarfile.TarError) as error:
        raise RecordError(f"the archive cannot be read: {first_line(error)}") from error


def _checked(record: RunRecord) -> Content:
    """What the record holds, all of it read; raises RecordError if it is not whole."""
    content = record.read()
    if content.result is None and "diverged" not in content.meta:
        raise RecordError(f"{record.name} has not ended")
    if content.result is not None:
        record.steps()
    config = content.config
    names = (config["task"]["name"], config["solver"]["name"], f"seed{config['seed']}")
    if names != (*record.name.split("/")[:2], record.name.split("/")[2].partition("-")[0]):
        raise RecordError(f"{record.name}: its config.yaml is of {' '.join(map(str, names))}")
    return content


def _difference(content: Content, record: RunRecord, there: RunRecord) -> str:
    """The first difference of two records of one run, times and machines apart; empty if none."""
    other = there.read()
    if (content.result is None) != (other.result is None):
        return "one of them has not finished"
    for key in sorted(content.config.keys() | other.config.keys()):
        if content.config.get(key) != other.config.get(key):
            return f"config.yaml: {key}: {other.config.get(key)} there, {content.config.get(key)}"
    for file in CSV:
        rows = [each.recorded(file) for each in (there, record)]
        if len(rows[0]) != len(rows[1]):
            return f"{file}: {len(rows[0])} epochs there, {len(rows[1])}"
        for epoch, (one, new) in enumerate(zip(*rows, strict=True), 1):
            for key in one.keys() | new.keys():
                if one.get(key) != new.get(key):
                    values = f"{one.get(key)} there, {new.get(key)}"
                    return f"{file}: epoch {epoch}: {key}: {values}"
    sums = [(each.result or {}).get("weights_sha256") for each in (other, content)]
    return "" if sums[0] == sums[1] else "result.json: weights_sha256"


def _take_up(moves: Sequence[tuple[Path, Path]]) -> None:
    """Move all files and folders into place, or none."""
    moved: list[tuple[Path, Path]] = []
    try:
        for origin, place in moves:
            place.parent.mkdir(parents=True, exist_ok=True)
            origin.rename(place)
            moved.append((origin, place))
    except OSError as error:
        for origin, place in moved:
            place.rename(origin)
        raise RecordError(f"nothing is taken up: {first_line(error)}") from error


if __name__ == "__main__":
    run_command(main)
