"""An engine of a test module's own, with its bridge, control groups and rules; all gone at the end."""

import contextlib
import dataclasses
import json
import os
import shutil
import subprocess
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import support
from shipway.runtime.config import EngineConfig
from shipway.runtime.containers.container import Exit
from shipway.runtime.engine import Engine
from shipway.runtime.spec import ContainerSpec, IdRange

IMAGE = "stack/debian-13:run"
IDS = IdRange(300000)

# The steps of a start, as module:function, in their order.
STARTING = [
    "containers.container:Files.create",
    "network.addresses:AddressPool.lease",
    "containers.container:Files.write_record",
    "kernel.mounts:mount_private_tmpfs",
    "kernel.cgroups:Cgroups.enter_monitors",
    "kernel.cgroups:Cgroups.adopt_monitor",
    "containers.launch:write_etc",
    "kernel.mounts:mount_overlay",
    "containers.launch:write_config",
    "oci.conmon:create_container",
    "containers.launch:create",
    "network.bridge:Network._connect",
    "network.bridge:Network._configure",
    "containers.launch:start",
    "containers.container:Files.note_started",
]


# For a process of its own that is told `step` ("module:Class.function") and `when`: once armed, it kills itself there,
# before or after it is done.
DEADLY = """
import importlib, os, signal, sys
from pathlib import Path
from shipway.runtime.config import EngineConfig
from shipway.runtime.engine import Engine
from shipway.runtime.spec import ContainerSpec, IdRange

step, when, verb, config, image = sys.argv[1:]
module, names = step.split(":")
names = names.split(".")
owner = importlib.import_module(f"shipway.runtime.{module}")
for name in names[:-1]:
    owner = getattr(owner, name)
original = getattr(owner, names[-1])

def deadly(*args, **kwargs):
    if when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    original(*args, **kwargs)
    os.kill(os.getpid(), signal.SIGKILL)

def arm():
    setattr(owner, names[-1], deadly)
"""


class Lab:
    """An engine and short ways to use it."""

    def __init__(self, folder: Path, seed: str, **settings: Any) -> None:
        bridge, subnet = support.network_names(seed)
        self.folder = folder
        self.config = EngineConfig(
            root=folder / "d",
            run=folder / "r",
            bridge=bridge,
            subnet=subnet,
            table=bridge,
            cgroup=bridge,
            **settings,
        )
        support.link_stack(self.config.root)
        self.engine = Engine(self.config)
        self.engine.setup()

    def spec(self, name: str, *args: str, **changes: Any) -> ContainerSpec:
        """A specification with the log at `log(name)`."""
        values = {"env": {}, "ids": IDS, "log_path": self.log(name)} | changes
        return ContainerSpec(id=name, args=args, **{"image": IMAGE, **values})

    def run(self, name: str, *args: str, **changes: Any) -> None:
        """Start a container."""
        self.engine.run(self.spec(name, *args, **changes))

    def execute(self, *args: str, **changes: Any) -> tuple[Exit, str]:
        """Run a program in a container to its end; its exit and what it said."""
        chunks: list[bytes] = []
        ended = self.engine.execute(self.spec("foreground", *args, **changes), chunks.append)
        return ended, b"".join(chunks).decode()

    def python(self, code: str, **changes: Any) -> str:
        """What a Python program prints in a container; it must succeed."""
        ended, text = self.execute("python3", "-c", textwrap.dedent(code), **changes)
        assert ended.code == 0, text
        return text

    def image(self, ref: str, change: Callable[[Path], None], **config: Any) -> str:
        """An image of the stack and one more layer, which `change` makes in an empty folder."""
        base = self.engine.images.get(IMAGE)
        with self.engine.layers.staged_tree() as tree:
            change(tree)
            layer = self.engine.layers.commit(tree)
        config = dataclasses.replace(base.config, **config)
        self.engine.images.write((*base.layers, layer), config, ref)
        return ref

    def log(self, name: str) -> Path:
        """Where a container's output goes."""
        return self.folder / f"{name}.log"

    def says(self, name: str) -> list[str]:
        """The messages in a container's log."""
        path = self.log(name)
        lines = path.read_text().splitlines() if path.exists() else []
        return [line.split(" ", 3)[3] for line in lines]

    def leftovers(self) -> dict[str, list[str]]:
        """All that containers of this engine have on this machine now; of no container: nothing."""
        cgroups = self.engine._tools.cgroups
        folders = [each.mount / cgroups.parent / "containers" for each in cgroups.hierarchies]
        wiring = self.engine._tools.wiring
        vault = self.engine._tools.vault.mount
        found = {
            "published": [str(port) for port in wiring.ports.all()],
            "members": [
                name for group in wiring.networks.names() for name in wiring.networks.members(group)
            ],
            "links": wiring.links.names() + wiring.servers.names(),
            "elements": self.elements(),
            "groups": [
                str(path) for folder in folders for path in folder.iterdir() if path.is_dir()
            ],
            "monitors": processes_of(self.folder),
            "ports": self.ports(),
            "leases": list(self.engine._tools.pool.leases().values()),
            "mounts": [
                line for line in mounts() if str(self.folder) in line and "/.secrets" not in line
            ],
            "states": os.listdir(self.config.root / "containers"),
            "bundles": [name for name in os.listdir(self.config.run) if name[0] != "."],
            "secrets": os.listdir(vault) if vault.is_dir() else [],
            "runtime": os.listdir(self.engine._tools.runtime.root),
        }
        return {name: values for name, values in found.items() if values and values != [".cache"]}

    def ports(self) -> list[str]:
        """The bridge's ports: those of no leased address get the moment that the kernel needs."""
        network, pool = self.engine._tools.network, self.engine._tools.pool

        def settled() -> bool:
            return set(network.ports()) <= set(map(network.port_name, pool.leases()))

        with contextlib.suppress(AssertionError):
            eventually(settled)
        return network.ports()

    def elements(self) -> list[str]:
        """What the containers have in the sets and maps of the firewall."""
        listing = ["nft", "-j", "list", "table", "inet", self.config.table]
        done = subprocess.run(listing, capture_output=True, text=True, check=True)
        kinds = ("at", "any", "links", "dns", "n4_", "n6_")
        sets = [each.get("set") or each.get("map") for each in json.loads(done.stdout)["nftables"]]
        return [
            f"{each['name']}: {element}"
            for each in sets
            if each and each["name"].startswith(kinds)
            for element in each.get("elem", ())
        ]

    def loops(self) -> list[str]:
        """The files of this engine that a loop device stands over."""
        found = []
        for path in Path("/sys/block").glob("loop*/loop/backing_file"):
            try:
                text = path.read_text()
            except OSError:
                continue
            found += [text] if str(self.folder) in text else []
        return found

    def clear(self) -> None:
        """Remove every container, and see that nothing of them is left on this machine."""
        for container in self.engine.list():
            self.engine.remove(container.id)
        assert self.leftovers() == {}

    def close(self) -> None:
        """Remove every container and what `setup` made."""
        for name in os.listdir(self.config.root / "containers"):
            self.engine.remove(name)
        self.engine.teardown()


@contextlib.contextmanager
def open_lab(seed: str, **settings: Any) -> Iterator[Lab]:
    """A lab in a folder of its own, closed at the end."""
    with support.scratch() as folder:
        lab = Lab(folder, seed, **settings)
        try:
            yield lab
        finally:
            lab.close()
            shutil.rmtree(folder)


def mounts() -> list[str]:
    """The mounts of this process's namespace."""
    return Path("/proc/self/mountinfo").read_text().splitlines()


def processes_of(folder: Path) -> list[str]:
    """The command lines of processes that name a path below the folder, ours excepted."""
    found = []
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            words = Path("/proc", name, "cmdline").read_bytes().split(b"\0")
            if name.isdigit() and b"--bundle" in words:
                found.append(b" ".join(words).decode())
    return [line for line in found if str(folder) in line]


def eventually(check: Callable[[], Any], timeout: float = 10.0) -> Any:
    """The first true answer of `check`; fails after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    delay = 0.005
    while not (found := check()):
        assert time.monotonic() < deadline, f"still {found!r} after {timeout} s"
        time.sleep(delay)
        delay = min(delay * 2, 0.1)
    return found
