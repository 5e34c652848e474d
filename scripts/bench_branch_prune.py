"""What a sample of Algorithm 1 costs as samples pile up, in two dimensions.

One search goes to 10⁵ samples on a smooth function whose gap it cannot close with them. Measured is
the processor time of the search, without that of the function, between marks in the number of
samples: it contains everything, the coverings and the new start of the boundary after each new
minimum too. The growth is the exponent b of cost ∝ samples^b between two marks; 1 is linear.

Prints the table and writes it, with machine and versions, to results/bench/branch_prune.json and
results/bench/branch_prune.md, and into docs/branch_prune.md.
"""

import argparse
import json
import math
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import OptimizeResult

from bpgrad.branch_prune import minimize
from bpgrad.errors import BPGradError
from bpgrad.records.files import replace_between, write_text
from bpgrad.records.provenance import describe_computation
from bpgrad.training.cli import run_command

DOCS = Path(__file__).parents[1] / "docs" / "branch_prune.md"
MARKS = ("<!-- results/bench/branch_prune.md -->\n", "<!-- end -->\n")  # around the table
SAMPLES = (100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000)
BOUNDS = [(-3.0, 3.0), (-3.0, 3.0)]
LIPSCHITZ = 0.9  # sup ‖∇f‖: of (3c₃c₂, −2s₃s₂) · 0.3 the norm is at most 0.3 · 3
EPS = 1e-4  # not reached with that many samples

Array = NDArray[np.float64]


def f(x: Array) -> float:
    """2 + 0.3 sin 3x_1 cos 2x_2."""
    return 2.0 + 0.3 * math.sin(3.0 * x[0]) * math.cos(2.0 * x[1])


def gradient(x: Array) -> Array:
    a, b = 3.0 * x[0], 2.0 * x[1]
    return 0.3 * np.array([3 * math.cos(a) * math.cos(b), -2 * math.sin(a) * math.sin(b)])


def bench(most: int) -> list[dict[str, Any]]:
    """Processor milliseconds a sample between the marks."""
    marks = [n for n in SAMPLES if n <= most]
    times: dict[int, float] = {0: time.process_time()}

    def note(state: OptimizeResult) -> None:
        if state.nfev in marks:
            times[state.nfev] = time.process_time()
            print(f"{state.nfev} samples, gap {state.gap:.3g}", flush=True)

    minimize(f, gradient, BOUNDS, LIPSCHITZ, eps=EPS, max_evals=marks[-1], callback=note)
    begin = time.process_time()
    for _ in range(1000):
        f(np.zeros(2))
        gradient(np.zeros(2))
    own = (time.process_time() - begin) / 1000
    rows: list[dict[str, Any]] = []
    reached = sorted(times)
    if reached[-1] < marks[-1]:
        raise BPGradError(f"the search ended before {marks[-1]} samples; lower EPS in the script")
    for a, b in pairwise(reached):
        cost = 1e3 * ((times[b] - times[a]) / (b - a) - own)
        row = {"samples": b, "milliseconds": round(cost, 3)}
        if rows:
            middle = (a + b) / (a + rows[-1]["from"])
            row["growth"] = round(math.log(cost / rows[-1]["milliseconds"]) / math.log(middle), 2)
        rows.append(row | {"from": a})
    return rows


def as_markdown(report: dict[str, Any]) -> str:
    """The table as it stands in the docs."""
    machine, versions = report["start"]["machine"], report["start"]["versions"]
    lines = [
        f"{machine['cpu']}, one thread, numpy {versions['numpy']}; processor time.",
        "",
        "| samples | ms a sample | exponent of the growth |",
        "|---:|---:|---:|",
    ]
    for row in report["rows"]:
        growth = f"{row['growth']:.2f}" if "growth" in row else ""
        lines.append(
            f"| {row['from']:,} to {row['samples']:,} | {row['milliseconds']:.3g} | {growth} |"
        )
    first, last = report["rows"][0], report["rows"][-1]
    ratio = last["milliseconds"] / first["milliseconds"]
    lines += ["", f"A sample of the last row costs {ratio:.3g} times one of the first."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--samples", type=int, default=SAMPLES[-1], help="where to end")
    parser.add_argument("--output", type=Path, help="elsewhere than results/bench and the docs")
    arguments = parser.parse_args()
    if arguments.samples < SAMPLES[0]:
        parser.error(f"--samples must be at least {SAMPLES[0]}")
    report = {"start": describe_computation(), "rows": bench(arguments.samples)}
    text = as_markdown(report)
    output = arguments.output or DOCS.parents[1] / "results" / "bench" / "branch_prune"
    write_text(output.with_suffix(".json"), json.dumps(report, indent=2) + "\n")
    write_text(output.with_suffix(".md"), text)
    if arguments.output is None and DOCS.exists():
        write_text(DOCS, replace_between(DOCS.read_text(), MARKS, text))
    print(text)


if __name__ == "__main__":
    run_command(main)
