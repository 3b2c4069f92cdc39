"""Which app a command line means, and how things are written for people."""

import click
import pytest

from shipway.platform.cli import common
from shipway.platform.cli.common import Session, duration, pick, version_number
from shipway.platform.cli.ps import CHANGE
from shipway.platform.errors import InvalidInput, InvalidName


@pytest.fixture(autouse=True)
def context(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command line in a folder with the git remote of the app `here`."""
    urls = {"remote.shipway.url": "ssh://git@h:2222/here", "remote.two.url": "http://h:1/two.git"}
    monkeypatch.setattr(common, "git", lambda *args: urls.get(args[-1], ""))
    click.Context(click.Command("x"), obj=Session()).__enter__()


def is_pair(text: str) -> bool:
    """Whether the text is KEY=value."""
    return "=" in text


@pytest.mark.parametrize(
    ("args", "app", "remote", "expected"),
    [
        (["hello", "A=1"], None, None, ("hello", ["A=1"])),
        (["A=1"], None, None, ("here", ["A=1"])),
        (["A=1"], "hello", None, ("hello", ["A=1"])),
        (["x", "A=1"], "hello", None, ("hello", ["x", "A=1"])),
        (["A=1"], None, "two", ("two", ["A=1"])),
        ([], None, None, ("here", [])),
        (["hello"], None, None, ("hello", [])),
    ],
)
def test_app_first_or_option_or_remote(
    args: list[str], app: str | None, remote: str | None, expected: tuple[str, list[str]]
) -> None:
    """Dokku's place for the app, Heroku's option and the git remote all work."""
    assert pick(args, app, remote, is_pair) == expected


def test_an_app_must_be_named() -> None:
    """Without any of these the command says how to name one, and a bad name is refused."""
    with pytest.raises(InvalidInput, match="Which app"):
        pick([], None, "nosuch", is_pair)
    with pytest.raises(InvalidName):
        pick(["../x"], None, None, is_pair)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("web=3", ("web", "=", "3")),
        ("web+1", ("web", "+", "1")),
        ("web-1", ("web", "-", "1")),
        ("my-worker-2", ("my-worker", "-", "2")),
        ("web=+2", None),
        ("web=-1", None),
        ("web", None),
        ("web=", None),
        ("=3", None),
    ],
)
def test_changes_of_scale(text: str, parts: tuple[str, str, str] | None) -> None:
    """A change is a process type, a sign and a number."""
    match = CHANGE.fullmatch(text)
    assert (match.groups() if match else None) == parts


def test_versions() -> None:
    """A version is v3 or 3, and nothing else."""
    assert version_number("v12") == version_number("12") == 12
    for text in ("", "v", "x1", "v-1", "v٣", "v1.2"):
        with pytest.raises(InvalidInput):
            version_number(text)


def test_durations() -> None:
    """Durations have one unit."""
    cases = {-5: "0 s", 0: "0 s", 59.9: "59 s", 60: "1 min", 3600: "1 h", 200_000: "2 d"}
    assert {seconds: duration(seconds) for seconds in cases} == cases
