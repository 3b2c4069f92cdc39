"""The dashboard's pages: login, the apps, one app. What they change goes through the same operations as the API's.

Each page works as plain HTML; with scripts, `…/live` answers the part of a page that is fetched again when something
has changed, and forms with `hx-post` are answered with that part instead of a redirect.
"""

from typing import Any

import flask
from flask import request
from werkzeug.wrappers import Response

from shipway.platform import apps as operations
from shipway.platform import browser, config_vars, domains, history, render, scaling, watch
from shipway.platform.browser import login_required, store, user
from shipway.platform.errors import (
    Conflict,
    InvalidInput,
    InvalidName,
    ShipwayError,
    Unauthenticated,
)

blueprint = flask.Blueprint("ui", __name__)
blueprint.before_request(browser.check_origin)

Answer = str | Response | tuple[str, int]


# -- coming and going ---------------------------------------------------------------------------


@blueprint.get("/login")
def login() -> Answer:
    """The login page; those who are in are led on."""
    target = request.args.get("next")
    if browser.current_user() is not None:
        return flask.redirect(browser.safe_next(target))
    return flask.render_template("login.html", name="", next=target)


@blueprint.post("/login")
def log_in() -> Answer:
    """Check the password and start a session."""
    name, target = request.form.get("name", ""), request.form.get("next")
    try:
        browser.log_in(name.strip(), request.form.get("password", ""))
    except (Unauthenticated, browser.TooManyLogins) as error:
        page = flask.render_template("login.html", name=name, next=target, error=error.message)
        response = flask.make_response(page, error.status)
        if isinstance(error, browser.TooManyLogins):
            response.headers["Retry-After"] = str(error.retry_after)
        return response
    return flask.redirect(browser.safe_next(target), 303)


@blueprint.post("/logout")
def logout() -> Answer:
    """End the session."""
    browser.log_out()
    return flask.redirect(flask.url_for("ui.login"), 303)


# -- all apps -----------------------------------------------------------------------------------


@blueprint.get("/")
@login_required
def apps() -> Answer:
    """The list of apps."""
    return render.apps_page("apps.html")


@blueprint.get("/apps/live")
@login_required
def apps_live() -> Answer:
    """The list alone."""
    return render.apps_page("_apps.html")


@blueprint.post("/apps")
@login_required
def create() -> Answer:
    """Make an app and show it."""
    name = request.form.get("name", "").strip()
    if not name:
        return render.apps_page("apps.html", name=name, error="Give the app a name."), 400
    try:
        operations.create(store(), user(), name)
    except ShipwayError as error:
        return render.apps_page("apps.html", name=name[:60], error=error.message), error.status
    return flask.redirect(flask.url_for("ui.app", name=name), 303)


# -- one app: pages -----------------------------------------------------------------------------


@blueprint.get("/apps/<name>")
@login_required
def app(name: str) -> Answer:
    """Processes, the last builds and releases, the log."""
    return render.app_page("overview.html", name, "app", render.FEW, log=watch.log_panel(name))


@blueprint.get("/apps/<name>/live")
@login_required
def app_live(name: str) -> Answer:
    """What changes on the overview."""
    return render.live(name)


@blueprint.get("/apps/<name>/activity")
@login_required
def activity(name: str) -> Answer:
    """Builds and releases."""
    return render.app_page("activity.html", name, "activity", render.MANY)


@blueprint.get("/apps/<name>/activity/live")
@login_required
def activity_live(name: str) -> Answer:
    """What changes on the activity page."""
    return render.app_page("_activity.html", name, "activity", render.MANY)


@blueprint.get("/apps/<name>/log")
@login_required
def logs(name: str) -> Answer:
    """The log, tall."""
    return render.app_page("logs.html", name, "logs", 0, log=watch.log_panel(name))


@blueprint.get("/apps/<name>/builds/<int:number>")
@login_required
def build(name: str, number: int) -> Answer:
    """One build and its output, live while it runs."""
    return render.build_page("build.html", name, number)


@blueprint.get("/apps/<name>/builds/<int:number>/live")
@login_required
def build_live(name: str, number: int) -> Answer:
    """The facts of a build."""
    return render.build_page("_build.html", name, number)


@blueprint.get("/apps/<name>/config")
@login_required
def config(name: str) -> Answer:
    """Config vars; their values only when asked for."""
    return render.config_page(name)


@blueprint.get("/apps/<name>/settings")
@login_required
def settings_page(name: str) -> Answer:
    """Remotes, domains, people, restart, destroy."""
    return render.settings_page(name)


# -- one app: changes ---------------------------------------------------------------------------


@blueprint.post("/apps/<name>/scale")
@login_required
def scale(name: str) -> Answer:
    """Set a process type's number of instances (`quantity`) or change it (`step`)."""
    kind, step = request.form.get("type", ""), request.form.get("step")
    amount = request.form.get("quantity", "").strip() if step is None else step
    if step is not None and not step.startswith("-"):
        amount = f"+{step}"
    elif step is None and not amount.isdecimal():
        raise InvalidInput(f"{amount[:20]!r} is no number of instances: use 0 to 100.")
    scaling.scale(store(), user(), name, {kind: amount})
    if request.headers.get("HX-Request"):
        return render.live(name)
    return _back("ui.app", name)


@blueprint.post("/apps/<name>/rollback")
@login_required
def rollback(name: str) -> Answer:
    """Go back to an earlier release."""
    version = request.form.get("version", "").removeprefix("v")
    if not version.isdecimal():
        raise InvalidInput("Say which release to go back to, by its number.")
    done = history.rollback(store(), user(), name, int(version))
    flask.flash(f"Rolling back to v{done['to']} as v{done['release']['version']}.")
    return _back("ui.app", name)


@blueprint.post("/apps/<name>/rebuild")
@login_required
def rebuild(name: str) -> Answer:
    """Build the current commit again."""
    made = history.rebuild(store(), user(), name)
    return flask.redirect(flask.url_for("ui.build", name=name, number=made["id"]), 303)


@blueprint.post("/apps/<name>/builds/<int:number>/cancel")
@login_required
def cancel(name: str, number: int) -> Answer:
    """End a build."""
    history.cancel_build(store(), user(), name, number)
    flask.flash("The build is being cancelled.")
    return flask.redirect(flask.url_for("ui.build", name=name, number=number), 303)


@blueprint.post("/apps/<name>/config")
@login_required
def config_set(name: str) -> Answer:
    """Set a config var."""
    key, value = request.form.get("key", "").strip(), request.form.get("value", "")
    # A browser sends every line end of a text area as CRLF.
    value = value.replace("\r\n", "\n")
    try:
        done = config_vars.assign(store(), user(), name, {key: value})
    except InvalidInput as error:
        flask.flash(error.message, "error")
        return render.config_page(name, key=key, value=value), error.status
    flask.flash(_told(f"Set {key}", done))
    return _back("ui.config", name)


@blueprint.post("/apps/<name>/config/unset")
@login_required
def config_unset(name: str) -> Answer:
    """Remove a config var."""
    key = request.form.get("key", "")
    done = config_vars.unset(store(), user(), name, [key])
    flask.flash(_told(f"Removed {key}", done))
    return _back("ui.config", name)


@blueprint.post("/apps/<name>/restart")
@login_required
def restart(name: str) -> Answer:
    """Replace every instance."""
    release = scaling.restart(store(), user(), name)
    flask.flash(f"Restarting {name} as v{release['version']}.")
    return _back("ui.app", name)


@blueprint.post("/apps/<name>/domains")
@login_required
def domain_add(name: str) -> Answer:
    """Lead a host name to the app."""
    try:
        host = domains.add(store(), user(), name, request.form.get("domain", ""))
    except (InvalidName, Conflict) as error:
        flask.flash(error.message, "error")
        return render.settings_page(name), error.status
    flask.flash(f"{host} leads to {name} now. Point its DNS at this server, too.")
    return _back("ui.settings_page", name)


@blueprint.post("/apps/<name>/domains/remove")
@login_required
def domain_remove(name: str) -> Answer:
    """Lead a host name to the app no more."""
    host = domains.remove(store(), user(), name, request.form.get("domain", ""))
    flask.flash(f"{host} leads to {name} no more.")
    return _back("ui.settings_page", name)


@blueprint.post("/apps/<name>/access")
@login_required
def access_add(name: str) -> Answer:
    """Let somebody in."""
    other = request.form.get("user", "").strip()
    operations.add_access(store(), user(), name, other)
    flask.flash(f"{other} may work on {name} now.")
    return _back("ui.settings_page", name)


@blueprint.post("/apps/<name>/access/remove")
@login_required
def access_remove(name: str) -> Answer:
    """Take access back."""
    other = request.form.get("user", "")
    operations.remove_access(store(), user(), name, other)
    flask.flash(f"{other} has no access to {name} any more.")
    return _back("ui.settings_page", name)


@blueprint.post("/apps/<name>/destroy")
@login_required
def destroy(name: str) -> Answer:
    """Take the app down, if its name was typed."""
    if request.form.get("confirm", "").strip() != name:
        raise InvalidInput(f"Nothing was destroyed: type {name!r} to confirm.")
    operations.destroy(store(), user(), name)
    flask.flash(f"{name} is being destroyed.")
    return flask.redirect(flask.url_for("ui.apps"), 303)


# -- answers -------------------------------------------------------------------------------------


def _back(endpoint: str, name: str) -> Response:
    return flask.redirect(flask.url_for(endpoint, name=name), 303)


def _told(what: str, done: dict[str, Any]) -> str:
    release = done["release"]
    return f"{what}, deploying v{release['version']} with it." if release else f"{what}."
