"""Shared by the tests of the suite."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def own_records_alone(no_committed_records: None) -> None:
    """They make records of their own."""
