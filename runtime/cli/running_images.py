"""--pull of run and create: an image that is not here is fetched first, as with Docker."""

from collections.abc import Callable
from typing import Any

import click

from shipway.runtime.engine import Engine
from shipway.runtime.errors import NoSuchImage
from shipway.runtime.images.store import Image

WHEN = ("missing", "always", "never")


def options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the group's options to a command."""
    return click.option(
        "--pull",
        type=click.Choice(WHEN),
        default="missing",
        help="When to fetch the image from its registry.",
    )(command)


def apply(values: dict[str, Any], fields: dict[str, Any]) -> None:
    """Nothing of it is part of the specification."""


def obtain(found: Engine, name: str, when: str) -> Image:
    """The image, from the store or from its registry. Raises NoSuchImage, RegistryFailed."""
    try:
        if when != "always":
            return found.images.get(name)
    except NoSuchImage:
        if when == "never":
            raise
    from shipway.runtime.images.registries import Access, pull  # rarely used

    click.echo(f"Unable to find image '{name}' locally" if when == "missing" else "", err=True)
    access = Access.of(found.images)
    return pull(found.images, name, access, lambda line: click.echo(line, err=True)).image
