"""What ends a build of ours."""


class CannotBuild(Exception):
    """The lines to show: what is wrong first, then what to do about it."""

    def __init__(self, *lines: str) -> None:
        super().__init__(lines[0])
        self.lines = lines
