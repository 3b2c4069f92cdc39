"""The errors of buildpacks and stacks. Each message is one sentence that a person can act upon."""


class BuildpackError(Exception):
    """Base of every error this folder raises on purpose."""


class StackFailed(BuildpackError):
    """A stack could not be made; what was there before is untouched."""
