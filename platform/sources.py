"""Apps that come otherwise than by a push: an image of a registry, an archive of files or of an image."""

import contextlib
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from shipway.platform import applog, archives, auth, builds, shapes
from shipway.platform.errors import InvalidInput, NotFound
from shipway.platform.history import find_release
from shipway.platform.models import User
from shipway.platform.repos import Repos
from shipway.platform.shapes import View
from shipway.platform.store import Store

CHUNK = 1 << 20
LONGEST_IMAGE = 500
SPARE = 512 << 20  # bytes of the disk that no upload may take


def deploy_image(store: Store, user: User, name: str, image: str) -> View:
    """Queue a build that takes an image of a registry as it is. Raises InvalidInput."""
    if not image.isascii() or not image.isprintable() or len(image) > LONGEST_IMAGE:
        raise InvalidInput(f"{image[:60]!r} names no image: give one such as nginx:1.27.")
    if image.startswith("-") or " " in image:
        raise InvalidInput(f"{image[:60]!r} names no image: give one such as nginx:1.27.")
    return _queue(store, user, name, commit="", branch="image", source={"image": image})


def deploy_archive(store: Store, user: User, name: str, stream: IO[bytes]) -> View:
    """Queue a build of an archive's files, or of the image in it. Raises InvalidInput, BadArchive."""
    with store.reading() as db:
        app = auth.app_for(db, user, name)
        now = store.now(db)
    with _received(store, stream) as path:
        if archives.is_image(path, store.settings.push_size):
            kept = path.with_suffix(".image")
            path.rename(kept)
            try:
                source = {"archive": kept.name}
                return _queue(store, user, name, commit="", branch="archive", source=source)
            except BaseException:
                kept.unlink()
                raise
        repos = Repos(store.settings)
        repos.ensure(app.name, app.id)
        most = store.settings.push_size
        commit = archives.commit(repos, app.name, path, user.name, now, most)
        view = _queue(store, user, name, commit=commit, branch="archive", source=None)
        repos.keep(app.name, view["id"], commit)
        return view


@contextlib.contextmanager
def _received(store: Store, stream: IO[bytes]) -> Iterator[Path]:
    """The upload in a file, gone at the end unless it was moved."""
    folder, most = store.settings.uploads, store.settings.push_size
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / secrets.token_hex(16)
    size = 0
    try:
        with path.open("xb") as file:
            while data := stream.read(CHUNK):
                size += len(data)
                if size > most:
                    raise InvalidInput(f"The archive is larger than {most >> 20} MB (push_size).")
                if shutil.disk_usage(folder).free < SPARE:
                    raise InvalidInput("The platform's disk is full: nothing was taken.")
                file.write(data)
        if not size:
            raise InvalidInput("The archive is empty: was anything sent?")
        yield path
    finally:
        path.unlink(missing_ok=True)


def _queue(
    store: Store,
    user: User,
    name: str,
    *,
    commit: str,
    branch: str,
    source: dict[str, str] | None,
) -> View:
    with store.transaction() as db:
        app = auth.app_for(db, user, name)
        # The branch stays where it is: what is pushed next stands on what was pushed last.
        row = builds.queue(
            db,
            app,
            user,
            store.now(db),
            commit=commit,
            branch=branch,
            old_commit=None,
            ref_moved=True,
            source=source,
        )
        view = shapes.build(row)
        told = f"Build {row.id} of {shapes.what(row)} started by user {user.name}"
    applog.append(store.settings, name, "app[api]", told)
    return view


def bill(store: Store, user: User, name: str) -> bytes:
    """The bill of materials of what the app runs, a CycloneDX document. Raises NotFound."""
    with store.reading() as db:
        app = auth.app_for(db, user, name)
        image = find_release(db, app, None).image
    try:
        return store.settings.bill(app.id, image).read_bytes()
    except FileNotFoundError:
        raise NotFound(
            f"There is no bill of materials of the image that {name} runs: it was made before there"
            f" were any; `shipway builds:rebuild {name}` makes one."
        ) from None
