"""What the benchmark of the input pipeline measures with, and what it concludes."""

from scripts.bench_input import enough, worker_counts


def test_the_numbers_of_workers_end_with_what_a_training_takes() -> None:
    assert worker_counts(1) == [0]
    assert worker_counts(2) == [0, 1]
    assert worker_counts(3) == [0, 1, 2]
    assert worker_counts(4) == [0, 1, 2, 3]
    assert worker_counts(16) == [0, 1, 2, 4, 8, 15]
    assert worker_counts(65) == [0, 1, 2, 4, 8, 16, 32, 64]


def test_enough_is_the_first_number_that_loses_a_tenth_at_the_most() -> None:
    assert enough({0: 80.0, 1: 55.2, 2: 10.0, 4: 11.0, 8: 1.0}) == 2
    assert enough({8: -1.0, 0: 60.0, 4: 3.0}) == 4
    assert enough({0: 80.0, 1: 10.1}) is None
