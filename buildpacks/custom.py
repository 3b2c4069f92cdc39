"""Buildpacks of strangers: found where an app, or whoever set it up, says; brought to this host.

Nothing of theirs runs here: they are fetched in a container, read with suspicion, and run in the
build's container only.
"""

import json
import os
import re
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from shipway.buildpacks import heroku, plainfile
from shipway.buildpacks.catalog import HERE, Catalog, catalog
from shipway.buildpacks.descriptor import Source, load
from shipway.buildpacks.errors import BuildFailed, InvalidBuildpack
from shipway.buildpacks.lifecycle.order import Group, Member
from shipway.buildpacks.lifecycle.request import BUILDPACKS_DIR
from shipway.buildpacks.lines import LineWriter, printable
from shipway.buildpacks.project import Inline, Project, Wish
from shipway.buildpacks.references import Kind, Reference, parse
from shipway.buildpacks.upper import USER_ID
from shipway.runtime.engine import Engine
from shipway.runtime.errors import ImageError
from shipway.runtime.images import references
from shipway.runtime.images.registries import Access, pull
from shipway.runtime.images.store import Image
from shipway.runtime.spec import ContainerSpec, Mount

if TYPE_CHECKING:
    from shipway.buildpacks.build import BuildRequest

PROCFILE = "shipway/procfile"
PACKAGE_LABEL = "io.buildpacks.buildpackage.metadata"
MOST = 64  # buildpacks of one image
_NAME = re.compile(r"[^A-Za-z0-9.-]+")


@dataclass(frozen=True, slots=True)
class _Brought:
    """What one wish came to: all that it brings along, and the id to put into the group."""

    sources: tuple[Source, ...]
    id: str

    @property
    def is_extension(self) -> bool:
        """Whether it is an image extension."""
        return any(
            one.buildpack.is_extension for one in self.sources if one.buildpack.id == self.id
        )


def chosen(
    engine: Engine,
    request: "BuildRequest",
    project: Project,
    known: Catalog,
    output: Callable[[str], None],
    cancelled: threading.Event,
) -> Catalog:
    """The catalog for this build: `known`, unless somebody wishes for other buildpacks.

    What the platform says comes before what the app's own files say. Raises InvalidBuildpack,
    BuildFailed, Cancelled, TimedOut.
    """
    wishes: Sequence[Wish] = request.buildpacks or project.buildpacks
    if not (wishes or project.pre or project.post):
        return known
    bringer = _Bringer(engine, request, known, output, cancelled)
    pre, main, post = (
        tuple(bringer.bring(wish, trusted=bool(request.buildpacks) and place == 1) for wish in each)
        for place, each in enumerate((project.pre, wishes, project.post))
    )
    groups = (_members(main),) if _members(main) else known.order
    # Image extensions are always optional, and come before all buildpacks.
    first = tuple(Member(one.id, optional=True) for one in (*pre, *main, *post) if one.is_extension)
    order = tuple(
        _with_procfile((*first, *_members(pre), *group, *_members(post)), known) for group in groups
    )
    if not request.extensions and any(one.is_extension for one in (*pre, *main, *post)):
        raise InvalidBuildpack(
            "image extensions run their Dockerfiles as root, which this platform does not allow"
        )
    sources = {source.buildpack.id: source for source in known.sources.values()}
    for brought in (*pre, *main, *post):
        sources.update({source.buildpack.id: source for source in brought.sources})
    return catalog(list(sources.values()), order)


def _members(brought: Iterable[_Brought]) -> Group:
    return tuple(Member(one.id) for one in brought if not one.is_extension)


def _with_procfile(group: Group, known: Catalog) -> Group:
    """A Procfile counts whatever the buildpacks are."""
    if PROCFILE not in known.sources or any(member.id == PROCFILE for member in group):
        return group
    return (*group, Member(PROCFILE, optional=True))


class _Bringer:
    """Brings buildpacks into folders below the build's own."""

    def __init__(
        self,
        engine: Engine,
        request: "BuildRequest",
        known: Catalog,
        output: Callable[[str], None],
        cancelled: threading.Event,
    ) -> None:
        self._engine = engine
        self._request = request
        self._known = known
        self._output = output
        self._cancelled = cancelled
        self._count = 0

    def bring(self, wish: Wish, trusted: bool) -> _Brought:
        """Have what is wished for. `trusted` is false for what the app's files say."""
        if isinstance(wish, Inline):
            return self._of_folder(self._inline(wish), wish.id)
        reference = parse(wish, self._request.source, self._known.sources.keys(), trusted)
        self._output(f"       Using the buildpack {printable(wish)}")
        if reference.kind is Kind.KNOWN:
            return _Brought((), reference.place)
        if reference.kind is Kind.IMAGE:
            return self._pulled(reference)
        if reference.kind is Kind.FOLDER:
            return self._of_folder(self._copied(reference), reference.place)
        return self._of_folder(self._fetched(reference), reference.place)

    def _place(self) -> Path:
        self._count += 1
        place = self._request.workdir / "buildpacks" / str(self._count)
        place.mkdir(parents=True)
        return place

    def _copied(self, reference: Reference) -> Path:
        found = plainfile.folder_below(self._request.source, reference.place)
        if found is None:  # it was there when the reference was read
            raise InvalidBuildpack(f"{reference.written}: there is no such folder in the app")
        target = self._place() / "buildpack"
        argv = ["cp", "--archive", "--", os.fspath(found), os.fspath(target)]
        if subprocess.run(argv, stderr=subprocess.DEVNULL).returncode:
            raise BuildFailed(f"the buildpack {reference.written} could not be copied")
        return target

    def _inline(self, wish: Inline) -> Path:
        target = self._place() / "buildpack"
        (target / "bin").mkdir(parents=True)
        id_ = wish.id or f"inline/{self._count}"
        head = f'api = "{wish.api}"\n[buildpack]\nid = "{id_}"\nversion = "{wish.version}"\n'
        if any(character in f"{id_}{wish.api}{wish.version}" for character in '"\\\n'):
            raise InvalidBuildpack(f"project.toml: the id of an inline buildpack is {id_!r}")
        (target / "buildpack.toml").write_text(head)
        program = wish.program.replace("\n", " ")
        for name, script in (("detect", "exit 0\n"), ("build", wish.script)):
            (target / "bin" / name).write_text(f"#!{program}\n{script}")
            (target / "bin" / name).chmod(0o755)
        return target

    def _fetched(self, reference: Reference) -> Path:
        """Fetch in a container of the build image, with the network and settings of a build."""
        place = self._place()
        os.chown(place, USER_ID, USER_ID)
        what = [reference.kind.value, reference.place]
        what += [reference.ref] if reference.kind is Kind.GIT else []
        lines: list[str] = []
        writer = LineWriter(lines.append)
        request = self._request
        mounts = [
            Mount(os.fspath(HERE / "fetch.sh"), "/cnb/fetch.sh", readonly=True),
            Mount(os.fspath(place), "/fetched", own=True),
        ]
        env = {**self._engine.images.get(request.stack.build_image).config.env, **request.env}
        if request.ca_bundle is not None:
            mounts.append(
                Mount(os.fspath(request.ca_bundle.resolve()), "/cnb/ca.crt", readonly=True)
            )
            env.update({"GIT_SSL_CAINFO": "/cnb/ca.crt", "CURL_CA_BUNDLE": "/cnb/ca.crt"})
        spec = ContainerSpec(
            id=f"build-{request.app}-{request.build_id}",
            image=request.stack.build_image,
            args=("sh", "/cnb/fetch.sh", *what, "/fetched/buildpack"),
            env=env,
            ids=request.ids,
            limits=request.limits,
            mounts=tuple(mounts),
            labels={"shipway.build": request.build_id, "shipway.app": request.app},
            network=request.gate is None,
        )
        exit_ = self._engine.execute(
            spec, writer.feed, self._cancelled, request.timeout, request.prepared
        )
        writer.close()
        if exit_.code or not (place / "buildpack").is_dir():
            for line in lines[-20:]:
                self._output(f"       {line}")
            raise BuildFailed(f"the buildpack {reference.written} could not be fetched")
        return _top(place / "buildpack") if reference.kind is Kind.ARCHIVE else place / "buildpack"

    def _pulled(self, reference: Reference) -> _Brought:
        images = self._engine.images
        domain = references.parse(reference.place).domain
        if not self._request.may_pull(domain):
            raise InvalidBuildpack(
                f"{reference.written} is in the registry {domain}, which builds may not reach; the"
                " setting build_hosts lists those they may"
            )
        try:
            image = pull(images, reference.place, Access.of(images), lambda _line: None).image
        except ImageError as error:
            raise BuildFailed(f"the buildpack {reference.written}: {error}") from error
        sources = tuple(load(folder) for folder in self._package(image))
        ids = [source.buildpack.id for source in sources]
        if not sources:
            raise InvalidBuildpack(
                f"{reference.written} holds no buildpack: there is nothing in {BUILDPACKS_DIR}"
            )
        main = _main_id(image) or (ids[0] if len(ids) == 1 else "")
        if main not in ids:
            raise InvalidBuildpack(
                f"{reference.written} does not say which of its buildpacks to use: it has "
                f"{', '.join(sorted(ids))}"
            )
        return _Brought(sources, main)

    def _package(self, image: Image) -> Iterator[Path]:
        """The folders of an image that hold buildpacks, <id>/<version>."""
        found = []
        for layer in image.layers:
            root = plainfile.folder_below(
                self._engine.layers.path(layer.diff_id), BUILDPACKS_DIR.lstrip("/")
            )
            for folder in _folders(root) if root else ():
                found += _folders(folder)
        if len(found) > MOST:
            raise InvalidBuildpack(f"an image with more than {MOST} buildpacks is not taken")
        yield from found

    def _of_folder(self, folder: Path, name: str) -> _Brought:
        """A folder that holds a buildpack of either kind."""
        slug = (
            _NAME.sub("-", name.removesuffix(".git").rpartition("/")[2]).strip(".-") or "buildpack"
        )
        if not any(os.path.lexists(folder / each) for each in ("buildpack.toml", "extension.toml")):
            source = heroku.wrap(folder, self._place() / "adapter", f"classic/{slug}")
            return _Brought((source,), source.buildpack.id)
        try:
            source = load(folder)
        except InvalidBuildpack as error:
            # Where it lies for the moment helps nobody.
            text = str(error).replace(os.fspath(folder), name)
            raise InvalidBuildpack(text, error.code) from error
        return _Brought((source,), source.buildpack.id)


def _main_id(image: Image) -> str:
    try:
        return str(json.loads(image.config.labels[PACKAGE_LABEL])["id"])
    except (KeyError, ValueError, TypeError, RecursionError):
        return ""


def _folders(root: Path) -> list[Path]:
    with os.scandir(root) as entries:
        return sorted(Path(one.path) for one in entries if one.is_dir(follow_symlinks=False))


def _top(folder: Path) -> Path:
    """An archive often holds one folder, in which all else lies."""
    inner = list(folder.iterdir())
    if len(inner) == 1 and inner[0].is_dir() and not inner[0].is_symlink():
        return inner[0]
    return folder
