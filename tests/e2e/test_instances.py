"""Instances and logs of a pushed app: scale, isolation, crashes, the log."""

import re
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apps import flask_app
from load import Load
from support import Platform, platform


@pytest.fixture(scope="module")
def shipway() -> Iterator[Platform]:
    """One platform for all tests of this file, with the app hello live."""
    with platform(__name__) as found:
        found.cli("apps:create", "hello")
        found.push(found.repo("hello", flask_app("one")))
        yield found


def instances(shipway: Platform) -> dict[str, dict[str, Any]]:
    """The app's running instances by name."""
    return {row["name"]: row for row in shipway.json("ps", "hello")}


def wait_for(check: Any, what: str, timeout: float = 40.0) -> None:
    """Look until `check()` is true."""
    deadline = time.monotonic() + timeout
    while not check():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def containers(shipway: Platform) -> list[Path]:
    """The container folders the engine has."""
    folder = shipway.data / "runtime" / "containers"
    return [path for path in folder.iterdir() if path.is_dir()]


def test_scaling_touches_only_the_difference(shipway: Platform) -> None:
    """web=3 starts exactly two more and leaves the first alone; the router spreads over all; web=1 stops two."""
    first = instances(shipway)["web.1"]
    out = shipway.cli("ps:scale", "hello", "web=3").stdout
    assert "web at 3" in out
    now = instances(shipway)
    assert set(now) == {"web.1", "web.2", "web.3"}
    assert now["web.1"]["id"] == first["id"]
    assert now["web.1"]["started_at"] == first["started_at"]
    assert all(row["state"] == "up" for row in now.values())
    seen = {shipway.get("hello")[2].split()[1] for _ in range(60)}
    assert seen == {"web.1", "web.2", "web.3"}
    with Load(shipway.settings.router_port, "hello") as load:
        shipway.cli("ps:scale", "hello", "web=1")
        wait_for(lambda: len(containers(shipway)) == 1, "two containers are to go")
    assert load.failed == {}
    last = instances(shipway)
    assert set(last) == {"web.1"}
    assert last["web.1"]["id"] == first["id"]


def test_ps_shows_what_a_person_asks(shipway: Platform) -> None:
    """`shipway ps` shows state, host, uptime and memory, for people and as JSON."""
    wait_for(lambda: instances(shipway)["web.1"]["memory"], "memory is reported by the heartbeat")
    text = shipway.cli("ps", "hello").stdout
    assert re.search(r"web\.1\s+.*up.*local", text), text
    row = instances(shipway)["web.1"]
    assert row["memory"] > 5 << 20
    assert row["host"] == "local"


def test_an_unknown_process_type_is_named(shipway: Platform) -> None:
    """Scaling a type the app lacks says which there are."""
    done = shipway.cli("ps:scale", "hello", "wrker=1", check=False)
    assert done.returncode != 0
    assert "wrker" in done.stderr
    assert "web" in done.stderr


def test_a_crashed_instance_comes_back(shipway: Platform) -> None:
    """An instance whose process dies is started again, and the log says what happened."""
    before = instances(shipway)["web.1"]
    shipway.get("hello", "/crash")
    wait_for(
        lambda: (
            instances(shipway)["web.1"]["state"] == "up"
            and instances(shipway)["web.1"]["started_at"] != before["started_at"]
        ),
        "web.1 is to come back",
    )
    wait_for(lambda: shipway.get("hello")[0] == 200, "it answers again")
    log = shipway.cli("logs", "hello", "-n", "100000").stdout
    assert re.search(r"shipway\[web\.1\]: State changed from up to crashed", log), log[-3000:]


def test_the_process_is_unprivileged(shipway: Platform) -> None:
    """On the host the app runs as a user of its own range, with no capability, no new privileges and seccomp."""
    pids = [
        int(p.name)
        for p in Path("/proc").iterdir()
        if p.name.isdigit() and _cgroup_of(p, shipway.settings.bridge)
    ]
    gunicorn = [pid for pid in pids if b"gunicorn" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert gunicorn
    status = Path(f"/proc/{gunicorn[0]}/status").read_text()
    assert int(re.search(r"^Uid:\s+(\d+)", status, re.MULTILINE)[1]) > 1 << 20
    assert re.search(r"^CapEff:\s+0+$", status, re.MULTILINE)
    assert re.search(r"^CapBnd:\s+0+$", status, re.MULTILINE)
    assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE)
    assert re.search(r"^Seccomp:\s+2$", status, re.MULTILINE)


def _cgroup_of(proc: Path, name: str) -> bool:
    try:
        return f"/{name}/" in (proc / "cgroup").read_text()
    except OSError:
        return False


def test_one_stream_of_log(shipway: Platform) -> None:
    """App, router and platform speak in one stream in the field's format, live and with history."""
    tail = subprocess.Popen(
        ["shipway", "logs", "-t", "hello"], env=shipway.environ, stdout=subprocess.PIPE, text=True
    )
    assert tail.stdout is not None
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(tail.stdout or ()), daemon=True)
    reader.start()
    try:
        shipway.get("hello", "/log?line=a-line-from-the-app")
        wait_for(
            lambda: any("a-line-from-the-app" in x and "app[web.1]" in x for x in lines), "live"
        )
        wait_for(lambda: any("shipway[router]: at=info" in x for x in lines), f"router: {lines}")
    finally:
        tail.kill()
        tail.wait()
    history = shipway.cli("logs", "hello", "-n", "100000").stdout
    stamp = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00"
    for pattern in (
        rf"^{stamp} app\[web\.1\]: a-line-from-the-app$",
        rf'^{stamp} shipway\[router\]: at=info method=GET path="/log\?line=a-line-from-the-app"'
        r" host=hello\.localhost request_id=\S+ fwd=\S+ dyno=web\.1 connect=\d+ms service=\d+ms"
        r" status=200 bytes=\d+ protocol=http$",
        rf"^{stamp} shipway\[web\.1\]: State changed from starting to up$",
        rf"^{stamp} app\[api\]: Release v1 created by user admin$",
    ):
        assert re.search(pattern, history, re.MULTILINE), f"{pattern}\n{history}"


def test_hostile_lines_stay_text(shipway: Platform) -> None:
    """Escape sequences in a log line do not reach a terminal as such."""
    shipway.get("hello", "/log?line=%1b]0;owned%07%1b[2Jend-of-hostile-line")
    wait_for(
        lambda: (
            "end-of-hostile-line" in shipway.cli("logs", "hello", "-n", "50", "-p", "web").stdout
        ),
        "the line arrives",
    )
    out = shipway.cli("logs", "hello", "-n", "50").stdout
    assert "\x1b]" not in out
    assert "\x1b[2J" not in out
    assert "\x07" not in out


def test_history_survives_a_deploy(shipway: Platform) -> None:
    """Lines of the version before are still there after the next push."""
    work = shipway.folder / "work" / "hello"
    shipway.commit(work, flask_app("two"))
    shipway.push(work)
    log = shipway.cli("logs", "hello", "-n", "100000").stdout
    assert "app[web.1]: a-line-from-the-app" in log
    assert "Release v2 created" in log


def test_instances_cannot_reach_the_platform_or_each_other(shipway: Platform) -> None:
    """From inside an instance the platform's ports, its neighbours and private addresses do not answer."""
    shipway.cli("apps:create", "prober")
    code = """
import os, socket
from flask import Flask
app = Flask(__name__)

@app.get("/")
def index():
    return "prober"

@app.get("/probe/<host>/<int:port>")
def probe(host, port):
    try:
        socket.create_connection((host, port), timeout=2).close()
    except OSError as error:
        return f"no: {type(error).__name__}"
    return "yes"
"""
    shipway.push(shipway.repo("prober", {**flask_app("x"), "app.py": code}))
    neighbour = instances(shipway)["web.1"]["address"]
    gateway = neighbour.rsplit(".", 1)[0] + ".1"
    for host, port in (
        (neighbour, 5000),
        (gateway, shipway.settings.router_port),
        (gateway, shipway.settings.web_port),
        (gateway, shipway.settings.ssh_port),
        ("169.254.169.254", 80),
        ("192.0.2.2", shipway.settings.router_port),
    ):
        assert shipway.get("prober", f"/probe/{host}/{port}")[2].startswith("no"), (host, port)
