"""What an app's owner sets about its requests, on a real HAProxy: in force at once, with no other process of it."""

import base64
import http.client
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from shipway.platform.router.haproxy import HAProxy
from shipway.platform.router.haproxy_config import Config
from shipway.platform.router.routerlog import parse, render
from shipway.platform.router.routes import Options, Route, Server, Status, login
from support import clean_environ, free_port, scratch
from upstreams import Steady, Upstream, get, raw, route, websocket


class Router:
    """HAProxy with the app `one`, whose options a test sets, and `two`, which has none."""

    def __init__(self, config: Config) -> None:
        self.haproxy = HAProxy(config)
        self.haproxy.start()
        self.port = config.port
        self.upstreams = [Upstream("a"), Upstream("b")]
        self.pid = self.haproxy.pid
        self.marks = 0
        self.set()

    def set(self, status: Status = "ok", count: int = 1, **options: object) -> None:
        """Give `one` these options, and no others."""
        servers = tuple(u.entry(n) for n, u in enumerate(self.upstreams[:count], 1))
        wanted = Options(**options)  # type: ignore[arg-type]
        one = Route("one", ("one.localhost",), servers if status == "ok" else (), status, wanted)
        self.haproxy.apply([one, route("two", self.upstreams[1])])

    def ask(self, path: str = "/", **headers: str) -> tuple[int, dict[str, str], str]:
        """What `one` answers."""
        return get(self.port, "one.localhost", path, **headers)

    def last_line(self) -> str:
        """The log's last line as the app sees it."""
        self.marks += 1
        mark = f"/mark{self.marks}"
        get(self.port, "two.localhost", mark)  # its line comes after all that were due before
        deadline = time.monotonic() + 10
        while mark not in (text := self.haproxy.config.log.read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        requests = [parse(line.encode()) for line in text.splitlines()]
        return render([each for each in requests if each and each.app == "one"][-1])

    def unchanged(self) -> bool:
        """Nothing was reloaded, and the other app was not touched."""
        return self.haproxy.pid == self.pid and get(self.port, "two.localhost")[2] == "b"

    def end(self) -> None:
        """End all."""
        self.haproxy.stop()
        for upstream in self.upstreams:
            upstream.end()


@pytest.fixture(scope="module")
def config() -> Iterator[Config]:
    """Settings with short timeouts."""
    with scratch() as folder:
        found = Config(run=folder / "run", log=folder / "raw.log", port=free_port())
        yield replace(found, response_timeout=0.4, tunnel_timeout=0.5, client_timeout=1.0)


@pytest.fixture(scope="module")
def router(config: Config) -> Iterator[Router]:
    """One router for all tests here."""
    found = Router(config)
    yield found
    found.end()


def basic(user: str, password: str) -> str:
    """An Authorization header."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def test_allow_list(router: Router) -> None:
    """Only the networks named may ask, to the bit; people get a page and programs JSON, the app nothing."""
    seen = len(router.upstreams[0].seen)
    for networks in (("10.0.0.0/8", "::1/128"), ("127.0.0.2/32",), ("64.0.0.0/3", "7f00::/16")):
        router.set(allow=networks)
        status, headers, body = router.ask()
        assert (status, headers["content-type"]) == (403, "text/html; charset=utf-8"), networks
        assert body.startswith("<!doctype html>")
        assert json.loads(router.ask(Accept="application/json")[2])["id"] == "forbidden"
    assert len(router.upstreams[0].seen) == seen
    for networks in (
        ("127.0.0.1/32",),
        ("127.0.0.0/9",),
        ("10.0.0.0/8", "126.0.0.0/7"),
        ("0.0.0.0/0",),
    ):
        router.set(allow=networks)
        assert router.ask()[0] == 200, networks
    assert router.unchanged()


def test_rate_limit(router: Router) -> None:
    """A client above its rate is a 429 that says when to come back; other apps are not slowed, and it can be lifted."""
    router.set(rate=0.5)
    found = [router.ask()[0] for _ in range(9)]
    assert found == [200] * 5 + [429] * 4
    status, headers, _ = router.ask(Accept="application/json")
    assert (status, headers["retry-after"]) == (429, "10")
    assert "at=info" in router.last_line()
    assert router.unchanged()
    router.set(rate=100)
    assert router.ask()[0] == 200
    router.set()
    assert router.ask()[0] == 200


def test_basic_auth(router: Router) -> None:
    """Only a login that was set gets through, whatever the case of the scheme; it is nowhere in HAProxy's files."""
    router.set(logins=(login("one", "mary", "pass:word"), login("one", "john", "päss wörd")))
    status, headers, _ = router.ask()
    assert (status, headers["www-authenticate"]) == (401, 'Basic realm="one", charset="UTF-8"')
    assert router.ask(Authorization=basic("mary", "pass:word"))[0] == 200
    assert router.ask(Authorization=basic("john", "päss wörd").replace("Basic", "bAsIc"))[0] == 200
    for wrong in (
        basic("mary", "päss wörd"),
        basic("mary", "pass:word").replace("Basic ", "Bearer "),
        basic("mary", ""),
        "Basic",
        "Basic ",
        "Basic x, " + basic("mary", "pass:word"),
        "Basic a/../one",
        login("one", "mary", "pass:word"),
    ):
        assert router.ask(Authorization=wrong)[0] == 401, wrong
    kept = "".join(
        path.read_text() for path in router.haproxy.config.run.rglob("*") if path.is_file()
    )
    assert "pass:word" not in kept
    assert basic("mary", "pass:word").split()[1] not in kept
    router.set(logins=(login("one", "mary", "another one"),))
    assert router.ask(Authorization=basic("mary", "pass:word"))[0] == 401
    assert login("one", "m", "p") != login("two", "m", "p")
    assert router.unchanged()


def test_force_https(router: Router) -> None:
    """A plain request is sent to https:// with its path, to the name asked for and not to any port."""
    router.set(https=True)
    status, headers, _ = get(router.port, "ONE.localhost:8080", "/a/b?c=%0d%0aX:y")
    assert (status, headers["location"]) == (308, "https://one.localhost/a/b?c=%0d%0aX:y")
    assert router.ask(X_Forwarded_Proto="https")[0] == 308  # from anybody it counts for nothing
    assert router.unchanged()


def test_sticky_sessions(router: Router) -> None:
    """A client with the cookie stays with its instance, and is led to another once that is gone."""
    router.set(count=2)
    assert "set-cookie" not in router.ask()[1]
    router.set(count=2, sticky=True)
    _, headers, first = router.ask()
    cookie = headers["set-cookie"].partition(";")[0]
    assert "HttpOnly; SameSite=Lax" in headers["set-cookie"]
    assert {router.ask(Cookie=f"x=1; {cookie}")[2] for _ in range(12)} == {first}
    assert "set-cookie" not in router.ask(Cookie=cookie)[1]
    assert {router.ask(Cookie="shipway-instance=99999")[2] for _ in range(8)} == {"a", "b"}
    router.set(count=1, sticky=True)
    assert {router.ask(Cookie=cookie)[::2] for _ in range(4)} == {(200, "a")}
    assert router.unchanged()


def test_sticky_to_an_instance_that_died(router: Router) -> None:
    """A client whose instance refuses connections is answered by another."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        dead = Server("web.2", "dead", "127.0.0.1", closed.getsockname()[1])
        servers = (router.upstreams[0].entry(), dead)
        router.haproxy.update(
            [Route("one", ("one.localhost",), servers, options=Options(sticky=True))]
        )
        slots = [slot.name for _, slot in router.haproxy.table.holders("dead")]
        assert router.ask(Cookie=f"shipway-instance={slots[0]}")[::2] == (200, "a")


def test_timeouts(router: Router) -> None:
    """An app's own time to answer, and a WebSocket's to be silent, longer than usual or shorter."""
    router.set(response_timeout=0.1)
    assert router.ask("/slow")[0] == 503
    assert "code=H12" in router.last_line()
    router.set(response_timeout=2.5)
    assert router.ask("/late")[::2] == (200, "a")  # after 1.2 s, longer than the client's own limit
    router.set(tunnel_timeout=2)
    with websocket(router.port, "one.localhost") as connection:
        connection.settimeout(1.0)
        with pytest.raises(TimeoutError):
            connection.recv(1)
    router.set()
    with websocket(router.port, "one.localhost") as connection:
        connection.settimeout(3.0)
        assert connection.recv(1) == b""
    assert router.unchanged()


def test_maintenance_and_pages(router: Router) -> None:
    """Maintenance answers all, running requests end; own pages are for people, as they were written."""
    page = "<h1>Zurück um 5 – 100% %[src] \\ \"'#</h1>\r\n\t<p>two  lines</p>"
    sent = page.replace("\r\n\t", "  ")
    router.set("maintenance")
    status, headers, body = router.ask()
    assert status == 503
    assert "worked on" in body
    assert 'at=info code=H80 desc="Maintenance mode"' in router.last_line()
    router.set("maintenance", maintenance_page=page)
    status, headers, body = router.ask()
    assert (status, body) == (503, sent)
    assert headers["content-type"] == "text/html; charset=utf-8"
    assert "shipway-page" not in headers
    assert json.loads(router.ask(Accept="application/json")[2])["id"] == "maintenance"
    router.set("none", maintenance_page=page)
    assert "no running web" in router.ask()[2]
    for status_ in ("none", "crashed"):
        router.set(status_, error_page=page)  # type: ignore[arg-type]
        assert router.ask()[2] == sent
    router.set(error_page=page, response_timeout=0.1)
    assert router.ask("/slow")[::2] == (503, sent)
    assert router.ask("/gateway")[::2] == (504, "mine")  # what the app says itself stays
    assert "Application error" in get(router.port, "two.localhost", "/garbage")[2]
    router.set(response_timeout=0.1)
    assert "Its log says why" in router.ask("/slow")[2]
    assert router.unchanged()


def test_the_longest_page(router: Router) -> None:
    """A page of the greatest length goes through HAProxy's command line and out again."""
    page = "<" + "ä" * 3071
    assert len(page.encode()) == 6143
    router.set("maintenance", maintenance_page=page + "!")
    assert router.ask()[2] == page + "!"


def test_options_under_load(router: Router) -> None:
    """While options come and go no request fails, and none slips by what is set before and after."""
    router.set()
    with Steady(router.port, "one.localhost", 3) as load:
        for number in range(60):
            router.set(
                allow=("127.0.0.0/8", f"10.{number}.0.0/16"),
                rate=10_000 + number,
                sticky=bool(number % 2),
                error_page=f"<p>{number}" if number % 3 else "",
            )
    assert load.failures == {}
    assert router.unchanged()


@pytest.fixture
def h2_server() -> Iterator[Server]:
    """An instance that speaks HTTP/2 without TLS, and nothing else: a HAProxy that answers by itself."""
    port = free_port()
    with scratch() as folder:
        (folder / "h2.cfg").write_text(
            "defaults\n  mode http\n  timeout client 5s\n  timeout connect 5s\n  timeout server 5s\n"
            f"frontend f\n  bind 127.0.0.1:{port} proto h2\n"
            '  http-request return status 200 content-type text/plain lf-string "%HV %[req.hdr(host)]"\n'
        )
        process = subprocess.Popen(["haproxy", "-db", "-f", str(folder / "h2.cfg")])
        deadline = time.monotonic() + 10
        while socket.socket().connect_ex(("127.0.0.1", port)):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield Server("web.1", "h2", "127.0.0.1", port)
        process.kill()
        process.wait()


def test_http_2_to_the_app(config: Config, h2_server: Server) -> None:
    """An app that asks for it is spoken to by HTTP/2, from one request to the next, and by HTTP/1 again; also after a restart."""
    with scratch() as folder:
        found = replace(config, run=folder / "run", log=folder / "raw.log", port=free_port())
        router = Router(found)
        old = (router.upstreams[0].entry(2),)
        new = Route("one", ("one.localhost",), (h2_server,), options=Options(h2=True))
        with Steady(found.port, "two.localhost") as load:
            for _ in range(2):
                router.haproxy.update([new])
                router.haproxy.tend()
                assert router.ask()[::2] == (200, "HTTP/2.0 one.localhost")
                router.haproxy.update([Route("one", ("one.localhost",), old)])
                assert router.ask()[::2] == (200, "a")
        assert load.failures == {}
        router.haproxy.update([new])
        router.haproxy.close()
        again = HAProxy(found)
        again.start()
        assert [where.kind[1] for where, _ in again.table.holders("h2")] == [True]
        again._workers[-1].kill()
        again.tend()
        assert get(found.port, "one.localhost")[2].startswith("HTTP/2.0")
        again.stop()


def test_an_instance_that_is_killed(config: Config) -> None:
    """With one of two instances killed under load, no more fails than what it had in hands; then all goes to the other."""
    program = (
        "import sys, threading; from upstreams import Upstream; u = Upstream('k');"
        "print(u.server_address[1], flush=True); threading.Event().wait()"
    )
    killed = subprocess.Popen(
        [sys.executable, "-c", program],
        env=clean_environ(PYTHONPATH=str(Path(__file__).parents[1])),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert killed.stdout
    with scratch() as folder, Upstream("a") as upstream:
        found = replace(config, run=folder / "run", log=folder / "raw.log", port=free_port())
        haproxy = HAProxy(found)
        haproxy.start()
        other = Server("web.2", "k", "127.0.0.1", int(killed.stdout.readline()))
        haproxy.apply([Route("one", ("one.localhost",), (upstream.entry(), other))])
        with Steady(found.port, "one.localhost", 4) as load:
            deadline = time.monotonic() + 10
            while not {"a", "k"} <= load.bodies.keys():
                assert time.monotonic() < deadline
                time.sleep(0.01)
            killed.kill()
            killed.wait()
            load.bodies.clear()
            while sum(load.bodies.values()) < 50:
                assert time.monotonic() < deadline
                time.sleep(0.01)
        assert sum(load.failures.values()) <= 4
        assert get(found.port, "one.localhost", method="POST")[::2] == (200, "a")
        haproxy.stop()


def test_options_survive_restarts(config: Config) -> None:
    """Killed or adopted by a new controller: the options are what they were; removed, nothing of them is left."""
    with scratch() as folder:
        found = replace(config, run=folder / "run", log=folder / "raw.log", port=free_port())
        first = Router(found)
        first.set(
            "maintenance",
            maintenance_page="<b>m",
            allow=("127.0.0.1/32",),
            logins=(login("one", "u", "p"),),
        )
        header = basic("u", "p")
        first.haproxy.close()
        second = HAProxy(found)
        second.start()
        assert second.pid == first.pid
        assert second.table.maps() == first.haproxy.table.maps()
        assert second.table.keys_of == first.haproxy.table.keys_of
        assert get(found.port, "one.localhost", Authorization=header)[2] == "<b>m"
        second._workers[-1].kill()
        second.tend()
        assert second.pid != first.pid
        assert get(found.port, "one.localhost", Authorization=header)[2] == "<b>m"
        assert get(found.port, "one.localhost")[0] == 401
        second.apply([])
        assert (second.table.options, second.table.networks, second.table.pages) == ({}, {}, {})
        assert second.table.keys_of == {}
        second.stop()


def forwarded(port: int, *headers: str) -> dict[str, str]:
    """What an app gets for these raw header lines."""
    lines = "".join(f"{line}\r\n" for line in headers)
    answer = raw(
        port,
        f"GET /headers HTTP/1.1\r\nHost: one.localhost\r\n{lines}Connection: close\r\n\r\n".encode(),
    )
    found = {}
    for key, value in json.loads(answer.partition(b"\r\n\r\n")[2]):
        assert key.lower() not in found, key
        found[key.lower()] = value
    return found


@pytest.mark.parametrize("trusted", [("127.0.0.0/8", "10.0.0.0/8"), ("192.0.2.0/24",)])
def test_trusted_proxies(config: Config, trusted: tuple[str, ...]) -> None:
    """Trusted proxies are believed about client and protocol, back to the first address that is none; others are not."""
    with scratch() as folder:
        found = replace(
            config, run=folder / "run", log=folder / "raw.log", port=free_port(), trusted=trusted
        )
        router = Router(found)
        router.set()
        headers = forwarded(
            found.port,
            "X-Forwarded-For: 6.6.6.6, 198.51.100.7, 10.1.1.1",
            "X-Forwarded-Proto: https",
            "X-Forwarded-Host: one.localhost",
            "X_Forwarded_For: 6.6.6.6",
            "Forwarded: for=6.6.6.6",
        )
        assert "forwarded" not in headers
        assert "x_forwarded_for" not in headers
        if trusted[0].startswith("192"):
            assert headers["x-forwarded-for"] == "127.0.0.1"
            assert headers["x-forwarded-proto"] == "http"
            assert headers["x-forwarded-port"] == str(found.port)
            assert "x-forwarded-host" not in headers
            assert 'fwd="127.0.0.1"' in router.last_line()
        else:
            assert headers["x-forwarded-for"] == "6.6.6.6, 198.51.100.7, 10.1.1.1, 127.0.0.1"
            assert headers["x-forwarded-proto"] == "https"
            assert headers["x-forwarded-port"] == "443"
            assert headers["x-forwarded-host"] == "one.localhost"
            assert 'fwd="198.51.100.7"' in router.last_line()
            plain = forwarded(found.port, "X-Forwarded-Proto: javascript:", "X-Forwarded-Port: x")
            assert plain["x-forwarded-for"] == "127.0.0.1"
            assert plain["x-forwarded-proto"] == "http"
            assert plain["x-forwarded-port"] == str(found.port)
            router.set(https=True, allow=("198.51.100.7/32",))
            one = {"X_Forwarded_For": "198.51.100.7"}
            assert router.ask(**one)[0] == 308
            assert router.ask(**one, X_Forwarded_Proto="https")[0] == 200
            assert router.ask(X_Forwarded_Proto="https")[0] == 403
            _two_on_one_connection(found.port)
        router.end()


def _two_on_one_connection(port: int) -> None:
    """A proxy's connection carries several clients: each request has its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    for client, status in (("198.51.100.7", 200), ("198.51.100.8", 403), ("198.51.100.7", 200)):
        headers = {"Host": "one.localhost", "X-Forwarded-For": client, "X-Forwarded-Proto": "https"}
        connection.request("GET", "/", headers=headers)
        response = connection.getresponse()
        response.read()
        assert response.status == status, client
    connection.close()
