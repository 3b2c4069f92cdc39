"""Which name servers a container asks: the host's own, as its resolv.conf says."""

from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address
from pathlib import Path

RESOLV_CONF = Path("/etc/resolv.conf")
# systemd-resolved's stub listens on the host's loopback; the servers behind it stand here.
RESOLVED_CONF = Path("/run/systemd/resolve/resolv.conf")


@dataclass(frozen=True)
class Resolver:
    """Name servers in order, and the other resolv.conf lines (search, options) worth keeping."""

    nameservers: tuple[IPv4Address, ...]
    extra: tuple[str, ...] = ()

    def resolv_conf(self) -> str:
        """The text of a container's /etc/resolv.conf."""
        servers = [f"nameserver {address}" for address in self.nameservers]
        return "\n".join([*servers, *self.extra]) + "\n"


def read_resolver(files: tuple[Path, ...] = (RESOLV_CONF, RESOLVED_CONF)) -> Resolver:
    """The first file's view that names a server which a container can reach.

    A loopback server cannot be reached from a container. Where there is no other, the resolver
    is empty: names then do not resolve inside, and `Engine.info()` shows it.
    """
    found = Resolver(())
    for file in files:
        try:
            found = parse_resolv_conf(file.read_text(errors="replace"))
        except OSError:
            continue
        if found.nameservers:
            return found
    return found


def parse_resolv_conf(text: str) -> Resolver:
    """Read resolv.conf, leaving out loopback and IPv6 servers."""
    servers: list[IPv4Address] = []
    extra: list[str] = []
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver":
            try:
                address = ip_address(words[1])
            except ValueError:
                continue
            if isinstance(address, IPv4Address) and not address.is_loopback:
                servers.append(address)
        elif len(words) >= 2 and words[0] in ("search", "options"):
            extra.append(" ".join(words))
    return Resolver(tuple(servers), tuple(extra))
