"""What the suite needs beyond the optimizers: the extra `suite` of the installation."""

import sys
from importlib.util import find_spec

HOW = "pip install 'bpgrad[suite]', or make setup in a checkout"
# What configs/solver/rivals takes from others, as it is imported: the extra `rivals`.
RIVALS = ("momo", "momsps", "prodigyopt", "pytorch_optimizer", "schedulefree", "sps_safe")


def _missing(user: str, *modules: str) -> str | None:
    """The line for what `user` needs of `modules` and is not installed; None if all are there."""
    absent = [module for module in modules if find_spec(module) is None]
    return f"{user} needs {', '.join(absent)}: {HOW}" if absent else None


def require(user: str, *modules: str) -> None:
    """Raise ModuleNotFoundError, with the line that says what to install, if a module is absent."""
    if line := _missing(user, *modules):
        raise ModuleNotFoundError(line)


def exit_without(user: str, *modules: str) -> None:
    """End a command, with that line on stderr and exit code 2, if a module is absent."""
    if line := _missing(user, *modules):
        print(f"error: {line}", file=sys.stderr)
        sys.exit(2)
