"""The dashboard's pages and parts of pages, as HTML."""

from typing import Any

import flask
from flask import request
from sqlalchemy.orm import Session

from shipway.platform import (
    apps,
    auth,
    config_vars,
    domains,
    history,
    people,
    routing,
    shapes,
    watch,
)
from shipway.platform.browser import store, user
from shipway.platform.memory import MemoryHistory
from shipway.platform.models import App
from shipway.platform.pages import Pages

FEW, MANY = 3, 50  # rows of builds and releases, on the overview and on their own page


def apps_page(template: str, **more: Any) -> str:
    """The list of apps."""
    with store().reading() as db:
        found = _pages(db).apps(user())
    return flask.render_template(template, apps=found, **more)


def live(name: str) -> str:
    """The overview's changing part; the state in the head and (empty) notices come along, out of band."""
    return "".join(
        (
            app_page("_live.html", name, "app", FEW),
            app_page("_state.html", name, "app", 0, oob=True),
        )
    )


def app_page(template: str, name: str, tab: str, rows: int, **more: Any) -> str:
    """Render one of an app's pages, with as many builds and releases as `rows` says."""
    with store().reading() as db:
        found = auth.app_for(db, user(), name)
        pages = _pages(db)
        context: dict[str, Any] = {"app": pages.app(found), "remotes": _remotes(found)}
        if rows:
            context["processes"] = pages.processes(found) if rows == FEW else []
            context["builds"] = pages.builds(found, rows)
            context["releases"] = pages.releases(found, rows)
        if rows == FEW:
            context["requests"] = routing.measured(store(), user(), name, 60)
    if rows and not context["builds"]:
        context["has_keys"] = bool(people.keys(store(), user()))
    return flask.render_template(template, tab=tab, **context, **more)


def build_page(template: str, name: str, number: int) -> str:
    """One build; its output only on the whole page."""
    with store().reading() as db:
        found = auth.app_for(db, user(), name)
        row = history.find_build(db, found, number)
        pages = _pages(db)
        context = {"app": pages.app(found), "build": pages.build(row)}
    lines, cursor = watch.output_so_far(row) if template == "build.html" else ([], 0)
    return flask.render_template(template, tab="activity", lines=lines, cursor=cursor, **context)


def config_page(name: str, **more: Any) -> str:
    """An app's config vars; values are in it only when `?reveal=` asks for them."""
    values = config_vars.get(store(), user(), name)
    shown = values if request.args.get("reveal") else dict.fromkeys(values, "")
    return app_page(
        "config.html",
        name,
        "config",
        0,
        config=dict(sorted(shown.items())),
        revealed=bool(request.args.get("reveal")),
        **more,
    )


def settings_page(name: str, **more: Any) -> str:
    """An app's remotes, domains and people."""
    return app_page(
        "settings.html",
        name,
        "settings_page",
        0,
        people=apps.access(store(), user(), name),
        domains=domains.of(store(), user(), name),
        **more,
    )


def _remotes(found: App) -> dict[str, str]:
    settings = store().settings
    return {
        "ssh_url": shapes.ssh_url(settings, found.name),
        "git_url": f"{settings.dashboard}/{found.name}.git",
    }


def _pages(db: Session) -> Pages:
    memory: MemoryHistory = flask.current_app.extensions["shipway.memory"]
    return Pages(db, store().settings, memory, store().now(db))
