"""How things are written for people."""

import pytest

from shipway.platform.memory import total
from shipway.platform.present import duration, host_part, hue, since, size, sparkline


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (-1, "–"),
        (0, "0.0 s"),
        (0.84, "0.8 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (185, "3 min 5 s"),
        (3600, "1 h"),
        (7825, "2 h 10 min"),
        (4 * 86400 + 3 * 3600, "4 d 3 h"),
    ],
)
def test_durations(seconds, text):
    """A duration has at most two units, and a tenth of a second only while that matters."""
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (None, "–"),
        (512, "512 B"),
        (2048, "2 KB"),
        (3 << 19, "1.5 MB"),
        (41 << 20, "41 MB"),
        (5 << 40, "5120 GB"),
    ],
)
def test_sizes(count, text):
    """A size has one unit and at most two digits that matter."""
    assert size(count) == text


def test_how_long_ago():
    """How long ago something was is said in one unit."""
    assert [since(s) for s in (5, 61, 7200, 200_000)] == [
        "just now",
        "1 min ago",
        "2 h ago",
        "2 d ago",
    ]


def test_a_sparkline_needs_two_values_and_escapes_its_label():
    """A graph needs two values; its label is text."""
    assert sparkline([5], "x") == ""
    drawn = sparkline([0, 0, 9], "<b>")
    assert "&lt;b&gt;" in drawn
    assert "<b>" not in drawn


def test_processes_keep_their_colour_and_the_platform_has_its_own():
    """A process always has the same colour; the router and the platform's own lines have theirs."""
    assert hue("app", "web.1") == hue("app", "web.1")
    assert hue("shipway", "router") == "hue-router"
    assert hue("app", "api") == hue("shipway", "web.1") == "hue-platform"


def test_urls_are_shortened_for_reading():
    """A URL is shown without its scheme and last slash."""
    assert host_part("http://hello.localhost:8080/") == "hello.localhost:8080"


def test_memory_is_summed_at_its_newest_end():
    """Series of different lengths are summed so that their newest values meet."""
    assert total([[1, 2, 3], [10, 20]]) == [1, 12, 23]
    assert total([]) == []
