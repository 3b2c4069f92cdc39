"""The nftables rules around the bridge, as text, and their loading. Only tables of ours are touched.

A container reaches the internet and nothing else: neither the host, nor another container, nor a
private network, but for the host's name servers and what the operator allows.
"""

import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from shipway.runtime.errors import HostUnfit

# Where cloud metadata, the operator's own networks and other hosts' agents live.
PRIVATE_NETWORKS = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "224.0.0.0/3",
    )
)


@dataclass(frozen=True)
class Port:
    """One place on the bridge: only this address from this interface and MAC is believed."""

    interface: str
    mac: str
    address: IPv4Address


def ruleset(
    table: str,
    bridge: str,
    subnet: IPv4Network,
    nameservers: Sequence[IPv4Address],
    allow: Sequence[IPv4Network],
    ports: Iterable[Port],
) -> str:
    """Text for `nft -f`: replaces our tables in one transaction."""
    return "\n".join(
        [
            *(f"table {family} {table}\ndelete table {family} {table}" for family in FAMILIES),
            _inet_table(table, bridge, subnet, nameservers, allow),
            _bridge_table(table, bridge, ports),
        ]
    )


FAMILIES = ("inet", "bridge")


def removal(table: str) -> str:
    """Text for `nft -f` that deletes our tables, whether they are there or not."""
    return "\n".join(
        f"table {family} {table}\ndelete table {family} {table}" for family in FAMILIES
    )


def load(text: str) -> None:
    """Hand the rules to the kernel; all of them or, with HostUnfit, none."""
    try:
        result = subprocess.run(
            ["nft", "-f", "-"], input=text, capture_output=True, text=True, timeout=30
        )
    except FileNotFoundError as error:
        raise HostUnfit("nft is not installed", "install Debian's package nftables") from error
    if result.returncode != 0:
        reason = (result.stderr.strip().splitlines() or ["no reason given"])[0]
        raise HostUnfit(f"the firewall rules were refused ({reason})", "check nftables' support")


def _set(name: str, networks: Sequence[IPv4Address | IPv4Network]) -> str:
    elements = ", ".join(map(str, networks))
    content = f"elements = {{ {elements} }};" if networks else ""
    return f"  set {name} {{ type ipv4_addr; flags interval; auto-merge; {content} }}"


def _inet_table(
    table: str,
    bridge: str,
    subnet: IPv4Network,
    nameservers: Sequence[IPv4Address],
    allow: Sequence[IPv4Network],
) -> str:
    return f"""table inet {table} {{
{_set("nameservers", nameservers)}
{_set("allowed", allow)}
{_set("private", PRIVATE_NETWORKS)}
  chain host {{
    type filter hook input priority filter; policy accept;
    iifname != "{bridge}" accept
    ct state established,related accept
    ip daddr @allowed accept
    reject with icmpx admin-prohibited
  }}
  chain through {{
    type filter hook forward priority filter; policy accept;
    oifname "{bridge}" ct state established,related accept
    oifname "{bridge}" drop
    iifname != "{bridge}" accept
    ip saddr != {subnet} drop
    meta nfproto ipv6 drop
    ip daddr @nameservers meta l4proto {{ tcp, udp }} th dport 53 accept
    ip daddr @allowed accept
    ip daddr @private reject with icmpx admin-prohibited
  }}
  chain out {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {subnet} oifname != "{bridge}" masquerade
  }}
}}"""


def _bridge_table(table: str, bridge: str, ports: Iterable[Port]) -> str:
    elements = ",\n".join(f'"{port.interface}" . {port.mac} . {port.address}' for port in ports)
    return f"""table bridge {table} {{
  set ports {{ typeof iifname . ether saddr . ip saddr; elements = {{
{elements} }} }}
  chain ports {{
    type filter hook prerouting priority -300; policy accept;
    iifname != "{bridge}-*" accept
    ether type ip iifname . ether saddr . ip saddr @ports accept
    ether type arp iifname . arp saddr ether . arp saddr ip @ports accept
    drop
  }}
}}"""
