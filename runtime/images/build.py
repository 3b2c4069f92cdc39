"""Images from Dockerfiles, by buildah, into the same store.

What a Dockerfile begins from is taken from our store, or pulled into it first. buildah has a storage
of its own below the engine's root, where the steps that it has built are found again; what comes out
goes from there into our store, layer by layer: those that are here already are kept as they are.
"""

import contextlib
import os
import resource
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from shipway.runtime.config import EngineConfig
from shipway.runtime.errors import ImageBuildFailed, InvalidArchive, NoSuchImage
from shipway.runtime.images import compression, dockerfile, manifests, references, tools
from shipway.runtime.images.intake import intake
from shipway.runtime.images.layers import Layer
from shipway.runtime.images.registries import Access, pull
from shipway.runtime.images.store import Image, ImageStore
from shipway.runtime.images.tarreader import Readable
from shipway.runtime.images.tools import Output, ToolFailed

DRIVER = "overlay"
# The storage's mounts end with whoever made them.
OWN_MOUNTS = ("unshare", "--mount", "--propagation", "slave", "--")
PROCESSES = 32768  # more than this an older buildah cannot give: it lowers its own limit first
_TAR_MAGIC = slice(257, 262)


@dataclass(frozen=True)
class Request:
    """What is to be built. `context` is a folder, `file` the Dockerfile, `secrets` as buildah's."""

    context: Path
    file: Path
    refs: Sequence[str] = ()
    arguments: Mapping[str, str] = field(default_factory=dict)
    target: str = ""
    cached: bool = True
    secrets: Sequence[str] = ()
    pull: bool = False


class Builder:
    """buildah with a storage of its own, below the engine's folders.

    Steps run without a user namespace (buildah's chroot isolation would leave shifted owners in the
    layers), so as with Docker whoever writes a Dockerfile is trusted with more than an app is.
    """

    def __init__(self, config: EngineConfig, images: ImageStore, access: Access) -> None:
        self._images = images
        self._access = access
        self.root = config.root / "build"
        self._run = config.run / ".build"

    def build(self, request: Request, output: Output) -> Image:
        """Build, and put the image into the store by all its names.

        Raises ImageBuildFailed, HostUnfit, NoSuchImage, RegistryFailed, InvalidReference.
        """
        refs = [references.parse_tag(ref).short for ref in request.refs]
        buildah = tools.find("buildah")
        tools.find("skopeo")
        self.root.mkdir(mode=0o700, exist_ok=True)
        try:
            text = request.file.read_text(errors="replace")
        except OSError as error:
            raise ImageBuildFailed(
                f"{request.file} cannot be read: {error.strerror}; name the Dockerfile by -f"
            ) from error
        if not text.strip():
            raise ImageBuildFailed(f"{request.file} is empty")
        for name in dockerfile.bases(text, request.arguments):
            self._provide(name, request.pull, output)
        with self._images.layers.staged_tree() as stage:
            identity = stage / "id"
            try:
                tools.run([*self._argv(buildah), *_options(request, identity)], output)
                digest = identity.read_text().strip()
                place = stage / "image"
                argv = [*self._argv(buildah), "push", "--quiet", "--disable-compression"]
                tools.run([*argv, digest, f"dir:{place}"], _drop)
            except ToolFailed as error:
                raise ImageBuildFailed(f"the build failed: {error}") from error
            return self._take_in(place, refs)

    def forget(self) -> None:
        """Remove all that builds have left to be found again. Nothing may be building."""
        if self.root.exists():
            with contextlib.suppress(ToolFailed):
                argv = self._argv(tools.find("buildah"))
                tools.run([*argv, "rm", "--all"], _drop)
                tools.run([*argv, "rmi", "--all", "--force"], _drop)

    def _argv(self, buildah: str) -> list[str]:
        return [
            *(*OWN_MOUNTS, buildah),
            *("--root", os.fspath(self.root / "storage"), "--runroot", os.fspath(self._run)),
            *("--storage-driver", DRIVER, "--registries-conf", os.fspath(self._registries())),
        ]

    def _registries(self) -> Path:
        """Short names are Docker's, whatever the host has set for other tools."""
        path = self.root / "registries.conf"
        if not path.exists():
            path.write_text(
                'unqualified-search-registries = ["docker.io"]\nshort-name-mode = "disabled"\n'
            )
        return path

    def provide(self, name: str, output: Output) -> Image:
        """An image of our store, pulled if it is not there. Raises as `build`."""
        try:
            return self._images.get(name)
        except NoSuchImage:
            output(f"Pulling {name}")
            return pull(self._images, name, self._access, output).image

    def _provide(self, name: str, fresh: bool, output: Output) -> None:
        """Have an image in our store, and in buildah's by its full name."""
        wanted = references.parse(name)
        try:
            if fresh:
                raise NoSuchImage(name)
            image = self._images.get(name)
        except NoSuchImage:
            output(f"Pulling {wanted.short}")
            image = pull(self._images, name, self._access, output).image
        digest, manifest = self._images.manifest(image.digest)
        with self._images.layers.staged_tree() as stage:
            (stage / "version").write_text("Directory Transport Version: 1.1\n")
            os.link(self._images.blobs.path(digest), stage / "manifest.json")
            for part in {each.digest for each in (manifest.config, *manifest.layers)}:
                place = stage / part.removeprefix("sha256:")
                os.link(self._images.blobs.path(part), place)
            storage = f"[{DRIVER}@{self.root / 'storage'}+{self._run}]"
            target = f"containers-storage:{storage}{wanted.full}"
            try:
                argv = [tools.find("skopeo"), "copy", "--insecure-policy", f"dir:{stage}", target]
                tools.run([*OWN_MOUNTS, *argv], _drop)
            except ToolFailed as error:
                raise ImageBuildFailed(f"{name} cannot be built from: {error}") from error

    def _take_in(self, place: Path, refs: Sequence[str]) -> Image:
        """Put what buildah has written into the store; layers that are here stay as they are."""
        data = (place / "manifest.json").read_bytes()
        manifest = manifests.manifest(manifests.document(data, "the build"), "the build")
        config = (place / manifest.config.digest.removeprefix("sha256:")).read_bytes()
        document = manifests.config(config, len(manifest.layers), "the build's config")
        layers: list[Layer] = []
        store = self._images.layers
        with intake(self._images) as taking:
            for each, diff_id in zip(manifest.layers, document["rootfs"]["diff_ids"], strict=True):
                if store.has(diff_id) and store.is_known(diff_id, store.get(diff_id).digest):
                    layers.append(store.get(diff_id))
                    continue
                path = place / each.digest.removeprefix("sha256:")
                with self._images.blobs.incoming_file(path, each.digest) as blob:
                    layers.append(taking.layer(blob, diff_id))
            return taking.image(config, layers, refs)


def limits_of_steps(most_files: int = 2**63) -> list[str]:
    """Buildah's options that keep the limits of this process, and at most so many open files.

    Newer buildahs would raise them to numbers of their own, which not every machine allows.
    """
    files, processes = _hard(resource.RLIMIT_NOFILE), _hard(resource.RLIMIT_NPROC)
    return [
        *("--ulimit", f"nofile={min(files, most_files)}"),
        *("--ulimit", f"nproc={min(processes, PROCESSES)}"),
    ]


def _options(request: Request, identity: Path) -> list[str]:
    options = [
        *("build", "--isolation", "chroot", "--format", "docker", "--pull=false"),
        *("--iidfile", os.fspath(identity), "--file", os.fspath(request.file)),
        "--layers" if request.cached else "--no-cache",
    ]
    options += limits_of_steps()
    for name, value in request.arguments.items():
        options += ["--build-arg", f"{name}={value}"]
    for secret in request.secrets:
        options += ["--secret", secret]
    if request.target:
        options += ["--target", request.target]
    return [*options, "--", os.fspath(request.context)]


def _hard(limit: int) -> int:
    """The hard limit here; a very large one for none."""
    number = resource.getrlimit(limit)[1]
    return number if number != resource.RLIM_INFINITY else 2**20


# -- contexts -----------------------------------------------------------------------------------


@contextlib.contextmanager
def context_of(
    images: ImageStore, source: str, file: str | None, stdin: Readable
) -> Iterator[tuple[Path, Path]]:
    """The folder and the Dockerfile that are meant by Docker's arguments.

    `source` is a folder, the address of a git repository (`…#ref:folder`), or "-": then the
    standard input has a tar, or a Dockerfile alone. Raises ImageBuildFailed, InvalidArchive.
    """
    if source != "-" and not _is_git(source):
        folder = Path(source).absolute()
        if not folder.is_dir():
            raise ImageBuildFailed(
                f"{source} is no folder; the context is a folder, a git URL or -"
            )
        if file == "-":
            with images.layers.staged_tree() as tree:
                (tree / "Dockerfile").write_bytes(_all(stdin))
                yield folder, tree / "Dockerfile"
        else:
            yield folder, Path(file).absolute() if file else _dockerfile(folder)
        return
    with images.layers.staged_tree() as tree:
        folder = tree
        if source == "-":
            _from_stdin(images, stdin, tree)
        else:
            folder = _clone(source, tree)
        yield folder, folder / file if file else _dockerfile(folder)


def _from_stdin(images: ImageStore, stdin: Readable, tree: Path) -> None:
    content, known = compression.opened(stdin)
    head = content.peek(512)
    if known.kind or head[_TAR_MAGIC] == b"ustar":
        try:
            images.layers.unpack(content, tree)
        except InvalidArchive as error:
            raise type(error)(f"the context on the standard input: {error}") from error
    else:
        (tree / "Dockerfile").write_bytes(_all(content))


def _all(stream: Readable) -> bytes:
    data = b""
    while more := stream.read(1 << 16):
        data += more
        if len(data) > manifests.LARGEST:
            raise ImageBuildFailed("the standard input is neither a tar nor a Dockerfile")
    return data


def _dockerfile(folder: Path) -> Path:
    other = folder / "Containerfile"
    return (
        other if other.exists() and not (folder / "Dockerfile").exists() else folder / "Dockerfile"
    )


def _is_git(source: str) -> bool:
    address = source.partition("#")[0]
    web = address.startswith(("http://", "https://"))
    return address.startswith(("git://", "git@", "ssh://")) or (
        web and (address.endswith(".git") or address.split("/")[2:3] == ["github.com"])
    )


def _clone(source: str, tree: Path) -> Path:
    """Fetch a repository into `tree`; the folder in it that is meant."""
    address, _, place = source.partition("#")
    ref, _, folder = place.partition(":")
    if address.startswith("-") or ref.startswith("-") or ".." in Path(folder).parts:
        raise ImageBuildFailed(f"{source!r} is no git address; one is like URL#branch:folder")
    git = [tools.find("git"), "-c", "protocol.ext.allow=never", "-c", "core.symlinks=true"]
    try:
        tools.run([*git, "init", "--quiet", os.fspath(tree)], _drop)
        at = [*git, "-C", os.fspath(tree)]
        tools.run([*at, "fetch", "--quiet", "--depth=1", "--", address, ref or "HEAD"], _drop)
        tools.run([*at, "checkout", "--quiet", "FETCH_HEAD"], _drop)
    except ToolFailed as error:
        raise ImageBuildFailed(f"{address} could not be fetched by git: {error}") from error
    found = tree / folder.lstrip("/")
    if not found.resolve().is_relative_to(tree.resolve()) or not found.is_dir():
        raise ImageBuildFailed(f"{address} has no folder {folder}")
    subprocess.run(["rm", "-rf", "--", os.fspath(tree / ".git")], check=True)
    return found


def _drop(_line: str) -> None:
    """Take what need not be shown."""
