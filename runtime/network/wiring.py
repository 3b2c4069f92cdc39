"""What a container has of the network beyond its address: published ports, named networks, links.

The truth is on disk (leases of addresses and ports, members of networks and links); the elements of
the firewall's sets and the hosts files of running containers are made from it. One lock is held while
either changes. A container that has none of this costs a look at two paths.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from ipaddress import IPv4Address, ip_address
from pathlib import Path

from shipway.runtime.errors import HostUnfit, KernelRefused, NoSuchContainer
from shipway.runtime.files import locked
from shipway.runtime.network import elements, hosts, links
from shipway.runtime.network.bridge import Network
from shipway.runtime.network.elements import Address, Element
from shipway.runtime.network.firewall import member_set
from shipway.runtime.network.named import Groups, NamedNetworks
from shipway.runtime.network.publish import PortLeases, Publish, Published, check_address
from shipway.runtime.spec import ContainerSpec


class Wiring:
    """The wiring of one engine's containers.

    `root` is the engine's, `publish` the host's address for ports that name none. `is_up` tells
    whether a container runs or is just starting, `exposed` which ports its image exposes.
    """

    def __init__(
        self,
        root: Path,
        network: Network,
        publish: str,
        is_up: Callable[[str], bool],
        exposed: Callable[[str], Sequence[Publish]],
    ) -> None:
        self.root = root
        self.network = network
        self.is_up = is_up
        self.exposed = exposed
        self.ports = PortLeases(root / "ports", publish, is_up)
        self.networks = NamedNetworks(root / "networks")
        # Group: the container, or the name server, that the members may reach.
        self.links = Groups(root / "links")
        self.servers = Groups(root / "nameservers")

    # -- the engine -----------------------------------------------------------------------------

    def setup(self) -> None:
        """Make or mend the network, with what every running container has of it. HostUnfit."""
        with self._locked():
            self._rebuild()

    def create_network(self, name: str, labels: Mapping[str, str]) -> None:
        """Make a named network. Raises NetworkExists, InvalidSpec."""
        with self._locked():
            self.networks.create(name, labels)
            try:
                self._rebuild()
            except BaseException:
                self.networks.remove(name)
                raise

    def remove_network(self, name: str) -> None:
        """Delete a named network. Raises NoSuchNetwork, NetworkInUse."""
        with self._locked():
            self.networks.remove(name)
            self._rebuild()

    # -- a container's life ---------------------------------------------------------------------

    def check(self, spec: ContainerSpec) -> None:
        """Refuse what cannot be had.

        Raises NoSuchNetwork, NoSuchContainer, NoSuchHostAddress, HostUnfit.
        """
        self.networks.check(spec.networks)
        for target, _ in spec.links:
            if not self._folder(target).is_dir():
                raise NoSuchContainer(target)
        if not self.network.has_ipv6() and any(":" in each.address for each in spec.ports):
            raise HostUnfit(
                "a port cannot be published at an IPv6 address: this engine has no IPv6",
                "publish it at an IPv4 address",
            )
        for address in {each.address for each in spec.ports if each.address}:
            check_address(address)

    def enrol(self, spec: ContainerSpec) -> None:
        """Put down the networks and links of a new container, whose folder is there."""
        wishes = (spec.networks, spec.links, spec.dns, spec.ports, spec.publish_all)
        if not any(wishes):
            return
        with self._locked():
            self._mark(spec.id)
            self.networks.check(spec.networks)  # again: none is removed while we hold the lock
            for name in spec.networks:
                self.networks.join(name, spec.id, spec.aliases)
            for target, alias in spec.links:
                names = self.links.members(target).get(spec.id, ())
                self.links.join(target, spec.id, (*names, alias))
            for server in spec.dns:
                self.servers.join(server, spec.id, ())

    def lease(self, spec: ContainerSpec) -> None:
        """Lease the ports of a container that is to be started. Raises PortTaken."""
        wanted = list(spec.ports)
        if spec.publish_all:
            named = {(port.container, port.protocol) for port in wanted}
            exposed = self.exposed(spec.id)
            wanted += [port for port in exposed if (port.container, port.protocol) not in named]
        if not wanted:
            return
        with self._locked():
            addresses = self._addresses()
            owners = self.ports.all()
            _, lost = self.ports.lease(spec.id, wanted)
            for port in lost:
                self._delete(self._port_elements(port, addresses.get(owners[port])))

    def connect(self, container_id: str) -> None:
        """Let a container that is attached, and not started yet, be reached."""
        if self.is_wired(container_id):
            with self._locked():
                self._add(self._elements_of(container_id))
                self._forget_flows(container_id)
                self._rewrite_hosts(self._circle(container_id))

    def disconnect(self, container_id: str) -> None:
        """Take back what `lease` and `connect` gave. Idempotent."""
        if self.is_wired(container_id):
            with self._locked():
                self._delete(self._elements_of(container_id))
                self._forget_flows(container_id)
                self.ports.release(self.ports.of(container_id))
                others = self._circle(container_id) - {container_id}
                self._rewrite_hosts(others, without=container_id)

    def forget(self, container_id: str) -> None:
        """Take a container out of its networks and links, at its removal. Idempotent."""
        if self._mark_of(container_id).exists():
            with self._locked():
                for groups in (self.networks, self.links, self.servers):
                    for name in groups.of(container_id):
                        groups.leave(name, container_id)
                self.links.prune()
                self.servers.prune()

    # -- changes while it runs ------------------------------------------------------------------

    def join(self, container_id: str, network: str, aliases: Sequence[str]) -> None:
        """Make a container a member of a network, at once if it runs. Raises NoSuchNetwork."""
        with self._locked():
            self.networks.check([network])
            self._mark(container_id)
            self.networks.join(network, container_id, aliases)
            self._add(self._elements_of(container_id))
            self._rewrite_hosts(self._circle(container_id))

    def leave(self, container_id: str, network: str) -> None:
        """End a membership: at once, also for connections that are open. Raises NoSuchNetwork."""
        with self._locked():
            members = self.networks.get(network).members
            self.networks.leave(network, container_id)
            address = self._addresses().get(container_id)
            if address:
                self._delete(self._member_elements(network, [address]))
            self._rewrite_hosts({container_id, *members})

    # -- looking --------------------------------------------------------------------------------

    def is_wired(self, container_id: str) -> bool:
        """Whether a container has anything here: a cheap look."""
        return self._mark_of(container_id).exists() or self.links.exists(container_id)

    def published(self) -> dict[str, list[Published]]:
        """The published ports of each container that has some, in order."""
        return self.ports.by_owner()

    def addresses(self, container_id: str) -> list[Address]:
        """What a container is reached at inside: its IPv4 address, and IPv6 if there is."""
        address = self._addresses().get(container_id)
        return self.network.both(address)

    def link_environment(self, spec: ContainerSpec) -> dict[str, str]:
        """What tells a container where those it is linked to are, as far as they run."""
        found: dict[str, str] = {}
        if spec.links:
            addresses = self._addresses()
            for target, alias in spec.links:
                if target in addresses:
                    ports = [*self.exposed(target), *map(Published.wish, self.ports.of(target))]
                    found |= links.environment(spec.id, alias, addresses[target], ports)
        return found

    # -- from the disk to the kernel ------------------------------------------------------------

    def _rebuild(self) -> None:
        addresses = self._addresses()
        found: list[Element] = []
        for port, owner in self.ports.all().items():
            if self.is_up(owner):
                found += self._port_elements(port, addresses.get(owner))
        names = self.networks.names()
        for name in names:
            members = self.networks.members(name)
            found += self._member_elements(name, [addresses[m] for m in members if m in addresses])
        for target in self.links.names():
            for source in self.links.members(target):
                found += self._pairs("links", addresses.get(source), addresses.get(target))
        for server in self.servers.names():
            for member in self.servers.members(server):
                found += self._server_elements(addresses.get(member), server)
        self.network.setup(names, found)

    def _elements_of(self, container_id: str) -> list[Element]:
        addresses = self._addresses()
        own = addresses.get(container_id)
        if own is None:
            return []
        found: list[Element] = []
        for port in self.ports.of(container_id):
            found += self._port_elements(port, own)
        for name in self.networks.of(container_id):
            found += self._member_elements(name, [own])
        for target in self.links.of(container_id):
            found += self._pairs("links", own, addresses.get(target))
        for source in self.links.members(container_id):
            found += self._pairs("links", addresses.get(source), own)
        for server in self.servers.of(container_id):
            found += self._server_elements(own, server)
        return found

    def _port_elements(self, port: Published, address: IPv4Address | None) -> list[Element]:
        targets = self.network.both(address)
        version = port.address.version
        return [port.element(target) for target in targets if target.version == version]

    def _member_elements(self, network: str, members: Iterable[IPv4Address]) -> list[Element]:
        return [
            Element(member_set(network, address.version), (address,))
            for member in members
            for address in self.network.both(member)
        ]

    def _pairs(
        self, name: str, source: IPv4Address | None, target: IPv4Address | None
    ) -> list[Element]:
        if source is None or target is None:
            return []
        return [
            Element(f"{name}{one.version}", (one, other))
            for one, other in zip(self.network.both(source), self.network.both(target), strict=True)
        ]

    def _server_elements(self, member: IPv4Address | None, server: str) -> list[Element]:
        target = ip_address(server)
        return [
            Element(f"dns{target.version}", (address, target))
            for address in self.network.both(member)
            if address.version == target.version
        ]

    def _add(self, found: Sequence[Element]) -> None:
        try:
            elements.add(self.network.table, found)
        except KernelRefused:
            # The rules were flushed by somebody, or hold what a crash left: make them anew.
            self._rebuild()

    def _delete(self, found: Sequence[Element]) -> None:
        elements.delete(self.network.table, found)

    def _forget_flows(self, container_id: str) -> None:
        ports = [port for port in self.ports.of(container_id) if port.protocol == "udp"]
        if ports:
            # Imported late: few containers publish ports of UDP.
            from shipway.runtime.network import conntrack

            try:
                conntrack.forget(ports, self.addresses(container_id))
            except KernelRefused:  # a kernel without ctnetlink; flows end when they fall silent
                return

    # -- from the disk to the hosts files -------------------------------------------------------

    def _circle(self, container_id: str) -> set[str]:
        """The container, and all whose hosts files may name it."""
        found = {container_id, *self.links.members(container_id)}
        for name in self.networks.of(container_id):
            found |= self.networks.members(name).keys()
        return found

    def _rewrite_hosts(self, containers: Iterable[str], without: str | None = None) -> None:
        view = _View(
            self._addresses(), self.networks, lambda each: each != without and self.is_up(each)
        )
        for container_id in containers:
            hosts.rewrite(self._folder(container_id) / "hosts", self._lines(container_id, view))

    def _lines(self, container_id: str, view: "_View") -> list[str]:
        lines: list[str] = []
        for target in self.links.of(container_id):
            lines += view.line(target, self.links.members(target)[container_id], last=True)
        for network in self.networks.of(container_id):
            lines += view.lines_of(network)
        return list(dict.fromkeys(lines))

    # -- parts ----------------------------------------------------------------------------------

    def _addresses(self) -> dict[str, IPv4Address]:
        return {owner: address for address, owner in self.network.pool.leases().items()}

    def _folder(self, container_id: str) -> Path:
        return self.root / "containers" / container_id

    def _mark_of(self, container_id: str) -> Path:
        return self._folder(container_id) / "wired"

    def _mark(self, container_id: str) -> None:
        self._mark_of(container_id).touch(mode=0o600)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with locked(self.root / "locks/.network"):
            yield


class _View:
    """Who is up and where, looked at once while several hosts files are written."""

    def __init__(
        self,
        addresses: Mapping[str, IPv4Address],
        networks: NamedNetworks,
        is_up: Callable[[str], bool],
    ) -> None:
        self.addresses = addresses
        self.networks = networks
        self.is_up = cache(is_up)
        self.lines_of = cache(self._lines_of)

    def line(self, member: str, names: Sequence[str], last: bool = False) -> list[str]:
        """What says where a container is, if it is up: its id first, or last, of its names."""
        address = self.addresses.get(member)
        if address is None or not self.is_up(member):
            return []
        return [hosts.line(address, (*names, member) if last else (member, *names))]

    def _lines_of(self, network: str) -> list[str]:
        members = self.networks.members(network).items()
        return [line for member, names in members for line in self.line(member, names)]
