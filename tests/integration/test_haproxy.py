"""The data plane on a real HAProxy and real upstreams: routes, restarts, what goes on through changes."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from shipway.platform.router import haproxy_slots
from shipway.platform.router.haproxy import AlreadyRouted, HAProxy
from shipway.platform.router.haproxy_config import Config
from shipway.platform.router.haproxy_worker import HAProxyFailed, find
from shipway.platform.router.routerlog import parse
from shipway.platform.router.routes import Route
from support import clean_environ, free_port, scratch
from upstreams import Steady, Upstream, echoes, get, raw, route, status_of, websocket


@pytest.fixture
def config() -> Iterator[Config]:
    """HAProxy's settings in a scratch folder; whatever runs there at the end is ended."""
    with scratch() as folder:
        found = Config(run=folder / "run", log=folder / "raw.log", port=free_port())
        yield found
        for worker in find(found):
            worker.kill()
            worker.close()


@pytest.fixture
def haproxy(config: Config) -> Iterator[HAProxy]:
    """A started HAProxy."""
    found = HAProxy(config)
    found.start()
    yield found
    with contextlib.suppress(OSError, ValueError):
        found.stop()


@pytest.fixture
def upstream() -> Iterator[Callable[[str], Upstream]]:
    """Makes upstreams that end with the test."""
    made: list[Upstream] = []

    def make(name: str) -> Upstream:
        made.append(Upstream(name))
        return made[-1]

    yield make
    for one in made:
        with contextlib.suppress(OSError):
            one.end()


def await_that(what: Callable[[], object], seconds: float = 10.0) -> None:
    """Return once `what` is true."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it has not come true in time"
        time.sleep(0.01)


def test_routes_by_host(haproxy: HAProxy, upstream: Callable[[str], Upstream]) -> None:
    """Each host reaches its own app; a route that is gone is a 404 at once; applying again changes nothing."""
    a, b = upstream("a"), upstream("b")
    port = haproxy.config.port
    haproxy.apply([route("one", a), route("two", b)])
    assert get(port, "one.localhost")[::2] == (200, "a")
    assert get(port, "two.localhost")[::2] == (200, "b")
    before = haproxy.pid
    haproxy.apply([route("two", b)])
    haproxy.apply([route("two", b)])
    assert get(port, "one.localhost")[0] == 404
    assert get(port, "two.localhost")[::2] == (200, "b")
    assert haproxy.pid == before


@pytest.mark.parametrize(
    "host", ["ONE.localhost", "one.localhost.", "one.localhost:8080", "One.LocalHost.:80"]
)
def test_hosts_in_any_spelling(
    haproxy: HAProxy, upstream: Callable[[str], Upstream], host: str
) -> None:
    """Odd case, a trailing dot and a port name the same host."""
    haproxy.apply([route("one", upstream("a"))])
    assert get(haproxy.config.port, host)[::2] == (200, "a")


def test_a_domain_moves_to_another_app(
    haproxy: HAProxy, upstream: Callable[[str], Upstream]
) -> None:
    """A host goes from one app to another without a moment in between, in whichever order they are named."""
    a, b = upstream("a"), upstream("b")
    one, two = route("one", a), route("two", b)
    with_domain = [replace(one, hosts=(*one.hosts, "x.example")), two]
    moved = [one, replace(two, hosts=(*two.hosts, "x.example"))]
    haproxy.apply(with_domain)
    assert get(haproxy.config.port, "x.example")[2] == "a"
    haproxy.apply(moved)
    assert get(haproxy.config.port, "x.example")[2] == "b"
    haproxy.apply(reversed(with_domain))
    assert get(haproxy.config.port, "x.example")[2] == "a"


def test_wildcards(haproxy: HAProxy, upstream: Callable[[str], Upstream]) -> None:
    """The most specific name wins, whoever came first; a wildcard is no name itself, and not the rest of it."""
    port = haproxy.config.port
    routes = [
        replace(route(name, upstream(name)), hosts=hosts)
        for name, hosts in (
            ("wide", ("*.example.com",)),
            ("deep", ("*.b.example.com", "x.example")),
            ("exact", ("a.b.example.com", "c.example.com")),
        )
    ]
    before = haproxy.pid
    for order in (routes, routes[::-1]):
        haproxy.apply([])
        haproxy.apply(order)
        for host, app in (
            ("any.example.com", "wide"),
            ("ANY.Example.com.:81", "wide"),
            ("one.two.three.example.com", "wide"),
            ("c.example.com", "exact"),
            ("x.c.example.com", "wide"),
            ("a.b.example.com", "exact"),
            ("z.b.example.com", "deep"),
            ("y.z.b.example.com", "deep"),
            ("b.example.com", "wide"),
            ("1.2.3.4.5.6.7.8.example.com", "wide"),
        ):
            assert get(port, host)[::2] == (200, app), host
    for host in ("example.com", "notexample.com", "com", "a.x.example"):
        assert get(port, host)[0] == 404, host
    for host in ("*.example.com", "*.b.example.com", "*"):
        assert get(port, host)[0] == 400, host
    haproxy.apply(routes[1:])
    assert get(port, "any.example.com")[0] == 404
    assert get(port, "z.b.example.com")[2] == "deep"
    assert haproxy.pid == before


@pytest.mark.parametrize(
    ("status", "text"), [("none", "no running web"), ("crashed", "crashed"), ("blank", "deployed")]
)
def test_pages(haproxy: HAProxy, status: str, text: str) -> None:
    """An app without a server answers 503 and says why: as a page, as JSON when asked, with no body to HEAD."""
    haproxy.apply([Route("one", ("one.localhost",), status=status)])  # type: ignore[arg-type]
    port = haproxy.config.port
    code, headers, body = get(port, "one.localhost")
    assert (code, headers["content-type"]) == (503, "text/html; charset=utf-8")
    assert text in body
    assert body.startswith("<!doctype html>")
    code, headers, body = get(port, "one.localhost", Accept="application/json")
    assert (code, headers["content-type"]) == (503, "application/json")
    assert text in json.loads(body)["message"]
    answer = raw(port, b"HEAD / HTTP/1.1\r\nHost: one.localhost\r\nConnection: close\r\n\r\n")
    assert status_of(answer) == 503
    assert answer.endswith(b"\r\n\r\n")


def test_unknown_host(haproxy: HAProxy) -> None:
    """A host that no app has is a 404 that says so, also to a program."""
    code, _, body = get(haproxy.config.port, "nobody.example")
    assert code == 404
    assert "No app on this server" in body
    code, _, body = get(haproxy.config.port, "nobody.example", Accept="application/json")
    assert (code, json.loads(body)["id"]) == (404, "no_such_app")


def test_switch_under_load(haproxy: HAProxy, upstream: Callable[[str], Upstream]) -> None:
    """Forty switches from instance to instance, each old one ended once drained: not one request fails."""
    port = haproxy.config.port
    current = upstream("u0")
    haproxy.apply([route("one", current)])
    kept, fresh = Steady(port, "one.localhost"), Steady(port, "one.localhost", 1, keep=False)
    with kept, fresh:
        for number in range(1, 41):
            following = upstream(f"u{number}")
            haproxy.apply([route("one", following)])
            assert get(port, "one.localhost")[2] == f"u{number}"
            await_that(lambda name=current.name: haproxy.sessions(name) == 0)
            current.end()
            current = following
            time.sleep(0.02)
    assert (kept.failures, fresh.failures) == ({}, {})
    assert len(kept.bodies) > 20
    assert len(haproxy.table.draining) <= 4
    assert haproxy.table.apps == {"one": "b1"}


def test_spread_and_scale(haproxy: HAProxy, upstream: Callable[[str], Upstream]) -> None:
    """All instances get requests; scaling to more than a backend's slots moves the app without a failure."""
    instances = [upstream(f"u{n}") for n in range(12)]
    haproxy.apply([route("one", instances[0])])
    with Steady(haproxy.config.port, "one.localhost", 4) as load:
        for number in (3, 12, 5, 1, 12):
            haproxy.apply([route("one", *instances[:number])])
            load.answers.clear()
            await_that(lambda n=number: load.bodies.keys() >= {f"u{k}" for k in range(n)})
            haproxy.tend()
    assert load.failures == {}


def test_reload_under_load(haproxy: HAProxy, upstream: Callable[[str], Upstream]) -> None:
    """More apps than slots start a second process beside the first: requests and WebSockets do not notice."""
    port, a = haproxy.config.port, upstream("a")
    haproxy.apply([route("one", a)])
    socket_before = websocket(port, "one.localhost")
    first = haproxy.pid
    with Steady(port, "one.localhost") as kept, Steady(port, "one.localhost", 1, keep=False) as new:
        for count in (30, 60, 120):
            haproxy.apply([route("one", a), *(route(f"x{n}", a) for n in range(count))])
            haproxy.tend()
            assert get(port, f"x{count - 1}.localhost")[0] == 200
        time.sleep(0.2)
    assert (kept.failures, new.failures) == ({}, {})
    assert haproxy.pid != first
    # Several processes have written to one log, and not over each other.
    asked = sum(kept.answers.values()) + sum(new.answers.values()) + 3
    lines = haproxy.config.log.read_bytes().splitlines()
    assert len([line for line in lines if parse(line)]) == asked
    assert echoes(socket_before)
    assert haproxy.sessions("a") == 1
    socket_before.close()
    a.slow.set()
    haproxy.apply([])
    assert get(port, "one.localhost")[0] == 404


def test_old_processes_follow(haproxy: HAProxy, upstream: Callable[[str], Upstream]) -> None:
    """After a reload a connection kept open to the old process is served by the route of now, then ends."""
    port, a, b = haproxy.config.port, upstream("a"), upstream("b")
    haproxy.apply([route("one", a)])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/", headers={"Host": "one.localhost"})
    assert connection.getresponse().read() == b"a"
    haproxy._reload()
    haproxy.apply([route("one", b)])
    a.end()
    connection.request("GET", "/", headers={"Host": "one.localhost"})
    answer = connection.getresponse()
    assert answer.read() == b"b"
    assert answer.getheader("connection") == "close"
    connection.close()

    def alone() -> bool:
        haproxy.tend()
        return len(find(haproxy.config)) == 1

    await_that(alone)


def test_an_app_that_moved_is_left_alone_in_the_old_process(
    haproxy: HAProxy, upstream: Callable[[str], Upstream]
) -> None:
    """What an old process can no longer follow stays as it was: its slots never become another app's."""
    port = haproxy.config.port
    instances = [upstream(f"u{n}") for n in range(40)]
    haproxy.apply([route("one", instances[0])])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/", headers={"Host": "one.localhost"})
    connection.getresponse().read()
    haproxy.apply([route("one", *instances)])  # into a backend that the first process lacks
    haproxy.tend()
    fillers = [route(f"x{n}", instances[39]) for n in range(12)]
    haproxy.apply([route("one", *instances), *fillers])  # one of them gets the slots `one` had
    assert "b1" in haproxy.table.apps.values()
    connection.request("GET", "/", headers={"Host": "one.localhost"})
    assert connection.getresponse().read() == b"u0"
    connection.close()


def test_drain(haproxy: HAProxy, upstream: Callable[[str], Upstream]) -> None:
    """A removed instance ends the requests it has, gets no new ones, and counts them until then."""
    port, a, b = haproxy.config.port, upstream("a"), upstream("b")
    haproxy.apply([route("one", a)])
    slow = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    slow.request("GET", "/slow", headers={"Host": "one.localhost"})
    await_that(lambda: any("/slow" in line for line in a.seen))
    haproxy.apply([route("one", b)])
    assert haproxy.sessions("a") == 1
    assert all(get(port, "one.localhost")[2] == "b" for _ in range(5))
    assert haproxy.tend() is not None
    a.slow.set()
    assert slow.getresponse().read() == b"a"
    await_that(lambda: haproxy.sessions("a") == 0)
    assert haproxy.tend() is None
    assert haproxy.table.draining == {}
    slow.close()


def test_a_slot_is_never_reused_with_old_connections(
    haproxy: HAProxy, upstream: Callable[[str], Upstream]
) -> None:
    """Connections HAProxy keeps to an instance are not used for the next one in its slot."""
    port, a, b = haproxy.config.port, upstream("a"), upstream("b")
    for number in range(10):
        haproxy.apply([route("one", a)])
        with Steady(port, "one.localhost", 4):
            time.sleep(0.05)
        haproxy.apply([])
        haproxy.tend()
        haproxy.table.idle[4, False] = {"b1": haproxy.table.backends["b1"]}
        haproxy.apply([route("two", b)])
        assert haproxy.table.apps["two"] == "b1"
        assert haproxy.table.backends["b1"].slots[0].ready
        assert {get(port, "two.localhost")[2] for _ in range(8)} == {"b"}, number
        haproxy.apply([])
        haproxy.tend()


def test_websocket_survives_changes(haproxy: HAProxy, upstream: Callable[[str], Upstream]) -> None:
    """Changes of other apps, of its own app and a restart of the controller leave a WebSocket alone."""
    port, a, b = haproxy.config.port, upstream("a"), upstream("b")
    haproxy.apply([route("one", a)])
    with websocket(port, "one.localhost") as connection:
        haproxy.apply([route("one", a), route("two", b)])
        assert echoes(connection)
        haproxy.apply([route("one", b)])
        assert echoes(connection)
        haproxy.close()
        again = HAProxy(haproxy.config)
        again.start()
        assert echoes(connection)
        assert again.sessions("a") == 1
        again.close()


def test_adopts(config: Config, upstream: Callable[[str], Upstream]) -> None:
    """A controller that comes back finds the same table, the same process, and changes go on from there."""
    a, b = upstream("a"), upstream("b")
    first = HAProxy(config)
    first.start()
    first.apply([route("one", a), route("two", a, b), Route("off", ("off.x",), status="none")])
    first.apply([route("one", b), route("two", a, b), Route("off", ("off.x",), status="none")])
    first.tend()
    table, pid = first.table, first.pid
    first.close()
    second = HAProxy(config)
    second.start()
    assert second.pid == pid
    assert second.table == table
    second.apply([route("one", a)])
    assert get(config.port, "one.localhost")[2] == "a"
    assert get(config.port, "two.localhost")[0] == 404
    second.stop()
    assert find(config) == []


def test_adopts_and_reloads_for_new_settings(
    config: Config, upstream: Callable[[str], Upstream]
) -> None:
    """New settings come into force when the controller comes back, without a failed request; so does a new port."""
    first = HAProxy(config)
    first.start()
    first.apply([route("one", upstream("a"))])
    first.close()
    with Steady(config.port, "one.localhost") as load:
        second = HAProxy(replace(config, response_timeout=0.3))
        second.start()
        time.sleep(0.1)
    assert load.failures == {}
    assert get(config.port, "one.localhost", "/slow")[0] == 503
    second.close()
    third = HAProxy(replace(config, port=free_port()))
    third.start()
    assert status_of(raw(third.config.port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")) == 404
    third.stop()


def test_only_one_controller(haproxy: HAProxy) -> None:
    """A second controller in the same folder is refused."""
    with pytest.raises(AlreadyRouted):
        HAProxy(haproxy.config).start()


def test_kill_of_haproxy(haproxy: HAProxy, upstream: Callable[[str], Upstream]) -> None:
    """HAProxy killed: its death is an event, it is back with the same routes, and who came meanwhile was kept waiting."""
    port, a = haproxy.config.port, upstream("a")
    routes = [route("one", a), Route("two", ("two.localhost",), status="crashed")]
    haproxy.apply(routes)
    os.kill(haproxy.pid, signal.SIGKILL)
    waiting = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    await_that(lambda: bool(_readable(haproxy)))
    waiting.request("GET", "/", headers={"Host": "one.localhost"})
    begun = time.monotonic()
    haproxy.tend()
    assert time.monotonic() - begun < 1.0
    assert waiting.getresponse().read() == b"a"
    assert get(port, "two.localhost")[0] == 503
    waiting.close()


def _readable(haproxy: HAProxy) -> list[object]:
    import select

    return list(select.select([haproxy], [], [], 0)[0])


def test_both_killed(config: Config, upstream: Callable[[str], Upstream]) -> None:
    """HAProxy and its controller both killed: the next start has the routes at once, from the files."""
    a = upstream("a")
    first = HAProxy(config)
    first.start()
    first.apply([route("one", a), route("two", a)])
    os.kill(first.pid, signal.SIGKILL)
    first.close()
    second = HAProxy(config)
    second.start()
    assert get(config.port, "one.localhost")[2] == "a"
    second.apply([route("one", a)])
    assert get(config.port, "two.localhost")[0] == 404
    second.stop()


def test_damaged_files(config: Config, upstream: Callable[[str], Upstream]) -> None:
    """Files that HAProxy refuses are made anew, not an end of service."""
    first = HAProxy(config)
    first.start()
    first.stop()
    slots = next(config.folder.glob("10-*"))
    slots.write_text("backend b1 from slots\n  server 1 nonsen")
    second = HAProxy(config)
    second.start()
    second.apply([route("one", upstream("a"))])
    assert get(config.port, "one.localhost")[2] == "a"
    second.stop()


def test_a_reload_that_fails(haproxy: HAProxy, upstream: Callable[[str], Upstream]) -> None:
    """If a second process cannot start the first serves on, the error is named, and the next try puts it right."""
    a = upstream("a")
    haproxy.apply([route("one", a)])
    (haproxy.config.folder / "20-broken.cfg").write_text("backend broken from slots\n  nonsense\n")
    with pytest.raises(HAProxyFailed, match="nonsense"):
        haproxy.apply([route("one", a), *(route(f"x{n}", a) for n in range(30))])
    assert get(haproxy.config.port, "one.localhost")[0] == 200
    (haproxy.config.folder / "20-broken.cfg").unlink()
    haproxy.tend()
    assert get(haproxy.config.port, "x29.localhost")[0] == 200


def test_port_taken(config: Config) -> None:
    """A port that is taken is named, with the setting to change."""
    with (
        socket.create_server(("127.0.0.1", config.port)),
        pytest.raises(HAProxyFailed, match=f"{config.port}.*router_port"),
    ):
        HAProxy(config).start()


CONTROLLER = """
import sys
from pathlib import Path
from shipway.platform.router.haproxy import HAProxy
from shipway.platform.router.haproxy_config import Config
from shipway.platform.router.routes import Route, Server
run, log, port, upstream, count = sys.argv[1:]
haproxy = HAProxy(Config(run=Path(run), log=Path(log), port=int(port)))
haproxy.start()
print("started", flush=True)
n = 0
while True:
    n += 1
    server = Server("web.1", f"i{n}", "127.0.0.1", int(upstream))
    apps = [Route(f"x{m}", (f"x{m}.localhost",), (server,)) for m in range((n * 5) % int(count))]
    haproxy.apply([Route("one", ("one.localhost",), (server,)), *apps])
"""


def test_controller_killed_at_any_moment(
    config: Config, upstream: Callable[[str], Upstream]
) -> None:
    """A controller killed amid changes and reloads, many times: service goes on, and the next finds a sane whole."""
    a = upstream("a")
    program = config.run.parent / "controller.py"
    program.write_text(textwrap.dedent(CONTROLLER))
    argv = [sys.executable, str(program), str(config.run), str(config.log), str(config.port)]
    load = Steady(config.port, "one.localhost", 2)
    for number in range(12):
        child = subprocess.Popen(
            [*argv, str(a.server_address[1]), "60"], stdout=subprocess.PIPE, env=clean_environ()
        )
        assert child.stdout
        assert child.stdout.readline() == b"started\n"
        await_that(lambda: get(config.port, "one.localhost")[0] == 200)
        if number == 0:
            load.__enter__()
        time.sleep(0.03 * number)
        child.kill()
        child.wait()
        child.stdout.close()
    load.__exit__(None, None, None)
    assert load.failures == {}
    last = HAProxy(config)
    last.start()
    last.apply([route("one", a)])
    assert get(config.port, "x0.localhost")[0] == 404
    taken = [
        slot for backend in last.table.backends.values() for slot in backend.slots if slot.ready
    ]
    assert [slot.server and slot.server.id for slot in taken] == ["a"]
    last.stop()
    assert find(config) == []


def test_many_apps(haproxy: HAProxy, upstream: Callable[[str], Upstream]) -> None:
    """A thousand apps come by one reload, and a single change among them still takes milliseconds."""
    a, b = upstream("a"), upstream("b")
    routes = [route(f"x{n}", a) for n in range(1000)]
    haproxy.apply(routes)
    times = []
    for number in range(20):
        target = b if number % 2 else a
        begun = time.perf_counter()
        haproxy.update([route("x7", target)])
        times.append(time.perf_counter() - begun)
        assert get(haproxy.config.port, "x7.localhost")[2] == target.name
    assert sorted(times)[10] < 0.05
    assert haproxy_slots.START[4] < len(haproxy.table.backends) < 3000


def test_survives_its_controllers_session(config: Config) -> None:
    """HAProxy is in a session of its own, so that what ends the controller's does not end it."""
    haproxy = HAProxy(config)
    haproxy.start()
    assert os.getsid(haproxy.pid) == haproxy.pid
    haproxy.stop()
