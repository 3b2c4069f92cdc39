"""What of a host stands in the way of containers, looked for in network namespaces of its own."""

import json
import subprocess
import sys

import pytest

LOOK = """
import json, sys
from ipaddress import IPv4Network
from shipway.runtime.network.check import foreign_firewalls, overlaps
found = [*foreign_firewalls("br0", "mine"), *overlaps("br0", IPv4Network("10.83.0.0/16"))]
print(json.dumps([[each.what, each.remedy] for each in found]))
"""
DOCKER = [
    ["iptables", "-P", "FORWARD", "DROP"],
    ["iptables", "-N", "DOCKER-USER"],
    ["iptables", "-A", "FORWARD", "-j", "DOCKER-USER"],
]
CASES = {
    "policy": (
        [["iptables", "-P", "FORWARD", "DROP"]],
        "ip filter FORWARD",
        "iptables -I FORWARD -i br0 -j ACCEPT",
    ),
    "docker": (DOCKER, "ip filter FORWARD", "iptables -I DOCKER-USER -o br0 -j ACCEPT"),
    "ipv6": (
        [["ip6tables", "-P", "FORWARD", "DROP"]],
        "ip6 filter FORWARD",
        "ip6tables -I FORWARD -i br0 -j ACCEPT",
    ),
    "last rule": (
        [
            ["nft", "add table inet fw"],
            ["nft", "add chain inet fw f { type filter hook forward priority 5; }"],
            ["nft", "add rule inet fw f counter reject"],
        ],
        "inet fw f",
        'nft insert rule inet fw f iifname "br0" accept',
    ),
    "route": (
        [
            ["ip", "link", "add", "lan", "type", "veth", "peer", "name", "other"],
            ["ip", "addr", "add", "10.83.7.1/24", "dev", "lan"],
            ["ip", "link", "set", "lan", "up"],
        ],
        "10.83.7.0/24",
        "another subnet",
    ),
}
FINE = {
    "nothing": [],
    "open": [
        ["iptables", "-P", "FORWARD", "ACCEPT"],
        ["iptables", "-A", "FORWARD", "-s", "192.0.2.1", "-j", "DROP"],
    ],
    "ours": [
        ["nft", "add table inet mine"],
        ["nft", "add chain inet mine f { type filter hook forward priority 5; policy drop; }"],
    ],
    "told": [
        *DOCKER,
        ["iptables", "-I", "DOCKER-USER", "-i", "br0", "-j", "ACCEPT"],
        ["iptables", "-I", "DOCKER-USER", "-o", "br0", "-j", "ACCEPT"],
    ],
}


def look(commands: list[list[str]]) -> list[list[str]]:
    """What is found in a network namespace where the commands were run."""
    steps = "".join(f"subprocess.run({command!r}, check=True)\n" for command in commands)
    argv = ["unshare", "--net", sys.executable, "-c", f"import subprocess\n{steps}{LOOK}"]
    found: list[list[str]] = json.loads(subprocess.check_output(argv, text=True))
    return found


@pytest.mark.parametrize("case", CASES)
def test_what_is_in_the_way_is_named(case: str) -> None:
    """A firewall that drops, or a network that has the containers' addresses, and what would help."""
    commands, what, remedy = CASES[case]
    [found] = look(commands)
    assert what in found[0]
    assert remedy in found[1]


@pytest.mark.parametrize("case", FINE)
def test_what_is_not_in_the_way_is_not_named(case: str) -> None:
    """Neither a firewall that lets pass, nor ours, nor one that was told."""
    assert look(FINE[case]) == []


def test_check_names_what_is_in_the_way() -> None:
    """`shipway runtime check` calls such a host degraded, and says what would help."""
    steps = "".join(f"subprocess.run({command!r}, check=True)\n" for command in DOCKER)
    code = f"""
import json, subprocess
from pathlib import Path
from shipway.runtime import checks
from shipway.runtime.config import EngineConfig
{steps}
config = EngineConfig(Path("/nowhere"), Path("/nowhere/run"))
print(json.dumps(checks.CHECKS["other firewalls"](config)))
"""
    argv = ["unshare", "--net", sys.executable, "-c", code]
    state, what, remedy = json.loads(subprocess.check_output(argv, text=True))
    assert state == "degraded"
    assert "ip filter FORWARD" in what
    assert "iptables -I DOCKER-USER -i shipway0 -j ACCEPT" in remedy
