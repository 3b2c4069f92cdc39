"""Points in time as Docker takes them on a command line."""

import re
import time
from datetime import datetime

from shipway.runtime.errors import InvalidSpec

DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?")
UNIX = re.compile(r"(\d{1,11})(?:\.(\d{1,9}))?")
FRACTION = re.compile(r"\.(\d{1,9})")


def moment(text: str) -> int:
    """Nanoseconds since the epoch of 10m (ago), an RFC 3339 time or date, or unix seconds.

    Exact to the nanosecond, so that a time stamp of a log can be given back. Raises InvalidSpec.
    """
    if match := UNIX.fullmatch(text):
        return int(match[1]) * 10**9 + _fraction(match[2])
    match = DURATION.fullmatch(text)
    if match and text:
        hours, minutes, seconds = (float(part or 0) for part in match.groups())
        return time.time_ns() - int((hours * 3600 + minutes * 60 + seconds) * 1e9)
    try:
        found = datetime.fromisoformat(FRACTION.sub("", text, count=1))
        fraction = FRACTION.search(text)
        return int(found.timestamp()) * 10**9 + _fraction(fraction[1] if fraction else None)
    except (ValueError, OverflowError):
        raise InvalidSpec(
            f"{text!r} is no time; write 10m, 1h30m, 2026-11-24T10:00:00Z, or unix seconds"
        ) from None


def _fraction(digits: str | None) -> int:
    return int((digits or "0").ljust(9, "0"))
