"""Images as one tar: what `docker save` writes and OCI layouts in a tar, read and written.

A tar that is read may come through a pipe, so nothing is known of a blob until the whole tar was
read: each file is put aside as it comes, hashed, and takes its place in the store at the end.
"""

import contextlib
import hashlib
import json
import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from shipway.runtime.errors import (
    ArchiveTooLarge,
    DamagedBlob,
    InvalidArchive,
    InvalidImage,
    InvalidReference,
    NoSuchPlatform,
)
from shipway.runtime.images import compression, legacy, manifests, references, tarwriter
from shipway.runtime.images.blobs import BlobStore, Incoming
from shipway.runtime.images.index import REF_NAME
from shipway.runtime.images.intake import Intake, intake
from shipway.runtime.images.layers import LAYER_LIMITS, Layer
from shipway.runtime.images.store import Image, ImageStore
from shipway.runtime.images.tarreader import Readable, TarReader

CHUNK = 1 << 20
SMALL = 1 << 20  # a file up to this size is kept in memory …
SMALL_TOTAL = 64 << 20  # … as long as all of these have no more than this
MOST_FILES = 20_000
FULL_NAME = "io.containerd.image.name"


class Writable(Protocol):
    """Anything with a blocking write of all it is given."""

    def write(self, data: bytes, /) -> object:
        """Write all of `data`."""
        ...


@dataclass(frozen=True, slots=True)
class Loaded:
    """An image that was loaded, and the names it has got."""

    image: Image
    refs: tuple[str, ...]


def load(images: ImageStore, stream: Readable, *, named: bool = True) -> list[Loaded]:
    """Take in all images of a tar, plain or packed, of any of the forms that there are.

    Not `named`, they do not get the names that the archive gives them.

    Raises InvalidArchive, InvalidImage, NoSuchPlatform, StoreFull; what was not complete is gone.
    """
    content, _ = compression.opened(stream)
    with contextlib.ExitStack() as stack:
        taking = stack.enter_context(intake(images))
        archive = _Archive(images.blobs, stack, taking, named)
        archive.read(content)
        if archive.has("index.json") and archive.has("oci-layout"):
            return _load_layout(archive)
        if archive.has("manifest.json"):
            return _load_docker(archive)
        if archive.has("repositories"):
            return [
                archive.loaded(config, layers, refs)
                for config, layers, refs in legacy.images(archive)
            ]
    raise InvalidArchive(
        "the archive holds no image: it has neither index.json and oci-layout, nor manifest.json,"
        " nor repositories; the tar of a root file system is taken by `import`"
    )


class _Archive:
    """The files of a tar, put aside, and the layers that were made of them."""

    def __init__(
        self, blobs: BlobStore, stack: contextlib.ExitStack, taking: Intake, named: bool
    ) -> None:
        self.named = named
        self._blobs = blobs
        self._stack = stack
        self.taking = taking
        self._files: dict[str, Incoming | bytes] = {}
        self._links: dict[str, str] = {}
        self._layers: dict[str, Layer] = {}
        self._small = 0

    def read(self, stream: Readable) -> None:
        """Read the whole tar."""
        reader = TarReader(stream)
        total = 0
        for count, member in enumerate(reader, 1):
            name = posixpath.normpath(member.name.decode(errors="replace"))
            total += member.size
            if count > MOST_FILES or total > LAYER_LIMITS.size:
                raise ArchiveTooLarge(
                    f"the archive has more than {MOST_FILES} files, or {LAYER_LIMITS.size} bytes"
                )
            if name in self._files or name in self._links:
                raise InvalidArchive(f"the archive has two files named {name!r}")
            if member.kind in (tarwriter.SYMLINK, tarwriter.HARD_LINK):
                link = member.link.decode(errors="replace")
                folder = posixpath.dirname(name) if member.kind == tarwriter.SYMLINK else ""
                self._links[name] = posixpath.normpath(posixpath.join(folder, link))
            elif member.kind == tarwriter.REGULAR:
                self._files[name] = self._put_aside(member.size, reader.content())

    def _put_aside(self, size: int, content: Iterator[bytes]) -> Incoming | bytes:
        if size <= SMALL and self._small + size <= SMALL_TOTAL:
            self._small += size
            return b"".join(content)
        return self._stack.enter_context(self._blobs.incoming(content))

    def has(self, name: str) -> bool:
        """Whether there is a file of that name."""
        return name in self._files

    def small(self, name: str) -> bytes:
        """A small file's content. Raises InvalidArchive."""
        found = self._find(name)
        if isinstance(found, bytes):
            return found
        if found.size > manifests.LARGEST:
            raise InvalidArchive(f"the archive's {name} has more than {manifests.LARGEST} bytes")
        return found.path.read_bytes()

    def blob(self, digest: str) -> bytes:
        """A small blob of a layout, checked. Raises InvalidArchive."""
        data = self.small(f"blobs/sha256/{digest.removeprefix('sha256:')}")
        if f"sha256:{hashlib.sha256(data).hexdigest()}" != digest:
            raise InvalidArchive(f"the archive's blob {digest} does not match its digest")
        return data

    def layer(self, name: str, diff_id: str | None, digest: str | None = None) -> Layer:
        """Take in the layer in a file. Raises InvalidArchive, InvalidImage."""
        found = self._find(name)
        if isinstance(found, bytes):
            found = self._stack.enter_context(self._blobs.incoming([found]))
        if digest not in (None, found.digest):
            raise InvalidArchive(f"the archive's blob {digest} does not match its digest")
        if found.digest not in self._layers:
            try:
                self._layers[found.digest] = self.taking.layer(found, diff_id)
            except InvalidArchive as error:
                raise type(error)(f"the layer {name}: {error}") from error
        layer = self._layers[found.digest]
        if diff_id not in (None, layer.diff_id):
            raise InvalidImage(f"layer {name} holds {layer.diff_id}, where {diff_id} is said")
        return layer

    def loaded(
        self,
        config: bytes,
        layers: Sequence[Layer],
        refs: Sequence[str],
        manifest: bytes | None = None,
    ) -> Loaded:
        """Complete an image. Raises as `Intake.image`."""
        own = tuple(refs) if self.named else ()
        return Loaded(self.taking.image(config, layers, own, manifest), own)

    def _find(self, name: str) -> Incoming | bytes:
        for _ in range(10):
            if name in self._files:
                return self._files[name]
            if name not in self._links:
                break
            name = self._links[name]
        raise InvalidArchive(f"the archive lacks {name}, which it speaks of")


def _load_layout(archive: _Archive) -> list[Loaded]:
    """The images of an OCI layout, each once, with all its names."""
    index = manifests.document(archive.small("index.json"), "the archive's index.json")
    entries = index.get("manifests")
    if not isinstance(entries, list) or not all(isinstance(each, dict) for each in entries):
        raise InvalidImage("the archive's index.json has no list of manifests")
    docker_names = _docker_names(archive)
    names: dict[str, list[str]] = {}
    for name, group in _groups(entries).items():
        if name:  # one image, perhaps for several machines
            wanted = [manifests.choose({"manifests": group}, "the archive's index.json")]
        else:
            wanted = _fitting(group)
        for each in wanted:
            own = names.setdefault(_resolve(archive, each.digest), [])
            own += [name] if name else []
    found = [_load_manifest(archive, digest, own, docker_names) for digest, own in names.items()]
    if not found:
        raise InvalidArchive("the archive holds an image layout without any image")
    return found


def _groups(entries: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The entries by the name that they give: an image for several machines has several."""
    found: dict[str, list[dict[str, Any]]] = {}
    for entry in entries:
        notes = entry.get("annotations")
        notes = notes if isinstance(notes, dict) else {}
        name = notes.get(FULL_NAME) or notes.get(REF_NAME) or ""
        found.setdefault(_short(str(name)) if name else "", []).append(entry)
    return found


def _fitting(group: Sequence[dict[str, Any]]) -> list[manifests.Descriptor]:
    """Of entries without a name, those that this machine can run. Raises NoSuchPlatform."""
    found = []
    refused: NoSuchPlatform | None = None
    for entry in group:
        try:
            found.append(manifests.choose({"manifests": [entry]}, "the archive's index.json"))
        except NoSuchPlatform as error:
            refused = error
    if refused is not None and not found:
        raise refused
    return found


def _resolve(archive: _Archive, digest: str) -> str:
    for _ in range(manifests.DEEPEST):
        found = manifests.document(archive.blob(digest), digest)
        if not manifests.is_index(found, digest):
            return digest
        digest = manifests.choose(found, digest).digest
    raise InvalidImage(f"{digest} is an index in more than {manifests.DEEPEST} others")


def _load_manifest(
    archive: _Archive, digest: str, names: list[str], docker_names: dict[str, list[str]]
) -> Loaded:
    data = archive.blob(digest)
    manifest = manifests.manifest(manifests.document(data, digest), digest)
    config = archive.blob(manifest.config.digest)
    what = f"the config of {digest}"
    diff_ids = manifests.config(config, len(manifest.layers), what)["rootfs"]["diff_ids"]
    layers = [
        archive.layer(f"blobs/sha256/{each.digest.removeprefix('sha256:')}", diff_id, each.digest)
        for each, diff_id in zip(manifest.layers, diff_ids, strict=True)
    ]
    refs = list(dict.fromkeys(docker_names.get(manifest.config.digest) or names))
    return archive.loaded(config, layers, refs, data)


def _docker_names(archive: _Archive) -> dict[str, list[str]]:
    """The names in a manifest.json beside an index, by the digest of the config."""
    if not archive.has("manifest.json"):
        return {}
    found = {}
    for entry in _docker_entries(archive):
        config = archive.small(entry["Config"])
        digest = f"sha256:{hashlib.sha256(config).hexdigest()}"
        found[digest] = [_short(name) for name in entry.get("RepoTags") or ()]
    return found


def _load_docker(archive: _Archive) -> list[Loaded]:
    """The images of a `docker save`."""
    found = []
    for entry in _docker_entries(archive):
        config = archive.small(entry["Config"])
        what = f"the archive's {entry['Config']}"
        document = manifests.config(config, len(entry["Layers"]), what)
        layers = [
            archive.layer(posixpath.normpath(name), diff_id)
            for name, diff_id in zip(entry["Layers"], document["rootfs"]["diff_ids"], strict=True)
        ]
        refs = [_short(name) for name in entry.get("RepoTags") or ()]
        found.append(archive.loaded(config, layers, refs))
    if not found:
        raise InvalidArchive("the archive's manifest.json lists no image")
    return found


def _docker_entries(archive: _Archive) -> list[dict[str, Any]]:
    try:
        entries = json.loads(archive.small("manifest.json"))
    except (ValueError, RecursionError) as error:
        raise InvalidArchive(f"the archive's manifest.json is no JSON: {error}") from error
    fits = isinstance(entries, list) and all(
        isinstance(each, dict)
        and isinstance(each.get("Config"), str)
        and _are_words(each.get("Layers"))
        and (each.get("RepoTags") is None or _are_words(each["RepoTags"]))
        for each in entries
    )
    if not fits:
        raise InvalidArchive("the archive's manifest.json is not as Docker writes it")
    return list(entries)


def _are_words(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _short(name: str) -> str:
    try:
        return references.parse_tag(name).short
    except InvalidReference as error:
        raise InvalidArchive(f"the archive names an image so: {error}") from error


# -- writing ------------------------------------------------------------------------------------


def save(images: ImageStore, names: Sequence[str], output: Writable) -> None:
    """Write images as one tar, an OCI layout that Docker's `load` takes as well.

    The same images give the same bytes. Raises NoSuchImage, and DamagedBlob, also when half of it
    was written.
    """
    chosen = _choose(images, names)
    blobs: dict[str, int] = {}
    index, docker = [], []
    for image, refs in chosen:
        digest, manifest = images.manifest(image.digest)
        parts = [manifest.config, *manifest.layers]
        blobs[digest] = images.blobs.size(digest)
        blobs.update((part.digest, images.blobs.size(part.digest)) for part in parts)
        for ref in refs or (None,):
            index.append(_index_entry(manifest.media_type, digest, blobs[digest], ref))
        docker.append(
            {
                "Config": _path(manifest.config.digest),
                "RepoTags": [references.parse(ref).short for ref in refs],
                "Layers": [_path(layer.digest) for layer in manifest.layers],
            }
        )
    for name in ("blobs/", "blobs/sha256/"):
        output.write(tarwriter.header(name.encode(), tarwriter.DIRECTORY, mode=0o755, uid=0, gid=0))
    owners = {part: image.digest for image, _ in chosen for part in images.parts(image.digest)}
    for digest in sorted(blobs):
        with images.told(owners[digest]):
            _write_blob(images.blobs, digest, blobs[digest], output)
    layout = {"schemaVersion": 2, "mediaType": manifests.INDEX_TYPE, "manifests": index}
    _write_file(output, "index.json", layout)
    _write_file(output, "manifest.json", docker)
    _write_file(output, "oci-layout", {"imageLayoutVersion": "1.0.0"})
    output.write(tarwriter.END)


def _choose(images: ImageStore, names: Sequence[str]) -> list[tuple[Image, list[str]]]:
    """The images meant, each once, with the names it is to keep."""
    found: dict[str, tuple[Image, list[str]]] = {}
    for name in names:
        for ref in _all_tags(images, name) or [name]:
            image = images.get(ref)
            _, refs = found.setdefault(image.digest, (image, []))
            if image.ref is not None and image.ref not in refs:
                refs.append(image.ref)
    return [(image, sorted(refs)) for image, refs in found.values()]


def _all_tags(images: ImageStore, name: str) -> list[str]:
    """A name without a tag stands for all tags of that repository, as with Docker."""
    try:
        wanted = references.parse(name)
    except InvalidReference:
        return []
    if wanted.digest or name.endswith(f":{wanted.tag}"):
        return []
    prefix = f"{wanted.short_repository}:"
    return sorted(ref for ref in images.refs() if ref.startswith(prefix))


def _index_entry(media_type: str, digest: str, size: int, ref: str | None) -> dict[str, Any]:
    entry: dict[str, Any] = {"mediaType": media_type, "digest": digest, "size": size}
    if ref is not None:
        full = references.parse(ref).full
        entry["annotations"] = {FULL_NAME: full, REF_NAME: references.parse(ref).short}
    return entry


def _path(digest: str) -> str:
    return f"blobs/sha256/{digest.removeprefix('sha256:')}"


def _write_blob(blobs: BlobStore, digest: str, size: int, output: Writable) -> None:
    _write_header(output, _path(digest), size)
    hasher = hashlib.sha256()
    left = size
    path = blobs.path(digest)
    try:
        with path.open("rb", buffering=0) as file:
            while left and (data := file.read(min(CHUNK, left))):
                hasher.update(data)
                output.write(data)
                left -= len(data)
    except FileNotFoundError:
        raise DamagedBlob(digest, path, "is missing") from None
    if left or f"sha256:{hasher.hexdigest()}" != digest:
        raise DamagedBlob(digest, path, "does not match its digest")
    output.write(tarwriter.padding(size))


def _write_file(output: Writable, name: str, document: Any) -> None:
    data = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
    _write_header(output, name, len(data))
    output.write(data + tarwriter.padding(len(data)))


def _write_header(output: Writable, name: str, size: int) -> None:
    output.write(
        tarwriter.header(name.encode(), tarwriter.REGULAR, mode=0o644, uid=0, gid=0, size=size)
    )
