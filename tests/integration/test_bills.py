"""Bills of materials of images that strangers made: nothing but what lies in the image is read."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import support
from shipway.buildpacks import bills
from shipway.buildpacks.labels import LIFECYCLE_LABEL
from shipway.runtime.config import EngineConfig
from shipway.runtime.engine import Engine
from shipway.runtime.images.store import ImageConfig

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a layer's files have owners")


@pytest.fixture
def engine() -> Iterator[Engine]:
    with support.scratch() as folder:
        yield Engine(EngineConfig(folder / "root", folder / "run"))


def _tree(engine: Engine) -> Path:
    tree = engine.config.root / "tree"
    tree.mkdir(parents=True)
    return tree


def _components(engine: Engine, tree: Path) -> list[str]:
    """The names in the bill of an image whose only layer is said to hold its bills."""
    layer = engine.layers.commit(tree)
    metadata = {"sbom": {"sha": layer.diff_id}, "buildpacks": []}
    config = ImageConfig(labels={LIFECYCLE_LABEL: json.dumps(metadata)})
    image = engine.images.write([layer], config, "app-1/build:1")
    found = bills.bill(engine.images, engine.layers, image.digest)
    return [component["name"] for component in found["components"]]


def _bill(path: Path, name: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"bomFormat": "CycloneDX", "components": [{"name": name}]}))


@pytest.mark.parametrize("linked", ["layers", "layers/sbom", "layers/sbom/launch/a/sbom.cdx.json"])
def test_a_link_to_the_host_is_not_followed(engine: Engine, linked: str) -> None:
    """Neither the file itself nor a folder on the way."""
    tree = _tree(engine)
    whole = "layers/sbom/launch/a/sbom.cdx.json"
    outside = engine.config.root / "of-the-host"
    _bill(outside / whole, "stolen")
    (tree / linked).parent.mkdir(parents=True, exist_ok=True)
    (tree / linked).symlink_to(outside / linked)
    assert _components(engine, tree) == []


def test_a_pipe_is_not_waited_for(engine: Engine) -> None:
    """The other bills of the image are read all the same."""
    tree = _tree(engine)
    _bill(tree / "layers/sbom/launch/b/sbom.cdx.json", "kept")
    place = tree / "layers/sbom/launch/a"
    place.mkdir()
    (place / "sbom.cdx.json").symlink_to("/dev/zero")
    assert _components(engine, tree) == ["kept"]
