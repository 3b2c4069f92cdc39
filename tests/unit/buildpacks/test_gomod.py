"""go.mod files: which Go they want, and which programs."""

import pytest

from shipway.buildpacks.go import module
from shipway.buildpacks.kit.errors import CannotBuild

TEXT = """// +heroku goVersion go1.25
// +heroku install ./cmd/web ./cmd/job
module "example.org/shop/v2" // the shop

go 1.24.3
toolchain go1.26.1
"""


def test_parse() -> None:
    """The lines that count are read, comments and quotes left out."""
    read = module.parse(TEXT)
    assert read.path == "example.org/shop/v2"
    assert (read.go, read.toolchain, read.install) == (
        "1.24.3",
        "go1.25",
        ("./cmd/web", "./cmd/job"),
    )


@pytest.mark.parametrize(
    ("text", "named", "requirements"),
    [
        ("go 1.24", [], (">=1.24,<1.25", ">=1.24")),
        ("go 1.24.3", [], (">=1.24.3,<1.25", ">=1.24.3")),
        ("go 1.24\ntoolchain go1.25.4", [], ("==1.25.4", ">=1.25.4,<1.26")),
        ("go 1.24\ntoolchain default", [], (">=1.24,<1.25", ">=1.24")),
        ("go 1.24", [("GOVERSION", ""), (".go-version", "1.26\n")], (">=1.26,<1.27",)),
    ],
)
def test_requirements(
    text: str, named: list[tuple[str, str]], requirements: tuple[str, ...]
) -> None:
    """go.mod's `go` is the least that would do; whoever names a version gets that line."""
    wanted = module.wanted(module.parse(text), named)
    assert wanted is not None
    assert wanted.requirements == requirements


def test_no_version() -> None:
    """What is no version is named with its source; none asked for leaves the choice."""
    assert module.wanted(module.parse("module x"), []) is None
    with pytest.raises(CannotBuild, match="GOVERSION asks for Go 'latest'"):
        module.wanted(module.parse(""), [("GOVERSION", "latest")])
