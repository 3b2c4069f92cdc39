"""Leases of addresses on disk."""

from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from shipway.runtime.errors import HostUnfit, NoFreeAddress
from shipway.runtime.network.addresses import MOST_ADDRESSES, AddressPool


def test_leases_are_distinct_and_kept(tmp_path: Path) -> None:
    """Another pool on the same folder sees what was leased, and to whom."""
    pool = AddressPool(tmp_path, "10.83.0.0/16")
    assert [str(pool.lease(name)) for name in "ab"] == ["10.83.0.2", "10.83.0.3"]
    again = AddressPool(tmp_path, "10.83.0.0/16")
    assert again.leases() == {IPv4Address("10.83.0.2"): "a", IPv4Address("10.83.0.3"): "b"}


def test_a_freed_address_is_given_last(tmp_path: Path) -> None:
    """The pool goes round, so a freed address rests for as long as it can."""
    pool = AddressPool(tmp_path, "10.83.0.0/29")
    first = pool.lease("a")
    assert pool.release("a") == [first]
    assert [pool.lease(name) for name in "bcde"][-1] > first
    assert pool.lease("f") == first


def test_an_empty_pool_says_so(tmp_path: Path) -> None:
    """With every address leased the error names the subnet."""
    pool = AddressPool(tmp_path, "10.83.0.0/29")
    for number in range(5):
        pool.lease(str(number))
    with pytest.raises(NoFreeAddress, match=r"10\.83\.0\.0/29"):
        pool.lease("more")


def test_parallel_leases_never_collide(tmp_path: Path) -> None:
    """Threads, like processes, wait for one another."""
    pool = AddressPool(tmp_path, "10.83.0.0/16")
    with ThreadPoolExecutor(16) as threads:
        leased = list(threads.map(lambda number: pool.lease(str(number)), range(64)))
    assert len(set(leased)) == 64


def test_leases_can_be_read_while_others_are_given(tmp_path: Path) -> None:
    """Whoever looks at the leases is not disturbed by a lease being made."""
    pool = AddressPool(tmp_path, "10.83.0.0/16")
    with ThreadPoolExecutor(4) as threads:
        giving = [threads.submit(pool.lease, str(number)) for number in range(100)]
        while not all(each.done() for each in giving):
            pool.leases()
    assert len(pool.leases()) == 100


def test_no_more_addresses_than_ports(tmp_path: Path) -> None:
    """A bridge has 1023 ports, so a large subnet gives no more addresses than that."""
    assert len(AddressPool(tmp_path, "10.83.0.0/16").addresses) == MOST_ADDRESSES


@pytest.mark.parametrize("subnet", ["10.83.0.1/16", "x", "10.83.0.0/30"])
def test_bad_subnets_are_refused(tmp_path: Path, subnet: str) -> None:
    """A malformed or too small subnet is named."""
    with pytest.raises(HostUnfit, match="subnet"):
        AddressPool(tmp_path, subnet)
