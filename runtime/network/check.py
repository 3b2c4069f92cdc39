"""What of this host stands in the way of the containers' network: looked for, never changed.

A packet must be let through by every firewall of the host. Ours cannot overrule that of another, but
can say that it is there, and what would let containers pass.
"""

import json
import shutil
import subprocess
from collections.abc import Iterator
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from shipway.runtime.errors import HostUnfit
from shipway.runtime.network.bridge import Network

ROUTES = Path("/proc/net/route")
LEGACY_TABLES = Path("/proc/net/ip_tables_names")
COMMAND_TIMEOUT = 20.0


def check(network: Network) -> list[HostUnfit]:
    """Everything that was found, each with a remedy; nothing if all is well."""
    return [
        *foreign_firewalls(network.bridge, network.table),
        *overlaps(network.bridge, network.pool.network),
        *_name_servers(network),
    ]


def foreign_firewalls(bridge: str, table: str) -> Iterator[HostUnfit]:
    """The firewalls beside ours that drop what they do not know, and do not know our bridge."""
    for chain in _json(["nft", "-j", "list", "chains"], "chain"):
        about = str(chain["family"]), str(chain["table"]), str(chain["name"])
        if chain.get("hook") != "forward" or about[0] == "bridge" or about[1] == table:
            continue
        rules = _json(["nft", "-j", "list", "table", *about[:2]], "rule")
        own = [rule for rule in rules if rule["chain"] == about[2]]
        drops = chain.get("policy") == "drop" or (own and _refuses_all(own[-1]))
        if drops and not _knows(rules, bridge):
            yield _in_the_way(" ".join(about), bridge, _insertion(rules, about))
    if not LEGACY_TABLES.exists() or "filter" not in LEGACY_TABLES.read_text().split():
        return
    lines = _output(["iptables-legacy", "-S", "FORWARD"]).splitlines()
    if "-P FORWARD DROP" in lines and not any(bridge in line for line in lines):
        yield _in_the_way(
            "iptables-legacy FORWARD", bridge, "iptables-legacy -I FORWARD -{} {} -j ACCEPT"
        )


def overlaps(bridge: str, subnet: IPv4Network) -> Iterator[HostUnfit]:
    """The routes of other interfaces to addresses that are the containers'."""
    for line in ROUTES.read_text().splitlines()[1:]:
        words = line.split()
        address, mask = (int.from_bytes(bytes.fromhex(words[at]), "little") for at in (1, 7))
        if words[0] == bridge or not mask:
            continue
        route = IPv4Network((address, mask.bit_count()), strict=False)
        if route.overlaps(subnet):
            yield HostUnfit(
                f"the containers' subnet {subnet} overlaps with {route}, which is behind {words[0]}",
                "set the engine up with another subnet",
            )


def _name_servers(network: Network) -> Iterator[HostUnfit]:
    if not network.resolver().nameservers:
        yield HostUnfit(
            "the host's resolv.conf names no server that a container can reach",
            "name one there that does not listen on the loopback only, or use --dns",
        )


def _in_the_way(chain: str, bridge: str, insert: str) -> HostUnfit:
    return HostUnfit(
        f"the chain `{chain}` drops what containers send and receive",
        f"let it pass with `{insert.format('i', bridge)}` and `{insert.format('o', bridge)}`;"
        " the engine's own rules still hold",
    )


def _insertion(rules: list[dict[str, Any]], chain: tuple[str, str, str]) -> str:
    """The command that lets a bridge pass, with places for the direction and the bridge."""
    if chain[0] == "inet" or chain[1] != "filter":
        return f'nft insert rule {" ".join(chain)} {{}}ifname "{{}}" accept'
    program = "ip6tables" if chain[0] == "ip6" else "iptables"
    docker = any('"DOCKER-USER"' in json.dumps(rule) for rule in rules)
    return f"{program} -I {'DOCKER-USER' if docker else chain[2]} -{{}} {{}} -j ACCEPT"


def _refuses_all(rule: dict[str, Any]) -> bool:
    verdicts = [each for each in rule["expr"] if "counter" not in each]
    return len(verdicts) == 1 and bool({"drop", "reject"} & verdicts[0].keys())


def _knows(rules: list[dict[str, Any]], bridge: str) -> bool:
    return any(f'"{bridge}"' in json.dumps(rule) for rule in rules)


def _json(argv: list[str], kind: str) -> list[dict[str, Any]]:
    """The objects of one kind in nft's answer; none if it has none."""
    try:
        found = json.loads(_output(argv))["nftables"]
    except (ValueError, KeyError):
        return []
    return [each[kind] for each in found if kind in each]


def _output(argv: list[str]) -> str:
    if shutil.which(argv[0]) is None:
        return ""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=COMMAND_TIMEOUT)
    return done.stdout
