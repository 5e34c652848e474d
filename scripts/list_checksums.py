"""List the sha256 of the files of records without checksums: python scripts/list_checksums.py

Records that are older than the checksums in result.json get lines in results/runs/checksums.csv,
by which a changed byte in one of their files is noticed. Every record is read and checked first.
Lines that are there already stay as they are: a file that has changed since is an error.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where the package is not installed

from bpgrad.records import listed, reading
from bpgrad.training.cli import run_command
from bpgrad.training.lookup import SUITE_RECORDS


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and do what it says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("root", nargs="?", type=Path, default=SUITE_RECORDS, metavar="results/runs")
    root = parser.parse_args(arguments).root
    print(f"{add(root)} records are new in {root / listed.LIST}")


def add(root: Path) -> int:
    """Add the finished records under `root` that have no checksums to its list; how many.

    Raises DamagedRecordError for a record that cannot be read or is not as it is listed; the list
    is then as it was.
    """
    sums, new = dict(listed.read(root)), 0
    for result in sorted(root.glob("*/*/*/result.json")):
        record = result.parent.relative_to(root).as_posix()
        reading.read(result.parent)  # what is listed is compared here
        if reading.CHECKSUMS in json.loads(result.read_text(encoding="utf-8")) or record in sums:
            continue
        reading.read_steps(result.parent)
        sums[record] = reading.files_sha256(result.parent)
        new += 1
    if new:
        listed.write(root, sums)
    return new


if __name__ == "__main__":
    run_command(main)
