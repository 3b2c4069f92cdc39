"""The story of one push: from git's hook to a release that serves, told to the person who waits.

Nothing here is needed for the deploy to go on: once the build's row is committed, this process may be killed and the
client may hang up. Only whoever is still there is told.
"""

import time
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from shipway.platform import branches, builds, events, refs
from shipway.platform.errors import ShipwayError
from shipway.platform.hookserver import ClientGone, Hook, HookServer, Push
from shipway.platform.models import App, Build, Release, User
from shipway.platform.refs import Plan, PushRefused, Update
from shipway.platform.repos import Repos
from shipway.platform.states import BUILD_ENDED, BuildState, ReleaseState
from shipway.platform.store import Store

PUSH_LEASE = 30.0  # seconds for which a receiver that was killed is still thought to be there
LOOK = 3.0  # how often to look whether the client is there, and into SQL, without a signal
SLOW_START = 10.0  # seconds after which a build that waits for a worker says so

UNDER_WAY = (BuildState.QUEUED, BuildState.RUNNING)
DEPLOYING = (ReleaseState.PENDING, ReleaseState.DEPLOYING)


class Receiver:
    """Answers the hooks of the pushes that come to this process."""

    def __init__(self, store: Store, repos: Repos) -> None:
        self._store = store
        self.repos = repos
        self.server = HookServer(store.settings.run, self.handle)

    def handle(self, push: Push, hook: Hook) -> int:
        """Run one hook to its end; its exit code."""
        if hook.name == "proc-receive":
            return _report_moved(push, hook)
        try:
            return self._pre_receive(push, hook)
        except ShipwayError as error:
            hook.say(f" !     {error.message}")
        except OperationalError:
            hook.say(
                " !     The database does not answer, so nothing was changed: push again soon."
            )
        return 1

    def _pre_receive(self, push: Push, hook: Hook) -> int:
        updates = refs.parse(hook.read_all())
        with self._store.reading() as db:
            deploy_branch = _app(db, push).deploy_branch
        plan = refs.plan(updates, push.app, deploy_branch)
        hook.say(*plan.notes)
        if plan.deploy is None or plan.deploy.new is None:
            return 0
        self.repos.adopt(push.app, Path(hook.quarantine))
        if not self.repos.has_commit(push.app, plan.deploy.new):
            raise PushRefused(f"{plan.deploy.branch} would not stand at a commit: push one.")
        build, lines = self._queue(push, plan, plan.deploy, deploy_branch)
        hook.say(*lines)
        self.repos.keep(push.app, build.id, build.commit)
        if plan.sets_branch:
            self.repos.follow(push.app, plan.sets_branch)
        try:
            went_live = self._follow(build, hook)
        except ClientGone:
            self._let_go(build)
            raise
        if not went_live or not branches.settle(self._store, self.repos, build.id):
            hook.say(f" !     Push rejected: {push.app} was not deployed.")
            return 1
        hook.say("Verifying deploy... done.")
        push.moved.add(plan.deploy.ref)
        return 0

    # -- queueing ------------------------------------------------------------------------------

    def _queue(
        self, push: Push, plan: Plan, update: Update, seen: str | None
    ) -> tuple[Build, list[str]]:
        """Queue the build in one transaction, or find the one of this commit that is under way; lines to say."""
        assert update.new is not None
        with self._store.transaction() as db:
            app, user, now = _app(db, push), db.get_one(User, push.user_id), self._store.now(db)
            if app.deploy_branch != seen:
                raise PushRefused(f"The deploy branch of {app.name} has just been set: push again.")
            lines = []
            if plan.sets_branch:
                app.deploy_branch = plan.sets_branch
                lines.append(f"-----> Set {plan.sets_branch} as deploy branch")
            if build := _same_under_way(db, app, update):
                build.push_until = now + PUSH_LEASE
                return build, [*lines, f"-----> Build {build.id} of this commit is under way"]
            building = db.scalar(
                select(Build.id).where(Build.app_id == app.id, Build.state == BuildState.RUNNING)
            )
            if building:
                lines.append(f"-----> Waiting for build {building} of this app to end")
            build = builds.queue(
                db,
                app,
                user,
                now,
                commit=update.new,
                branch=update.ref,
                old_commit=update.old,
                push_until=now + PUSH_LEASE,
            )
            return build, lines

    # -- telling -------------------------------------------------------------------------------

    def _follow(self, build: Build, hook: Hook) -> bool:
        """Stream what the build and its deploy say until they end; whether its release went live."""
        story = _Story(self._store, build, hook)
        topics = events.app_topic(build.app_id), events.output_topic(build.stream)
        with self._store.signals.listen(*topics) as listener:
            while (went_live := story.advance()) is None:
                listener.wait(LOOK)
                hook.check_alive()
        return went_live

    def _let_go(self, build: Build) -> None:
        """Nobody holds this push open any more: the reconciler moves the branch when the release is live."""
        with self._store.transaction() as db:
            left = db.get(Build, build.id)
            if left is not None:
                left.push_until = 0.0


class _Story:
    """How far one push was told."""

    def __init__(self, store: Store, build: Build, hook: Hook) -> None:
        self._store, self._hook = store, hook
        self._build_id, self._stream = build.id, build.stream
        self._last_output = 0
        self._last_text = ""
        self._renewed = self._began = time.monotonic()
        self._said_slow = False

    def advance(self) -> bool | None:
        """Tell what is new. None while it goes on, True once its release serves, False if it never will."""
        # The state is read before the output: what was said before an end is then always told.
        with self._store.reading() as db:
            build = db.get_one(Build, self._build_id)
            release = db.scalar(select(Release).where(Release.build_id == build.id))
        self._tell()
        self._renew()
        if build.state in BUILD_ENDED and release is None:
            return self._failed(build.reason)
        if release is None:
            self._say_if_slow(build)
            return None
        if release.state == ReleaseState.FAILED:
            return self._failed(release.reason)
        return None if release.state in DEPLOYING else True

    def _tell(self) -> None:
        for piece in self._store.output_after(self._stream, self._last_output):
            self._hook.say(*piece.text.splitlines())
            self._last_output = piece.id
            self._last_text = (self._last_text + piece.text)[-4000:]

    def _failed(self, reason: str | None) -> bool:
        if reason and reason[1:] not in self._last_text:  # in the log it begins with a capital
            self._hook.say(f" !     {reason}")
        return False

    def _renew(self) -> None:
        now = time.monotonic()
        if now - self._renewed < PUSH_LEASE / 3:
            return
        self._renewed = now
        with self._store.transaction() as db:
            db.get_one(Build, self._build_id).push_until = self._store.now(db) + PUSH_LEASE

    def _say_if_slow(self, build: Build) -> None:
        if (
            not self._said_slow
            and build.state == BuildState.QUEUED
            and time.monotonic() - self._began > SLOW_START
        ):
            self._said_slow = True
            self._hook.say("-----> Waiting for a worker that is free to build")


def _app(db: Session, push: Push) -> App:
    app = db.get(App, push.app_id)
    if app is None or app.destroyed_at is not None:
        raise PushRefused(f"The app {push.app} has been destroyed meanwhile.")
    return app


def _same_under_way(db: Session, app: App, update: Update) -> Build | None:
    """The app's newest build, if it is of the pushed commit and has not come to an end: a push again joins it."""
    newest = select(Build).where(Build.app_id == app.id).order_by(Build.id.desc()).limit(1)
    build = db.scalar(newest)
    if build is None or (build.commit, build.branch) != (update.new, update.ref):
        return None
    if build.state in UNDER_WAY:
        return None if build.cancel_requested else build
    release = db.scalar(select(Release).where(Release.build_id == build.id))
    if release is None or release.state not in (*DEPLOYING, ReleaseState.LIVE):
        return None
    return None if build.ref_moved else build


def _report_moved(push: Push, hook: Hook) -> int:
    """Git's proc-receive hook (githooks(5)): git asks who moves each branch. Those we moved are done."""
    _read_section(hook)  # version and capabilities; we use none of these
    hook.write(_packet(b"version=1\0") + b"0000")
    answer = b""
    for line in _read_section(hook):
        ref = line.split(b" ", 2)[2]
        answer += _packet(b"ok " + ref)
        if ref.decode(errors="replace") not in push.moved:
            answer += _packet(b"option fall-through")  # git moves it, as any other
    hook.write(answer + b"0000")
    return 0


def _read_section(hook: Hook) -> list[bytes]:
    """The packets up to the next flush packet."""
    lines = []
    while size := int(hook.read(4), 16):
        lines.append(hook.read(size - 4).rstrip(b"\n"))
    return lines


def _packet(line: bytes) -> bytes:
    return b"%04x%s" % (len(line) + 4, line)
