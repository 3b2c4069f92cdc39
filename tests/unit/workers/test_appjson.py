"""What an app.json says of deploys."""

import json
from pathlib import Path

import pytest

from shipway.workers import appjson, checks
from shipway.workers.errors import WorkFailed

WHOLE = {
    "healthchecks": {
        "web": [
            {
                "type": "startup",
                "name": "answers",
                "path": "/up",
                "content": "fine",
                "httpHeaders": [{"name": "X-Check", "value": "1"}],
                "attempts": 2,
                "timeout": 1,
                "wait": 0.5,
                "initialDelay": 1,
            },
            {"type": "liveness", "command": ["true"], "warn": True},
            {"type": "readiness", "listening": True, "port": 9000},
        ],
        "worker": [{"type": "startup", "uptime": 3}],
    },
    "scripts": {"postdeploy": "one", "dokku": {"postdeploy": "two"}},
}


def test_a_whole_one() -> None:
    """Every field arrives at its check; Dokku's own place for the script wins; a type without checks has none."""
    found = appjson.parse(json.dumps(WHOLE))
    assert found["postdeploy"] == "two"
    answers, command, listening = checks.of(found, "web")
    assert (answers.way, answers.path, answers.content) == ("path", "/up", "fine")
    assert answers.headers == (("X-Check", "1"),)
    assert (answers.label, answers.patience) == ("answers", 1 + 2 * 1.5)
    assert (command.way, command.command, command.warn) == ("command", ("true",), True)
    assert (listening.way, listening.port, listening.attempts) == ("listening", 9000, 3)
    assert [check.uptime for check in checks.of(found, "worker")] == [3]
    assert checks.of(found, "clock") == ()
    assert appjson.strangers(found, {"web": "x"}) == ["worker"]


@pytest.mark.parametrize(
    ("check", "complaint"),
    [
        ({"path": "/"}, "app.json line 3: healthchecks.web[0] has no type, expected one of"),
        (
            {"type": "start"},
            "app.json line 5: healthchecks.web[0].type is 'start', expected one of",
        ),
        ({"type": "startup", "path": "up"}, "path is 'up', expected a path such as /healthz"),
        ({"type": "startup", "port": 0}, "port is '0', expected a port from 1 to 65535"),
        ({"type": "startup", "attempts": True}, "attempts is 'True', expected a whole number"),
        ({"type": "startup", "tiemout": 3}, "line 6: healthchecks.web[0].tiemout is no field"),
        ({"type": "startup", "command": []}, "command is '[]', expected a list of words"),
        ({"type": "startup", "httpHeaders": [{"name": "A b", "value": ""}]}, "expected a list of"),
        (
            {"type": "startup", "path": "/", "uptime": 2},
            "has path and uptime, expected one of them",
        ),
        ({"type": "liveness", "uptime": 2}, "uptime, which is for checks of type startup"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(
    tmp_path: Path, check: dict[str, object], complaint: str
) -> None:
    """The file, the line, the field, and what was expected there."""
    text = json.dumps({"healthchecks": {"web": [check]}}, indent=1)
    (tmp_path / "app.json").write_text(text)
    with pytest.raises(WorkFailed) as error:
        appjson.manifest(tmp_path)
    assert complaint in str(error.value)


def test_no_file_and_no_json(tmp_path: Path) -> None:
    """Without a file there is nothing to say; one that is no JSON, or a link out of the app, is refused."""
    assert appjson.manifest(tmp_path) == {}
    (tmp_path / "app.json").write_text('{\n  "healthchecks": {},\n}')
    with pytest.raises(WorkFailed, match=r"app\.json line [23]"):  # by Python's version
        appjson.manifest(tmp_path)
    (tmp_path / "app.json").unlink()
    (tmp_path / "app.json").symlink_to("/etc/passwd")
    with pytest.raises(WorkFailed, match="link out of the app"):
        appjson.manifest(tmp_path)
