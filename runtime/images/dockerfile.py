"""What of a Dockerfile must be known before it is built: the images that it begins from."""

import re
from collections.abc import Iterator, Mapping

_DIRECTIVE = re.compile(r"#\s*escape\s*=\s*([\\`])\s*$", re.IGNORECASE)
_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)(?:(:[-+])([^}]*))?\})")
_FROM = re.compile(r"FROM\s+(?:--\S+\s+)*(\S+)(?:\s+AS\s+(\S+))?\s*$", re.IGNORECASE)
_ARG = re.compile(r"ARG\s+(\w+)(?:=(.*))?$", re.IGNORECASE)
_OTHERS = re.compile(r"(?:COPY|RUN)\s.*?(?:--from=|--mount=\S*?from=)([^\s,]+)", re.IGNORECASE)


def bases(text: str, arguments: Mapping[str, str]) -> list[str]:
    """The names of all images that the Dockerfile takes from elsewhere, in its order."""
    found: list[str] = []
    stages: set[str] = set()
    known: dict[str, str] = {}
    for line in _instructions(text):
        if match := _ARG.match(line):
            if not stages:  # later ones are of a stage, and no FROM sees them
                known[match[1]] = arguments.get(match[1], (match[2] or "").strip().strip("\"'"))
            continue
        if match := _FROM.match(line):
            names, alias = [_expand(match[1], known)], match[2] or ""
            stages |= {str(len(stages)), alias.lower()} - {""}
        else:
            names, alias = _OTHERS.findall(line), ""
        for name in names:
            if name.lower() not in stages - {alias.lower()} and name != "scratch":
                found.append(name)
    return list(dict.fromkeys(found))


def _instructions(text: str) -> Iterator[str]:
    """The instructions, each on one line, without comments."""
    escape = "\\"
    held = ""
    for number, raw in enumerate(text.splitlines()):
        line = raw.strip()
        if number == 0 and (match := _DIRECTIVE.match(line)):
            escape = match[1]
        if not line or line.startswith("#"):
            continue
        if line.endswith(escape):
            held += line[:-1] + " "
            continue
        yield (held + line).strip()
        held = ""
    if held:
        yield held.strip()


def _expand(text: str, known: Mapping[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        found = known.get(match[1] or match[2], "")
        if match[3] == ":-":
            return found or match[4]
        if match[3] == ":+":
            return match[4] if found else ""
        return found

    return _VARIABLE.sub(value, text)
