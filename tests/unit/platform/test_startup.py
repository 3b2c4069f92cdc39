"""A start that does not come to its end."""

from pathlib import Path

import pytest

from shipway.platform import startup, supervisor
from shipway.platform.errors import Unavailable
from shipway.platform.settings import Settings


def test_what_does_not_come_up_is_named_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person need not open a log to learn why a process is not there."""
    settings = Settings(data=tmp_path, web_port=1, ssh_port=1, router_port=1)
    startup.prepare(settings)
    supervisor.log_path(settings).write_text(
        "2026-11-25T01:00:00 host   | old\n"
        "2026-11-25T01:00:01 host   | This machine cannot run containers: no room\n"
        "2026-11-25T01:00:02 host   | ended with status 69, starts again in 5 s\n"
        "2026-11-25T01:00:03 other  | hello\n"
    )
    monkeypatch.setattr(startup, "READY_TIMEOUT", 0)
    with pytest.raises(Unavailable) as error:
        startup.wait_ready(settings)
    assert "host said: This machine cannot run containers: no room." in str(error.value)
    assert "hello" not in str(error.value)
    assert str(supervisor.log_path(settings)) in str(error.value)
