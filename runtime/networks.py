"""The named networks of an engine: `engine.networks`."""

import builtins
from collections.abc import Callable, Mapping, Sequence

from shipway.runtime.containers.container import Files
from shipway.runtime.errors import InvalidSpec
from shipway.runtime.network.elements import Address
from shipway.runtime.network.named import NamedNetwork, check_host_name
from shipway.runtime.network.wiring import Wiring


class Networks:
    """Containers that share a network reach each other, under their ids and other names."""

    def __init__(self, wiring: Wiring, files: Callable[[str], Files]) -> None:
        self._wiring = wiring
        self._files = files

    def create(self, name: str, labels: Mapping[str, str] | None = None) -> None:
        """Make a network. Raises NetworkExists, InvalidSpec, HostUnfit."""
        self._wiring.create_network(name, labels or {})

    def list(self) -> list[NamedNetwork]:
        """All networks, in the order of their names."""
        networks = self._wiring.networks
        return [networks.get(name) for name in networks.names()]

    def get(self, name: str) -> NamedNetwork:
        """One network. Raises NoSuchNetwork."""
        return self._wiring.networks.get(name)

    def of(self, container_id: str) -> dict[str, tuple[str, ...]]:
        """The networks that a container is on, and its other names there."""
        networks = self._wiring.networks
        return {
            name: networks.members(name).get(container_id, ()) for name in networks.of(container_id)
        }

    def addresses(self, container_id: str) -> builtins.list[Address]:
        """The addresses of a container inside, the same on all its networks; [] while it has none."""
        return self._wiring.addresses(container_id)

    def remove(self, name: str) -> None:
        """Delete a network. Raises NoSuchNetwork; NetworkInUse while containers are on it."""
        self._wiring.remove_network(name)

    def connect(self, container_id: str, network: str, aliases: Sequence[str] = ()) -> None:
        """Put a container on a network, at once if it runs; `aliases` replace those it had there.

        Raises NoSuchContainer, NoSuchNetwork, InvalidSpec.
        """
        for alias in aliases:
            check_host_name(alias)
        files = self._files(container_id)
        record = files.read_record()
        if files.init_pid.exists() and not record.ip:
            raise InvalidSpec(f"container {container_id!r} was started without any network")
        self._wiring.join(container_id, network, aliases)

    def disconnect(self, container_id: str, network: str) -> None:
        """Take a container off a network; open connections end. Raises NoSuchNetwork, InvalidSpec."""
        if container_id not in self.get(network).members:
            raise InvalidSpec(f"container {container_id!r} is not on the network {network!r}")
        self._wiring.leave(container_id, network)
