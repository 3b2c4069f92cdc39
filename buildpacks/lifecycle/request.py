"""What the host tells the lifecycle inside the build container, as one JSON file."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

APP_DIR = "/workspace"
LAYERS_DIR = "/layers"
PLATFORM_DIR = "/platform"
BUILDPACKS_DIR = "/cnb/buildpacks"
EXTENSIONS_DIR = "/cnb/extensions"
GENERATED_DIR = f"{LAYERS_DIR}/generated"
REQUEST_PATH = "/cnb/request/request.json"
RESULT_PATH = f"{LAYERS_DIR}/config/result.json"
CACHE_DIR = "/cache"
RESTORED_DIR = "/cnb/restored"  # bills of materials of the previous build, of strangers too
EXEC_ENV = "production"
HOME = "/tmp/home"


class Buildpack(NamedTuple):
    """One buildpack as its buildpack.toml describes it.

    `language` is what people call an app that it fits ("Python"), `looks_for` the file it goes by.
    `procfile` is the example line shown when its apps come without a Procfile. `sbom_formats` are
    the extensions of the bills of materials that it may write, like "cdx.json".
    """

    id: str
    version: str
    api: str
    homepage: str = ""
    clear_env: bool = False
    language: str = ""
    looks_for: str = ""
    procfile: str = ""
    sbom_formats: tuple[str, ...] = ()
    is_extension: bool = False

    @property
    def folder(self) -> str:
        """Its name as a folder below /layers and /cnb/buildpacks."""
        return self.id.replace("/", "_")

    @property
    def root(self) -> str:
        """Where it lies inside the container."""
        above = EXTENSIONS_DIR if self.is_extension else BUILDPACKS_DIR
        return f"{above}/{self.folder}/{self.version}"

    @property
    def layers(self) -> str:
        """Its own folder of layers."""
        return f"{LAYERS_DIR}/{self.folder}"


class Restored(NamedTuple):
    """A layer of the previous build: its metadata, and whether the content is back in place."""

    name: str
    data: Mapping[str, Any]
    content: bool


class Request(NamedTuple):
    """Everything about one build. `target` holds os, arch, distro_name and distro_version."""

    target: Mapping[str, str]
    buildpacks: Mapping[str, Buildpack]
    order: tuple[tuple[tuple[str, bool], ...], ...]
    build_env: Mapping[str, str]
    operator_env: Mapping[str, str]
    restored: Mapping[str, tuple[Restored, ...]]
    stores: Mapping[str, Mapping[str, Any]]
    selected: Mapping[str, Any] | None = None

    def to_json(self) -> str:
        """The file's content."""
        return json.dumps(self._asdict())

    @classmethod
    def from_json(cls, text: str) -> "Request":
        """The inverse of `to_json`."""
        raw = json.loads(text)
        raw["buildpacks"] = {id_: Buildpack(*item) for id_, item in raw["buildpacks"].items()}
        raw["order"] = tuple(
            tuple((id_, optional) for id_, optional in group) for group in raw["order"]
        )
        raw["restored"] = {
            id_: tuple(Restored(*item) for item in items) for id_, items in raw["restored"].items()
        }
        return cls(**raw)
