"""What an image says of its making, in the labels of the platform specification."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from shipway.buildpacks.lifecycle.request import EXEC_ENV, Buildpack
from shipway.buildpacks.result import Result, ResultLayer, ResultProcess
from shipway.runtime.images.layers import Layer
from shipway.runtime.images.store import Image

LIFECYCLE_LABEL = "io.buildpacks.lifecycle.metadata"
CACHE_METADATA_LABEL = "io.buildpacks.lifecycle.cache.metadata"
BUILD_LABEL = "io.buildpacks.build.metadata"
PROJECT_LABEL = "io.buildpacks.project.metadata"
REBASABLE_LABEL = "io.buildpacks.rebasable"
EXEC_ENV_LABEL = "io.buildpacks.exec-env"
BASE_PREFIXES = ("io.buildpacks.base.", "io.buildpacks.stack.")
REUSE_LABEL = "io.shipway.reuse"  # diff ids by the digest of what went into the layer
CACHE_LABEL = "io.shipway.cache"  # on an app's image: the manifest digest of its cache

Kept = Sequence[tuple[ResultLayer, Layer]]


@dataclass(frozen=True, slots=True)
class Parts:
    """The layers of an image beside its buildpacks', bottom first within each field."""

    app: tuple[Layer, ...]
    launcher: Layer
    config: Layer
    sbom: Layer | None = None


@dataclass(frozen=True, slots=True)
class Base:
    """The run image: `name` is how it is asked for, `rebasable` whether another may replace it.

    `extended` is the same with the layers of image extensions.
    """

    image: Image
    name: str
    mirrors: tuple[str, ...] = ()
    rebasable: bool = True
    extended: Image | None = None

    @property
    def whole(self) -> Image:
        """With what image extensions have put on it."""
        return self.extended or self.image

    def metadata(self) -> dict[str, Any]:
        """What is kept of it for a rebase."""
        return {
            "image": self.name,
            "mirrors": list(self.mirrors),
            "reference": self.image.digest,
            "topLayer": self.image.layers[-1].diff_id,
        }


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the source comes from; empty fields are left out."""

    commit: str = ""
    repository: str = ""
    refs: tuple[str, ...] = field(default=())

    def metadata(self) -> dict[str, Any]:
        """The project's metadata, as `project-metadata.toml` has it."""
        if not self.commit:
            return {}
        metadata: dict[str, Any] = {}
        if self.repository:
            metadata["repository"] = self.repository
        if self.refs:
            metadata["refs"] = list(self.refs)
        source = {"type": "git", "version": {"commit": self.commit}, "metadata": metadata}
        return {"source": source}


def lifecycle(
    result: Result, kept: Kept, parts: Parts, base: Base, group: Sequence[Buildpack]
) -> str:
    """The value of LIFECYCLE_LABEL."""
    found: dict[str, Any] = {
        "app": [{"sha": layer.diff_id} for layer in parts.app],
        "buildpacks": buildpacks(result, kept, group),
        "config": {"sha": parts.config.diff_id},
        "exec-env": EXEC_ENV,
        "launcher": {"sha": parts.launcher.diff_id},
        "process-types": {"sha": parts.config.diff_id},
        "runImage": base.metadata(),
        "stack": {"runImage": {"image": base.name, "mirrors": list(base.mirrors)}},
    }
    if parts.sbom is not None:
        found["sbom"] = {"sha": parts.sbom.diff_id}
    return encoded(found)


def buildpacks(result: Result, kept: Kept, group: Sequence[Buildpack]) -> list[dict[str, Any]]:
    """Each buildpack with its layers and its store."""
    found = []
    for buildpack in group:
        entry: dict[str, Any] = {
            "key": buildpack.id,
            "version": buildpack.version,
            "layers": {
                item.name: {
                    "sha": layer.diff_id,
                    "data": item.data,
                    "build": item.build,
                    "launch": item.launch,
                    "cache": item.cache,
                }
                for item, layer in kept
                if item.buildpack == buildpack.id
            },
        }
        if buildpack.id in result.stores:
            entry["store"] = {"metadata": result.stores[buildpack.id]}
        found.append(entry)
    return found


def build(
    result: Result, group: Iterable[Buildpack], extensions: Iterable[Buildpack], version: str
) -> str:
    """The value of BUILD_LABEL. `version` is the launcher's."""
    found: dict[str, Any] = {
        "buildpacks": [_about(one) for one in group],
        "processes": [_process(process) for process in result.processes],
        "launcher": {"version": version, "source": {"git": {"repository": "", "commit": ""}}},
    }
    extended = [_about(one) for one in extensions]
    if extended:
        found["extensions"] = extended
    return encoded(found)


def _about(one: Buildpack) -> dict[str, Any]:
    return {"id": one.id, "version": one.version, "homepage": one.homepage, "api": one.api}


def _process(process: ResultProcess) -> dict[str, Any]:
    found: dict[str, Any] = {
        "type": process.type,
        "command": list(process.command),
        "args": list(process.args),
        "direct": process.direct,
        "working-dir": process.working_dir,
        "buildpackID": process.buildpack,
    }
    if process.exec_env:
        found["exec-env"] = list(process.exec_env)
    return found


def cache_of(image: Image) -> str:
    """The digest of the image that holds an image's cache; "none" if it has none.

    Only a digest counts: a name, which anybody can guess, could be that of another app's.
    """
    found = image.config.labels.get(CACHE_LABEL, "")
    return found if found.startswith("sha256:") else "none"


def encoded(value: Mapping[str, Any]) -> str:
    """JSON in always the same bytes."""
    return json.dumps(value, separators=(",", ":"), sort_keys=True)
