"""The command line's side of the API: requests, streams that survive a broken connection, and where to log in.

Only the standard library, imported as late as can be: a command shall start in a blink.
"""

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urlsplit

from shipway.platform.errors import BadSettings, InvalidInput, ShipwayError, Unauthenticated

if TYPE_CHECKING:
    from http.client import HTTPConnection, HTTPResponse

PREFIX = "/api/v1"
CONNECT_TIMEOUT = 10.0
CALL_TIMEOUT = 60.0
UPLOAD_TIMEOUT = 600.0  # an archive is taken in before it is answered
UPLOAD_CHUNK = 256 << 10
STREAM_TIMEOUT = 45.0  # three times the server's beat
RECONNECT_FOR = 120.0  # seconds a stream is looked for again after its connection broke
BACKOFF = (0.05, 0.1, 0.2, 0.5, 1.0)


class Refused(ShipwayError):
    """The API said no; `kind` names the error, `http` is the status."""

    def __init__(self, message: str, kind: str, http: int) -> None:
        super().__init__(message)
        self.kind = kind
        self.http = http


class Unreachable(ShipwayError):
    """Nobody answers at the address, or not as Shipway would."""

    exit_code = 69  # EX_UNAVAILABLE


@dataclass(frozen=True)
class Event:
    """Something a stream said: `name` is lines, state or end."""

    name: str
    data: Any


class Client:
    """One server, one token."""

    def __init__(self, url: str, token: str = "") -> None:
        self.url = url.rstrip("/")
        self.token = token
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InvalidInput(
                f"{url!r} is no address of Shipway, such as https://shipway.example.com."
            )
        self._parts = parts

    def get(self, path: str, **query: Any) -> Any:
        """What an address answers. Raises Refused, Unreachable."""
        return self.call("GET", path, None, query)

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Send `body`; the answer. Raises Refused, Unreachable."""
        return self.call("POST", path, body or {})

    def patch(self, path: str, body: Mapping[str, Any]) -> Any:
        """Change something; the answer. Raises Refused, Unreachable."""
        return self.call("PATCH", path, body)

    def delete(self, path: str, **query: Any) -> Any:
        """Remove something; the answer. Raises Refused, Unreachable."""
        return self.call("DELETE", path, None, query)

    def upload(self, path: str, stream: IO[bytes]) -> Any:
        """Send a stream as it comes; the answer. Raises Refused, Unreachable."""
        from http.client import HTTPException

        connection = self._connect()
        headers = {
            "Authorization": f"Bearer {self.token}",
            "Content-Type": "application/octet-stream",
            "Transfer-Encoding": "chunked",
            "Connection": "close",
        }
        pieces = iter(lambda: stream.read(UPLOAD_CHUNK), b"")
        try:
            connection.connect()
            assert connection.sock is not None
            connection.sock.settimeout(UPLOAD_TIMEOUT)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # refused already
                connection.request(
                    "POST", self._parts.path + PREFIX + path, pieces, headers, encode_chunked=True
                )
            with connection.getresponse() as response:
                return self._checked(response, response.read())
        except (OSError, HTTPException) as error:
            raise self._unreachable(error) from None

    def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        query: Mapping[str, Any] | None = None,
    ) -> Any:
        """One request."""
        from http.client import HTTPException

        try:
            with self._request(method, path, body, query, {}, CALL_TIMEOUT) as response:
                return self._checked(response, response.read())
        except (OSError, HTTPException) as error:
            raise self._unreachable(error) from None

    def stream(self, path: str, *, endless: bool = False, **query: Any) -> Iterator[Event]:
        """A stream's events, the last one named `end`; connects again where the connection breaks.

        With `endless` there is no `end`; without, and without `end`, a stream that is whole just stops.
        """
        from http.client import HTTPException

        cursor, broken, attempt = "", time.monotonic(), 0
        while True:
            headers = {"Accept": "text/event-stream"} | (
                {"Last-Event-ID": cursor} if cursor else {}
            )
            try:
                with self._request("GET", path, None, query, headers, STREAM_TIMEOUT) as response:
                    if response.status != 200:
                        self._checked(response, response.read())
                    for ident, event in _events(response):
                        cursor, attempt, broken = ident or cursor, 0, time.monotonic()
                        if event is not None:
                            yield event
                            if event.name == "end":
                                return
                    if not (endless or "follow" in query or "ids" in query):
                        return
            except Refused as error:
                if error.http != 503 or time.monotonic() - broken > RECONNECT_FOR:
                    raise
            except (OSError, HTTPException) as error:
                if time.monotonic() - broken > RECONNECT_FOR:
                    raise self._unreachable(error) from None
            time.sleep(BACKOFF[min(attempt, len(BACKOFF) - 1)])
            attempt += 1

    def _request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        query: Mapping[str, Any] | None,
        headers: Mapping[str, str],
        timeout: float,
    ) -> "HTTPResponse":
        connection = self._connect()
        target = self._parts.path + PREFIX + path
        chosen = {
            key: value for key, value in (query or {}).items() if value not in (None, "", False)
        }
        if chosen:
            target += "?" + urlencode(chosen)
        sent = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        data = None if body is None else json.dumps(body).encode()
        if data is not None:
            sent["Content-Type"] = "application/json"
        connection.request(method, target, data, {**sent, **headers, "Connection": "close"})
        assert connection.sock is not None
        connection.sock.settimeout(timeout)
        return connection.getresponse()

    def _connect(self) -> "HTTPConnection":
        from http.client import HTTPConnection, HTTPSConnection

        kind = HTTPSConnection if self._parts.scheme == "https" else HTTPConnection
        assert self._parts.hostname is not None
        return kind(self._parts.hostname, self._parts.port, timeout=CONNECT_TIMEOUT)

    def _checked(self, response: "HTTPResponse", raw: bytes) -> Any:
        try:
            found = json.loads(raw)
        except ValueError:
            raise Unreachable(
                f"{self.url} answered {response.status}, but not as Shipway does: is the address right?"
            ) from None
        if response.status < 400:
            return found
        error = found.get("error") if isinstance(found, dict) else None
        if not isinstance(error, dict):
            raise Refused(
                str(error or f"The server answered {response.status}."), "", response.status
            )
        raise Refused(error["message"], error["kind"], response.status)

    def _unreachable(self, error: Exception) -> Unreachable:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return Unreachable(f"Shipway does not answer at {self.url} ({why}): is it up? `shipway up`")


def _events(response: "HTTPResponse") -> Iterator[tuple[str, Event | None]]:
    """Server-sent events, each with its id; beats come as None."""
    name, ident, data = "", "", ""
    while raw := response.readline():
        line = raw.decode().rstrip("\r\n")
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            yield ident, Event(name, json.loads(data)) if data else None
            name, ident, data = "", "", ""
        elif field == "event":
            name = value
        elif field == "id":
            ident = value
        elif field == "data":
            data += value


def segment(text: str | int) -> str:
    """A part of an address, whatever characters are in it."""
    return quote(str(text), safe="")


# -- where to, and as whom ----------------------------------------------------------------------


class Credentials:
    """Logins kept in ~/.config/shipway/credentials.json (0600): {"default": url, "servers": {url: {user, token, made}}}."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> dict[str, Any]:
        """What is kept. Raises BadSettings if the file is damaged."""
        try:
            found = json.loads(self._path.read_text())
            return {"default": found.get("default", ""), "servers": dict(found["servers"])}
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return {"default": "", "servers": {}}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise BadSettings(f"{self._path} is damaged: remove it and log in again.") from None

    def find(self, url: str = "") -> Client | None:
        """A client for the server, the one logged into last without `url`."""
        kept = self.read()
        chosen = url.rstrip("/") or kept["default"]
        login = kept["servers"].get(chosen)
        return Client(chosen, login["token"]) if login else None

    def made_token(self, url: str) -> bool:
        """Whether the login made its token, rather than being given one."""
        return bool(self.read()["servers"].get(url, {}).get("made"))

    def keep(self, client: Client, user: str, *, made: bool) -> None:
        """Remember a login, and make it the default."""
        kept = self.read()
        kept["servers"][client.url] = {"user": user, "token": client.token, "made": made}
        self._write({**kept, "default": client.url})

    def forget(self, url: str) -> None:
        """Remove a login."""
        kept = self.read()
        kept["servers"].pop(url, None)
        if kept["default"] == url:
            kept["default"] = next(iter(kept["servers"]), "")
        self._write(kept)

    def _write(self, kept: Mapping[str, Any]) -> None:
        from shipway.platform.files import atomic_write

        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            atomic_write(self._path, json.dumps(kept, indent=2) + "\n", 0o600)
        except OSError as error:
            raise BadSettings(f"{self._path} cannot be written: {error.strerror}.") from None


def local_client() -> Client | None:
    """The platform on this machine, for who may read its token: root needs no login. None where there is none."""
    if os.geteuid() != 0:
        return None
    from shipway.platform.settings import load

    settings = load()
    try:
        token = (settings.secrets / "local-token").read_text().strip()
    except OSError:
        return None
    host = "127.0.0.1" if settings.listen in ("0.0.0.0", "::") else settings.listen
    return Client(f"http://{host}:{settings.web_port}", token)


def nobody() -> Unauthenticated:
    """What to say to who is logged in nowhere."""
    return Unauthenticated(
        "You are not logged in: `shipway login URL`. (On the platform's own machine root needs no"
        " login, once `shipway up` has run.)"
    )
