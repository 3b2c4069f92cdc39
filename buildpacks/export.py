"""Make the image: stack, launch layers, app. An unchanged layer is named again, not read again."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shipway.buildpacks import processes, upper
from shipway.buildpacks.analyze import (
    CACHE_LABEL,
    CACHE_METADATA_LABEL,
    LIFECYCLE_LABEL,
    Previous,
)
from shipway.buildpacks.catalog import Catalog
from shipway.buildpacks.errors import BuildFailed
from shipway.buildpacks.lifecycle.request import APP_DIR
from shipway.buildpacks.result import Result, ResultLayer, ResultProcess
from shipway.runtime.images.layers import Layer, LayerStore
from shipway.runtime.images.store import Image, ImageConfig, ImageStore

BUILD_LABEL = "io.buildpacks.build.metadata"


@dataclass(frozen=True, slots=True)
class Exporter:
    """Makes an image of what lies in `upper_dir` (of /layers) and `app_dir`; consumes both.

    `scratch` is an empty folder on the store's file system.
    """

    images: ImageStore
    layers: LayerStore
    catalog: Catalog
    previous: Previous
    upper_dir: Path
    app_dir: Path
    scratch: Path

    def app_layer(self) -> Layer:
        """The app's folder as a layer."""
        tree = self._tree("app")
        self.app_dir.rename(tree / APP_DIR.lstrip("/"))
        return self.layers.commit(tree)

    def buildpack_layers(self, result: Result) -> list[tuple[ResultLayer, Layer]]:
        """The layers to keep, for the image or for the next build, in the image's order."""
        found = []
        order = {id_: place for place, id_ in enumerate(result.group)}
        for item in sorted(result.layers, key=lambda item: (order[item.buildpack], item.name)):
            if item.launch or item.cache:
                found.append((item, self._layer(item)))
        return found

    def image(
        self,
        result: Result,
        kept: list[tuple[ResultLayer, Layer]],
        app: Layer,
        run: Image,
        extra_labels: Mapping[str, str],
        names: tuple[str, str],
    ) -> Image:
        """Write the image and tag it `names[0]`; what only builds need goes to `names[1]`."""
        launch = [(item, layer) for item, layer in kept if item.launch]
        cached = [(item, layer) for item, layer in kept if not item.launch]
        labels = {**run.config.labels, **result.labels, **extra_labels}
        labels[LIFECYCLE_LABEL] = _json(
            {
                "app": [{"sha": app.diff_id}],
                "buildpacks": self._metadata(result, launch),
                "runImage": {"reference": run.digest, "topLayer": run.layers[-1].diff_id},
            }
        )
        labels[BUILD_LABEL] = _json(self._build_metadata(result))
        if cached:
            labels[CACHE_LABEL] = self._cache(result, cached, names[1])
        default = processes.default_command(result.processes, processes.commands(result.processes))
        config = ImageConfig(
            env={**run.config.env, **result.env},
            cmd=("/bin/bash", "-c", default) if default else (),
            working_dir=APP_DIR,
            user=run.config.user or "1000:1000",
            labels=labels,
            architecture=run.config.architecture,
        )
        layers = [*run.layers, *(layer for _, layer in launch), app]
        return self.images.write(layers, config, names[0])

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
                f"the buildpack {item.buildpack} declares the layer {item.name}, which has no folder"
            )
        tree = self._tree(f"{folder}.{item.name}")
        if old is not None and change is upper.Change.MIXED:
            lower = self.layers.path(old.layer.diff_id) / "layers"
            upper.merge(self.upper_dir, folder, item.name, lower, tree)
        else:
            upper.take(self.upper_dir, folder, item.name, tree)
        return self.layers.commit(tree)

    def _tree(self, name: str) -> Path:
        tree = self.scratch / name
        tree.mkdir(mode=0o755)
        return tree

    def _cache(self, result: Result, cached: list[tuple[ResultLayer, Layer]], ref: str) -> str:
        """An image that keeps layers for the next build; found through the app image's label."""
        metadata = _json({"buildpacks": self._metadata(result, cached)})
        layers = [layer for _, layer in cached]
        config = ImageConfig(labels={CACHE_METADATA_LABEL: metadata})
        return self.images.write(layers, config, ref).digest

    def _metadata(
        self, result: Result, kept: list[tuple[ResultLayer, Layer]]
    ) -> list[dict[str, Any]]:
        found = []
        for id_ in result.group:
            entry: dict[str, Any] = {
                "key": id_,
                "version": self.catalog.sources[id_].buildpack.version,
                "layers": {
                    item.name: {
                        "sha": layer.diff_id,
                        "data": item.data,
                        "build": item.build,
                        "launch": item.launch,
                        "cache": item.cache,
                    }
                    for item, layer in kept
                    if item.buildpack == id_
                },
            }
            if id_ in result.stores:
                entry["store"] = {"metadata": result.stores[id_]}
            found.append(entry)
        return found

    def _build_metadata(self, result: Result) -> dict[str, Any]:
        used = [self.catalog.sources[id_].buildpack for id_ in result.group]
        return {
            "buildpacks": [
                {"id": one.id, "version": one.version, "homepage": one.homepage, "api": one.api}
                for one in used
            ],
            "processes": [_process(process) for process in result.processes],
        }


def _process(process: ResultProcess) -> dict[str, Any]:
    return {
        "type": process.type,
        "command": list(process.command),
        "args": list(process.args),
        "direct": process.direct,
        "working-dir": process.working_dir,
        "buildpackID": process.buildpack,
    }


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True)
