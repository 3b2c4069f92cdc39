"""The containers' network: one bridge, an isolated port for each; the host routes between them."""

import errno
import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface, ip_network
from pathlib import Path
from typing import Literal

from shipway.runtime.errors import HostUnfit, KernelRefused
from shipway.runtime.network import firewall, netlink
from shipway.runtime.network.addresses import AddressPool
from shipway.runtime.network.elements import Address, Element
from shipway.runtime.network.resolver import Resolver, read_resolver

INTERFACE = "eth0"
# An interface's name has 15 characters at most: the bridge's, a dash, the address's place in hex.
LONGEST_BRIDGE_NAME = 10
SYSCTL = Path("/proc/sys/net")
DEFAULT_MTU = 1500


class Network:
    """The bridge of one engine. Holds no state: all of it is the kernel's and the pool's.

    A container's only route is the gateway, whose MAC it is told, and the other way round: no
    container is ever asked who it is, so none can answer for another.
    """

    def __init__(self, bridge: str, pool: AddressPool, table: str, allow: tuple[str, ...]) -> None:
        if len(bridge) > LONGEST_BRIDGE_NAME:
            raise HostUnfit(
                f"the bridge name {bridge!r} is too long", f"use {LONGEST_BRIDGE_NAME} characters"
            )
        self.bridge = bridge
        self.pool = pool
        self.table = table
        self._disable_ipv6 = str(SYSCTL / "ipv6/conf" / bridge / "disable_ipv6")
        self.allow = tuple(_network(text) for text in allow)

    def setup(self, networks: Sequence[str] = (), elements: Sequence[Element] = ()) -> None:
        """Make the bridge, the rules and the kernel settings, or put them right. Idempotent.

        `networks` are the named ones, `elements` what containers have in the rules' sets.
        """
        ipv6 = self._host_has_ipv6()
        with closing(netlink.open_socket()) as sock:
            self._ensure_bridge(sock, ipv6)
            self._restore_ports(sock, ipv6)
        (SYSCTL / "ipv4/ip_forward").write_text("1")
        # For programs of the host that use a published port at 127.0.0.1; see firewall.py.
        (SYSCTL / "ipv4/conf" / self.bridge / "route_localnet").write_text("1")
        if ipv6:
            forward_ipv6()
        firewall.load(self._rules(ipv6, networks, elements).text())

    def is_up(self) -> bool:
        """Whether bridge and rules are there: others may have flushed all rules of the machine."""
        return Path("/sys/class/net", self.bridge).exists() and firewall.is_loaded(self.table)

    def teardown(self) -> None:
        """Delete the bridge and our tables."""
        firewall.load(firewall.removal(self.table))
        self._delete(self.bridge)

    def check(self) -> list[HostUnfit]:
        """What of this host stands in the containers' way, each with a remedy. Changes nothing."""
        # Imported late: only a look over the host needs it.
        from shipway.runtime.network.check import check

        return check(self)

    def resolver(self) -> Resolver:
        """The name servers a container is told of."""
        return read_resolver(ipv6=self.has_ipv6())

    def has_ipv6(self) -> bool:
        """Whether containers have IPv6 here: as `setup` found, and the bridge knows."""
        try:
            fd = os.open(self._disable_ipv6, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            return os.read(fd, 1) == b"0"
        finally:
            os.close(fd)

    def ipv6_inside(self, connected: bool) -> Literal["absent", "off", "on"]:
        """What a container has of IPv6, if it is connected to the network at all."""
        if connected and self.has_ipv6():
            return "on"
        return "off" if (SYSCTL / "ipv6").is_dir() else "absent"

    def both(self, address: IPv4Address | None) -> list[Address]:
        """A container's addresses: its IPv4 address, and the IPv6 one beside it if there is."""
        if address is None:
            return []
        beside = self.pool.beside(address) if self.has_ipv6() else None
        return [address, beside] if beside else [address]

    def attach(self, address: IPv4Address, pid: int) -> None:
        """Connect the network namespace of process `pid` to the bridge, as `address`."""
        port = self.port_name(address)
        ipv6 = self.has_ipv6()
        namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            with closing(netlink.open_socket()) as host:
                self._connect(host, port, address, namespace)
                self._introduce(host, address, ipv6)
            with closing(netlink.open_socket_in(namespace)) as inside:
                self._configure(inside, address, ipv6)
        finally:
            os.close(namespace)

    def port_name(self, address: IPv4Address) -> str:
        """The host's end of an address's veth pair. Made from the address, so rules can know it."""
        return f"{self.bridge}-{self.pool.index(address):04x}"

    def ports(self) -> list[str]:
        """The ports the bridge has now."""
        folder = Path("/sys/class/net", self.bridge, "brif")
        return sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []

    def _connect(
        self, sock: socket.socket, port: str, address: IPv4Address, namespace: int
    ) -> None:
        mac, mtu = mac_of(address), _mtu(self.bridge)
        try:
            netlink.create_veth(sock, port, self.bridge, INTERFACE, mac, namespace, mtu)
        except KernelRefused as error:
            if error.errno != errno.EEXIST:
                raise
            # The address is leased to us alone, so this is what a container now gone left: the
            # kernel takes network namespaces down a little later, and nobody waited for it.
            self._delete(port)
            netlink.create_veth(sock, port, self.bridge, INTERFACE, mac, namespace, mtu)
        netlink.isolate_port(sock, port)
        netlink.set_up(sock, port, ipv6=False)

    def _introduce(self, sock: socket.socket, address: IPv4Address, ipv6: bool) -> None:
        """Tell the host the MAC of an IPv6 address. It is always the same, so it may stay told."""
        beside = self.pool.beside(address)
        if ipv6 and beside:
            index = socket.if_nametoindex(self.bridge)
            netlink.add_neighbour(sock, index, beside, mac_of(address))

    def _configure(self, sock: socket.socket, address: IPv4Address, ipv6: bool) -> None:
        gateway, beside = self.pool.gateway.ip, self.pool.beside(address)
        netlink.set_up(sock, "lo")
        index = netlink.index_of(sock, INTERFACE)
        netlink.add_address(sock, index, IPv4Interface((address, 32)))
        netlink.set_up(sock, INTERFACE, ipv6=False)
        netlink.add_default_route(sock, gateway, index)
        if ipv6 and beside:
            gateway6 = self.pool.beside(gateway)
            assert gateway6
            netlink.add_address(sock, index, IPv6Interface((beside, 128)))
            netlink.add_neighbour(sock, index, gateway6, mac_of(gateway))
            netlink.add_default_route(sock, gateway6, index)

    def _host_has_ipv6(self) -> bool:
        if not self.pool.network6:
            return False
        try:
            return (SYSCTL / "ipv6/conf/all/disable_ipv6").read_text() == "0\n"
        except FileNotFoundError:
            return False

    def _ensure_bridge(self, sock: socket.socket, ipv6: bool) -> None:
        gateway = self.pool.gateway
        with _unless_there():
            netlink.create_bridge(sock, self.bridge, mac_of(gateway.ip), uplink_mtu())
        index = socket.if_nametoindex(self.bridge)
        with _unless_there():
            netlink.add_address(sock, index, gateway)
        settings = SYSCTL / "ipv6/conf" / self.bridge
        if settings.is_dir():
            (settings / "accept_ra").write_text("0")
            (settings / "disable_ipv6").write_text("0" if ipv6 else "1")
        gateway6, network6 = self.pool.beside(gateway.ip), self.pool.network6
        if ipv6 and gateway6 and network6:
            with _unless_there():
                interface = IPv6Interface((gateway6, network6.prefixlen))
                netlink.add_address(sock, index, interface)
        netlink.set_up(sock, self.bridge, ipv6=False)

    def _restore_ports(self, sock: socket.socket, ipv6: bool) -> None:
        """Put the ports of running containers back on a bridge that is not the one they were on."""
        there = set(self.ports())
        interfaces = {name for _, name in socket.if_nameindex()}
        for address in self.pool.leases():
            port = self.port_name(address)
            if port in interfaces - there:
                netlink.set_master(sock, port, self.bridge)
                netlink.isolate_port(sock, port)
                netlink.set_up(sock, port, ipv6=False)
            self._introduce(sock, address, ipv6)

    def _rules(
        self, ipv6: bool, networks: Sequence[str], elements: Iterable[Element]
    ) -> firewall.Rules:
        ports = [
            firewall.Port(
                self.port_name(address),
                format_mac(mac_of(address)),
                address,
                self.pool.beside(address) if ipv6 else None,
            )
            for address in self.pool.addresses
        ]
        return firewall.Rules(
            table=self.table,
            bridge=self.bridge,
            subnet=self.pool.network,
            subnet6=self.pool.network6 if ipv6 else None,
            nameservers=self.resolver().nameservers,
            allow=self.allow,
            ports=ports,
            networks=networks,
            elements=tuple(elements),
        )

    def _delete(self, interface: str) -> None:
        with closing(netlink.open_socket()) as sock:
            try:
                netlink.delete_link(sock, interface)
            except KernelRefused as error:
                if error.errno != errno.ENODEV:
                    raise


@contextmanager
def _unless_there() -> Iterator[None]:
    """Overlook that the kernel has it already."""
    try:
        yield
    except KernelRefused as error:
        if error.errno != errno.EEXIST:
            raise


def forward_ipv6() -> None:
    """Have the host forward IPv6, and still hear its own routers.

    A host that forwards stops taking routes from router advertisements, unless told that it shall.
    """
    everywhere = SYSCTL / "ipv6/conf/all/forwarding"
    if everywhere.read_text() == "1\n":
        return
    for settings in (SYSCTL / "ipv6/conf").iterdir():
        if settings.name in ("all", "default"):
            continue
        hears = settings / "accept_ra"
        if hears.read_text() == "1\n" and (settings / "forwarding").read_text() == "0\n":
            hears.write_text("2")
    everywhere.write_text("1")


def mac_of(address: IPv4Address) -> bytes:
    """The MAC address of an IP address: locally administered, the same every time."""
    return b"\x02\x53" + address.packed


def format_mac(mac: bytes) -> str:
    """The usual text of a MAC address, like 02:53:0a:53:00:02."""
    return mac.hex(":")


def uplink_mtu() -> int:
    """The MTU of the interface with the default route, in bytes."""
    try:
        routes = Path("/proc/net/route").read_text().splitlines()[1:]
    except OSError:
        return DEFAULT_MTU
    uplinks = [words[0] for words in map(str.split, routes) if words[1] == words[7] == "00000000"]
    return _mtu(uplinks[0]) if uplinks else DEFAULT_MTU


def _mtu(interface: str) -> int:
    try:
        return int(Path("/sys/class/net", interface, "mtu").read_text())
    except OSError:
        return DEFAULT_MTU


def _network(text: str) -> firewall.Net:
    try:
        return ip_network(text)
    except ValueError as error:
        raise HostUnfit(f"the allowed network {text!r} is not valid", str(error)) from error
