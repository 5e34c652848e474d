"""Which signals end a run, how often they are heard, and who hears of them afterwards."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

import pytest

from bpgrad.errors import Interrupted
from bpgrad.signals import CAUGHT
from bpgrad.training.signals import SignalGuard

ROOT = Path(__file__).resolve().parents[2]
SCHEDULERS = [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2]


@pytest.fixture(autouse=True)
def handlers() -> object:
    before = {number: signal.getsignal(number) for number in CAUGHT}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SCHEDULERS)
def test_the_handler_that_was_there_is_called_after_the_run_has_stopped(
    number: signal.Signals,
) -> None:
    """As submitit's, which puts the job into the queue again."""
    said: list[object] = []

    def requeue(received: int, frame: FrameType | None) -> None:
        said.append(received)

    def run() -> None:
        with SignalGuard() as guard:
            guard.deferred = True
            os.kill(os.getpid(), number)
            assert guard.received == number
            said.append("saved")
            raise Interrupted(number)

    signal.signal(number, requeue)
    with pytest.raises(Interrupted) as caught:
        run()
    assert said == ["saved", number]
    assert caught.value.exit_code == 128 + number
    assert signal.getsignal(number) is requeue


@pytest.mark.parametrize("number", SCHEDULERS)
def test_without_one_the_exit_code_says_which(number: signal.Signals) -> None:
    signal.signal(number, signal.SIG_DFL)
    with pytest.raises(Interrupted) as caught, SignalGuard():
        os.kill(os.getpid(), number)
    assert caught.value.exit_code == 128 + number


def test_what_nohup_ignores_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with SignalGuard() as guard:
        os.kill(os.getpid(), signal.SIGHUP)
    assert guard.received is None


def test_a_second_interrupt_raises_and_a_third_is_passed_over() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def run() -> None:
        with SignalGuard() as guard:
            guard.deferred = True
            os.kill(os.getpid(), signal.SIGINT)
            try:
                os.kill(os.getpid(), signal.SIGINT)
                raise AssertionError("it did not raise")
            finally:
                for _ in range(3):
                    os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        run()


def test_another_signal_does_not_cut_the_saving() -> None:
    """Slurm and torchrun may send two."""
    with SignalGuard() as guard:
        guard.deferred = True
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)
    assert guard.received == signal.SIGUSR1


@pytest.mark.parametrize(("rank", "said"), [("0", True), (None, True), ("1", False)])
def test_that_an_iteration_is_waited_for_is_said_at_once_and_once(
    rank: str | None,
    said: bool,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    with SignalGuard() as guard:
        guard.deferred = True
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
            line = "SIGTERM: stopping after this iteration ...\n"
            assert capfd.readouterr().err == (line if said else "")
            said = False  # again


def test_what_is_cut_at_once_announces_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Interrupted), SignalGuard():
        os.kill(os.getpid(), signal.SIGTERM)
    assert capfd.readouterr().err == ""


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_ctrl_c_while_the_imports_run_is_one_line() -> None:
    done = run_python(
        "import os, signal\n"
        "from bpgrad.startup import begin\n"
        "begin()\n"
        "class Import:\n"
        "    def __del__(self): os.kill(os.getpid(), signal.SIGINT)\n"
        "Import()\n"
        "raise AssertionError"
    )
    assert (done.returncode, done.stderr) == (130, "error: interrupted\n")


@pytest.mark.parametrize(
    "wrapped",
    [
        "kill()",
        "try:\n        kill()\n    finally:\n        kill()",
        "try:\n        kill()\n    except BaseException:\n        raise ImportError('half done')",
        "try:\n        kill()\n    except BaseException:\n        [kill() for _ in range(4)]",
    ],
)
def test_ctrl_c_is_one_line_wherever_it_comes_out(wrapped: str) -> None:
    done = run_python(
        "import atexit, os, signal\n"
        "from bpgrad.training.cli import run_command\n"
        "def kill(): os.kill(os.getpid(), signal.SIGINT)\n"
        "atexit.register(kill)\n"  # and once more, on the way out
        f"def command():\n    {wrapped}\n"
        "run_command(command)"
    )
    assert (done.returncode, done.stderr) == (130, "error: interrupted\n")


def test_a_closed_standard_output_is_no_error(tmp_path: Path) -> None:
    """As `>&-`: nothing is printed, and no file becomes the standard output."""
    code = (
        "import os, sys\n"
        "from bpgrad.startup import begin\n"
        "begin()\n"
        "print('to nobody')\n"
        "assert not sys.stdout.isatty()\n"
        f"assert os.open({str(tmp_path / 'file')!r}, os.O_CREAT | os.O_RDWR) > 2\n"
        "os.write(2, b'the end')"
    )
    done = subprocess.run(
        ["sh", "-c", 'exec "$0" -c "$1" >&-', sys.executable, code],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "the end")
    assert (tmp_path / "file").read_bytes() == b""
