"""images, history, tag, rmi, prune: the images of this machine."""

import re
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import click

from shipway.runtime.cli import template
from shipway.runtime.cli.common import engine, parse_filter, print_json, say
from shipway.runtime.cli.listing import ago
from shipway.runtime.errors import ImageError, InvalidSpec
from shipway.runtime.images import listing, references, removing
from shipway.runtime.images.listing import Listed
from shipway.runtime.images.store import ImageStore

NONE = "<none>"
COLUMNS = {
    "REPOSITORY": "Repository",
    "TAG": "Tag",
    "IMAGE ID": "ID",
    "CREATED": "CreatedSince",
    "SIZE": "Size",
}
HISTORY = {
    "IMAGE": "ID",
    "CREATED": "CreatedSince",
    "CREATED BY": "CreatedBy",
    "SIZE": "Size",
    "COMMENT": "Comment",
}
FILTERS = {"before", "dangling", "label", "reference", "since", "until"}
SHORT_STEP = 45
_UNITS = ("B", "kB", "MB", "GB", "TB")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(h|m|s)")
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0}


@click.command(
    "images", epilog="Example: … images --filter dangling=true --format '{{.ID}} {{.Size}}'"
)
@click.argument("repository", required=False)
@click.option("-a", "--all", "everything", is_flag=True, help="As with Docker; nothing is hidden.")
@click.option("-q", "--quiet", is_flag=True, help="Only the ids.")
@click.option("--no-trunc", is_flag=True, help="Whole ids.")
@click.option("--digests", is_flag=True, help="Also what their registries know them by.")
@click.option("-f", "--filter", "filters", multiple=True, metavar="NAME=VALUE", help="Only such.")
@click.option("--format", "form", metavar="TEMPLATE", help="Like '{{.ID}}', or json.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list, for scripts.")
def images(
    *,
    repository: str | None,
    everything: bool,
    quiet: bool,
    no_trunc: bool,
    digests: bool,
    filters: tuple[str, ...],
    form: str | None,
    as_json: bool,
) -> None:
    """List images, or those of one REPOSITORY[:TAG]."""
    store = engine().images
    fits = matcher(store, filters)
    found = [
        each
        for each in listing.listed(store)
        if fits(each) and (repository is None or _is_of(each, repository))
    ]
    if quiet:
        for identity in dict.fromkeys(_id(each, no_trunc) for each in found):
            say(identity)
        return
    rows = [row(each, no_trunc) for each in found]
    columns = dict(COLUMNS)
    if digests:
        columns = {"REPOSITORY": "Repository", "TAG": "Tag", "DIGEST": "Digest", **COLUMNS}
    if as_json:
        template.show_json(rows)
    else:
        template.show(rows, form, columns)


def row(each: Listed, whole: bool) -> dict[str, Any]:
    """What is shown of an image, by Docker's names."""
    return {
        "ID": _id(each, whole),
        "Repository": each.repository or NONE,
        "Tag": each.tag or NONE,
        "Digest": each.registry_digest or NONE,
        "CreatedAt": _at(each.created),
        "CreatedSince": f"{ago(time.time() - each.created)} ago",
        "Size": human(each.size),
        "Containers": str(len(each.containers)),
        "Damaged": not each.id,
    }


def _id(each: Listed, whole: bool) -> str:
    identity = each.id or each.digest
    return identity if whole else removing.short_id(identity)


def _at(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S %z %Z")


def human(size: float) -> str:
    """Bytes as Docker shows them: three digits, powers of 1000."""
    for unit in _UNITS:
        if size < 1000 or unit == _UNITS[-1]:
            break
        size /= 1000
    return f"{size:.3g}{unit}" if size < 999.5 else f"{size:.0f}{unit}"


def _is_of(each: Listed, name: str) -> bool:
    wanted = references.parse(name)
    if each.ref is None or each.repository != wanted.short_repository:
        return False
    has_tag = name.endswith(f":{wanted.tag}")
    return not has_tag or each.tag == wanted.tag


def matcher(store: ImageStore, filters: tuple[str, ...]) -> Callable[[Listed], bool]:
    """Whether an image is of those that the filters ask for. Raises InvalidSpec, NoSuchImage."""
    checks = [_filter(store, each) for each in filters]
    return lambda image: all(check(image) for check in checks)


def _filter(store: ImageStore, text: str) -> Callable[[Listed], bool]:
    name, value = parse_filter(text, FILTERS)
    if name == "dangling":
        if value not in ("true", "false"):
            raise InvalidSpec(f"the filter {text!r} must be dangling=true or dangling=false")
        return lambda each: (each.ref is None) == (value == "true")
    if name == "label":
        key, has_value, wanted = value.partition("=")
        return lambda each: key in each.labels and (not has_value or each.labels[key] == wanted)
    if name == "reference":
        pattern = _glob(value)
        return lambda each: (
            each.ref is not None
            and any(pattern.fullmatch(one) for one in (each.repository, each.ref))
        )
    if name == "until":
        latest = until(value)
        return lambda each: each.stored <= latest
    created = listing.timestamp(store.get(value).config.created)
    if name == "before":
        return lambda each: each.created < created
    return lambda each: each.created > created


def _glob(text: str) -> re.Pattern[str]:
    """A shell pattern whose * and ? stop at a slash, as Go's do."""
    parts = {"*": "[^/]*", "?": "[^/]"}
    return re.compile("".join(parts.get(each, re.escape(each)) for each in text))


def until(text: str) -> float:
    """The time that `until=` means, in epoch seconds: an age like 24h or 1h30m, or a date."""
    pieces = _DURATION.findall(text)
    if pieces and "".join(number + unit for number, unit in pieces) == text:
        return time.time() - sum(float(number) * _SECONDS[unit] for number, unit in pieces)
    if text.isdigit():
        return float(text)
    found = listing.timestamp(text)
    if not found:
        raise InvalidSpec(
            f"until={text!r} is no time; write an age like 24h or 1h30m, or a date like 2026-01-31"
        )
    return found


@click.command("history", epilog="Example: … history --no-trunc debian:13")
@click.argument("image")
@click.option("-q", "--quiet", is_flag=True, help="Only the ids.")
@click.option("--no-trunc", is_flag=True, help="Whole commands and ids.")
@click.option("-H/ ", "--human/--no-human", "readable", default=True, help="Sizes in kB, MB, GB.")
@click.option("--format", "form", metavar="TEMPLATE", help="Like '{{.CreatedBy}}', or json.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list, for scripts.")
def history(
    *,
    image: str,
    quiet: bool,
    no_trunc: bool,
    readable: bool,
    form: str | None,
    as_json: bool,
) -> None:
    """Show how an image came to be, the last step first."""
    store = engine().images
    found = store.get(image)
    rows = []
    for number, step in enumerate(listing.history(store, found)):
        identity = found.id if number == 0 else ""
        command = " ".join(step.created_by.split())
        if not no_trunc and len(command) > SHORT_STEP:
            command = command[: SHORT_STEP - 1] + "…"
        rows.append(
            {
                "ID": (identity if no_trunc else removing.short_id(identity)) or "<missing>",
                "CreatedAt": _at(step.created),
                "CreatedSince": f"{ago(time.time() - step.created)} ago",
                "CreatedBy": command,
                "Size": human(step.size) if readable else str(step.size),
                "Comment": step.comment,
            }
        )
    if quiet:
        for each in rows:
            say(each["ID"])
    elif as_json:
        template.show_json(rows)
    else:
        template.show(rows, form, HISTORY)


@click.command("tag", epilog="Example: … tag app:latest registry.example.com/app:v1")
@click.argument("source")
@click.argument("target")
def tag(*, source: str, target: str) -> None:
    """Give the image SOURCE one more name, TARGET."""
    engine().images.tag(references.parse_tag(target).short, source)


@click.command("rmi", epilog="Example: … rmi app:old 4e2d1f")
@click.argument("names", metavar="IMAGE…", nargs=-1, required=True)
@click.option("-f", "--force", is_flag=True, help="Also if a container uses it: the names go.")
@click.option("--no-prune", is_flag=True, help="As with Docker; there are no hidden parents here.")
def rmi(*, names: tuple[str, ...], force: bool, no_prune: bool) -> int:
    """Remove images: a name, and the image with its last one; by its id, with all its names."""
    failed = 0
    for name in names:
        try:
            show_removed(removing.remove(engine().images, name, force))
        except ImageError as error:
            click.echo(f"shipway runtime: {error}", err=True)
            failed = 1
    return failed


def show_removed(done: removing.Removed) -> None:
    """What was taken away, a line each."""
    for each in done.untagged:
        say(f"Untagged: {each}")
    for each in done.deleted:
        say(f"Deleted: {each}")


@click.command("prune", epilog="Example: … prune -a --filter until=24h")
@click.option("-a", "--all", "everything", is_flag=True, help="Also images with names.")
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@click.option("--filter", "filters", multiple=True, metavar="NAME=VALUE", help="Only such.")
@click.option("--builds", is_flag=True, help="Also what builds keep to be quicker next time.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
def prune(
    *, everything: bool, force: bool, filters: tuple[str, ...], builds: bool, as_json: bool
) -> None:
    """Remove images that no container uses: those without a name, or all."""
    store = engine().images
    fits = matcher(store, filters)
    which = "all images that no container uses" if everything else "all images without a name"
    if not force and not as_json:
        click.confirm(f"This removes {which}. Go on?", abort=True)
    done = removing.prune(store, everything, fits)
    if builds:
        # buildah is rarely needed
        from shipway.runtime.images.build import Builder
        from shipway.runtime.images.registries import Access

        Builder(engine().config, store, Access.of(store)).forget()
    if as_json:
        print_json(
            {"Untagged": done.untagged, "Deleted": done.deleted, "SpaceReclaimed": done.freed}
        )
        return
    show_removed(done)
    say(f"Total reclaimed space: {human(done.freed)}")


COMMANDS = (images, history, tag, rmi, prune)
