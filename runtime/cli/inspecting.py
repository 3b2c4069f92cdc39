"""inspect: all that is known of containers, in Docker's shape."""

from datetime import UTC, datetime
from typing import Any

import click

from shipway.runtime.cli import template
from shipway.runtime.cli.common import complain, engine, print_json, say
from shipway.runtime.containers.container import Container
from shipway.runtime.containers.states import DOCKER_STATUS
from shipway.runtime.engine import Engine
from shipway.runtime.errors import RuntimeFailure
from shipway.runtime.network.addresses import AddressPool
from shipway.runtime.spec import ContainerSpec

NEVER = "0001-01-01T00:00:00Z"
NANO = 1_000_000_000


@click.command("inspect", epilog="Example: … inspect -f '{{.State.Pid}}' web")
@click.option("-f", "--format", "form", metavar="TEMPLATE", help="Like '{{json .State}}'.")
@click.argument("names", nargs=-1, required=True)
def inspect(*, names: tuple[str, ...], form: str | None) -> int:
    """Show all that is known of containers, as JSON."""
    found = engine()
    shown, code = [], 0
    for name in names:
        try:
            shown.append(document(found, found.resolve(name)))
        except RuntimeFailure as error:
            complain(str(error))
            code = 1
    if form is None:
        print_json(shown)
    else:
        for each in shown:
            say(template.render(form, each))
    return code


def document(found: Engine, name: str) -> dict[str, Any]:
    """One container, by Docker's names. Environment values are shown; secrets have no place in it."""
    container = found.get(name)
    if container.exit is not None:
        found.settle(name)
    spec = _spec(found, name)
    return {
        "Id": name,
        "Name": f"/{name}",
        "Created": when(container.created_at),
        "Path": spec.args[0] if spec else next(iter(found.command(name)), ""),
        "Args": list(spec.args[1:] if spec else found.command(name)[1:]),
        "State": state(container),
        "Image": found.digest(name),
        "LogPath": str(container.log_path or ""),
        "Config": config(container, spec),
        "HostConfig": host_config(spec) if spec else {},
        "Mounts": mounts(spec) if spec else [],
        "NetworkSettings": network(found, container),
    }


def _spec(found: Engine, name: str) -> ContainerSpec | None:
    try:
        return found.spec(name)
    except RuntimeFailure:
        return None


def state(container: Container) -> dict[str, Any]:
    """Docker's State."""
    ended = container.exit
    return {
        "Status": DOCKER_STATUS[container.state],
        "Running": container.state in ("running", "paused"),
        "Paused": container.state == "paused",
        "Restarting": False,
        "OOMKilled": bool(ended and ended.oom),
        "Dead": container.state == "lost",
        "Pid": container.pid,
        "ExitCode": ended.code if ended else 0,
        "Error": "",
        "StartedAt": when(container.started_at),
        "FinishedAt": when(ended.at if ended else 0.0),
    }


def config(container: Container, spec: ContainerSpec | None) -> dict[str, Any]:
    """Docker's Config: what runs."""
    labels = {"Image": container.image, "Labels": dict(container.labels)}
    if spec is None:
        return labels
    return {
        "Hostname": spec.hostname or "",
        "User": spec.user,
        "Tty": spec.terminal,
        "OpenStdin": spec.stdin,
        "StdinOnce": spec.stdin_once,
        "Env": [f"{name}={value}" for name, value in spec.env.items()],
        "Cmd": list(spec.args),
        "WorkingDir": spec.cwd,
        "StopSignal": str(spec.stop_signal),
        "StopTimeout": int(spec.stop_timeout),
        **labels,
    }


def host_config(spec: ContainerSpec) -> dict[str, Any]:
    """Docker's HostConfig: what of the machine it may use."""
    limits = spec.limits
    return {
        "AutoRemove": spec.auto_remove,
        "Binds": [
            f"{mount.source}:{mount.target}{':ro' if mount.readonly else ''}"
            for mount in spec.mounts
            if mount.kind == "bind"
        ],
        "CapAdd": sorted(spec.capabilities),
        "CapDrop": ["ALL"],
        "CpuShares": limits.cpu_shares or 0,
        "Memory": limits.memory or 0,
        "NanoCpus": round((limits.cpus or 0) * NANO),
        "NetworkMode": next(iter(spec.networks), "default") if spec.network else "none",
        "PublishAllPorts": spec.publish_all,
        "Links": [f"{target}:{alias}" for target, alias in spec.links],
        "ExtraHosts": [f"{name}:{address}" for name, address in spec.extra_hosts],
        "Dns": list(spec.dns),
        "DnsSearch": list(spec.dns_search),
        "DnsOptions": list(spec.dns_options),
        "PidsLimit": limits.pids,
        "Privileged": False,
        "ReadonlyRootfs": spec.readonly_root,
        "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
        "UsernsMode": f"{spec.ids.base}:{spec.ids.size}",
    }


def mounts(spec: ContainerSpec) -> list[dict[str, Any]]:
    """Docker's Mounts."""
    return [
        {
            "Type": mount.kind,
            "Source": mount.source if mount.kind == "bind" else "",
            "Destination": mount.target,
            "Mode": "",
            "RW": not mount.readonly,
        }
        for mount in spec.mounts
    ]


def network(found: Engine, container: Container) -> dict[str, Any]:
    """Docker's NetworkSettings. A container has the same addresses on all its networks."""
    alive = container.state in ("running", "paused") and bool(container.ip)
    pool = AddressPool(found.config.root / "addresses", found.config.subnet)
    addresses = [str(each) for each in found.networks.addresses(container.id)] if alive else []
    ports: dict[str, list[dict[str, str]]] = {}
    for port in found.ports(container.id):
        bound = {"HostIp": str(port.address), "HostPort": str(port.host)}
        ports.setdefault(f"{port.container}/{port.protocol}", []).append(bound)
    own = {
        "IPAddress": container.ip if alive else "",
        "IPPrefixLen": pool.network.prefixlen if alive else 0,
        "Gateway": str(pool.gateway.ip) if alive else "",
        "GlobalIPv6Address": addresses[1] if len(addresses) > 1 else "",
    }
    networks = {
        name: {"Aliases": list(aliases), **own}
        for name, aliases in found.networks.of(container.id).items()
    }
    return {**own, "Ports": ports, "Networks": networks}


def when(seconds: float) -> str:
    """A time as Docker writes it."""
    if not seconds:
        return NEVER
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


COMMANDS = (inspect,)
