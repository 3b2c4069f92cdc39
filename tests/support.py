"""What tests of several kinds share: scratch folders, free ports, engines and platforms of their own."""

import contextlib
import fcntl
import hashlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shipway.platform.settings import Settings, load

ROOT = Path(__file__).resolve().parent.parent
# The stack is built once and hard-linked into each test's engine.
STACK_CACHE = ROOT / ".venv" / "cache" / "engine"


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder with a short path (unix sockets below it end at 108 bytes), removed at the end.

    On the checkout's disk if that can be: Debian 13's /tmp is in memory, and nothing can be linked to it.
    """
    on_disk = os.stat("/tmp").st_dev == ROOT.stat().st_dev
    path = Path(tempfile.mkdtemp(prefix="sw-", dir="/tmp" if on_disk else "/var/tmp"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def free_port() -> int:
    """A TCP port of the loopback that nobody listens on, and that no other test is given."""
    lock = Path(tempfile.gettempdir()) / "sw-test-ports"
    with lock.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        text = file.read().strip()
        port = int(text) if text else 20000
        while True:
            port = port + 1 if port < 29999 else 20001
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    continue
            file.truncate(0)
            file.write(str(port))
            return port


def network_names(seed: str) -> tuple[str, str]:
    """A bridge name and a subnet of their own, made of `seed` (a test module's name, say)."""
    digest = hashlib.sha256(f"{seed}{os.getpid()}".encode()).digest()
    return f"sw{digest[:4].hex()}", f"10.{100 + digest[4] % 100}.{digest[5]}.0/24"


def link_stack(root: Path) -> None:
    """Give the engine root `root` the stack's images and layers, hard-linked from the cache if it can be."""
    from shipway.buildpacks.stacks import ensure_stack
    from shipway.runtime.config import EngineConfig
    from shipway.runtime.engine import Engine

    STACK_CACHE.mkdir(parents=True, exist_ok=True)
    engine = Engine(EngineConfig(root=STACK_CACHE, run=STACK_CACHE / "run"))
    ensure_stack(engine, output=lambda _line: None)
    root.mkdir(parents=True, exist_ok=True)
    for name in ("images", "layers"):
        linked = root.stat().st_dev == STACK_CACHE.stat().st_dev
        how = "-al" if linked else "-a"
        subprocess.run(["cp", how, STACK_CACHE / name, root / name], check=True)


def clean_environ(**extra: str) -> dict[str, str]:
    """An environment for child processes without settings of the one that runs the tests."""
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("SHIPWAY_", "GIT_AUTHOR"))}
    return {**keep, "PATH": f"{Path(sys.executable).parent}:{keep.get('PATH', '')}", **extra}


class Platform:
    """A whole platform of its own: own data folder, ports, bridge; started and ended like a person would."""

    def __init__(self, folder: Path, seed: str, **settings: object) -> None:
        bridge, subnet = network_names(seed)
        self.folder = folder
        self.data = folder / "data"
        self.data.mkdir()
        self.values = {
            "data": self.data,
            "router_port": free_port(),
            "web_port": free_port(),
            "ssh_port": free_port(),
            "bridge": bridge,
            "subnet": subnet,
            **settings,
        }
        self.environ = clean_environ(
            **{f"SHIPWAY_{key.upper()}": str(value) for key, value in self.values.items()},
            HOME=str(folder / "home"),
            GIT_CONFIG_NOSYSTEM="1",
            GIT_TERMINAL_PROMPT="0",
        )
        (folder / "home").mkdir()
        self.key = folder / "key"
        self.token = ""

    @property
    def settings(self) -> Settings:
        """The platform's settings, as its processes see them."""
        return load({k: v for k, v in self.environ.items() if k.startswith("SHIPWAY_")})

    def cli(
        self, *args: str, check: bool = True, **kwargs: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run `shipway ARGS` as root on the platform's machine."""
        done = subprocess.run(
            ["shipway", *args],
            env=self.environ,
            text=True,
            capture_output=True,
            cwd=self.folder,
            timeout=kwargs.pop("timeout", 180),
            **kwargs,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"shipway {args} → {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def json(self, *args: str) -> Any:
        """What a listing command says with --json."""
        return json.loads(self.cli(*args, "--json").stdout)

    def start(self) -> None:
        """Start everything and return once a push would be taken."""
        self.cli("up")

    def stop(self) -> None:
        """End everything, the apps too, and what the engine made on this machine."""
        done = self.cli("down", "--apps", check=False)
        if done.returncode != 0:
            sys.stderr.write(done.stdout + done.stderr)

    def prepare(self) -> None:
        """Register a key of a test client and make a token."""
        argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key)]
        subprocess.run(argv, check=True)
        self.cli("keys:add", f"{self.key}.pub", "--name", "test")
        self.token = self.json("tokens:create", "test")["token"]

    # -- git -------------------------------------------------------------------------------------

    def repo(self, app: str, files: dict[str, str]) -> Path:
        """A working copy of `app` with `files` committed and the remote `shipway` over SSH."""
        work = self.folder / "work" / app
        work.mkdir(parents=True)
        self.git(work, "init", "-q", "-b", "main")
        remote = f"ssh://git@127.0.0.1:{self.values['ssh_port']}/{app}"
        self.git(work, "remote", "add", "shipway", remote)
        http = f"http://x:{self.token}@127.0.0.1:{self.values['web_port']}/{app}.git"
        self.git(work, "remote", "add", "http", http)
        self.commit(work, files)
        return work

    def commit(self, work: Path, files: dict[str, str], message: str = "change") -> str:
        """Write files, commit them; the commit's id."""
        for name, text in files.items():
            path = work / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        self.git(work, "add", "-A")
        identity = ["-c", "user.name=Test", "-c", "user.email=test@localhost"]
        self.git(work, *identity, "commit", "-q", "--allow-empty", "-m", message)
        return self.git(work, "rev-parse", "HEAD").stdout.strip()

    def git_environ(self) -> dict[str, str]:
        """The environment of a stock git client."""
        ssh = (
            f"ssh -i {self.key} -o IdentitiesOnly=yes -o StrictHostKeyChecking=no"
            f" -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
        )
        clean = {k: v for k, v in self.environ.items() if not k.startswith("SHIPWAY_")}
        return {**clean, "GIT_SSH_COMMAND": ssh}

    def git(
        self, work: Path, *args: str, check: bool = True, timeout: float = 180
    ) -> subprocess.CompletedProcess[str]:
        """Run git in a working copy; stderr is part of stdout, as a person sees it."""
        done = subprocess.run(
            ["git", *args],
            cwd=work,
            env=self.git_environ(),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"git {args} → {done.returncode}\n{done.stdout}")
        return done

    def push(self, work: Path, *args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """`git push shipway main`, or with other arguments."""
        return self.git(work, "push", *(args or ("shipway", "main")), check=check)

    # -- http ------------------------------------------------------------------------------------

    def get(
        self, app: str, path: str = "/", headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], str]:
        """Ask an app through the router: status, headers (lower case), body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.settings.router_port, timeout=30)
        host = {"Host": f"{app}.localhost"}
        connection.request("GET", path, headers={**host, **(headers or {})})
        response = connection.getresponse()
        body = response.read().decode(errors="replace")
        found = {key.lower(): value for key, value in response.getheaders()}
        return response.status, found, body

    def log_tail(self, lines: int = 60) -> str:
        """The platform's own last lines, for a failed test's report."""
        path = self.data / "platform.log"
        return "\n".join(path.read_text().splitlines()[-lines:]) if path.exists() else ""


@contextlib.contextmanager
def platform(seed: str, **settings: object) -> Iterator[Platform]:
    """A started platform with the stack in place, gone at the end."""
    with scratch() as folder:
        found = Platform(folder, seed, **settings)
        link_stack(found.data / "runtime")
        try:
            found.start()
            found.prepare()
            yield found
        finally:
            found.stop()
