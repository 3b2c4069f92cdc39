"""Detect and build, inside the build container: `main` is what the container runs.

It runs as the app's unprivileged user beside code that nobody has checked. So it decides
nothing about the host: what it writes to RESULT_PATH is read there with suspicion.
"""

import json
import os
import sys
import time
from typing import Any

from shipway.buildpacks.kit import say
from shipway.buildpacks.lifecycle import building
from shipway.buildpacks.lifecycle.detect import Selected, detect
from shipway.buildpacks.lifecycle.errors import BUILD_OTHER, NONE_DETECTED, LifecycleError
from shipway.buildpacks.lifecycle.request import (
    APP_DIR,
    HOME,
    REQUEST_PATH,
    RESULT_PATH,
    Request,
)

KILLED = 137  # 128 + SIGKILL
MEMORY_COUNTERS = ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control")
PROCFILE_BUILDPACK = "shipway/procfile"


def main() -> int:
    """Run the request. Returns the platform API's exit code."""
    with open(REQUEST_PATH, encoding="utf-8") as file:
        request = Request.from_json(file.read())
    os.chdir(APP_DIR)
    os.umask(0o022)
    os.makedirs(HOME, exist_ok=True)
    os.makedirs(os.path.dirname(RESULT_PATH), exist_ok=True)
    result: dict[str, Any] = {"seconds": {}}
    code = 0
    try:
        _run(request, _scratch(), result)
    except LifecycleError as error:
        if _ran_out_of_memory():
            return KILLED  # the host knows the limit, and says it
        for line in error.lines():
            say.error(line)
        code = error.code
    with open(RESULT_PATH, "w", encoding="utf-8") as file:
        json.dump(result, file)
    return code


def _ran_out_of_memory() -> bool:
    """Whether the kernel killed some process of the build, whoever's child, for the memory limit."""
    for path in MEMORY_COUNTERS:
        try:
            with open(path) as file:
                lines = [line.split() for line in file]
        except OSError:
            continue
        return any(words[0] == "oom_kill" and words[1] != "0" for words in lines if words[1:])
    return False


def _scratch() -> str:
    """A folder for plans; it ends with the container."""
    path = "/tmp/lifecycle"
    os.mkdir(path, 0o700)
    return path


def _run(request: Request, scratch: str, result: dict[str, Any]) -> None:
    start = time.monotonic()
    if request.selected is None:
        selected = detect(request, scratch)
        _announce(selected)
        _require_procfile(selected)
    else:
        selected = Selected.from_json(request.selected, request)
    detected = time.monotonic()
    result["seconds"]["detect"] = detected - start
    if any(one.is_extension for one in selected.group):
        from shipway.buildpacks.lifecycle.generating import generate  # few builds need it

        result["group"] = [one.id for one in selected.group]
        result["selected"] = generate(request, selected, scratch).to_json()
        return
    built = building.build(request, selected, scratch)
    result["seconds"]["build"] = time.monotonic() - detected
    result.update(_result(selected, built))


def _announce(selected: Selected) -> None:
    languages = [buildpack.language for buildpack in selected.group if buildpack.language]
    if languages:
        say.step(f"{', '.join(languages)} app detected")
    for buildpack in selected.group:
        if not buildpack.id.startswith("shipway/"):
            say.detail(f"Buildpack {buildpack.id} {buildpack.version}")


def _require_procfile(selected: Selected) -> None:
    """Say it before minutes are spent on dependencies."""
    if any(buildpack.id == PROCFILE_BUILDPACK for buildpack in selected.group):
        return
    for buildpack in selected.group:
        if buildpack.procfile:
            raise LifecycleError(
                f"this {buildpack.language} app has no Procfile, so nothing says how to start it",
                NONE_DETECTED,
                (
                    *_near_misses(),
                    "Add a file named Procfile to the top folder, with a line such as",
                    f"    {buildpack.procfile}",
                    "commit it and push again.",
                ),
            )


def _near_misses() -> list[str]:
    return [
        f"There is a file {name!r}; the name must be exactly Procfile."
        for name in os.listdir(APP_DIR)
        if name != "Procfile" and name.casefold() in ("procfile", "procfile.txt")
    ]


def _result(selected: Selected, built: building.Built) -> dict[str, Any]:
    return {
        "group": [buildpack.id for buildpack in selected.group],
        "layers": [
            {
                "buildpack": layer.buildpack,
                "name": layer.name,
                **layer.flags._asdict(),
                "data": layer.data,
                "has_folder": layer.has_folder,
            }
            for layer in built.layers
        ],
        "processes": [{**process._asdict(), "buildpack": id_} for id_, process in built.processes],
        "labels": dict(built.labels),
        "slices": built.slices,
        "default": built.default,
        "stores": dict(built.stores),
    }


def run() -> None:
    """What the container runs."""
    try:
        code = main()
    except OSError as error:  # a buildpack took away what the lifecycle works with
        say.error(f"The build cannot go on: {error}.")
        code = BUILD_OTHER
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # A fault of ours; a person who pushed is not helped by where in our code it is.
        say.error(f"Shipway's lifecycle failed ({type(error).__name__}: {error}); report this.")
        code = BUILD_OTHER
    sys.exit(code)
