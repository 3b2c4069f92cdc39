"""What the dashboard's pages show, read from the store: plain dicts, so that templates ask nothing more of it."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, func, or_, select
from sqlalchemy.orm import Session, joinedload

from shipway.platform import auth, formation, releases, shapes
from shipway.platform.memory import MemoryHistory, total
from shipway.platform.models import App, Build, Instance, Release, User
from shipway.platform.settings import Settings
from shipway.platform.shapes import View
from shipway.platform.states import BuildState, Desired, InstanceState, Outcome, ReleaseState

BUILDING = (BuildState.QUEUED, BuildState.RUNNING)
DEPLOYING = (ReleaseState.PENDING, ReleaseState.DEPLOYING)
FAILED = (Outcome.BUILD_FAILED, Outcome.DEPLOY_FAILED)
ALIVE = (InstanceState.STARTING, InstanceState.UP)


class Pages:
    """Reads what pages show, within one session of the database."""

    def __init__(self, db: Session, settings: Settings, history: MemoryHistory, now: float) -> None:
        self._db = db
        self._settings = settings
        self._history = history
        self._now = now

    def apps(self, user: User) -> list[View]:
        """The apps that `user` may work on, by name, each as `app` has it."""
        return self._apps(auth.apps_of(self._db, user))

    def app(self, app: App) -> View:
        """What stands at the top of each of an app's pages.

        `{name, url, branch, state: {key, text}, doing, release, instances: [{name, state}], up, wanted, memory,
        memory_series}`; `state.key` is a class of the style sheet, `doing` what is under way, `release` what serves.
        """
        return self._apps([app])[0]

    def processes(self, app: App) -> list[View]:
        """The process types with their instances: `{type, command, wanted, up, instances: [...]}`, web first."""
        coming = self._db.scalars(
            select(Release)
            .where(Release.app_id == app.id, Release.state.in_(DEPLOYING))
            .order_by(Release.version.desc())
        ).first()
        shown = (self._db.get(Release, app.release_id) if app.release_id else None) or coming
        if shown is None:
            return []
        instances = self._instances(Instance.app_id == app.id)
        wanted = formation.wanted(self._db, app, shown)
        return [
            self._process(app, kind, shown.processes[kind], wanted[kind], instances)
            for kind in sorted(wanted, key=lambda kind: (kind != "web", kind))
        ]

    def builds(self, app: App, limit: int) -> list[View]:
        """The newest builds, as in `shapes`, with `active`, `ended`, `failed` and `seconds`."""
        query = select(Build).where(Build.app_id == app.id).order_by(Build.id.desc()).limit(limit)
        found = list(self._db.scalars(query.options(joinedload(Build.user))))
        made = releases.made_by(self._db, found)
        return [self._build(build, made.get(build.id)) for build in found]

    def build(self, build: Build) -> View:
        """One build, as in `builds`, with `shares`: `[{name, seconds, percent}]` of its phases."""
        release = releases.made_by(self._db, [build]).get(build.id)
        phases = build.phases or {}
        whole = sum(phases.values()) or 1.0
        shares = [
            {"name": name, "seconds": seconds, "percent": round(100 * seconds / whole, 2)}
            for name, seconds in phases.items()
        ]
        return {**self._build(build, release), "shares": shares}

    def releases(self, app: App, limit: int) -> list[View]:
        """The newest releases, as in `shapes`, with `can_return`: whether one can roll back to it."""
        query = select(Release).where(Release.app_id == app.id).order_by(Release.version.desc())
        return [
            {
                **shapes.release(release, current=release.id == app.release_id),
                "can_return": release.state == ReleaseState.RETIRED,
            }
            for release in self._db.scalars(query.limit(limit).options(joinedload(Release.user)))
        ]

    # -- parts ------------------------------------------------------------------------------

    def _apps(self, apps: Sequence[App]) -> list[View]:
        ids = [app.id for app in apps]
        instances = _by_app(self._instances(Instance.app_id.in_(ids)))
        releases = _by_app(self._releases_of(apps))
        building = select(Build).where(Build.app_id.in_(ids), Build.state.in_(BUILDING))
        builds = _by_app(self._db.scalars(building.order_by(Build.id)))
        return [self._app(app, releases[app.id], builds[app.id], instances[app.id]) for app in apps]

    def _app(
        self,
        app: App,
        releases: Sequence[Release],
        builds: Sequence[Build],
        instances: Sequence[Instance],
    ) -> View:
        live = next((one for one in releases if one.id == app.release_id), None)
        mine = [one for one in instances if _belongs(app, one)]
        wanted = sum(formation.wanted(self._db, app, live).values()) if live else len(mine)
        alive = [one.id for one in mine if one.state in ALIVE]
        series = total(self._history.series(alive).values())
        return {
            "name": app.name,
            "url": self._settings.app_url(app.name),
            "branch": app.deploy_branch,
            "state": _state(live, mine, releases, wanted),
            "doing": _doing(builds, releases),
            "release": shapes.release(live, current=True) if live else None,
            "instances": [{"name": one.name, "state": str(one.state)} for one in mine],
            "up": _count_up(mine),
            "wanted": wanted,
            "memory": series[-1] if series else None,
            "memory_series": series,
        }

    def _process(
        self, app: App, kind: str, command: str, wanted: int, instances: Sequence[Instance]
    ) -> View:
        mine = [one for one in instances if one.process_type == kind]
        return {
            "type": kind,
            "command": command,
            "wanted": wanted,
            "up": _count_up([one for one in mine if _belongs(app, one)]),
            "instances": [self._instance(app, one) for one in mine],
        }

    def _instance(self, app: App, one: Instance) -> View:
        """As in `shapes`, with what only people look at: `uptime` in seconds, `series` of bytes of memory."""
        alive = one.state in ALIVE
        start = (one.up_at or one.started_at) if alive else None
        shown = shapes.instance(one)
        return {
            **shown,
            "state": "draining" if _drains(one) else shown["state"],
            "memory": shown["memory"] if alive else None,
            "series": self._history.series([one.id]).get(one.id, []) if alive else [],
            "since": start,
            "uptime": self._now - start if start else None,
            "host_late": one.host.alive_until < self._now,
            "other_release": one.release_id != app.release_id,
            "reason": one.reason if one.state == InstanceState.CRASHED else None,
        }

    def _build(self, build: Build, release: Release | None) -> View:
        active = build.state in BUILDING
        end = build.ended_at or (self._now if active else None)
        shown = shapes.build(build, release)
        return {
            **shown,
            "active": active,
            "ended": not active and shown["outcome"] != Outcome.DEPLOYING,
            "failed": shown["outcome"] in FAILED,
            "seconds": end - build.started_at if end and build.started_at else None,
        }

    def _instances(self, condition: ColumnElement[bool]) -> list[Instance]:
        """Instances that run or shall run, in order of type and number."""
        there = or_(Instance.desired == Desired.RUNNING, Instance.state != InstanceState.STOPPED)
        query = (
            select(Instance)
            .where(condition, there)
            .order_by(Instance.process_type, Instance.number, Instance.id)
            .options(joinedload(Instance.host), joinedload(Instance.release))
        )
        return list(self._db.scalars(query))

    def _releases_of(self, apps: Sequence[App]) -> Iterable[Release]:
        """The releases that matter now: those that serve, are on their way, or are the newest; newest first."""
        ids = [app.id for app in apps]
        newest = select(func.max(Release.id)).where(Release.app_id.in_(ids))
        matters = or_(
            Release.id.in_([app.release_id for app in apps if app.release_id]),
            Release.id.in_(newest.group_by(Release.app_id)),
            Release.app_id.in_(ids) & Release.state.in_(DEPLOYING),
        )
        query = select(Release).where(matters).order_by(Release.version.desc())
        return self._db.scalars(query.options(joinedload(Release.user)))


def _by_app(rows: Iterable[Any]) -> defaultdict[int, list[Any]]:
    found: defaultdict[int, list[Any]] = defaultdict(list)
    for row in rows:
        found[row.app_id].append(row)
    return found


def _belongs(app: App, one: Instance) -> bool:
    """Whether the instance is part of what the app is now, or, before its first release, of what it shall be."""
    return one.desired == Desired.RUNNING and app.release_id in (None, one.release_id)


def _drains(one: Instance) -> bool:
    """Whether the instance still runs, but only until its last requests are answered."""
    return one.desired == Desired.STOPPED and one.state == InstanceState.UP


def _count_up(instances: Iterable[Instance]) -> int:
    return sum(one.state == InstanceState.UP for one in instances)


def _state(
    live: Release | None, mine: Sequence[Instance], releases: Sequence[Release], wanted: int
) -> View:
    """What a person wants to know first."""
    if live is None:
        if releases and releases[0].state == ReleaseState.FAILED:
            return {"key": "crashed", "text": "First deploy failed"}
        return {"key": "empty", "text": "Waiting for its first push"}
    up = _count_up(mine)
    if wanted == 0:
        return {"key": "off", "text": "Scaled to zero"}
    if up >= wanted:
        return {"key": "up", "text": "Running"}
    if any(one.state == InstanceState.CRASHED for one in mine):
        return {"key": "crashed", "text": "Partly crashed" if up else "Crashed"}
    return {"key": "starting", "text": "Starting"}


def _doing(builds: Sequence[Build], releases: Sequence[Release]) -> str | None:
    coming = next((one for one in releases if one.state in DEPLOYING), None)
    if coming is not None:
        return f"Deploying v{coming.version}"
    running = [build for build in builds if build.state == BuildState.RUNNING]
    if running:
        return f"Building {running[0].commit[:7]}"
    return f"{builds[-1].commit[:7]} waits to be built" if builds else None
