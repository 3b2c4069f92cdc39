"""Which mirror a stack is made from."""

from pathlib import Path

from shipway.buildpacks.mirrors import sources_for

DEB822 = """\
# a comment
Types: deb deb-src
URIs: http://mirror.test/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /x.gpg

Types: deb
URIs: http://mirror.test/debian-security/
Suites: bookworm-security
Components: main
"""


def host(tmp_path: Path, name: str, text: str, id: str = "debian") -> Path:
    (tmp_path / "apt/sources.list.d").mkdir(parents=True)
    (tmp_path / "os-release").write_text(f'ID={id}\nVERSION_CODENAME="bookworm"\n')
    (tmp_path / "apt" / name).write_text(text)
    return tmp_path


def test_deb822(tmp_path: Path) -> None:
    """The host's mirror, and its security mirror, are used for another suite."""
    etc = host(tmp_path, "sources.list.d/debian.sources", DEB822)
    assert sources_for("trixie", etc) == [
        "deb http://mirror.test/debian trixie main",
        "deb http://mirror.test/debian trixie-updates main",
        "deb http://mirror.test/debian-security/ trixie-security main",
    ]


def test_one_line_format(tmp_path: Path) -> None:
    """The old format of sources is read too, and others' archives are passed over."""
    etc = host(
        tmp_path,
        "sources.list",
        "deb https://other.test/apt bookworm main\n"
        "# deb http://old.test/debian bookworm main\n"
        "deb [arch=amd64 signed-by=/x.gpg] https://m.test/debian bookworm main # here\n",
    )
    assert sources_for("trixie", etc) == [
        "deb https://m.test/debian trixie main",
        "deb https://m.test/debian trixie-updates main",
    ]


def test_no_debian(tmp_path: Path) -> None:
    """On a host that is no Debian, mmdebstrap's own default is used."""
    etc = host(tmp_path, "sources.list", "deb http://a.test/ubuntu bookworm main", id="ubuntu")
    assert sources_for("trixie", etc) == []
    assert sources_for("trixie", tmp_path / "nothing") == []
