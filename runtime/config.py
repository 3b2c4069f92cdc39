"""Where an engine keeps its things, and what it calls them on this machine."""

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from shipway.runtime.errors import HostUnfit
from shipway.runtime.files import atomic_write

NAME = "engine.json"
# Which engine a bridge belongs to: a link from the bridge's name to the engine's root. Gone at a reboot.
CLAIMS = Path("/run/shipway/engines")


@dataclass(frozen=True)
class EngineConfig:
    """One engine. `root` is durable; `run` is short and may be lost at a reboot.

    Engines of one machine differ in all of root, run, bridge, subnet, table and cgroup. `allow`
    lists networks (CIDR) that containers may reach although they are private. `ids` is the first
    host user id of the ranges that the engine allots to containers that bring none of their own.
    `subnet6` is a /64, "auto" (made of `subnet`) or "none". `publish` is the host's address at which
    ports of containers are published if no other is named.
    `idmap` "never" has layers copied for each range of ids even where the kernel could map them.
    """

    root: Path
    run: Path
    bridge: str = "shipway0"
    subnet: str = "10.83.0.0/16"
    table: str = "shipway"
    cgroup: str = "shipway"
    runtime: str = "auto"
    ids: int = 0x6000_0000
    allow: tuple[str, ...] = ()
    subnet6: str = "auto"
    publish: str = "127.0.0.1"
    idmap: Literal["auto", "never"] = "auto"

    def __post_init__(self) -> None:
        if self.idmap not in ("auto", "never"):
            raise ValueError(f"idmap is auto or never, not {self.idmap!r}")

    @classmethod
    def of(cls, root: Path) -> "EngineConfig":
        """The config of the engine at `root`: as it was set up, else a new one's. HostUnfit."""
        path = root / NAME
        try:
            values: dict[str, Any] = json.loads(path.read_bytes())
            return cls(root, Path(values.pop("run")), allow=tuple(values.pop("allow")), **values)
        except FileNotFoundError:
            return cls.new(root)
        except PermissionError as error:
            raise HostUnfit(f"{path} may not be read by this user", "run as root") from error
        except (ValueError, TypeError, KeyError) as error:
            raise HostUnfit(
                f"{path} is no engine's config ({error})", "delete it and set the engine up again"
            ) from error

    @classmethod
    def new(cls, root: Path) -> "EngineConfig":
        """A config for an engine that is not there yet, with names of its own on this machine."""
        digest = hashlib.sha256(os.fsencode(root.absolute())).digest()
        name = f"sw{digest[:4].hex()}"
        subnet = f"10.{100 + digest[4] % 100}.{digest[5] & 0xFC}.0/22"
        return cls(root, root / "run", bridge=name, subnet=subnet, table=name, cgroup=name)

    def claim(self) -> None:
        """Make the bridge this engine's own until the next boot. HostUnfit if it is another's."""
        CLAIMS.mkdir(parents=True, exist_ok=True)
        path, root = CLAIMS / self.bridge, str(self.root.absolute())
        with suppress(FileExistsError):
            os.symlink(root, path)
        owner = os.readlink(path)
        if owner == root:
            return
        if (Path(owner) / NAME).exists():
            raise HostUnfit(
                f"the bridge {self.bridge} belongs to the engine at {owner}",
                "give each engine a bridge, a subnet, a table and a cgroup of its own",
            )
        path.unlink()  # that engine's folder is gone
        self.claim()

    def release(self) -> None:
        """Give the bridge up."""
        with suppress(FileNotFoundError):
            (CLAIMS / self.bridge).unlink()

    def save(self) -> None:
        """Put it down at `root`, where `of` finds it: for commands that are told only the root."""
        values = {key: value for key, value in asdict(self).items() if key != "root"}
        data = json.dumps(values | {"run": str(self.run)}, indent=2).encode()
        path = self.root / NAME
        if not path.exists() or path.read_bytes() != data:
            atomic_write(path, data)
