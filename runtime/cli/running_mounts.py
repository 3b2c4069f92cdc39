"""Options of run and create: what is mounted into the container."""

import os
from collections.abc import Callable, Mapping
from typing import Any

import click

from shipway.runtime.cli.running_limits import size
from shipway.runtime.errors import InvalidSpec
from shipway.runtime.spec import Mount

OPTIONS = (
    click.option("--read-only", is_flag=True, help="Mount the root file system read-only."),
    click.option("-v", "--volume", multiple=True, metavar="HOST:INSIDE[:ro]", help="Bind a path."),
    click.option(
        "--mount",
        multiple=True,
        metavar="type=bind,source=…,target=…[,readonly]",
        help="Bind a path, or with type=tmpfs (tmpfs-size=, tmpfs-mode=) mount memory.",
    ),
    click.option("--tmpfs", multiple=True, metavar="INSIDE[:size=…]", help="Mount memory."),
)
ALIASES = {"src": "source", "dst": "target", "destination": "target", "ro": "readonly"}
KEYS = {"type", "source", "target", "readonly", "tmpfs-size", "tmpfs-mode"}


def options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the group's options to a command."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def apply(values: Mapping[str, Any], fields: dict[str, Any]) -> None:
    """Put what was asked for into the fields of the specification. Raises InvalidSpec."""
    fields["readonly_root"] = values["read_only"]
    fields["mounts"] = (
        *fields["mounts"],
        *map(volume, values["volume"]),
        *map(mount, values["mount"]),
        *map(tmpfs, values["tmpfs"]),
    )


def volume(text: str) -> Mount:
    """A bind in -v's notation. A host folder that is not there is made, as Docker does."""
    source, _, rest = text.partition(":")
    target, _, flags = rest.partition(":")
    if not source or not target:
        raise InvalidSpec(f"the volume {text!r} must be HOST:INSIDE or HOST:INSIDE:ro")
    words = set(flags.split(",")) - {""}
    if words - {"ro", "rw", "z", "Z"}:
        raise InvalidSpec(f"the volume {text!r} may end in :ro or :rw only")
    if not source.startswith("/"):
        if not source.startswith("."):
            raise InvalidSpec(f"the volume source {source!r} must be an absolute path")
        source = os.path.abspath(source)
    return Mount(os.path.realpath(source), target, "ro" in words, make=True)


def mount(text: str) -> Mount:
    """A mount in --mount's notation. Raises InvalidSpec."""
    found: dict[str, str] = {"type": "bind"}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        name = ALIASES.get(name, name)
        if name not in KEYS:
            raise InvalidSpec(f"the mount {text!r} has an unknown part {part!r}")
        found[name] = value if equals else "true"
    readonly = found.get("readonly", "false").lower() in ("true", "1")
    target = found.get("target", "")
    if found["type"] == "bind":
        source = found.get("source", "")
        # A link that is there now is meant; one that appears later, at a restart, is not followed.
        return Mount(os.path.realpath(source) if source else "", target, readonly)
    if found["type"] != "tmpfs":
        raise InvalidSpec(f"the mount type {found['type']!r} is not known; use bind or tmpfs")
    options = []
    if "tmpfs-size" in found:
        options.append(f"size={size(found['tmpfs-size'])}")
    if "tmpfs-mode" in found:
        options.append(f"mode={found['tmpfs-mode']}")
    return Mount("tmpfs", target, readonly, "tmpfs", tuple(options))


def tmpfs(text: str) -> Mount:
    """A tmpfs in --tmpfs's notation: a path, and options of tmpfs. Raises InvalidSpec."""
    target, _, rest = text.partition(":")
    words = [word for word in rest.split(",") if word]
    allowed = ("size=", "mode=")
    for word in words:
        if word not in ("ro", "rw", "nosuid", "nodev", "noexec", "exec") and not word.startswith(
            allowed
        ):
            raise InvalidSpec(f"the tmpfs option {word!r} is not known; use size=, mode= or ro")
    kept = tuple(
        f"size={size(word.removeprefix('size='))}" if word.startswith("size=") else word
        for word in words
        if word not in ("ro", "rw")
    )
    return Mount("tmpfs", target, "ro" in words, "tmpfs", kept)
