"""Shared by the tests of the suite."""

from collections.abc import Iterator

import pytest

from bpgrad.training import lookup


@pytest.fixture(scope="module", autouse=True)
def no_committed_records(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is recorded in this checkout is no part of a test that makes its own records."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lookup, "SUITE_RECORDS", tmp_path_factory.mktemp("suite") / "results/runs")
        yield
