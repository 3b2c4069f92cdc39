"""The containers' network: one bridge, an isolated port for each, no route between them."""

import errno
import os
import socket
from contextlib import closing
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from shipway.runtime.errors import HostUnfit, KernelRefused
from shipway.runtime.network import firewall, netlink
from shipway.runtime.network.addresses import AddressPool
from shipway.runtime.network.resolver import Resolver, read_resolver

INTERFACE = "eth0"
# An interface's name has 15 characters at most: the bridge's, a dash, the address's place in hex.
LONGEST_BRIDGE_NAME = 10
SYSCTL = Path("/proc/sys")
DEFAULT_MTU = 1500


class Network:
    """The bridge of one engine. Holds no state: all of it is the kernel's and the pool's."""

    def __init__(self, bridge: str, pool: AddressPool, table: str, allow: tuple[str, ...]) -> None:
        if len(bridge) > LONGEST_BRIDGE_NAME:
            raise HostUnfit(
                f"the bridge name {bridge!r} is too long", f"use {LONGEST_BRIDGE_NAME} characters"
            )
        self.bridge = bridge
        self.pool = pool
        self.table = table
        self.allow = tuple(_network(text) for text in allow)

    def setup(self) -> None:
        """Make the bridge, the rules and the kernel settings, or put them right. Idempotent."""
        with closing(netlink.open_socket()) as sock:
            self._ensure_bridge(sock)
        (SYSCTL / "net/ipv4/ip_forward").write_text("1")
        resolver = self.resolver()
        ports = [
            firewall.Port(self.port_name(address), format_mac(mac_of(address)), address)
            for address in self.pool.addresses
        ]
        firewall.load(
            firewall.ruleset(
                self.table, self.bridge, self.pool.network, resolver.nameservers, self.allow, ports
            )
        )

    def teardown(self) -> None:
        """Delete the bridge and our tables."""
        firewall.load(firewall.removal(self.table))
        self._delete(self.bridge)

    def resolver(self) -> Resolver:
        """The name servers a container is told of."""
        return read_resolver()

    def attach(self, address: IPv4Address, pid: int) -> None:
        """Connect the network namespace of process `pid` to the bridge, as `address`."""
        port = self.port_name(address)
        namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            with closing(netlink.open_socket()) as host:
                self._connect(host, port, address, namespace)
            with closing(netlink.open_socket_in(namespace)) as inside:
                self._configure(inside, address)
        finally:
            os.close(namespace)

    def detach(self, address: IPv4Address) -> None:
        """Delete an address's port, if the end of its network namespace has not done so yet."""
        self._delete(self.port_name(address))

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
            # The address is leased to us alone, so this is what a container now gone left:
            # the kernel takes network namespaces down a little later.
            self._delete(port)
            netlink.create_veth(sock, port, self.bridge, INTERFACE, mac, namespace, mtu)
        netlink.isolate_port(sock, port)
        netlink.set_up(sock, port, ipv6=False)

    def _configure(self, sock: socket.socket, address: IPv4Address) -> None:
        gateway = self.pool.gateway
        netlink.set_up(sock, "lo")
        index = netlink.index_of(sock, INTERFACE)
        interface = type(gateway)((address, gateway.network.prefixlen))
        netlink.add_address(sock, index, interface)
        netlink.set_up(sock, INTERFACE)
        netlink.add_default_route(sock, gateway.ip)

    def _ensure_bridge(self, sock: socket.socket) -> None:
        gateway = self.pool.gateway
        try:
            netlink.create_bridge(sock, self.bridge, mac_of(gateway.ip), uplink_mtu())
        except KernelRefused as error:
            if error.errno != errno.EEXIST:
                raise
        try:
            netlink.add_address(sock, socket.if_nametoindex(self.bridge), gateway)
        except KernelRefused as error:
            if error.errno != errno.EEXIST:
                raise
        netlink.set_up(sock, self.bridge, ipv6=False)

    def _delete(self, interface: str) -> None:
        with closing(netlink.open_socket()) as sock:
            try:
                netlink.delete_link(sock, interface)
            except KernelRefused as error:
                if error.errno != errno.ENODEV:
                    raise


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


def _network(text: str) -> IPv4Network:
    try:
        return IPv4Network(text)
    except ValueError as error:
        raise HostUnfit(f"the allowed network {text!r} is not valid", str(error)) from error
