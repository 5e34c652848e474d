"""The command line of a suite: python -m experiments NAME (see --help)."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bpgrad.errors import BPGradError, ConfigError
from bpgrad.training.signatures import unknown
from experiments.engine import declaration
from experiments.engine.declaration import Experiment, Study
from experiments.engine.suite import Suite

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
  python -m experiments figure7 --dry-run        what it would run, and how long that takes
  python -m experiments figure7 --show           what is recorded so far
  python -m experiments figure7 --scale smoke    the same code path in a minute; no results
  python -m experiments figure7 --add my.yaml    with a solver of your own beside the others
  python -m experiments explain figure7 Adam val_top1_error    where a number comes from
  python -m experiments diff RUN_A RUN_B         the first iteration where two runs part
"""


def main(suite: Suite, arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and do what it says."""
    # A terminal that cannot show μ or ± is no reason to fail.
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    given = sys.argv[1:] if arguments is None else arguments
    names = [*COMMANDS, "diff", "explain", *declaration.names(suite.folder)]
    if given and not given[0].startswith("-") and given[0] not in names:
        raise ConfigError(unknown(given[0], names))
    options = parser(suite.folder).parse_args(arguments)
    options.call(suite, options)


# Each command imports what it needs: Hydra and torch take seconds to start.


def list_all(suite: Suite, options: argparse.Namespace) -> None:
    """Print a line an experiment."""
    for declared in declaration.load_all(suite.folder):
        count = "" if isinstance(declared, Study) else len(list(declared.runs()))
        size = f"{count:>3} runs" if count else "study"
        source = declared.paper or "not in the paper"
        print(f"{declared.name:<18} {size:<8}  {declared.title} ({source})")


def status(suite: Suite, options: argparse.Namespace) -> None:
    """Print how far each experiment has come."""
    from experiments.engine import runner, studies

    for declared in declaration.load_all(suite.folder):
        if isinstance(declared, Study):
            done = "recorded" if studies.place_of(declared).recorded else "not run"
            print(f"{declared.name:<18} study {done}  {declared.title}")
        else:
            for line in runner.status(declared):
                print(line)


def verdict(suite: Suite, options: argparse.Namespace) -> None:
    """Print the paper's claims, and which of them hold."""
    from rich.console import Console

    from experiments.engine import report

    report.show_verdicts(suite, Console(), options.verbose)


def rebuild(suite: Suite, options: argparse.Namespace) -> None:
    """Rebuild the report."""
    from experiments.engine import report

    print(report.rebuild(suite))


def reproduce(suite: Suite, options: argparse.Namespace) -> None:
    """Do what is missing of an experiment or study, then show it."""
    declared, options.scale = declaration.at_scale(suite.folder, options.name, options.scale)
    if isinstance(declared, Study):
        _reproduce_study(suite, declared, options)
    elif options.add or any(value is not None for value in _tuning(options).values()):
        _reproduce_with_own(suite, declared, options)
    else:
        _reproduce_experiment(suite, declared, options)


def _tuning(options: argparse.Namespace) -> dict[str, int | bool | None]:
    """The options that are about tuning; None where not given."""
    return {
        "trials": options.tune,
        "everyone": options.tune_all or None,
        "epochs": options.tune_epochs,
    }


def _reproduce_with_own(suite: Suite, experiment: Experiment, options: argparse.Namespace) -> None:
    from experiments.engine import own_comparison

    tune = None
    if given := {key: value for key, value in _tuning(options).items() if value is not None}:
        if "trials" not in given:
            raise ConfigError("--tune-all and --tune-epochs: how many trials? add --tune N")
        tune = own_comparison.Tuning(**given)  # type: ignore[arg-type]
    own_comparison.reproduce(
        experiment,
        options.add,
        tune,
        suite.paper_values,
        seeds=options.seeds,
        scale=options.scale,
        overrides=options.set,
        train=not options.show,
        jobs=options.jobs,
        dry_run=options.dry_run,
    )


def _reproduce_experiment(
    suite: Suite, experiment: Experiment, options: argparse.Namespace
) -> None:
    from experiments.engine import runner

    if options.dry_run and experiment.needs:
        count = len(list(experiment.runs(options.seeds)))
        print(f"{experiment.name}: none of {count} runs can start; it needs {experiment.needs}")
        return
    plan = runner.prepare(experiment, options.seeds, options.scale, options.set)
    if options.dry_run:
        from experiments.engine import forecast

        print("\n".join(forecast.lines(plan.name, plan.runs, options.jobs)))
        if experiment.takes:
            print(f"it takes {experiment.takes}")
        return
    brief = not (plan.declared.report or options.verbose)
    failed = 0 if options.show else runner.execute(plan, options.jobs, brief=brief)
    runner.report(plan, suite.paper_values, options.picture)
    if failed:
        raise BPGradError(
            f"{failed} of {len(plan.runs)} runs failed; once that is mended, the same command "
            "does them again"
        )


def _reproduce_study(suite: Suite, study: Study, options: argparse.Namespace) -> None:
    from experiments.engine import studies

    if options.add or any(value is not None for value in _tuning(options).values()):
        raise ConfigError(f"--add and --tune: {study.name} is a study, not a comparison of solvers")
    if options.scale != "paper":
        raise ConfigError(f"--scale {options.scale}: {study.name} is a study, which has one size")
    declaration.refuse_overrides(options.set, declaration.DECLARED, "--set")
    place = studies.place_of(study, options.set, compute=bool(options.seeds))
    asked = suite.studies, study, place, options.seeds, options.set, options.jobs
    if options.dry_run:
        print("\n".join(studies.missing(*asked)))
        return
    if not options.show:
        studies.run(*asked)
    print(studies.show(suite.studies, study, place).strip())
    print(f"\nrecords {place.folder}\ntables  {place.tables}\nfigures {place.figures}", flush=True)


def diff_runs(suite: Suite, options: argparse.Namespace) -> None:
    """Print what two runs differ in; exit 1 if a recorded number does."""
    from bpgrad.training.config import Config
    from experiments.engine import diff

    roots = (
        Path(options.results_root or Config.results_root),
        Path(options.checkpoint_root or Config.checkpoint_root),
    )
    runs = [diff.find(text, *roots) for text in (options.run_a, options.run_b)]
    lines, same = diff.compare(*runs)
    print("\n".join(lines), flush=True)
    if not same:
        sys.exit(1)


def explain_number(suite: Suite, options: argparse.Namespace) -> None:
    """Print what a number of a table was made of; exit 1 if the records give another one."""
    from experiments.engine import explain

    table, runs = explain.planned(
        suite.folder, options.name, options.seeds, options.scale, options.set
    )
    explain.explain(table, runs, options.solver, options.metric, options.task)


COMMANDS = {
    "list": (list_all, "the experiments"),
    "status": (status, "how far each of them has come"),
    "verdict": (verdict, "the paper's claims, and which of them hold"),
    "report": (rebuild, "all tables and figures again, from the records"),
}


def parser(folder: Path) -> argparse.ArgumentParser:
    """The parser; the experiments and studies declared in `folder` are commands."""
    names = declaration.names(folder)
    parser = argparse.ArgumentParser(
        prog="python -m experiments",
        description=DESCRIPTION,
        epilog=f"experiments and studies: {', '.join(names)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="NAME", required=True, help="an experiment, or")
    for name, (call, text) in COMMANDS.items():
        command = commands.add_parser(name, help=text)
        command.set_defaults(call=call)
        if name == "verdict":
            command.add_argument("-v", "--verbose", action="store_true", help="say why")
    options = _options()
    _add_diff(commands)
    _add_explain(commands, options)
    options = _own_options(options)
    for name in names:
        experiment = commands.add_parser(name, parents=[options])
        experiment.set_defaults(call=reproduce, name=name)
    return parser


def _add_diff(commands: Any) -> None:
    parser = commands.add_parser(
        "diff",
        help="the first iteration where two runs part",
        description="Exit status: 0 if all numbers that both runs have recorded are the same, 1 if "
        "not, 2 in trouble.",
    )
    for name in ("run_a", "run_b"):
        parser.add_argument(
            name, help="its directory, its name, or the beginning of its name or hash"
        )
    parser.add_argument("--results-root", metavar="FOLDER")
    parser.add_argument("--checkpoint-root", metavar="FOLDER")
    parser.set_defaults(call=diff_runs)


def _add_explain(commands: Any, options: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "explain",
        parents=[options],
        help="where a number of a table comes from, computed again",
        description="Exit status: 0 if the records give the table's number, 1 if they give another "
        "one, 2 in trouble.",
    )
    parser.add_argument("name", help="an experiment, or a table's file without its suffix")
    parser.add_argument("solver", help="as the table calls it; a part that is unique is enough")
    parser.add_argument("metric", help="a column of the table's CSV, or the paper's name of it")
    parser.add_argument("--task", default="", help="if the experiment has several")
    parser.set_defaults(call=explain_number)


def _own_options(parent: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The options of all experiments, and those on solvers of one's own and tuning."""
    options = argparse.ArgumentParser(add_help=False, parents=[parent])
    instead = options.add_mutually_exclusive_group()
    instead.add_argument(
        "--show", action="store_true", help="train nothing, show what is recorded so far"
    )
    instead.add_argument(
        "--dry-run",
        action="store_true",
        help="train nothing, say what would run and how long it will take",
    )
    options.add_argument(
        "--jobs",
        type=_jobs,
        default=1,
        metavar="N",
        help="runs side by side, each with its share of the cores, or on a GPU in one process, "
        "where auto finds how many are fastest (default: 1; on one CPU more gain little)",
    )
    options.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        help="a line an epoch, also of quickstart, which prints one a run",
    )
    options.add_argument(
        "--picture", type=Path, metavar="FOLDER", help="write the figure there too, with its data"
    )
    own = options.add_argument_group("a solver of your own (docs/bring-your-own.md)")
    own.add_argument(
        "--add",
        type=Path,
        action="append",
        default=[],
        metavar="MY_SOLVER.yaml",
        help="compare this solver too; may be given more than once",
    )
    own.add_argument(
        "--tune",
        type=_trials,
        metavar="N",
        help="choose the settings of the solvers added from N configurations, on held-out training "
        "examples",
    )
    own.add_argument("--tune-all", action="store_true", help="those of all solvers, N each")
    own.add_argument(
        "--tune-epochs",
        type=_positive,
        metavar="EPOCHS",
        help="of each configuration (default: a fifth of the task's)",
    )
    return options


def _trials(text: str) -> int:
    if not text.isdecimal() or int(text) < 2:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a whole number from 2 on")
    return int(text)


def _jobs(text: str) -> int:
    return 0 if text == "auto" else _positive(text)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a whole number from 1 on")
    return int(text)


def _options() -> argparse.ArgumentParser:
    """The options that say which runs are meant."""
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument(
        "--seeds", type=_seeds, default=(), metavar="0,1,2", help="instead of the seeds declared"
    )
    options.add_argument(
        "--scale",
        choices=["smoke", "reduced", "paper"],
        help="smoke and reduced are stored under names of their own (default: as declared)",
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
