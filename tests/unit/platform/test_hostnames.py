"""Host names that lead to apps."""

import pytest

from shipway.platform.errors import Conflict, InvalidName
from shipway.platform.hostnames import covering, normal, refuse_platforms
from shipway.platform.settings import Settings


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("www.example.com", "www.example.com"),
        (" WWW.Example.COM. ", "www.example.com"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("a-b.c1.example", "a-b.c1.example"),
        ("*.Example.com.", "*.example.com"),
        ("*.bücher.example", "*.xn--bcher-kva.example"),
        ("faß.example", "xn--fa-hia.example"),
        ("ＷＷＷ.example。com", "www.example.com"),
        ("XN--BCHER-KVA.example", "xn--bcher-kva.example"),
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
        "*",
        "*.com",
        "*.*.a.b",
        "a.*.b.c",
        "*a.b.c",
        "a.b..",
        "xn--a.example",
        "xn--zzzzzzzz99999.example",
        "☃\u200d.example",
        "a\u202e.example",
        "a.b" * 100_000,
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
    for name in (
        "apps.example.com",
        "x.apps.example.com",
        "a.b.apps.example.com",
        "*.apps.example.com",
        "*.x.apps.example.com",
        "*.example.com",  # which would take the names of apps that are still to come
    ):
        with pytest.raises(Conflict, match=r"the platform's own domain apps\.example\.com"):
            refuse_platforms(name, settings)
    for name in ("myapps.example.com", "*.myapps.example.com", "example.com"):
        refuse_platforms(name, settings)
    with pytest.raises(Conflict, match="Shipway itself"):
        refuse_platforms("ship.example", Settings(url="https://Ship.example/"))


def test_wildcards_that_cover() -> None:
    """A name is covered by the wildcards of all it is below, but no top level's."""
    assert covering("a.b.example.com") == ["*.b.example.com", "*.example.com"]
    assert covering("*.b.example.com") == ["*.example.com"]
    assert covering("example.com") == []
