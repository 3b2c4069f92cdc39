"""Which ports of the host are a container's: what is asked for, and the leases, kept on disk.

A lease is one symbolic link, `8080-tcp-127.0.0.1 -> web 80`: made in one step with its content. It
holds as long as its owner runs; a port of a container that ended can be taken by another.
"""

import errno
import os
import re
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from shipway.runtime.errors import InvalidSpec, NoSuchHostAddress, PortTaken
from shipway.runtime.network.elements import PROTOCOLS, Element

LOCAL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_FORM = re.compile(
    r"(?:(?P<address>\[[^]]*\]|[^:\[\]]*):)?(?:(?P<host>[^:]*):)?(?P<container>[^:/]+)(?:/(?P<kind>.*))?"
)
_PORTS = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")
EXAMPLES = "like 8080:80, 127.0.0.1:8080:80/udp, [::]:8080:80, 8000-8009:80-89 or 80"


@dataclass(frozen=True)
class Publish:
    """A port of a container to be published.

    `first` to `last` are the host's ports of which one will do, 0 for any free one of the ephemeral
    range. `address` is one of the host's, "" for the engine's default.
    """

    container: int
    first: int = 0
    last: int = 0
    protocol: str = "tcp"
    address: str = ""

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise InvalidSpec(f"the protocol {self.protocol!r} of a port is not tcp or udp")
        for port in (self.container, self.first or 1, self.last or 1):
            if not 1 <= port <= 65535:
                raise InvalidSpec(f"the port {port} is not within 1 and 65535")
        if self.last < self.first:
            raise InvalidSpec(f"the port range {self.first}-{self.last} ends before it begins")
        if self.address:
            _address(self.address)


@dataclass(frozen=True)
class Published:
    """A port of the host that leads to a container's."""

    container: int
    protocol: str
    address: IPv4Address | IPv6Address
    host: int

    def __str__(self) -> str:
        """Write it as Docker does: 127.0.0.1:8080->80/tcp."""
        return f"{self.endpoint}->{self.container}/{self.protocol}"

    @property
    def endpoint(self) -> str:
        """Where to connect to, like 127.0.0.1:8080 or [::]:8080."""
        address = f"[{self.address}]" if self.address.version == 6 else str(self.address)
        return f"{address}:{self.host}"

    def element(self, target: IPv4Address | IPv6Address) -> Element:
        """What sends its packets to a container's address."""
        number = self.address.version
        value = (target, self.container)
        if self.address.is_unspecified:
            return Element(f"any{number}", (self.protocol, self.host), value)
        return Element(f"at{number}", (self.address, self.protocol, self.host), value)

    def wish(self) -> Publish:
        """What would ask for the same."""
        return Publish(self.container, self.host, self.host, self.protocol, str(self.address))

    @property
    def name(self) -> str:
        """The name of its lease."""
        return f"{self.host}-{self.protocol}-{self.address}"


def parse(text: str) -> tuple[Publish, ...]:
    """Read Docker's form: [[address:][host]:]container[/tcp|udp], ports or ranges. InvalidSpec."""
    found = _FORM.fullmatch(text)
    if not found:
        raise InvalidSpec(
            f"the port {text!r} is not of the form [address:][host:]container; {EXAMPLES}"
        )
    address, host = found["address"], found["host"]
    if host is None:  # with a single colon, what stands before it is a port
        address, host = ("", address) if not (address or "").startswith("[") else (address, host)
    kind = "tcp" if found["kind"] is None else found["kind"].lower()
    first, last = _range(found["container"], text)
    count = last - first + 1
    address = (address or "").strip("[]")
    if not host:
        return tuple(Publish(first + each, 0, 0, kind, address) for each in range(count))
    low, high = _range(host, text)
    if count == 1:
        return (Publish(first, low, high, kind, address),)
    if high - low + 1 != count:
        raise InvalidSpec(
            f"the port {text!r} has {high - low + 1} ports of the host for {count} of the container;"
            " both ranges must be equally long"
        )
    return tuple(
        Publish(first + each, low + each, low + each, kind, address) for each in range(count)
    )


def parse_exposed(text: str) -> tuple[Publish, ...]:
    """Read a port that an image exposes, like 80/tcp, as a wish for any port of the host."""
    if ":" in text:
        raise InvalidSpec(f"the image exposes {text!r}, which is no port of a container")
    return parse(text)


def _range(text: str, whole: str) -> tuple[int, int]:
    found = _PORTS.fullmatch(text)
    if not found:
        raise InvalidSpec(f"{text!r} in {whole!r} is no port and no range of ports; {EXAMPLES}")
    first, last = int(found[1]), int(found[2] or found[1])
    if not 1 <= first <= last <= 65535:
        raise InvalidSpec(
            f"{text!r} in {whole!r} must lie within 1 and 65535, the lower port first"
        )
    return first, last


def _address(text: str) -> IPv4Address | IPv6Address:
    try:
        return ip_address(text)
    except ValueError:
        raise InvalidSpec(f"{text!r} is no IP address to publish a port at") from None


class PortLeases:
    """The leases of one engine. Whoever changes them holds the engine's network lock."""

    def __init__(self, folder: Path, default: str, is_up: Callable[[str], bool]) -> None:
        self.folder = folder
        self.default = default
        self.is_up = is_up

    def all(self) -> dict[Published, str]:
        """Every lease, and its owner."""
        found = {}
        for name in os.listdir(self.folder) if self.folder.is_dir() else ():
            host, protocol, address = name.split("-", 2)
            try:
                owner, _, container = os.readlink(self.folder / name).rpartition(" ")
            except FileNotFoundError:
                continue
            published = Published(int(container), protocol, ip_address(address), int(host))
            found[published] = owner
        return found

    def of(self, owner: str) -> list[Published]:
        """What a container has, in the order of its ports."""
        return sorted((port for port, who in self.all().items() if who == owner), key=_order)

    def by_owner(self) -> dict[str, list[Published]]:
        """What each container has, in the order of its ports."""
        found: dict[str, list[Published]] = {}
        for port, owner in sorted(self.all().items(), key=lambda item: _order(item[0])):
            found.setdefault(owner, []).append(port)
        return found

    def lease(
        self, owner: str, wanted: Sequence[Publish]
    ) -> tuple[list[Published], list[Published]]:
        """Ports of the host for the owner; and what others who ended lose by it.

        Raises PortTaken and NoSuchHostAddress, and then has leased nothing.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        book = _Book(self.all(), self.is_up)
        given: list[Published] = []
        try:
            for publish in wanted:
                given.append(self._find(owner, publish, book))
        except BaseException:
            self.release(given)
            raise
        self.release(book.lost)
        return given, book.lost

    def release(self, ports: Iterable[Published]) -> None:
        """Free the ports."""
        for port in ports:
            (self.folder / port.name).unlink(missing_ok=True)

    def _find(self, owner: str, publish: Publish, book: "_Book") -> Published:
        address = _address(publish.address or self.default)
        refused: PortTaken | None = None
        for number in _candidates(publish):
            port = Published(publish.container, publish.protocol, address, number)
            try:
                book.claim(port, owner)
            except PortTaken as error:
                refused = refused or error
                continue
            self._write(port, owner)
            return port
        if refused and publish.first == publish.last != 0:
            raise refused
        raise PortTaken(
            f"no port of {_range_text(publish)}/{publish.protocol} is free at {address}"
            + (f": {refused}" if refused else "")
        )

    def _write(self, port: Published, owner: str) -> None:
        path = self.folder / port.name
        path.unlink(missing_ok=True)
        os.symlink(f"{owner} {port.container}", path)


def _order(port: Published) -> tuple[object, ...]:
    address = port.address
    return port.container, port.protocol, address.version, address.packed, port.host


class _Book:
    """The leases while new ones are given."""

    def __init__(self, leases: dict[Published, str], is_up: Callable[[str], bool]) -> None:
        self.by_number: dict[tuple[int, str], dict[Published, str]] = {}
        for port, owner in leases.items():
            self.by_number.setdefault((port.host, port.protocol), {})[port] = owner
        self.is_up = is_up
        self.lost: list[Published] = []

    def claim(self, port: Published, owner: str) -> None:
        """Note the port as the owner's. Raises PortTaken if a running container or a program has it."""
        found = self.by_number.setdefault((port.host, port.protocol), {})
        ended = []
        for other, holder in found.items():
            if not _overlap(other.address, port.address):
                continue
            if holder == owner or self.is_up(holder):
                raise PortTaken(
                    f"{port.endpoint}/{port.protocol} is published by container {holder!r}"
                )
            ended.append(other)
        probe(port)
        for other in ended:
            del found[other]
            if other.name != port.name:
                self.lost.append(other)
        found[port] = owner


def _overlap(one: IPv4Address | IPv6Address, other: IPv4Address | IPv6Address) -> bool:
    same_kind = one.version == other.version
    return same_kind and (one == other or one.is_unspecified or other.is_unspecified)


def _candidates(publish: Publish) -> Iterator[int]:
    """The host's ports to be tried, in order."""
    if publish.first:
        yield from range(publish.first, publish.last + 1)
        return
    low, high = map(int, LOCAL_RANGE.read_text().split())
    count = high - low + 1
    start = int.from_bytes(os.urandom(4)) % count  # so that a port just freed is seldom given again
    for offset in range(count):
        yield low + (start + offset) % count


def _range_text(publish: Publish) -> str:
    if not publish.first:
        return "the ephemeral range"
    return f"{publish.first}-{publish.last}"


def check_address(text: str) -> None:
    """Raise NoSuchHostAddress if this machine does not have the address."""
    address = _address(text)
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with closing(socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)) as sock:
        try:
            sock.bind((text, 0))
        except OSError as error:
            raise NoSuchHostAddress(text) from error


def probe(port: Published) -> None:
    """Raise PortTaken, naming it, if a program of the host has the port; NoSuchHostAddress."""
    family = socket.AF_INET if port.address.version == 4 else socket.AF_INET6
    kind = socket.SOCK_STREAM if port.protocol == "tcp" else socket.SOCK_DGRAM
    with closing(socket.socket(family, kind | socket.SOCK_CLOEXEC)) as sock:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if port.protocol == "tcp":  # a connection that lingers is no program that listens
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((str(port.address), port.host))
            if port.protocol == "tcp":
                sock.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                raise NoSuchHostAddress(str(port.address)) from error
            if error.errno != errno.EADDRINUSE:
                raise
            holder = holder_of(port)
            raise PortTaken(
                f"{port.endpoint}/{port.protocol} is in use by {holder}; choose another port"
            ) from error


def holder_of(port: Published) -> str:
    """The program of the host that has a port, for people: looked for when it is too late."""
    inodes = set()
    for version in ("", "6"):
        path = Path(f"/proc/net/{port.protocol}{version}")
        for line in path.read_text().splitlines()[1:] if path.exists() else ():
            words = line.split()
            listens = port.protocol == "udp" or words[3] == "0A"
            if listens and int(words[1].rpartition(":")[2], 16) == port.host:
                inodes.add(f"socket:[{words[9]}]")
    for name in os.listdir("/proc"):
        if name.isdigit() and inodes & set(_links(Path("/proc", name, "fd"))):
            return f"process {name} ({_command(name)})"
    return "a program of the host"


def _links(folder: Path) -> Iterator[str]:
    try:
        for entry in os.scandir(folder):
            yield os.readlink(entry.path)
    except OSError:
        return


def _command(pid: str) -> str:
    try:
        return Path("/proc", pid, "comm").read_text().strip()
    except OSError:
        return "just ended"
