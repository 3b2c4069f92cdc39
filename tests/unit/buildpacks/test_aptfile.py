"""Aptfiles: what they ask for, and which line is wrong."""

import pytest

from shipway.buildpacks.apt import aptfile
from shipway.buildpacks.kit.errors import CannotBuild


def test_parse() -> None:
    """Names, versions and addresses are taken; comments and doubles are not."""
    text = "\n# tools\nfiglet libyaml-0-2\r\nfiglet\nffmpeg=7:7.1-1+b1  # video\nhttps://a/b.deb#sha256="
    wanted = aptfile.parse(text + "0" * 64 + "\n")
    assert wanted.packages == ("figlet", "libyaml-0-2", "ffmpeg=7:7.1-1+b1")
    assert wanted.addresses == ("https://a/b.deb#sha256=" + "0" * 64,)


@pytest.mark.parametrize("line", ["-o=Dir=/", "a;b", "../x.deb", "file:///x.deb", "UPPER", "a\x00"])
def test_refused(line: str) -> None:
    """What is neither a package nor the address of one is named with its line."""
    with pytest.raises(CannotBuild, match="Aptfile line 2:"):
        aptfile.parse(f"figlet\n{line}\n")
