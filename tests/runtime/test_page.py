# SPDX-License-Identifier: GPL-3.0-or-later
"""The page of a run: nobody's words become markup or script, it needs no network, and it tells what is true."""

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from fractal_slurm.driver.model import TaskState
from fractal_slurm.errors import RunError
from fractal_slurm.page import page, write_page
from fractal_slurm.page.facts import Bar, Use, lanes_of, suggestions, timeline, uses
from fractal_slurm.page.plots import clock, histogram_svg, nice_step, timeline_svg
from hypothesis import given
from hypothesis import strategies as st
from journals import RECORD, RUN, make
from samples import TOKEN, any_texts, run

HOSTILE = (
    "</script></style></title></pre><script>document.title='PW'+'NED'</script>"
    "<img src=http://x/ onerror=\"document.title='PW'+'NED'\"><!-- <a href='javascript:1' style='x'> \x1b[2J {{ 7*7 }} "
)
BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)


class Tags(HTMLParser):
    """The elements of a page, with their attributes and the text of scripts and styles."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.texts = {}
        self.open = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        self.open = (tag, dict(attrs).get("type")) if tag in ("script", "style") else None

    def handle_data(self, data):
        if self.open:
            self.texts[self.open] = self.texts.get(self.open, "") + data

    def handle_endtag(self, _tag):
        self.open = None


def hostile_journal(state_dir, tasks=12):
    """A journal in which every word that others choose is hostile."""
    journal = make(state_dir, state="done", tasks=tasks, ended=1_700_000_100.0)
    journal.write(replace(journal.record, task_name=HOSTILE))
    journal.event("said by sbatch", HOSTILE, HOSTILE)
    journal.update_job(TOKEN, "x", reason=HOSTILE, began_at=1_700_000_010.0, submitted_at=1_700_000_001.0)
    for index in range(tasks):
        record = {
            **RECORD, "task": index, "start": 1_700_000_011.0 + index, "seconds": 1.5, "peak_mb": 40.0, "cpu_s": 1.4,
            "host": HOSTILE, "tail": HOSTILE, "out": HOSTILE,
        }  # fmt: skip
        state = TaskState.FAILED if index % 3 == 0 else TaskState.SUCCEEDED
        journal.finish_task(index, state, HOSTILE, json.dumps(record))
    journal._db.execute("UPDATE task SET args = ?", (json.dumps({"well": HOSTILE}),))
    config = replace(journal.record.config, extra_lines=[HOSTILE.replace("\x1b", "")])
    journal.write(replace(journal.record, config=config))
    return journal


class TestPage:
    def test_takes_nobodys_words_for_markup(self, tmp_path):
        with hostile_journal(tmp_path) as journal:
            text = "".join(page(journal, "done"))
        tags = Tags(text)
        names = [tag for tag, _attributes in tags.found]
        assert names.count("script") == 2
        assert names.count("style") == 1
        assert not {"img", "iframe", "object", "link", "base"} & set(names)
        for _tag, attributes in tags.found:
            assert not [name for name in attributes if name.startswith("on") or name in ("style", "src")]
            assert attributes.get("href", "#").startswith("#")
        assert "\x1b" not in text
        assert "49" not in "".join(re.findall(r"\{\{.*?\}\}|<h1>.*?</h1>", text))
        rows = json.loads(tags.texts["script", "application/json"])
        assert rows[0][2].startswith("well=</script></style>")

    def test_runs_and_loads_nothing_but_its_own(self, tmp_path):
        with hostile_journal(tmp_path) as journal:
            tags = Tags("".join(page(journal, "done")))
        policies = [attributes for _tag, attributes in tags.found if "http-equiv" in attributes]
        assert [policy["http-equiv"] for policy in policies] == ["Content-Security-Policy"]
        rules = dict(rule.strip().split(" ", 1) for rule in policies[0]["content"].split(";"))

        def digest(text):
            return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

        assert rules == {
            "default-src": "'none'",
            "script-src": digest(tags.texts["script", None]),
            "style-src": digest(tags.texts["style", None]),
            "base-uri": "'none'",
            "form-action": "'none'",
        }

    def test_is_private_and_there_as_a_whole_or_not_at_all(self, tmp_path, monkeypatch):
        file = tmp_path / "page.html"
        file.write_text("before")
        file.chmod(0o644)
        with hostile_journal(tmp_path) as journal:
            write_page(journal, "done", file)
            assert file.stat().st_mode & 0o777 == 0o600
            whole = file.read_text()

            def refuse(*_arguments):
                raise OSError(28, "No space left")

            monkeypatch.setattr(Path, "rename", refuse)
            with pytest.raises(RunError, match="No space left"):
                write_page(journal, "done", file)
            assert file.read_text() == whole
            with pytest.raises(RunError, match="can't be written"):
                write_page(journal, "done", tmp_path / "nowhere" / "page.html")
        assert sorted(entry.name for entry in tmp_path.iterdir()) == ["page.html", "runs"]

    def test_tells_of_runs_that_have_hardly_begun(self, tmp_path):
        with make(tmp_path, state="planned") as journal:
            for index in range(3):
                journal._db.execute("UPDATE task SET state = 'waiting', record = NULL WHERE idx = ?", (index,))
            journal._db.execute("UPDATE job SET state = 'planned', slurm_job_id = NULL")
            text = "".join(page(journal, "interrupted"))
        assert "3 still to end" in text
        assert "Nothing was measured." in text

    def test_is_written_by_the_command(self, tmp_path, monkeypatch):
        monkeypatch.setenv("FRACTAL_SLURM_STATE_DIR", str(tmp_path))
        make(tmp_path).close()
        code, out, _err = run("report", RUN, "--html", tmp_path / "x.html")
        assert (code, out) == (0, f"{tmp_path}/x.html: written\n")
        assert json.loads(run("report", RUN, "--html", tmp_path / "x.html", "--json")[1])["run_id"] == RUN
        assert run("report", RUN, "--html", tmp_path / "no/x.html")[0] == 2

    @pytest.mark.skipif(BROWSER is None, reason="there is no browser of the Chromium family")
    def test_works_in_a_browser(self, tmp_path):
        with hostile_journal(tmp_path, tasks=2_000) as journal:
            write_page(journal, "done", tmp_path / "page.html")
        argv = [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/browser"]
        argv += ["--virtual-time-budget=3000", "--dump-dom", f"file://{tmp_path}/page.html"]
        found = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
        assert "PWNED" not in found.stdout
        assert "1 to 100 of 2000" in found.stdout  # its own script did run
        assert "<img" not in found.stdout


bars = st.builds(
    lambda begin, length, task: Bar(begin, begin + length, task, "succeeded"),
    st.floats(0, 1e6), st.floats(0, 1e4), st.integers(0, 99),
)  # fmt: skip


class TestTimeline:
    @given(st.lists(bars, max_size=40))
    def test_has_each_task_in_one_lane_without_overlap(self, found):
        lanes = lanes_of(found)
        assert sorted((span.begin, span.end) for lane in lanes for span in lane) == sorted(
            (b.begin, b.end) for b in found
        )
        for lane in lanes:
            assert all(one.end <= other.begin + 0.01 for one, other in pairwise(lane))

    def test_tells_waiting_start_and_idle_apart(self):
        job = {"number": 1, "slurm_job_id": "7", "submitted": 10.0, "began": 15.0, "ended": 30.0}
        tasks = [
            {"index": 0, "state": "succeeded", "job": "7", "start": 16.0, "duration_s": 4.0},
            {"index": 1, "state": "failed", "job": "7", "start": 16.0, "duration_s": 10.0},
            {"index": 2, "state": "succeeded", "job": "elsewhere", "start": 1e300, "duration_s": 1.0},
        ]
        (row,) = timeline([job], tasks, 10.0)
        assert (row.waited_s, row.startup_s, row.busy_s, row.idle_s) == (5.0, 1.0, 14.0, 6.0)
        assert timeline_svg([row]).count("<path") == 2

    @given(st.text(max_size=20))
    def test_draws_any_name_as_text(self, name):
        job = {"number": 1, "slurm_job_id": name or None, "submitted": 0.0, "began": None, "ended": None}
        svg = timeline_svg(timeline([job], [], 0.0))
        assert re.sub(r"<[^>]*>", "", svg).count("<") == 0


class TestUse:
    @pytest.mark.parametrize(
        ("values", "asked", "unit", "words"),
        [
            ([0.0023344] * 3, 1, "CPUs", ["0.00233 CPUs", "Asked for each: 1 CPU."]),
            ([12345.6] * 3, 14400, "s", ["at most 12346 s", "Asked for each: 14400 s."]),
            ([10.72], None, "MB", ["the largest 10.7."]),
        ],
    )
    def test_is_told_in_numbers_that_people_read(self, values, asked, unit, words):
        use = Use(values, asked, unit)
        assert all(each in use.words() for each in words), use.words()
        ticks = re.findall(r'class="tick"[^>]*>([^<]*)<', histogram_svg(use, "use"))
        assert len(set(ticks)) == len(ticks)
        assert not any("e" in tick for tick in ticks)

    @given(st.lists(st.floats(0, 1e9), min_size=1, max_size=50), st.none() | st.floats(0.001, 1e9))
    def test_histograms_lose_no_value(self, values, asked):
        svg = histogram_svg(Use(values, asked, "s"), "time")
        assert sum(int(number) for number in re.findall(r": ([0-9]+)</title>", svg)) == len(values)

    @given(st.floats(1e-6, 1e9), st.integers(1, 50))
    def test_ticks_are_round_and_few(self, whole, parts):
        assert whole / nice_step(whole, parts) <= parts * 1.01

    def test_ticks_of_time(self):
        assert [clock(at) for at in (0, 1.5, 90, 600, 7300)] == ["0 s", "1.5 s", "90 s", "10:00 min", "2:01 h"]

    def test_counts_what_succeeded_alone(self):
        tasks = [
            {"state": "succeeded", "duration_s": 10.0, "cpu_s": 15.0, "peak_mb": 100.0},
            {"state": "failed", "duration_s": 99.0, "cpu_s": 99.0, "peak_mb": 999.0},
            {"state": "succeeded", "duration_s": -1.0, "cpu_s": 1e300, "peak_mb": None},
        ]
        found = uses(tasks, {"mem_per_task_MB": 1000, "cpus_per_task": 4}, 60)
        assert [use.values for use in found.values()] == [[10.0], [100.0], [1.5]]

    @pytest.mark.parametrize(
        ("mem", "time", "cpus", "kinds", "said"),
        [
            ((1000, 300), (600, 100), (4, 1.0), [], [("mem", "400M"), ("time", "00:03:00"), ("cpus_per_task", "1")]),
            ((500, 480), (600, 590), (1, 1.0), [], [("mem", "600M"), ("time", "00:15:00")]),
            ((500, 300), (600, 350), (1, 1.0), ["job N ran out of memory"], [("mem", "more")]),
            ((None, 300), (None, 100), (None, 1.0), [], []),
        ],
    )
    def test_suggestions_follow_from_it(self, mem, time, cpus, kinds, said):
        found = {
            "mem": Use([mem[1]] * 5, mem[0], "MB"),
            "time": Use([float(time[1])] * 5, time[0], "s"),
            "cpus": Use([cpus[1]] * 5, cpus[0], "CPUs"),
        }
        rows = suggestions(found, [{"kind": kind} for kind in kinds])
        assert [(row["option"], row["then"]) for row in rows] == said

    @given(any_texts)
    def test_any_reason_of_a_failure_is_text(self, text):
        assert isinstance(suggestions(uses([], {}, None), [{"kind": text}]), list)


def test_a_large_page_is_written_quickly(tmp_path):
    with make(tmp_path, tasks=10_000) as journal:
        with journal.transaction():
            for index in range(10_000):
                record = {**RECORD, "task": index, "start": 1_700_000_000.0 + index % 97, "seconds": 1.0}
                journal.finish_task(index, TaskState.SUCCEEDED, None, json.dumps(record))
        write_page(journal, "done", tmp_path / "page.html")
    assert os.path.getsize(tmp_path / "page.html") < 5_000_000
