"""Bills of materials that buildpacks write beside their layers, and get back with them."""

import os

from shipway.buildpacks.lifecycle.errors import InvalidOutput
from shipway.buildpacks.lifecycle.request import RESTORED_DIR, Buildpack

# The extension of a file by the media type in `sbom-formats`.
EXTENSIONS = {
    "application/vnd.cyclonedx+json": "cdx.json",
    "application/spdx+json": "spdx.json",
    "application/vnd.syft+json": "syft.json",
}
ENDINGS = tuple(f".sbom.{extension}" for extension in EXTENSIONS.values())
OF_NO_LAYER = frozenset({"launch", "build"})


def check(buildpack: Buildpack, layers: set[str]) -> None:
    """Raise InvalidOutput for a bill in a format that the buildpack's own description leaves out."""
    for name in sorted(os.listdir(buildpack.layers)):
        owner, found, extension = name.partition(".sbom.")
        if not found or owner not in OF_NO_LAYER | layers or not extension.endswith(".json"):
            continue
        if extension not in buildpack.sbom_formats:
            raise InvalidOutput(
                f"{buildpack.layers}/{name}: the buildpack's sbom-formats do not name this format"
            )


def restore(buildpack: Buildpack, layer: str) -> None:
    """Put the bills of a restored layer back beside it."""
    for extension in EXTENSIONS.values():
        path = f"{RESTORED_DIR}/{buildpack.folder}/{layer}/sbom.{extension}"
        if os.path.exists(path):
            with open(path, "rb") as source:
                content = source.read()
            with open(f"{buildpack.layers}/{layer}.sbom.{extension}", "wb") as target:
                target.write(content)
