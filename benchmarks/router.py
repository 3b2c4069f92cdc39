"""The router under load: HAProxy as our controller runs it, beside a plain HAProxy and nginx, one thread each.

All three stand in front of the same upstream and get the same requests from wrk: over kept connections, to hosts that
were picked once, by chance, of all those that are loaded. Each has a core for itself where there are two or more; wrk
and the upstream share the others.
"""

import contextlib
import os
import random
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from benchmarks import debian
from benchmarks.measure import await_answer
from tests.support import free_port

from shipway.platform.router.haproxy import HAProxy
from shipway.platform.router.haproxy_config import Config
from shipway.platform.router.routes import Route, Server

APPS = 10_000  # each with a host and an instance
PICKED = 100  # of their hosts are asked
CONNECTIONS = 64
SECONDS = 3  # of one run
WARM_UP = 1

ANSWERS = """\
global
  nbthread 1
  maxconn 9000
defaults
  mode http
  timeout client 60s
  timeout connect 5s
  timeout server 60s
frontend upstream
  bind 127.0.0.1:{upstream}
  http-request return status 200 content-type text/plain string "Hello, world."
"""
HAPROXY = """\
global
  nbthread 1
  maxconn 8000
defaults
  mode http
  timeout client 60s
  timeout connect 5s
  timeout server 60s
frontend all
  bind 127.0.0.1:{port}
  default_backend one
backend one
  server upstream 127.0.0.1:{upstream}
"""
NGINX = """\
daemon off;
master_process off;
pid nginx.pid;
events {{ worker_connections 8000; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  upstream one {{ server 127.0.0.1:{upstream}; keepalive 256; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://one;
      proxy_http_version 1.1;
      proxy_set_header Host $host;
      proxy_set_header Connection "";
    }}
  }}
}}
"""
SCRIPT = """\
local hosts, requests, turn = {{ {hosts} }}, {{}}, 0
function init(args)
  for i, host in ipairs(hosts) do requests[i] = wrk.format(nil, "/", {{ Host = host }}) end
end
function request()
  turn = turn % #requests + 1
  return requests[turn]
end
"""


def hosts() -> list[str]:
    """The host names of the apps."""
    return [f"app{number}.localhost" for number in range(APPS)]


def asked() -> list[str]:
    """The host names that are asked: the same ones in each run."""
    return random.Random(1).sample(hosts(), PICKED)


@contextlib.contextmanager
def sides(folder: Path) -> Iterator[dict[str, int]]:
    """The three and their upstream, running: the port of each by name. `folder` has a short path."""
    debian.install("wrk", "wrk")
    debian.install("nginx", "nginx")
    folder.mkdir(parents=True)
    upstream, ports = free_port(), {"haproxy": free_port(), "nginx": free_port()}
    (folder / "wrk.lua").write_text(SCRIPT.format(hosts=", ".join(f'"{h}"' for h in asked())))
    with contextlib.ExitStack() as running:
        for name, text in {"upstream": ANSWERS, "haproxy": HAPROXY, "nginx": NGINX}.items():
            path = folder / f"{name}.cfg"
            path.write_text(text.format(upstream=upstream, port=ports.get(name)))
            if name == "nginx":
                argv = ["nginx", "-e", "stderr", "-p", str(folder), "-c", str(path)]
            else:
                argv = ["haproxy", "-db", "-f", str(path)]
            running.enter_context(_running(argv, _elsewhere() if name == "upstream" else _own()))
        ports["shipway"] = running.enter_context(_ours(folder / "ours", upstream))
        for port in ports.values():
            await_answer("127.0.0.1", port, asked()[0])
        yield ports


def throughput(folder: Path, port: int, seconds: int = SECONDS) -> float:
    """Requests per second that are answered at `port`. Raises RuntimeError if any is not, or not by 200."""
    done = subprocess.run(
        [
            *("taskset", "-c", _list(_elsewhere())),
            *("wrk", "-t", "1", "-c", str(CONNECTIONS), "-d", f"{seconds}s", "--timeout", "10s"),
            *("-s", str(folder / "wrk.lua"), f"http://127.0.0.1:{port}/"),
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    rate = re.search(r"Requests/sec: +([0-9.]+)", done.stdout)
    if rate is None or re.search("Non-2xx|Socket errors", done.stdout):
        raise RuntimeError(done.stdout)
    return float(rate[1])


def in_turn(folder: Path, ports: dict[str, int], runs: int) -> dict[str, list[float]]:
    """Requests per second of each side in `runs` runs that take turns, so that all see the same machine."""
    for port in ports.values():
        throughput(folder, port, WARM_UP)
    found: dict[str, list[float]] = {name: [] for name in ports}
    print(f"       wrk at {', '.join(ports)} in turn ", end="", flush=True)
    for _ in range(runs):
        for name, port in ports.items():
            found[name].append(throughput(folder, port))
        print(".", end="", flush=True)
    print(flush=True)
    return found


@contextlib.contextmanager
def _ours(folder: Path, upstream: int) -> Iterator[int]:
    """HAProxy under our controller with all apps' routes; its port."""
    config = Config(run=folder / "run", log=folder / "router.raw", port=free_port(), threads=1)
    haproxy = HAProxy(config)
    haproxy.start()
    try:
        haproxy.apply(
            Route(
                host.partition(".")[0], (host,), (Server("web.1", f"i{n}", "127.0.0.1", upstream),)
            )
            for n, host in enumerate(hosts())
        )
        os.sched_setaffinity(haproxy.pid, _own())
        yield config.port
    finally:
        haproxy.stop()


@contextlib.contextmanager
def _running(argv: list[str], cores: set[int]) -> Iterator[None]:
    """A process on these cores."""
    pinned = ["taskset", "-c", _list(cores), *argv]
    process = subprocess.Popen(pinned, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(10)


def _own() -> set[int]:
    """The core of whichever of the three is being asked."""
    return {min(os.sched_getaffinity(0))}


def _elsewhere() -> set[int]:
    """The cores of wrk and the upstream."""
    return os.sched_getaffinity(0) - _own() or _own()


def _list(cores: set[int]) -> str:
    return ",".join(map(str, sorted(cores)))
