"""The dashboard: logging in, forged requests, headers, what pages say, and streams; on Redis, SQLite and gunicorn."""

import contextlib
import http.client
import json
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import select, update
from werkzeug.test import TestResponse

from dashboard import PASSWORD, Dashboard, dashboard
from shipway.platform import applog, auth, browser, watch
from shipway.platform.models import App, Build, Formation, Release, SshKey, Token, WebSession
from shipway.platform.settings import load
from shipway.platform.states import BuildState, InstanceState, ReleaseState
from shipway.platform.throttle import Throttle
from shipway.platform.web import create_app
from support import free_port


@pytest.fixture(scope="module")
def board() -> Iterator[Dashboard]:
    """A dashboard with an app that is live, one of another user's, and one that nothing was pushed to."""
    with dashboard() as found:
        found.app("hello", config={"SECRET": "s3cret-value"})
        found.release("hello", quantities={"web": 2}, age=500)
        found.release("hello", age=100)
        found.app("adas", owner=found.ada)
        found.app("blank")
        yield found


@pytest.fixture(scope="module")
def client(board: Dashboard) -> FlaskClient:
    """A browser that is signed in as admin."""
    return signed_in(board)


def signed_in(board: Dashboard, name: str = "admin") -> FlaskClient:
    browser_ = create_app(board.settings, board.store).test_client()
    answer = post(browser_, "/login", name=name, password=PASSWORD)
    assert answer.status_code == 303, answer.text
    return browser_


def token_of(client: FlaskClient, page: str = "/login") -> str:
    found = re.search(r'name="csrf" value="([^"]+)"', client.get(page, follow_redirects=True).text)
    assert found
    return found[1]


def post(client: FlaskClient, path: str, **form: str) -> TestResponse:
    headers = form.pop("headers", None)
    return client.post(path, data={"csrf": token_of(client), **form}, headers=headers)


# -- logging in ---------------------------------------------------------------------------------


def test_without_a_session_every_page_leads_to_the_login(board: Dashboard) -> None:
    """Pages lead to the login and back, fragments tell htmx to, streams are refused."""
    anybody = create_app(board.settings, board.store).test_client()
    answer = anybody.get("/apps/hello?process=web")
    assert answer.status_code == 302
    assert answer.location == "/login?next=/apps/hello?process%3Dweb"
    assert anybody.get("/apps/hello/live", headers={"HX-Request": "true"}).headers["HX-Redirect"]
    stream = anybody.get("/apps/hello/log/events", headers={"Accept": "text/event-stream"})
    assert stream.status_code == 401
    for path in ("/", "/account", "/apps/hello/config?reveal=1", "/events"):
        assert anybody.get(path).status_code == 302, path


def test_a_login_makes_a_session_that_is_kept_as_a_hash_and_can_be_revoked(
    board: Dashboard,
) -> None:
    """The cookie is closed to scripts, its secret is stored hashed, it ends when its row is gone."""
    visitor = create_app(board.settings, board.store).test_client()
    answer = post(visitor, "/login", name="admin", password=PASSWORD, next="/apps/hello")
    assert answer.location == "/apps/hello"
    cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    assert "Secure" not in cookie  # the dashboard's address is http
    with visitor.session_transaction() as session:
        secret = session[browser.SESSION]
    assert len(secret) >= 43  # 256 bits
    with board.store.transaction() as db:
        rows = list(db.scalars(select(WebSession)))
        assert secret not in [row.hash for row in rows]
        assert all(13.9 * 86400 < row.expires_at - row.created_at < 14.1 * 86400 for row in rows)
        auth.end_session(db, secret)
    assert visitor.get("/").status_code == 302


def test_an_expired_session_is_none(board: Dashboard) -> None:
    """After its time a session is worth nothing, whatever the cookie says."""
    visitor = signed_in(board, "ada")
    with board.store.transaction() as db:
        db.execute(update(WebSession).where(WebSession.user_id == board.ada).values(expires_at=1.0))
    assert visitor.get("/").status_code == 302


def test_the_session_is_a_new_one_after_the_login(board: Dashboard) -> None:
    """What somebody planted in the browser before the login is not the session after it."""
    visitor = create_app(board.settings, board.store).test_client()
    before = token_of(visitor)
    post(visitor, "/login", name="admin", password=PASSWORD)
    assert token_of(visitor, "/") != before


def test_signing_out_ends_the_session_on_the_server(board: Dashboard) -> None:
    """A cookie that was copied before signing out is worth nothing after it."""
    visitor = signed_in(board)
    copied = visitor.get_cookie("shipway")
    assert copied
    post(visitor, "/logout")
    thief = create_app(board.settings, board.store).test_client()
    thief.set_cookie("shipway", copied.value)
    assert thief.get("/").status_code == 302


def test_wrong_passwords_are_refused_and_slowed_down(
    board: Dashboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong password says no more than that; after ten the address and name have to wait, with a clear page."""
    monkeypatch.setattr(browser, "BY_NAME", Throttle(limit=3, window=900))
    visitor = create_app(board.settings, board.store).test_client()
    for name in ("admin", "nobody", "admin", "admin"):
        answer = post(visitor, "/login", name=name, password="wrong")
        assert answer.status_code == 401
        assert "The name or the password is wrong." in answer.text
    answer = post(visitor, "/login", name="admin", password=PASSWORD)
    assert answer.status_code == 429
    assert "try again in 15 minutes" in answer.text
    assert int(answer.headers["Retry-After"]) > 800
    assert post(visitor, "/login", name="ada", password=PASSWORD).status_code == 303


@pytest.mark.parametrize(
    "target", ["//evil.example", "https://evil.example", "/\\evil.example", "\\\\evil", "/a\nb", ""]
)
def test_the_login_leads_nowhere_else(board: Dashboard, target: str) -> None:
    """After the login one stays on this site, whatever the address said."""
    visitor = create_app(board.settings, board.store).test_client()
    answer = post(visitor, "/login", name="admin", password=PASSWORD, next=target)
    assert answer.location == "/"


def test_signing_out_everywhere_else(board: Dashboard) -> None:
    """One browser can end the sessions of all others."""
    here, there = signed_in(board, "ada"), signed_in(board, "ada")
    post(here, "/account/sessions/end-others")
    assert here.get("/").status_code == 200
    assert there.get("/").status_code == 302


# -- forged requests, headers, hosts ------------------------------------------------------------


def test_every_changing_address_needs_the_token(board: Dashboard, client: FlaskClient) -> None:
    """No address of the dashboard changes anything without the session's token."""
    app = create_app(board.settings, board.store)
    paths = [
        rule.rule.replace("<name>", "hello").replace("<int:number>", "1")
        for rule in app.url_map.iter_rules()
        if "POST" in (rule.methods or ()) and rule.endpoint.split(".")[0] in ("ui", "account")
    ]
    assert len(paths) > 12
    for path in paths:
        for form in ({}, {"csrf": "x" * 43}, {"csrf": "ä"}):
            answer = client.post(path, data=form)
            assert answer.status_code == 403, path
            assert "nothing was changed" in answer.text
    with board.store.reading() as db:
        assert db.scalar(select(App).where(App.name == "hello")) is not None


def test_the_token_of_another_session_is_refused(board: Dashboard, client: FlaskClient) -> None:
    """A token works in its own session only."""
    other = token_of(signed_in(board, "ada"), "/")
    answer = client.post("/apps", data={"csrf": other, "name": "forged"})
    assert answer.status_code == 403


def test_a_request_that_another_site_made_the_browser_send_is_refused(client: FlaskClient) -> None:
    """Also an app under the same domain, which the browser takes for the same site, cannot post here."""
    for site in ("cross-site", "same-site"):
        answer = client.post(
            "/apps",
            data={"csrf": token_of(client, "/"), "name": "x"},
            headers={"Sec-Fetch-Site": site},
        )
        assert answer.status_code == 403


def test_the_header_token_does_for_scripts(client: FlaskClient, board: Dashboard) -> None:
    """htmx sends the token as a header."""
    headers = {"X-CSRF-Token": token_of(client, "/"), "HX-Request": "true"}
    answer = client.post(
        "/apps/hello/scale", data={"type": "web", "quantity": "2"}, headers=headers
    )
    assert answer.status_code == 200
    assert 'id="live"' in answer.text


@pytest.mark.parametrize("path", ["/", "/login", "/nope", "/apps/hello", "/static/shipway.css"])
def test_every_answer_has_the_headers_that_protect(client: FlaskClient, path: str) -> None:
    """No inline script or style, no frames, no sniffing, no referrer to others; also on error pages."""
    headers = client.get(path).headers
    policy = headers["Content-Security-Policy"]
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "same-origin"


@pytest.mark.parametrize(
    "path", ["/", "/login", "/apps/hello", "/apps/blank", "/account", "/apps/hello/config"]
)
def test_no_page_has_inline_scripts_styles_or_addresses_of_others(
    client: FlaskClient, path: str
) -> None:
    """A page holds no inline script, handler or style, and loads nothing from elsewhere."""
    page = client.get(path, follow_redirects=True).text
    assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|\sstyle=|<style|hx-on|javascript:", page)
    assert not re.search(r'(?:src|<link[^>]*href)="(?:https?:)?//', page)


def test_https_makes_the_cookie_secure() -> None:
    """With a dashboard at https the cookie is Secure, cannot be planted by apps of the domain, and HSTS is sent."""
    with dashboard() as board:
        secure = load(
            {"SHIPWAY_DATA": str(board.folder), "SHIPWAY_URL": "", "SHIPWAY_DOMAIN": "localhost"}
        )
        secure = type(secure)(data=board.folder, url="https://paas.example.com")
        app = create_app(secure, board.store).test_client()
        answer = app.get("/login", base_url="https://paas.example.com")
        assert answer.headers["Set-Cookie"].startswith("__Host-shipway=")
        assert "; Secure;" in answer.headers["Set-Cookie"]
        assert "Strict-Transport-Security" in answer.headers


@pytest.mark.parametrize(
    "host", ["127.0.0.1:80", "localhost:1", "10.1.2.3:8090", "[::1]:5", "LocalHost"]
)
def test_hosts_that_are_ours(client: FlaskClient, host: str) -> None:
    """Addresses and names of ours are served."""
    assert client.get("/login", headers={"Host": host}).status_code in (200, 302)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8090", "127.0.0.1.evil.example", "hello.localhost"]
)
def test_hosts_that_are_not_ours(client: FlaskClient, host: str) -> None:
    """A name that somebody else made lead to our address is refused, and the page says what to set."""
    answer = client.get("/login", headers={"Host": host})
    assert answer.status_code == 400
    assert "set `url`" in answer.text


def test_bodies_are_limited(client: FlaskClient) -> None:
    """A body of more than a MiB is refused with a page that says so."""
    answer = client.post("/apps", data={"name": "x" * 2_000_000})
    assert answer.status_code == 413
    assert "too large" in answer.text


def test_errors_are_pages_for_people_and_json_for_programs(client: FlaskClient) -> None:
    """What is not there is said in the reader's form, and no traceback is in it."""
    assert "There is nothing at this address." in client.get("/nope").text
    assert client.get("/api/v1/nope").json == {
        "error": {"message": "There is nothing at this address.", "kind": "not_found"}
    }
    assert client.get("/apps/none").status_code == 404
    assert "There is no app &#39;none&#39;." in client.get("/apps/none").text
    fragment = client.get("/apps/none/live", headers={"HX-Request": "true"})
    assert fragment.headers["HX-Retarget"] == "#notices"


def test_a_fault_of_ours_shows_a_number_and_no_more(
    board: Dashboard, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An unexpected error shows a number that the log has with the traceback."""
    visitor = signed_in(board)
    monkeypatch.setattr(auth, "apps_of", lambda *_: 1 / 0)
    answer = visitor.get("/")
    assert answer.status_code == 500
    assert "ZeroDivisionError" not in answer.text
    number = re.search(r"log has it as ([0-9a-f]{8})", answer.text)
    assert number
    assert number[1] in caplog.text
    assert "ZeroDivisionError" in caplog.text


# -- pages --------------------------------------------------------------------------------------


def test_the_list_shows_what_one_may_see(board: Dashboard, client: FlaskClient) -> None:
    """An admin sees all apps, others their own and those they were let into."""
    assert all(f">{name}</a>" in client.get("/").text for name in ("hello", "adas", "blank"))
    ada = signed_in(board, "ada")
    assert ">adas</a>" in ada.get("/").text
    assert "hello" not in ada.get("/").text
    assert ada.get("/apps/hello").status_code == 403
    for path in ("/apps/hello/live", "/apps/hello/config", "/apps/hello/log/events"):
        assert ada.get(path).status_code == 403, path
    assert post(ada, "/apps/hello/scale", type="web", quantity="0").status_code == 403


def test_making_an_app_checks_its_name(client: FlaskClient) -> None:
    """A name that breaks the rules is refused beside the field, a good one leads to the app's page."""
    for name in ("a;id", "$(id)", "-x", "..", "x" * 64, "ａpp", "hello\n", "Hello", ""):
        answer = post(client, "/apps", name=name)
        assert answer.status_code in (400, 409), name
        assert 'role="alert"' in answer.text
    answer = post(client, "/apps", name="fresh")
    assert (answer.status_code, answer.location) == (303, "/apps/fresh")
    page = client.get("/apps/fresh").text
    assert "git remote add shipway ssh://git@127.0.0.1:" in page
    assert "git remote add shipway http://127.0.0.1:" in page
    assert "taken" in post(client, "/apps", name="fresh").text


def test_the_app_page_shows_processes_releases_and_builds(client: FlaskClient) -> None:
    """The page says what runs, since when, at which URL, and what was released by whom."""
    page = client.get("/apps/hello").text
    for text in (
        "gunicorn --workers 2 app:app",
        "web.1",
        "2/2 up",
        "Roll back to v1",
        "hello.localhost",
    ):
        assert text in page, text
    assert 'value="2" min="0" max="100"' in page


@pytest.mark.parametrize(
    ("form", "expected"),
    [({"quantity": "3"}, 3), ({"step": "1"}, 4), ({"step": "-1"}, 3), ({"quantity": "2"}, 2)],
)
def test_scaling(
    board: Dashboard, client: FlaskClient, form: dict[str, str], expected: int
) -> None:
    """The number sets, minus and plus change by one; without scripts one is led back to the page."""
    answer = post(client, "/apps/hello/scale", type="web", **form)
    assert (answer.status_code, answer.location) == (303, "/apps/hello")
    with board.store.reading() as db:
        query = select(Formation.quantity).join(App, App.id == Formation.app_id)
        assert (
            db.scalar(query.where(App.name == "hello", Formation.process_type == "web")) == expected
        )


@pytest.mark.parametrize(
    "form",
    [{"quantity": "101"}, {"quantity": "-1"}, {"quantity": ""}, {"quantity": "²"}, {"quantity": "1; id"},
     {"step": "x"}, {"step": "9999999"}, {"quantity": "1", "type": "nope"}, {"quantity": "1", "type": "../x"}],
)  # fmt: skip
def test_scaling_to_nonsense_is_refused(client: FlaskClient, form: dict[str, str]) -> None:
    """What is no number of instances, or no process type, is refused in a sentence."""
    answer = post(client, "/apps/hello/scale", **{"type": "web", **form})
    assert answer.status_code in (400, 404)
    assert "Something broke" not in answer.text


def test_config_values_are_masked_until_asked_for(board: Dashboard, client: FlaskClient) -> None:
    """A value is in the page only when it is asked for; setting and removing make releases."""
    assert "s3cret-value" not in client.get("/apps/hello/config").text
    assert "s3cret-value" in client.get("/apps/hello/config?reveal=1").text
    answer = post(client, "/apps/hello/config", key="MULTI", value="a\r\nb<script>")
    assert answer.status_code == 303
    page = client.get("/apps/hello/config?reveal=1").text
    assert "a\nb&lt;script&gt;" in page
    assert "Set MULTI, deploying v3 with it." in page
    bad = post(client, "/apps/hello/config", key="A=B", value="kept for another try")
    assert bad.status_code == 400
    assert "kept for another try" in bad.text
    assert post(client, "/apps/hello/config/unset", key="MULTI").status_code == 303
    assert "MULTI" not in client.get("/apps/hello/config").text.replace("Removed MULTI", "")


def test_destroying_needs_the_name(board: Dashboard, client: FlaskClient) -> None:
    """An app is destroyed only when its name was typed."""
    board.app("doomed")
    answer = post(client, "/apps/doomed/destroy", confirm="doome")
    assert answer.status_code == 400
    assert "Nothing was destroyed" in answer.text
    assert post(client, "/apps/doomed/destroy", confirm="doomed").status_code == 303
    assert client.get("/apps/doomed").status_code == 404


def test_keys_and_tokens(board: Dashboard, client: FlaskClient, tmp_path: Path) -> None:
    """A key is added and removed; a token's secret is in the answer that made it, and nowhere after."""
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "me@here", "-f", tmp_path / "key"],
        check=True,
    )
    line = (tmp_path / "key.pub").read_text()
    assert post(client, "/account/keys", key=line).status_code == 303
    with board.store.reading() as db:
        key = db.scalars(select(SshKey)).one()
    page = client.get("/account").text
    assert key.fingerprint in page
    assert "me@here" in page
    wrong = post(client, "/account/keys", key="ssh-rsa nonsense")
    assert wrong.status_code == 400
    assert "ssh-rsa nonsense" in wrong.text
    post(client, "/account/keys/remove", fingerprint=key.fingerprint)
    made = post(client, "/account/tokens", name="CI", days="30")
    secret = re.search(r"shw_[\w-]{40,}", made.text)
    assert secret
    assert made.headers["Cache-Control"] == "no-store"
    assert "shw_" not in client.get("/account").text
    with board.store.reading() as db:
        assert db.scalars(select(SshKey)).first() is None
        token = db.scalars(select(Token)).one()
        assert secret[0] not in token.hash
    assert post(signed_in(board, "ada"), f"/account/tokens/{token.id}/remove").status_code == 404
    assert post(client, f"/account/tokens/{token.id}/remove").status_code == 303


def test_builds_can_be_seen_and_cancelled(board: Dashboard, client: FlaskClient) -> None:
    """A build's page has its output as text and its phases as a graph; one that runs can be cancelled."""
    board.app("built")
    board.release("built")
    number = board.build("built")
    board.say(number, "\x1b[31mred\x1b[0m <b>\n")
    page = client.get(f"/apps/built/builds/{number}").text
    assert '<span class="fg-1">red</span> &lt;b&gt;' in page
    assert post(client, f"/apps/built/builds/{number}/cancel").status_code == 303
    with board.store.reading() as db:
        build = db.get_one(Build, number)
        assert build.cancel_requested or build.state == BuildState.CANCELLED
    assert "<rect" in client.get(f"/apps/built/builds/{number - 1}").text
    assert client.get(f"/apps/hello/builds/{number}").status_code == 404  # another app's


def test_a_build_whose_deploy_failed_says_so(board: Dashboard, client: FlaskClient) -> None:
    """In the list of builds and on its own page, with the release and the reason, in the colour of failures."""
    app_id = board.app("unlucky")
    board.release("unlucky")
    number = board.build("unlucky", BuildState.SUCCEEDED)
    with board.store.transaction() as db:
        first = db.scalars(select(Release).where(Release.app_id == app_id)).one()
        failed = Release(
            app_id=app_id,
            version=2,
            build_id=number,
            user_id=first.user_id,
            description="Deploy c0ffee10",
            image="sha256:0",
            processes=first.processes,
            state=ReleaseState.FAILED,
            reason="web.1: Process exited with status 1.",
            created_at=first.created_at,
        )
        db.add(failed)
    for path in ("", "/activity", f"/builds/{number}"):
        page = client.get(f"/apps/unlucky{path}").text
        assert '<span class="badge deploy failed">deploy failed</span>' in page, path
        assert "web.1: Process exited with status 1." in page
    shown = client.get("/apps/unlucky/activity").text
    assert '<span class="badge succeeded">succeeded</span>' in shown


def test_states_say_what_matters(board: Dashboard, client: FlaskClient) -> None:
    """Crashed, scaled to zero, waiting and building are told apart, with the reason of a crash."""
    board.app("sick")
    board.release("sick", processes={"web": "x"}, state=InstanceState.CRASHED)
    board.app("off")
    board.release("off", processes={"web": "x"}, quantities={"web": 0})
    page = client.get("/").text
    for text in ("Crashed", "Scaled to zero", "Waiting for its first push", "Running"):
        assert text in page
    assert "The process exited with status 1." in client.get("/apps/sick").text


# -- streams ------------------------------------------------------------------------------------


class Stream:
    """One server-sent event stream, read by hand."""

    def __init__(self, board: Dashboard, cookie: str, path: str, **headers: str) -> None:
        self.connection = http.client.HTTPConnection(
            "127.0.0.1", board.settings.web_port, timeout=10
        )
        sent = {"Cookie": cookie, "Accept": "text/event-stream", **headers}
        self.connection.request("GET", path, headers=sent)
        self.answer = self.connection.getresponse()
        self.status = self.answer.status

    def event(self) -> dict[str, Any]:
        """The next event: {event, id, data}; heartbeats are passed over."""
        found: dict[str, Any] = {}
        while True:
            line = self.answer.readline().decode()
            if not line:
                raise EOFError
            if line == "\n":
                if "event" in found:
                    return found
                continue
            name, _, value = line.rstrip("\n").partition(": ")
            if name in ("event", "id"):
                found[name] = value
            elif name == "data":
                found["data"] = json.loads(value)

    def lines(self) -> tuple[list[str], str]:
        """The texts of the next lines of a log, and the cursor behind them."""
        while True:
            event = self.event()
            if event["event"] == "log":
                texts = ["".join(text for _, text in line["pieces"]) for line in event["data"]]
                return texts, event["id"]

    def close(self) -> None:
        self.answer.close()
        self.connection.close()


@pytest.fixture(scope="module")
def served(board: Dashboard) -> Iterator[str]:
    """The web process as it is run, and a cookie of admin's."""
    with board.web():
        connection = http.client.HTTPConnection("127.0.0.1", board.settings.web_port)
        connection.request("GET", "/login")
        answer = connection.getresponse()
        cookie = answer.headers["Set-Cookie"].partition(";")[0]
        token = re.search(r'name="csrf" value="([^"]+)"', answer.read().decode())
        assert token
        form = f"csrf={token[1]}&name=admin&password={PASSWORD.replace(' ', '+')}"
        kind = {"Content-Type": "application/x-www-form-urlencoded", "Cookie": cookie}
        connection.request("POST", "/login", form, kind)
        answer = connection.getresponse()
        answer.read()
        yield answer.headers["Set-Cookie"].partition(";")[0]


def test_a_log_is_followed_and_resumed_where_it_was(board: Dashboard, served: str) -> None:
    """Lines come at once; who comes back with the last id misses none and gets none twice."""
    board.app("logged")
    board.log("logged", "web.1", 1, "one", "two")
    stream = Stream(board, served, "/apps/logged/log/events")
    assert stream.lines()[0] == ["one", "two"]
    start = time.monotonic()
    board.log("logged", "web.1", 1, "three")
    lines, cursor = stream.lines()
    assert lines == ["three"]
    assert time.monotonic() - start < 1
    stream.close()
    board.log("logged", "web.1", 1, "four")
    board.log("logged", "worker.1", 2, "five")
    again = Stream(board, served, "/apps/logged/log/events", **{"Last-Event-ID": cursor})
    seen: list[str] = []
    while len(seen) < 2:
        seen += again.lines()[0]
    assert sorted(seen) == ["five", "four"]
    again.close()
    assert Stream(board, served, "/apps/logged/log/events?after=nonsense").status == 400


def test_a_log_can_be_of_one_process(board: Dashboard, served: str) -> None:
    """With a filter only that process's lines come."""
    board.app("filtered")
    board.log("filtered", "web.1", 1, "mine")
    board.log("filtered", "worker.1", 2, "not mine")
    stream = Stream(board, served, "/apps/filtered/log/events?process=web")
    assert stream.lines()[0] == ["mine"]
    stream.close()


def test_hostile_lines_come_as_text(board: Dashboard, served: str) -> None:
    """Escapes, markup, invalid UTF-8 and a megabyte without a line end are text and arrive."""
    board.app("hostile")
    path = applog.instance_file(board.settings, "hostile", "web.1", 1)
    stamp = b"2026-11-24T00:00:00.000000000+00:00 stdout F "
    path.write_bytes(
        stamp + b"<script>\x1b]0;t\x07\x1b[2J\xff\xfe\n" + stamp + b"x" * 1_000_000 + b"\n"
    )
    stream = Stream(board, served, "/apps/hostile/log/events")
    lines, _ = stream.lines()
    assert lines[0] == "<script>^[]0;t^G^[[2J\ufffd\ufffd"
    assert set("".join(lines[1:])) == {"x"}
    assert max(map(len, lines)) <= 16_384
    stream.close()


def test_a_change_is_told_at_once(board: Dashboard, served: str) -> None:
    """When something about an app changes, those who look at it or at the list are told."""
    board.app("watched")
    streams = [
        Stream(board, served, path)
        for path in ("/events", "/apps/watched/events", "/apps/watched/log/events")
    ]
    time.sleep(0.3)
    board.build("watched")
    for stream in streams:
        assert stream.event()["event"] == "changed"
        stream.close()


def test_a_build_is_followed_to_its_end(board: Dashboard, served: str) -> None:
    """A build's output comes as it is said; the end is told and ends the stream."""
    board.app("building")
    number = board.build("building")
    board.say(number, "-----> one\n")
    stream = Stream(board, served, f"/apps/building/builds/{number}/events")
    assert stream.lines()[0] == ["-----> one"]
    board.say(number, "       two\n       three\n")
    assert stream.lines()[0] == ["       two", "       three"]
    with board.store.transaction() as db:
        db.get_one(Build, number).state = BuildState.FAILED
    board.say(number, " !     four\n")
    seen = []
    with contextlib.suppress(EOFError):
        while True:
            seen.append(stream.event()["event"])
    assert seen == ["changed", "log", "end"]


def test_places_are_bounded_and_given_back_at_once(board: Dashboard, served: str) -> None:
    """With all places taken one is told to try again; a viewer that leaves gives its place back within a second."""
    streams = [Stream(board, served, "/events") for _ in range(watch.VIEWERS_PER_USER)]
    assert {stream.status for stream in streams} == {200}
    full = Stream(board, served, "/events")
    assert full.status == 503
    assert b"trying again soon" in full.answer.read()
    page = Stream(board, served, "/")
    assert page.status == 200  # pages are served all the while
    for stream in streams:
        stream.close()
    deadline = time.monotonic() + 3
    while (status := Stream(board, served, "/events").status) == 503:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert status == 200


def test_a_viewer_who_is_signed_out_sees_no_more(board: Dashboard, served: str) -> None:
    """A stream ends once its session is revoked."""
    board.app("private")
    visitor = signed_in(board)
    cookie = visitor.get_cookie("shipway")
    assert cookie
    stream = Stream(board, f"shipway={cookie.value}", "/apps/private/log/events")
    with visitor.session_transaction() as session:
        secret = session[browser.SESSION]
    with board.store.transaction() as db:
        auth.end_session(db, secret)
    board.log("private", "web.1", 1, "wakes the stream")
    board.log("private", "web.1", 1, "not for you")
    with pytest.raises(EOFError):
        for _ in range(3):
            stream.event()


def test_a_viewer_that_takes_nothing_blocks_nobody(board: Dashboard, served: str) -> None:
    """While one viewer leaves megabytes untaken, others get theirs, and pages come."""
    board.app("flood")
    board.log("flood", "web.1", 1, "first")
    stuck = socket.create_connection(("127.0.0.1", board.settings.web_port))
    stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    request = f"GET /apps/flood/log/events HTTP/1.1\r\nHost: localhost\r\nCookie: {served}\r\n\r\n"
    stuck.sendall(request.encode())
    time.sleep(0.3)
    for _ in range(40):
        board.log("flood", "web.1", 1, *("y" * 5000 for _ in range(40)))
    board.log("flood", "web.1", 1, "last")
    other = Stream(board, served, "/apps/flood/log/events")
    assert other.lines()[0][-1] == "last"
    assert Stream(board, served, "/apps/flood").status == 200
    other.close()
    stuck.close()


def test_streams_end_when_the_server_does() -> None:
    """The web process ends within its grace although somebody watches, and a browser finds the next one."""
    with dashboard() as board:
        assert free_port()
        with board.web():
            visitor = signed_in(board)
            cookie = visitor.get_cookie("shipway")
            assert cookie
            stream = Stream(board, f"shipway={cookie.value}", "/events")
            assert stream.status == 200
            start = time.monotonic()
        assert time.monotonic() - start < 8
