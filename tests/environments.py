"""Environments of their own, in which packages are installed anew."""

import sysconfig
from pathlib import Path


def lend_bytecode(environment: Path) -> None:
    """Let it read what this environment has compiled: it would take as long as all else.

    Python looks whether bytecode is of the very source file, and compiles what is not.
    """
    ours = Path(sysconfig.get_path("purelib"))
    (theirs,) = environment.glob("lib/python*/site-packages")
    for folder in ours.rglob("__pycache__"):
        place = theirs / folder.relative_to(ours)
        if place.parent.is_dir() and not place.exists():
            place.symlink_to(folder)
