"""The apt buildpack: Debian packages that an Aptfile names, on real stacks and real packages."""

import json

import pytest

from buildlab import Builder
from shipway.buildpacks import catalog as catalogs

FILES: dict[str, str | bytes] = {
    "requirements.txt": "",
    "Procfile": "web: x",
}
APP = FILES | {"Aptfile": "# tools of the app\n\nfiglet   # banners\nsqlite3 libyaml-0-2\n"}


def test_packages(builder: Builder) -> None:
    """Programs and libraries of the packages run in the app; what the stack has is not brought again."""
    cache = builder.folder / "cache"
    result = builder.build(APP, cache=cache)
    assert "sqlite 3" in builder.run(result, "sqlite3 --version | sed s/^/sqlite\\ /")
    assert (
        builder.run(result, "python3 -c 'import ctypes; ctypes.CDLL(\"libyaml-0.so.2\"); print(1)'")
        == "1\n"
    )
    root = "/layers/shipway_apt/apt"
    assert builder.run(result, f"ls {root}/usr/share/doc/figlet") == "copyright\n"
    assert (
        builder.run(result, f"ls -d {root}/usr/share/man {root}/usr/share/locale 2>/dev/null") == ""
    )
    assert builder.run(result, f"find {root} -name 'libc.so*' -o -name 'libz.so*'") == ""
    assert any(line.startswith("       figlet 2.") for line in builder.lines)
    bill = builder.run(result, "cat /layers/sbom/launch/shipway_apt/apt/sbom.cdx.json")
    purls = [component["purl"] for component in json.loads(bill)["components"]]
    assert any(purl.startswith("pkg:deb/debian/figlet@2.") for purl in purls)
    again = builder.build(APP, previous=result.image, cache=cache)
    assert builder.layer(again, "apt") == builder.layer(result, "apt")
    assert any("packages of the previous build" in line for line in builder.lines)
    fresh = builder.build(APP, cache=cache)
    assert builder.layer(fresh, "apt") == builder.layer(result, "apt")


def test_spoilt_download(builder: Builder) -> None:
    """A download that is not what Debian signed is fetched anew, never unpacked."""
    cache = builder.folder / "spoilt"
    files = FILES | {"Aptfile": "figlet\n"}
    builder.build(files, cache=cache)
    (deb,) = (cache / "apt" / "archives").glob("figlet_*.deb")
    content = deb.read_bytes()
    deb.write_bytes(bytes(len(content)))
    result = builder.build(files, cache=cache)
    assert "_" in builder.run(result, "figlet -d /layers/shipway_apt/apt/usr/share/figlet hi")
    assert deb.read_bytes() == content


def test_headers(builder: Builder) -> None:
    """A -dev package can be compiled against; the image has its library and no header."""
    files = {
        "Aptfile": "libyaml-dev\n",
        "Procfile": "web: x\n",
    }
    script = (
        "printf '#include <yaml.h>\\nint main(){return !yaml_get_version_string();}' > a.c\n"
        "cc a.c -lyaml -o a\n"
        "pkg-config --cflags yaml-0.1"
    )
    compiler = builder.buildpack("compiler", "exit 0", script)
    apt, procfile = (catalogs.load(catalogs.HERE / name) for name in ("apt", "procfile"))
    result = builder.build(files, catalog=builder.catalog(apt, compiler, procfile))
    assert builder.run(result, "/workspace/a && echo linked") == "linked\n"
    assert builder.run(result, "find /layers -name '*.h' -o -name '*.a' -o -name '*.pc'") == ""


@pytest.mark.parametrize(
    ("aptfile", "reason"),
    [
        ("no-such-package-of-any-kind\n", "Debian 13 has no package no-such-package-of-any-kind."),
        ("figlet\n:repo:deb http://127.0.0.1/ x main\n", "Aptfile line 2: other repositories"),
        ("figlet; id\n", "Aptfile line 1: 'figlet;' is neither; expected a package name"),
        ("-o=x\n", "Aptfile line 1: '-o=x' is neither; expected a package name"),
        (
            "http://127.0.0.1:9/x.deb\n",
            "127.0.0.1:9 could not be reached for http://127.0.0.1:9/x.deb",
        ),
    ],
)
def test_failures(builder: Builder, aptfile: str, reason: str) -> None:
    """What cannot be had is an exact line, and nothing is left."""
    builder.failure(FILES | {"Aptfile": aptfile})
    assert any(reason in line for line in builder.lines), builder.lines


def test_silent_mirror(builder: Builder) -> None:
    """A mirror that does not answer is named, with the setting that names another."""
    env = {"DEBIAN_MIRROR": "http://127.0.0.1:9/debian"}
    builder.failure(FILES | {"Aptfile": "figlet\n"}, env=env)
    assert any("127.0.0.1:9 could not be reached" in line for line in builder.lines)
    assert any("The build setting DEBIAN_MIRROR" in line for line in builder.lines)
