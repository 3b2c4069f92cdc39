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

from shipway.platform.router.haproxy_options import NETWORKS, OPTIONS, PAGES, PERIOD, encoded
from shipway.platform.router.haproxy_slots import (
    APPS,
    H2,
    HOSTS,
    IDLE_ADDRESS,
    IDLE_PORT,
    SERVERS,
    Backend,
    Slot,
    Table,
)

BASE = "00-base.cfg"
RATES = "rates"  # the backend whose table counts the requests of each client of an app
COOKIE = "shipway-instance"
TAB = r"\t"
LEAVING = "control/leaving"  # a server made ready to say that this process closes connections after a response
DEPTH = 8  # labels that a name may have below the rest of a wildcard
PROXIES = 5  # trusted ones that a request may have come through
SHARD = 64  # backends in one file: a change rewrites few kilobytes, whatever the number of apps
TITLES = {
    "unknown": ("No such app", "No app on this server answers at this host name."),
    "error": ("Application error", "The app could not answer this request. Its log says why."),
    "H10": ("Application error", "The app has crashed. Its log says why."),
    "H14": ("Not running", "The app has no running web process."),
    "H80": ("Maintenance", "The app is being worked on. Please try again in a while."),
    "H81": ("Nothing here yet", "The app exists, but nothing has been deployed to it."),
    "forbidden": ("Forbidden", "The app may not be asked from your network address."),
    "login": ("Login needed", "The app asks for a user name and a password."),
    "rate": ("Too many requests", "There have been too many requests from your address."),
}
# What an app without a server, and a host without an app, are answered by.
BACKENDS = {"unknown": 404, "H10": 503, "H14": 503, "H80": 503, "H81": 503}
OWN = {"error": "error", "H10": "error", "H14": "error", "H80": "maintenance"}  # may be the app's
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
    trusted: tuple[str, ...] = ()  # networks of proxies whose X-Forwarded-* are believed
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
    codes = "".join(
        f"\nbackend {name} from common\n  http-request return status {status} {_page(name)}\n"
        for name, status in BACKENDS.items()
    )
    errors = "\n".join(
        f"  http-error status {status} {_page('error')}" for status in (502, 503, 504)
    )
    forwarded = _forwarded(config)
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
{forwarded}  http-request del-header x_ -m beg
  http-request del-header forwarded
  http-request del-header proxy
  http-request del-header http2-settings
  http-request set-header X-Request-ID %[unique-id]
  http-request set-header X-Request-Start t=%[date(0,ms)]
  http-after-response set-header connection close if {{ srv_is_up({LEAVING}) }}
  http-after-response allow unless {{ res.hdr(shipway-page) -m found }}
  http-after-response del-header shipway-page
  http-after-response set-header content-type application/json if {{ var(txn.format) -m found }}
  http-after-response set-status 503 if {{ status 502 504 }}
{_options()}
  use_backend %[var(txn.app),map({APPS},H14)] if {{ var(txn.app) -m found }}
  default_backend unknown
{codes}
backend {LEAVING.partition("/")[0]} from common
  server {LEAVING.partition("/")[2]} {IDLE_ADDRESS}:{IDLE_PORT} disabled

backend {RATES} from common
  stick-table type string len 110 size 100k expire 60s store http_req_rate({PERIOD}s)

defaults slots from common
  http-request set-timeout server {_ms(config.stream_timeout)} if {{ req.hdr(accept) -m beg text/event-stream }}
  http-request allow unless {{ var(txn.options) -m found }}
  http-request set-timeout server {_option(4)} if {{ {_option(4)} -m int gt 0 }}
  http-request set-timeout tunnel {_option(5)} if {{ {_option(5)} -m int gt 0 }}
"""


def _forwarded(config: Config) -> str:
    """X-Forwarded-*: ours, whatever a client claims; only from trusted proxies are they taken over.

    The client is then the last address that is no trusted proxy's: each step back is made only from one of those.
    """
    untrusted = f"""\
  http-request del-header x-forwarded- -m beg
  http-request set-header X-Forwarded-For %[src]
  http-request set-header X-Forwarded-Proto http
  http-request set-header X-Forwarded-Port {config.port}
"""
    if not config.trusted:
        return untrusted
    trusted = f"{{ src {' '.join(config.trusted)} }}"
    told = "{ var(txn.trusted) -m found }"
    steps = "\n".join(
        f"  http-request set-src req.hdr_ip(x-forwarded-for,-{back}) if {trusted}"
        for back in range(1, PROXIES + 1)
    )
    lines = [f"{line} unless {told}" for line in untrusted.splitlines()]
    return f"""\
  http-request set-var(txn.trusted) bool(true) if {trusted}
  http-request set-var(txn.peer) src
{steps}
  http-request set-var(txn.proto) str(https) if {told} {{ req.hdr(x-forwarded-proto) -m str -i https }}
{chr(10).join(lines)}
  http-request set-header X-Forwarded-For "%[req.fhdr(x-forwarded-for)], %[var(txn.peer)]" if {told} {{ req.fhdr(x-forwarded-for) -m found }}
  http-request set-header X-Forwarded-For %[var(txn.peer)] if {told} !{{ req.fhdr(x-forwarded-for) -m found }}
  http-request set-header X-Forwarded-Proto http if {told} !{{ var(txn.proto) -m found }}
  http-request set-header X-Forwarded-Proto https if {told} {{ var(txn.proto) -m found }}
  http-request set-header X-Forwarded-Port 443 if {told} {{ var(txn.proto) -m found }} !{{ req.hdr(x-forwarded-port) -m int 1:65535 }}
  http-request set-header X-Forwarded-Port {config.port} if {told} !{{ req.hdr(x-forwarded-port) -m int 1:65535 }}
"""


def _page(name: str) -> str:
    """The end of a rule that answers with a page: the app's own where it has one, JSON for programs."""
    own = f",concat(,txn.{OWN[name]})" if name in OWN else ""
    body = f"%[str({name}.),concat(,txn.format){own},map({PAGES}),b64dec]"
    return f'content-type "text/html; charset=utf-8" hdr shipway-page 1 lf-string "{body}"'


def _option(number: int) -> str:
    """A field of an app's word in `options.map`."""
    return f"var(txn.options),field({number},:)"


def _options() -> str:
    """The rules for apps that have options; all others are done before them, after one look into a map.

    A client's address is looked up as hexadecimal digits and their number: see haproxy_options.beginnings.
    """

    def on(number: int) -> str:
        return f"{{ {_option(number)} -m int gt 0 }}"

    html = "!{ var(txn.format) -m found }"
    return f"""
  http-request set-var(txn.options) var(txn.app),map({OPTIONS}) if {{ var(txn.app) -m found }}
  http-request allow unless {{ var(txn.options) -m found }}
  http-request set-var(txn.error) str(@),concat(,txn.app) if {on(8)} {html}
  http-request set-var(txn.maintenance) str(@),concat(,txn.app) if {on(9)} {html}
  http-request set-var(txn.client) src,hex
  http-request set-var(txn.digits) var(txn.client),length
  http-request set-var(txn.allowed) var(txn.app),concat(/,txn.digits,/),concat(,txn.client),map_beg({NETWORKS}) if {on(6)}
  http-request return status 403 {_page("forbidden")} if {on(6)} !{{ var(txn.allowed) -m found }}
  http-request track-sc0 var(txn.app),concat(/,txn.client) table {RATES} if {on(2)}
  http-request set-var(txn.limit) {_option(2)} if {on(2)}
  http-request return status 429 {_page("rate")} hdr retry-after {PERIOD} if {on(2)} {{ sc0_http_req_rate,sub(txn.limit) gt 0 }}
  http-request redirect code 308 location https://%[var(txn.host)]%[pathq] if {on(1)} !{{ var(txn.proto) -m str https }}
  http-request set-var(txn.token) req.fhdr(authorization),word(2,\\ ) if {on(7)} {{ req.fhdr(authorization) -m beg -i "basic " }}
  http-request set-var(txn.login) var(txn.app),concat(:,txn.token),sha2(256),hex if {{ var(txn.token) -m found }}
  http-request return status 401 {_page("login")} hdr www-authenticate 'Basic realm="%[var(txn.app)]", charset="UTF-8"' if {on(7)} !{{ var(txn.app),concat(/,txn.login),map({OPTIONS}) -m found }}
  http-request set-var(txn.sticky) req.cook({COOKIE}) if {on(3)}
  http-request set-var(txn.sticky) str(-) if {on(3)} !{{ var(txn.sticky) -m found }}
  http-response add-header set-cookie "{COOKIE}=%[srv_name]; Path=/; HttpOnly; SameSite=Lax" if {{ var(txn.sticky) -m found }} !{{ srv_name,strcmp(txn.sticky) eq 0 }}
"""


def _heading() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"# Written by Shipway at each change, in boot {boot}.\n"


def pages() -> dict[str, str]:
    """Our own pages, by name and format, as `pages.map` has them; looked up when they are sent."""
    found = {}
    for name, (title, text) in TITLES.items():
        found[f"{name}."] = encoded(PAGE.format(title=title, text=text))
        found[f"{name}.json"] = encoded(json.dumps({"id": _identifier(title), "message": text}))
    return found


def _identifier(title: str) -> str:
    return title.lower().replace(" ", "_")


def _ms(seconds: float) -> str:
    return f"{round(seconds * 1000)}ms"


def _slot(slot: Slot, more: str) -> str:
    server = slot.server
    address, port = (server.address, server.port) if server else (IDLE_ADDRESS, IDLE_PORT)
    return f"  server {slot.name} {address}:{port}{more}{'' if slot.ready else ' disabled'}\n"


def _backend(backend: Backend) -> str:
    sticky = f"  use-server %[req.cook({COOKIE})] if {{ var(txn.sticky) -m found }}\n"
    more = " proto h2" if backend.kind[1] else ""
    slots = "".join(_slot(slot, more) for slot in backend.slots)
    return f"backend {backend.name} from slots\n" + sticky + slots


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
        replace(self._config.folder / BASE, base(self._config))

    def write(self, table: Table, *, labels: bool = False) -> None:
        """Write what has changed; the slots' labels, which no request depends on, only when asked to."""
        names = list(table.backends)
        changed = table.changed - table.maps().keys()
        for shard in sorted({(int(name[1:].removesuffix(H2)) - 1) // SHARD for name in changed}):
            part = names[shard * SHARD : (shard + 1) * SHARD]
            text = "\n".join(_backend(table.backends[name]) for name in part)
            replace(self._config.folder / f"10-slots-{shard:04}.cfg", text)
        for name, entries in table.maps().items():
            if name in table.changed and (labels or name != SERVERS):
                every = {**pages(), **entries} if name == PAGES else entries
                text = "\n".join(map(" ".join, every.items()))  # fast: there may be many thousands
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
