"""Rules of a static site, as people write them for Netlify."""

import re

import pytest

from shipway.buildpacks.kit.errors import CannotBuild
from shipway.buildpacks.static import nginx, rules


def matched(pattern: str, path: str) -> dict[str, str] | None:
    """What a pattern takes from a path, read as Python writes named groups."""
    match = re.fullmatch(pattern.replace("(?<", "(?P<"), path)
    return match.groupdict() if match else None


@pytest.mark.parametrize(
    ("path", "asked", "found"),
    [
        ("/a", "/a", {}),
        ("/a", "/a/", {}),
        ("/a", "/ab", None),
        ("/", "/", {}),
        ("/a.b", "/axb", None),
        ("/*", "/x/y", {"p_splat": "x/y"}),
        ("/blog/*", "/blog", {"p_splat": None}),
        ("/blog/*", "/blog/x", {"p_splat": "x"}),
        ("/blog/*", "/blogx", None),
        ("/u/:id/:name", "/u/7/x", {"p_id": "7", "p_name": "x"}),
        ("/u/:id", "/u/7/x", None),
    ],
)
def test_pattern(path: str, asked: str, found: dict[str, str] | None) -> None:
    """Stars and placeholders take what they should."""
    assert matched(rules.pattern(path, ""), asked) == found


def test_redirects() -> None:
    """Statuses, force, query parameters and comments are read."""
    text = "# all\n/a /b\n/c/*  /d/:splat  302!\n\n/s id=:id  /t/:id 200 # why\n/x https://y.test\n"
    found = rules.redirects(text)
    assert [(rule.target, rule.status, rule.forced) for rule in found] == [
        ("/b", 301, False),
        ("/d/:splat", 302, True),
        ("/t/:id", 200, False),
        ("https://y.test", 301, False),
    ]
    assert found[2].query == (("id", "id"),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n/a", "_redirects line 2: has no target"),
        ("a /b", "_redirects line 1: 'a' is no path"),
        ("/a b", "_redirects line 1: 'b', expected a target"),
        ("/a /b 299", "_redirects line 1: the status 299, expected one of 200, 301"),
        ("/a /b 301 Country=de", "the condition 'Country=de' is not known here"),
        ("/a https://b.test 200", "a 200 to another host, expected a path of this site"),
        ("/a/*/b /c", "expected at most one *, at the end"),
        ("/:a/:a /c", "has a placeholder twice"),
        ("/a x=1 /b", "x=1, expected a placeholder such as x=:id"),
    ],
)
def test_bad_redirects(text: str, message: str) -> None:
    """What is wrong is told with its line and what was expected there."""
    with pytest.raises(CannotBuild) as error:
        rules.redirects(text)
    assert message in error.value.lines[0]


def test_headers() -> None:
    """Headers are for the path above them."""
    found = rules.headers("/*\n  X-A: b: c\n\n# no\n/d\n\tX-E:f\n")
    assert [(header.name, header.value) for header in found] == [("X-A", "b: c"), ("X-E", "f")]
    assert matched(found[1].pattern, "/d") == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("  X: y", "_headers line 1: is indented, expected a path above it"),
        ("x", "_headers line 1: 'x', expected a path"),
        ("/*\n  X y", "_headers line 2: expected `  Name: value`"),
        ("/*\n  X y: z", "_headers line 2: expected `  Name: value`"),
        ("/*\n  X: y\x01", "_headers line 2: the value has a control character"),
    ],
)
def test_bad_headers(text: str, message: str) -> None:
    """What is wrong is told with its line."""
    with pytest.raises(CannotBuild) as error:
        rules.headers(text)
    assert message in error.value.lines[0]


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("assets/index-BX3k9aQ_.js", True),
        ("main.3f2a91bc.css", True),
        ("static/js/2.a1b2c3d4.chunk.js.map", True),
        ("assets/photo-portrait.jpg", False),
        ("reports/report-20240101.pdf", False),
        ("index.html", False),
        ("page-3f2a91bc.html", False),
        ("js/app.js", False),
    ],
)
def test_immutable(name: str, kept: bool) -> None:
    """Names with a digest in them are told from others."""
    assert nginx.immutable(name) is kept
