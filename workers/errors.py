"""The errors of long work. Each message is one sentence that a person can act upon."""


class WorkFailed(Exception):
    """A build or deploy ends here; the message is its reason, shown to whoever asked for it."""


class DeployFailed(WorkFailed):
    """A release's instances did not all come up.

    `lines` are the last ones that the instance at fault wrote, with `name` before them.
    """

    def __init__(self, message: str, name: str = "", lines: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.name = name
        self.lines = lines


class SourceUnreadable(WorkFailed):
    """git could not hand out the commit, or it holds what no build may unpack."""


class DiskExceeded(WorkFailed):
    """A build wrote more than it may."""


class Interrupted(Exception):
    """The work has to stop now, for a reason that is none of its own."""


class Stopping(Interrupted):
    """The process is ending: the work is given back for another to go on with."""


class EndWanted(Interrupted):
    """Somebody asked for the end of this deploy, or a newer one has taken its place."""


class CancelRequested(Interrupted):
    """Somebody asked for the end of this build."""
