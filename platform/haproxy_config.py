"""HAProxy's files: the frontend's rules, the slots, the maps and the pages it answers with itself.

All are derived from the wanted routes and written again at each change, before HAProxy is told of it. They are
replaced in one step but not fsynced: after a power cut they are made anew.
"""

import json
import os
import resource
import secrets
from dataclasses import dataclass
from pathlib import Path

from shipway.platform.haproxy_slots import (
    APPS,
    HOSTS,
    IDLE_ADDRESS,
    IDLE_PORT,
    SERVERS,
    Backend,
    Slot,
    Table,
)

BASE = "00-base.cfg"
PAGES = "pages.map"
TAB = r"\t"
LEAVING = "control/leaving"  # a server made ready to say that this process closes connections after a response
DEPTH = 8  # labels that a name may have below the rest of a wildcard
SHARD = 64  # backends in one file: a change rewrites few kilobytes, whatever the number of apps
TITLES = {
    "unknown": ("No such app", "No app on this server answers at this host name."),
    "error": ("Application error", "The app could not answer this request. Its log says why."),
    "H10": ("Application error", "The app has crashed. Its log says why."),
    "H14": ("Not running", "The app has no running web process."),
    "H81": ("Nothing here yet", "The app exists, but nothing has been deployed to it."),
}
PAGE = (
    "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
    "<title>{title}</title><style>body{{font:18px/1.5 system-ui,sans-serif;max-width:32em;margin:20vh auto;"
    "padding:0 1em;color:#1c2833;background:#fdfefe}}h1{{font-size:1.6em}}</style><h1>{title}</h1><p>{text}</p>"
)


@dataclass(frozen=True)
class Config:
    """How HAProxy shall run. Times are seconds; `run` is for sockets and files, its path at most 80 bytes."""

    run: Path
    log: Path  # raw log lines; a file, so that they outlive whoever reads them
    address: str = "127.0.0.1"
    port: int = 8080
    threads: int = 1
    connections: int = 8000  # at most; fewer where the limit of open files is low
    connect_timeout: float = 5.0
    response_timeout: float = 30.0  # to the first byte, and between two
    stream_timeout: float = 55.0  # the same for server-sent events
    client_timeout: float = 55.0
    tunnel_timeout: float = 3600.0  # without a byte either way, once upgraded to WebSocket
    binary: str = "haproxy"

    @property
    def folder(self) -> Path:
        """What HAProxy reads as its configuration."""
        return self.run / "conf"

    @property
    def max_connections(self) -> int:
        """Each takes two descriptors; HAProxy refuses to start where it may not have so many."""
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        return max(100, min(self.connections, (hard - 200) // 2))


# One line a request, read by routerlog.Request. Names come from our own maps; what clients say, HAProxy encodes.
LOG_FIELDS = (
    "%[date(0,us)]",
    "%[var(txn.app)]",
    "%b",
    f"%[srv_name,map({SERVERS},-)]",
    "%HM",
    "%ST",
    "%B",
    "%TR",
    "%Tw",
    "%Tc",
    "%Ta",
    "%ts",
    "%ci",
    "%[var(txn.host)]",
    "%ID",
    "%HPO",
    "%HQ",
)


def base(config: Config) -> str:
    """Everything but the slots. The rules answer 400 to what different parsers would read differently.

    Requests are sent again only when no connection came about: `retry-on empty-response` would have HAProxy copy each
    request, which costs as much as all else it does. Without `httpclient.ssl.verify none` (a client that is not used)
    it reads all the system's certificates at each start.
    """
    page = f"%[str({{}}),concat(.,txn.format),map({PAGES})]"
    codes = "".join(
        f"\nbackend {name} from common\n  http-request return status {404 if name == 'unknown' else 503}"
        f' content-type "text/html; charset=utf-8" hdr shipway-page 1 lf-string "{page.format(name)}"\n'
        for name in TITLES
        if name != "error"
    )
    errors = "\n".join(
        f'  http-error status {status} content-type "text/html; charset=utf-8"'
        f' hdr shipway-page 1 lf-string "{page.format("error")}"'
        for status in (502, 503, 504)
    )
    wildcards = "\n".join(
        f"  http-request set-var(txn.rest) var(txn.host),field({first},.,0) unless {{ var(txn.app) -m found }}\n"
        f"  http-request set-var(txn.app) str(*.),concat(,txn.rest),map({HOSTS}) unless {{ var(txn.app) -m found }}"
        for first in range(2, DEPTH + 2)
    )
    return f"""{_heading()}global
  nbthread {config.threads}
  httpclient.ssl.verify none
  maxconn {config.max_connections}
  stats socket "${{HAPROXY_SOCKET}}" mode 600 level admin
  log stdout len 8192 format raw daemon
  tune.http.logurilen 2048
  tune.pattern.cache-size 0

defaults common
  mode http
  timeout connect {_ms(config.connect_timeout)}
  timeout client {_ms(config.client_timeout)}
  timeout server {_ms(config.response_timeout)}
  timeout tunnel {_ms(config.tunnel_timeout)}
  timeout client-fin 30s
  timeout server-fin 30s
  timeout http-request 10s
  timeout http-keep-alive 15s
  retries 2
  option redispatch 1
  default-server pool-purge-delay 1s
  option idle-close-on-response
  option disable-h2-upgrade
  balance leastconn
{errors}

frontend router from common
  bind "fd@${{HAPROXY_LISTEN}}"
  log global
  log-format "{TAB.join(LOG_FIELDS)}"
  unique-id-format "%[uuid()]"
  http-request deny deny_status 400 unless {{ req.fhdr_cnt(host) eq 1 }}
  http-request deny deny_status 400 if {{ req.fhdr(host) -m beg * }}
  http-request set-var(txn.host) req.fhdr(host),lower
  http-request set-var(txn.app) var(txn.host),map({HOSTS})
  # Only what is no app's name as it stands needs a closer look.
  http-request deny deny_status 400 unless {{ var(txn.app) -m found }} or {{ var(txn.host) -m reg ^[a-z0-9._-]{{1,253}}(:[0-9]{{1,5}})?$ }}
  http-request set-var(txn.host) var(txn.host),host_only,rtrim(.) unless {{ var(txn.app) -m found }}
  http-request set-var(txn.app) var(txn.host),map({HOSTS}) unless {{ var(txn.app) -m found }}
  # The most specific wildcard: the name less its first label, less its first two, and so on.
{wildcards}
  http-request set-log-level silent unless {{ var(txn.app) -m found }}
  http-request set-var(txn.format) str(json) if {{ req.hdr(accept) -m sub application/json }}
  http-request deny deny_status 400 if {{ req.hdrs -m reg [\\\\x00] }}
  http-request deny deny_status 400 if {{ req.fhdr(upgrade) -m sub -i h2c }}
  http-request del-header x-forwarded- -m beg
  http-request del-header x_ -m beg
  http-request del-header forwarded
  http-request del-header proxy
  http-request del-header http2-settings
  http-request set-header X-Request-ID %[unique-id]
  http-request set-header X-Request-Start t=%[date(0,ms)]
  http-request add-header X-Forwarded-For %[src]
  http-request add-header X-Forwarded-Proto http
  http-request add-header X-Forwarded-Port {config.port}
  http-after-response set-header connection close if {{ srv_is_up({LEAVING}) }}
  http-after-response allow unless {{ res.hdr(shipway-page) -m found }}
  http-after-response del-header shipway-page
  http-after-response set-header content-type application/json if {{ var(txn.format) -m found }}
  http-after-response set-status 503 if {{ status 502 504 }}
  use_backend %[var(txn.app),map({APPS},H14)] if {{ var(txn.app) -m found }}
  default_backend unknown
{codes}
backend {LEAVING.partition("/")[0]} from common
  server {LEAVING.partition("/")[2]} {IDLE_ADDRESS}:{IDLE_PORT} disabled

defaults slots from common
  http-request set-timeout server {_ms(config.stream_timeout)} if {{ req.hdr(accept) -m beg text/event-stream }}
"""


def _heading() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"# Written by Shipway at each change, in boot {boot}.\n"


def pages() -> str:
    """The bodies of the pages, by name and format; a map since its values are looked up when they are sent."""
    lines = []
    for name, (title, text) in TITLES.items():
        lines.append(f"{name}. {PAGE.format(title=title, text=text)}")
        lines.append(f"{name}.json {json.dumps({'id': _identifier(title), 'message': text})}")
    return "\n".join(lines) + "\n"


def _identifier(title: str) -> str:
    return title.lower().replace(" ", "_")


def _ms(seconds: float) -> str:
    return f"{round(seconds * 1000)}ms"


def _slot(slot: Slot) -> str:
    server = slot.server
    address, port = (server.address, server.port) if server else (IDLE_ADDRESS, IDLE_PORT)
    return f"  server {slot.name} {address}:{port}{'' if slot.ready else ' disabled'}\n"


def _backend(backend: Backend) -> str:
    return f"backend {backend.name} from slots\n" + "".join(map(_slot, backend.slots))


class Files:
    """The files on disk, kept as a table says."""

    def __init__(self, config: Config) -> None:
        self._config = config

    @property
    def complete(self) -> bool:
        """Whether there is a configuration of this boot to start from."""
        text = read(self._config.folder / BASE)
        return text is not None and text.startswith(_heading())

    @property
    def outdated(self) -> bool:
        """Whether what does not depend on routes should be otherwise: the settings or Shipway have changed."""
        return read(self._config.folder / BASE) != base(self._config)

    def write_all(self, table: Table) -> None:
        """Write all anew, and nothing else stays. The base goes first and comes last: without it the rest is void."""
        self._config.folder.mkdir(parents=True, exist_ok=True)
        for old in sorted(self._config.folder.iterdir()):
            old.unlink()
        table.changed.update(table.backends, table.maps())
        self.write(table, labels=True)
        replace(self._config.run / PAGES, pages())
        replace(self._config.folder / BASE, base(self._config))

    def write(self, table: Table, *, labels: bool = False) -> None:
        """Write what has changed; the slots' labels, which no request depends on, only when asked to."""
        names = list(table.backends)
        changed = table.changed - table.maps().keys()
        for shard in sorted({(int(name[1:]) - 1) // SHARD for name in changed}):
            part = names[shard * SHARD : (shard + 1) * SHARD]
            text = "\n".join(_backend(table.backends[name]) for name in part)
            replace(self._config.folder / f"10-slots-{shard:04}.cfg", text)
        for name, entries in table.maps().items():
            if name in table.changed and (labels or name != SERVERS):
                text = "\n".join(
                    map(" ".join, entries.items())
                )  # fast: there may be many thousands
                replace(self._config.run / name, text and text + "\n")
        table.changed.intersection_update(() if labels else (SERVERS,))


def read(path: Path) -> str | None:
    """The text of a file, None if there is none."""
    try:
        return path.read_text()
    except FileNotFoundError:
        return None


def replace(path: Path, text: str) -> None:
    """Put `text` in the place of `path` in one step."""
    temp = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w") as file:
        file.write(text)
    os.replace(temp, path)
