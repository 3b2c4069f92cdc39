"""The process types of an image that no buildpack made: its Procfile's, else what its CMD and ENTRYPOINT say."""

import json
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path

from shipway.buildpacks.errors import BuildFailed
from shipway.buildpacks.procfile import procfile
from shipway.runtime.images.store import ImageConfig

NOTHING = "the image has neither CMD nor ENTRYPOINT: add one, or a Procfile with a line for web"


def declared(source: Path) -> dict[str, str]:
    """What the Procfile in the app's folder declares; {} without one. Raises BuildFailed."""
    if not os.path.lexists(source / "Procfile"):
        return {}
    try:
        return procfile.parse(read(source, "Procfile", procfile.LARGEST + 1))
    except procfile.InvalidProcfile as error:
        raise BuildFailed(str(error)) from None


def of(config: ImageConfig) -> dict[str, str]:
    """What the image itself runs, as a JSON list of words, which no shell reads; {} for nothing."""
    words = (*config.entrypoint, *config.cmd)
    return {"web": json.dumps(words, ensure_ascii=False)} if words else {}


def say(
    processes: Mapping[str, str], output: Callable[[str], None], *, from_procfile: bool
) -> None:
    """Tell what was found."""
    output("-----> Discovering process types")
    if from_procfile:
        output(f"       Procfile declares types -> {', '.join(processes)}")
    else:
        output("       The image's own command is the type -> web")


def read(source: Path, name: str, most: int) -> bytes:
    """A file in a folder that nothing writes to meanwhile, at most so many bytes of it.

    A link is followed within the folder only. Raises BuildFailed.
    """
    top = os.path.realpath(source)
    target = os.path.realpath(os.path.join(top, name))
    try:
        if not target.startswith(top + "/"):
            raise BuildFailed(f"{name} is a link out of the app, expected a plain file")
        with open(os.open(target, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise BuildFailed(f"{name} is no plain file, expected one")
            return file.read(most)
    except FileNotFoundError:
        raise BuildFailed(f"there is no file {name} in the app") from None
    except OSError as error:
        raise BuildFailed(f"{name} cannot be read: {error.strerror}") from None
