"""What may be asked of the router."""

import pytest

from shipway.platform.router.routes import DESCRIPTIONS, STATUS_CODES, InvalidRoute, Route, Server

SERVER = Server("web.1", "17", "10.83.0.2", 5000)


@pytest.mark.parametrize(
    "values",
    [
        {"name": "web 1"},
        {"name": "web.1;x"},
        {"id": "a/b"},
        {"id": ""},
        {"address": "localhost"},
        {"address": "10.0.0.1 disabled"},
        {"port": 0},
        {"port": 65536},
    ],
)
def test_servers_that_are_refused(values: dict[str, object]) -> None:
    """Nothing reaches HAProxy that its configuration or command line would read as more than a word."""
    good = {"name": "web.1", "id": "17", "address": "10.83.0.2", "port": 5000}
    with pytest.raises(InvalidRoute):
        Server(**{**good, **values})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "host", ["", "A.example", "a.example.", "a b", "a;b", "a\nb", "*", "*x.y", "x.*.y", "a..b"]
)
def test_hosts_that_are_refused(host: str) -> None:
    """A host name is lower case, without a trailing dot, and nothing but a host name."""
    with pytest.raises(InvalidRoute):
        Route("one", (host,), (SERVER,))


@pytest.mark.parametrize("app", ["", "One", "a b", "a;b", "-a", "a\n"])
def test_apps_that_are_refused(app: str) -> None:
    """So is an app's name."""
    with pytest.raises(InvalidRoute):
        Route(app, ("a.example",), (SERVER,))


def test_status_and_servers_agree() -> None:
    """A route that is ok has servers, any other has none."""
    with pytest.raises(InvalidRoute):
        Route("one", ("a.example",))
    with pytest.raises(InvalidRoute):
        Route("one", ("a.example",), (SERVER,), status="none")


def test_every_status_has_a_code_with_a_description() -> None:
    """What an app without servers answers is explained."""
    assert set(STATUS_CODES.values()) <= set(DESCRIPTIONS)
