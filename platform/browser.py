"""A browser's login: the session, the token against forged requests, and who it is that asks.

The one cookie is signed by us and readable by no script. It carries the session's random id, whose hash is a row of
`web_sessions` (so that it can be revoked), and the token that every form sends back.
"""

import hmac
import math
import secrets
from collections.abc import Callable
from functools import wraps
from typing import Any, cast

import flask
from flask import g, request, session
from werkzeug.wrappers import Response

from shipway.platform import auth
from shipway.platform.errors import Forbidden, ShipwayError, Unauthenticated
from shipway.platform.models import User
from shipway.platform.settings import Settings
from shipway.platform.store import Store
from shipway.platform.throttle import Throttle

SESSION = "sid"
TOKEN = "csrf"
TOKEN_HEADER = "X-CSRF-Token"
UNSAFE = frozenset({"POST", "PUT", "PATCH", "DELETE"})

# Guesses by address and name, and by address alone, in 15 minutes.
BY_NAME = Throttle(limit=10, window=900)
BY_ADDRESS = Throttle(limit=60, window=900)


class TooManyLogins(ShipwayError):
    """Too many wrong passwords from one address."""

    status = 429

    def __init__(self, seconds: float) -> None:
        minutes = math.ceil(seconds / 60)
        super().__init__(
            f"Too many wrong passwords: try again in {minutes} minute{'s' * (minutes > 1)}."
        )
        self.retry_after = math.ceil(seconds)


class Expired(ShipwayError):
    """The form was made for another session."""

    status = 403


def store() -> Store:
    """The store of the running web app."""
    return cast("Store", flask.current_app.extensions["shipway.store"])


def settings() -> Settings:
    """The settings of the running web app."""
    return store().settings


def user() -> User:
    """Who asks. Raises Unauthenticated; views that need it are marked `login_required`."""
    found = current_user()
    if found is None:
        raise Unauthenticated("Sign in first.")
    return found


def current_user() -> User | None:
    """Who asks, or None; looked up once in a request."""
    if "user" not in g:
        secret = session.get(SESSION)
        g.user = None
        if isinstance(secret, str):
            with store().reading() as db:
                g.user = auth.by_session(db, secret, store().now(db))
    return cast("User | None", g.user)


def identify(name: str, password: str) -> User:
    """Who has this name and password. Raises Unauthenticated, TooManyLogins."""
    address = request.remote_addr or "?"
    keys = ((BY_NAME, f"{address} {name[:64]}"), (BY_ADDRESS, address))
    if seconds := max(throttle.wait(key) for throttle, key in keys):
        raise TooManyLogins(seconds)
    with store().reading() as db:
        found = auth.by_password(db, name, password)
    if found is None:
        for throttle, key in keys:
            throttle.failed(key)
        raise Unauthenticated("The name or the password is wrong.")
    BY_NAME.succeeded(
        keys[0][1]
    )  # the address has to wait: who has one password may be after others
    return found


def log_in(name: str, password: str) -> None:
    """Start a session for who gave the right password. Raises Unauthenticated, TooManyLogins."""
    found = identify(name, password)
    log_out()
    with store().transaction() as db:
        session[SESSION] = auth.make_session(db, found, store().now(db))
    session.permanent = True
    g.user = found


def log_out() -> None:
    """End the session on our side and the browser's."""
    secret = session.get(SESSION)
    if isinstance(secret, str):
        with store().transaction() as db:
            auth.end_session(db, secret)
    session.clear()
    g.pop("user", None)


def csrf_token() -> str:
    """The token that forms of this session carry."""
    if TOKEN not in session:
        session[TOKEN] = secrets.token_urlsafe(32)
    return cast("str", session[TOKEN])


def check_origin() -> None:
    """Refuse a changing request that another site had the browser send. Raises Expired, Forbidden.

    SameSite=Lax does not tell apps under the same domain from the dashboard; these two checks do.
    """
    if request.method not in UNSAFE:
        return
    if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
        raise Forbidden("This request came from another site, so it was not carried out.")
    sent = request.headers.get(TOKEN_HEADER) or request.form.get(TOKEN, "")
    expected = session.get(TOKEN)
    if not isinstance(expected, str) or not hmac.compare_digest(sent.encode(), expected.encode()):
        raise Expired("This page was too old to be used: nothing was changed. Please try again.")


View = Callable[..., Any]


def login_required(view: View) -> View:
    """Show the login page to those who have no session, and come back afterwards."""

    @wraps(view)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        if current_user() is not None:
            return view(*args, **kwargs)
        return to_login()

    return guarded


def to_login() -> Response:
    """Lead the browser to the login page and, after it, back to where it is."""
    here = request.full_path.rstrip("?") if request.method == "GET" else "/"
    if request.headers.get("Accept") == "text/event-stream":
        return flask.Response("Sign in first.\n", 401, content_type="text/plain")
    if request.headers.get("HX-Request"):
        return flask.Response("", 401, {"HX-Redirect": flask.url_for("ui.login")})
    return flask.redirect(flask.url_for("ui.login", next=here if here != "/" else None))


def safe_next(target: str | None) -> str:
    """`target` if it is a path of this site, else the first page."""
    if target and target.startswith("/") and not target.startswith(("//", "/\\")):
        if target.isprintable() and "\\" not in target:
            return target
    return flask.url_for("ui.apps")
