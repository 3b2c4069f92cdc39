"""From a command over SSH to argv."""

import pytest

from shipway.platform.ssh_commands import CommandRefused, _split, app_of


@pytest.mark.parametrize(
    "path", ["/hello", "hello", "hello.git", "/hello.git", "/hello/", "/hello.git/"]
)
def test_forms_of_an_app_in_a_git_url(path: str) -> None:
    """ssh://host/hello, host:hello and both with .git are one app."""
    assert app_of(path) == "hello"


def test_a_shells_words_stay_words() -> None:
    """Quotes group; nothing is expanded, substituted or chained."""
    assert _split("config:set hello 'A=b c' \"D=$(id)\" ; true") == [
        "config:set",
        "hello",
        "A=b c",
        "D=$(id)",
        ";",
        "true",
    ]


@pytest.mark.parametrize("command", ["apps 'x", 'apps "', "x" * 70_000, "a\0b"])
def test_commands_that_cannot_be_read_are_refused(command: str) -> None:
    """One clear line, no guess."""
    with pytest.raises(CommandRefused):
        _split(command)
