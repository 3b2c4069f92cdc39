"""The account page: a person's SSH keys, tokens and logins."""

import time
from typing import Any

import flask
from flask import request, session
from sqlalchemy import func, select
from werkzeug.wrappers import Response

from shipway.platform import auth, browser, people
from shipway.platform.browser import login_required, store, user
from shipway.platform.errors import InvalidInput, ShipwayError
from shipway.platform.models import WebSession

blueprint = flask.Blueprint("account", __name__, url_prefix="/account")
blueprint.before_request(browser.check_origin)


@blueprint.get("")
@login_required
def show() -> str:
    """Keys, tokens, logins."""
    return _page()


@blueprint.post("/keys")
@login_required
def add_key() -> Response | tuple[str, int]:
    """Register a public key."""
    line = request.form.get("key", "")
    try:
        key = people.add_key(store(), user(), line, request.form.get("name", ""))
    except ShipwayError as error:
        flask.flash(error.message, "error")
        return _page(line=line), error.status
    flask.flash(f"Added the key {key['name']}.")
    return _back()


@blueprint.post("/keys/remove")
@login_required
def remove_key() -> Response:
    """Take a key away."""
    key = people.remove_key(store(), user(), request.form.get("fingerprint", ""))
    flask.flash(f"Removed the key {key['name']}.")
    return _back()


@blueprint.post("/tokens")
@login_required
def add_token() -> str:
    """Make a token and show its secret, in the answer itself: it is kept nowhere, also not in a cookie."""
    days = request.form.get("days", "")
    if days and not days.isdecimal():
        raise InvalidInput("Say in how many days the token ends, as a whole number.")
    name = request.form.get("name", "")
    made = people.create_token(store(), user(), name, int(days) if days else None)
    return _page(secret=made["token"])


@blueprint.post("/tokens/<int:number>/remove")
@login_required
def remove_token(number: int) -> Response:
    """Take a token away."""
    token = people.revoke_token(store(), user(), number)
    flask.flash(f"Removed the token {token['name']}.")
    return _back()


@blueprint.post("/sessions/end-others")
@login_required
def end_others() -> Response:
    """Sign this person out on every browser but this one."""
    with store().transaction() as db:
        auth.end_other_sessions(db, user(), session[browser.SESSION])
    flask.flash("Signed out everywhere else.")
    return _back()


def _back() -> Response:
    return flask.redirect(flask.url_for("account.show"), 303)


def _page(**more: Any) -> str:
    with store().reading() as db:
        mine = select(func.count(WebSession.id)).where(
            WebSession.user_id == user().id, WebSession.expires_at > store().now(db)
        )
        sessions = db.scalar(mine)
    return flask.render_template(
        "account.html",
        keys=people.keys(store(), user()),
        tokens=people.tokens(store(), user()),
        sessions=sessions,
        now=time.time(),
        **more,
    )
