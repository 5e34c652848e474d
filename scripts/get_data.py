"""Say which data sets are there, download those that have a public source, verify every file.

    python scripts/get_data.py                                      the list, with the state of each
    python scripts/get_data.py mnist cifar10 [--data-root DIR]      get them
    python scripts/get_data.py imagenet --from DIR                  unpack its official archives

Files that are there and whole are kept. Exit code 2 and one line on stderr if anything fails.
"""

import argparse
import os
import sys
from pathlib import Path

from bpgrad.startup import begin

if __name__ == "__main__":
    begin()

from bpgrad.data import digits, ilsvrc
from bpgrad.data.sources import SOURCES
from bpgrad.errors import DataError
from bpgrad.training.cli import run_command


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="List, download and verify data sets.")
    parser.add_argument(
        "name",
        nargs="*",
        type=_source_name,
        metavar="NAME",
        help=f"data sets to get: {', '.join(SOURCES)} (default: list all)",
    )
    parser.add_argument(
        "--data-root",
        type=Path,
        default=Path(os.environ.get("BPGRAD_DATA", "data")),
        help="folder that holds the data sets (default: $BPGRAD_DATA, or ./data)",
    )
    parser.add_argument(
        "--from",
        type=Path,
        dest="archives",
        metavar="DIR",
        help="folder of the three archives of ILSVRC 2012, to unpack imagenet from, in about "
        "an hour; it goes on where it was cut",
    )
    options = parser.parse_args(arguments)
    if options.archives is not None and options.name != ["imagenet"]:
        parser.error("--from: goes with imagenet alone")
    for name in options.name:
        try:
            if options.archives is not None:
                ilsvrc.prepare(options.data_root, options.archives, ilsvrc.OFFICIAL)
            else:
                SOURCES[name].download(options.data_root)
        except DataError as error:
            print(error, file=sys.stderr)
            return error.exit_code
        print(f"{name}: complete in {options.data_root / SOURCES[name].folder}")
    if options.name:
        return 0
    lines = states(options.data_root)
    print("\n".join(lines), flush=True)
    return DataError.exit_code if any(line.split()[1] == "damaged" for line in lines) else 0


def _source_name(text: str) -> str:
    if text not in SOURCES:
        choices = ", ".join(map(repr, SOURCES))
        raise argparse.ArgumentTypeError(f"{text!r} is no data set (choose from {choices})")
    return text


def states(data_root: Path) -> list[str]:
    """A line a data set: whether it is there and whole, or how to get it."""
    lines = []
    try:
        digits.load()
        lines.append(_line("digits", "complete", "comes with scikit-learn"))
    except DataError as error:
        lines.append(_line("digits", "damaged", str(error)))
    for name, source in SOURCES.items():
        place = data_root / source.folder
        if source.is_absent(data_root):
            lines.append(_line(name, "missing", f"{place}  ({source.how})"))
            continue
        try:
            source.verify(data_root)
            lines.append(_line(name, "complete", str(place)))
        except DataError as error:
            lines.append(_line(name, "damaged", str(error)))
    return lines


def _line(name: str, state: str, rest: str) -> str:
    return f"{name:<25} {state:<9} {rest}"


if __name__ == "__main__":
    run_command(lambda: sys.exit(main()))
