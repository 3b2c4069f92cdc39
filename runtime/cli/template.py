"""--format: the part of Go's templates that people use with Docker, over plain data.

`{{.State.Pid}}`, `{{json .Config}}`, `{{index .Labels "a.b"}}`, `{{.Label "a.b"}}`, `{{upper .Name}}`.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import click

from shipway.runtime.cli.common import print_json, say, table
from shipway.runtime.errors import InvalidSpec

_ACTION = re.compile(r"\{\{-?\s*(.*?)\s*-?\}\}", re.DOTALL)
_PATH = re.compile(r"\.|(\.\w+)+")
_CALL = re.compile(r"""(\w+)\s+(\.[\w.]*)(?:\s+"([^"]*)")?|\.Label\s+"([^"]*)\"""")
_ESCAPES = {"\\t": "\t", "\\n": "\n"}
_SIMPLE = {"json", "upper", "lower", "len"}


def render(template: str, data: Any) -> str:
    """The template with its actions replaced. Raises InvalidSpec for one that cannot be."""
    for written, meant in _ESCAPES.items():
        template = template.replace(written, meant)
    text = _ACTION.sub(lambda found: _value(found[1], data), template)
    if "{{" in text and "{{" in _ACTION.sub("", template):
        raise InvalidSpec(f"the format {template!r} has a {{{{ without }}}}")
    return text


def fields_of(template: str) -> list[str]:
    """The headings of a table by that template: CamelCase names as upper-case words."""
    found = []
    for action in _ACTION.findall(template):
        call = _CALL.fullmatch(action)
        name = (call[3] or call[4] or call[2]) if call else action
        found.append(re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name.rpartition(".")[2]).upper())
    return found


def show(
    rows: Sequence[Mapping[str, Any]], template: str | None, columns: Mapping[str, str]
) -> None:
    """Rows as Docker shows them: a table of `columns` (heading: field), by a template, or as JSON.

    The template "json" gives one JSON object a line; one that begins with "table" has headings.
    """
    if template is None:
        table(list(columns), [[row[field] for field in columns.values()] for row in rows])
    elif template == "json":
        for row in rows:
            click.echo(json.dumps(dict(row)))
    elif template.startswith("table "):
        body = template.removeprefix("table ").replace("\\t", "\t")
        cells = [render(body, row).split("\t") for row in rows]
        table(fields_of(body), cells)
    else:
        for row in rows:
            say(render(template, row))


def show_json(rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows for scripts, as one JSON list."""
    print_json([dict(row) for row in rows])


def _value(action: str, data: Any) -> str:
    if _PATH.fullmatch(action):
        return go(_walk(data, action))
    call = _CALL.fullmatch(action)
    if call is None:
        raise InvalidSpec(f"the format cannot do {{{{{action}}}}}; see --help for what it can")
    if call[4] is not None:
        return go(dict(_walk(data, ".LabelMap")).get(call[4], ""))
    name, path, key = call[1], call[2], call[3]
    value = _walk(data, path)
    if name == "index" and key is not None:
        return go(value.get(key, "") if isinstance(value, Mapping) else "")
    if name not in _SIMPLE or key is not None:
        raise InvalidSpec(f"the format knows no {name!r}; it knows index, json, len, lower, upper")
    if name == "json":
        return json.dumps(value)
    if name == "len":
        return str(len(value))
    return go(value).upper() if name == "upper" else go(value).lower()


def _walk(data: Any, path: str) -> Any:
    for part in filter(None, path.split(".")):
        if not isinstance(data, Mapping) or part not in data:
            raise InvalidSpec(f"the format's {path} is not there: nothing is named {part!r}")
        data = data[part]
    return data


def go(value: Any) -> str:
    """A value as Go prints it."""
    if value is None:
        return "<no value>"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return f"map[{' '.join(f'{name}:{go(each)}' for name, each in sorted(value.items()))}]"
    if isinstance(value, list | tuple):
        return f"[{' '.join(map(go, value))}]"
    return str(value)
