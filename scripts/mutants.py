"""Do the tests notice? Small faults, one at a time, in what decides verdicts and bounds.

    python scripts/mutants.py [--sample N] [--seed S] [GROUP ...]

A fault is a sign, a factor for a quotient, < for ≤, "and" for "or", a number plus 1, a truth for
its opposite, min for max. Each is put into a copy of the repository, where the tests of its group
run until the first that fails; a fault with which they run longer than a minute and four times what
they take without one counts as found. Prints the faults that no test finds, and the share found.
Not part of CI: all of them take hours, a sample minutes. Needs a system that can fork.
"""

import argparse
import ast
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

# What the tests import, once for all of them; nothing of the repository.
import hydra  # noqa: F401
import hypothesis
import matplotlib.figure  # noqa: F401
import pandas  # noqa: F401
import pytest
import scipy.stats  # noqa: F401
import torch

ROOT = Path(__file__).parents[1]
INFERENCE, CLAIMS, PRUNE = "bpgrad/reporting/inference", "experiments/claims", "bpgrad/branch_prune"
#: Of each group the files, and the tests that are to notice.
GROUPS = {
    "statistics": ([f"{INFERENCE}/statistics.py"], ["tests/reporting/inference"]),
    "verdicts": (
        [f"{INFERENCE}/verdicts.py", f"{INFERENCE}/graded.py"],
        ["tests/reporting/inference/test_verdicts.py", "tests/reporting/inference/test_graded.py"],
    ),
    "first": ([CLAIMS], ["tests/experiments/test_claims.py"]),
    "second": ([f"{CLAIMS}/second"], ["tests/experiments/test_second_rules.py"]),
    "bounds": (
        [f"{PRUNE}/intervals.py", f"{PRUNE}/search.py"],
        ["tests/branch_prune/test_bounds.py", "tests/branch_prune/test_minimize.py"],
    ),
}
OPERATORS = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.UAdd: ast.USub,
}
NAMES = {"min": "max", "max": "min", "any": "all", "all": "any", "sf": "cdf"}


def mutants(tree: ast.Module) -> Iterator[tuple[int, str, ast.Module]]:
    """Every fault: its line, what it is, and the tree with it."""
    # That a dataclass is frozen, or that two lists must be of one length, decides nothing.
    harmless = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.keyword) and node.arg in ("frozen", "strict")
    }
    for k, node in enumerate(ast.walk(tree)):
        if id(node) in harmless:
            continue
        for words, change in _changes(node):
            copy = deepcopy(tree)
            twin = next(n for j, n in enumerate(ast.walk(copy)) if j == k)
            change(twin)
            yield getattr(node, "lineno", 0), words, copy


def _changes(node: ast.AST) -> Iterator[tuple[str, Callable[[Any], object]]]:
    if isinstance(node, ast.BinOp | ast.BoolOp) and type(node.op) in OPERATORS:
        other = OPERATORS[type(node.op)]
        yield f"{_name(node.op)} → {other.__name__}", lambda n: setattr(n, "op", other())
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield "−x → +x", lambda n: setattr(n, "op", ast.UAdd())
    elif isinstance(node, ast.Compare) and type(node.ops[0]) in OPERATORS:
        other = OPERATORS[type(node.ops[0])]
        words = f"{_name(node.ops[0])} → {other.__name__}"
        yield words, lambda n: n.ops.__setitem__(0, other())
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield f"{node.value} → {not node.value}", lambda n: setattr(n, "value", not n.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        yield f"{node.value} → {node.value + 1}", lambda n: setattr(n, "value", n.value + 1)
    elif isinstance(node, ast.Name) and node.id in NAMES:
        yield f"{node.id} → {NAMES[node.id]}", lambda n: setattr(n, "id", NAMES[n.id])
    elif isinstance(node, ast.Attribute) and node.attr in NAMES:
        yield f".{node.attr} → .{NAMES[node.attr]}", lambda n: setattr(n, "attr", NAMES[n.attr])


def _name(op: ast.AST) -> str:
    return type(op).__name__


def notices(folder: Path, tests: list[str], limit: float) -> bool:
    """Whether one of the tests fails, or they run too long; in a fork, which has torch already."""
    child = os.fork()
    if child == 0:
        os.chdir(folder)
        sys.path.insert(0, str(folder))
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        hypothesis.settings.register_profile(
            "mutants", deadline=None, derandomize=True, phases=(hypothesis.Phase.generate,)
        )
        hypothesis.settings.load_profile("mutants")
        arguments = ["-x", "-q", "-p", "no:cacheprovider", "-m", "not slow", *tests]
        os._exit(int(pytest.main(arguments) != 0))
    end = time.monotonic() + limit
    while time.monotonic() < end:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status != 0
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def main() -> None:
    """Put in the faults, and say which were found."""
    sys.dont_write_bytecode = True
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=", ".join(GROUPS))
    parser.add_argument("--sample", type=int, metavar="N", help="N of each group's faults")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    options = parser.parse_args()
    if unknown := set(options.groups) - set(GROUPS):
        parser.error(f"no group {', '.join(sorted(unknown))}; there are {', '.join(GROUPS)}")
    totals = [0, 0]
    for name in options.groups or GROUPS:
        found, count = _group(name, options.sample, options.seed)
        totals = [totals[0] + found, totals[1] + count]
        print(f"{name}: {found} of {count} found", flush=True)
    print(f"{totals[0]} of {totals[1]} found: {totals[0] / max(1, totals[1]):.0%}")


def _no_source(folder: str, names: list[str]) -> set[str]:
    large = {".git", ".venv", "results", "checkpoints", "data"}
    return large & set(names) if Path(folder) == ROOT else {"__pycache__"}


def _group(name: str, sample: int | None, seed: int) -> tuple[int, int]:
    places, tests = GROUPS[name]
    with tempfile.TemporaryDirectory(prefix="bpgrad-mutants-") as scratch:
        folder = Path(scratch) / "repository"
        shutil.copytree(ROOT, folder, ignore=_no_source)
        start = time.monotonic()
        if notices(folder, tests, 3600.0):
            sys.exit(f"{name}: the tests fail without any fault")
        limit = 60.0 + 4 * (time.monotonic() - start)
        paths = [
            path
            for place in places
            for path in (
                [folder / place] if place.endswith(".py") else folder.glob(f"{place}/*.py")
            )
        ]
        faults = [
            (path, *fault)
            for path in sorted(paths)
            for fault in mutants(ast.parse(path.read_text(encoding="utf-8")))
        ]
        if sample is not None and sample < len(faults):
            faults = random.Random(seed).sample(faults, sample)
        found = 0
        for path, line, words, tree in faults:
            text = path.read_text(encoding="utf-8")
            path.write_text(ast.unparse(ast.fix_missing_locations(tree)), encoding="utf-8")
            noticed = notices(folder, tests, limit)
            path.write_text(text, encoding="utf-8")
            found += noticed
            if not noticed:
                print(f"not found: {path.relative_to(folder)}:{line}: {words}", flush=True)
        return found, len(faults)


if __name__ == "__main__":
    main()
