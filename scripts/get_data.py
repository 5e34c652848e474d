"""Download the data sets that have a public source, and verify every file.

    python scripts/get_data.py mnist cifar10 [--data-root DIR]

Files that are there and whole are kept. Exit code 2 and one line on stderr if anything fails.
"""

import argparse
import os
import sys
from pathlib import Path

from bpgrad.data import cifar10, mnist
from bpgrad.errors import DataError

SOURCES = {source.name: source for source in (mnist.SOURCE, cifar10.SOURCE)}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Download and verify data sets.")
    parser.add_argument("name", nargs="+", choices=SOURCES, help="data sets to get")
    parser.add_argument(
        "--data-root",
        type=Path,
        default=Path(os.environ.get("BPGRAD_DATA", "data")),
        help="folder that holds the data sets (default: $BPGRAD_DATA, or ./data)",
    )
    options = parser.parse_args(arguments)
    for name in options.name:
        try:
            SOURCES[name].download(options.data_root)
        except DataError as error:
            print(error, file=sys.stderr)
            return error.exit_code
        print(f"{name}: complete in {options.data_root / SOURCES[name].folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
