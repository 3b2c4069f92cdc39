"""Find the site's folder, and serve it with Debian's nginx."""

import hashlib
import os
from typing import Any

from shipway.buildpacks.kit import files, jsonfile, procfile, say
from shipway.buildpacks.kit.context import Context
from shipway.buildpacks.kit.errors import CannotBuild
from shipway.buildpacks.kit.layer import Layer
from shipway.buildpacks.static import nginx, rules

FOLDERS = ("dist", "build", "out", "public", "_site", "www", ".")
SETTINGS = "static.json"
# What of nginx a site of files needs not: its own modules' packages, its service, its pages.
LEFT_OUT = ("nginx-common", "iproute2", "libnginx-mod-*")
# nginx reads no environment, so the port is written into a copy of its configuration.
START = """#!/bin/sh
# Serves the site on $PORT.
case ${PORT:=5000} in *[!0-9]*) echo "PORT is '$PORT', expected a number" >&2; exit 1 ;; esac
umask 077
sed "s/@PORT@/$PORT/" "${0%/bin/*}/nginx.conf" > /tmp/nginx.conf
exec "${0%/site/bin/*}/nginx/usr/sbin/nginx" -e stderr -p /tmp -c /tmp/nginx.conf
"""


def build(context: Context) -> None:
    """Raises CannotBuild."""
    settings = _settings()
    root = _root(context, settings)
    site = _site(root, settings)
    _server(context)
    layer = Layer(context, "site")
    layer.empty()
    path = os.path.join(layer.path, "bin", "serve-site")
    os.makedirs(os.path.dirname(path))
    for name, text in ((path, START), (os.path.join(layer.path, "nginx.conf"), nginx.config(site))):
        with open(name, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
    os.chmod(path, 0o755)  # noqa: S103  # a program
    layer.keep(None, launch=True)
    if not procfile.there():
        procfile.declare(context, "serve-site")


def _server(context: Context) -> None:
    from shipway.buildpacks.kit import debian

    layer = Layer(context, "nginx")
    made_from = debian.fingerprint(["nginx"], True)
    if layer.made_from(made_from):
        say.step("Using the nginx of the previous build")
    else:
        say.step(f"Fetching nginx of {context.stack}")
        debian.provide(context, layer, ["nginx"], launch=True, without=LEFT_OUT)
    layer.keep(made_from, launch=True, cache=True)


def _settings() -> dict[str, Any]:
    """Heroku's static.json, of which root, clean_urls, routes, error_page and headers are known."""
    if not files.there(SETTINGS):
        return {}
    text = files.text(SETTINGS, 1 << 20)
    document = jsonfile.parse(SETTINGS, text)
    kinds = {"root": str, "error_page": str, "routes": dict, "headers": dict, "redirects": dict}
    for key, kind in kinds.items():
        if key in document and not isinstance(document[key], kind):
            raise jsonfile.wrong(SETTINGS, text, key, document[key], jsonfile.KINDS[kind])
    return document


def _root(context: Context, settings: dict[str, Any]) -> str:
    named = context.env.get("SHIPWAY_STATIC_ROOT") or settings.get("root", "")
    if named:
        root = os.path.realpath(os.path.join(context.app, named))
        if root != context.app and not root.startswith(context.app + "/"):
            raise CannotBuild(f"The site's folder {named!r} is outside of the app.")
        if not os.path.isdir(root):
            raise CannotBuild(f"The site's folder {named!r} is not there after the build.")
        return root
    for name in FOLDERS:
        for path in (name, os.path.join(name, "browser")):
            if os.path.isfile(os.path.join(path, "index.html")):
                return os.path.normpath(os.path.join(context.app, path))
    inner = [path for path in _children("dist") if os.path.isfile(f"{path}/browser/index.html")]
    if len(inner) == 1:
        return os.path.join(context.app, inner[0], "browser")
    raise CannotBuild(
        "There is no index.html to serve.",
        f"Looked in {', '.join(FOLDERS[:-1])} and the top folder"
        + (", after the build script." if files.there("package.json") else "."),
        f'Name the folder in a file {SETTINGS}: {{"root": "folder"}}.',
    )


def _children(folder: str) -> list[str]:
    return [entry.path for entry in os.scandir(folder)] if os.path.isdir(folder) else []


def _site(root: str, settings: dict[str, Any]) -> nginx.Site:
    tags = _tags(root)
    redirects = rules.redirects(_read(root, rules.REDIRECTS))
    headers = rules.headers(_read(root, rules.HEADERS))
    headers += [
        rules.Header(rules.pattern(path.replace("/**", "/*"), SETTINGS), str(name), str(value))
        for path, pairs in settings.get("headers", {}).items()
        for name, value in (pairs.items() if isinstance(pairs, dict) else ())
    ]
    pages = [name for name in tags if name.endswith(".html")]
    routed = settings.get("routes", {}).get("/**") == "index.html"
    # A site that a bundler made, of one page and no other: its paths are its own affair.
    spa = routed or (bool(files.there("package.json")) and pages == ["index.html"])
    error_page = str(settings.get("error_page", "404.html")).lstrip("/")
    size = f"{len(tags)} file{'s' if len(tags) != 1 else ''}"
    say.step(f"Serving {os.path.relpath(root)} ({size})")
    if spa:
        say.detail("Paths without a file are answered with index.html, as for an app of one page")
    if redirects or headers:
        say.detail(f"{len(redirects)} rules of _redirects, {len(headers)} headers")
    return nginx.Site(root, tags, redirects, headers, spa, error_page if error_page in tags else "")


def _read(root: str, name: str) -> str:
    path = os.path.relpath(os.path.join(root, name))
    return files.text(path, 1 << 20) if os.path.isfile(path) else ""


def _tags(root: str) -> dict[str, str]:
    """A digest of each file that can be asked for, by its path from the root."""
    found = {}
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name == ".well-known" or not name.startswith(".")]
        if folder == root and "node_modules" in folders:
            folders.remove("node_modules")
        for name in names:
            path = os.path.join(folder, name)
            inner = os.path.relpath(path, root)
            if name.startswith(".") or "\n" in inner or not os.path.isfile(path):
                continue
            with open(path, "rb") as file:
                found[inner] = hashlib.file_digest(file, "blake2b").hexdigest()[:16]
    return found
