"""Reproduce a table or figure: python -m experiments NAME (see --help)."""

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console

from bpgrad.errors import BPGradError, ConfigError
from bpgrad.training.cli import run_command
from experiments import declaration
from experiments.declaration import Experiment, Study

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
    options.call(options)


# Each command imports what it needs: Hydra and torch take seconds to start.


def list_all(options: argparse.Namespace) -> None:
    """Print a line an experiment."""
    for declared in declaration.load_all():
        count = "" if isinstance(declared, Study) else len(list(declared.runs()))
        size = f"{count:>3} runs" if count else "study"
        source = declared.paper or "not in the paper"
        print(f"{declared.name:<18} {size:<8}  {declared.title} ({source})")


def status(options: argparse.Namespace) -> None:
    """Print how far each experiment has come."""
    from experiments import runner, studies

    for declared in declaration.load_all():
        if isinstance(declared, Study):
            done = "recorded" if studies.place_of(declared).recorded else "not run"
            print(f"{declared.name:<18} study {done}  {declared.title}")
        else:
            for line in runner.status(declared):
                print(line)


def verdict(options: argparse.Namespace) -> None:
    """Print the paper's claims, and which of them hold."""
    from experiments import report

    report.show_verdicts(Console())


def rebuild(options: argparse.Namespace) -> None:
    """Rebuild the report."""
    from experiments import report

    print(report.rebuild())


def reproduce(options: argparse.Namespace) -> None:
    """Do what is missing of an experiment or study, then show it."""
    declared = declaration.load(declaration.FOLDER / f"{options.name}.yaml")
    if isinstance(declared, Study):
        _reproduce_study(declared, options)
    else:
        _reproduce_experiment(declared, options)


def _reproduce_experiment(experiment: Experiment, options: argparse.Namespace) -> None:
    from experiments import runner

    plan = runner.prepare(experiment, options.seeds, options.scale, options.set)
    failed = 0 if options.show else runner.execute(plan)
    runner.report(plan)
    if failed:
        raise BPGradError(
            f"{failed} of {len(plan.runs)} runs failed; once that is mended, the same command "
            "does them again"
        )


def _reproduce_study(study: Study, options: argparse.Namespace) -> None:
    from experiments import studies

    if options.scale != "paper":
        raise ConfigError(f"--scale {options.scale}: {study.name} is a study, which has one size")
    place = studies.place_of(study, options.set)
    if not options.show:
        studies.run(study, place, options.seeds, options.set)
    print(studies.show(study, place).strip())
    print(f"\nrecords {place.folder}\ntables  {place.tables}\nfigures {place.figures}", flush=True)


COMMANDS = {
    "list": (list_all, "the experiments"),
    "status": (status, "how far each of them has come"),
    "verdict": (verdict, "the paper's claims, and which of them hold"),
    "report": (rebuild, "all tables and figures again, from the records"),
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m experiments",
        description=DESCRIPTION,
        epilog=f"experiments and studies: {', '.join(declaration.names())}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="NAME", required=True, help="an experiment, or")
    for name, (call, text) in COMMANDS.items():
        commands.add_parser(name, help=text).set_defaults(call=call)
    options = _options()
    for name in declaration.names():
        experiment = commands.add_parser(name, parents=[options])
        experiment.set_defaults(call=reproduce, name=name)
    return parser


def _options() -> argparse.ArgumentParser:
    """The options of all experiments."""
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument(
        "--seeds", type=_seeds, default=(), metavar="0,1,2", help="instead of the seeds declared"
    )
    options.add_argument(
        "--scale",
        choices=["smoke", "reduced", "paper"],
        default="paper",
        help="smoke and reduced are stored under names of their own (default: paper)",
    )
    options.add_argument(
        "--show", action="store_true", help="train nothing, show what is recorded so far"
    )
    options.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="for all runs, as for run.py: data_root=..., threads=..., results_root=... (tables "
        "and figures go beside that folder); what changes a number shows in name and title",
    )
    return options


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
