"""Secrets in logs, and which hosts builds may reach."""

from shipway.workers import reach
from shipway.workers.mask import Mask


def test_values_are_masked_whole_and_line_by_line() -> None:
    """The longest first; short ones would hide half of the log."""
    mask = Mask(["secret", "secret-longer", "first line\nsecond line\n", "abc"])
    assert mask("x secret-longer y secret z abc") == "x •••••• y •••••• z abc"
    assert mask("the second line.") == "the ••••••."


def test_hosts_are_named_with_and_without_a_port_and_by_a_dot() -> None:
    """A name that merely ends alike is another."""
    names = ("registry.example.com", ".example.org", "127.0.0.1:5000")
    for good in (
        "registry.example.com:443",
        "Registry.Example.COM.",
        "a.example.org",
        "127.0.0.1:5000",
    ):
        assert reach.is_named(names, good), good
    for bad in (
        "evilregistry.example.com",
        "example.org",
        "xexample.org",
        "127.0.0.1:5001",
        "127.0.0.1",
    ):
        assert not reach.is_named(names, bad), bad


def test_private_addresses_are_no_registry() -> None:
    """Unless the operator lets apps reach their network."""
    assert not reach.is_public("127.0.0.1:5000", ())
    assert not reach.is_public("169.254.169.254", ())
    assert not reach.is_public("[::1]:5000", ())
    assert reach.is_public("10.0.5.7:5000", ("10.0.5.0/24",))
    assert reach.is_public("8.8.8.8", ())
