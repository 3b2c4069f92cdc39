"""One build: from a folder of source to an image. Analyze, detect and build, export."""

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from shipway.buildpacks import container, custom, launcher, processes, project, result, upper
from shipway.buildpacks.analyze import analyze
from shipway.buildpacks.catalog import Catalog, built_in
from shipway.buildpacks.errors import BuildCancelled, BuildFailed, BuildTimedOut, InvalidBuildpack
from shipway.buildpacks.export import Exporter, Names
from shipway.buildpacks.gate import Gate
from shipway.buildpacks.kit import toml
from shipway.buildpacks.labels import Base, Origin, Parts
from shipway.buildpacks.lifecycle.request import GENERATED_DIR, Buildpack
from shipway.buildpacks.lines import ERROR_MARK, LineWriter
from shipway.buildpacks.stacks import Stack
from shipway.runtime.engine import Engine
from shipway.runtime.errors import Cancelled, RuntimeFailure, TimedOut
from shipway.runtime.images.store import Image
from shipway.runtime.spec import ContainerSpec, IdRange, Limits

CACHE_LIMIT = 2 << 30  # bytes that an app's downloads may take
Output = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """What to build, and with what.

    `source` is a folder with the app's files, owned by 1000:1000; it is consumed. `workdir` is for
    this build alone, on the file system of the engine's root, and gone at the end. `previous` is
    the digest of the app's last good image. `env` are the operator's settings: they reach the
    buildpacks and stay in no image. `cache` is a folder that only builds of this app use; it need
    not exist. `secrets` are files below /run/secrets for as long as the build runs. `timeout` is in
    seconds. `process_type` is what the image starts by itself. `buildpacks` are references that
    come before what the app's own files say: an id of one of ours, a folder of the app, an address
    of git with #ref, or an image. `may_pull` says of a registry's host whether images may come from
    there. `disk` is how many bytes may go into the image and the cache: files with holes take them
    only then. With `extensions` the Dockerfiles of image extensions are applied, whose steps run as
    root. With a `gate` the build has no network but that way out.
    """

    app: str
    build_id: str
    source: Path
    previous: str | None
    stack: Stack
    ids: IdRange
    workdir: Path
    env: Mapping[str, str] = field(default_factory=dict)
    ca_bundle: Path | None = None
    limits: Limits = field(default_factory=Limits)
    timeout: float = 1800.0
    labels: Mapping[str, str] = field(default_factory=dict)
    ref: str = ""
    cache: Path | None = None
    origin: Origin = field(default_factory=Origin)
    process_type: str | None = None
    buildpacks: tuple[str, ...] = ()
    secrets: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    extensions: bool = False
    may_pull: Callable[[str], bool] = lambda _domain: True
    disk: int | None = None
    gate: Gate | None = None

    @property
    def prepared(self) -> Callable[[int], None] | None:
        """What is to be done with each container of the build before its program begins."""
        return self.gate.open if self.gate else None


@dataclass(frozen=True, slots=True)
class BuildResult:
    """The image, its commands by process type, seconds by phase.

    `size` is in bytes: what the image has above its stack. `report` is the platform specification's
    report.toml.
    """

    image: str
    processes: dict[str, str]
    phases: dict[str, float]
    size: int
    report: str = ""


def build(
    engine: Engine,
    request: BuildRequest,
    output: Output,
    cancelled: threading.Event,
    catalog: Catalog | None = None,
) -> BuildResult:
    """Build the image. Raises BuildFailed (BuildCancelled, BuildTimedOut): then nothing is left."""
    with failures(request, output):
        return _build(engine, request, output, cancelled, catalog or built_in())


@contextmanager
def failures(request: BuildRequest, output: Output) -> Iterator[None]:
    """Whatever goes wrong is a BuildFailed, told in the log; the build's folder is gone at the end."""
    try:
        yield
    except BuildFailed:
        raise
    except Cancelled as error:
        raise BuildCancelled("the build was cancelled") from error
    except TimedOut as error:
        reason = f"the build took longer than {request.timeout:g} seconds"
        raise told(output, BuildTimedOut(reason)) from error
    except InvalidBuildpack as error:
        raise told(output, BuildFailed(str(error), error.code)) from error
    except RuntimeFailure as error:
        raise told(output, BuildFailed(str(error))) from error
    finally:
        upper.remove(request.workdir)


def told(output: Output, error: BuildFailed) -> BuildFailed:
    """Put the reason into the log too."""
    output(f"{ERROR_MARK}{error.reason[:1].upper()}{error.reason[1:].removesuffix('.')}.")
    return error


def _build(
    engine: Engine,
    request: BuildRequest,
    output: Output,
    cancelled: threading.Event,
    catalog: Catalog,
) -> BuildResult:
    phases: dict[str, float] = {}
    run = engine.images.get(request.stack.run_image)
    output(f"-----> Building on the {_title(run.config.labels)} stack")
    output("-----> Determining which buildpack to use for this app")
    wishes = project.read(request.source)
    with _timed(phases, "fetch"):
        catalog = custom.chosen(engine, request, wishes, catalog, output, cancelled)
        project.leave_out(request.source, wishes)
    with _timed(phases, "analyze"):
        previous = analyze(engine.images, engine.layers, request.previous)
        job = container.prepare(engine, request, catalog, previous, run, wishes.env)
    base = Base(run, request.stack.run_image)
    extensions: tuple[Buildpack, ...] = ()
    with _timed(phases, "container"):
        _contain(engine, request, job.spec, output, cancelled)
    generated = result.extended(job.upper, catalog.sources.keys())
    if generated is not None:
        with _timed(phases, "extend"):
            from shipway.buildpacks.extensions import extend  # few builds need it

            group, selected = generated
            known = [catalog.sources[id_].buildpack for id_ in group]
            extensions = tuple(one for one in known if one.is_extension)
            written = job.upper / os.path.basename(GENERATED_DIR)
            build_image, base = extend(engine, request, known, written, base, output)
        with _timed(phases, "container"):
            container.go_on(job, selected)
            spec = replace(job.spec, image=build_image)
            _contain(engine, request, spec, output, cancelled)
    made = result.read(job.upper, catalog.sources.keys())
    phases.update(made.seconds)
    phases["container"] = max(0.0, phases["container"] - sum(made.seconds.values()))
    if not made.processes:
        raise told(output, BuildFailed("the buildpacks declare no process type to start"))
    if cancelled.is_set():
        raise Cancelled
    if request.disk and upper.length([job.upper, request.source]) > request.disk:
        limit = f"the build's limit of {request.disk >> 20} MB of disk"
        raise told(output, BuildFailed(f"what was built has more than {limit}"))
    with _timed(phases, "export"):
        output("-----> Exporting the image")
        exporter = Exporter(
            images=engine.images,
            layers=engine.layers,
            catalog=catalog,
            previous=previous,
            upper_dir=job.upper,
            app_dir=request.source,
            scratch=job.scratch,
        )
        kept = exporter.buildpack_layers(made)
        sbom, hidden = exporter.sbom_layers(made)
        parts = Parts(
            app=exporter.app_layers(made),
            launcher=launcher.layer(engine, request.stack, request.ids),
            config=exporter.config_layer(made),
            sbom=sbom,
        )
        names = Names(
            request.ref or f"app/{request.app}:{request.build_id}",
            f"cache/{request.app}",
            request.process_type,
        )
        image = exporter.image(
            made,
            kept,
            parts,
            base,
            request.labels,
            names,
            request.origin,
            hidden,
            extensions,
        )
        size = sum(layer.size for layer in image.layers[len(run.layers) :])
        output(f"       Done: {_megabytes(size)}")
    fresh = {layer for _, layer in kept} - {item.layer for item in previous.layers.values()}
    if request.cache is not None and fresh:
        upper.trim(request.cache, CACHE_LIMIT)
    commands = processes.commands(made.processes)
    return BuildResult(image.digest, commands, phases, size, _report(engine, image))


def _contain(
    engine: Engine,
    request: BuildRequest,
    spec: ContainerSpec,
    output: Output,
    cancelled: threading.Event,
) -> None:
    """Run the build's container to its end. Raises BuildFailed, Cancelled, TimedOut."""
    lines = LineWriter(output)
    exit_ = engine.execute(spec, lines.feed, cancelled, request.timeout, request.prepared)
    lines.close()
    if exit_.oom:
        memory = (request.limits.memory or 0) // 2**20
        raise told(output, BuildFailed(f"the build ran out of memory (its limit is {memory} MB)"))
    if exit_.code:
        reason = lines.reason or f"the build failed (exit {exit_.code})"
        raise BuildFailed(reason, exit_.code)


def _report(engine: Engine, image: Image) -> str:
    size = engine.images.blobs.size(image.digest)
    about = {"digest": image.digest, "image-id": image.id, "manifest-size": size}
    return toml.dumps({"image": {"tags": [image.ref or ""], **about}})


@contextmanager
def _timed(phases: dict[str, float], name: str) -> Iterator[None]:
    start = time.monotonic()
    try:
        yield
    finally:
        phases[name] = phases.get(name, 0.0) + time.monotonic() - start


def _title(labels: Mapping[str, str]) -> str:
    name = labels.get("io.buildpacks.base.distro.name", "")
    version = labels.get("io.buildpacks.base.distro.version", "")
    return f"{name} {version}".strip().title() or "given"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f}M"
