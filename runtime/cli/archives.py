"""import, export, save, load, commit: images and root file systems as files, and from containers."""

import contextlib
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import click

from shipway.runtime.cli.common import engine, say
from shipway.runtime.errors import InvalidArchive, InvalidSpec, StoreFull
from shipway.runtime.images import archives, references, rootfs
from shipway.runtime.images.commit import Change
from shipway.runtime.images.tarreader import Readable

TIMEOUT = 60.0


@click.command("load", epilog="Example: … load -i app.tar.gz")
@click.option("-i", "--input", "source", metavar="FILE", help="In place of the standard input.")
@click.option("-q", "--quiet", is_flag=True, help="As with Docker: there is no progress to hide.")
def load(*, source: str | None, quiet: bool) -> None:
    """Take in images that `save` or Docker wrote, or an OCI layout in a tar, packed or not."""
    with opened(source or "-") as stream:
        found = archives.load(engine().images, stream)
    for each in found:
        for ref in each.refs:
            say(f"Loaded image: {ref}")
        if not each.refs:
            say(f"Loaded image ID: {each.image.id}")


@click.command("save", epilog="Example: … save -o app.tar app:v1 app:v2")
@click.argument("names", metavar="IMAGE…", nargs=-1, required=True)
@click.option("-o", "--output", "target", metavar="FILE", help="In place of the standard output.")
def save(*, names: tuple[str, ...], target: str | None) -> None:
    """Write images as one tar, which `load`, Docker, and tools for OCI layouts take."""
    with written(target) as file:
        archives.save(engine().images, names, file)


@click.command("import", epilog="Example: … import --change 'CMD [\"sh\"]' rootfs.tar.xz base:1")
@click.argument("source")
@click.argument("reference", required=False)
@click.option("-c", "--change", multiple=True, help="A Dockerfile instruction, like 'ENV A=b'.")
@click.option("-m", "--message", default="", help="A comment, for the image's history.")
def import_(*, source: str, reference: str | None, change: tuple[str, ...], message: str) -> None:
    """Make an image of the tar of a root file system: a FILE, a URL, or - for standard input."""
    ref = references.parse_tag(reference).short if reference else None
    with opened(source) as stream:
        say(rootfs.take_in(engine().images, stream, ref, change, message).id)


@click.command("export", epilog="Example: … export -o files.tar db")
@click.argument("container")
@click.option("-o", "--output", "target", metavar="FILE", help="In place of the standard output.")
def export(*, container: str, target: str | None) -> None:
    """Write all files of a container as one tar."""
    found = engine()
    name = found.resolve(container)
    with written(target) as file:
        found.export(name, file)


@click.command("commit", epilog="Example: … commit -m 'with tools' -c 'CMD [\"bash\"]' box tools:1")
@click.argument("container")
@click.argument("reference", required=False)
@click.option("-a", "--author", default="", help="Who made it.")
@click.option("-c", "--change", multiple=True, help="A Dockerfile instruction, like 'ENV A=b'.")
@click.option("-m", "--message", default="", help="A comment, for the image's history.")
@click.option("-p", "--pause/--no-pause", default=True, help="Pause the container meanwhile.")
def commit(
    *,
    container: str,
    reference: str | None,
    author: str,
    change: tuple[str, ...],
    message: str,
    pause: bool,
) -> None:
    """Make an image of what a container has on its disk."""
    ref = references.parse_tag(reference).short if reference else None
    found = engine()
    name = found.resolve(container)
    say(found.commit(name, Change(ref, author, message, change), pause).id)


@contextlib.contextmanager
def opened(source: str) -> Iterator[Readable]:
    """The stream that is meant: a file, a URL, or "-". Raises InvalidSpec, InvalidArchive."""
    if source == "-":
        if sys.stdin.isatty():
            raise InvalidSpec(
                "the standard input is a terminal; give it an archive, or use -i FILE"
            )
        yield sys.stdin.buffer
        return
    try:
        with _file(source) as stream:
            yield stream
    except (urllib.error.URLError, TimeoutError) as error:
        raise InvalidArchive(f"{source} could not be fetched: {error}") from error


def _file(source: str) -> BinaryIO:
    if source.startswith(("http://", "https://")):
        response: BinaryIO = urllib.request.urlopen(source, timeout=TIMEOUT)  # noqa: S310 - web only
        return response
    try:
        return Path(source).open("rb")
    except OSError as error:
        raise InvalidSpec(f"{source} cannot be read: {error.strerror}") from error


@contextlib.contextmanager
def written(target: str | None) -> Iterator[BinaryIO]:
    """The standard output, or a file that is there whole or not at all. Raises StoreFull."""
    if target is None:
        if sys.stdout.isatty():
            raise InvalidSpec("the standard output is a terminal; use -o FILE, or a pipe")
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = Path(target)
    if path.exists() and not path.is_file():  # a device, a pipe
        with path.open("wb") as file:
            yield file
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb", buffering=0) as file:
            yield file
        temporary.rename(path)
    except OSError as error:
        raise StoreFull(f"{target} cannot be written: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)


COMMANDS = (load, save, import_, export, commit)
