"""What many files of tests begin with."""

import signal
from collections.abc import Iterator

import pytest

from buildlab import Builder, open_builder

# Who runs the tests in the background of a shell has Ctrl-C ignored, and so would every program that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module")
def builder(request: pytest.FixtureRequest) -> Iterator[Builder]:
    """A builder of the file's own, for all its tests."""
    with open_builder(request.module.__name__) as builder:
        yield builder
