"""The errors of buildpacks and stacks. Each message is one sentence that a person can act upon."""


class BuildpackError(Exception):
    """Base of every error this folder raises on purpose."""


class StackFailed(BuildpackError):
    """A stack could not be made; what was there before is untouched."""


class InvalidBuildpack(BuildpackError):
    """A buildpack.toml that cannot be used."""


class BuildFailed(BuildpackError):
    """The build came to no image; nothing of it is left. The log lines have told the details."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class BuildCancelled(BuildFailed):
    """The caller asked for the end of the build."""


class BuildTimedOut(BuildFailed):
    """The build took longer than it may."""
