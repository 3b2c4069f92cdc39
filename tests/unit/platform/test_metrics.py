"""Request metrics: counted once, right to within a class, old minutes gone."""

import random
from pathlib import Path

from shipway.platform.metrics import MINUTES, Tally, read, record, summary

NOW = 1_795_478_393.0


def tally(*times: int, status: int = 200) -> Tally:
    """Requests of these times and a hundred bytes each."""
    found = Tally()
    for time in times:
        found.add(status, 100, time)
    return found


def test_percentiles() -> None:
    """A percentile is within a class of what sorting says."""
    dice = random.Random(1)
    times = sorted(int(dice.lognormvariate(4, 1.5)) for _ in range(5000))
    found = tally(*times)
    for percent in (50, 95, 99):
        exact = times[int(len(times) * percent / 100) - 1]
        assert exact <= (found.percentile(percent) or 0) <= max(1, exact) * 2**0.26
    assert tally().percentile(50) is None
    assert tally(0).percentile(99) == 1
    assert tally(10**7).percentile(99) == 131072


def test_a_batch_counts_once(tmp_path: Path) -> None:
    """The same batch again changes nothing, the next one adds, and other minutes are their own."""
    minute = int(NOW // 60)
    for mark in (500, 500, 900, 900):
        record(tmp_path, minute, tally(5, 5), mark)
    record(tmp_path, minute - 1, tally(9, status=503), 500)
    found = read(tmp_path, NOW, 3)
    assert [one.count for one in found] == [0, 1, 4]
    record(tmp_path, minute - 1 + MINUTES, tally(1), 7)  # half a day later, in the same place
    later = read(tmp_path, NOW + (MINUTES - 1) * 60, MINUTES)
    assert (later[-1].count, later[0].count) == (1, 4)
    shown = summary(found, NOW)
    assert shown["statuses"] == {"1xx": 0, "2xx": 4, "3xx": 0, "4xx": 0, "5xx": 1}
    assert (shown["requests"], shown["bytes"]) == (5, 500)
    assert shown["rate"] == round(5 / (120 + NOW % 60), 3)
    assert [one["errors"] for one in shown["series"]] == [0, 1, 0]
    assert shown["series"][-1]["at"] == minute * 60


def test_an_app_without_requests(tmp_path: Path) -> None:
    """Nothing was counted, and that is said."""
    shown = summary(read(tmp_path, NOW, 60), NOW)
    assert (shown["requests"], shown["p95"], len(shown["series"])) == (0, None, 60)
