"""How commands end: errors as one line on stderr, the exit code, tracebacks only when asked for."""

import difflib
import os
import re
import select
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

from bpgrad.errors import BPGradError, ConfigError
from bpgrad.startup import EXIT_CODE, open_streams
from bpgrad.training.signatures import unknown

FORMAT = warnings.formatwarning  # Python's own


def run_command(command: Callable[[], object]) -> NoReturn:
    """Run a command and exit: 0, or the code of its error after one line that says what to do.

    With BPGRAD_DEBUG=1 in the environment errors keep their traceback.
    """
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # let Hydra raise instead of printing
    open_streams()
    warnings.formatwarning = FORMAT if os.environ.get("BPGRAD_DEBUG") == "1" else _in_a_line
    interrupts: list[int] = []
    _on_interrupt(lambda number, _: _interrupt(interrupts, number))
    try:
        command()
        sys.stdout.flush()
    except BrokenPipeError:
        if not _stdout_is_closed():
            raise
        sys.exit(128 + signal.SIGPIPE)  # its reader, as head(1), has enough
    except _told_in_a_line() as error:
        code = EXIT_CODE if isinstance(error, KeyboardInterrupt) else 2
        _end(_wrong_choice(error) or error, code, error)
    except Exception as error:
        if _is_of_composing(error):
            in_words = ConfigError(f"{error}; a group's choice is a name, as in solver=adam")
            _end(_wrong_choice(error) or in_words, 2, error)
        if not interrupts:
            raise
        # A Ctrl-C in the middle of an import or of a destructor comes out as anything.
        _end(KeyboardInterrupt(), EXIT_CODE, error)
    sys.exit(0)


def _in_a_line(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,
) -> str:
    """A warning for the user, as errors are told; one for developers with the place in the code."""
    if issubclass(category, UserWarning):
        return f"warning: {' '.join(str(message).split())}\n"
    return FORMAT(message, category, filename, lineno, line)


def _told_in_a_line() -> tuple[type[BaseException], ...]:
    from hydra.errors import HydraException  # takes a second, which most commands end without
    from omegaconf.errors import OmegaConfBaseException

    return BPGradError, HydraException, OmegaConfBaseException, KeyboardInterrupt


def _wrong_choice(error: BaseException) -> ConfigError | None:
    """What Hydra, which has failed, could not say of a group's choice on the command line."""
    if isinstance(error, BPGradError | KeyboardInterrupt):
        return None
    from hydra.errors import HydraException

    from bpgrad.training.composition import check_choices
    from bpgrad.training.config import CONFIG_DIR

    try:
        check_choices(CONFIG_DIR, sys.argv[1:])
    except ConfigError as found:
        return found
    except HydraException:  # it has said what it cannot parse
        pass
    return None


def _is_of_composing(error: Exception) -> bool:
    """Whether Hydra, in composing, came upon a choice that it does not expect, as solver=null."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    places = ("hydra._internal.defaults_list", "hydra._internal.config_", "hydra.core.default_")
    return str(frame.f_globals.get("__name__")).startswith(places)


def _interrupt(interrupts: list[int], number: int) -> None:
    interrupts.append(number)
    sys.unraisablehook = lambda _: None  # where it cannot be raised, the next one will
    raise KeyboardInterrupt


def _on_interrupt(handler: Callable[[int, FrameType | None], object] | signal.Handlers) -> None:
    """Handle Ctrl-C from here on, unless this process was told to ignore it."""
    main = threading.current_thread() is threading.main_thread()
    if main and signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, handler)


def _end(error: BaseException, code: int, cause: BaseException | None = None) -> NoReturn:
    if os.environ.get("BPGRAD_DEBUG") == "1":
        raise cause or error
    _on_interrupt(signal.SIG_IGN)  # it has been heard; a further one would say so again
    fail(one_line(error), getattr(error, "exit_code", code))


def _stdout_is_closed() -> bool:
    """Whether nobody reads what is printed; if so, it goes nowhere from here on."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    if not any(event & select.POLLERR for _, event in poll.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


def tell(message: str) -> None:
    """Print an error as one line on stderr; of the processes of a torchrun, the first here does."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(f"error: {message}", file=sys.stderr, flush=True)
    else:
        time.sleep(1)  # torchrun ends all when one has ended: let the first say why


def fail(message: str, code: int = 2) -> NoReturn:
    """Print one line on stderr and exit."""
    tell(message)
    sys.exit(code)


def one_line(error: BaseException) -> str:
    """An error's message as one line; Hydra's with the valid choices."""
    from hydra.errors import MissingConfigException
    from omegaconf.errors import OmegaConfBaseException

    text, cause = str(error), error.__cause__
    if isinstance(error, KeyboardInterrupt):
        return text or "interrupted"
    if isinstance(error, MissingConfigException):
        group, _, choice = (error.missing_cfg_file or "").rpartition("/")
        if group == "hydra/launcher":
            return "launcher=slurm: needs the plugin, pip install hydra-submitit-launcher"
        return unknown(f"{group}={choice}", sorted(error.options or []), f"{group}=")
    if isinstance(cause, OmegaConfBaseException) and cause.full_key:
        if text.startswith("Could not override") and cause.parent_node is not None:
            prefix = cause.full_key.rpartition(".")[0]
            prefix = f"{prefix}." if prefix else ""
            return _unknown_key(cause.full_key, cause.parent_node, prefix)
        return f"{cause.full_key}: {str(cause).splitlines()[0]}"
    if "Could not override" in text and "No match in the defaults list" in text:
        return text.splitlines()[0]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    lines = [line for line in lines if not re.match(r"See https|Config search path", line)]
    return "; ".join(lines) or type(error).__name__


def _unknown_key(key: str, parent: Any, prefix: str) -> str:
    """As `unknown`; where only a group has such a key, as `lr`, it is proposed."""
    from omegaconf import DictConfig

    choices = sorted(map(str, parent))
    nested = {
        name: f"{group}.{name}"
        for group in choices
        if not prefix and isinstance(parent._get_node(group), DictConfig)
        for name in map(str, parent._get_node(group))
    }
    if not difflib.get_close_matches(key, choices, n=1):
        for name in difflib.get_close_matches(key, nested, n=1):
            return f"unknown {key}: did you mean {nested[name]}? choices: {', '.join(choices)}"
    return unknown(key, choices, prefix)
