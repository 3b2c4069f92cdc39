"""What tests of several kinds share: scratch folders, free ports, engines and platforms of their own."""

import contextlib
import fcntl
import hashlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# The stack is built once and hard-linked into each test's engine.
STACK_CACHE = ROOT / ".venv" / "cache" / "engine"


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder with a short path (unix sockets below it end at 108 bytes), removed at the end."""
    path = Path(tempfile.mkdtemp(prefix="sw-", dir="/tmp"))
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
    """Give the engine root `root` the stack's images and layers, hard-linked from the cache."""
    from shipway.buildpacks.stacks import ensure_stack
    from shipway.runtime.engine import Engine, EngineConfig

    STACK_CACHE.mkdir(parents=True, exist_ok=True)
    engine = Engine(EngineConfig(root=STACK_CACHE, run=STACK_CACHE / "run"))
    ensure_stack(engine, output=lambda _line: None)
    root.mkdir(parents=True, exist_ok=True)
    for name in ("images", "layers"):
        subprocess.run(["cp", "-al", STACK_CACHE / name, root / name], check=True)


def clean_environ(**extra: str) -> dict[str, str]:
    """An environment for child processes without settings of the one that runs the tests."""
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("SHIPWAY_", "GIT_AUTHOR"))}
    return {**keep, "PATH": f"{Path(sys.executable).parent}:{keep.get('PATH', '')}", **extra}
