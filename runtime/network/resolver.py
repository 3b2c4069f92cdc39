"""Which name servers a container asks: the host's own, as its resolv.conf says."""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

RESOLV_CONF = Path("/etc/resolv.conf")
# systemd-resolved's stub listens on the host's loopback; the servers behind it stand here.
RESOLVED_CONF = Path("/run/systemd/resolve/resolv.conf")


@dataclass(frozen=True)
class Resolver:
    """Name servers in order, and the other resolv.conf lines (search, options) worth keeping."""

    nameservers: tuple[IPv4Address | IPv6Address, ...]
    extra: tuple[str, ...] = ()

    def resolv_conf(self) -> str:
        """The text of a container's /etc/resolv.conf."""
        servers = [f"nameserver {address}" for address in self.nameservers]
        return "\n".join([*servers, *self.extra]) + "\n"

    def changed(
        self, servers: Sequence[str], search: Sequence[str], options: Sequence[str]
    ) -> "Resolver":
        """With what a container asks for in place of the host's, as far as it asks."""
        extra = [line for line in self.extra if not (search and line.startswith("search "))]
        extra = [line for line in extra if not (options and line.startswith("options "))]
        if search and tuple(search) != (".",):  # Docker's way to ask for no search list
            extra.append(f"search {' '.join(search)}")
        if options:
            extra.append(f"options {' '.join(options)}")
        named = tuple(ip_address(server) for server in servers)
        return Resolver(named or self.nameservers, tuple(extra))


def read_resolver(
    files: tuple[Path, ...] = (RESOLV_CONF, RESOLVED_CONF), ipv6: bool = False
) -> Resolver:
    """The first file's view that names a server which a container can reach, by IPv6 too if so told.

    A loopback server cannot be reached from a container. Where there is no other, the resolver
    is empty: names then do not resolve inside, and `Engine.info()` shows it.
    """
    found = Resolver(())
    for file in files:
        try:
            found = parse_resolv_conf(file.read_text(errors="replace"), ipv6)
        except OSError:
            continue
        if found.nameservers:
            return found
    return found


def parse_resolv_conf(text: str, ipv6: bool = False) -> Resolver:
    """Read resolv.conf, leaving out servers that only the host itself can reach.

    Those have a loopback or a link-local IPv6 address; without `ipv6`, IPv6 is left out whole.
    """
    servers: list[IPv4Address | IPv6Address] = []
    extra: list[str] = []
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver":
            try:
                address = ip_address(words[1])
            except ValueError:
                continue
            # A cloud's own server has a link-local IPv4 address, which routes like any other.
            local = address.is_loopback or (address.version == 6 and address.is_link_local)
            if not local and (ipv6 or address.version == 4):
                servers.append(address)
        elif len(words) >= 2 and words[0] in ("search", "options"):
            extra.append(" ".join(words))
    return Resolver(tuple(servers), tuple(extra))
