"""Leases of container addresses, kept on disk as one symbolic link each: `10.83.0.5 -> id`.

A link is made in one step with its content, so a crash can leave no half-written lease.
"""

import os
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path

from shipway.runtime.errors import HostUnfit, NoFreeAddress
from shipway.runtime.files import locked

# A Linux bridge has 1023 ports, so no more addresses can be in use at a time.
MOST_ADDRESSES = 1021
# Settings of an engine's IPv6 subnet that are no subnet.
AUTOMATIC, NONE = "auto", "none"
# The first half of an automatic subnet: ULA with a number of ours. The IPv4 subnet is the other.
ULA = b"\xfd\x53\x57\x59"


class AddressPool:
    """The addresses of one subnet. The first is the gateway's, the host's own end.

    Each IPv4 address has an IPv6 address beside it, of the same place in `network6`, if there is
    one: leased and freed with it.
    """

    def __init__(self, folder: Path, subnet: str, subnet6: str = AUTOMATIC) -> None:
        self.folder = folder
        try:
            self.network = IPv4Network(subnet)
        except ValueError as error:
            raise HostUnfit(f"the subnet {subnet!r} is not valid", str(error)) from error
        if self.network.prefixlen > 29:
            raise HostUnfit(f"the subnet {subnet} is too small", "choose a /29 or a larger one")
        self.network6 = ipv6_subnet(subnet6, self.network)

    @property
    def gateway(self) -> IPv4Interface:
        """The host's address on the bridge."""
        return IPv4Interface((self.network[1], self.network.prefixlen))

    def beside(self, address: IPv4Address) -> IPv6Address | None:
        """The IPv6 address that goes with an IPv4 address."""
        return self.network6[self.index(address)] if self.network6 else None

    @property
    def addresses(self) -> list[IPv4Address]:
        """All that can be leased, lowest first."""
        count = min(self.network.num_addresses - 3, MOST_ADDRESSES)
        first = int(self.network[2])
        return [IPv4Address(first + offset) for offset in range(count)]

    def index(self, address: IPv4Address) -> int:
        """The place of an address in its subnet."""
        return int(address) - int(self.network.network_address)

    def lease(self, owner: str) -> IPv4Address:
        """A free address. The next after the last given, so that none is soon used again.

        Raises NoFreeAddress.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder / "lock"):
            taken = self.leases()
            pool = self.addresses
            start = self._next_offset() % len(pool)
            for address in pool[start:] + pool[:start]:
                if address not in taken:
                    os.symlink(owner, self.folder / str(address))
                    self._remember(self.index(address) - 1)
                    return address
        raise NoFreeAddress(f"all {len(pool)} addresses of {self.network} are in use on this host")

    def leases(self) -> dict[IPv4Address, str]:
        """Every leased address and its owner."""
        found = {}
        for entry in os.scandir(self.folder) if self.folder.is_dir() else ():
            if entry.name[0].isdigit():
                try:
                    found[IPv4Address(entry.name)] = os.readlink(entry.path)
                except FileNotFoundError:
                    continue
        return found

    def release(self, owner: str) -> list[IPv4Address]:
        """Free what the owner holds; returns the addresses."""
        held = [address for address, holder in self.leases().items() if holder == owner]
        for address in held:
            (self.folder / str(address)).unlink(missing_ok=True)
        return held

    def _next_offset(self) -> int:
        try:
            return int(os.readlink(self.folder / "next"))
        except (OSError, ValueError):
            return 0

    def _remember(self, offset: int) -> None:
        temporary = self.folder / ".next"
        temporary.unlink(missing_ok=True)
        os.symlink(str(offset), temporary)
        os.rename(temporary, self.folder / "next")


def ipv6_subnet(setting: str, subnet: IPv4Network) -> IPv6Network | None:
    """The /64 that a setting names, or makes of the IPv4 subnet if it is AUTOMATIC. HostUnfit."""
    if setting == NONE:
        return None
    if setting == AUTOMATIC:
        return IPv6Network((ULA + subnet.network_address.packed + bytes(8), 64))
    try:
        found = IPv6Network(setting)
    except ValueError as error:
        raise HostUnfit(f"the IPv6 subnet {setting!r} is not valid", str(error)) from error
    if found.prefixlen > 112:
        raise HostUnfit(f"the IPv6 subnet {setting} is too small", "choose a /64")
    return found
