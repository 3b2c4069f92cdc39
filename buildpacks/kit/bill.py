"""Bills of materials beside layers, in CycloneDX's form; a buildpack.toml names it in sbom-formats."""

import json
from collections.abc import Iterable, Mapping

from shipway.buildpacks.kit.layer import Layer

SPECIFICATION = "1.5"


def write(layer: Layer, components: Iterable[Mapping[str, str]]) -> None:
    """Say what a layer holds. A component has a name, a version and a purl."""
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": SPECIFICATION,
        "version": 1,
        "components": [{"type": "library", **component} for component in components],
    }
    with open(f"{layer.path}.sbom.cdx.json", "w", encoding="utf-8") as file:
        json.dump(document, file, indent=1)
