"""The workers of a streamed task: whom they obey."""

import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import multiprocessing, os, signal, subprocess, sys
from bpgrad.data.pipeline import EpochLoader

class Examples:
    def __getitem__(self, key):
        return key

def main():
    load = EpochLoader(Examples(), list, workers=2)
    batches = load(3, [[k] for k in range(20)])
    workers = [str(worker.pid) for worker in multiprocessing.active_children()]
    assert len(workers) == 2
    for name in ("INT", "TERM", "HUP", "USR1", "USR2", "TERM"):
        subprocess.run(["sh", "-c", f'kill -{name} "$@"', "", *workers], check=True)
    assert next(batches) == [(3, 0)]
    for name in ("INT", "TERM", "HUP", "USR1", "USR2"):
        number = getattr(signal, f"SIG{name}")
        signal.signal(number, lambda *_: None)  # as that of a run, which saves
        os.killpg(0, number)
    assert [batch[0][1] for batch in batches] == list(range(1, 20))
    worker = multiprocessing.active_children()[0]
    worker.terminate()  # as those that are left, at the end
    worker.join(60)
    assert worker.exitcode == 0

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    main()
"""


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_signals_leave_the_workers_to_their_parent(tmp_path: Path, method: str) -> None:
    """Those to the group, and those from outside to each of them, from their first moment on."""
    (tmp_path / "script.py").write_text(CODE)
    command = [sys.executable, "script.py", method]
    ended = subprocess.run(
        command, capture_output=True, text=True, start_new_session=True, cwd=tmp_path, timeout=120
    )
    assert (ended.returncode, ended.stderr) == (0, "")


CHILD = """
import multiprocessing, sys
from bpgrad.data.pipeline import EpochLoader

class Examples:
    def __getitem__(self, key):
        return key

def read():
    global load  # lives as long as the process
    load = EpochLoader(Examples(), list, workers=2)
    assert len(list(load(3, [[k] for k in range(20)]))) == 20

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    child = multiprocessing.Process(target=read)
    child.start()
    child.join(60)
    still = child.exitcode is None
    if still:
        child.kill()
    sys.exit(still or child.exitcode)
"""


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_a_process_that_was_started_by_another_ends_with_its_workers(
    tmp_path: Path, method: str
) -> None:
    """A run side by side with others is such a process, and waits for its workers at its end."""
    (tmp_path / "script.py").write_text(CHILD)
    command = [sys.executable, "script.py", method]
    ended = subprocess.run(
        command, capture_output=True, text=True, start_new_session=True, cwd=tmp_path, timeout=120
    )
    assert (ended.returncode, ended.stderr) == (0, "")
