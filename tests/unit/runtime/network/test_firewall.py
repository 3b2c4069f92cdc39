"""The text of the firewall rules."""

import dataclasses
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from shipway.runtime.network import firewall
from shipway.runtime.network.elements import Element

RULES = firewall.Rules(
    table="mine",
    bridge="br0",
    subnet=IPv4Network("10.83.0.0/16"),
    subnet6=IPv6Network("fd53::/64"),
    nameservers=[IPv4Address("10.0.0.53"), IPv6Address("fd00::53")],
    allow=[IPv4Network("10.9.0.0/24")],
    ports=[
        firewall.Port(
            "br0-0002", "02:53:0a:53:00:02", IPv4Address("10.83.0.2"), IPv6Address("fd53::2")
        )
    ],
    networks=["shop"],
    elements=[Element("n4_shop", (IPv4Address("10.83.0.2"),))],
)


def test_rules_name_only_our_tables_and_bridge() -> None:
    """A ruleset replaces our two tables in one go and speaks of no other."""
    text = RULES.text()
    tables = [line.split() for line in text.splitlines() if line.startswith(("table", "delete"))]
    assert {words[-2] if words[-1] == "{" else words[-1] for words in tables} == {"mine"}
    assert '"br0-0002" . 02:53:0a:53:00:02 . 10.83.0.2' in text
    assert '"br0-0002" . 02:53:0a:53:00:02 . fd53::2' in text
    assert "elements = {\n10.0.0.53 }" in text
    assert "elements = {\nfd00::53 }" in text
    assert "elements = {\n10.9.0.0/24 }" in text


def test_members_of_a_network_may_send_to_each_other() -> None:
    """A named network is a set of addresses, and a rule that both ends are in it."""
    text = RULES.text()
    assert "set n4_shop { type ipv4_addr; elements = { 10.83.0.2 } }" in text
    assert "ip saddr @n4_shop ip daddr @n4_shop accept" in text


def test_without_a_subnet_no_ipv6_passes() -> None:
    """A host without IPv6 has rules that drop it."""
    text = dataclasses.replace(RULES, subnet6=None).text()
    assert "meta nfproto ipv6 drop" in text
    assert "fd53::/64" not in text


def test_removal_works_without_the_tables() -> None:
    """Each table is made before it is deleted, so that deleting never fails."""
    lines = firewall.removal("mine").splitlines()
    assert lines == [
        "table inet mine",
        "delete table inet mine",
        "table bridge mine",
        "delete table bridge mine",
    ]


def test_private_networks_hold_what_a_container_must_not_reach() -> None:
    """Metadata, loopback and every private range are among the refused."""
    for text in ("169.254.169.254", "127.0.0.53", "10.1.2.3", "172.31.0.1", "192.168.0.1"):
        assert any(IPv4Address(text) in network for network in firewall.PRIVATE_NETWORKS)
    assert not any(IPv4Address("192.0.2.1") in each for each in firewall.PRIVATE_NETWORKS)


def test_private_ipv6_holds_all_that_is_not_the_internet() -> None:
    """ULA, metadata, link-local, multicast, mapped and translated IPv4 are refused; the internet not."""
    refused = ("::1", "fd00:ec2::254", "fe80::1", "ff02::1", "::ffff:10.0.0.1", "64:ff9b::a00:1")
    for text in (*refused, "2002:a00:1::", "2001:0:1::", "fec0::1"):
        assert any(IPv6Address(text) in network for network in firewall.PRIVATE_NETWORKS6), text
    for text in ("2606:4700::1111", "2a00:1450::1"):
        assert not any(IPv6Address(text) in network for network in firewall.PRIVATE_NETWORKS6)
