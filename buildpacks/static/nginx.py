"""nginx's configuration for one site, written at build time so that nothing is worked out later."""

import mimetypes
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from shipway.buildpacks.static.rules import Header, Redirect

PORT = "@PORT@"
FOREVER = "public, max-age=31536000, immutable"
ASK_AGAIN = "public, max-age=0, must-revalidate"
NOT_SERVED = (
    *("/_headers", "/_redirects", "/static.json", "/app.json", "/project.toml", "/Procfile"),
    *("/Aptfile", "/package.json", "/package-lock.json", "/Dockerfile"),
)
COMPRESSED = (
    *("text/css", "text/plain", "text/xml", "text/javascript", "text/markdown", "text/calendar"),
    *("application/javascript", "application/json", "application/xml", "application/rss+xml"),
    *("application/atom+xml", "application/manifest+json", "application/wasm", "image/svg+xml"),
    *("font/ttf", "font/otf", "application/geo+json", "application/ld+json"),
)
# What Python does not know, or knows under an older name.
TYPES = {
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".map": "application/json",
    ".md": "text/markdown",
    ".webmanifest": "application/manifest+json",
    ".woff2": "font/woff2",
    ".woff": "font/woff",
    ".ttf": "font/ttf",
    ".otf": "font/otf",
    ".avif": "image/avif",
    ".webp": "image/webp",
    ".wasm": "application/wasm",
    ".ico": "image/x-icon",
    ".xml": "application/xml",
    ".geojson": "application/geo+json",
}
# A build tool's digest in a file's name: hexadecimal anywhere, any letters in a folder of assets.
_HEX = re.compile(r"[.-](?=[0-9a-f]*\d)(?=[0-9a-f]*[a-f])[0-9a-f]{8,64}\.")
_MIXED = re.compile(r"[.-](?=[\w-]*\d)(?=[\w-]*[A-Za-z])[\w-]{8,32}\.[a-z0-9.]+$")
_ASSETS = re.compile(r"/(assets|static|_astro|_next/static|_app/immutable|_nuxt|chunks)/")


class Site(NamedTuple):
    """What is served: `root` is a folder, `tags` a digest of each file by its path from there."""

    root: str
    tags: Mapping[str, str]
    redirects: Sequence[Redirect]
    headers: Sequence[Header]
    spa: bool
    error_page: str


def config(site: Site) -> str:
    """The whole configuration; PORT stands where the port goes."""
    lines = [
        "daemon off;",
        "worker_processes 1;",
        "pid /tmp/nginx.pid;",
        "error_log stderr error;",
        "events { worker_connections 1024; }",
        "http {",
        *_common(site),
        *_maps(site),
        "server {",
        f"  listen {PORT};",
        f"  listen [::]:{PORT};",
        f"  root {_quoted(site.root)};",
        *_server(site),
        "}",
        "}",
    ]
    return "\n".join(lines) + "\n"


def _common(site: Site) -> list[str]:
    paths = [f"  {name}_temp_path /tmp/nginx-{name};" for name in ("client_body", "proxy")]
    paths += [f"  {name}_temp_path /tmp/nginx-{name};" for name in ("fastcgi", "uwsgi", "scgi")]
    return [
        "  access_log off;",  # the router logs requests
        "  server_tokens off;",
        "  sendfile on;",
        "  tcp_nopush on;",
        "  keepalive_timeout 75s;",
        "  client_max_body_size 1k;",
        "  absolute_redirect off;",
        "  etag off;",  # made of a file's time, and all files of a layer have the same
        "  if_modified_since off;",
        "  gzip on;",
        "  gzip_comp_level 5;",
        "  gzip_min_length 512;",
        "  gzip_proxied any;",
        "  gzip_vary on;",
        f"  gzip_types {' '.join(COMPRESSED)};",
        "  default_type application/octet-stream;",
        "  charset utf-8;",
        "  charset_types text/css text/plain text/javascript text/xml application/json;",
        *paths,
        *_types(site.tags),
        '  geo $dollar { default "$"; }',
        f"  map_hash_max_size {max(2048, 4 * len(site.tags))};",
        "  map_hash_bucket_size 512;",
        "  variables_hash_max_size 4096;",
    ]


def _types(names: Iterable[str]) -> list[str]:
    suffixes = {os.path.splitext(name)[1].lower() for name in names} | {".html"}
    known = {suffix: TYPES.get(suffix) or mimetypes.types_map.get(suffix) for suffix in suffixes}
    by_type: dict[str, list[str]] = {}
    for suffix, kind in sorted(known.items()):
        if kind and re.fullmatch(r"\.[a-z0-9]+", suffix):
            by_type.setdefault(kind, []).append(suffix[1:])
    return [
        "  types {",
        *(f"    {kind} {' '.join(ends)};" for kind, ends in by_type.items()),
        "  }",
    ]


def _maps(site: Site) -> list[str]:
    # `volatile`: a rewritten request has the tag of the file that it ends at.
    lines = ["  map $uri $tag {", "    volatile;", '    default "";']
    for name, digest in sorted(_paths(site.tags).items()):
        lines.append(f"    {_key(name)} {digest};")
    lines += [
        "  }",
        "  map $tag $etag {",
        "    volatile;",
        '    default "";',
        "    ~. 'W/\"$tag\"';",
        "  }",
    ]
    # A cached copy is still good when its tag is among those that were sent.
    lines += ['  map "$tag $http_if_none_match" $same {', "    default 0;"]
    lines += ['    "~^(?<own>[0-9a-f]+) .*\\"\\k<own>\\"" 1;', "  }"]
    lines += ["  map $uri $folder {", "    default 0;"]
    lines += [f"    {_key(name)} 1;" for name in sorted(_folders(site.tags))]
    lines += ["  }", "  map $uri $kept {", "    volatile;", f'    default "{ASK_AGAIN}";']
    lines += [
        f'    {_key("/" + name)} "{FOREVER}";' for name in sorted(site.tags) if immutable(name)
    ]
    lines.append("  }")
    caching = []
    for index, header in enumerate(site.headers):
        lines += [f"  map $asked $header{index} {{", '    default "";']
        lines += [f"    {_regex(header.pattern)} {_quoted(header.value)};", "  }"]
        if header.name.lower() == "cache-control":
            caching.append(f"$header{index}")
    lines += [
        f'  map "{"".join(caching)}" $cache {{',
        "    volatile;",
        '    default "";',
        '    "" $kept;',
        "  }",
    ]
    return lines


def _paths(tags: Mapping[str, str]) -> dict[str, str]:
    """Digests by request path: `/docs/` and `/about` are files too."""
    found = {}
    for name, digest in tags.items():
        path = f"/{name}"
        found[path] = digest
        if path.endswith("/index.html"):
            found[path.removesuffix("index.html")] = digest
        elif path.endswith(".html"):
            found.setdefault(path.removesuffix(".html"), digest)
    return found


def _folders(tags: Mapping[str, str]) -> set[str]:
    """Paths of folders with a page, without the slash that relative links in the page need."""
    found = {
        f"/{name.removesuffix('/index.html')}" for name in tags if name.endswith("/index.html")
    }
    return {path for path in found if f"{path[1:]}.html" not in tags and path[1:] not in tags}


def _server(site: Site) -> list[str]:
    forced = [rule for rule in site.redirects if rule.forced]
    others = [rule for rule in site.redirects if not rule.forced]
    lines = [
        "  set $asked $uri;",  # rules of _headers are for what was asked for
        '  add_header Last-Modified "";',  # the one time that all files have
        "  add_header ETag $etag;",
        "  add_header Cache-Control $cache;",
        '  add_header X-Content-Type-Options "nosniff" always;',
        *(
            f"  add_header {_quoted(header.name)} $header{index} always;"
            for index, header in enumerate(site.headers)
        ),
        "  if ($same) { return 304; }",
        "  location ~ /\\.(?!well-known/) { return 404; }",
        *(f"  location = {path} {{ return 404; }}" for path in NOT_SERVED),
        "  error_page 403 404 " + (f"/{site.error_page};" if site.error_page else "@missing;"),
        "  error_page 405 =405 @refused;",
        "  location @missing { default_type text/plain; return 404 'Not found\\n'; }",
        "  location @refused { default_type text/plain; return 405 'Not allowed\\n'; }",
    ]
    for rule in forced:
        lines += _rule(rule)
    lines += ["  if ($folder) { return 301 $uri/$is_args$args; }"]
    lines += ["  location ~ /$ { try_files ${uri}index.html @rules; }"]
    lines += ["  location / { try_files $uri $uri.html @rules; }"]
    lines += ["  location @rules {"]
    for rule in others:
        lines += [f"  {line}" for line in _rule(rule)]
    if site.spa:
        lines += ["    rewrite ^ /index.html break;"]
    else:
        lines += ["    return 404;"]
    return [*lines, "  }"]


def _rule(rule: Redirect) -> list[str]:
    """One `if` for a rule; those with parameters look for each by a chain of its own."""
    target = _target(rule)
    if rule.status == 200:
        act = f"rewrite ^ {target} {'last' if rule.forced else 'break'};"
    elif rule.status in (404, 410):
        act = f"return {rule.status};"
    else:
        act = f"return {rule.status} {target};"
    if not rule.query:
        return [f"  if ($uri ~ {_quoted(rule.pattern)}) {{ {act} }}"]
    subject = "$uri" + "".join(f"|$arg_{name}" for name, _ in rule.query)
    tail = "".join(rf"\|(?<p_{value}>[^|]+)" for _, value in rule.query)
    expression = rule.pattern.removesuffix("$") + tail + "$"
    return [
        f'  set $subject "{subject}";',
        f"  if ($subject ~ {_quoted(expression)}) {{ {act} }}",
    ]


def _target(rule: Redirect) -> str:
    """The target with its placeholders as nginx's variables; the query goes along if it has none."""
    names = set(re.findall(r"\(\?<p_(\w+)>", rule.pattern)) | {value for _, value in rule.query}
    parts = re.split(r":([A-Za-z_][A-Za-z0-9_]*)", rule.target)
    out = ""
    for index, part in enumerate(parts):
        if index % 2:
            out += f"${{p_{part}}}" if part in names else f":{part}"
        else:
            out += _escaped(part)
    more = "" if "?" in rule.target or rule.status == 200 or rule.query else "$is_args$args"
    return f'"{out}{more}"'


def immutable(name: str) -> bool:
    """Whether a file's name holds a digest of its content, as build tools write it."""
    path = f"/{name}"
    if path.endswith(".html"):
        return False
    return bool(_HEX.search(path) or (_ASSETS.search(path) and _MIXED.search(path)))


def _key(text: str) -> str:
    """A map's key that is meant as it stands: a leading `~` or `*` would be more, a `$` too."""
    return f'"{_plain(text)}"' if text.startswith("/") else f'"\\\\{_plain(text)}"'


def _plain(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _regex(pattern: str) -> str:
    return f'"~{_plain(pattern)}"'


def _escaped(text: str) -> str:
    return _plain(text).replace("$", "${dollar}")


def _quoted(text: str) -> str:
    """A string in which nothing is a variable; regular expressions have no `$` but at their end."""
    if text.startswith("^"):
        return f'"{_plain(text)}"'
    return f'"{_escaped(text)}"'
