"""Our side: a platform in a scratch folder, and an engine on its stack."""

import subprocess
import time
import uuid
from pathlib import Path

from benchmarks.measure import await_answer, descendants, pss, timed
from tests.support import Platform

from shipway.runtime.config import EngineConfig
from shipway.runtime.engine import Engine
from shipway.runtime.spec import ContainerSpec, IdRange

SAMPLE = {
    "app.py": (
        "from flask import Flask\n\napp = Flask(__name__)\n\n\n@app.get('/')\ndef index():\n"
        "    return 'VERSION'\n"
    ),
    "requirements.txt": "flask==3.1.3\ngunicorn==27.0.1\n",
    "Procfile": "web: gunicorn --bind 0.0.0.0:$PORT --threads 4 app:app\n",
}


def sample(version: str) -> dict[str, str]:
    """The app that both sides build and run."""
    return {**SAMPLE, "app.py": SAMPLE["app.py"].replace("VERSION", version)}


def first_push(platform: Platform) -> float:
    """Seconds from `git push` of a new app, with empty caches, until it answers."""
    name = f"a{uuid.uuid4().hex[:10]}"
    platform.cli("apps:create", name)
    work = platform.repo(name, sample(name))
    return timed(lambda: _push_until(platform, work, name, name))


def code_push(platform: Platform, name: str) -> float:
    """Seconds from `git push` of a change of code until the new version answers."""
    work = platform.folder / "work" / name
    version = uuid.uuid4().hex[:10]
    platform.commit(work, sample(version))
    return timed(lambda: _push_until(platform, work, name, version))


def _push_until(platform: Platform, work: Path, name: str, version: str) -> None:
    push = subprocess.Popen(
        ["git", "push", "-q", "shipway", "main"],
        cwd=work,
        env=platform.git_environ(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        await_answer("127.0.0.1", platform.settings.router_port, f"{name}.localhost", version)
    finally:
        out = push.communicate()[0]
    if push.returncode != 0:
        raise RuntimeError(out.decode())


def engine_of(platform: Platform) -> Engine:
    """An engine on the platform's images, with a network of its own."""
    root = platform.data / "runtime"
    bridge = platform.settings.bridge
    config = EngineConfig(
        root=root,
        run=platform.data / "run" / "c",
        bridge=bridge,
        subnet=platform.settings.subnet,
        table=bridge,
        cgroup=bridge,
    )
    engine = Engine(config)
    engine.setup()
    return engine


def container_start(engine: Engine, image: str) -> float:
    """Seconds of run + wait + remove of /bin/true, network and monitor included."""
    name = f"b{uuid.uuid4().hex[:10]}"
    spec = ContainerSpec(id=name, image=image, args=("/bin/true",), env={}, ids=IdRange(1 << 30))

    def once() -> None:
        engine.run(spec)
        engine.wait(name)
        engine.remove(name)

    return timed(once)


def start(platform: Platform) -> float:
    """Seconds of `shipway up`, warm, until a push would be taken."""
    platform.cli("down")
    time.sleep(0.2)  # the machine comes to rest; outside of what is measured
    return timed(platform.start)


def idle_memory(platform: Platform) -> int:
    """Bytes (PSS) of all processes of the platform, HAProxy and Redis included."""
    supervisor = int((platform.data / "run" / "shipway.pid").read_text().split()[0])
    pids = set(descendants(supervisor))
    for path in Path("/proc").iterdir():
        if path.name.isdigit() and int(path.name) not in pids:
            try:
                line = (path / "cmdline").read_bytes()
                environ = (path / "environ").read_bytes()
            except OSError:
                continue
            ours = str(platform.data).encode()
            monitor = b"conmon" in line or f"/{platform.settings.bridge}/".encode() in _cgroup(path)
            if (ours in line or ours in environ) and not monitor and b"benchmarks" not in line:
                pids.add(int(path.name))
    return pss(pids)


def _cgroup(path: Path) -> bytes:
    try:
        return (path / "cgroup").read_bytes()
    except OSError:
        return b""
