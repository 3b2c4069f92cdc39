"""How an image's process type is run: who as, where, with what, on which port. Buildpacks' images are all alike."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from shipway.buildpacks import processes
from shipway.buildpacks.labels import LIFECYCLE_LABEL
from shipway.platform import formation
from shipway.runtime.engine import Engine
from shipway.runtime.images.defaults import Wanted, defaults
from shipway.runtime.images.store import Image, ImageConfig
from shipway.runtime.spec import GRANTABLE_CAPABILITIES
from shipway.workers.command import as_exec, process_args

HOME = "/workspace"
WORDS = '["'  # how a command begins that is a list of words, as in a Dockerfile


@dataclass(frozen=True)
class Program:
    """What of a container's specification the image and the command decide."""

    args: tuple[str, ...]
    cwd: str = HOME
    user: str = "1000:1000"
    groups: tuple[int, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    capabilities: frozenset[str] = frozenset()


def program(engine: Engine, image: Image, kind: str, command: str) -> Program:
    """How to run a process type's command. Raises InvalidSpec, NoSuchUser."""
    if LIFECYCLE_LABEL in image.config.labels and not command.startswith(WORDS):
        args = processes.started(image.config, process_args(command), command)
        return Program(args, env={"HOME": HOME, processes.TYPE_VARIABLE: kind})
    words = as_words(command) or _by_shell(command)
    found = defaults(image.config, engine.images.trees(image), Wanted(words, entrypoint=()))
    return Program(
        args=found["args"],
        cwd=found["cwd"],
        user=found["user"],
        groups=found["groups"],
        env={"HOME": found["env"]["HOME"]},
        # What images of the field expect of their root; it is root of the container alone.
        capabilities=GRANTABLE_CAPABILITIES if found["user"].startswith("0:") else frozenset(),
    )


def inside(image: Image, command: str | tuple[str, ...]) -> tuple[str, ...]:
    """How to run a command in a container that runs the image; text is for its shell."""
    words = ("/bin/sh", "-c", command) if isinstance(command, str) else command
    return processes.started(image.config, words)


def port(config: ImageConfig) -> int:
    """Where requests go to: the one TCP port that an image exposes, else the usual one."""
    exposed = [each.partition("/")[0] for each in config.exposed_ports if not each.endswith("/udp")]
    if len(exposed) == 1 and exposed[0].isdecimal() and 0 < int(exposed[0]) < 65536:
        return int(exposed[0])
    return formation.PORT


def port_line(config: ImageConfig) -> str:
    """What to say of it in a build's log."""
    number = port(config)
    if number != formation.PORT or f"{number}/tcp" in config.exposed_ports:
        return f"       Requests go to port {number}, which the image exposes; $PORT says so too"
    listed = ", ".join(config.exposed_ports)
    why = f"The image exposes {listed}, and not one port" if listed else "The image exposes no port"
    return f"       {why}: the app has to listen on $PORT, which is {number}"


def as_words(command: str) -> tuple[str, ...]:
    """The words of a command that is a JSON list of them; () for any other."""
    if not command.startswith(WORDS):
        return ()
    try:
        found = json.loads(command)
    except ValueError:
        return ()
    return tuple(found) if all(isinstance(each, str) for each in found) else ()


def _by_shell(command: str) -> tuple[str, ...]:
    """Any image with a shell has this one."""
    return ("/bin/sh", "-c", as_exec(command) or command)
