"""kill -9 of whoever starts a container, 200 times, anywhere: the next call leaves nothing of it."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from enginelab import IMAGE, STARTING, Lab, eventually, open_lab

KILLS = 200
PROCESSES = 4
STEPS = [
    *STARTING,
    "containers.secrets:Vault.keep",
    "kernel.disk:make",
    "kernel.disk:_loop_device",
    "kernel.disk:Layer.attach",
    "containers.idmapping:user_namespace",
    "containers.container:Files.begin",
    "containers.container:Files.finish",
]

# A process that has its children start containers, and sees each of them killed: at a step, before
# or after it is done, or after a time. All is chosen by a seed, so that a failure can be repeated.
SCRIPT = """
import contextlib, importlib, os, random, signal, sys, time
from pathlib import Path
from shipway.runtime.config import EngineConfig
from shipway.runtime.engine import Engine
from shipway.runtime.spec import ContainerSpec, IdRange, Limits

seed, count, steps, config, image = sys.argv[1:]
draw = random.Random(int(seed))
config = EngineConfig(**eval(config))

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def arm(step, when):
    module, names = step.split(":")
    *path, name = names.split(".")
    owner = importlib.import_module(f"shipway.runtime.{module}")
    for part in path:
        owner = getattr(owner, part)
    original = getattr(owner, name)
    def deadly(*args, **kwargs):
        if when == "before":
            die()
        original(*args, **kwargs)
        die()
    setattr(owner, name, deadly)

def start(name, limited):
    extra = {"limits": Limits(disk=2**25), "secrets": {"s": b"x"}} if limited else {}
    Engine(config).run(ContainerSpec(name, image, ("sleep", "60"), {}, IdRange(300000), **extra))

done = {"step": 0, "time": 0}
for number in range(int(count)):
    step = draw.choice(steps.split())
    when = draw.choice(["before", "after", "time"])
    seconds = draw.uniform(0, 0.2)
    limited = step.split(":")[0] in ("kernel.disk", "containers.secrets") or draw.random() < 0.2
    pid = os.fork()
    if pid == 0:
        try:
            if when != "time":
                arm(step, when)
            start(f"v{seed}-{number}", limited)
        finally:
            signal.pause() if when == "time" else os._exit(1)
    if when == "time":
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    assert os.WIFSIGNALED(status), (step, when, status)
    done["time" if when == "time" else "step"] += 1
print(done["step"], done["time"])
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """One engine for all tests of this file."""
    with open_lab(__name__) as lab:
        yield lab


def links(lab: Lab) -> list[str]:
    """The network interfaces of this engine."""
    return sorted(name for name in os.listdir("/sys/class/net") if lab.config.bridge in name)


def rules(lab: Lab) -> str:
    """The engine's packet rules, elements and all, without counters' values."""
    listed = eventually(lambda: list_rules() or None)
    tables = f"\n{listed}".split("\ntable ")  # ours may be the first of all, or not
    return "".join(each.strip() for each in tables if lab.config.table in each)


def list_rules() -> str:
    """All packet rules; nft 1.0.6 can crash at a list that another process is just changing."""
    argv = ["nft", "--stateless", "list", "ruleset"]
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout


def strays(lab: Lab) -> list[str]:
    """Temporary files below the engine's folders, and what is noted as unfinished."""
    root = lab.config.root
    folders = [root, lab.config.run, root / "addresses", root / "locks", root / "unfinished"]
    names = [f"{folder.name}/{name}" for folder in folders for name in os.listdir(folder)]
    known = ("d/", "r/.idmap", "r/.oci", "r/.secrets", "addresses/", "locks/.")
    return [each for each in names if not each.startswith(known) or each.startswith("d/.")]


def test_two_hundred_kills_leave_nothing(lab: Lab) -> None:
    """After them one listing clears all: mounts, veths, groups, monitors, loops, leases, files."""
    lab.run("neighbour", "sleep", "60")
    before = (lab.leftovers(), links(lab), rules(lab))
    config = repr(vars(lab.config)).replace("PosixPath", "Path")
    processes = [
        subprocess.Popen(
            [
                *(sys.executable, "-c", SCRIPT, str(seed), str(KILLS // PROCESSES)),
                *(" ".join(STEPS), config, IMAGE),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for seed in range(PROCESSES)
    ]
    outputs = [process.communicate(timeout=120) for process in processes]
    for process, (_, errors) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, errors
    counts = [[int(word) for word in text.split()[-2:]] for text, _ in outputs]
    assert sum(map(sum, counts)) == KILLS
    assert all(step > 10 and time > 5 for step, time in counts)

    lab.engine.sweep()
    # Those whose caller came to the end before it was killed simply run.
    for container in lab.engine.list():
        assert container.state == "running", container
        if container.id != "neighbour":
            lab.engine.remove(container.id)
    # First what may need a moment: the kernel takes down network namespaces, and their ports.
    assert (lab.leftovers(), links(lab), rules(lab)) == before
    assert eventually(lambda: not lab.loops())
    assert [each for each in strays(lab) if "neighbour" not in each] == []
    # The neighbour was never touched.
    assert lab.engine.get("neighbour").state == "running"
    lab.engine.remove("neighbour")


def test_what_is_still_being_made_is_not_swept(lab: Lab) -> None:
    """A sweep leaves alone what another caller is at."""
    files = lab.engine._files("busy")
    with lab.engine._lock("busy"):
        files.begin()
        files.create()
        lab.engine.sweep()
        assert files.folder.exists()
    lab.engine.sweep()
    assert not files.folder.exists()
    assert strays(lab) == []


def test_one_that_runs_already_is_not_swept(lab: Lab) -> None:
    """Being refused for its name's sake leaves no note against the one that has it."""
    from shipway.runtime.errors import RuntimeFailure

    lab.run("taken", "sleep", "60")
    with pytest.raises(RuntimeFailure):
        lab.run("taken", "sleep", "60")
    lab.engine.sweep()
    assert lab.engine.get("taken").state == "running"
    lab.engine.remove("taken")
