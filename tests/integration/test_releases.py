"""Releases through the API: what each holds, which changes make one, going back, and one taking another's place."""

from collections.abc import Iterator

import pytest

from apilab import Lab, lab
from shipway.platform import releases
from shipway.platform.models import Release
from shipway.platform.states import ReleaseState
from shipway.platform.store import move


@pytest.fixture(scope="module")
def api() -> Iterator[Lab]:
    with lab() as made:
        yield made


def states(api: Lab, app: str) -> dict[int, str]:
    """The state of each release by version."""
    return {each["version"]: each["state"] for each in api.ok("GET", f"/apps/{app}/releases")}


def live(api: Lab, app: str, version: int) -> None:
    api.wait(lambda: states(api, app).get(version) == "live")


def test_a_release_says_what_it_is_made_of(api: Lab) -> None:
    """Image, process types, scale, the names of config vars and never their values, who and why."""
    api.deployed("whole")
    api.ok("PATCH", "/apps/whole/config", {"TOKEN": "s3cret-value"})
    live(api, "whole", 2)
    found = api.ok("GET", "/apps/whole/releases/2")
    assert found["image"] == "sha256:1"
    assert found["processes"]["web"] == "serve"
    assert found["formation"] == {"web": 1, "worker": 0}
    assert found["config"] == ["TOKEN"]
    assert found["description"] == "Config add TOKEN"
    assert found["user"]
    shown = api.cli("releases:info", "whole", "v2").stdout
    assert "Scale:       web=1 worker=0" in shown
    assert "Config:      TOKEN" in shown
    assert "s3cret-value" not in shown + str(found)


def test_the_first_scale_of_a_type_is_a_release(api: Lab) -> None:
    """It is made at once, and keeps the instances that run; scaling the type again makes none."""
    api.deployed("scaled")
    (before,) = api.ok("GET", "/apps/scaled/ps")
    answer = api.ok("PATCH", "/apps/scaled/formation", {"web": 2})
    assert answer["release"]["version"] == 2
    assert answer["release"]["description"] == "Scale web=2"
    api.wait(lambda: [each["state"] for each in api.ok("GET", "/apps/scaled/ps")] == ["up"] * 2)
    after = api.ok("GET", "/apps/scaled/ps")
    assert after[0]["id"] == before["id"]
    assert {each["version"] for each in after} == {2}
    assert states(api, "scaled") == {1: "retired", 2: "live"}
    assert api.ok("PATCH", "/apps/scaled/formation", {"web": 3})["release"] is None
    assert api.ok("GET", "/apps/scaled/releases/2")["formation"] == {"web": 3, "worker": 0}
    assert api.ok("GET", "/apps/scaled/releases/1")["formation"] == {"web": 1, "worker": 0}


def test_a_rollback_restores_image_config_and_scale(api: Lab) -> None:
    """All three at once, as they last served; and the scale only changes once the rollback is live."""
    api.deployed("restored")
    api.ok("PATCH", "/apps/restored/formation", {"web": 3})
    api.ok("PATCH", "/apps/restored/config", {"A": "2"})
    live(api, "restored", 3)
    api.hold.set()
    try:
        assert api.ok("POST", "/apps/restored/rollback", {"version": 1})["release"][
            "formation"
        ] == {"web": 1, "worker": 0}
        assert api.ok("GET", "/apps/restored/formation") == {"web": 3, "worker": 0}
    finally:
        api.hold.clear()
    live(api, "restored", 4)
    assert api.ok("GET", "/apps/restored/formation") == {"web": 1, "worker": 0}
    assert api.ok("GET", "/apps/restored/config") == {}
    api.ok("POST", "/apps/restored/rollback", {"version": 3})
    live(api, "restored", 5)
    assert api.ok("GET", "/apps/restored/formation") == {"web": 3, "worker": 0}
    assert api.ok("GET", "/apps/restored/config") == {"A": "2"}


def test_config_changes_that_come_together_deploy_once(api: Lab) -> None:
    """Of five changes in a row the last is deployed, with all five in it; the others say what took their place."""
    api.deployed("burst")
    api.hold.set()
    try:
        for number in range(5):
            api.ok("PATCH", "/apps/burst/config", {f"KEY{number}": "x"})
    finally:
        api.hold.clear()
    live(api, "burst", 6)
    assert states(api, "burst") == {
        1: "retired",
        **dict.fromkeys(range(2, 6), "superseded"),
        6: "live",
    }
    assert api.ok("GET", "/apps/burst/releases/2")["reason"] == "Superseded by v3."
    assert len(api.ok("GET", "/apps/burst/releases/6")["config"]) == 5


def test_code_on_its_way_is_not_given_up_for_a_config_change(api: Lab) -> None:
    """A config change behind a deploy of new code waits for it, for the code would be lost if the change failed."""
    api.deployed("patient")
    api.hold.set()
    try:
        with api.store.transaction() as db:
            app = api.row(db, "patient")
            base = releases.current(db, app)
            assert base
            for number in (2, 3):
                releases.create(
                    db,
                    app,
                    base.user,
                    api.store.now(db),
                    description=f"Deploy {number}",
                    image=f"sha256:{number}",
                    processes=base.processes,
                    config=None,
                    overrides=True,
                )
        api.ok("PATCH", "/apps/patient/config", {"A": "1"})
        found = states(api, "patient")
        assert (found[2], found[3], found[4]) == ("superseded", "pending", "pending")
    finally:
        api.hold.clear()
    live(api, "patient", 4)
    assert states(api, "patient")[3] == "retired"


def test_a_deploy_is_cancelled(api: Lab) -> None:
    """One that waits ends at once; one that is done cannot be cancelled any more; the old release goes on."""
    api.deployed("halted")
    api.hold.set()
    try:
        api.ok("PATCH", "/apps/halted/config", {"A": "1"})
        assert "Cancelling v2 of halted... done" in api.cli("releases:cancel", "halted").stdout
    finally:
        api.hold.clear()
    assert states(api, "halted") == {1: "live", 2: "cancelled"}
    status, message = api.refused("POST", "/apps/halted/releases/2/cancel", {})
    assert (status, message) == (409, "v2 has ended already: cancelled.")
    status, message = api.refused("POST", "/apps/halted/releases/newest/cancel", {})
    assert (status, message) == (409, "No deploy of halted is under way.")
    assert api.refused("POST", "/apps/halted/builds/latest/cancel", {})[0] == 409


def test_an_image_that_is_gone_is_no_target(api: Lab) -> None:
    """A release whose image is not kept any more is refused by name before anything is begun."""
    api.deployed("long-lived")
    with api.store.transaction() as db:
        app = api.row(db, "long-lived")
        base = releases.current(db, app)
        assert base
        for version in range(2, 2 + releases.KEPT_RELEASES):
            row = Release(
                app_id=app.id,
                version=version,
                user_id=base.user_id,
                description="Deploy",
                image=f"sha256:{version}",
                processes={"web": "serve"},
                created_at=0.0,
            )
            db.add(row)
            db.flush()
            move(db, row, ReleaseState.LIVE)
            move(db, row, ReleaseState.RETIRED)
    answer = api.ok("POST", "/apps/long-lived/rollback", {"version": 11})
    live(api, "long-lived", answer["release"]["version"])
    _, message = api.refused("POST", "/apps/long-lived/rollback", {"version": 1})
    assert "The image of v1 is gone" in message


def test_deploy_settings(api: Lab) -> None:
    """An app has times of its own, each checked; an empty one is the platform's again."""
    api.ok("POST", "/apps", {"name": "timed"})
    out = api.cli("deploys:set", "timed", "drain-timeout=60", "stop-timeout=2.5")
    assert out.stdout == "Setting drain-timeout, stop-timeout of timed... done\n"
    found = api.ok("GET", "/apps/timed/deploy-settings")
    assert found["own"] == {"drain-timeout": "60", "stop-timeout": "2.5"}
    assert found["settings"]["boot-timeout"] == "60"
    assert "this app's" in api.cli("deploys:settings", "timed").stdout
    assert api.ok("PATCH", "/apps/timed/deploy-settings", {"stop-timeout": ""})["own"] == {
        "drain-timeout": "60"
    }
    for changes, complaint in (
        ({"grace": "3"}, "'grace' is no setting of deploys: there are boot-timeout,"),
        ({"boot-timeout": "0"}, "boot-timeout is '0', expected seconds from 1 to 3600."),
        ({"stop-timeout": "nan"}, "stop-timeout is 'nan', expected seconds from 0 to 3600."),
        ({"stop-timeout": 3}, "The value of 'stop-timeout' is no text."),
    ):
        status, message = api.refused("PATCH", "/apps/timed/deploy-settings", changes)
        assert status == 400
        assert complaint in message
