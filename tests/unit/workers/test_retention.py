"""What has grown old."""

import time
from pathlib import Path

from shipway.workers.retention import DAY, LOG_DAYS, measured, surplus


def test_the_oldest_go_until_the_rest_fits() -> None:
    """Files go in order of age until the rest fits, and those of the last days never."""
    now = time.time()
    old = [(Path(f"web.1.{n}.log"), 10, now - (20 - n) * DAY) for n in range(5)]
    young = (Path("web.1.9.log"), 1000, now - (LOG_DAYS - 1) * DAY)
    assert surplus([young, *old], 5000) == []
    assert surplus([young, *old], 1030) == [Path("web.1.0.log"), Path("web.1.1.log")]
    assert surplus([young, *old], 0) == [path for path, _, _ in old]


def test_a_file_that_went_meanwhile_is_no_hindrance(tmp_path: Path) -> None:
    """Logs are rotated and removed while this looks at them; those that are left are measured."""
    there = tmp_path / "web.1.1.log"
    there.write_text("12345")
    found = list(measured([tmp_path / "web.1.0.log", there]))
    assert [(path, size) for path, size, _ in found] == [(there, 5)]
