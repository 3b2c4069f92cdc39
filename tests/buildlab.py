"""Builds for tests: an engine with the stack in it, buildpacks of a few lines, apps that are asked."""

import contextlib
import json
import shutil
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import support
from shipway.buildpacks import catalog as catalogs
from shipway.buildpacks import processes
from shipway.buildpacks.build import BuildRequest, BuildResult, build
from shipway.buildpacks.catalog import Catalog
from shipway.buildpacks.descriptor import Source, load
from shipway.buildpacks.errors import BuildFailed
from shipway.buildpacks.labels import LIFECYCLE_LABEL
from shipway.buildpacks.lifecycle.order import Member
from shipway.buildpacks.stacks import ensure_stack
from shipway.runtime.config import EngineConfig
from shipway.runtime.engine import Engine
from shipway.runtime.images.store import Image
from shipway.runtime.spec import ContainerSpec, IdRange, Limits

# Downloads and compiled standard libraries are kept from one run of the tests to the next.
BUILD_CACHE = support.STACK_CACHE.parent / "builds"
CA_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
IDS = IdRange(2_000_000)


class Builder:
    """An engine of its own with the stack in it, and short ways to build."""

    def __init__(self, folder: Path, seed: str, **settings: Any) -> None:
        bridge, subnet = support.network_names(f"{seed}{settings}")
        self.folder = folder
        support.link_stack(folder / "root")
        self.engine = Engine(
            EngineConfig(
                folder / "root", folder / "run", bridge, subnet, bridge, bridge, **settings
            )
        )
        self.engine.setup()
        self.stack = ensure_stack(self.engine)
        self.lines: list[str] = []
        self._count = 0

    def source(self, files: dict[str, str | bytes] | Path) -> Path:
        """A folder as a push leaves it: files of the app's user."""
        self._count += 1
        path = self.folder / "work" / str(self._count) / "source"
        if isinstance(files, Path):
            shutil.copytree(files, path, symlinks=True)
        else:
            path.mkdir(parents=True)
            for name, content in files.items():
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                data = content if isinstance(content, bytes) else content.encode()
                (path / name).write_bytes(data)
        subprocess.run(["chown", "-hR", "1000:1000", path], check=True)
        return path

    def request(self, files: dict[str, str | bytes] | Path, **changes: object) -> BuildRequest:
        source = self.source(files)
        request = BuildRequest(
            app="test",
            build_id=source.parent.name,
            source=source,
            previous=None,
            stack=self.stack,
            ids=IDS,
            workdir=source.parent,
            ca_bundle=CA_BUNDLE,
            limits=Limits(memory=1 << 30, pids=256),
            timeout=120,
        )
        return replace(request, **changes)  # type: ignore[arg-type]

    def build(
        self,
        files: dict[str, str | bytes] | Path,
        catalog: Catalog | None = None,
        **changes: object,
    ) -> BuildResult:
        """Build, with the lines kept; nothing of the build's folder may be left."""
        self.lines = []
        request = self.request(files, **changes)
        try:
            return build(self.engine, request, self.lines.append, threading.Event(), catalog)
        finally:
            print("\n".join(self.lines))  # pytest shows it beside a failure
            assert not request.workdir.exists()

    def failure(self, files: dict[str, str | bytes] | Path, **changes: object) -> str:
        """The reason of a build that must fail, and must leave no container and no image."""
        before = self.engine.images.refs()
        with pytest.raises(BuildFailed) as error:
            self.build(files, **changes)  # type: ignore[arg-type]
        assert self.engine.list() == []
        assert self.engine.images.refs() == before
        return error.value.reason

    def image(self, result: BuildResult) -> Image:
        return self.engine.images.get(result.image)

    def layer(self, result: BuildResult, name: str) -> str:
        """The diff id of a launch layer."""
        for buildpack in self.metadata(result)["buildpacks"]:
            if name in buildpack["layers"]:
                return str(buildpack["layers"][name]["sha"])
        raise AssertionError(f"no layer {name}")

    def metadata(self, result: BuildResult) -> dict:
        return json.loads(self.image(result).config.labels[LIFECYCLE_LABEL])

    def run(self, result: BuildResult, script: str, process: str = "", **env: str) -> str:
        """What a shell in a container of the image prints, in the environment of a process type."""
        out: list[bytes] = []
        spec = ContainerSpec(
            id="look",
            image=result.image,
            args=processes.started(self.image(result).config, ("bash", "-c", script)),
            env={processes.TYPE_VARIABLE: process, **env},
            ids=IDS,
        )
        self.engine.execute(spec, out.append)
        return b"".join(out).decode()

    def buildpack(
        self, name: str, detect: str, build: str, api: str = "0.10", more: str = ""
    ) -> Source:
        """A buildpack for one test; `detect` and `build` are bash, `more` goes into buildpack.toml."""
        folder = self.folder / "buildpacks" / name
        (folder / "bin").mkdir(parents=True)
        (folder / "buildpack.toml").write_text(
            f'api = "{api}"\n[buildpack]\nid = "test/{name}"\nversion = "1.0.0"\n{more}'
        )
        for file, script in (("detect", detect), ("build", build)):
            (folder / "bin" / file).write_text(f"#!/bin/bash\nset -eu\n{script}\n")
            (folder / "bin" / file).chmod(0o755)
        return load(folder)

    def catalog(self, *sources: Source) -> Catalog:
        return catalogs.catalog(
            sources, (tuple(Member(source.buildpack.id) for source in sources),)
        )


@contextlib.contextmanager
def open_builder(seed: str, **settings: Any) -> Iterator[Builder]:
    """A builder in a folder of its own, gone at the end; `seed` is the name of the test's module."""
    with support.scratch() as folder:
        builder = Builder(folder, seed, **settings)
        try:
            yield builder
        finally:
            for container in builder.engine.list():
                builder.engine.remove(container.id)
            builder.engine.teardown()


def answer(builder: Builder, result: BuildResult) -> str:
    """What the app says on `/` when its web process runs as the platform would run it."""
    container = builder.engine.run(
        ContainerSpec(
            id="web",
            image=result.image,
            args=processes.started(
                builder.image(result).config, ("bash", "-c", f"exec {result.processes['web']}")
            ),
            env={"PORT": "5000", "DYNO": "web.1", "SHIPWAY_RELEASE": "v7"},
            ids=IDS,
            cwd="/workspace",
        )
    )
    try:
        deadline = time.monotonic() + 20
        pause = 0.005
        while True:
            try:
                with urllib.request.urlopen(f"http://{container.ip}:5000/", timeout=5) as page:
                    return page.read().decode()
            except OSError:
                assert time.monotonic() < deadline, "the app never answered"
                time.sleep(pause)
                pause = min(pause * 2, 0.1)
    finally:
        builder.engine.remove("web")
