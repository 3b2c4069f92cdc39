"""The API over HTTP: a real gunicorn, SQLite and Redis; rows are moved as the workers would."""

import http.client
import json
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import select

from apilab import Lab, lab
from shipway.platform import applog
from shipway.platform.cli.client import Client, Refused
from shipway.platform.models import App, Formation, Instance, Release


@pytest.fixture(scope="module")
def api() -> Iterator[Lab]:
    """One lab for all tests of this file."""
    with lab() as found:
        yield found


@pytest.fixture(scope="module")
def mary(api: Lab) -> str:
    """A user's token who owns nothing."""
    return api.user("mary")


def client(api: Lab) -> Client:
    """The command line's client, as the admin."""
    return Client(f"http://127.0.0.1:{api.settings.web_port}", api.token)


def keygen(api: Lab, name: str) -> str:
    """A new public key's line."""
    path = api.folder / name
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(path)], check=True
    )
    return path.with_suffix(".pub").read_text()


def raw_get(api: Lab, path: str) -> str:
    """The body of an address, as plain text."""
    connection = http.client.HTTPConnection("127.0.0.1", api.settings.web_port, timeout=30)
    connection.request("GET", f"/api/v1{path}", headers={"Authorization": f"Bearer {api.token}"})
    return connection.getresponse().read().decode()


# -- who ----------------------------------------------------------------------------------------


def test_health_needs_no_token(api: Lab) -> None:
    """Anybody may ask whether the platform is well."""
    answer = api.ok("GET", "/health", token="")
    assert answer == {"status": "up", "database": True, "redis": True}


@pytest.mark.parametrize("token", ["", "shw_wrong", "ä ö", "x" * 5000])
def test_a_token_is_needed(api: Lab, token: str) -> None:
    """Without a valid token every address but health and login is a 401 in the API's form."""
    status, answer = api.call("GET", "/apps", token=token.encode().decode("latin-1"))
    assert status == 401
    assert answer["error"]["kind"] == "unauthenticated"


def test_login_gives_a_token(api: Lab) -> None:
    """The admin's first password logs in; the token works until it is ended; a wrong password does not."""
    password = (api.settings.secrets / "admin-password").read_text().strip()
    made = api.ok("POST", "/login", {"user": "admin", "password": password}, token="")
    assert api.ok("GET", "/whoami", token=made["token"])["name"] == "admin"
    api.ok("DELETE", "/tokens/current", token=made["token"])
    assert api.refused("GET", "/whoami", token=made["token"])[0] == 401
    assert api.refused("POST", "/login", {"user": "admin", "password": "x"}, token="")[0] == 401


def test_an_expired_token_is_refused(api: Lab) -> None:
    """A token ends when it was said to."""
    made = api.ok("POST", "/tokens", {"name": "short", "days": 0.000001})
    time.sleep(0.2)
    assert api.refused("GET", "/apps", token=made["token"])[0] == 401


def test_tokens_show_no_secret(api: Lab, mary: str) -> None:
    """A token's secret is in no list, and only its owner can revoke it."""
    made = api.ok("POST", "/tokens", {"name": "ci"})
    assert made["token"].startswith("shw_")
    listed = api.ok("GET", "/tokens")
    assert made["token"] not in json.dumps(listed)
    assert api.refused("DELETE", f"/tokens/{made['id']}", token=mary)[0] == 404
    assert api.ok("DELETE", f"/tokens/{made['id']}")["name"] == "ci"


def test_keys(api: Lab, mary: str) -> None:
    """Keys are added once, listed by fingerprint, and removed by name; an admin may add another's."""
    line = keygen(api, "laptop")
    added = api.ok("POST", "/keys", {"key": line}, token=mary)
    assert added["name"] == "laptop"
    assert api.ok("GET", "/keys", token=mary) == [added]
    assert api.refused("POST", "/keys", {"key": line}) == (
        409,
        f"The key {added['fingerprint']} is registered already, by another user.",
    )
    assert api.ok("DELETE", "/keys?key=laptop", token=mary)["fingerprint"] == added["fingerprint"]
    assert api.refused("DELETE", "/keys?key=laptop", token=mary)[0] == 404
    other = keygen(api, "desktop")
    assert api.refused("POST", "/keys", {"key": other, "user": "admin"}, token=mary)[0] == 403
    api.ok("POST", "/keys", {"key": other, "user": "mary"})
    assert [key["name"] for key in api.ok("GET", "/keys", token=mary)] == ["desktop"]


def test_users_are_for_admins(api: Lab, mary: str) -> None:
    """Only admins list and make users; a password is made where none is given, and works."""
    assert api.refused("GET", "/users", token=mary)[0] == 403
    assert api.refused("POST", "/users", {"name": "eve"}, token=mary)[0] == 403
    made = api.ok("POST", "/users", {"name": "john"})
    logged_in = api.ok("POST", "/login", {"user": "john", "password": made["password"]}, token="")
    assert api.ok("GET", "/whoami", token=logged_in["token"]) == {
        "name": "john",
        "admin": False,
        "created_at": made["created_at"],
    }
    assert api.refused("POST", "/users", {"name": "john"})[0] == 409
    assert api.refused("POST", "/users", {"name": "x", "password": "short"})[0] == 400


# -- apps ---------------------------------------------------------------------------------------


def test_an_app_from_birth_to_end(api: Lab) -> None:
    """An app is made, shown, listed, and destroyed."""
    made = api.ok("POST", "/apps", {"name": "cradle"})
    assert made["url"] == api.settings.app_url("cradle")
    assert made["git_url"].endswith("/cradle.git")
    assert made["ssh_url"] == f"ssh://git@127.0.0.1:{api.settings.ssh_port}/cradle"
    assert made["version"] is None
    assert "cradle" in [app["name"] for app in api.ok("GET", "/apps")]
    assert api.refused("POST", "/apps", {"name": "cradle"}) == (409, "The name 'cradle' is taken.")
    api.ok("DELETE", "/apps/cradle")
    assert api.refused("GET", "/apps/cradle") == (404, "There is no app 'cradle'.")
    assert "still being destroyed" in api.refused("POST", "/apps", {"name": "cradle"})[1]


def test_a_name_is_found_for_an_app(api: Lab) -> None:
    """Without a name an app gets one, a different one each time."""
    names = {api.ok("POST", "/apps", {})["name"] for _ in range(3)}
    assert len(names) == 3


@pytest.mark.parametrize("name", ["Bad", "1st", "a" * 31, "x-", "a_b", "ä", "../x", 7, ["x"]])
def test_bad_names_are_refused(api: Lab, name: Any) -> None:
    """What is no app name is a 400 that says what one is."""
    status, message = api.refused("POST", "/apps", {"name": name})
    assert status == 400
    assert "name" in message


@pytest.mark.parametrize("raw", [b"{", b"[]", b"nonsense", b"\xff\xfe", b'"text"'])
def test_a_body_that_is_no_object(api: Lab, raw: bytes) -> None:
    """A body that is no JSON object is a 400, not a failure."""
    status, answer = api.call("POST", "/apps", raw=raw)
    assert (status, answer["error"]["kind"]) == (400, "invalid_input")


def test_a_body_too_large(api: Lab) -> None:
    """A body of more than a megabyte is a 413."""
    status, _ = api.call("PATCH", "/apps/x/config", {"A": "x" * (2 << 20)})
    assert status == 413


def test_access(api: Lab, mary: str) -> None:
    """An app is its owner's until somebody is let in; those let in can use it but not give it away or destroy it."""
    api.ok("POST", "/apps", {"name": "shared"})
    assert api.refused("GET", "/apps/shared", token=mary)[0] == 403
    assert "shared" not in [app["name"] for app in api.ok("GET", "/apps", token=mary)]
    api.ok("POST", "/apps/shared/access", {"user": "mary"})
    api.ok("POST", "/apps/shared/access", {"user": "mary"})
    assert api.ok("GET", "/apps/shared", token=mary)["access"] == ["mary"]
    assert api.refused("DELETE", "/apps/shared", token=mary)[0] == 403
    assert api.refused("POST", "/apps/shared/access", {"user": "john"}, token=mary)[0] == 403
    assert api.refused("POST", "/apps/shared/access", {"user": "nobody"})[0] == 404
    api.ok("DELETE", "/apps/shared/access/mary")
    assert api.refused("GET", "/apps/shared", token=mary)[0] == 403
    assert api.refused("DELETE", "/apps/shared/access/mary")[0] == 404


def test_every_address_of_an_app_checks_access(api: Lab, mary: str) -> None:
    """No address of somebody else's app answers."""
    api.deployed("private")
    for path in (
        "",
        "/builds",
        "/builds/latest",
        "/builds/latest/output",
        "/releases",
        "/releases/1",
        "/releases/1/output",
        "/ps",
        "/formation",
        "/config",
        "/domains",
        "/routing",
        "/routed",
        "/metrics",
        "/access",
        "/logs",
        "/settle?ids=1",
    ):
        status, answer = api.call("GET", f"/apps/private{path}", token=mary)
        assert status == 403, (path, answer)
    changes: list[tuple[str, str, Any]] = [
        ("POST", "/builds", {}),
        ("POST", "/builds/latest/cancel", {}),
        ("POST", "/rollback", {}),
        ("PATCH", "/formation", {"web": 2}),
        ("POST", "/restart", {}),
        ("PATCH", "/config", {"A": "1"}),
        ("POST", "/domains", {"domain": "a.example"}),
        ("DELETE", "/domains/a.example", None),
        ("DELETE", "/domains", None),
        ("PATCH", "/routing", {"rate-limit": "1"}),
        ("PUT", "/maintenance", {"on": True}),
        ("DELETE", "", None),
    ]
    for method, path, body in changes:
        assert api.refused(method, f"/apps/private{path}", body, token=mary)[0] == 403, path
    assert api.ok("GET", "/apps/private/releases")[0]["version"] == 1


def test_domains(api: Lab) -> None:
    """A domain is one app's, in one spelling; the platform's own names and nonsense are refused."""
    api.ok("POST", "/apps", {"name": "dom"})
    api.ok("POST", "/apps", {"name": "dom2"})
    added = api.ok("POST", "/apps/dom/domains", {"domain": "WWW.Example.COM."})
    assert added == {"domain": "www.example.com"}
    assert (
        api.ok("POST", "/apps/dom/domains", {"domain": "bücher.example"})["domain"]
        == "xn--bcher-kva.example"
    )
    assert api.ok("GET", "/apps/dom/domains")["domains"] == [
        "dom.localhost",
        "www.example.com",
        "xn--bcher-kva.example",
    ]
    status, message = api.refused("POST", "/apps/dom2/domains", {"domain": "www.example.com"})
    assert status == 409
    assert "dom'" not in message
    for bad in (
        "x",
        "http://a.example",
        "a.example:80",
        "a..b",
        "-a.example",
        "1.2.3.4",
        "*.b",
        "*.*.a.b",
        "a b.c",
        "a.b\x00",
    ):
        assert api.refused("POST", "/apps/dom/domains", {"domain": bad})[0] == 400, bad
    assert api.refused("POST", "/apps/dom/domains", {"domain": "other.localhost"})[0] == 409
    api.ok("DELETE", "/apps/dom/domains/www.example.com")
    assert api.refused("DELETE", "/apps/dom/domains/www.example.com")[0] == 404
    assert api.ok("DELETE", "/apps/dom/domains") == {"domains": ["xn--bcher-kva.example"]}
    assert api.ok("DELETE", "/apps/dom/domains") == {"domains": []}
    assert api.ok("GET", "/apps/dom/domains")["domains"] == ["dom.localhost"]


def test_wildcards(api: Lab, mary: str) -> None:
    """Names that a wildcard covers belong to apps of one owner; who is refused hears of the rule, and of no name."""
    token = mary
    api.ok("POST", "/apps", {"name": "wild"})
    api.ok("POST", "/apps", {"name": "wild2"})
    api.ok("POST", "/apps", {"name": "hers"}, token=token)
    api.ok("POST", "/apps/wild/domains", {"domain": "*.Wild.example"})
    api.ok("POST", "/apps/wild2/domains", {"domain": "shop.wild.example"})
    api.ok("POST", "/apps/hers/domains", {"domain": "a.tame.example"}, token=token)
    rule = "is taken: a wildcard and the domains under it belong to apps of one owner."
    for host, body in (
        ("evil.wild.example", {"token": token, "app": "hers"}),
        ("*.deep.wild.example", {"token": token, "app": "hers"}),
        ("*.tame.example", {"app": "wild"}),
    ):
        path = f"/apps/{body.pop('app')}/domains"
        assert api.refused("POST", path, {"domain": host}, **body) == (409, f"{host} {rule}")
    api.ok("POST", "/apps/hers/domains", {"domain": "xwild.example"}, token=token)
    status, message = api.refused(
        "POST", "/apps/hers/domains", {"domain": "*.wild.example"}, token=token
    )
    assert (status, message) == (
        409,
        "*.wild.example is taken: a domain belongs to one app only.",
    )
    api.ok("DELETE", "/apps/wild/domains/*.wild.example")
    api.ok("DELETE", "/apps/wild2/domains/shop.wild.example")
    api.ok("POST", "/apps/hers/domains", {"domain": "evil.wild.example"}, token=token)


# -- processes ----------------------------------------------------------------------------------


def test_scaling_without_a_release_is_stored(api: Lab) -> None:
    """Before the first push the scale is only kept, and the first release then runs so many."""
    api.ok("POST", "/apps", {"name": "early"})
    assert api.ok("PATCH", "/apps/early/formation", {"web": 2, "worker": "+1"}) == {
        "formation": {"web": 2, "worker": 1},
        "instances": [],
        "release": None,
    }
    api.deployed("early")
    names = sorted(row["name"] for row in api.ok("GET", "/apps/early/ps"))
    assert names == ["web.1", "web.2", "worker.1"]


def test_scaling_touches_only_the_difference(api: Lab) -> None:
    """Those that run are the same ones afterwards, and the answer names exactly those that start or stop."""
    api.deployed("diff")
    first = api.ok("GET", "/apps/diff/ps")
    answer = api.ok("PATCH", "/apps/diff/formation", {"web": "+2"})
    assert answer["formation"] == {"web": 3, "worker": 0}
    assert len(answer["instances"]) == 2
    assert first[0]["id"] not in answer["instances"]
    ids = ",".join(map(str, answer["instances"]))
    moves = [event.data for event in client(api).stream("/apps/diff/settle", ids=ids)]
    assert moves[-1] == {"end": "done", "message": ""}
    assert {"instance": "web.2", "state": "up"} in moves
    now = {row["name"]: row for row in api.ok("GET", "/apps/diff/ps")}
    assert {name: row["state"] for name, row in now.items()} == dict.fromkeys(
        ("web.1", "web.2", "web.3"), "up"
    )
    assert now["web.1"]["id"] == first[0]["id"]
    down = api.ok("PATCH", "/apps/diff/formation", {"web": "-2"})
    assert sorted(down["instances"]) == sorted(answer["instances"])
    assert api.ok("PATCH", "/apps/diff/formation", {"web": 1})["instances"] == []


@pytest.mark.parametrize(
    ("changes", "status", "said"),
    [
        ({"wrker": 1}, 404, "web, worker"),
        ({"release": 1}, 400, "task"),
        ({"web": "x"}, 400, "'-1' for one fewer"),
        ({"web": "=-1"}, 400, "'-1' for one fewer"),
        ({"web": -1}, 400, "use 0 to 100 for exactly so many, or the text '-1' for 1 fewer"),
        ({"web": "-2"}, 400, "use 0 to 100"),
        ({"web": 101}, 400, "0 to 100"),
        ({"web": True}, 400, "expected"),
        ({"a/b": 1}, 400, "process type"),
        ({}, 400, "what to scale"),
    ],
)
def test_a_scale_that_cannot_be(api: Lab, changes: Any, status: int, said: str) -> None:
    """A wrong type or amount changes nothing and says what would be right."""
    api.deployed("wrong") if "wrong" not in api.processes_of else None
    found = api.refused("PATCH", "/apps/wrong/formation", changes)
    assert found[0] == status
    assert said in found[1]
    assert api.ok("GET", "/apps/wrong/formation") == {"web": 1, "worker": 0}


def test_many_scale_at_once(api: Lab) -> None:
    """Twenty who add one each make twenty more, none lost and none twice."""
    api.deployed("race")
    threads = [
        threading.Thread(target=api.ok, args=("PATCH", "/apps/race/formation", {"web": "+1"}))
        for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    names = [row["name"] for row in api.ok("GET", "/apps/race/ps")]
    assert sorted(names) == sorted(f"web.{n}" for n in range(1, 22))
    api.ok("PATCH", "/apps/race/formation", {"web": 0})


def test_an_instance_that_crashes_ends_the_wait(api: Lab) -> None:
    """Who waits for a scale hears of the crash and its reason."""
    api.deployed("frail")
    api.crash = "worker"
    try:
        ids = api.ok("PATCH", "/apps/frail/formation", {"worker": 1})["instances"]
        moves = [
            event.data
            for event in client(api).stream("/apps/frail/settle", ids=",".join(map(str, ids)))
        ]
    finally:
        api.crash = ""
    assert moves[-1] == {
        "end": "failed",
        "message": "worker.1 crashed: Process exited with status 3.",
    }


def test_settle_shows_no_other_apps_instances(api: Lab, mary: str) -> None:
    """Ids of another app's instances are as if they were not there."""
    api.deployed("secretive")
    api.ok("POST", "/apps", {"name": "marys"}, token=mary)
    other = api.ok("GET", "/apps/secretive/ps")[0]["id"]
    here = Client(f"http://127.0.0.1:{api.settings.web_port}", mary)
    assert [e.data for e in here.stream("/apps/marys/settle", ids=other)] == [
        {"end": "done", "message": ""}
    ]


def test_restart(api: Lab) -> None:
    """A restart of the app is a release with all new instances; one of an instance replaces that one alone."""
    api.deployed("fresh")
    api.ok("PATCH", "/apps/fresh/formation", {"web": 2})
    before = {row["name"]: row["id"] for row in api.ok("GET", "/apps/fresh/ps")}
    one = api.ok("POST", "/apps/fresh/restart", {"process": "web.2"})
    assert before["web.2"] in one["instances"]
    now = {row["name"]: row["id"] for row in api.ok("GET", "/apps/fresh/ps")}
    assert now["web.1"] == before["web.1"]
    assert now["web.2"] != before["web.2"]
    assert "web.1, web.2" in api.refused("POST", "/apps/fresh/restart", {"process": "web.9"})[1]
    release = api.ok("POST", "/apps/fresh/restart", {})
    assert release["description"] == "Restart"
    path = f"/apps/fresh/releases/{release['version']}/output"
    events = list(client(api).stream(path, follow=1))
    assert events[-1].data["state"] == "live"
    assert not {row["id"] for row in api.ok("GET", "/apps/fresh/ps")} & set(now.values())


# -- config and releases ------------------------------------------------------------------------


def test_config_makes_a_release(api: Lab) -> None:
    """With a release a change of config is the next one; without one, or without a change, there is none."""
    api.ok("POST", "/apps", {"name": "conf"})
    first = api.ok("PATCH", "/apps/conf/config", {"A": "1", "LONG": "ä\n= '\""})
    assert first == {"keys": ["A", "LONG"], "changed": True, "release": None}
    api.deployed("conf")
    second = api.ok("PATCH", "/apps/conf/config", {"B": "two"})
    assert second["release"]["description"] == "Config add B"
    assert second["release"]["version"] == 2
    third = api.ok("PATCH", "/apps/conf/config", {"B": "two"})
    assert third == {"keys": ["A", "B", "LONG"], "changed": False, "release": None}
    fourth = api.ok("PATCH", "/apps/conf/config", {"A": None})
    assert fourth["release"]["description"] == "Config remove A"
    assert api.ok("GET", "/apps/conf/config") == {"B": "two", "LONG": "ä\n= '\""}
    assert api.refused("PATCH", "/apps/conf/config", {"A": None})[0] == 404


@pytest.mark.parametrize(
    "values",
    [
        {"1A": "x"},
        {"A B": "x"},
        {"PORT": "1"},
        {"A": 1},
        {"A": "x", "B": None},
        {"A": "\0"},
        {},
        {"A": "x" * 40_000},
        {f"K{n}": "x" * 30_000 for n in range(10)},
    ],
    ids=range(9),
)
def test_config_that_cannot_be(api: Lab, values: Any) -> None:
    """A wrong name or value is refused, and its value is not in the message."""
    api.ok("POST", "/apps", {"name": "confbad"}) if api.call("GET", "/apps/confbad")[
        0
    ] == 404 else None
    status, message = api.refused("PATCH", "/apps/confbad/config", values)
    assert status == 400
    assert "xxx" not in message
    assert api.ok("GET", "/apps/confbad/config") == {}


def test_config_is_sealed_and_unlogged(api: Lab) -> None:
    """A value stands in no log, release or database file in the clear."""
    secret = "s3cr3t-value-of-a-config-var"
    api.deployed("sealed")
    api.ok("PATCH", "/apps/sealed/config", {"KEY": secret})
    assert secret not in json.dumps(api.ok("GET", "/apps/sealed/releases"))
    assert secret not in raw_get(api, "/apps/sealed/logs")
    # By another process: one that closes SQLite's files gives up all its locks on them, and we have the database open.
    search = ["grep", "-rlF", "-D", "skip", secret, api.settings.data]
    found = subprocess.run(search, stdout=subprocess.PIPE, text=True, check=False)
    assert (found.returncode, found.stdout) == (1, "")


def test_a_change_builds_on_what_is_on_its_way(api: Lab) -> None:
    """A config change while a newer release is being deployed does not bring the older image back."""
    api.deployed("overtaken")
    api.hold.set()
    try:
        with api.store.transaction() as db:
            app = api.row(db, "overtaken")
            base = db.scalars(select(Release).where(Release.app_id == app.id)).one()
            from shipway.platform import releases

            releases.create(
                db,
                app,
                base.user,
                api.store.now(db),
                description="Deploy newer",
                image="sha256:newer",
                processes=base.processes,
                config=None,
            )
        made = api.ok("PATCH", "/apps/overtaken/config", {"A": "1"})["release"]
        assert made["version"] == 3
        assert made["image"] == "sha256:newer"
    finally:
        api.hold.clear()


def test_rollback(api: Lab) -> None:
    """A rollback is a new release with the image, config and process types of an old one."""
    api.deployed("back")
    api.ok("PATCH", "/apps/back/config", {"A": "2"})
    api.wait(lambda: api.ok("GET", "/apps/back/releases/current")["version"] == 2)
    answer = api.ok("POST", "/apps/back/rollback", {"version": 1})
    assert (answer["from"], answer["to"]) == (2, 1)
    assert answer["release"]["version"] == 3
    assert answer["release"]["description"] == "Rollback to v1"
    assert api.ok("GET", "/apps/back/config") == {}
    api.wait(lambda: api.ok("GET", "/apps/back/releases/current")["version"] == 3)
    assert api.ok("POST", "/apps/back/rollback", {})["to"] == 2
    assert api.ok("GET", "/apps/back/config") == {"A": "2"}
    api.wait(lambda: api.ok("GET", "/apps/back/releases/current")["version"] == 4)
    assert api.refused("POST", "/apps/back/rollback", {"version": 4})[0] == 409
    assert api.refused("POST", "/apps/back/rollback", {"version": 99})[0] == 404
    assert api.refused("POST", "/apps/back/rollback", {"version": "1"})[0] == 400


def test_a_failed_release_is_no_target(api: Lab) -> None:
    """What never served cannot be gone back to, and the deploy's end says why it failed."""
    api.deployed("failing")
    api.crash = "web"
    try:
        made = api.ok("PATCH", "/apps/failing/config", {"A": "1"})["release"]
        path = f"/apps/failing/releases/{made['version']}/output"
        end = list(client(api).stream(path, follow=1))[-1]
    finally:
        api.crash = ""
    assert end.data == {
        "state": "failed",
        "reason": "web.1: Process exited with status 3",
        "version": 2,
    }
    assert api.ok("GET", "/apps/failing/releases/current")["version"] == 1
    status, message = api.refused("POST", "/apps/failing/rollback", {"version": 2})
    assert (status, "never served" in message) == (409, True)


def test_builds(api: Lab) -> None:
    """Builds are listed with their release, shown, built again, and cancelled while they wait."""
    api.deployed("built")
    first = api.ok("GET", "/apps/built/builds")[0]
    assert (first["state"], first["version"], first["branch"]) == ("succeeded", 1, "main")
    assert (first["outcome"], first["release_state"]) == ("succeeded", "live")
    again = api.ok("POST", "/apps/built/builds", {})
    assert again["commit"] == first["commit"]
    events = list(client(api).stream(f"/apps/built/builds/{again['id']}/output", follow=1))
    lines = [line for event in events if event.name == "lines" for line in event.data]
    assert lines == [
        "-----> Building on the test stack",
        "-----> Launching...",
        "       Released v2",
    ]
    assert events[-1].data == {"state": "live", "reason": None, "version": 2}
    assert "already" in api.refused("POST", f"/apps/built/builds/{again['id']}/cancel")[1]
    api.hold.set()
    try:
        waiting = api.ok("POST", "/apps/built/builds", {})
        cancelled = api.ok("POST", "/apps/built/builds/latest/cancel", {})
        assert (cancelled["id"], cancelled["state"]) == (waiting["id"], "cancelled")
    finally:
        api.hold.clear()
    assert api.refused("GET", "/apps/built/builds/999999")[0] == 404
    assert api.refused("GET", "/apps/built/builds/x")[0] == 400
    text = raw_get(api, f"/apps/built/builds/{again['id']}/output")
    assert text.splitlines() == lines


def test_an_app_without_code(api: Lab) -> None:
    """What needs code says so for an app that has none."""
    api.ok("POST", "/apps", {"name": "empty"})
    for path in ("/builds", "/rollback", "/restart"):
        status, message = api.refused("POST", f"/apps/empty{path}", {})
        assert status == 409, path
        assert "empty" in message
    assert api.refused("GET", "/apps/empty/releases/current")[0] == 404
    assert api.ok("GET", "/apps/empty/ps") == []


def test_destroy_ends_what_is_under_way(api: Lab) -> None:
    """With an app go its waiting builds, its pending releases, and its instances."""
    api.deployed("doomed")
    api.hold.set()
    try:
        api.ok("PATCH", "/apps/doomed/config", {"A": "1"})
        api.ok("POST", "/apps/doomed/builds", {})
        with api.store.reading() as db:
            app_id = api.row(db, "doomed").id
        api.ok("DELETE", "/apps/doomed")
        with api.store.reading() as db:
            states = set(db.scalars(select(Release.state).where(Release.app_id == app_id)))
            wanted = set(db.scalars(select(Instance.desired).where(Instance.app_id == app_id)))
            assert db.get_one(App, app_id).destroyed_at is not None
    finally:
        api.hold.clear()
    assert states == {"live", "failed"}
    assert wanted == {"stopped"}


# -- logs ---------------------------------------------------------------------------------------


def test_logs_follow_across_a_restart_of_the_platform(api: Lab) -> None:
    """A follower gets each line once, also those written while the web process was killed and started again."""
    api.ok("POST", "/apps", {"name": "talker"})
    seen: list[str] = []
    enough = threading.Event()

    def follow() -> None:
        for event in client(api).stream("/apps/talker/logs", endless=True, tail=1, num="0"):
            seen.extend(line.partition("line ")[2] for line in event.data if "line " in line)
            if len(seen) >= 60:
                enough.set()
                return

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    time.sleep(0.5)
    for number in range(60):
        applog.append(api.settings, "talker", "app[web.1]", f"line {number}")
        if number == 20:
            time.sleep(0.2)
            api.end(api.processes[-1], 9)
        if number == 40:
            api.start_web()
    assert enough.wait(20), seen
    assert seen == [str(number) for number in range(60)]


def test_logs_as_plain_text(api: Lab) -> None:
    """Without server-sent events lines come as text in the field's format, with control characters written out."""
    api.ok("POST", "/apps", {"name": "plain"})
    applog.append(api.settings, "plain", "app[web.1]", "one \x1b[2J\x1b[31mred")
    *_, last = raw_get(api, "/apps/plain/logs?num=5").splitlines()
    assert last.partition(" ")[2] == "app[web.1]: one ^[[2J\x1b[31mred"
    assert raw_get(api, "/apps/plain/logs?process=web").count("\n") == 1
    assert api.refused("GET", "/apps/plain/logs?num=x")[0] == 400
    assert api.refused("GET", "/apps/plain/logs?num=100001")[0] == 400
    assert api.refused("GET", "/apps/plain/logs?cursor=x")[0] == 400


def test_a_revoked_follower_is_let_go(api: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream's client finds its token refused when it connects again after the token's end."""
    api.ok("POST", "/apps", {"name": "guarded"})
    made = api.ok("POST", "/tokens", {"name": "follower"})
    here = Client(f"http://127.0.0.1:{api.settings.web_port}", made["token"])
    stream = here.stream("/apps/guarded/logs", endless=True, tail=1)
    assert next(stream).name == "lines"
    api.ok("DELETE", f"/tokens/{made['id']}")
    again = here.stream("/apps/guarded/logs", endless=True, tail=1)
    with pytest.raises(Refused) as error:
        next(again)
    assert error.value.http == 401
    stream.close()


def test_stored_formation_is_unique(api: Lab) -> None:
    """However often a type is scaled there is one row of it."""
    with api.store.reading() as db:
        rows = [(row.app_id, row.process_type) for row in db.scalars(select(Formation))]
    assert len(rows) == len(set(rows))


def test_an_unknown_address(api: Lab) -> None:
    """An address or method that there is none of is an error in JSON."""
    assert api.call("PUT", "/apps", {})[0] == 405
    assert api.call("GET", "/nothing")[0] == 404
