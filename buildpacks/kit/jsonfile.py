"""JSON files that people write, with errors that name the line and what was expected there."""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from shipway.buildpacks.kit.errors import CannotBuild

KINDS: Mapping[type, str] = {
    dict: "an object",
    list: "a list",
    str: "a string",
    bool: "true or false",
    int: "a number",
    float: "a number",
    type(None): "null",
}
_PLAIN = {
    "Expecting value": "a value is missing or is not JSON",
    "Expecting property name enclosed in double quotes": "a name in double quotes is missing",
    "Illegal trailing comma before end of object": "there is a comma after the last name",
    "Illegal trailing comma before end of array": "there is a comma after the last value",
    "Expecting ',' delimiter": "a comma or the closing bracket is missing",
    "Expecting ':' delimiter": "a colon is missing",
    "Extra data": "there is more after the closing brace",
    "Unterminated string starting at": "a string has no closing quote",
    "Invalid control character at": "a string goes over the end of its line",
}
Pairs = Callable[[list[tuple[str, Any]]], dict[str, Any]]


def parse(name: str, text: str, pairs: Pairs | None = None) -> dict[str, Any]:
    """The object in `text`, the content of the file `name`. Raises CannotBuild."""
    try:
        document = json.loads(text, object_pairs_hook=pairs)
    except json.JSONDecodeError as error:
        reason = _PLAIN.get(error.msg, error.msg[:1].lower() + error.msg[1:])
        raise CannotBuild(
            f"{name} line {error.lineno}, column {error.colno}: {reason}.",
            "Expected JSON: names and strings in double quotes, no comments, no comma after the last.",
        ) from None
    except RecursionError:
        raise CannotBuild(f"{name} is nested too deeply to be read.") from None
    if not isinstance(document, dict):
        raise CannotBuild(
            f"{name} line 1: has {KINDS[type(document)]} at its top, expected an object in braces."
        )
    return document


def wrong(
    name: str, text: str, key: str, value: Any, expected: str, shown: str = ""
) -> CannotBuild:
    """The error for a key whose value is of another kind."""
    return CannotBuild(
        f"{name} line {line(text, key)}: {shown or key} is {KINDS[type(value)]},"
        f" expected {expected}."
    )


def line(text: str, key: str, *, last: bool = False) -> int:
    """The line on which a key stands, as well as can be told without positions from the parser."""
    places = [match.start() for match in re.finditer(re.escape(json.dumps(key)) + r"\s*:", text)]
    return text.count("\n", 0, places[-1 if last else 0]) + 1 if places else 1
