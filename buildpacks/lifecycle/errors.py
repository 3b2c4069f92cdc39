"""What ends a build inside the container. Codes are the platform API's exit codes."""

NONE_DETECTED = 20
DETECT_ERROR = 21
DETECT_OTHER = 22
BUILDPACK_FAILED = 51
BUILD_OTHER = 52
EXTENSION_FAILED = 91


class LifecycleError(Exception):
    """The build cannot go on.

    `reason` is one sentence, empty when the buildpack has said it itself; `advice` are further
    lines for the person who pushed; `code` is the exit code.
    """

    def __init__(self, reason: str, code: int, advice: tuple[str, ...] = ()) -> None:
        super().__init__(reason)
        self.reason = reason
        self.code = code
        self.advice = advice

    def lines(self) -> tuple[str, ...]:
        """What to show."""
        if not self.reason:
            return self.advice
        return (f"{self.reason[0].upper()}{self.reason[1:]}.", *self.advice)


class InvalidOutput(LifecycleError):
    """A buildpack wrote a file that the specification does not allow."""

    def __init__(self, what: str) -> None:
        super().__init__(what, BUILD_OTHER)
