"""How a bin/build runs: `sys.exit(run(build))`."""

from collections.abc import Callable

from shipway.buildpacks.kit import context, say
from shipway.buildpacks.kit.errors import CannotBuild


def run(build: Callable[[context.Context], None]) -> int:
    """Run `build`; gives the exit code. What it cannot build is said, without a traceback."""
    try:
        build(context.read())
    except CannotBuild as error:
        for line in error.lines:
            say.error(line)
        return 1
    return 0
