"""Reproduce a table or figure: python -m experiments NAME (see --help)."""

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console

from bpgrad.errors import BPGradError
from bpgrad.training.cli import run_command
from experiments import declaration

COMMANDS = ("list", "status", "verdict", "report")
DESCRIPTION = """\
Do the runs of an experiment, then show them side by side: a table on the screen, in
results/tables/, and a figure in results/figures/. Finished runs are not repeated, cut ones are
resumed, so the same command may be given again at any time.

  python -m experiments list                     the experiments
  python -m experiments status                   how far each of them has come
  python -m experiments verdict                  the paper's claims, and which of them hold
  python -m experiments report                   all tables and figures again, from the records
  python -m experiments quickstart               all solvers on the embedded digits
  python -m experiments figure7 --seeds 0,1,2    with several seeds
  python -m experiments figure7 --show           what is recorded so far
  python -m experiments figure7 --scale smoke    the same code path in a minute; no results
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and do what it says."""
    # A terminal that cannot show μ or ± is no reason to fail.
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    options = _parser().parse_args(arguments)
    if options.name == "list":
        for name in declaration.names():
            experiment = declaration.load(declaration.FOLDER / f"{name}.yaml")
            runs, source = len(list(experiment.runs())), experiment.paper or "not in the paper"
            print(f"{name:<12} {runs:>3} runs  {experiment.title} ({source})")
        return

    from experiments import runner  # Hydra starts only now

    if options.name in ("report", "verdict"):
        from experiments import report

        if options.name == "report":
            print(report.rebuild())
        else:
            report.show_verdicts(Console())
        return
    if options.name == "status":
        for name in declaration.names():
            for line in runner.status(declaration.load(declaration.FOLDER / f"{name}.yaml")):
                print(line)
        return
    experiment = declaration.load(declaration.FOLDER / f"{options.name}.yaml")
    plan = runner.prepare(experiment, options.seeds, options.scale, options.set)
    failed = 0 if options.show else runner.execute(plan)
    runner.report(plan)
    if failed:
        raise BPGradError(
            f"{failed} of {len(plan.runs)} runs failed; once that is mended, the same command "
            "does them again"
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m experiments",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=[*COMMANDS, *declaration.names()], help="what to do")
    parser.add_argument(
        "--seeds", type=_seeds, default=(), metavar="0,1,2", help="instead of the seeds declared"
    )
    parser.add_argument(
        "--scale",
        choices=["smoke", "reduced", "paper"],
        default="paper",
        help="smoke and reduced are stored under names of their own (default: paper)",
    )
    parser.add_argument(
        "--show", action="store_true", help="train nothing, show what is recorded so far"
    )
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="for all runs, as for run.py: data_root=..., threads=..., results_root=... (tables "
        "and figures go beside that folder); what changes a number shows in name and title",
    )
    return parser


def _seeds(text: str) -> tuple[int, ...]:
    try:
        seeds = tuple(int(seed) for seed in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not like 0,1,2") from None
    if len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise argparse.ArgumentTypeError(f"{text!r}: seeds must differ and not be negative")
    return seeds


if __name__ == "__main__":
    run_command(main)
