"""Make the image: stack, launch layers, app, launcher. An unchanged layer is named again, not read."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from shipway.buildpacks import bills, labels, launcher, processes, slices, upper
from shipway.buildpacks.analyze import Previous
from shipway.buildpacks.catalog import Catalog
from shipway.buildpacks.errors import BuildFailed
from shipway.buildpacks.labels import Base, Origin, Parts
from shipway.buildpacks.lifecycle.request import APP_DIR, EXEC_ENV, Buildpack
from shipway.buildpacks.result import Result, ResultLayer
from shipway.runtime.images.layers import Layer, LayerStore
from shipway.runtime.images.store import Image, ImageConfig, ImageStore

FAILED = 62
Kept = list[tuple[ResultLayer, Layer]]


@dataclass(frozen=True, slots=True)
class Names:
    """What an image is called: `ref`, and `cache` for what only the next build needs.

    `process_type` is what it starts by default, None for what the buildpacks say.
    """

    ref: str
    cache: str
    process_type: str | None = None


@dataclass(frozen=True, slots=True)
class Exporter:
    """Makes an image of what lies in `upper_dir` (of /layers) and `app_dir`; consumes both.

    `scratch` is an empty folder on the store's file system. `made` is filled with the diff ids of
    small layers, by the digest of what went into them.
    """

    images: ImageStore
    layers: LayerStore
    catalog: Catalog
    previous: Previous
    upper_dir: Path
    app_dir: Path
    scratch: Path
    made: dict[str, str] = field(default_factory=dict)

    def app_layers(self, result: Result) -> tuple[Layer, ...]:
        """The app's folder: a layer for each slice that matched something, and one for the rest."""
        rest = self._tree("app")
        place = rest / APP_DIR.lstrip("/")
        self.app_dir.rename(place)
        parts = [
            self._tree(f"slice-{number}") / APP_DIR.lstrip("/")
            for number, _ in enumerate(result.slices)
        ]
        for part in parts:
            part.mkdir()
            _own(place, part)
        found = slices.split(place, result.slices, parts)
        trees = [part.parent for part, any_ in zip(parts, found, strict=True) if any_]
        return tuple(self.layers.commit(tree) for tree in (*trees, rest))

    def buildpack_layers(self, result: Result) -> Kept:
        """The layers to keep, for the image or for the next build, in the image's order."""
        found = []
        order = {id_: place for place, id_ in enumerate(result.group)}
        for item in sorted(result.layers, key=lambda item: (order[item.buildpack], item.name)):
            if item.launch or item.cache:
                found.append((item, self._layer(item)))
        return found

    def sbom_layers(self, result: Result) -> tuple[Layer | None, Layer | None]:
        """The bills of materials: for the image, and for the next build's eyes."""
        tree = self._tree("sbom")
        kinds = bills.gather(self.upper_dir, result, self.group(result), tree)
        if not kinds:
            return None, None
        rest = self._tree("sbom-rest")
        for kind in (bills.BUILD, bills.CACHE):
            if kind in kinds:
                place = rest / "layers" / "sbom" / kind
                place.parent.mkdir(parents=True, exist_ok=True)
                (tree / "layers" / "sbom" / kind).rename(place)
        own = self._small_layer(tree) if bills.LAUNCH in kinds else None
        return own, self._small_layer(rest) if kinds - {bills.LAUNCH} else None

    def config_layer(self, result: Result) -> Layer:
        """What the launcher needs to know."""
        tree = self._tree("config")
        launcher.write_config(tree, result, self.group(result))
        return self._small_layer(tree)

    def group(self, result: Result) -> list[Buildpack]:
        """The buildpacks that took part."""
        return [self.catalog.sources[id_].buildpack for id_ in result.group]

    def image(
        self,
        result: Result,
        kept: Kept,
        parts: Parts,
        base: Base,
        extra_labels: Mapping[str, str],
        names: Names,
        origin: Origin,
        hidden_sbom: Layer | None = None,
        extensions: Sequence[Buildpack] = (),
    ) -> Image:
        """Write the image and tag it; what only builds need goes to an image of its own."""
        run = base.whole
        launch = [(item, layer) for item, layer in kept if item.launch]
        cached = [(item, layer) for item, layer in kept if not item.launch]
        group = self.group(result)
        found = {**run.config.labels, **result.labels, **extra_labels}
        found[labels.LIFECYCLE_LABEL] = labels.lifecycle(result, launch, parts, base, group)
        found[labels.BUILD_LABEL] = labels.build(
            result, group, extensions, parts.launcher.diff_id[7:19]
        )
        found[labels.PROJECT_LABEL] = labels.encoded(origin.metadata())
        found[labels.REBASABLE_LABEL] = "true" if base.rebasable else "false"
        found[labels.EXEC_ENV_LABEL] = EXEC_ENV
        found[labels.REUSE_LABEL] = labels.encoded(self.made)
        if cached or hidden_sbom:
            found[labels.CACHE_LABEL] = self._cache(result, cached, hidden_sbom, names.cache)
        config = ImageConfig(
            env={**run.config.env, **processes.environment(run.config.env)},
            entrypoint=(_entrypoint(result, names.process_type),),
            working_dir=APP_DIR,
            user=run.config.user or "1000:1000",
            labels=found,
            architecture=run.config.architecture,
            exposed_ports=run.config.exposed_ports,
            volumes=run.config.volumes,
            stop_signal=run.config.stop_signal,
        )
        layers = [*run.layers, *(layer for _, layer in launch)]
        layers += [*filter(None, [parts.sbom]), *parts.app, parts.launcher, parts.config]
        return self.images.write(layers, config, names.ref)

    def _layer(self, item: ResultLayer) -> Layer:
        folder = self.catalog.sources[item.buildpack].buildpack.folder
        old = self.previous.layers.get((item.buildpack, item.name))
        change = upper.change(self.upper_dir, folder, item.name, old is not None and old.cache)
        if old is not None and change is upper.Change.UNTOUCHED:
            return old.layer
        if change is upper.Change.GONE:
            if old is not None and old.launch and item.launch and not item.cache:
                return old.layer
            raise BuildFailed(
                f"the buildpack {item.buildpack} declares the layer {item.name}, which has no folder",
                FAILED,
            )
        tree = self._tree(f"{folder}.{item.name}")
        if old is not None and change is upper.Change.MIXED:
            lower = self.layers.path(old.layer.diff_id) / "layers"
            upper.merge(self.upper_dir, folder, item.name, lower, tree)
        else:
            upper.take(self.upper_dir, folder, item.name, tree)
        return self.layers.commit(tree)

    def _small_layer(self, tree: Path) -> Layer:
        """A layer of a few files that we have written; the previous build's if it is the same."""
        key = _digest(tree)
        layer = self.previous.made.get(key)
        if layer is None:
            layer = self.layers.commit(tree)
        self.made[key] = layer.diff_id
        return layer

    def _tree(self, name: str) -> Path:
        tree = self.scratch / name
        tree.mkdir(mode=0o755)
        return tree

    def _cache(self, result: Result, cached: Kept, sbom: Layer | None, ref: str) -> str:
        """An image that keeps layers for the next build; found through the app image's label."""
        found = {"buildpacks": labels.buildpacks(result, cached, self.group(result))}
        layers = [layer for _, layer in cached]
        if sbom is not None:
            found["sbom"] = {"sha": sbom.diff_id}  # type: ignore[assignment]
            layers.append(sbom)
        config = ImageConfig(
            labels={
                labels.CACHE_METADATA_LABEL: labels.encoded(found),
                labels.REUSE_LABEL: labels.encoded(self.made),
            }
        )
        return self.images.write(layers, config, ref).digest


def _entrypoint(result: Result, wanted: str | None) -> str:
    try:
        return processes.entrypoint(result.processes, result.default, wanted)
    except KeyError as error:
        known = ", ".join(sorted({process.type for process in result.processes}))
        raise BuildFailed(
            f"there is no process type {wanted!r} to start by default; there is {known}", FAILED
        ) from error


def _digest(tree: Path) -> str:
    """Of names, links and contents."""
    digest = hashlib.sha256()
    for path in sorted(tree.rglob("*")):
        digest.update(f"{path.relative_to(tree)}\0".encode())
        if path.is_symlink():
            digest.update(os.fsencode(path.readlink()))
        elif path.is_file():
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _own(source: Path, target: Path) -> None:
    status = source.stat()
    os.chown(target, status.st_uid, status.st_gid)
    target.chmod(status.st_mode & 0o7777)
