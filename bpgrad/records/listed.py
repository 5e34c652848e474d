"""The sha256 of the files of records that are older than checksums in result.json.

They stand in one file beside these records, checksums.csv: a line a file, sorted by path; the last
line is that of the list itself, of all before it. scripts/list_checksums.py writes it.
"""

import csv
import hashlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from bpgrad.errors import DamagedRecordError, RecordError
from bpgrad.records.files import write_text

LIST = "checksums.csv"
HEADER = ["path", "sha256"]


def of_record(directory: Path) -> Mapping[str, str]:
    """The sha256 of each file of a record, by its path there; none if it is not in a list.

    Raises DamagedRecordError where the list is not what was written.
    """
    directory = directory.absolute()
    if len(directory.parents) < 3:
        return {}
    return read(directory.parents[2]).get("/".join(directory.parts[-3:]), {})


def read(root: Path) -> Mapping[str, Mapping[str, str]]:
    """The list of the records under `root`, by record; none where there is no list."""
    path = root / LIST
    if not path.exists():
        return {}
    state = path.stat()
    return _read(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=8)
def _read(path: Path, *_: int) -> Mapping[str, Mapping[str, str]]:
    try:
        content = path.read_bytes()
        lines = list(csv.reader(content.decode().splitlines(), strict=True))
        if lines[0] != HEADER or content != _text([(p, s) for p, s in lines[1:-1]]).encode():
            raise ValueError
    except (OSError, ValueError, IndexError, csv.Error) as error:
        raise DamagedRecordError(f"{path} is not what was written; restore it") from error
    found: dict[str, dict[str, str]] = {}
    for name, sha256 in lines[1:-1]:
        *record, file = name.split("/", 3)
        found.setdefault("/".join(record), {})[file] = sha256
    return found


def write(root: Path, sums: Mapping[str, Mapping[str, str]]) -> None:
    """Write the list of the records under `root`."""
    pairs = [(f"{record}/{file}", its[file]) for record, its in sums.items() for file in its]
    if odd := next((name for name, _ in pairs if set(name) & set(',"\r\n')), None):
        raise RecordError(
            f"{root / odd}: a name with a comma, a quote or an end of a line; rename it"
        )
    write_text(root / LIST, _text(sorted(pairs)))


def _text(pairs: list[tuple[str, str]]) -> str:
    text = "".join(f"{name},{sha256}\n" for name, sha256 in [tuple(HEADER), *pairs])
    return f"{text}{LIST},{hashlib.sha256(text.encode()).hexdigest()}\n"
