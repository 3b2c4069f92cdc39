"""Host names that lead to apps."""

import pytest

from shipway.platform.errors import Conflict, InvalidName
from shipway.platform.hostnames import normal, refuse_platforms
from shipway.platform.settings import Settings


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("www.example.com", "www.example.com"),
        (" WWW.Example.COM. ", "www.example.com"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("a-b.c1.example", "a-b.c1.example"),
    ],
)
def test_one_spelling(given: str, kept: str) -> None:
    """A name has one spelling, however it was written."""
    assert normal(given) == kept
    assert normal(kept) == kept


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "x",
        "a..b",
        "-a.b",
        "a-.b",
        "a b.c",
        "a/b.c",
        "http://a.b",
        "a.b:80",
        "*.a.b",
        "1.2.3.4",
        "a" * 64 + ".b",
        ".".join(["abcdefgh"] * 30),
        "a.b\n.c",
        "ä" * 80 + ".b",
        "a_b.c",
        "a\x00.b",
    ],
)
def test_what_is_no_name(name: str) -> None:
    """Anything else is refused."""
    with pytest.raises(InvalidName, match="no valid host name"):
        normal(name)


def test_the_platforms_own_names() -> None:
    """Names under the platform's domain are given out by app name only."""
    settings = Settings(domain="apps.example.com")
    for name in ("apps.example.com", "x.apps.example.com", "a.b.apps.example.com"):
        with pytest.raises(Conflict):
            refuse_platforms(name, settings)
    refuse_platforms("myapps.example.com", settings)
