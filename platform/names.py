"""What a valid name is. Checked at every edge: API, CLI, git paths, hooks."""

import re

from shipway.platform.errors import InvalidInput, InvalidName

APP = re.compile(r"[a-z][a-z0-9-]{0,29}", re.ASCII)
PROCESS_TYPE = re.compile(r"[A-Za-z0-9_-]{1,63}", re.ASCII)
CONFIG_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}", re.ASCII)
USER = re.compile(r"[a-z0-9][a-z0-9._@+-]{0,62}", re.ASCII)

MAX_CONFIG_VALUE = 32 * 1024  # bytes: an environment must fit into execve's limits
MAX_QUANTITY = 100


def app_name(name: str) -> str:
    """Return `name` if an app may be called so, else raise InvalidName."""
    if not APP.fullmatch(name) or name.endswith("-"):
        raise InvalidName(
            f"{name!r} is no valid app name: use 1 to 30 lower-case letters, digits and"
            " dashes, beginning with a letter and not ending with a dash."
        )
    return name


def process_type(name: str) -> str:
    """Return `name` if a process type may be called so, else raise InvalidName."""
    if not PROCESS_TYPE.fullmatch(name):
        raise InvalidName(
            f"{name!r} is no valid process type: use 1 to 63 letters, digits, dashes and underscores."
        )
    return name


def user_name(name: str) -> str:
    """Return `name` if a user may be called so, else raise InvalidName."""
    if not USER.fullmatch(name):
        raise InvalidName(
            f"{name!r} is no valid user name: use 1 to 63 lower-case letters, digits and . _ @ + -."
        )
    return name


def config_var(key: str, value: str) -> tuple[str, str]:
    """Return the pair if it can stand in a process's environment, else raise InvalidInput."""
    if not CONFIG_KEY.fullmatch(key):
        raise InvalidInput(
            f"{key!r} is no valid config var name: use letters, digits and underscores,"
            " not beginning with a digit."
        )
    if key in ("PORT", "DYNO"):
        raise InvalidInput(f"{key} is set by Shipway for every instance; choose another name.")
    if "\0" in value:
        raise InvalidInput(f"The value of {key} holds a NUL byte, which no environment can carry.")
    if len(value.encode()) > MAX_CONFIG_VALUE:
        raise InvalidInput(f"The value of {key} is longer than {MAX_CONFIG_VALUE // 1024} KiB.")
    return key, value


def quantity(value: int) -> int:
    """Return `value` if a process type may run so many instances, else raise InvalidInput."""
    if not 0 <= value <= MAX_QUANTITY:
        raise InvalidInput(f"{value} instances cannot be asked for: use 0 to {MAX_QUANTITY}.")
    return value
