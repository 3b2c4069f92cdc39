"""What to say when a registry cannot be reached: which host, and which setting names a mirror."""

import re
from collections.abc import Sequence

# How the tools of several languages say that a host did not answer.
_SIGNS = re.compile(
    r"could not resolve|couldn't resolve|name or service not known|temporary failure in name"
    r"|no such host|unknownhost|unknown host|enotfound|eai_again|econnrefused|econnreset|etimedout"
    r"|connection refused|connection reset|connection timed out|connect timed out|i/o timeout"
    r"|network is unreachable|no route to host|dns error|failed to lookup address|error sending"
    r" request|getaddrinfo|failed to open tcp connection|ssl connect error|ehostunreach|enetunreach"
    r"|transfer failed|connect error|failed to connect|could not connect|unable to connect|timed out",
    re.IGNORECASE,
)
_HOST = re.compile(r"https?://(?:[^/\s@\"'`]*@)?([A-Za-z0-9.-]+(?::\d+)?)")
_NAMED = re.compile(
    r"(?:host:?|lookup|resolve|ENOTFOUND|EAI_AGAIN|connect to|tcp)[ '\"(]+"
    r"([A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+(?::\d+)?)",
    re.IGNORECASE,
)


def unreachable(output: str) -> str | None:
    """The host that `output`, a failed tool's, says it could not reach; None if that was not it."""
    lines = output.splitlines()
    for number, line in enumerate(lines):
        if not _SIGNS.search(line):
            continue
        for near in (line, *reversed(lines[max(0, number - 4) : number]), *lines[number + 1 :][:4]):
            found = _HOST.search(near) or _NAMED.search(near)
            if found:
                return found.group(1)
        return "a host that it does not name"
    return None


def advice(output: str, settings: Sequence[str]) -> tuple[str, ...]:
    """Lines for a failed tool's error, empty unless the reason is a host that did not answer.

    `settings` are the build settings that name a mirror, the usual one first.
    """
    host = unreachable(output)
    if host is None:
        return ()
    names = " or ".join(settings)
    return (
        f"{host} could not be reached from the build.",
        f"Where there is a mirror of it, the setting {names} names it: the operator",
        f'writes build_env = {{ {settings[0]} = "https://…" }} into the settings of the platform.',
    )
