"""Workers that read: what reaches them."""

import subprocess
import sys


def test_signals_to_the_group_leave_the_workers_to_their_parent() -> None:
    code = """if True:
        import os, signal
        from bpgrad.data.pipeline import EpochLoader

        class Examples:
            def __getitem__(self, key):
                return key

        load = EpochLoader(Examples(), list, workers=1)
        batches = load(3, [[k] for k in range(20)])
        assert next(batches) == [(3, 0)]
        for name in ("INT", "TERM", "HUP", "USR1", "USR2"):
            number = getattr(signal, f"SIG{name}")
            signal.signal(number, lambda *_: None)  # as that of a run, which saves
            os.killpg(0, number)
        assert [batch[0][1] for batch in batches] == list(range(1, 20))
    """
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, capture_output=True, text=True, start_new_session=True)
    assert (ended.returncode, ended.stderr) == (0, "")
