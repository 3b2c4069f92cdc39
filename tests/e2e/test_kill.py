"""kill -9 of each process, of all at once, and an emptied Redis: apps serve on, and nothing confirmed is lost."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apps import flask_app
from load import Load
from support import Platform, platform

ROLES = ("redis", "web", "ssh", "worker", "host", "router")
# What each calls itself in ps, once it is at work.
TITLES = {
    "redis": "redis-server",
    "web": "gunicorn: master",
    "ssh": "shipway ssh",
    "worker": r"\[celeryd: builds@",
    "host": r"\[celeryd: host\.",
    "router": "shipway router",
}


@pytest.fixture(scope="module")
def shipway() -> Iterator[Platform]:
    """One platform with the app hello live and scaled to two."""
    with platform(__name__) as found:
        found.cli("apps:create", "hello")
        found.push(found.repo("hello", flask_app("one")))
        found.cli("ps:scale", "hello", "web=2")
        yield found


def supervisor(shipway: Platform) -> int:
    """The supervisor's pid."""
    return int((shipway.data / "run" / "shipway.pid").read_text().split()[0])


def children(pid: int) -> list[int]:
    """A process's children."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        found += [int(child) for child in task.read_text().split()]
    return found


def by_role(shipway: Platform) -> dict[str, int]:
    """The pid of each process of the Procfile, told by its command line."""
    found = {}
    for pid in children(supervisor(shipway)):
        line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        for role, pattern in TITLES.items():
            if re.match(pattern, line):
                found[role] = pid
    return found


def eventually(check: Any, what: str, timeout: float = 60.0) -> None:
    """Look until `check()` is true; what it raises counts as no."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            if check():
                return
        except (AssertionError, OSError, ValueError, KeyError):
            pass
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def connects(port: int) -> bool:
    """Whether somebody listens on a port."""
    with socket.create_connection(("127.0.0.1", port), timeout=5):
        return True


def truth(shipway: Platform) -> Any:
    """What was confirmed: releases, scale and the ids of what runs."""
    return (
        [(r["version"], r["state"]) for r in shipway.json("releases", "hello")],
        sorted((i["name"], i["id"], i["started_at"]) for i in shipway.json("ps", "hello")),
    )


def works(shipway: Platform) -> None:
    """A push of a new version, a scale and a log line do what they should."""
    for port in (shipway.settings.ssh_port, shipway.settings.web_port):
        eventually(lambda port=port: connects(port), f"port {port} is to be listened on again")
    work = shipway.folder / "work" / "hello"
    mark = f"v{time.monotonic_ns()}"
    shipway.commit(work, flask_app(mark))
    out = shipway.push(work).stdout
    assert "Released v" in out
    assert shipway.get("hello")[2].startswith(mark)
    shipway.get("hello", f"/log?line=mark-{mark}")
    eventually(lambda: f"mark-{mark}" in shipway.cli("logs", "hello", "-n", "100").stdout, "log")


@pytest.mark.parametrize("role", ROLES)
def test_one_process_is_killed(shipway: Platform, role: str) -> None:
    """kill -9 of one process: no request fails, nothing is lost, and a push works again by itself."""
    before = truth(shipway)
    history = shipway.cli("logs", "hello", "-n", "100000", "-p", "web").stdout.splitlines()
    pid = by_role(shipway)[role]
    with Load(shipway.settings.router_port, "hello") as load:
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: by_role(shipway)[role] != pid, f"{role} is to come back")
        eventually(lambda: truth(shipway) == before, f"{role}: the truth is to be as before")
    assert load.failed == {}
    after = shipway.cli("logs", "hello", "-n", "100000", "-p", "web").stdout.splitlines()
    assert after[: len(history)] == history
    works(shipway)


def test_haproxy_is_killed(shipway: Platform) -> None:
    """kill -9 of HAProxy itself: it answers again within two seconds, with the same routes."""
    pids = haproxies(shipway)
    assert pids
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    start = time.monotonic()
    eventually(lambda: shipway.get("hello")[0] == 200, "HAProxy is to come back", 10)
    assert time.monotonic() - start < 5
    works(shipway)


def haproxies(shipway: Platform) -> list[int]:
    """The pids of the platform's HAProxy processes."""
    return [
        int(p.name)
        for p in Path("/proc").iterdir()
        if p.name.isdigit() and _is_haproxy_of(p, shipway)
    ]


def _is_haproxy_of(proc: Path, shipway: Platform) -> bool:
    try:
        line = (proc / "cmdline").read_bytes()
    except OSError:
        return False
    return (
        line.startswith((b"haproxy", b"/usr/sbin/haproxy")) and str(shipway.data).encode() in line
    )


def test_the_supervisor_is_killed(shipway: Platform) -> None:
    """kill -9 of the supervisor: apps serve on without a failed request, and its keeper starts all again."""
    before, pid = truth(shipway), supervisor(shipway)
    with Load(shipway.settings.router_port, "hello") as load:
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: supervisor(shipway) != pid and len(by_role(shipway)) == 6, "all back")
        eventually(lambda: truth(shipway) == before, "the truth is to be as before")
    assert load.failed == {}
    works(shipway)


@contextlib.contextmanager
def as_systemd_does(shipway: Platform) -> Iterator[subprocess.Popen[bytes]]:
    """`shipway up --foreground` with systemd's socket for remarks; entered once it says that it is ready."""
    address = shipway.folder / f"notify-{time.monotonic_ns()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(str(address))
        ear.settimeout(60)
        command = ["shipway", "up", "--foreground"]
        environ = {**shipway.environ, "NOTIFY_SOCKET": str(address)}
        with subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL) as process:
            try:
                while b"READY=1" not in ear.recv(4096).splitlines():
                    pass
                yield process
            finally:
                process.terminate()


def test_a_restart_by_systemd(shipway: Platform) -> None:
    """It says when a push would be taken; on SIGHUP all ends but HAProxy, and no request fails until the next start."""
    shipway.cli("down")
    try:
        with as_systemd_does(shipway) as process:
            works(shipway)
            before = truth(shipway)
            haproxy = haproxies(shipway)
            with Load(shipway.settings.router_port, "hello") as load:
                process.send_signal(signal.SIGHUP)
                assert process.wait(60) == 0
                with as_systemd_does(shipway):
                    eventually(lambda: truth(shipway) == before, "the same instances")
                    assert haproxies(shipway) == haproxy
                    load.stop()
                    works(shipway)
        assert load.failed == {}
        assert haproxies(shipway) == []
    finally:
        shipway.start()


def test_an_upgrade(shipway: Platform) -> None:
    """`shipway up` once the code has changed: a new platform in the old one's stead, and no request fails."""
    before, pids = truth(shipway), by_role(shipway)
    haproxy = haproxies(shipway)
    pid_file = shipway.data / "run" / "shipway.pid"
    with Load(shipway.settings.router_port, "hello") as load:
        # As an older version would have left it: the same process, of other code.
        pid_file.write_text(pid_file.read_text().splitlines()[0] + "\nolder\n")
        assert "starts anew" in shipway.cli("up").stderr
        assert not set(by_role(shipway).values()) & set(pids.values())
        assert haproxies(shipway) == haproxy
        eventually(lambda: truth(shipway) == before, "the same instances")
        assert "starts anew" not in shipway.cli("up").stderr
    assert load.failed == {}
    works(shipway)


def test_an_upgrade_is_left_to_systemd(shipway: Platform) -> None:
    """`shipway up` does not take a platform away from who started it; it says what to do, and changes nothing."""
    shipway.cli("down")
    try:
        with as_systemd_does(shipway):
            works(shipway)
            before = by_role(shipway)
            pid_file = shipway.data / "run" / "shipway.pid"
            pid, _, keeper = pid_file.read_text().split()
            pid_file.write_text(f"{pid}\nolder\n{keeper}\n")
            done = shipway.cli("up", check=False)
            assert done.returncode == 69
            assert "systemctl restart shipway" in done.stderr
            assert by_role(shipway) == before
    finally:
        shipway.start()


def test_all_are_killed_at_once(shipway: Platform) -> None:
    """kill -9 of every process of the Procfile at once: apps serve on, all come back, nothing is lost."""
    before = truth(shipway)
    pids = by_role(shipway)
    assert len(pids) == 6, pids
    with Load(shipway.settings.router_port, "hello") as load:
        for pid in pids.values():
            os.kill(pid, signal.SIGKILL)
        eventually(
            lambda: (
                len(by_role(shipway)) == 6
                and not set(by_role(shipway).values()) & set(pids.values())
            ),
            "all are to come back",
        )
        eventually(lambda: truth(shipway) == before, "the truth is to be as before")
    assert load.failed == {}
    works(shipway)


def test_redis_is_emptied(shipway: Platform) -> None:
    """FLUSHALL between a push and its build: the push still goes live."""
    work = shipway.folder / "work" / "hello"
    path = f"{shipway.data}/run/redis.sock"
    ping = ["redis-cli", "-s", path, "ping"]
    # All the rest works without it, so it may still be on its way back from the test before.
    eventually(lambda: subprocess.run(ping, capture_output=True).returncode == 0, "Redis is back")
    shipway.commit(work, flask_app("flushed"))
    client = subprocess.Popen(
        ["git", "push", "shipway", "main"],
        cwd=work,
        env=shipway.git_environ(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    while client.poll() is None:
        subprocess.run(["redis-cli", "-s", path, "flushall"], check=True, capture_output=True)
        time.sleep(0.05)
    out = client.communicate()[0]
    assert client.returncode == 0, out
    assert shipway.get("hello")[2].startswith("flushed")


def test_the_worker_is_killed_in_a_build(shipway: Platform) -> None:
    """kill -9 of the worker while it builds: the build is taken up again, and one release comes of it."""
    work = shipway.folder / "work" / "hello"
    before = shipway.json("releases", "hello")[0]["version"]
    shipway.commit(work, flask_app("survivor"))
    client = subprocess.Popen(
        ["git", "push", "shipway", "main"],
        cwd=work,
        env=shipway.git_environ(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert client.stdout is not None
    for line in client.stdout:
        if "-----> Building" in line or "app detected" in line:
            break
    os.kill(by_role(shipway)["worker"], signal.SIGKILL)
    rest = client.communicate(timeout=170)[0]
    assert client.returncode == 0, rest
    assert shipway.get("hello")[2].startswith("survivor")
    assert shipway.json("releases", "hello")[0]["version"] == before + 1


def test_down_leaves_the_apps_and_up_finds_them(shipway: Platform) -> None:
    """`shipway down` says that the apps run on; `shipway up` serves the very same instances again."""
    before = truth(shipway)
    out = shipway.cli("down").stdout
    assert "keep running" in out
    shipway.start()
    eventually(lambda: truth(shipway) == before, "the same instances")
    eventually(lambda: shipway.get("hello")[0] == 200, "it answers")
    works(shipway)
