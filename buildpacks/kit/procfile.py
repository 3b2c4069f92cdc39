"""The Procfile, as other buildpacks need to know of it."""

import os
from typing import Any

from shipway.buildpacks.kit import toml
from shipway.buildpacks.kit.context import Context
from shipway.buildpacks.kit.errors import CannotBuild

NAME = "Procfile"


def there() -> bool:
    """Whether the app has one; a link to nothing counts, for the Procfile's own buildpack refuses it."""
    return os.path.lexists(NAME)


def missing(language: str, example: str, *hints: str) -> CannotBuild:
    """Say that nothing says how to start the app, before minutes are spent on dependencies."""
    near = [
        f"There is a file {name!r}; the name must be exactly {NAME}."
        for name in sorted(os.listdir("."))
        if name != NAME and name.casefold() in ("procfile", "procfile.txt")
    ]
    return CannotBuild(
        f"This {language} app has no {NAME}, so nothing says how to start it.",
        *near,
        *hints,
        f"Add a file named {NAME} to the top folder, with a line such as",
        f"    {example}",
        "commit it and push again.",
    )


def declare(context: Context, command: str, type_: str = "web") -> None:
    """Declare a process that a shell starts, where there is no Procfile to do it."""
    process: dict[str, Any] = {"type": type_, "command": ["bash", "-c", command]}
    process["default"] = type_ == "web"
    toml.write(os.path.join(context.layers, "launch.toml"), {"processes": [process]})
