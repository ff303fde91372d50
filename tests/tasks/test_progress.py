import logging
import time

import pytest

from tasks.progress import Reporter, in_words


def test_without_a_terminal_a_line_now_and_then_says_how_long_it_still_takes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    reporter = Reporter("train", terminal=False)
    with caplog.at_level(logging.INFO, logger="tuneflow"):
        for seconds, done in ((1, 50), (5, 60), (11, 70), (12, 72), (21, 90)):
            clock[0] = 100.0 + seconds
            reporter.update(done, 100)
    # 20 of 100 in the 10 seconds since the first news, which was of a resumed run's step 50: 30 more take 15.
    assert [record.getMessage() for record in caplog.records] == [
        "train: 70 of 100, about 15 s left",
        "train: 90 of 100, about 5 s left",
    ]


def test_who_knows_how_long_it_takes_says_so(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    reporter = Reporter("train", terminal=False)
    clock[0] = 111.0
    with caplog.at_level(logging.INFO, logger="tuneflow"):
        reporter.update(70, 100, seconds_left=4000.0)
    assert [record.getMessage() for record in caplog.records] == ["train: 70 of 100, about 67 min left"]


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "120 min"), (9000, "2.5 h")]
)
def test_seconds_in_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


def test_on_a_terminal_a_bar_is_drawn_and_taken_away(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "80")
    reporter = Reporter("train", terminal=True)
    reporter.update(10, 100)
    reporter.update(50, 100)
    reporter.close()
    drawn = capfd.readouterr().err
    assert "train" in drawn
    assert "50/100" in drawn
    reporter.close()  # twice does no harm
