import pytest

from bpgrad.training import progress
from bpgrad.training.progress import ProgressBar


def test_the_rate_is_that_of_training_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What an epoch has come to is said after its evaluation, which took two minutes here."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    bar = ProgressBar(1000, 0, 2, show=True)

    def train(seconds: float, iterations: int) -> None:
        for _ in range(iterations):
            now[0] += seconds / iterations
            bar.advance(1)

    train(30, 100)
    now[0] += 120
    bar.say("epoch 1/10")
    train(70, 100)
    train(70, 1500)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "epoch 1/10"
    # 60 s of 100 iterations in 70, of 2 images each; then of 1500.
    assert lines[1] == "epoch 1  iteration 186/1000  2.9 images/s"
    assert lines[2].endswith(" images/s")
    assert float(lines[2].split()[-2]) > 10
    assert "." not in lines[2].split()[-2]
