"""The nftables rules around the bridge, as text, and their loading. Only tables of ours are touched.

A container reaches the internet and nothing else: neither the host, nor another container, nor a
private network, but for the host's name servers, what the operator allows, and the containers it
shares a network with. All packets go through the host's IP layer, also those from one container to
the next: the ports of the bridge are isolated, and each container's only route is the host.
"""

import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from shipway.runtime.errors import HostUnfit
from shipway.runtime.network import elements
from shipway.runtime.network.elements import Address, Element

Net = IPv4Network | IPv6Network

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
# All that is not global unicast (2000::/3): so also ULA, fd00:ec2::254, link-local, multicast,
# v4-mapped and 64:ff9b::/96 behind which a translator may reach IPv4's private networks. Then what
# lies in 2000::/3 and is not of the internet, or carries an IPv4 address (6to4, Teredo).
PRIVATE_NETWORKS6 = tuple(
    IPv6Network(text)
    for text in ("::/3", "4000::/2", "8000::/1", "2001::/23", "2001:db8::/32", "2002::/16")
)

# Neighbours are told of to both sides, so nobody need ask or answer (133 to 137 of ICMPv6).
_NEIGHBOUR_DISCOVERY = "133, 134, 135, 136, 137"

_SETS = {
    "at": "map at{n} {{ type {a} . inet_proto . inet_service : {a} . inet_service; {e} }}",
    "any": "map any{n} {{ type inet_proto . inet_service : {a} . inet_service; {e} }}",
    "links": "set links{n} {{ type {a} . {a}; {e} }}",
    "dns": "set dns{n} {{ type {a} . {a}; {e} }}",
}


@dataclass(frozen=True)
class Port:
    """One place on the bridge: only these addresses from this interface and MAC are believed."""

    interface: str
    mac: str
    address: IPv4Address
    address6: IPv6Address | None = None


@dataclass(frozen=True)
class Rules:
    """All that the rules are made of. Without `subnet6` no IPv6 passes the bridge.

    `networks` are the named ones; `elements` belong to the maps of published ports, and to the sets
    of links, of name servers of single containers, and of the members of named networks.
    """

    table: str
    bridge: str
    subnet: IPv4Network
    subnet6: IPv6Network | None
    nameservers: Sequence[Address] = ()
    allow: Sequence[Net] = ()
    ports: Sequence[Port] = ()
    networks: Sequence[str] = ()
    elements: Sequence[Element] = ()
    _by_set: Mapping[str, list[str]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        by_set: dict[str, list[str]] = {}
        for element in self.elements:
            by_set.setdefault(element.set, []).append(str(element))
        object.__setattr__(self, "_by_set", by_set)

    def text(self) -> str:
        """Text for `nft -f`: replaces our tables in one transaction."""
        return "\n".join([removal(self.table), self._inet_table(), self._bridge_table()])

    def _elements(self, name: str) -> str:
        found = self._by_set.get(name)
        return f"elements = {{ {', '.join(found)} }}" if found else ""

    def _sets(self) -> str:
        lines = [
            _interval_sets("nameservers", self.nameservers),
            _interval_sets("allowed", self.allow),
            _interval_sets("private", [*PRIVATE_NETWORKS, *PRIVATE_NETWORKS6]),
        ]
        for number, kind in ((4, "ipv4_addr"), (6, "ipv6_addr")):
            for name, form in _SETS.items():
                listed = self._elements(f"{name}{number}")
                lines.append("  " + form.format(n=number, a=kind, e=listed))
            for network in self.networks:
                listed = self._elements(member_set(network, number))
                lines.append(f"  set {member_set(network, number)} {{ type {kind}; {listed} }}")
        return "\n".join(lines)

    def _of_ours(self, words: str) -> str:
        """One rule for each family, with `words` about its source and our subnet."""
        rules = [f"meta nfproto ipv4 {words.format(f='ip', subnet=self.subnet, n=4)}"]
        if self.subnet6:
            rules.append(f"meta nfproto ipv6 {words.format(f='ip6', subnet=self.subnet6, n=6)}")
        return "\n    ".join(rules)

    def _inet_table(self) -> str:
        bridge = self.bridge
        no_ipv6 = "" if self.subnet6 else "meta nfproto ipv6 drop"
        return f"""table inet {self.table} {{
{self._sets()}
  chain early {{
    type filter hook prerouting priority raw; policy accept;
    # The bridge routes 127.0.0.0/8, for programs of the host that use a published port there.
    iifname "{bridge}" ip daddr 127.0.0.0/8 drop
  }}
  chain published {{
    dnat ip to ip daddr . meta l4proto . th dport map @at4
    dnat ip6 to ip6 daddr . meta l4proto . th dport map @at6
    fib daddr type local dnat ip to meta l4proto . th dport map @any4
    fib daddr type local dnat ip6 to meta l4proto . th dport map @any6
  }}
  chain from_outside {{
    type nat hook prerouting priority dstnat; policy accept;
    # A packet from the wire for 127.0.0.1 must stay one that the kernel drops.
    ip daddr 127.0.0.0/8 return
    # Containers reach each other by sharing a network. (Where br_netfilter is loaded, it would send
    # such packets straight to the other port, which the ports' isolation forbids.)
    iifname "{bridge}" return
    jump published
  }}
  chain from_host {{
    type nat hook output priority -100; policy accept;
    ip6 daddr ::1 return
    jump published
  }}
  chain to_host {{
    type filter hook input priority filter; policy accept;
    iifname != "{bridge}" accept
    ct state established,related accept
    ip daddr @allowed4 accept
    ip6 daddr @allowed6 accept
    meta l4proto {{ tcp, udp }} th dport 53 jump names
    goto refuse
  }}
  chain from_host_filter {{
    type filter hook output priority filter; policy accept;
    # One container's way to another is through us, so do not tell it of a shorter one.
    oifname "{bridge}" icmp type redirect drop
    oifname "{bridge}" icmpv6 type nd-redirect drop
  }}
  chain refuse {{
    # Linux overlooks a first ICMPv6 answer that comes before its connect() has let go of the socket.
    meta l4proto tcp reject with tcp reset
    reject with icmpx admin-prohibited
  }}
  chain names {{
    ip daddr @nameservers4 accept
    ip6 daddr @nameservers6 accept
    ip saddr . ip daddr @dns4 accept
    ip6 saddr . ip6 daddr @dns6 accept
  }}
  chain networks {{
{network_rules(self.networks)}
  }}
  chain between {{
    {self._of_ours("{f} saddr . {f} daddr @links{n} accept")}
    {self._of_ours("ct direction reply {f} daddr . {f} saddr @links{n} accept")}
    jump networks
    goto refuse
  }}
  chain through {{
    type filter hook forward priority filter; policy accept;
    iifname != "{bridge}" oifname != "{bridge}" accept
    {no_ipv6}
    iifname "{bridge}" oifname "{bridge}" goto between
    oifname "{bridge}" ct state established,related accept
    oifname "{bridge}" ct status dnat accept
    oifname "{bridge}" drop
    {self._of_ours("{f} saddr != {subnet} drop")}
    ct state established,related ct direction reply accept
    meta l4proto {{ tcp, udp }} th dport 53 jump names
    ip daddr @allowed4 accept
    ip6 daddr @allowed6 accept
    ip daddr @private4 goto refuse
    ip6 daddr @private6 goto refuse
  }}
  chain out {{
    type nat hook postrouting priority srcnat; policy accept;
    {self._of_ours(f'{{f}} saddr {{subnet}} oifname != "{bridge}" masquerade')}
    oifname "{bridge}" ip saddr 127.0.0.0/8 masquerade
  }}
}}"""

    def _bridge_table(self) -> str:
        ports = [f'"{each.interface}" . {each.mac} . {each.address}' for each in self.ports]
        ports6 = [
            f'"{each.interface}" . {each.mac} . {each.address6}'
            for each in self.ports
            if each.address6
        ]
        return f"""table bridge {self.table} {{
  set ports {{ typeof iifname . ether saddr . ip saddr; {_listed(ports)} }}
  set ports6 {{ typeof iifname . ether saddr . ip6 saddr; {_listed(ports6)} }}
  chain ports {{
    type filter hook prerouting priority -300; policy accept;
    iifname != "{self.bridge}-*" accept
    ether type ip iifname . ether saddr . ip saddr @ports accept
    ether type arp iifname . ether saddr . arp saddr ip != @ports drop
    ether type arp iifname . arp saddr ether . arp saddr ip @ports accept
    icmpv6 type {{ {_NEIGHBOUR_DISCOVERY} }} drop
    ether type ip6 iifname . ether saddr . ip6 saddr @ports6 accept
    drop
  }}
}}"""


FAMILIES = ("inet", "bridge")
# nft 1.0.6 reads all tables of the host before it sends ours, and can die of one that it cannot read
# or that just changes; nothing has been sent then. Seconds to wait before each further try.
NFT_DELAYS = (0.02, 0.05, 0.1, 0.2, 0.4)


def member_set(network: str, number: int) -> str:
    """The set of the addresses, of IP version `number`, of a named network's members."""
    return f"n{number}_{network}"


def network_rules(networks: Iterable[str]) -> str:
    """Who is a member of a network may send to every other."""
    return "\n".join(
        f"    {family} saddr @{member_set(name, number)} {family} daddr @{member_set(name, number)} accept"
        for name in networks
        for number, family in ((4, "ip"), (6, "ip6"))
    )


def removal(table: str) -> str:
    """Text for `nft -f` that deletes our tables, whether they are there or not."""
    return "\n".join(
        f"table {family} {table}\ndelete table {family} {table}" for family in FAMILIES
    )


def is_loaded(table: str) -> bool:
    """Whether our tables are there."""
    return elements.has_tables(table)


def load(text: str) -> None:
    """Hand the rules to the kernel; all of them or, with HostUnfit, none."""
    result = _nft(text)
    for delay in NFT_DELAYS:
        if result.returncode >= 0:
            break
        time.sleep(delay)
        result = _nft(text)
    if result.returncode < 0:
        raise HostUnfit(
            f"nft died of signal {-result.returncode}",
            "a newer nft made some table of this host, which that of the host cannot read; upgrade it",
        )
    if result.returncode != 0:
        reason = (result.stderr.strip().splitlines() or ["no reason given"])[0]
        raise HostUnfit(f"the firewall rules were refused ({reason})", "check nftables' support")


def _nft(text: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            ["nft", "-f", "-"], input=text, capture_output=True, text=True, timeout=30
        )
    except FileNotFoundError as error:
        raise HostUnfit("nft is not installed", "install Debian's package nftables") from error


def _listed(elements: Sequence[str]) -> str:
    return f"elements = {{\n{','.join(elements)} }}" if elements else ""


def _interval_sets(name: str, networks: Sequence[Address | Net]) -> str:
    lines = []
    for number, kind in ((4, "ipv4_addr"), (6, "ipv6_addr")):
        found = [str(each) for each in networks if each.version == number]
        lines.append(
            f"  set {name}{number} {{ type {kind}; flags interval; auto-merge; {_listed(found)} }}"
        )
    return "\n".join(lines)
