"""Bills of materials: taken over from the buildpacks, kept in the image, and read as one.

Strangers wrote them. They are copied byte by byte from plain files, and only merged when asked for.
"""

import json
import os
import shutil
import stat
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from shipway.buildpacks import plainfile
from shipway.buildpacks.errors import BuildFailed
from shipway.buildpacks.labels import LIFECYCLE_LABEL, cache_of
from shipway.buildpacks.lifecycle.request import LAYERS_DIR, Buildpack
from shipway.buildpacks.result import Result
from shipway.runtime.errors import DamagedBlob, NoSuchImage
from shipway.runtime.ids.accounts import image_file
from shipway.runtime.images.layers import LayerStore
from shipway.runtime.images.store import Image, ImageStore

LARGEST = 64 << 20  # bytes of one bill
SPEC_VERSION = "1.5"
CYCLONEDX = "sbom.cdx.json"
LAUNCH, BUILD, CACHE = "launch", "build", "cache"
_NAMESPACE = uuid.UUID("5ee4a8c5-5b3b-4a6e-9d0c-3f4b2f0b7f51")  # serial numbers follow from digests


def gather(upper: Path, result: Result, group: Iterable[Buildpack], tree: Path) -> set[str]:
    """Copy what the buildpacks wrote to `<tree>/layers/sbom/<kind>/…`; which kinds there are.

    Raises BuildFailed for anything but a plain file of at most 64 MB.
    """
    kinds = set()
    for buildpack in group:
        folder = upper / buildpack.folder
        for name, kind, place in _wanted(buildpack, result):
            source = folder / name
            if folder.is_symlink() or not os.path.lexists(source):
                continue
            target = tree / LAYERS_DIR.lstrip("/") / "sbom" / kind / buildpack.folder / place
            target.parent.mkdir(parents=True, exist_ok=True)
            _copy(source, target)
            kinds.add(kind)
    return kinds


def _wanted(buildpack: Buildpack, result: Result) -> Iterator[tuple[str, str, str]]:
    """What it may have written: the file's name, its kind, and where it goes below its folder."""
    for extension in buildpack.sbom_formats:
        ending = f"sbom.{extension}"
        yield f"launch.{ending}", LAUNCH, ending
        yield f"build.{ending}", BUILD, ending
        for layer in result.layers:
            if layer.buildpack == buildpack.id:
                kind = LAUNCH if layer.launch else BUILD
                yield f"{layer.name}.{ending}", kind, f"{layer.name}/{ending}"
                if layer.cache:
                    yield f"{layer.name}.{ending}", CACHE, f"{layer.name}/{ending}"


def _copy(source: Path, target: Path) -> None:
    status = source.lstat()  # nobody can change it any more
    if not stat.S_ISREG(status.st_mode) or status.st_size > LARGEST:
        raise BuildFailed(f"{source.name} is no plain file of at most 64 MB", 62)
    shutil.copyfile(source, target)


def restore(trees: Sequence[Path], layers: Iterable[tuple[str, str]], target: Path) -> None:
    """Give the next build its bills back: of `layers`, pairs of a buildpack's folder and a name.

    `trees` are layers that `gather` made, which so hold plain files only.
    """
    for tree in trees:
        for kind in (LAUNCH, CACHE):
            root = f"{LAYERS_DIR.lstrip('/')}/sbom/{kind}"
            for folder, name in layers:
                found = plainfile.folder_below(tree.resolve(), f"{root}/{folder}/{name}")
                if found is not None:
                    place = target / folder / name
                    shutil.copytree(found, place, symlinks=True, dirs_exist_ok=True)


# -- one bill for an image ----------------------------------------------------------------------


def bill(images: ImageStore, layers: LayerStore, name: str, kind: str = LAUNCH) -> dict[str, Any]:
    """All that is known of an image, as one CycloneDX document; `kind` "build" is of its making.

    It has the run image's Debian packages, the buildpacks, and what these said of their layers in
    CycloneDX. Raises NoSuchImage, DamagedBlob.
    """
    image = images.get(name)
    merger = _Merger()
    if kind == LAUNCH:
        for package in _debian_packages(image, layers):
            merger.add(package, "run image")
    metadata = _label(image, LIFECYCLE_LABEL)
    for buildpack in metadata.get("buildpacks", ()):
        merger.add(
            {
                "type": "application",
                "name": buildpack.get("key", ""),
                "version": buildpack.get("version", ""),
                "purl": f"pkg:generic/{buildpack.get('key', '')}@{buildpack.get('version', '')}",
            },
            "buildpack",
        )
    for source, document in _documents(images, layers, image, kind):
        merger.merge(document, source)
    return {
        "bomFormat": "CycloneDX",
        "specVersion": SPEC_VERSION,
        "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, f'{image.digest} {kind}')}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "container",
                "bom-ref": image.digest,
                "name": image.ref or image.digest,
                "version": image.digest,
            }
        },
        "components": merger.components,
        "dependencies": merger.dependencies(),
    }


class _Merger:
    """Components by what they are; references of each document become those of the whole."""

    def __init__(self) -> None:
        self.components: list[dict[str, Any]] = []
        self._known: dict[str, dict[str, Any]] = {}
        self._edges: dict[str, set[str]] = {}

    def add(self, component: Mapping[str, Any], source: str) -> str:
        """Take in one; what two sources name by the same package URL is one component."""
        name, version = component.get("name", ""), component.get("version", "")
        reference = str(component.get("purl") or f"{source}#{name}@{version}")
        found = self._known.get(reference)
        if found is None:
            found = {**component, "bom-ref": reference, "properties": []}
            found["properties"] += component.get("properties") or ()
            self._known[reference] = found
            self.components.append(found)
        found["properties"].append({"name": "io.shipway.source", "value": source})
        return reference

    def merge(self, document: Mapping[str, Any], source: str) -> None:
        """Take in a whole document; of one that is malformed, what can be read."""
        references: dict[str, str] = {}
        for component in _tables(document.get("components")):
            new = self.add(component, source)
            if isinstance(component.get("bom-ref"), str):
                references[component["bom-ref"]] = new
        for item in _tables(document.get("dependencies")):
            reference = references.get(str(item.get("ref")))
            wanted = item.get("dependsOn")
            if reference is None or not isinstance(wanted, list):
                continue
            found = self._edges.setdefault(reference, set())
            found.update(references[one] for one in map(str, wanted) if one in references)

    def dependencies(self) -> list[dict[str, Any]]:
        """What needs what."""
        return [
            {"ref": reference, "dependsOn": sorted(needed)}
            for reference, needed in sorted(self._edges.items())
        ]


def _documents(
    images: ImageStore, layers: LayerStore, image: Image, kind: str
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The CycloneDX documents of a kind, each with the buildpack and layer that it is about."""
    holder, label = image, LIFECYCLE_LABEL
    if kind != LAUNCH:
        try:
            holder = images.get(cache_of(image))
        except (NoSuchImage, DamagedBlob):
            return
        label = LIFECYCLE_LABEL.replace("metadata", "cache.metadata")
    sha = _label(holder, label).get("sbom", {}).get("sha")
    if sha not in {layer.diff_id for layer in holder.layers}:
        return
    place = f"{LAYERS_DIR.lstrip('/')}/sbom/{kind}"
    root = plainfile.folder_below(layers.path(sha).resolve(), place)
    if root is None:
        return
    for path in sorted(root.rglob(CYCLONEDX)):
        try:
            document = json.loads(plainfile.read(path, LARGEST))
        except (OSError, ValueError, RecursionError):
            continue  # the file itself is kept in the image, as it came
        if isinstance(document, dict):
            yield ":".join(path.relative_to(root).parts[:-1]), document


def _debian_packages(image: Image, layers: LayerStore) -> Iterator[dict[str, Any]]:
    trees = [layers.path(layer.diff_id) for layer in reversed(image.layers)]
    text = image_file(trees, ("var", "lib", "dpkg", "status")).decode(errors="replace")
    release = os_release(trees)
    distribution = release.get("ID", "debian")
    suffix = f"&distro={distribution}-{release['VERSION_ID']}" if "VERSION_ID" in release else ""
    for paragraph in text.split("\n\n"):
        fields = dict(
            line.split(": ", 1)
            for line in paragraph.splitlines()
            if ": " in line and not line.startswith(" ")
        )
        if not fields.get("Status", "").endswith(" installed"):
            continue
        name, version = fields.get("Package", ""), fields.get("Version", "")
        architecture = fields.get("Architecture", "")
        purl = f"pkg:deb/{distribution}/{name}@{version}?arch={architecture}{suffix}"
        yield {"type": "library", "name": name, "version": version, "purl": purl}


def os_release(trees: Sequence[Path]) -> dict[str, str]:
    """What an image says of its distribution; `trees` are its layers, topmost first."""
    text = image_file(trees, ("usr", "lib", "os-release")) or image_file(
        trees, ("etc", "os-release")
    )
    lines = (line.partition("=") for line in text.decode(errors="replace").splitlines())
    return {name: value.strip("\"'") for name, equals, value in lines if equals}


def _label(image: Image, label: str) -> dict[str, Any]:
    try:
        found = json.loads(image.config.labels.get(label, "{}"))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _tables(value: Any) -> list[Mapping[str, Any]]:
    items = value if isinstance(value, list) else []
    return [item for item in items if isinstance(item, dict)]
