# SPDX-License-Identifier: GPL-3.0-or-later
"""What people read of runs and type next: failures by kind, logs of many tasks, retries."""

import json
from dataclasses import replace

import pytest
from fractal_slurm.config.resolve import resolve
from fractal_slurm.driver.again import knows_metas, options_again
from fractal_slurm.driver.model import Metas
from fractal_slurm.errors import FractalSlurmError
from fractal_slurm.jobs.script import render
from fractal_slurm.report import args_words, counts_words, failure_kinds, next_steps, ranges
from hypothesis import given
from hypothesis import strategies as st
from journals import RECORD, RUN, make, run_record
from samples import TOKEN, any_texts, config_file, job_settings, json_values, run, slurm_config


@pytest.fixture
def state_dir(tmp_path, monkeypatch):
    """A folder for journals, which the command line takes for its own."""
    (tmp_path / "settings.toml").touch()
    monkeypatch.setenv("FRACTAL_SLURM_SETTINGS_FILE", str(tmp_path / "settings.toml"))
    monkeypatch.setenv("FRACTAL_SLURM_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state"


def failure(index, reason, **others):
    return {"index": index, "state": "failed", "reason": reason, "args": {"well": f"A{index:02}"}, **others}


class TestKinds:
    def test_are_told_apart_by_what_is_not_of_one_task_alone(self):
        kinds = failure_kinds(
            [
                failure(0, "exit code 1"),
                failure(1, "exit code 2"),
                failure(2, "job 17 ran out of memory: 210 MB of 200"),
                failure(3, "job 18 ran out of memory: 307 MB of 200"),
                failure(4, "exit code 2; before, the script of its job printed: x", host="n1"),
                failure(5, "the out-JSON /tmp/x1/out can't be read"),
                failure(6, "the out-JSON /tmp/yz/out can't be read"),
            ]
        )
        assert [kind["indices"] for kind in kinds] == [[1, 4], [2, 3], [5, 6], [0]]
        assert kinds[0]["hosts"] == {"n1": 1}

    def test_are_bounded(self):
        letters = [chr(ord("a") + first) + chr(ord("a") + second) for first in range(26) for second in range(26)]
        kinds = failure_kinds(failure(index, f"of its own {word}") for index, word in enumerate(letters))
        assert len(kinds) == 51
        assert sum(kind["tasks"] for kind in kinds) == len(letters)

    @given(st.lists(any_texts, max_size=5))
    def test_lose_no_failure(self, reasons):
        kinds = failure_kinds(failure(index, reason) for index, reason in enumerate(reasons))
        assert sorted(index for kind in kinds for index in kind["indices"]) == list(range(len(reasons)))

    @given(json_values)
    def test_args_are_one_line(self, value):
        assert args_words(value).isprintable()
        assert len(args_words(value)) <= 100

    def test_numbers_in_a_row_are_a_range(self):
        assert ranges([0, 1, 2, 5, 7, 8]) == "0-2, 5, 7-8"
        assert ranges([0, 2, 4, 6], most=2) == "0, 2, ..."


class TestNextSteps:
    @pytest.mark.parametrize(
        ("state", "counts", "words"),
        [
            ("done", {"succeeded": 3}, []),
            ("done", {"failed": 1}, ["logs RUN --failed", "retry RUN"]),
            ("cancelled", {"not_run": 2}, ["retry RUN"]),
            ("interrupted", {"waiting": 2}, ["resume RUN"]),
            ("driven", {"waiting": 2}, ["attach RUN"]),
        ],
    )
    def test_fit_how_the_run_is(self, state, counts, words):
        found = next_steps("RUN", state, failed=counts.get("failed", 0), not_run=counts.get("not_run", 0))
        assert len(found) == len(words)
        assert all(sentence.endswith(f"fractal-slurm {step}") for sentence, step in zip(found, words, strict=True))

    def test_waiting_tasks_have_not_failed(self):
        words = counts_words({"waiting": 5, "succeeded": 2, "failed": 1}, ended=False)
        assert words == "8 tasks: 2 succeeded, 1 failed, 5 still to end"


class TestReport:
    def test_lists_no_waiting_task_as_failed(self, state_dir):
        make(state_dir, state="driven", tasks=5).close()
        out = run("report", RUN)[1]
        assert "5 tasks: 1 succeeded, 1 failed, 3 without an end" not in out
        assert "1 task: exit code 1" in out
        assert "3 still to end" in out
        assert "task 2" not in out
        assert f"fractal-slurm resume {RUN}" in out

    def test_names_the_args_of_what_failed_and_what_to_type_next(self, state_dir):
        with make(state_dir) as journal:
            journal._db.execute("UPDATE task SET args = ? WHERE idx = 1", (json.dumps({"well": "B03", "z": [1]}),))
            journal.write(replace(journal.record, retry_of="20250101-000000-000000"))
        out = run("report", RUN)[1]
        assert "task 1: well=B03, z=[1]" in out
        assert f"fractal-slurm retry {RUN}" in out
        assert "a retry of" in out

    def test_says_what_succeeded_without_a_result(self, state_dir):
        with make(state_dir, tasks=4) as journal:
            record = {key: value for key, value in RECORD.items() if key != "out"}
            for index in (2, 3):
                record |= {"task": index, "tail": '"out": {"out": 1}'}
                journal.finish_task(index, "succeeded", None, json.dumps(record))
            assert journal.without_out() == 2
        assert "2 of the tasks that succeeded wrote no out-JSON" in run("report", RUN)[1]


class TestLogs:
    def test_of_many_tasks_come_from_the_journal_where_they_are_short(self, state_dir):
        make(state_dir).close()
        code, out, err = run("logs", RUN)
        assert (code, err) == (0, "")
        assert out.splitlines() == ["task 0 () succeeded", "    log", "task 1 () failed: exit code 1", "    log"]
        assert run("logs", RUN, "--failed")[1].splitlines() == out.splitlines()[2:]
        assert [row["index"] for row in json.loads(run("logs", RUN, "--json")[1])] == [0, 1]
        assert json.loads(run("logs", RUN, "--json", "--failed")[1])[0]["log"] == "log\n"

    def test_can_not_pass_for_our_lines(self, state_dir):
        tail = "x\r\ntask 0 () succeeded\x0btask 0\u2028task 0\n\x1b[2Jtask 0"
        with make(state_dir) as journal:
            record = {**RECORD, "task": 1, "tail": tail, "log": [0, len(tail.encode())]}
            journal.finish_task(1, "failed", "exit\ntask 0 () succeeded", json.dumps(record))
        out = run("logs", RUN)[1]
        assert sum(line.startswith("task 0") for line in out.splitlines()) == 1
        assert "\x1b" not in out

    def test_with_follow_end_with_the_run(self, state_dir):
        make(state_dir).close()
        assert run("logs", RUN, "--follow")[0] == 0

    @pytest.mark.parametrize("arguments", [(9,), (9, "--follow"), (9, "--json"), (2,)])
    def test_of_a_task_that_has_none(self, state_dir, arguments):
        make(state_dir).close()
        code, _out, err = run("logs", RUN, *arguments)
        assert code == 2
        assert "task" in err
        assert "Traceback" not in err


class TestRetry:
    def test_is_refused_while_the_run_goes_on(self, state_dir):
        make(state_dir, state="driven").close()
        code, _out, err = run("retry", RUN)
        assert code == 2
        assert "has not ended" in err

    def test_is_refused_where_nothing_failed(self, state_dir):
        with make(state_dir, tasks=2) as journal:
            journal.finish_task(1, "succeeded", None, json.dumps({**RECORD, "task": 1}))
        assert "has no task that failed" in run("retry", RUN)[2]

    def test_of_a_program_that_keeps_track_of_its_runs_is_refused(self, state_dir):
        with make(state_dir) as journal:
            journal.write(replace(journal.record, labels={"their_sheet": {}}))
        code, _out, err = run("retry", RUN)
        assert code == 2
        assert "(it has the labels their_sheet)" in err

    def test_reads_no_config_where_the_run_had_no_spec(self, state_dir):
        make(state_dir).close()
        assert "--config has no part" in run("retry", RUN, "--config", "/nowhere")[2]
        assert "is not allowed" in run("retry", RUN, "--mem", "lots")[2]


class TestOptionsAgain:
    def old(self, *, meta=None, **changes):
        found = resolve(config_file(), task_name="Measure wells", workflow_task_meta=meta, tot_tasks=200)
        return run_record(config=found.config, sources=found.sources, **changes)

    def test_are_those_of_the_run_with_what_was_changed(self):
        old = self.old(meta={"cpus_per_task": 2, "mem": "1G"})
        found = options_again(old, {"mem": "2G", "time": "02:00:00"}, tasks=3)
        assert (found.config.cpus_per_task, found.config.memory_mb, found.config.time_s) == (2, 2000, 7200)
        assert {found.sources[key] for key in ("mem_per_task_MB", "time")} == {"retry"}
        assert found.sources["cpus_per_task"] == f"run {RUN}"
        again = run_record(config=found.config, sources=found.sources)
        assert options_again(again, {}, tasks=3).config == found.config

    def test_have_a_batching_of_their_own_if_the_heuristics_decided(self):
        config = options_again(self.old(), {}, tasks=2).config
        assert config.tasks_per_job < self.old().config.tasks_per_job
        given = {"tasks_per_job": 21, "parallel_tasks_per_job": 1}
        assert options_again(self.old(meta=given), {}, tasks=2).config.tasks_per_job == 21

    @pytest.mark.parametrize("changes", [{"mem": "lots"}, {"mem": "9999G"}, {"time": "soon"}])
    def test_are_checked(self, changes):
        with pytest.raises(FractalSlurmError):
            options_again(self.old(), changes, tasks=2)

    def test_are_read_from_the_config_file_only_where_the_metas_are_known(self):
        assert not knows_metas(self.old())
        assert knows_metas(self.old(metas=Metas({}, {})))
        assert knows_metas(self.old(meta={"mem": "1G"}, metas=Metas({}, {"mem": "1G"})))
        assert not knows_metas(self.old(meta={"mem": "1G"}, metas=Metas({}, {})))


class TestNames:
    def test_runs_is_status_and_prune(self, state_dir):
        make(state_dir, ended=1.0).close()
        assert run("runs", "--json")[1] == run("status", "--json")[1]
        assert run("runs", "--clean")[0] == 2
        assert run("runs", "--clean", "--older-than", "1d")[1] == f"{RUN}: removed\n"

    def test_a_job_names_its_run_in_its_comment(self):
        def comment(**settings):
            script = render(slurm_config(), job_settings(**settings), token=TOKEN, tasks=[(0, 0, "{}")]).decode()
            return next(line for line in script.splitlines() if "--comment" in line)

        assert comment(run_id=RUN) == f"#SBATCH --comment=fractal-slurm:{RUN}:{TOKEN}"
        assert comment() == f"#SBATCH --comment=fractal-slurm:{TOKEN}"

    @pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
    def test_completions_are_for_the_command(self, shell):
        code, out, _err = run("completion", shell)
        assert code == 0
        assert "_FRACTAL_SLURM_COMPLETE=" in out
        assert "fractal-slurm" in out

    def test_help_of_run_shows_a_spec_that_is_one(self):
        text = run("run", "--help")[1]
        begin = text.index("{\n")
        document = json.loads(text[begin : text.index("\n\n", begin)])
        assert {"task", "parameters", "meta"} == set(document)
        assert '"-"' in text
