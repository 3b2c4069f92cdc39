"""The command line as people run it: a process of its own, against a real web process."""

import json
import os
import re
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from apilab import Lab, lab
from shipway.platform import applog, events
from shipway.platform.metrics import Tally, record
from shipway.platform.models import App, Token
from shipway.platform.store import signal

FIELD = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00"


@pytest.fixture(scope="module")
def api() -> Iterator[Lab]:
    """One lab for all tests of this file, with the app hello live."""
    with lab() as found:
        found.deployed("hello")
        yield found


def failed(api: Lab, *args: str, **more: object) -> tuple[int, str]:
    """Exit code and stderr of a command that must fail."""
    done = api.cli(*args, check=False, **more)
    assert done.returncode != 0, done.stdout
    assert done.stderr.startswith((" !     ", "----->")), done.stderr
    return done.returncode, done.stderr


def repository(api: Lab, name: str) -> Path:
    """An empty git repository."""
    work = api.folder / name
    work.mkdir()
    subprocess.run(["git", "init", "-q", "-b", "main"], cwd=work, check=True, env=api.environ)
    return work


# -- the command itself -------------------------------------------------------------------------


def test_it_starts_in_a_blink() -> None:
    """Help loads neither the database nor HTTP nor the engine: a command starts at once."""
    code = (
        "import sys; sys.argv = ['shipway', '--help']\n"
        "from shipway.platform.cli import main as cli\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "bad = {'sqlalchemy', 'flask', 'redis', 'celery', 'http.client', 'cryptography',"
        " 'shipway.runtime.engine'} & set(sys.modules)\n"
        "sys.exit(repr(bad) if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_command_has_help_with_an_example(api: Lab) -> None:
    """Each command says in one sentence what it does and shows how it is used."""
    from shipway.platform.cli.main import ALIASES, cli

    for name, command in cli.commands.items():
        assert command.help, name
        assert re.match(r"[A-Z].*[.].*", command.help, re.DOTALL), name
        assert (command.epilog or "").startswith("Example: "), name
        own = next((alias for alias, real in ALIASES.items() if real == name), name)
        if not command.hidden:
            assert name in command.epilog or own in (command.epilog or ""), name
    assert set(ALIASES.values()) <= set(cli.commands)
    assert "Example: shipway ps:scale" in api.cli("help", "ps:scale").stdout
    assert "Example: shipway ps:scale" in api.cli("ps:scale", "--help").stdout


def test_version(api: Lab) -> None:
    """The version is calendar's."""
    assert re.fullmatch(r"shipway \d{4}\.\d+\.\d+\n", api.cli("--version").stdout)


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["ps:scael", "hello"], 2, "ps:scale"),
        (["ps", "--nope"], 2, "--nope"),
        (["ps", "hello", "more"], 2, "more"),
        (["ps"], 1, "Which app?"),
        (["ps", "nosuch"], 1, "no app 'nosuch'"),
        (["ps", "../x"], 1, "valid app name"),
        (["config:set", "hello"], 2, "KEY=VALUE"),
        (["domains:add", "hello"], 2, "HOST"),
        (["builds:output", "hello", "77"], 1, "no build 77"),
        (["rollback", "hello", "v77"], 1, "no release v77"),
        (["ps:scale", "hello", "wrker=1"], 1, "web, worker"),
        (["ps:scale", "hello", "web=x"], 1, "web=3"),
        (["ps:scale", "hello", "web=-1"], 1, "web-1 is 1 fewer than now, web=1 is exactly 1."),
        (["ps:scale", "hello", "web=+2"], 1, "web+2 is 2 more than now, web=2 is exactly 2."),
        (["ps:scale", "hello", "web-2"], 1, "use 0 to 100"),
        (["help", "ps:scael"], 2, "Did you mean ps:scale or scale? See `shipway --help`."),
        (["keys:add", "/nonexistent"], 1, "No such file"),
        (["tokens:revoke", "x"], 2, "x"),
        (["login", "ftp://x"], 1, "no address"),
        (["apps:destroy", "hello"], 1, "--confirm hello"),
        (["apps:destroy", "hello", "--confirm", "helo"], 1, "--confirm hello"),
    ],
)
def test_mistakes_are_one_line(api: Lab, args: list[str], code: int, said: str) -> None:
    """A wrong command is one line on stderr that says what would be right, with the right exit code."""
    found, text = failed(api, *args)
    assert found == code
    assert said in text
    assert text.count("\n") == 1


def test_help_names_the_program(api: Lab) -> None:
    """Usage lines say how a command is called, whichever way one asks for them."""
    assert api.cli("help").stdout == api.cli("--help").stdout == api.cli().stdout
    assert api.cli("help").stdout.startswith("Usage: shipway [OPTIONS] [COMMAND]")
    for ask in (["help", "ps"], ["ps", "--help"], ["ps", "-h"]):
        assert api.cli(*ask).stdout.startswith("Usage: shipway ps [OPTIONS] [APP]\n")


def test_nobody_answers(api: Lab) -> None:
    """A platform that is down is a clear line and exit code 69."""
    environ = {"SHIPWAY_URL": "http://127.0.0.1:9", "SHIPWAY_TOKEN": "x"}
    code, text = failed(api, "ps", "hello", env=environ)
    assert code == 69
    assert "does not answer at http://127.0.0.1:9" in text


def test_a_reader_that_stops(api: Lab) -> None:
    """`shipway … | head` ends quietly."""
    pipe = "shipway apps --json | head -c 1"
    done = subprocess.run(
        ["bash", "-c", pipe], env=api.environ, capture_output=True, text=True, cwd=api.folder
    )
    assert done.stderr == ""


# -- which app ----------------------------------------------------------------------------------


def test_apps_create_adds_the_remote(api: Lab) -> None:
    """In a repository a new app's remote is added, and from then on names the app."""
    work = repository(api, "inrepo")
    out = api.cli("apps:create", "inrepo", cwd=work)
    assert "Creating inrepo... done" in out.stdout
    remotes = subprocess.run(
        ["git", "remote", "-v"], cwd=work, capture_output=True, text=True
    ).stdout
    assert f"shipway\thttp://127.0.0.1:{api.settings.web_port}/inrepo.git (push)" in remotes
    assert api.cli("apps:info", cwd=work).stdout.startswith("=== inrepo")
    assert api.cli("apps:info", "hello", cwd=work).stdout.startswith("=== hello")
    assert api.cli("ps:scale", "web=2", cwd=work).stdout == (
        "Scaling inrepo... done, now running web at 2.\n"
    )
    assert api.cli("ps:scale", "web-1", cwd=work).stdout.endswith("web at 1.\n")
    assert api.cli("config:set", "a=b", cwd=work).stdout.startswith("Setting a of inrepo... done")
    assert api.cli("config:get", "a", cwd=work).stdout == "b\n"
    again = api.cli("git:remote", "-a", "hello", cwd=work)
    assert "there already" in again.stderr
    api.cli("git:remote", "-a", "hello", "-r", "other", "--ssh", cwd=work)
    assert api.cli("apps:info", "-r", "other", cwd=work).stdout.startswith("=== hello")


def test_git_gets_its_token_from_us(api: Lab) -> None:
    """git's credential helper answers for this platform's address and for no other."""
    work = repository(api, "helper")
    api.cli("apps:create", "helper", cwd=work)
    port = api.settings.web_port
    for host, expected in ((f"127.0.0.1:{port}", True), ("127.0.0.1:9", False)):
        asked = f"protocol=http\nhost={host}\n\n"
        done = subprocess.run(
            ["git", "credential", "fill"],
            input=asked,
            cwd=work,
            env={**api.environ, "GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": "true"},
            capture_output=True,
            text=True,
        )
        assert (f"password={api.token}" in done.stdout) == expected, done


# -- listing ------------------------------------------------------------------------------------


def test_lists_are_aligned_and_json(api: Lab) -> None:
    """Every list is a table for people, and JSON for scripts."""
    assert re.search(r"^NAME +RELEASE +UP +URL +OWNER$", api.cli("apps").stdout, re.MULTILINE)
    assert re.search(r"^hello +v\d+ +\d of \d +http", api.cli("apps").stdout, re.MULTILINE)
    assert re.search(r"^web\.1\s+up .*local", api.cli("ps", "hello").stdout, re.MULTILINE)
    assert re.search(r"^\d+ +succeeded +v1 ", api.cli("builds", "hello").stdout, re.MULTILINE)
    assert re.search(r"^v1 +Deploy ", api.cli("releases", "hello").stdout, re.MULTILINE)
    for args in (
        ["apps"],
        ["ps", "hello"],
        ["builds", "hello"],
        ["releases", "hello"],
        ["domains", "hello"],
        ["access", "hello"],
        ["users"],
        ["keys"],
        ["tokens"],
    ):
        assert isinstance(json.loads(api.cli(*args, "--json").stdout), list), args
    for args in (
        ["apps:info", "hello"],
        ["releases:info", "hello"],
        ["config", "hello"],
        ["whoami"],
    ):
        assert isinstance(json.loads(api.cli(*args, "--json").stdout), dict), args
    assert "\x1b" not in api.cli("ps", "hello").stdout


# -- changing -----------------------------------------------------------------------------------


def test_scale(api: Lab) -> None:
    """Scaling waits until it is so, and says so in the field's words."""
    api.deployed("scaled")
    out = api.cli("ps:scale", "scaled", "web=3", "worker+1")
    assert out.stdout == "Scaling scaled... done, now running web at 3, worker at 1.\n"
    assert "web.3: up" in out.stderr
    states = {
        row["name"]: row["state"] for row in json.loads(api.cli("ps", "scaled", "--json").stdout)
    }
    assert states == dict.fromkeys(("web.1", "web.2", "web.3", "worker.1"), "up")
    assert api.cli("ps:scale", "scaled").stdout == "web=3 worker=1\n"
    assert api.cli("scale", "-a", "scaled", "web-2").stdout.endswith("web at 1.\n")
    assert {row["name"] for row in json.loads(api.cli("ps", "scaled", "--json").stdout)} == {
        "web.1",
        "worker.1",
    }
    stopped = api.cli("ps:stop", "scaled")
    assert stopped.stdout == "Stopping web, worker of scaled... done\n"
    assert "shipway ps:scale scaled web=1 worker=1" in stopped.stderr


def test_a_scale_that_crashes_fails(api: Lab) -> None:
    """A crash of what was started is the command's failure."""
    api.deployed("scalecrash")
    api.crash = "worker"
    try:
        code, text = failed_after_progress(api, "ps:scale", "scalecrash", "worker=1")
    finally:
        api.crash = ""
    assert code == 1
    assert " !     worker.1 crashed: Process exited with status 3." in text


def failed_after_progress(api: Lab, *args: str) -> tuple[int, str]:
    """Exit code and stderr of a command that fails after it has begun."""
    done = api.cli(*args, check=False)
    assert done.returncode != 0
    return done.returncode, done.stderr


def test_config(api: Lab) -> None:
    """Setting config deploys, shows the deploy, and says the new version; the value is not repeated."""
    api.deployed("configured")
    out = api.cli("config:set", "configured", "A=secret-a", "B=b c")
    assert out.stdout == "Setting A, B and restarting configured... done, v2\n"
    assert "-----> Launching..." in out.stderr
    assert "secret-a" not in out.stdout + out.stderr
    assert api.cli("config:get", "configured", "B").stdout == "b c\n"
    assert api.cli("config", "configured", "-s").stdout == "A=secret-a\nB='b c'\n"
    again = api.cli("config:set", "configured", "A=secret-a").stdout
    assert again == "Setting A of configured... done, nothing changed\n"
    unset = api.cli("config:unset", "configured", "A", "B").stdout
    assert unset == "Unsetting A, B and restarting configured... done, v3\n"
    quick = api.cli("config:set", "configured", "C=1", "--no-wait").stdout
    assert quick == "Setting C and restarting configured... started, v4\n"
    code, text = failed(api, "config:set", "-a", "configured", "secret-b")
    assert code == 1
    assert "secret-b" not in text


def test_a_config_that_breaks_the_app_fails(api: Lab) -> None:
    """Where the app does not come up with a config the command fails and says what became of it."""
    api.deployed("broken")
    api.crash = "web"
    try:
        code, text = failed_after_progress(api, "config:set", "broken", "A=1")
    finally:
        api.crash = ""
    assert code == 1
    assert "Process exited with status 3" in text
    assert "goes into the next release" in text


def test_rollback(api: Lab) -> None:
    """A rollback names where to, the new version, and the way back."""
    api.deployed("rolled")
    api.cli("config:set", "rolled", "A=1")
    out = api.cli("rollback", "rolled", "v1")
    assert out.stdout == "Rolling back rolled to v1... done, v3\n"
    assert "shipway rollback rolled v2" in out.stderr
    assert api.cli("config", "rolled", "--json").stdout == "{}\n"
    assert api.cli("releases:rollback", "-a", "rolled").stdout == (
        "Rolling back rolled to v2... done, v4\n"
    )
    assert "Rollback to v2" in api.cli("releases:info", "rolled").stdout


def test_restart_and_rebuild(api: Lab) -> None:
    """Restarting and building again wait for their ends."""
    api.deployed("again")
    assert api.cli("ps:restart", "again").stdout == "Restarting again... done, v2\n"
    assert api.cli("ps:restart", "again", "web.1").stdout == "Restarting web.1... done\n"
    out = api.cli("builds:rebuild", "again")
    assert re.fullmatch(r"Rebuilding again at \w{8}\.\.\. done, v3\n", out.stdout)
    assert "-----> Building on the test stack" in out.stderr
    shown = api.cli("builds:output", "again").stdout
    assert shown.splitlines()[0] == "-----> Building on the test stack"
    assert api.cli("builds:output", "-t", "again").stdout == shown
    assert api.cli("releases:output", "again", "v3").stdout == shown


def test_a_build_whose_deploy_fails(api: Lab) -> None:
    """`builds` says of a push that did not go live that it did not, which release failed and why."""
    api.deployed("unlucky")
    assert "REASON" not in api.cli("builds", "unlucky").stdout
    api.crash = "web"
    try:
        code, _ = failed_after_progress(api, "builds:rebuild", "unlucky")
    finally:
        api.crash = ""
    assert code == 1
    heading, failed_one, first = api.cli("builds", "unlucky").stdout.splitlines()
    assert re.fullmatch(r"ID +STATE +RELEASE +.*PHASES +REASON", heading)
    assert re.match(r"\d+ +deploy failed +v2 .* web\.1: Process exited with status 3", failed_one)
    assert re.match(r"\d+ +succeeded +v1 ", first)


def test_builds_cancel(api: Lab) -> None:
    """A build that waits can be cancelled, and who follows it hears so."""
    api.deployed("halted")
    api.hold.set()
    try:
        api.cli("builds:rebuild", "halted", "--no-wait")
        follower = subprocess.Popen(
            ["shipway", "builds:output", "-t", "halted"],
            env=api.environ,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert "done" in api.cli("builds:cancel", "halted").stdout
        _, text = follower.communicate(timeout=20)
    finally:
        api.hold.clear()
    assert follower.returncode == 1
    assert "Cancelled by admin." in text


def test_domains_access_and_destroy(api: Lab) -> None:
    """Domains and access are added and removed, and an app destroyed, app first or with -a."""
    api.cli("apps:create", "misc", "--no-remote")
    assert api.cli("domains:add", "misc", "A.example.com", "--no-wait").stdout == (
        "Adding a.example.com to misc... done\n"
    )
    assert api.cli("domains", "-a", "misc").stdout == "misc.localhost\na.example.com\n"
    assert "a.example.com" in api.cli("apps:info", "misc").stdout
    assert "no domain of" in failed(api, "domains:wait", "misc", "b.example.com")[1]
    waiting = subprocess.Popen(
        ["shipway", "domains:wait", "misc", "a.example.com"], env=api.environ
    )
    with pytest.raises(subprocess.TimeoutExpired):  # there is no router yet
        waiting.wait(1.5)
    with api.store.transaction() as db:
        row = db.scalars(select(App).where(App.name == "misc")).one()
        row.routes_done = row.routes_wanted
        signal(db, events.app_topic(row.id))
    assert waiting.wait(10) == 0
    api.cli("domains:wait", "misc")
    api.cli("domains:remove", "-a", "misc", "a.example.com")
    api.cli("domains:add", "misc", "*.example.com", "b.example.com", "--no-wait")
    cleared = api.cli("domains:clear", "misc").stdout
    assert cleared == "Removing *.example.com, b.example.com from misc... done\n"
    made = api.cli("users:create", "mary")
    assert "Password: " in made.stdout
    api.cli("access:add", "misc", "mary")
    assert re.search(r"mary +member", api.cli("access", "misc").stdout)
    api.cli("access:remove", "mary", "-a", "misc")
    assert api.cli("apps:destroy", "--confirm", "misc").stdout == "Destroying misc... done\n"
    assert failed(api, "apps:info", "misc")[0] == 1


def test_routing_and_maintenance(api: Lab, tmp_path: Path) -> None:
    """Settings of requests are set, shown and taken back; a page comes from a file; the router is told each time."""
    api.cli("apps:create", "routed", "--no-remote")
    stop = threading.Event()

    def acknowledge() -> None:  # as the router would
        while not stop.wait(0.02):
            with api.store.transaction() as db:
                for row in db.scalars(select(App).where(App.routes_done < App.routes_wanted)):
                    row.routes_done = row.routes_wanted
                    signal(db, events.app_topic(row.id))

    thread = threading.Thread(target=acknowledge)
    thread.start()
    try:
        page = tmp_path / "oops.html"
        page.write_text("<h1>Oops</h1>")
        args = ("allow=10.0.0.0/8", f"error-page=@{page}", "basic-auth=mary:a-password")
        said = api.cli("routing:set", "routed", *args).stdout
        assert said == "Setting allow, error-page, basic-auth of routed... done\n"
        assert api.cli("maintenance:on", "routed").stdout.startswith("Enabling maintenance mode")
        found = json.loads(api.cli("routing", "routed", "--json").stdout)
        assert found == {
            "settings": {
                "allow": "10.0.0.0/8",
                "basic-auth": "mary",
                "error-page": "<h1>Oops</h1>",
            },
            "maintenance": True,
        }
        assert api.cli("maintenance", "routed").stdout == "on\n"
        api.cli("routing:set", "-a", "routed", "allow=", "basic-auth=", "error-page=")
        assert api.cli("routing", "routed").stdout == "maintenance:       on\n"
        api.cli("maintenance:off", "routed")
        assert api.cli("routing", "routed").stdout == ""
    finally:
        stop.set()
        thread.join()
    for wrong, word in (("alow=1", "allow"), ("rate-limit=x", "rate-limit"), ("x", "KEY=value")):
        assert word in failed(api, "routing:set", "-a", "routed", wrong)[1]
    log = applog.folder(api.settings, "routed")
    assert "a-password" not in "".join(path.read_text() for path in log.iterdir())


def test_metrics(api: Lab) -> None:
    """An app's requests are shown with a graph, or as JSON; without any that is said."""
    api.cli("apps:create", "measured", "--no-remote")
    assert api.cli("metrics", "measured").stdout.endswith("Requests:  0 (0 a second)\n")
    tally = Tally()
    for number in range(200):
        tally.add(200 if number else 503, 5 << 20, 20)
    folder = applog.folder(api.settings, "measured")
    record(folder, int(time.time() // 60), tally, 1)
    said = api.cli("metrics", "measured", "-m", "5").stdout
    assert re.search(r"Requests:  200 \([\d.]+ a second\) 2xx=199 5xx=1\n", said)
    assert "Time:      p50 22.6 ms, p95 22.6 ms, p99 22.6 ms\nSent:      1000 MB\n" in said
    assert "█" in said
    found = json.loads(api.cli("metrics", "measured", "--json").stdout)
    assert (found["requests"], found["p99"], len(found["series"])) == (200, 22.6, 60)
    assert "720" in failed(api, "metrics", "measured", "-m", "721")[1]


# -- logs ---------------------------------------------------------------------------------------


def test_logs(api: Lab) -> None:
    """The log comes in the field's format; what could steer a terminal is shown as text."""
    api.cli("apps:create", "chatty", "--no-remote")
    applog.append(api.settings, "chatty", "app[web.1]", "hello \x1b]0;owned\x07 \x1b[2J\x9b5n end")
    applog.append(api.settings, "chatty", "shipway[router]", "at=info")
    out = api.cli("logs", "chatty").stdout
    assert re.search(rf"^{FIELD} app\[web\.1\]: hello \^\[\]0;owned\^G ", out, re.MULTILINE)
    assert "\x1b" not in out
    assert "\x07" not in out
    assert "\x9b" not in out
    assert api.cli("logs", "chatty", "-p", "router").stdout.endswith("shipway[router]: at=info\n")
    assert api.cli("logs", "chatty", "-s", "app", "-d", "web.1", "-n", "1").stdout.count("\n") == 1
    assert api.cli("logs", "chatty", "-n", "0").stdout == ""


def test_logs_tail(api: Lab) -> None:
    """`logs -t` shows lines within moments of their being written."""
    api.cli("apps:create", "tailed", "--no-remote")
    tail = subprocess.Popen(
        ["shipway", "logs", "-t", "tailed", "-n", "1"],
        env=api.environ,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert tail.stdout is not None
    try:
        assert "App created" in tail.stdout.readline()
        begun = time.monotonic()
        applog.append(api.settings, "tailed", "app[web.1]", "now")
        assert tail.stdout.readline().endswith("app[web.1]: now\n")
        assert time.monotonic() - begun < 1
    finally:
        tail.terminate()
        tail.wait()


# -- who ----------------------------------------------------------------------------------------


def test_login(api: Lab) -> None:
    """A login is kept for oneself alone and used from then on; logging out ends its token."""
    url = f"http://127.0.0.1:{api.settings.web_port}"
    password = (api.settings.secrets / "admin-password").read_text()
    home = api.folder / "other-home"
    home.mkdir()
    # No data folder of the platform in sight: as on somebody's own machine.
    environ = {"HOME": str(home), "SHIPWAY_DATA": str(api.folder / "nothing")}
    assert "not logged in" in failed(api, "apps", env=environ)[1]
    out = api.cli("login", url, "-u", "admin", "--password-stdin", input=password, env=environ)
    assert out.stdout == f"Logged in to {url} as admin.\n"
    kept = home / ".config" / "shipway" / "credentials.json"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    token = json.loads(kept.read_text())["servers"][url]["token"]
    assert token not in out.stdout + out.stderr
    assert "hello" in api.cli("apps", env=environ).stdout
    assert api.cli("whoami", env=environ).stdout == "admin\n"
    api.cli("logout", env=environ)
    assert "not logged in" in failed(api, "apps", env=environ)[1]
    assert api.refused("GET", "/apps", token=token)[0] == 401
    kept.write_text("{")
    assert "damaged" in failed(api, "apps", env=environ)[1]
    assert (
        failed(api, "login", url, "-u", "admin", "--password-stdin", input="no\n", env=environ)[0]
        == 1
    )


def test_root_needs_no_login(api: Lab) -> None:
    """On the platform's machine root is the admin."""
    assert os.geteuid() == 0
    done = api.cli("whoami")
    assert done.stdout == "admin\n"
    assert "(this machine)" in done.stderr


def test_keys_and_tokens(api: Lab) -> None:
    """Keys come from a file, stdin or ~/.ssh; a token is printed alone on stdout."""
    key = api.folder / "home" / ".ssh" / "id_ed25519"
    key.parent.mkdir()
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "me", "-f", str(key)], check=True
    )
    assert "private key" in failed(api, "keys:add", str(key))[1]
    assert "Adding the key me (SHA256:" in api.cli("keys:add").stdout
    assert "already" in failed(api, "keys:add", "-", input=key.with_suffix(".pub").read_text())[1]
    assert "me" in api.cli("keys").stdout
    api.cli("keys:remove", "me")
    made = api.cli("tokens:create", "ci", "--days", "1")
    assert re.fullmatch(r"shw_[\w-]{43}\n", made.stdout)
    row = next(r for r in json.loads(api.cli("tokens", "--json").stdout) if r["name"] == "ci")
    day = time.strftime("%Y-%m-%d", time.gmtime(row["expires_at"]))
    api.cli("tokens:create", "laptop")
    shown = api.cli("tokens").stdout
    assert re.match(r"ID +NAME +CREATED +EXPIRES\n", shown)
    assert re.search(rf"^{row['id']} +ci .* {day}$", shown, re.MULTILINE)
    assert re.search(r"^\d+ +laptop .* never$", shown, re.MULTILINE)
    with api.store.transaction() as db:
        db.get_one(Token, row["id"]).expires_at = 86400.0
    assert re.search(r"ci .* expired 1970-01-02$", api.cli("tokens").stdout, re.MULTILINE)
    assert api.cli("tokens:revoke", str(row["id"])).stdout == "Revoking the token ci... done\n"


# -- over SSH -----------------------------------------------------------------------------------


def over_ssh(
    api: Lab, *args: str, token: str | None = None, **more: object
) -> subprocess.CompletedProcess[str]:
    """A command as the SSH server runs it: with the session's address and token."""
    environ = {
        "SHIPWAY_URL": f"http://127.0.0.1:{api.settings.web_port}",
        "SHIPWAY_TOKEN": token if token is not None else api.token,
    }
    return api.cli("--over-ssh", *args, check=False, env=environ, **more)


def test_commands_over_ssh(api: Lab) -> None:
    """The client commands work over SSH as the session's user."""
    assert over_ssh(api, "whoami").stdout == "admin\n"
    assert "web.1" in over_ssh(api, "ps", "hello").stdout
    assert "Which app?" in over_ssh(api, "ps").stderr
    john = api.user("john")
    assert over_ssh(api, "whoami", token=john).stdout == "john\n"
    assert over_ssh(api, "ps", "hello", token=john).returncode == 1


@pytest.mark.parametrize(
    "args",
    [
        ["up"],
        ["down"],
        ["down", "--apps"],
        ["web"],
        ["ssh"],
        ["worker"],
        ["host"],
        ["router"],
        ["redis"],
        ["migrate"],
        ["stack:build"],
        ["login", "http://127.0.0.1:1"],
        ["logout"],
        ["git:remote", "hello"],
        ["git:credentials", "get"],
        ["keys:add", "/etc/passwd"],
        ["--url", "http://127.0.0.1:9", "apps"],
        ["--url=http://127.0.0.1:9", "apps"],
        ["--token", "x", "apps"],
        ["--debug", "apps"],
    ],
    ids=" ".join,
)
def test_over_ssh_nothing_local(api: Lab, args: list[str]) -> None:
    """No command that touches the server's own machine, files or logins runs over SSH."""
    done = over_ssh(api, *args)
    assert done.returncode != 0
    assert done.stdout == ""
    assert done.stderr.startswith(" !     ")
    assert "root:" not in done.stderr


def test_over_ssh_without_a_token_is_nobody(api: Lab) -> None:
    """Over SSH root's own token is never used in place of the session's."""
    done = over_ssh(api, "whoami", token="")
    assert done.returncode == 1
    assert done.stdout == ""


def test_a_key_over_ssh_comes_on_stdin(api: Lab) -> None:
    """`ssh … keys:add < key.pub` registers the key."""
    key = api.folder / "sshkey"
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "s", "-f", str(key)], check=True
    )
    done = over_ssh(api, "keys:add", input=key.with_suffix(".pub").read_text())
    assert "Adding the key s" in done.stdout, done.stderr


def test_terminals_get_colours(api: Lab) -> None:
    """On a terminal a log's processes are told apart by colour, and still nothing else gets through."""
    if shutil.which("script") is None:
        pytest.skip("script(1) is missing")
    api.cli("apps:create", "colour", "--no-remote")
    applog.append(api.settings, "colour", "app[web.1]", "text \x1b[2J")
    done = subprocess.run(
        ["script", "-qec", "shipway logs colour", "/dev/null"],
        env=api.environ,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert "\x1b[3" in done.stdout or "\x1b[9" in done.stdout
    assert "\x1b[2J" not in done.stdout


# -- how apps are built -------------------------------------------------------------------------


def test_builds_are_told_things(api: Lab) -> None:
    """Settings, secrets and buildpacks are set, listed and taken back; values of secrets never come out."""
    api.cli("apps:create", "told", "--no-remote")
    api.cli("builds:set", "told", "build-dir=web", "memory=1G")
    assert json.loads(api.cli("builds:settings", "told", "--json").stdout)["build-dir"] == "web"
    assert "1G" in api.cli("builds:settings", "told").stdout
    api.cli("builder:set", "told", "dockerfile")
    assert json.loads(api.cli("builds:report", "told", "--json").stdout)["builder"] == "dockerfile"
    assert "expected a size" in failed(api, "builds:set", "told", "memory=x")[1]
    api.cli("builds:secrets:set", "told", "TOKEN=hush-hush")
    listed = api.cli("builds:secrets", "told", "--json").stdout
    assert json.loads(listed) == ["TOKEN"]
    assert "no valid name" in failed(api, "builds:secrets:set", "told", "../x=y")[1]
    api.cli("builds:secrets:unset", "told", "TOKEN")
    assert "is not set" in failed(api, "builds:secrets:unset", "told", "TOKEN")[1]
    api.cli("buildpacks:set", "told", "shipway/python")
    api.cli("buildpacks:add", "told", "shipway/nodejs", "-i", "1")
    listed = api.cli("buildpacks", "told", "--json").stdout
    assert json.loads(listed) == ["shipway/nodejs", "shipway/python"]
    api.cli("buildpacks:remove", "told", "shipway/python")
    api.cli("buildpacks:clear", "told")
    assert json.loads(api.cli("buildpacks", "told", "--json").stdout) == []


def test_images_and_archives_are_deployed(api: Lab) -> None:
    """From a registry's name, a file and the standard input; the build says what it was of."""
    api.cli("apps:create", "given", "--no-remote")
    assert "done, v1" in api.cli("git:from-image", "given", "nginx:1.27").stdout
    assert "nginx:1.27" in api.cli("builds", "given").stdout
    assert "nginx:1.27" in api.cli("builds:info", "given").stdout
    (api.folder / "Procfile").write_text("web: x\n")
    packed = api.folder / "app.tar"
    subprocess.run(["tar", "cf", packed, "-C", api.folder, "Procfile"], check=True)
    assert "done, v2" in api.cli("deploy:archive", "given", str(packed)).stdout
    with packed.open() as file:
        assert "done, v3" in api.cli("deploy:archive", "given", "-", stdin=file).stdout
    assert "no image" in failed(api, "git:from-image", "given", "a b")[1]
    assert "cannot be read" in failed(api, "deploy:archive", "given", "Procfile")[1]
    assert "No such file" in failed(api, "deploy:archive", "given", "/nonexistent")[1]
    assert "no bill of materials" in failed(api, "images:sbom", "given")[1]
