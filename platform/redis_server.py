"""`shipway redis`: the private redis-server on a unix socket in the data folder.

It keeps nothing on disk: what it carries are signals and hints, and all of it can be made again from SQL.
"""

import os
from typing import NoReturn

from shipway.platform.settings import Settings

MAX_MEMORY = "64mb"


def argv(settings: Settings) -> list[str]:
    """The command line of the private server."""
    return [
        "redis-server",
        *("--port", "0"),
        *("--unixsocket", f"{settings.run}/redis.sock", "--unixsocketperm", "600"),
        *("--dir", str(settings.run)),
        *("--save", "", "--appendonly", "no"),
        *("--maxmemory", MAX_MEMORY, "--maxmemory-policy", "noeviction"),
        *("--loglevel", "warning", "--always-show-logo", "no"),
    ]


def main(settings: Settings) -> NoReturn:
    """Become the server."""
    settings.run.mkdir(parents=True, exist_ok=True)
    command = argv(settings)
    os.execvp(command[0], command)  # noqa: S606
