"""Docker's links: the environment that tells a container where another is."""

from collections.abc import Sequence
from ipaddress import IPv4Address

from shipway.runtime.network.publish import Publish


def environment(
    container_id: str, alias: str, address: IPv4Address, ports: Sequence[Publish]
) -> dict[str, str]:
    """The variables of one link: DB_NAME, DB_PORT, DB_PORT_5432_TCP_ADDR and so on."""
    prefix = "".join(each if each.isalnum() else "_" for each in alias).upper()
    found = {f"{prefix}_NAME": f"/{container_id}/{alias}"}
    ordered = sorted({(port.container, port.protocol) for port in ports})
    for number, (port, protocol) in enumerate(ordered):
        url = f"{protocol}://{address}:{port}"
        if number == 0:
            found[f"{prefix}_PORT"] = url
        name = f"{prefix}_PORT_{port}_{protocol.upper()}"
        found |= {
            name: url,
            f"{name}_ADDR": str(address),
            f"{name}_PORT": str(port),
            f"{name}_PROTO": protocol,
        }
    return found
