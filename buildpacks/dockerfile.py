"""A Dockerfile build: buildah in a container of ours, which sees the app's files, its own storage, and no more.

The container has the limits of a build and the ids of the app. What its steps leave is kept below
`Recipe.storage`, for the next build of this app alone; base images come from the engine's store, or
are pulled into it. Only layers that the store does not have are written out.
"""

import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from shipway.buildpacks import buildah, imageprocesses, plainfile, upper
from shipway.buildpacks.build import BuildRequest, BuildResult, Output, failures, told
from shipway.buildpacks.container import CA_PATH, gentle
from shipway.buildpacks.errors import BuildFailed
from shipway.buildpacks.lines import LineWriter
from shipway.runtime.engine import Engine
from shipway.runtime.errors import (
    Cancelled,
    ImageError,
    InvalidReference,
    NoSuchImage,
)
from shipway.runtime.images import dockerfile, manifests, references
from shipway.runtime.images.build import limits_of_steps
from shipway.runtime.images.intake import intake
from shipway.runtime.images.layers import Layer
from shipway.runtime.images.registries import Access, pull
from shipway.runtime.images.store import Image
from shipway.runtime.oci.bundle import DEFAULT_NOFILE
from shipway.runtime.spec import ContainerSpec, Mount

LARGEST = 1 << 20  # bytes of a Dockerfile
STORAGE_LIMIT = 8 << 30  # bytes that one app's steps may keep
STORAGE, CONTEXT, BASES, OUT = "/storage", "/context", "/bases", "/out"
BUILT = "localhost/shipway:build"
# What buildah grants steps by default, less what the container itself does not have.
NOT_GRANTED = ("CAP_MKNOD", "CAP_NET_RAW")
SECRETS = "/run/secrets"
PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
_STEP = re.compile(r"(?:\[[^\]]+\] )?STEP \d+/\d+: ")
_DRESS = re.compile(r"^(?:Error|error): ")
_OF_OURS = re.compile(r"(?:app-\d+/|cache/|tool/)")


@dataclass(frozen=True, slots=True)
class Recipe:
    """Which Dockerfile, and how. `file` is relative to the app's folder; `storage` need not exist.

    `may_pull` says of a registry's host whether base images may come from there.
    """

    storage: Path
    file: str = "Dockerfile"
    target: str = ""
    arguments: Mapping[str, str] = field(default_factory=dict)
    may_pull: Callable[[str], bool] = lambda _domain: True


def build(
    engine: Engine,
    request: BuildRequest,
    recipe: Recipe,
    output: Output,
    cancelled: threading.Event,
) -> BuildResult:
    """Build the image. Raises BuildFailed (BuildCancelled, BuildTimedOut): then nothing is left."""
    with failures(request, output):
        return _Build(engine, request, recipe, output, cancelled).run()


class _Build:
    def __init__(
        self,
        engine: Engine,
        request: BuildRequest,
        recipe: Recipe,
        output: Output,
        cancelled: threading.Event,
    ) -> None:
        self._engine = engine
        self._request = request
        self._recipe = recipe
        self._output = output
        self._cancelled = cancelled
        self._deadline = time.monotonic() + request.timeout
        self._phases: dict[str, float] = {}
        # What a container may write to is apart from what is believed of it.
        self._storage = recipe.storage / "storage"
        self._known = recipe.storage / "known.json"

    def run(self) -> BuildResult:
        """All steps."""
        output, request = self._output, self._request
        try:
            text = _text(request.source, self._recipe.file).decode(errors="replace")
            declared = imageprocesses.declared(request.source)
        except BuildFailed as error:
            raise told(output, error) from None
        if not text.strip():
            raise told(output, BuildFailed(f"{self._recipe.file} is empty"))
        output(f"-----> Building from {self._recipe.file}")
        with self._timed("bases"):
            self._image = buildah.ensure(self._engine)
            self._make_folders()
            bases = [
                self._provide(name, number)
                for number, name in enumerate(dockerfile.bases(text, self._recipe.arguments))
            ]
        with self._timed("build"):
            self._run(self._build_argv(), say=True)
        with self._timed("export"):
            output("-----> Exporting the image")
            offered = self._offer(bases)
            self._run([*_BUILDAH, *_PUSH, BUILT, f"oci:{OUT}:image"], writes=True)
            image = self._take_in(offered)
            processes = declared or imageprocesses.of(image.config)
            if not processes:
                self._engine.images.untag(request.ref)
                raise told(output, BuildFailed(imageprocesses.NOTHING))
            below = {layer for base in bases for layer in base.layers}
            size = sum(layer.size for layer in image.layers if layer not in below)
            output(f"       Done: {size / 1e6:.1f}M")
        upper.trim(self._recipe.storage, STORAGE_LIMIT)
        imageprocesses.say(processes, output, from_procfile=bool(declared))
        return BuildResult(image.digest, processes, self._phases, size)

    # -- folders ---------------------------------------------------------------------------------

    def _make_folders(self) -> None:
        self._recipe.storage.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._storage.mkdir(exist_ok=True)
        with suppress(FileExistsError):
            (self._storage / "tmp").mkdir()
        for name in (BASES, OUT):
            (self._request.workdir / name.lstrip("/")).mkdir()

    def _folder(self, name: str) -> Path:
        return self._request.workdir / name.lstrip("/")

    # -- running ---------------------------------------------------------------------------------

    def _run(self, argv: list[str], *, say: bool = False, writes: bool = False) -> list[str]:
        """Run buildah in a container of its own; what it says. Raises BuildFailed.

        Only one that `writes` the image sees the folder for it, which this host reads: a step may
        leave its chroot for the container around it.
        """
        said: list[str] = []

        def line(text: str) -> None:
            said.append(text)
            if len(said) > 1000:
                del said[:500]
            if say:
                self._output(_dressed(text))

        lines = LineWriter(line)
        left = max(0.01, self._deadline - time.monotonic())
        exit_ = self._engine.execute(
            self._spec(argv, writes), lines.feed, self._cancelled, left, self._request.prepared
        )
        lines.close()
        if self._cancelled.is_set():
            raise Cancelled
        if exit_.oom:
            memory = (self._request.limits.memory or 0) // 2**20
            reason = f"the build ran out of memory (its limit is {memory} MB)"
            raise told(self._output, BuildFailed(reason))
        if exit_.code:
            last = next((text for text in reversed(said) if text.strip()), "")
            reason = _DRESS.sub("", last) or f"it ended with code {exit_.code}"
            raise told(self._output, BuildFailed(reason))
        return said

    def _spec(self, argv: list[str], writes: bool) -> ContainerSpec:
        request = self._request
        mounts = [
            Mount(os.fspath(request.source), CONTEXT, readonly=True),
            Mount(os.fspath(self._folder(BASES)), BASES, readonly=True),
            Mount(os.fspath(self._storage), STORAGE, own=True),
        ]
        if writes:
            mounts.append(Mount(os.fspath(self._folder(OUT)), OUT, own=True))
        env = {
            "HOME": "/root",
            "TMPDIR": f"{STORAGE}/tmp",
            "_CONTAINERS_USERNS_CONFIGURED": "done",  # the ids are those it is to work with
            **{name: value for name, value in request.env.items() if name in PROXIES},
        }
        if request.ca_bundle is not None:
            mounts.append(Mount(os.fspath(request.ca_bundle.resolve()), CA_PATH, readonly=True))
            env["SSL_CERT_FILE"] = CA_PATH
        return ContainerSpec(
            id=f"build-{request.app}-{request.build_id}",
            image=self._image.digest,
            args=tuple(argv),
            env=env,
            ids=request.ids,
            user="0:0",
            limits=gentle(request.limits),
            mounts=tuple(mounts),
            labels={"shipway.build": request.build_id, "shipway.app": request.app},
            secrets=request.secrets,
            network=request.gate is None,
            nesting=True,
        )

    def _build_argv(self) -> list[str]:
        # Operator's settings such as a package index are arguments: steps see those they declare.
        settings = {k: v for k, v in self._request.env.items() if k not in PROXIES}
        arguments = {**settings, **self._recipe.arguments}
        return [
            *(*_BUILDAH, "build", "--isolation", "chroot", "--format", "docker"),
            *("--layers", "--pull=never", "--tag", BUILT),
            *limits_of_steps(DEFAULT_NOFILE),
            *(word for name in NOT_GRANTED for word in ("--cap-drop", name)),
            *(word for k, v in arguments.items() for word in ("--build-arg", f"{k}={v}")),
            *(
                word
                for name in self._request.secrets
                for word in ("--secret", f"id={name},src={SECRETS}/{name}")
            ),
            *(("--target", self._recipe.target) if self._recipe.target else ()),
            *("--file", f"{CONTEXT}/{self._recipe.file}", "--", CONTEXT),
        ]

    # -- images in and out -----------------------------------------------------------------------

    def _provide(self, name: str, number: int) -> Image:
        """Have a base image in our store, and in the app's storage by its full name."""
        image, full = base_image(self._engine, name, self._recipe.may_pull, self._output)
        known = self._read_known()
        if known.get(full) == image.digest:
            return image
        folder = self._folder(BASES) / str(number)
        folder.mkdir()
        _place(self._engine, image, folder)
        [*_, identity] = self._run([*_BUILDAH, "pull", "--quiet", f"dir:{BASES}/{number}"])
        self._run([*_BUILDAH, "tag", identity.strip(), full])
        self._known.write_text(json.dumps({**known, full: image.digest}))
        return image

    def _read_known(self) -> dict[str, str]:
        try:
            found: dict[str, str] = json.loads(self._known.read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return found

    def _offer(self, bases: list[Image]) -> dict[str, Layer]:
        """Layers that need not be written out, since they are here: empty files stand for them."""
        images = list(bases)
        if self._request.previous:
            try:
                images.append(self._engine.images.get(self._request.previous))
            except (NoSuchImage, ImageError):
                pass
        layers = self._engine.layers
        out = self._folder(OUT)
        (out / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
        (out / "blobs/sha256").mkdir(parents=True)
        offered = {}
        for layer in {layer for image in images for layer in image.layers}:
            if layers.has(layer.diff_id):
                offered[layer.diff_id] = layer
                path = out / "blobs/sha256" / layer.diff_id.removeprefix("sha256:")
                path.touch()
                os.truncate(path, layers.content_size(layer))
        return offered

    def _take_in(self, offered: Mapping[str, Layer]) -> Image:
        """Put what buildah has written into the store, with our labels."""
        out = self._folder(OUT)
        index = manifests.document(_content(out / "index.json"), "the build's index.json")
        entry = manifests.choose(index, "the build's index.json")
        data = _content(_blob(out, entry.digest))
        manifest = manifests.manifest(manifests.document(data, "the build"), "the build")
        config = _content(_blob(out, manifest.config.digest))
        document = manifests.config(config, len(manifest.layers), "the build's config")
        images = self._engine.images
        layers: list[Layer] = []
        here = dict(offered)
        with intake(images) as taking:
            for each, diff_id in zip(manifest.layers, document["rootfs"]["diff_ids"], strict=True):
                if diff_id not in here:  # steps that change nothing have one and the same layer
                    with images.blobs.incoming_file(_blob(out, each.digest), each.digest) as blob:
                        here[diff_id] = taking.layer(blob, diff_id)
                layers.append(here[diff_id])
            labelled = _labelled(document, self._request.labels)
            return taking.document(labelled, layers, [self._request.ref])

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        start = time.monotonic()
        try:
            yield
        finally:
            self._phases[name] = time.monotonic() - start


_BUILDAH = [
    *(buildah.PROGRAM, "--root", f"{STORAGE}/root", "--runroot", "/run/buildah"),
    *("--storage-driver", "overlay"),
]
_PUSH = ["push", "--quiet", "--disable-compression"]


def base_image(
    engine: Engine,
    name: str,
    may_pull: Callable[[str], bool],
    output: Output,
    *,
    fresh: bool = False,
) -> tuple[Image, str]:
    """An image that an app may be built from, pulled if it is not here, and its full name.

    If it is to be `fresh`, its registry is asked whether the name leads to another by now.

    Raises BuildFailed, RegistryFailed, InvalidReference, InvalidImage.
    """
    wanted = references.parse(name)
    if _OF_OURS.match(wanted.short):
        raise told(output, BuildFailed(f"{name} is an image of Shipway's own, not one to use"))
    try:
        # By its name alone: a digest or an id may be another app's.
        local = not fresh or wanted.short.startswith("stack/")
        if local and not wanted.digest and wanted.short in engine.images.refs():
            return engine.images.get(wanted.short), wanted.full
    except NoSuchImage:
        pass
    if not may_pull(wanted.domain):
        raise told(
            output,
            BuildFailed(
                f"{name} is in the registry {wanted.domain}, which builds may not reach; the setting"
                " build_hosts lists those they may"
            ),
        )
    output(f"-----> Pulling {wanted.short}")
    image = pull(engine.images, name, Access.of(engine.images), lambda _line: None).image
    return image, wanted.full


def find(source: Path, file: str) -> bool:
    """Whether there is such a file in the app's folder."""
    try:
        _text(source, file)
    except (BuildFailed, InvalidReference):
        return False
    return True


def _text(source: Path, file: str) -> bytes:
    """A file of the app's, which nothing writes to meanwhile. Raises BuildFailed."""
    return imageprocesses.read(source, file, LARGEST)


def _dressed(text: str) -> str:
    """A line of buildah's as those of builds are."""
    return f"-----> {text}" if _STEP.match(text) else f"       {text}"


def _place(engine: Engine, image: Image, folder: Path) -> None:
    """Lay an image out as buildah reads it, without a copy."""
    digest, manifest = engine.images.manifest(image.digest)
    (folder / "version").write_text("Directory Transport Version: 1.1\n")
    os.link(engine.images.blobs.path(digest), folder / "manifest.json")
    for part in {each.digest for each in (manifest.config, *manifest.layers)}:
        os.link(engine.images.blobs.path(part), folder / part.removeprefix("sha256:"))


def _blob(out: Path, digest: str) -> Path:
    """A blob of the layout. Raises BuildFailed for anything but a plain file."""
    folder = plainfile.folder_below(out, "blobs/sha256")
    path = (folder or out) / digest.removeprefix("sha256:")
    if folder is None or path.is_symlink() or not path.is_file():
        raise BuildFailed("the build's image is damaged")
    return path


def _content(path: Path) -> bytes:
    """A small file of the layout. Raises BuildFailed for anything but a plain one."""
    try:
        return plainfile.read(path, manifests.LARGEST)
    except (OSError, ValueError) as error:
        raise BuildFailed("the build's image is damaged") from error


def _labelled(document: dict[str, Any], labels: Mapping[str, str]) -> dict[str, Any]:
    config = document.get("config") or {}
    return document | {"config": config | {"Labels": {**(config.get("Labels") or {}), **labels}}}


def inside(file: str) -> bool:
    """Whether a path stays within the folder that it is relative to, as far as its words say."""
    path = PurePosixPath(file)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts
