"""Configurations that have been composed before, kept in the user's cache folder.

Hydra takes a tenth of a second a configuration, and a look at a thousand runs asks for hundreds.
What it gave stands in ``$XDG_CACHE_HOME/bpgrad`` (``~/.cache/bpgrad``) under a hash of all that it
depends on: the overrides, the contents of the files, the environment variables that they name, and
the schema. A file that is not whole counts as not there. Each state of the files has a folder; the
newest of them stay, so that several checkouts have theirs.
"""

import ast
import hashlib
import os
import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import hydra
import omegaconf

VARIABLE = re.compile(r"oc\.env:\s*(\w+)")
FOLDERS = 16
SEED = re.compile(r"seed=(0|[1-9]\d*)")


def place_of(files: Path, overrides: Sequence[str], schema: str) -> Path | None:
    """Where the configuration for some overrides, whatever their seed, is kept; None if nowhere.

    Overrides of Hydra's own settings may name other folders, whose contents are not known, and a
    choice without a file, as a solver of one's own, is in Hydra's store, which is not known either.
    """
    if any(override.lstrip("+~").startswith("hydra") for override in overrides):
        return None
    for override in overrides:
        group, _, choice = override.lstrip("+~").partition("=")
        if (files / group).is_dir() and not (files / group / f"{choice}.yaml").is_file():
            return None
    stats = tuple(
        (str(path), stat.st_mtime_ns, stat.st_size)
        for path in sorted(files.rglob("*.yaml"))
        for stat in (path.stat(),)
    )
    contents, variables = _contents(stats)
    variables |= set(VARIABLE.findall(" ".join(overrides)))
    settings = tuple(override for override in overrides if not SEED.fullmatch(override))
    asked = repr((settings, schema, sorted((name, os.environ.get(name)) for name in variables)))
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "bpgrad" / "configurations" / contents / _hash(asked)


@lru_cache(maxsize=4)
def _contents(stats: tuple[tuple[str, int, int], ...]) -> tuple[str, set[str]]:
    """A hash of the files, and of the libraries that read them; the variables that they name."""
    texts = [(name, Path(name).read_text(encoding="utf-8")) for name, _, _ in stats]
    named = {name for _, text in texts for name in VARIABLE.findall(text)}
    return _hash(repr((hydra.__version__, omegaconf.__version__, texts))), named


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def read(path: Path) -> dict[str, Any] | None:
    """What is kept, None if there is nothing or it is damaged."""
    try:
        digest, text = path.read_text(encoding="utf-8").split("\n", 1)
        found = ast.literal_eval(text) if digest == _hash(text) else None
    except (OSError, ValueError, SyntaxError):
        return None
    return found if isinstance(found, dict) else None


def write(path: Path, content: dict[str, Any]) -> None:
    """Keep plain values, if they can be read again as they are; without a word if not."""
    text = repr(content)
    with suppress(OSError, ValueError, SyntaxError):
        if ast.literal_eval(text) != content:
            return
        if not path.parent.exists():  # the files have changed, or are those of another checkout
            path.parent.mkdir(parents=True)
            _remove_old(path.parent.parent)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        partial.write_text(f"{_hash(text)}\n{text}", encoding="utf-8")
        partial.replace(path)


def _remove_old(top: Path) -> None:
    """Remove all folders but the newest; who wants one of these composes again."""
    folders = sorted(top.iterdir(), key=lambda folder: folder.stat().st_mtime_ns)
    for folder in folders[:-FOLDERS]:
        shutil.rmtree(folder, ignore_errors=True)
