"""What a machine must have."""

import pytest

from shipway.runtime.errors import HostUnfit
from shipway.runtime.kernel import host


@pytest.mark.parametrize(
    ("release", "version"), [("6.1.0-18-amd64", (6, 1)), ("5.10.0", (5, 10)), ("odd", (0, 0))]
)
def test_kernel_releases_are_read(release: str, version: tuple[int, int]) -> None:
    """The first two numbers of a release."""
    assert host.kernel_version(release) == version


def test_an_old_kernel_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the kernel's newer mount calls no container is started, and the reason says so."""
    monkeypatch.setattr(host, "kernel_version", lambda: (5, 10))
    monkeypatch.setattr(host.os, "geteuid", lambda: 0)
    with pytest.raises(HostUnfit, match=r"5\.12"):
        host.check_host()
