"""Progress: plain lines in a log, a bar on a terminal."""

from __future__ import annotations

import io

from overseg.cluster.progress import Lines, open_progress


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_come_at_tenths_but_not_too_often() -> None:
    out, clock = io.StringIO(), Clock()
    lines = Lines(out, clock)
    for done in range(1001):
        clock.now = done * 0.1  # a tenth every ten seconds
        lines("scan", done, 1000)
    said = out.getvalue().splitlines()
    assert len(said) == 10
    assert said[0] == "scan: 100 of 1,000 (10%), about 2 min left"
    assert said[-1] == "scan: 1,000 of 1,000 done in 2 min"


def test_lines_come_at_least_every_half_minute_and_short_steps_say_one() -> None:
    out, clock = io.StringIO(), Clock()
    lines = Lines(out, clock)
    lines("quick", 0, 3)
    lines("quick", 3, 3)
    for minute in range(3):
        clock.now = minute * 60
        lines("slow", minute, 10_000)
    said = out.getvalue().splitlines()
    assert said[0] == "quick: 3 of 3 done in 0 s"
    assert [line.split(",")[0] for line in said[1:]] == ["slow: 1 of 10", "slow: 2 of 10"]
    assert said[2].endswith("about 166 h 38 min left")


def test_units_from_disk_do_not_count_as_speed() -> None:
    out, clock = io.StringIO(), Clock()
    lines = Lines(out, clock)
    lines("scan", 50, 100)
    clock.now = 40
    lines("scan", 60, 100)
    assert out.getvalue() == "scan: 60 of 100 (60%), about 3 min left\n"


def test_a_log_gets_no_control_characters() -> None:
    out = io.StringIO()
    with open_progress(out) as progress:
        for done in range(4):
            progress("scan", done, 3)
    assert out.getvalue() == "scan: 3 of 3 done in 0 s\n"


def test_a_terminal_gets_a_bar() -> None:
    out = Terminal()
    with open_progress(out) as progress:
        for done in range(4):
            progress("scan", done, 3)
    assert "scan" in out.getvalue()
    assert "3/3" in out.getvalue()
