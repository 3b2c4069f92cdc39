"""The catalog of buildpacks."""

from pathlib import Path

import pytest

from shipway.buildpacks import catalog, descriptor
from shipway.buildpacks.errors import InvalidBuildpack
from shipway.buildpacks.lifecycle.order import Member

LINUX = {"os": "linux", "arch": "amd64", "distro_name": "debian", "distro_version": "13"}
HEAD = 'api = "0.10"\n[buildpack]\nid = "{id}"\nversion = "1.2.3"\n'


def buildpack(folder: Path, id_: str = "x/y", more: str = "") -> descriptor.Source:
    folder.mkdir(exist_ok=True)
    (folder / "buildpack.toml").write_text(HEAD.format(id=id_) + more)
    return descriptor.load(folder)


def test_built_in() -> None:
    """Our own buildpacks are well-formed, and their programs can be run."""
    found = catalog.built_in()
    for name in (*catalog.LANGUAGES, "nodejs", "deno", "static", "apt"):
        assert f"shipway/{name}" in found.sources
    for group in found.groups(LINUX):
        assert Member("shipway/procfile", optional=True) in group
    for source in found.sources.values():
        for name in ("detect", "build"):
            assert (source.folder / "bin" / name).stat().st_mode & 0o111 == 0o111
        assert (source.folder / "README.md").is_file()


def test_paths(tmp_path: Path) -> None:
    """An id with a slash becomes one folder name."""
    found = buildpack(tmp_path).buildpack
    assert (found.folder, found.root) == ("x_y", "/cnb/buildpacks/x_y/1.2.3")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "no key 'buildpack'"),
        ("x = ", "malformed"),
        (HEAD.format(id="app"), "id 'app' is not allowed"),
        (HEAD.format(id="a b"), "is not allowed"),
        (HEAD.format(id="x/../../y"), "is not like|not allowed"),
        (HEAD.format(id="x").replace("0.10", "0.13"), "API 0.13 is not within 0.7 and 0.12"),
        (HEAD.format(id="x").replace("0.10", "new"), "malformed"),
        (HEAD.format(id="x").replace("1.2.3", "../1"), "version '../1' is not like 1.2.3"),
    ],
)
def test_malformed(tmp_path: Path, text: str, what: str) -> None:
    """A buildpack.toml that cannot be used is an error that names the file and the reason."""
    (tmp_path / "buildpack.toml").write_text(text)
    with pytest.raises(InvalidBuildpack, match=what):
        descriptor.load(tmp_path)


@pytest.mark.parametrize(
    ("targets", "fits"),
    [
        ("", True),
        ('[[targets]]\nos = "linux"', True),
        ('[[targets]]\nos = "windows"', False),
        ('[[targets]]\nos = "linux"\narch = "arm64"', False),
        ('[[targets]]\n[[targets.distros]]\nname = "debian"\nversion = "13"', True),
        ('[[targets]]\n[[targets.distros]]\nname = "ubuntu"', False),
        ('[[stacks]]\nid = "*"', True),
        ('[[stacks]]\nid = "io.buildpacks.stacks.bionic"', False),
    ],
)
def test_targets(tmp_path: Path, targets: str, fits: bool) -> None:
    """A group with a required buildpack for another target is not tried; an optional one is left out."""
    other = buildpack(tmp_path / "other", "other", targets)
    always = buildpack(tmp_path / "always", "always")
    required = ((Member("other"), Member("always")),)
    optional = ((Member("other", optional=True), Member("always")),)
    assert bool(catalog.catalog([other, always], required).groups(LINUX)) is fits
    groups = catalog.catalog([other, always], optional).groups(LINUX)
    assert len(groups[0]) == (2 if fits else 1)


@pytest.mark.parametrize(
    ("more", "fits"),
    [
        ('[[buildpack.exec-env]]\nname = "test"', False),
        ('[[buildpack.exec-env]]\nname = "production"', True),
        ('[[buildpack.exec-env]]\nname = "*"', True),
    ],
)
def test_execution_environments(tmp_path: Path, more: str, fits: bool) -> None:
    """A buildpack for tests alone takes no part in a build for production."""
    assert buildpack(tmp_path, more=more).fits(LINUX) is fits


def test_extension(tmp_path: Path) -> None:
    """An extension.toml is read by the same rules."""
    (tmp_path / "extension.toml").write_text(HEAD.format(id="x").replace("buildpack", "extension"))
    assert descriptor.load(tmp_path).buildpack.is_extension


def test_a_link_for_a_description(tmp_path: Path) -> None:
    """A buildpack.toml that is a link, or no file, is not opened."""
    (tmp_path / "buildpack.toml").symlink_to("/etc/hostname")
    with pytest.raises(InvalidBuildpack, match="cannot be read"):
        descriptor.load(tmp_path)


def test_versions_that_are_not_there(tmp_path: Path) -> None:
    """One id has one version; a composite that asks for another cannot be built with."""
    more = '[[order]]\n[[order.group]]\nid = "one"\nversion = "2.0.0"\n'
    sources = [buildpack(tmp_path / "c", "c", more), buildpack(tmp_path / "one", "one")]
    with pytest.raises(InvalidBuildpack, match=r"c asks for one 2.0.0, but there is 1.2.3"):
        catalog.catalog(sources, ((Member("c"),),)).groups(LINUX)
    with pytest.raises(InvalidBuildpack, match="two buildpacks 'ONE'"):
        catalog.catalog([sources[1], buildpack(tmp_path / "two", "ONE")], ())


def test_composite(tmp_path: Path) -> None:
    """A buildpack with an order stands for its groups; an unknown id is an error."""
    more = '[[order]]\n[[order.group]]\nid = "one"\nversion = "1.2.3"\n'
    sources = [buildpack(tmp_path / "c", "c", more), buildpack(tmp_path / "one", "one")]
    assert catalog.catalog(sources, ((Member("c"),),)).groups(LINUX) == ((Member("one"),),)
    with pytest.raises(InvalidBuildpack, match="no buildpack 'nobody'"):
        catalog.catalog(sources, ((Member("nobody"),),)).groups(LINUX)
