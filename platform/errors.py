"""The errors the platform shows to people: one sentence each, what was wrong and what would be right."""


class ShipwayError(Exception):
    """A refusal or failure that is safe to show as it stands.

    `status` is the HTTP status the API answers with, `exit_code` what the CLI ends with.
    """

    status = 400
    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidName(ShipwayError):
    """A name of an app, process type, host name or key that breaks the rules."""


class InvalidInput(ShipwayError):
    """Any other value that cannot be taken."""


class BadSettings(ShipwayError):
    """A setting that is unknown or malformed; the message names it."""

    exit_code = 78  # EX_CONFIG of sysexits.h


class NotFound(ShipwayError):
    """The thing named does not exist, or this user may not know that it does."""

    status = 404


class Unauthenticated(ShipwayError):
    """No valid key, token or session."""

    status = 401


class Forbidden(ShipwayError):
    """Known, but without the right to do this."""

    status = 403


class Conflict(ShipwayError):
    """It exists already, or something else is under way."""

    status = 409


class IllegalMove(ShipwayError):
    """A state machine was asked for a move that it does not have."""

    status = 409

    def __init__(self, thing: str, origin: str, target: str) -> None:
        super().__init__(f"{thing} cannot go from {origin} to {target}.")
        self.origin = origin
        self.target = target


class LeaseLost(ShipwayError):
    """Somebody else holds a newer fence for this work: stop, and change nothing more."""

    status = 409


class Unavailable(ShipwayError):
    """A part the request needs is down for now; trying again later is right."""

    status = 503
