"""What many files of tests begin with."""

from collections.abc import Iterator

import pytest

from buildlab import Builder, open_builder


@pytest.fixture(scope="module")
def builder(request: pytest.FixtureRequest) -> Iterator[Builder]:
    """A builder of the file's own, for all its tests."""
    with open_builder(request.module.__name__) as builder:
        yield builder
