"""An app's log: who writes what where. Reading and following it is `logreader.py`'s.

One folder per app. Each writer has a file of its own, so that nothing is copied and nobody waits for anybody:

    <process>.<instance id>.log   an instance's output, written by its monitor in the CRI form (`time stream P|F text`)
    router.log                    its requests, written by the router's controller
    platform.log                  what the platform did with it, written by whichever process did it

Lines of the latter two: `2026-11-23T23:37:09.123456+00:00 shipway[web.1]: State changed from starting to up`.
"""

import os
from datetime import UTC, datetime
from pathlib import Path

from shipway.platform.settings import Settings

MAX_TEXT = 10_000  # bytes of one line; the field's limit


def folder(settings: Settings, app: str) -> Path:
    """The folder of an app's log files, made if it is missing."""
    path = settings.logs / app
    path.mkdir(parents=True, exist_ok=True)
    return path


def instance_file(settings: Settings, app: str, process: str, instance_id: int) -> Path:
    """Where the monitor of an instance writes: `process` is its name, web.1."""
    return folder(settings, app) / f"{process}.{instance_id}.log"


def append(settings: Settings, app: str, source: str, text: str) -> None:
    """Add a line of the platform's to an app's log; `source` is like `app[api]` or `shipway[web.1]`.

    One write to a file opened for appending, so lines of several processes never mix.
    """
    stamp = datetime.now(UTC).isoformat(timespec="microseconds")
    clean = " ".join(text.splitlines())
    line = f"{stamp} {source}: {clean}".encode()[:MAX_TEXT] + b"\n"
    path = folder(settings, app) / "platform.log"
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.write(fd, line)
    finally:
        os.close(fd)


def append_release(settings: Settings, app: str, version: int, user: str) -> None:
    """Say who made a release, in the words that the field knows."""
    append(settings, app, "app[api]", f"Release v{version} created by user {user}")
