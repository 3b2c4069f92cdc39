"""The settings: the only place that reads the environment and the settings file.

Every setting is a field of `Settings`, has a default, is documented in `settings.example.toml`, and can be set in a
TOML file or as `SHIPWAY_<NAME>` in the environment, which wins. Unknown names and malformed values are refused by name.
"""

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from functools import cache
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from shipway.platform.errors import BadSettings

PREFIX = "SHIPWAY_"
# Read by the command line on a person's own machine, and by `load` itself: no settings of the platform.
NOT_SETTINGS = frozenset({"SHIPWAY_SETTINGS", "SHIPWAY_URL", "SHIPWAY_TOKEN", "SHIPWAY_APP"})
UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
# AF_UNIX paths end at 108 bytes; the longest socket below the data folder takes 40 of them.
MAX_DATA_PATH = 60


@dataclass(frozen=True)
class Settings:
    """All settings, checked. Sizes are bytes, times are seconds."""

    data: Path = Path("/var/lib/shipway")
    database_url: str = ""
    redis_url: str = ""
    listen: str = "127.0.0.1"
    router_port: int = field(default=8080, metadata={"range": (1, 65535)})
    web_port: int = field(default=8090, metadata={"range": (1, 65535)})
    ssh_port: int = field(default=2222, metadata={"range": (1, 65535)})
    domain: str = "localhost"
    url: str = ""
    host_name: str = "local"
    bridge: str = "shipway0"
    subnet: str = "10.83.0.0/16"
    allow_networks: tuple[str, ...] = ()
    runtime: str = field(default="auto", metadata={"choices": ("auto", "crun", "runc")})
    stack: str = "debian-13"
    builds: int = field(default=4, metadata={"range": (1, 64)})
    build_timeout: float = field(default=900.0, metadata={"range": (1, 86400)})
    build_memory: int = field(default=2 << 30, metadata={"size": True})
    build_cpus: float = field(default=1.5, metadata={"range": (0.1, 1024)})
    build_pids: int = field(default=4096, metadata={"range": (16, 100000)})
    build_disk: int = field(default=10 << 30, metadata={"size": True})
    build_hosts: tuple[str, ...] = ()
    build_env: Mapping[str, str] = field(default_factory=dict)
    ca_bundle: str = "/etc/ssl/certs/ca-certificates.crt"
    push_size: int = field(default=1 << 30, metadata={"size": True})
    instance_memory: int = field(default=512 << 20, metadata={"size": True})
    instance_cpus: float = field(default=0.0, metadata={"range": (0, 1024)})
    instance_pids: int = field(default=512, metadata={"range": (16, 100000)})
    boot_timeout: float = field(default=60.0, metadata={"range": (1, 3600)})
    drain_timeout: float = field(default=30.0, metadata={"range": (0, 3600)})
    stop_grace: float = field(default=30.0, metadata={"range": (0, 3600)})
    release_timeout: float = field(default=3600.0, metadata={"range": (1, 86400)})
    log_size: int = field(default=64 << 20, metadata={"size": True, "range": (64 << 10, 1 << 40)})
    trusted_proxies: tuple[str, ...] = ()
    router_threads: int = field(default=1, metadata={"range": (1, 64)})

    @property
    def run(self) -> Path:
        """Sockets, pid files and mounts: gone at a reboot without loss."""
        return self.data / "run"

    @property
    def logs(self) -> Path:
        """One folder per app with its log files."""
        return self.data / "logs"

    @property
    def repos(self) -> Path:
        """The apps' bare git repositories."""
        return self.data / "repos"

    @property
    def uploads(self) -> Path:
        """Archives that were sent and are not taken in yet."""
        return self.data / "uploads"

    def bill(self, app_id: int, image: str) -> Path:
        """Where the bill of materials of an app's image is, or would be."""
        return self.data / "bills" / str(app_id) / f"{image.removeprefix('sha256:')}.json"

    @property
    def secrets(self) -> Path:
        """Keys, 0700."""
        return self.data / "secrets"

    @property
    def sql(self) -> str:
        """The database's URL, SQLite in the data folder unless set."""
        return self.database_url or f"sqlite:///{self.data}/shipway.db"

    @property
    def redis(self) -> str:
        """The Redis URL, the private server's unix socket unless set."""
        return self.redis_url or f"unix://{self.run}/redis.sock"

    @property
    def dashboard(self) -> str:
        """The address people reach the web UI and the API at, without a trailing slash."""
        return self.url.rstrip("/") or f"http://{self.listen}:{self.web_port}"

    def app_host(self, app: str) -> str:
        """The host name an app answers at."""
        return f"{app}.{self.domain}"

    def app_url(self, app: str) -> str:
        """The URL an app answers at, through the router."""
        port = "" if self.router_port == 80 else f":{self.router_port}"
        return f"http://{self.app_host(app)}{port}/"

    def environment(self) -> dict[str, str]:
        """These settings as environment variables, for a process that shall see the same ones."""
        return {PREFIX + f.name.upper(): _as_text(getattr(self, f.name)) for f in fields(self)}


def _as_text(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(value)
    if isinstance(value, Mapping):
        return "\n".join(f"{key}={item}" for key, item in value.items())
    return str(value)


def load(environ: Mapping[str, str] | None = None) -> Settings:
    """Read, coerce and check all settings; raise BadSettings with the name of the first bad one."""
    environ = os.environ if environ is None else environ
    known = {f.name: f for f in fields(Settings)}
    values: dict[str, Any] = {}
    for name, raw in _from_file(environ).items():
        if name not in known:
            raise BadSettings(
                f"Unknown setting {name!r} in the settings file; see settings.example.toml."
            )
        values[name] = _coerce(name, raw, known[name])
    for key, raw in environ.items():
        if not key.startswith(PREFIX) or key in NOT_SETTINGS:
            continue
        name = key.removeprefix(PREFIX).lower()
        if name not in known:
            raise BadSettings(
                f"Unknown setting {key} in the environment; see settings.example.toml."
            )
        values[name] = _coerce(key, raw, known[name])
    return _checked(Settings(**values))


@cache
def current() -> Settings:
    """The settings of this process, read once."""
    return load()


def _from_file(environ: Mapping[str, str]) -> dict[str, Any]:
    named = environ.get("SHIPWAY_SETTINGS")
    path = Path(named or Path(environ.get("SHIPWAY_DATA", Settings.data)) / "shipway.toml")
    if not named and not path.exists():
        return {}
    try:
        return tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadSettings(f"The settings file {path} cannot be read: {error}.") from None


def _coerce(name: str, raw: Any, spec: Field[Any]) -> Any:
    kind: Any = type(spec.default) if spec.default_factory is not dict else dict
    try:
        if kind is dict:
            value: Any = _table(raw)
        elif kind is tuple:
            value = tuple(raw.split()) if isinstance(raw, str) else tuple(str(v) for v in raw)
        elif spec.metadata.get("size"):
            value = _size(raw)
        elif issubclass(kind, Path):
            value = Path(raw)
        elif isinstance(raw, bool):
            raise ValueError("a truth value")
        else:
            value = kind(raw)
    except (TypeError, ValueError):
        raise BadSettings(f"{name} is {raw!r}, expected {_expected(kind, spec)}.") from None
    low, high = spec.metadata.get("range", (None, None))
    if low is not None and not low <= value <= high:
        raise BadSettings(f"{name} is {raw!r}, expected a number from {low} to {high}.")
    choices = spec.metadata.get("choices")
    if choices and value not in choices:
        raise BadSettings(f"{name} is {raw!r}, expected one of {', '.join(choices)}.")
    return value


def _expected(kind: type, spec: Field[Any]) -> str:
    if spec.metadata.get("size"):
        return "a size such as 512M or 2G"
    names = {
        int: "a whole number",
        float: "a number",
        dict: "NAME=value lines or a table",
    }
    return names.get(kind, "text")


def _size(raw: Any) -> int:
    match = re.fullmatch(r"(\d+)\s*([KMG]?)i?B?", str(raw).strip(), re.IGNORECASE)
    if not match:
        raise ValueError(raw)
    return int(match[1]) * UNITS[match[2].upper()]


def _table(raw: Any) -> dict[str, str]:
    if isinstance(raw, str):
        return dict(_pair(line) for line in raw.splitlines() if line.strip())
    return {str(key): str(value) for key, value in raw.items()}


def _pair(line: str) -> tuple[str, str]:
    key, sign, value = line.partition("=")
    if not sign:
        raise ValueError(line)
    return key.strip(), value


def _checked(settings: Settings) -> Settings:
    """What one value's form does not show."""
    if not settings.data.is_absolute() or len(str(settings.data)) > MAX_DATA_PATH:
        raise BadSettings(
            f"data is {str(settings.data)!r}, expected an absolute path of at most"
            f" {MAX_DATA_PATH} characters (unix socket paths below it end at 108)."
        )
    for name, networks in (
        ("subnet", [settings.subnet]),
        ("allow_networks", settings.allow_networks),
        ("trusted_proxies", settings.trusted_proxies),
    ):
        for network in networks:
            try:
                ip_network(network)
            except ValueError as error:
                raise BadSettings(
                    f"{name} holds {network!r}, expected a network: {error}."
                ) from None
    if len({settings.router_port, settings.web_port, settings.ssh_port}) < 3:
        raise BadSettings("router_port, web_port and ssh_port must be three different ports.")
    if not re.fullmatch(r"[a-z0-9.-]{1,200}", settings.domain):
        raise BadSettings(
            f"domain is {settings.domain!r}, expected a host name such as apps.example.com."
        )
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,40}", settings.host_name):
        raise BadSettings(
            f"host_name is {settings.host_name!r}, expected letters, digits and dashes."
        )
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,14}", settings.bridge):
        raise BadSettings(f"bridge is {settings.bridge!r}, expected at most 15 letters and digits.")
    return settings
