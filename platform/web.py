"""The web process: the dashboard, the API and git over HTTP in one Flask app.

`gunicorn "shipway.platform.web:create_app()"` with threads: see `WORKER_THREADS` in `streams.py`.
"""

import ipaddress
import logging
import secrets
import socket
from http.client import responses
from urllib.parse import urlsplit

import flask
from flask import request
from sqlalchemy.exc import OperationalError
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response

from shipway.platform import account, api, auth, browser, git_http, present, ui, watch
from shipway.platform.browser import TooManyLogins
from shipway.platform.errors import ShipwayError, Unauthenticated
from shipway.platform.files import secret_file
from shipway.platform.memory import MemoryHistory
from shipway.platform.settings import Settings, current
from shipway.platform.store import Store

log = logging.getLogger(__name__)

MAX_BODY = 1 << 20  # bytes of any request but a push
POLICY = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
        " font-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none';"
        " frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}


def create_app(settings: Settings | None = None, store: Store | None = None) -> flask.Flask:
    """The WSGI app; settings and store are those of this process unless given."""
    settings = settings or current()
    app = flask.Flask(__name__)
    store = store or Store(settings)
    app.extensions["shipway.store"] = store
    app.extensions["shipway.memory"] = MemoryHistory(store)
    secure = settings.dashboard.startswith("https:")
    app.config.update(
        SECRET_KEY=secret_file(settings.secrets / "web.key"),
        # A cookie named __Host- cannot be planted by an app that runs under the same domain.
        SESSION_COOKIE_NAME="__Host-shipway" if secure else "shipway",
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Lax",
        SESSION_COOKIE_SECURE=secure,
        PERMANENT_SESSION_LIFETIME=auth.SESSION,
        SESSION_REFRESH_EACH_REQUEST=False,
        MAX_CONTENT_LENGTH=MAX_BODY,
        SEND_FILE_MAX_AGE_DEFAULT=31_536_000,  # their address changes with their content
    )
    for blueprint in (api.blueprint, git_http.blueprint, ui.blueprint, account.blueprint):
        app.register_blueprint(blueprint)
    app.register_blueprint(watch.blueprint)
    present.register(app)
    _guard(app, settings)
    _answer_errors(app)
    return app


def _guard(app: flask.Flask, settings: Settings) -> None:
    """What holds for every request and every answer."""
    hosts = _names(settings)

    @app.before_request
    def check_host() -> None:
        """Another site's name that leads to our address (DNS rebinding) is nobody's dashboard."""
        if not _is_known(request.host, hosts):
            raise UnknownHost(request.host[:100])

    @app.after_request
    def add_headers(response: Response) -> Response:
        for name, value in POLICY.items():
            response.headers.setdefault(name, value)
        if settings.dashboard.startswith("https:"):
            response.headers.setdefault("Strict-Transport-Security", "max-age=31536000")
        if request.endpoint != "static":
            response.headers.setdefault("Cache-Control", "no-store")
        return response


class UnknownHost(ShipwayError):
    """The Host header names no address of this dashboard."""

    def __init__(self, host: str) -> None:
        super().__init__(
            f"The dashboard does not know the address {host!r}: set `url` in Shipway's settings to"
            " the address you reach it at."
        )


def _names(settings: Settings) -> frozenset[str]:
    """The names this dashboard may be called by, in lower case."""
    named = {urlsplit(settings.dashboard).hostname or "", settings.listen, settings.domain}
    return frozenset(name.lower() for name in named | {"localhost", socket.gethostname()} if name)


def _is_known(host: str, hosts: frozenset[str]) -> bool:
    """Whether `host` (with or without a port) is a name of ours or an IP address, which nobody can rebind."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return name.lower().rstrip(".") in hosts
    return True


# -- errors -------------------------------------------------------------------------------------


def _answer_errors(app: flask.Flask) -> None:
    """Every error as one sentence: JSON for the API, plain text for git, a page for a browser."""

    @app.errorhandler(ShipwayError)
    def refused(error: ShipwayError) -> Response:
        if isinstance(error, Unauthenticated) and not _for_programs():
            if request.endpoint != "ui.login":
                return browser.to_login()
        response = _page(error.status, error.message)
        if isinstance(error, TooManyLogins):
            response.headers["Retry-After"] = str(error.retry_after)
        return response

    @app.errorhandler(HTTPException)
    def failed(error: HTTPException) -> Response:
        if error.code is None or error.code < 400:  # a redirect
            return error.get_response()
        response = _page(error.code, WORDS.get(error.code) or error.description or error.name)
        for name, value in error.get_headers():
            if name not in ("Content-Type", "Content-Length"):
                response.headers[name] = value
        return response

    @app.errorhandler(OperationalError)
    def no_database(error: OperationalError) -> Response:
        log.error("the database does not answer: %s", error.orig)
        return _page(503, "The database does not answer just now. Your apps keep running.")

    @app.errorhandler(Exception)
    def broken(error: Exception) -> Response:
        number = secrets.token_hex(4)
        log.error("error %s at %s %s", number, request.method, request.path, exc_info=error)
        return _page(500, f"Something broke on our side; the platform's log has it as {number}.")


WORDS = {
    404: "There is nothing at this address.",
    405: "This address cannot be used in this way.",
    413: "What was sent is too large.",
}


def _for_programs() -> bool:
    return request.path.startswith("/api/") or request.blueprint in (
        api.blueprint.name,
        git_http.blueprint.name,
    )


def _page(status: int, message: str) -> Response:
    if request.path.startswith("/api/"):  # an address that the API does not have
        return flask.make_response({"error": {"message": message, "kind": "not_found"}}, status)
    if _for_programs() or request.accept_mimetypes.best == "text/event-stream":
        return flask.Response(message + "\n", status, content_type="text/plain; charset=utf-8")
    if request.headers.get("HX-Request"):
        body = flask.render_template("_notices.html", notices=[("error", message)])
        headers = {"HX-Retarget": "#notices", "HX-Reswap": "outerHTML"}
        return flask.Response(body, status, headers)
    title = responses.get(status, "Error")
    return flask.Response(
        flask.render_template("error.html", status=status, title=title, message=message), status
    )
