"""Deploys on real parts: health checks, the release phase, one deploy in another's place, draining."""

import http.client
import json
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from shipway.platform import builds, config_vars, deployconfig, history, scaling
from shipway.platform.models import App, Instance, Release, User
from shipway.platform.states import BuildState, InstanceState, ReleaseState
from shipway.workers import health
from workerlab import SERVER, Platform, get, new_app, open_platform, server, until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers need root")

UP = InstanceState.UP
# A server whose checks' answers a test can change.
CHECKED = SERVER.replace(
    'if self.path == "/crash":',
    'if self.path.startswith("/set"):\n            open("/tmp/status", "w").write(self.path[4:])\n'
    '        if self.path == "/check":\n            self.send_response(status())\n'
    "            self.end_headers()\n            return\n"
    '        if self.path == "/crash":',
).replace(
    "class Handler",
    "def status():\n    try:\n        return int(open('/tmp/status').read())\n"
    "    except OSError:\n        return FIRST\nclass Handler",
)


def checked(first: int, *checks: dict[str, Any], **more: Any) -> dict[str, str]:
    """An app whose /check answers with `first` until /set… says otherwise, with these checks."""
    return {
        "app.py": f"TEXT = 'one'\nFIRST = {first}\n{CHECKED}",
        "Procfile": "web: python3 app.py\n",
        "app.json": json.dumps({"healthchecks": {"web": checks}, **more}),
    }


@pytest.fixture(scope="module")
def platform() -> Iterator[Platform]:
    with open_platform("deploys") as platform:
        yield platform


@pytest.fixture
def app(platform: Platform, request: pytest.FixtureRequest) -> Iterator[str]:
    """An app of its own for each test, destroyed at the end."""
    with new_app(platform, request.node.name) as name:
        yield name


def user(platform: Platform) -> User:
    with platform.store.reading() as db:
        return db.get_one(User, 1)


def release(platform: Platform, app: str, version: int) -> Release:
    with platform.store.reading() as db:
        query = select(Release).join(App, App.id == Release.app_id)
        return db.scalars(query.where(App.name == app, Release.version == version)).one()


def state(platform: Platform, app: str, version: int) -> ReleaseState:
    return release(platform, app, version).state


# -- health checks ------------------------------------------------------------------------------


def test_a_check_that_fails_keeps_the_old(platform: Platform, app: str) -> None:
    """A startup check that does not succeed in its time fails the deploy by its name; the old goes on untouched."""
    platform.push(app, server("one"))
    (first,) = platform.instances(app, UP)
    check = {"type": "startup", "name": "is well", "path": "/check", "attempts": 1}
    made = platform.push(app, checked(503, {**check, "wait": 0.5, "timeout": 0.5}))
    assert made is not None
    assert made.state == ReleaseState.FAILED
    assert "health check is well answered 503, expected 200 to 399" in (made.reason or "")
    assert get(first) == "one web.1 v1"
    made = platform.push(
        app, checked(204, check, {"type": "startup", "command": ["test", "-e", "app.py"]})
    )
    assert made is not None
    assert made.state == ReleaseState.LIVE


def test_an_app_json_that_is_wrong_ends_the_build(platform: Platform, app: str) -> None:
    """Before anything is built, with the file, the line and what was expected."""
    build_id = platform.queue(
        platform.app_id(app), platform.commit(app, checked(200, {"type": "startup", "path": "up"}))
    )
    assert platform.outcome(build_id) is None
    assert "app.json line 1: healthchecks.web[0].path is 'up'" in platform.said(build_id)


def test_an_instance_that_is_not_alive_is_started_again(platform: Platform, app: str) -> None:
    """A liveness check that fails ends the instance and counts as a crash; the next one is well."""
    check = {"type": "liveness", "path": "/check", "attempts": 2, "wait": 0.2, "timeout": 1}
    platform.push(app, checked(200, check))
    (instance,) = platform.instances(app, UP)
    pid = platform.pid(instance)
    get(instance, "/set500")
    until(lambda: [i for i in platform.instances(app, UP) if i.restarts == 1], 15)
    (again,) = platform.instances(app, UP)
    assert platform.pid(again) != pid
    assert again.ready
    assert "liveness check /check answered 500, expected 200 to 399" in platform.log(app)


def test_an_instance_that_is_not_ready_gets_no_requests(platform: Platform, app: str) -> None:
    """A readiness check that fails takes it out of the routes, and back in once it succeeds; it runs on meanwhile."""
    check = {"type": "readiness", "path": "/check", "attempts": 2, "wait": 0.2, "timeout": 1}
    platform.push(app, checked(200, check))
    (instance,) = platform.instances(app, UP)
    pid, routes = platform.pid(instance), platform.app(app).routes_wanted
    get(instance, "/set503")
    until(lambda: not platform.instances(app)[0].ready, 10)
    assert platform.app(app).routes_wanted > routes
    get(instance, "/set200")
    until(lambda: platform.instances(app)[0].ready, 10)
    assert platform.pid(instance) == pid
    assert "Out of the routes: readiness check /check answered 503" in platform.log(app)


# -- the release phase --------------------------------------------------------------------------


def with_release(command: str, text: str = "one", **more: str) -> dict[str, str]:
    return {**server(text), "Procfile": f"web: python3 app.py\nrelease: {command}\n", **more}


def test_a_release_command_runs_before_anything_starts(platform: Platform, app: str) -> None:
    """In the new image, with config and environment; the push shows what it says, and so does the app's log."""
    config_vars.assign(platform.store, user(platform), app, {"PLACE": "there"})
    made = platform.push(app, with_release("echo moving $PLACE for $SHIPWAY_RELEASE as $DYNO; ls"))
    assert made is not None
    assert made.state == ReleaseState.LIVE
    assert made.build_id
    said = platform.said(made.build_id).splitlines()
    assert "       moving there for v1 as release.1" in said
    assert "       app.py" in said
    assert said.index("       app.py") < said.index("-----> Launching...")
    assert "app[release.1]: moving there for v1 as release.1" in platform.log(app)
    assert not [c for c in platform.engine.list() if c.id.startswith("task-")]


def test_a_release_command_that_fails_changes_nothing(platform: Platform, app: str) -> None:
    """The old release goes on, nothing of the new one was started, and the push says with what status it failed."""
    platform.push(app, server("one"))
    (first,) = platform.instances(app, UP)
    made = platform.push(app, with_release("echo no; exit 3", "two"))
    assert made is not None
    assert made.state == ReleaseState.FAILED
    assert made.reason == "The release command exited with status 3."
    assert [i.id for i in platform.instances(app)] == [first.id]
    assert get(first) == "one web.1 v1"


def test_a_release_command_has_its_time(platform: Platform, app: str) -> None:
    """One that takes longer than the app's setting is ended, and its deploy fails."""
    with platform.store.transaction() as db:
        db.scalars(select(App).where(App.name == app)).one().deploy_settings = {
            "release-timeout": "1"
        }
    made = platform.push(app, with_release("echo begun; sleep 100"))
    assert made is not None
    assert made.reason == "The release command took longer than 1 seconds."


def test_a_release_command_is_cancelled(platform: Platform, app: str) -> None:
    """builds:cancel ends a deploy in the middle of its release phase, container and all."""
    build_id = platform.queue(
        platform.app_id(app), platform.commit(app, with_release("echo begun; sleep 100"))
    )
    until(lambda: "       begun" in platform.said(build_id), 40)
    history.cancel_build(platform.store, user(platform), app, build_id)
    until(lambda: state(platform, app, 1) == ReleaseState.CANCELLED, 10)
    assert not [c for c in platform.engine.list() if c.id.startswith("task-")]
    assert platform.said(build_id).endswith(" !     Cancelled by ada.\n")
    assert not platform.instances(app)


def test_a_postdeploy_script_runs_once_the_version_answers(platform: Platform, app: str) -> None:
    """After the switch, in the new image; if it fails, that is said and the version serves."""
    script = json.dumps(
        {"scripts": {"dokku": {"postdeploy": "echo after $SHIPWAY_RELEASE; exit 2"}}}
    )
    made = platform.push(app, {**server("one"), "app.json": script})
    assert made is not None
    assert made.state == ReleaseState.LIVE
    assert made.build_id
    said = platform.said(made.build_id)
    assert "       after v1\n" in said
    assert (
        "The postdeploy command exited with status 2. The new version serves all the same." in said
    )


# -- one in another's place ---------------------------------------------------------------------


def test_a_deploy_that_waits_for_health_is_cancelled(platform: Platform, app: str) -> None:
    """The new instances go, and the old one never noticed."""
    platform.push(app, server("one"))
    (first,) = platform.instances(app, UP)
    never = {"type": "startup", "path": "/check", "attempts": 100}
    build_id = platform.queue(platform.app_id(app), platform.commit(app, checked(503, never)))
    until(lambda: len(platform.instances(app, InstanceState.STARTING)) == 1, 40)
    history.cancel_build(platform.store, user(platform), app, build_id)
    until(lambda: state(platform, app, 2) == ReleaseState.CANCELLED, 10)
    until(lambda: len(platform.instances(app, InstanceState.STOPPED)) == 1, 15)
    assert get(first) == "one web.1 v1"
    assert [i.id for i in platform.instances(app, UP)] == [first.id]


def test_a_newer_push_takes_the_place_of_one_that_is_deployed(platform: Platform, app: str) -> None:
    """One that waits for instances that never get well does not hold up the push with the remedy."""
    never = {"type": "startup", "path": "/check", "attempts": 100}
    first = platform.queue(platform.app_id(app), platform.commit(app, checked(503, never)))
    until(lambda: len(platform.instances(app, InstanceState.STARTING)) == 1, 40)
    made = platform.push(app, checked(200, never))
    assert made is not None
    assert made.state == ReleaseState.LIVE
    assert state(platform, app, 1) == ReleaseState.SUPERSEDED
    assert " !     Superseded by v2." in platform.said(first)


def test_a_build_gives_way_to_a_newer_push(platform: Platform, app: str) -> None:
    """The build that runs ends, its container is gone, and the newer one is built."""
    first = platform.queue(platform.app_id(app), platform.commit(app, server("one")))
    until(lambda: [c for c in platform.engine.list() if c.id.startswith("build-")], 20)
    made = platform.push(app, server("two"))
    assert made is not None
    assert made.version == 1
    assert platform.build(first).state == BuildState.SUPERSEDED
    assert platform.said(first).endswith(f" !     {builds.SUPERSEDED}\n")


def test_the_first_scale_keeps_the_process(platform: Platform, app: str) -> None:
    """Its release takes the instance over as it runs; going back takes it down again to what it was."""
    platform.push(app, server("one"))
    (first,) = platform.instances(app, UP)
    pid = platform.pid(first)
    made = scaling.scale(platform.store, user(platform), app, {"web": "3"})["release"]
    assert made["version"] == 2
    until(lambda: len(platform.instances(app, UP)) == 3, 10)
    assert platform.pid(first) == pid
    history.rollback(platform.store, user(platform), app, 1)
    until(lambda: state(platform, app, 3) == ReleaseState.LIVE, 20)
    until(lambda: len(platform.instances(app, InstanceState.STOPPED)) == 3, 20)
    (left,) = platform.instances(app, UP)
    assert left.release_id == release(platform, app, 3).id


# -- the end of the old -------------------------------------------------------------------------

SLOW = SERVER.replace(
    'if self.path == "/crash":',
    'if self.path == "/slow":\n            import time\n            time.sleep(4)\n'
    '        if self.path == "/crash":',
)


def ask_slowly(instance: Instance) -> Future[str]:
    """A request that takes four seconds, under way."""
    pool = ThreadPoolExecutor(1)
    answer = pool.submit(get, instance, "/slow")
    pool.shutdown(wait=False)
    return answer


def let_go(platform: Platform, app: str, drain: str) -> Future[str]:
    """A request under way at an instance that is not wanted any more, with so many seconds for it."""
    platform.push(app, {"app.py": f"TEXT = 'one'\n{SLOW}", "Procfile": "web: python3 app.py\n"})
    deployconfig.change_settings(platform.store, user(platform), app, {"drain-timeout": drain})
    (first,) = platform.instances(app, UP)
    answer = ask_slowly(first)
    until(lambda: any(connected(first.port or 0, platform.pid(first))), 5)
    scaling.scale(platform.store, user(platform), app, {"web": "0"})
    return answer


def connected(port: int, pid: int) -> Iterator[bool]:
    for name in ("tcp", "tcp6"):
        yield health.connected(Path(f"/proc/{pid}/net/{name}").read_text(), port)


def test_requests_under_way_are_finished(platform: Platform, app: str) -> None:
    """An old instance ends only once it has answered."""
    assert let_go(platform, app, "20").result(15) == "one web.1 v1"
    until(lambda: platform.instances(app, InstanceState.STOPPED), 10)


def test_the_time_for_requests_under_way_ends(platform: Platform, app: str) -> None:
    """When the app's drain-timeout is over the instance ends, answered or not."""
    with pytest.raises((OSError, http.client.HTTPException)):
        let_go(platform, app, "0").result(15)
    until(lambda: platform.instances(app, InstanceState.STOPPED), 10)


def test_an_app_has_its_own_time_to_end(platform: Platform, app: str) -> None:
    """A process that does not end on SIGTERM is killed after the app's stop-timeout, not the platform's."""
    deaf = server("one")["app.py"].replace("sys.exit(0)", "print('no')")
    platform.push(app, {"app.py": deaf, "Procfile": "web: python3 app.py\n"})
    deployconfig.change_settings(platform.store, user(platform), app, {"stop-timeout": "1"})
    scaling.scale(platform.store, user(platform), app, {"web": "0"})
    until(lambda: platform.instances(app, InstanceState.STOPPED), 10)
    assert "failed to exit within 1 seconds of SIGTERM" in platform.log(app)
