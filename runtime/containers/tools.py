"""What the steps of a container's life work with: the parts of one engine, and an image's root."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from shipway.runtime.config import EngineConfig
from shipway.runtime.containers.idmapping import IdMapping
from shipway.runtime.containers.secrets import Vault
from shipway.runtime.ids.ranges import IdRanges
from shipway.runtime.images.store import ImageStore
from shipway.runtime.kernel.cgroups import Cgroups
from shipway.runtime.network.addresses import AddressPool
from shipway.runtime.network.bridge import Network
from shipway.runtime.network.publish import Publish
from shipway.runtime.network.wiring import Wiring
from shipway.runtime.oci.conmon import find_conmon
from shipway.runtime.oci.runtime import OciRuntime, find_runtime


@dataclass(frozen=True)
class Tools:
    """The parts of one engine on this machine."""

    runtime: OciRuntime
    conmon: Path
    cgroups: Cgroups
    network: Network
    pool: AddressPool
    ids: IdRanges
    idmapping: IdMapping
    wiring: Wiring
    vault: Vault


@dataclass(frozen=True)
class Root:
    """An image's layer directories, topmost first, its environment and its digest.

    With `volatile` the writable layer above need not outlast a crash of the machine.
    """

    layers: Sequence[Path]
    env: Mapping[str, str]
    digest: str
    volatile: bool = True


def assemble(
    config: EngineConfig,
    images: ImageStore,
    is_up: Callable[[str], bool],
    exposed: Callable[[str], tuple[Publish, ...]],
) -> Tools:
    """The parts of the engine with this config, as the machine lets it have them. Raises HostUnfit.

    `is_up` tells whether a container runs, and `exposed` the ports that its image exposes.
    """
    pool = AddressPool(config.root / "addresses", config.subnet, config.subnet6)
    runtime = find_runtime(config.runtime, config.run / ".oci")
    network = Network(config.bridge, pool, config.table, config.allow)
    return Tools(
        runtime=runtime,
        conmon=find_conmon(),
        cgroups=Cgroups(config.cgroup),
        network=network,
        pool=pool,
        ids=IdRanges(config.root / "ids", config.ids),
        idmapping=IdMapping(config, images),
        wiring=Wiring(config.root, network, config.publish, is_up, exposed),
        vault=Vault(config.run),
    )
