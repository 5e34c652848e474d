"""The workers of a streamed task: whom they obey."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(folder: Path, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a session of its own."""
    (folder / "script.py").write_text(code)
    return subprocess.run(
        [sys.executable, "script.py", *arguments],
        capture_output=True,
        text=True,
        start_new_session=True,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=180,
    )


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


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_signals_leave_the_workers_to_their_parent(tmp_path: Path, method: str) -> None:
    """Those to the group, and those from outside to each of them, from their first moment on."""
    ended = run(tmp_path, CODE, method)
    assert (ended.returncode, ended.stderr) == (0, "")


STALLED = """
import multiprocessing, os, signal, sys, threading, time
from bpgrad.data.pipeline import EpochLoader

class Examples:
    def __getitem__(self, key):
        return key

def read(results):
    load = EpochLoader(Examples(), list, workers=1)
    assert len(list(load(1, [[k] for k in range(3)]))) == 3
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid, signal.SIGSTOP)  # as one that waits for a disk
    results.put(worker.pid)
    load(2, [[k] for k in range(3)])

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    results = multiprocessing.Queue()
    child = multiprocessing.Process(target=read, args=(results,))
    child.start()
    worker = results.get()
    child.terminate() if sys.argv[2] == "term" else child.kill()
    child.join(60)
    assert child.exitcode in (-signal.SIGTERM, -signal.SIGKILL), child.exitcode
    os.kill(worker, signal.SIGCONT)
    for _ in range(600):  # it ends with its parent
        try:
            with open(f"/proc/{worker}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] == "Z":
                    break
        except FileNotFoundError:
            break
        time.sleep(0.1)
    else:
        os.kill(worker, signal.SIGKILL)
        sys.exit("the worker outlives its parent")
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes in /proc")
@pytest.mark.parametrize(("method", "how"), [("fork", "term"), ("forkserver", "kill")])
def test_a_stalled_worker_holds_no_signal_back_and_ends_with_its_parent(
    tmp_path: Path, method: str, how: str
) -> None:
    ended = run(tmp_path, STALLED, method, how)
    assert ended.returncode == 0, ended.stderr  # Python tells of semaphores that a kill left


def test_a_worker_that_is_killed_is_one_line(tmp_path: Path) -> None:
    code = """if True:
        import multiprocessing
        from bpgrad.data.pipeline import EpochLoader
        from bpgrad.errors import WorkerError

        class Examples:
            def __getitem__(self, key):
                if key[1] == 2:
                    multiprocessing.process.os.kill(multiprocessing.process.os.getpid(), 9)
                return key

        try:
            list(EpochLoader(Examples(), list, workers=1)(1, [[k] for k in range(9)]))
        except WorkerError as error:
            print(error)
    """
    ended = run(tmp_path, code)
    assert ended.stdout.startswith("a process that reads data was killed")


CHILD = """
import multiprocessing, sys
from bpgrad.data.pipeline import EpochLoader

class Examples:
    def __getitem__(self, key):
        return key

def read():
    global load  # lives as long as the process
    load = EpochLoader(Examples(), list, workers=1)
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


@pytest.mark.parametrize("method", ["forkserver"])
def test_a_process_that_was_started_by_another_ends_with_its_workers(
    tmp_path: Path, method: str
) -> None:
    """A run side by side with others is such a process, and waits for its workers at its end."""
    ended = run(tmp_path, CHILD, method)
    assert (ended.returncode, ended.stderr) == (0, "")
