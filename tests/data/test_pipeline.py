"""Workers that read: what reaches them."""

import subprocess
import sys


def test_signals_leave_the_workers_to_their_parent() -> None:
    """Those to the group, and those from outside to each of them, from their first moment on."""
    code = """if True:
        import multiprocessing, os, signal, subprocess
        from bpgrad.data.pipeline import EpochLoader

        class Examples:
            def __getitem__(self, key):
                return key

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
        worker.join()
        assert worker.exitcode == 0
    """
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, capture_output=True, text=True, start_new_session=True)
    assert (ended.returncode, ended.stderr) == (0, "")
