"""The errors of buildpacks and stacks. Each message is one sentence that a person can act upon."""


class BuildpackError(Exception):
    """Base of every error this folder raises on purpose."""


class StackFailed(BuildpackError):
    """A stack could not be made; what was there before is untouched."""


class InvalidBuildpack(BuildpackError):
    """A buildpack.toml, or a wish for a buildpack, that cannot be used.

    `code` is the platform specification's exit code: 12 for a version of the API.
    """

    def __init__(self, reason: str, code: int = 1) -> None:
        super().__init__(reason)
        self.code = code


class BuildFailed(BuildpackError):
    """The build came to no image; nothing of it is left. The log lines have told the details.

    `code` is the platform specification's exit code for where it failed; 1 is for none of them.
    """

    def __init__(self, reason: str, code: int = 1) -> None:
        super().__init__(reason)
        self.reason = reason
        self.code = code


class RebaseFailed(BuildpackError):
    """An image cannot be put onto that run image; nothing was written."""

    code = 72


class BuildCancelled(BuildFailed):
    """The caller asked for the end of the build."""


class BuildTimedOut(BuildFailed):
    """The build took longer than it may."""
