"""The table of a running comparison: what it says, how long it thinks it takes, and how it is drawn."""

import io
import json
import os
import pty
from pathlib import Path

import pytest

from mbrl.experiments.cell_status import Attempt, CellStatus, seconds_left
from mbrl.experiments.live_table import LiveTable, duration, event, table, total
from mbrl.experiments.study import Cell, Entry, Task

TASK = Task("Pendulum-v1", budget=1_000, eval_every=100, eval_episodes=1)


def status(label: str, seed: int = 0, **values: object) -> CellStatus:
    return CellStatus(Cell(TASK, Entry(label, label), seed), **values)  # type: ignore[arg-type]


def statuses() -> list[CellStatus]:
    tried = [Attempt("", "", "failed", "ValueError: bad"), Attempt("", "", "failed", "ValueError: worse")]
    return [
        status("sac", 0, state="done", steps=1_000, seconds=20.0, ret=-150.25),
        status("sac", 1, state="running", steps=500, seconds=10.0, ret=-900.0),
        status("pets", 0, state="failed", steps=100, seconds=30.0, attempts=tried),
        status("pets", 1, state="waiting"),
    ]


def test_a_line_for_each_algorithm_and_one_for_the_whole():
    lines = table(statuses())
    assert lines[1].split() == ["Pendulum-v1", "pets", "#" + 19 * ".", "5%", "0/2", "-", "-", "1", "FAILED"]
    assert lines[2].split() == ["Pendulum-v1", "sac", 15 * "#" + 5 * ".", "75%", "1/2", "-150.2", "-900"]
    assert total(statuses(), 2) == "1 of 4 runs done, 1 running, 1 failed, about 5 min left"


def test_the_time_left_is_that_of_what_is_known_of_each_algorithm():
    # 500 steps of sac at 0.02 s, 1,000 of pets at 0.3 s: one after the other, or side by side as long as the longest.
    assert seconds_left(statuses(), 1) == pytest.approx(10 + 300)
    assert seconds_left(statuses(), 2) == pytest.approx(300)
    unknown = [*statuses(), status("mbpo")]
    assert seconds_left(unknown, 2) is None
    assert "time left not known yet" in total(unknown, 2)
    assert seconds_left([status("sac", state="done", steps=1_000, seconds=1.0)], 2) == 0


def test_events_say_what_has_become_of_a_run():
    done, running, failed, _ = statuses()
    assert event(done) == "done: sac on Pendulum-v1, seed 0, return -150.2"
    done.reused = True
    assert event(done).startswith("found: sac")
    assert event(running).startswith("resumed: sac on Pendulum-v1, seed 1")
    assert event(failed) == "FAILED: pets on Pendulum-v1, seed 0: ValueError: worse"
    failed.state, failed.failures = "running", 1
    assert event(failed).startswith("again: pets")
    assert "2 running, 1 of them again" in total([done, running, failed], 2)
    assert "1 running, 1 queued" in total([done, running, failed], 1)  # on a cluster


def test_without_a_terminal_there_are_plain_lines_once_each():
    said = io.StringIO()
    shown, cells = LiveTable(said), statuses()
    shown.show(cells, 1)
    shown.show(cells, 1)
    cells[3].state = "running"
    shown.show(cells, 1)
    lines = said.getvalue().splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "done",
        "resumed",
        "FAILED",
        "1 of 4 runs done, 1 running, 1 failed, about 6 min left",
        "started",
    ]
    assert "\x1b" not in said.getvalue()


def test_a_terminal_is_drawn_over():
    keeper, terminal = pty.openpty()
    with os.fdopen(terminal, "w") as file:
        shown = LiveTable(file, every=0)
        shown.show(statuses(), 2)
        shown.show(statuses(), 2)
        drawn = ""
        while drawn.count("about") < 2:
            drawn += os.read(keeper, 10_000).decode()
    os.close(keeper)
    assert drawn.count("1 of 4 runs done") == 2
    assert drawn.count("\x1b[2K") == 2 * 5
    assert "\x1b[5A" in drawn  # header, two algorithms, an empty line, the whole


def test_metrics_are_read_as_they_grow_and_after_they_were_cut_back(tmp_path: Path):
    watched = status("sac", path=tmp_path)
    watched.read()
    assert watched.steps == 0
    file = tmp_path / "metrics.jsonl"
    rows = [{"time/total_timesteps": n, "time/wall_clock": n / 10, "eval/mean_reward": -n} for n in (100, 200)]
    file.write_text(json.dumps(rows[0]) + "\n" + json.dumps(rows[1])[:20])
    watched.read()
    assert (watched.steps, watched.seconds, watched.ret) == (100, 10.0, -100)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows) + "damaged\n")
    watched.read()
    assert (watched.steps, watched.ret) == (200, -200)
    file.write_text(json.dumps(rows[0]) + "\n")
    watched.read()
    assert watched.steps == 100
    other = tmp_path / "restored"  # from a copy, and as long
    other.write_text(json.dumps({**rows[0], "eval/mean_reward": -300}) + "\n")
    other.rename(file)
    watched.read()
    assert watched.ret == -300


def test_durations_are_for_people():
    assert [duration(s) for s in (0, 59, 300, 12_000)] == ["0 min", "1 min", "5 min", "3 h 20 min"]
