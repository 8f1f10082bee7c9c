# SPDX-License-Identifier: GPL-3.0-or-later
"""Many runs in one process of the command line, with stand-ins for sudo and SLURM."""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections import Counter

import pytest
from test_processes import Site, wait_for

TASK = """\
#!/bin/bash
echo "$(tr -d ' ' < "$2")" >> {marks}
[ ! -e {held} ] || read -r < {held}
echo '{"n": "done"}' > "$4"
"""
FAILS = """\
#!/bin/bash
exit 3
"""


class Sites(Site):
    """A command line with several units of work."""

    def __init__(self, folder):
        super().__init__(folder)
        text = TASK.replace("{marks}", str(self.marks)).replace("{held}", str(self.held))
        (folder / "task.sh").write_text(text)

    def specs(self, number, *, tasks=2):
        paths = []
        for index in range(number):
            path = self.folder / f"spec-{index}.json"
            document = json.loads((self.folder / "spec.json").read_text())
            document["task"]["name"] = f"task {index}"
            document["parameters"] = [{"n": f"{index}.{n}"} for n in range(tasks)]
            path.write_text(json.dumps(document))
            paths.append(str(path))
        return paths

    def call(self, *arguments):
        argv = [sys.executable, "-m", "fractal_slurm.cli", *arguments]
        return subprocess.Popen(argv, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run_all(self, specs, *more):
        work = ["--cache-dir", "/cache", "--work-dir", str(self.folder / "work")]
        return self.call("run", *specs, "--user", "standin-anna", *work, *more)

    def runs(self):
        return sorted(path.name for path in (self.folder / "state/runs").glob("[0-9]*"))

    def states(self):
        process = self.call("status", "--json")
        return Counter(row["state"] for row in json.loads(process.communicate(timeout=60)[0]))


@pytest.fixture
def site(tmp_path):
    site = Sites(tmp_path)
    (tmp_path / "work").mkdir()
    yield site
    site.let_go()  # what was started ends


def ends(process, code):
    out, err = process.communicate(timeout=90)
    assert process.returncode == code, err
    return out, err


class TestSeveralSpecs:
    def test_become_a_run_each_in_one_process(self, site):
        out, err = ends(site.run_all(site.specs(3), "--json"), 0)
        runs = json.loads(out)["runs"]
        assert [(run["state"], run["succeeded"]) for run in runs] == [("done", 2)] * 3
        assert len({run["run_id"] for run in runs}) == 3
        assert set(Counter(site.starts()).values()) == {1}
        for index, run in enumerate(runs):  # each sentence says of which run it is
            assert f"run {run['run_id']} (task {index}): " in err

    def test_of_which_one_is_not_valid_begin_nothing(self, site):
        specs = site.specs(3)
        (site.folder / "spec-1.json").write_text('{"task": {"name": "x"}, "parameters": []}')
        (site.folder / "spec-2.json").write_text(
            json.dumps({**json.loads((site.folder / "spec-0.json").read_text()), "meta": {"partition": "nowhere"}})
        )
        _out, err = ends(site.run_all(specs), 2)
        assert "spec-1.json" in err
        assert "spec-2.json" in err
        assert "'nowhere'" in err
        assert site.runs() == []

    def test_are_made_with_few_open_files_and_none_is_left_if_one_can_not_be(self, site):
        specs = site.specs(25, tasks=1)
        code = (
            "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (70, 70))\n"
            "from fractal_slurm.cli import many; from fractal_slurm.settings import load_settings\n"
            "def create(paths):\n"
            "    return many.create_runs(paths, None, load_settings(), user='standin-anna', cache_dir='/cache',\n"
            "                            work_dir=sys.argv[1], account=None)\n"
            "print(len(create(sys.argv[2:])))\n"
            "make, left = many.draft_spec, [5]\n"
            "def draft(*args, **options):\n"
            "    left[0] -= 1\n"
            "    return make(*args, **options) if left[0] else None\n"
            "many.draft_spec = draft\n"
            "create(sys.argv[2:])\n"
        )
        argv = [sys.executable, "-c", code, str(site.folder / "work"), *specs]
        made = subprocess.run(argv, env=site.env, capture_output=True, text=True, timeout=90, check=False)
        assert made.stdout == "25\n", made.stderr
        assert "'NoneType' object has no attribute 'create'" in made.stderr
        assert len(site.runs()) == 25
        assert len(list((site.folder / "state/runs").iterdir())) == 25

    def test_end_with_the_worst_code_and_events_of_each(self, site):
        specs = site.specs(2)
        fails = site.folder / "fails.sh"
        fails.write_text(FAILS)
        fails.chmod(0o755)
        document = json.loads((site.folder / "spec-1.json").read_text())
        document["task"]["command"] = str(fails)
        (site.folder / "spec-1.json").write_text(json.dumps(document))
        out, _err = ends(site.run_all(specs, "--json-lines"), 1)
        events = [json.loads(line) for line in out.splitlines()]
        assert Counter(event["event"] for event in events)["end"] == 2
        tasks = Counter((event["run_id"], event["state"]) for event in events if event["event"] == "task")
        first, second = site.runs()
        both = {event["run_id"]: event["succeeded"] for event in events if event["event"] == "end"}
        assert sorted(both.values()) == [0, 2]
        assert {state: number for (_run, state), number in tasks.items()} == {"succeeded": 2, "failed": 2}
        assert {first, second} == set(both)

    def test_print_nothing_with_quiet(self, site):
        assert ends(site.run_all(site.specs(2), "--quiet"), 0) == ("", "")

    @pytest.mark.parametrize(("number", "times"), [(signal.SIGINT, 1), (signal.SIGTERM, 1), (signal.SIGINT, 2)])
    def test_are_cancelled_or_left_together(self, site, number, times):
        site.hold()
        process = site.run_all(site.specs(2), "--json")
        wait_for(lambda: len(site.starts()) == 4)
        process.send_signal(number)
        if times == 2:
            wait_for(lambda: b"cancelling" in os.read(process.stderr.fileno(), 10_000))
            process.send_signal(number)
        out, _err = ends(process, 130)
        left = times == 2
        assert {run["state"] for run in json.loads(out)["runs"]} == ({"driven"} if left else {"cancelled"})
        assert site.states() == {"interrupted" if left else "cancelled": 2}
        if left:
            site.let_go()
            out, _err = ends(site.call("resume", "--all", "--json"), 0)
            assert [run["succeeded"] for run in json.loads(out)["runs"]] == [2, 2]
            assert set(Counter(site.starts()).values()) == {1}

    def test_one_of_them_can_be_cancelled_alone(self, site):
        site.hold()
        process = site.run_all(site.specs(2), "--json")
        wait_for(lambda: len(site.starts()) == 4)
        first, second = site.runs()
        ends(site.call("cancel", first), 0)
        wait_for(lambda: site.states() == {"cancelled": 1, "driven": 1})
        site.let_go()
        out, _err = ends(process, 130)
        assert {run["run_id"]: run["state"] for run in json.loads(out)["runs"]} == {first: "cancelled", second: "done"}

    def test_go_on_in_the_background(self, site):
        out, _err = ends(site.run_all(site.specs(2), "--json", "--detach"), 0)
        begun = json.loads(out)
        assert sorted(begun["run_ids"]) == site.runs()
        wait_for(lambda: site.states() == {"done": 2})


class TestResumeAll:
    def test_takes_up_each_run_once_after_a_crash_and_names_what_is_broken(self, site):
        site.hold()
        process = site.run_all(site.specs(4))
        wait_for(lambda: len(site.starts()) == 8)
        process.kill()
        process.communicate()
        assert site.states() == {"interrupted": 4}
        other = site.call("resume", site.runs()[0], "--json")
        wait_for(lambda: site.states() == {"interrupted": 3, "driven": 1})
        (site.folder / "state/runs" / site.runs()[3] / "journal.sqlite").write_bytes(b"no journal" * 1000)
        both = [site.call("resume", "--all", "--json") for _number in range(2)]
        wait_for(lambda: site.states()["driven"] == 3)
        site.let_go()
        found = [ends(one, 2) for one in both]
        ends(other, 0)
        resumed = [run["run_id"] for out, _err in found for run in json.loads(out)["runs"]]
        assert sorted(resumed) == site.runs()[1:3]  # by one of the two, whichever was first
        for out, err in found:
            assert site.runs()[3] in json.loads(out)["errors"][0]
            assert f"left alone: run {site.runs()[0]} is driven by another process" in err
        assert set(Counter(site.starts()).values()) == {1}

    def test_takes_a_run_up_again_that_could_not_be_begun_before(self, site):
        site.env["FRACTAL_SLURM_LIMITS"] = '{"each_user": {"max_submissions": "1 in 1h"}}'
        process = site.run_all(site.specs(2))
        wait_for(lambda: site.states() == {"done": 1, "driven": 1})
        process.kill()
        process.communicate()
        site.slurm.fault("sudo", "unknown user standin-anna")  # of a host that has just started
        _out, err = ends(site.call("resume", "--all"), 3)
        assert "this host knows no such user" in err
        assert site.states() == {"done": 1, "interrupted": 1}
        site.slurm.fault("sudo")
        del site.env["FRACTAL_SLURM_LIMITS"]
        out, _err = ends(site.call("resume", "--all", "--json"), 0)
        assert [run["succeeded"] for run in json.loads(out)["runs"]] == [2]
        assert set(Counter(site.starts()).values()) == {1}

    def test_in_the_background_leaves_alone_what_others_drive(self, site):
        site.hold()
        process = site.run_all(site.specs(3))
        wait_for(lambda: len(site.starts()) == 6)
        process.kill()
        process.communicate()
        first, second, third = site.runs()
        other = site.call("resume", first, "--json")
        wait_for(lambda: site.states() == {"interrupted": 2, "driven": 1})
        out, err = ends(site.call("resume", first, second, "20260101-000000-abcdef", "--detach", "--json"), 2)
        begun = json.loads(out)
        assert begun["run_ids"] == [second]
        assert f"run {first} is driven by another process (pid {other.pid}" in begun["errors"][0]
        assert "there is no run 20260101-000000-abcdef" in begun["errors"][1]
        out, err = ends(site.call("resume", "--all", "--detach", "--json"), 0)
        assert json.loads(out)["run_ids"] == [third]
        assert [f"left alone: run {run}" in err for run in (first, second, third)] == [True, True, False]
        out, err = ends(site.call("resume", "--all", "--detach", "--json"), 0)
        assert json.loads(out) == {"runs": []}
        site.let_go()
        ends(other, 0)
        wait_for(lambda: site.states() == {"done": 3})
        assert set(Counter(site.starts()).values()) == {1}

    def test_leaves_all_jobs_when_its_service_is_stopped_and_waits_for_a_silent_slurm(self, site):
        site.hold()
        process = site.run_all(site.specs(2))
        wait_for(lambda: len(site.starts()) == 4)
        process.kill()
        process.communicate()
        process = site.call("resume", "--all", "--json")
        wait_for(lambda: site.states() == {"driven": 2})
        process.send_signal(signal.SIGTERM)
        ends(process, 130)
        assert site.states() == {"interrupted": 2}
        site.slurm.fault("slurmctld", "away")
        process = site.call("resume", "--all", "--json")
        wait_for(lambda: b"SLURM does not answer" in os.read(process.stderr.fileno(), 10_000))
        site.slurm.fault("slurmctld")
        site.let_go()
        out, _err = ends(process, 0)
        assert [run["succeeded"] for run in json.loads(out)["runs"]] == [2, 2]
        assert set(Counter(site.starts()).values()) == {1}

    def test_goes_on_with_the_others_where_a_journal_takes_nothing_any_more(self, site):
        site.hold()
        process = site.run_all(site.specs(3))
        wait_for(lambda: len(site.starts()) == 6)
        process.kill()
        process.communicate()
        for run_id, table in zip(site.runs(), ("job", "run"), strict=False):
            with contextlib.closing(sqlite3.connect(site.folder / "state/runs" / run_id / "journal.sqlite")) as journal:
                if table == "run":  # so that something is written before the first turn
                    journal.execute("INSERT OR REPLACE INTO run VALUES ('refusal', '\"why\"')")
                for what in ("UPDATE", "INSERT"):
                    journal.execute(
                        f"CREATE TRIGGER no_{what} BEFORE {what} ON {table} "
                        "BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"
                    )
                journal.commit()
        process = site.call("resume", "--all", "--json")
        wait_for(lambda: process.poll() is not None or site.states() == {"interrupted": 2, "driven": 1})
        site.let_go()
        out, err = ends(process, 2)
        document = json.loads(out)
        first, second, third = site.runs()
        assert {run["run_id"]: run["state"] for run in document["runs"]} == {third: "done"}
        for run_id in (first, second):
            assert any(run_id in error and "disk is full" in error for error in document["errors"]), err
        assert site.states() == {"interrupted": 2, "done": 1}

    def test_has_nothing_to_do_where_all_have_ended(self, site):
        assert json.loads(ends(site.call("resume", "--all", "--json"), 0)[0]) == {"runs": []}
        ends(site.call("resume"), 2)
        ends(site.call("resume", "--all", "20260101-000000-abcdef"), 2)
