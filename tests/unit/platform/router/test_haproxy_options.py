"""Options as entries of HAProxy's maps."""

import random
from ipaddress import ip_address, ip_network

import pytest

from shipway.platform.router.haproxy_options import beginnings, networks, options, owner, pages
from shipway.platform.router.haproxy_slots import Table
from shipway.platform.router.routes import Options, Route, login


def test_no_options_are_no_entries() -> None:
    """An app without options has nothing in the maps."""
    route = Route("one", ("one.x",), status="none")
    assert (options(route), networks(route), pages(route)) == ({}, {}, {})


@pytest.mark.parametrize(
    "text", ["10.0.0.0/8", "10.32.0.0/11", "192.0.2.7/32", "0.0.0.0/0", "2001:db8::/33"]
)
def test_beginnings(text: str) -> None:
    """An address has one of a network's beginnings just if it is in the network; so has an IPv4 one in IPv6's form."""
    network = ip_network(text)
    found = [
        each.partition("/")[2]
        for each in beginnings(text)
        if each.startswith(str(network.max_prefixlen // 4) + "/")
    ]
    dice = random.Random(1)
    inside = [network[0], network[-1]]
    for _ in range(300):
        number = dice.getrandbits(network.max_prefixlen)
        inside.append(network[number % network.num_addresses])
        inside.append(type(network[0])(number))
    for address in inside:
        digits = f"{int(address):0{network.max_prefixlen // 4}X}"
        assert any(digits.startswith(each) for each in found) == (address in network), address
    if network.version == 4:
        mapped = int(ip_address(f"::ffff:{network[0]}"))
        assert any(f"32/{mapped:032X}".startswith(each) for each in beginnings(text))


def test_whose_entry_it_is() -> None:
    """Each entry says whose it is; our own pages are nobody's."""
    digest = login("one", "u", "p")
    route = Route(
        "one",
        ("one.x",),
        status="none",
        options=Options(allow=("10.0.0.0/9",), logins=(digest,), error_page="<p>"),
    )
    for entries in (options(route), networks(route), pages(route)):
        assert entries
        assert {owner(key) for key in entries} == {"one"}
    assert {owner(key) for key in ("H10.", "H10.json", "error.json")} == {""}


def test_what_a_word_speaks_of_is_there() -> None:
    """Networks, logins and pages come before the app's word, and go after it; another app's stay."""
    table = Table.new()
    plain = Route("one", ("one.x",), status="none")
    other = Route("two", ("two.x",), status="none", options=Options(allow=("10.0.0.0/8",)))
    table.replace([plain, other])
    full = Options(allow=("10.0.0.0/8",), error_page="<p>", logins=(login("one", "u", "p"),))
    texts = [
        each.text for each in table.update([Route("one", ("one.x",), status="none", options=full)])
    ]
    assert texts[-1].startswith("add map options.map one 0:0:0:0:0:1:1:1:0")
    assert len(texts) == 2 + 3 + 2
    texts = [each.text for each in table.update([plain])]
    assert texts[0] == "del map options.map one"
    assert len(texts) == 7
    assert set(table.keys_of) == {"two"}
    assert table.update([plain, other]) == []
