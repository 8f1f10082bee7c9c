# SPDX-License-Identifier: GPL-3.0-or-later
import itertools

import pytest
from fractal_slurm.cluster.commands import FINAL_STATES, NODE_FAULTS
from fractal_slurm.driver.outcome import LOST, Action, judge
from fractal_slurm.driver.settle import memory_words

AGAIN, RETRY, ALONE, FAIL, NOT_RUN = Action.AGAIN, Action.RETRY, Action.ALONE, Action.FAIL, Action.NOT_RUN


def verdict(state, **changes):
    """The fate of the tasks of a job that ran and made some progress."""
    usual = {
        "reason": "None",
        "job": "job 7",
        "slots": 4,
        "began": True,
        "progress": True,
        "worker_end": None,
        "cancelled_by_us": False,
        "node": "",
    }
    return judge(state=state, **{**usual, **changes})


class TestJudge:
    @pytest.mark.parametrize(
        ("state", "changes", "running", "waiting"),
        [
            # somebody wanted it so
            ("CANCELLED", {"cancelled_by_us": True}, NOT_RUN, NOT_RUN),
            ("CANCELLED", {}, NOT_RUN, NOT_RUN),
            ("DEADLINE", {}, NOT_RUN, NOT_RUN),
            # the nodes' fault: what ran counts its tries, what waited does not
            ("NODE_FAIL", {}, RETRY, AGAIN),
            ("BOOT_FAIL", {"began": False, "progress": False}, RETRY, RETRY),
            ("PREEMPTED", {}, RETRY, AGAIN),
            ("REVOKED", {}, RETRY, AGAIN),
            # the tasks' fault
            ("TIMEOUT", {}, FAIL, AGAIN),
            ("TIMEOUT", {"progress": False}, FAIL, RETRY),
            ("OUT_OF_MEMORY", {"slots": 1}, FAIL, AGAIN),
            ("OUT_OF_MEMORY", {"slots": 4}, ALONE, AGAIN),
            ("OUT_OF_MEMORY", {"began": False}, FAIL, FAIL),
            ("FAILED", {"slots": 1, "progress": False}, FAIL, AGAIN),
            ("FAILED", {"worker_end": "its steps can't be started", "progress": False}, RETRY, RETRY),
            ("FAILED", {"slots": 4, "progress": False}, ALONE, AGAIN),
            ("FAILED", {"began": False}, FAIL, FAIL),
            ("FAILED", {"began": False, "worker_end": "its files could not be made", "progress": False}, RETRY, RETRY),
            # the node's fault, that of a job that died there before its first task
            ("FAILED", {"began": False, "progress": False, "node": "n1"}, RETRY, RETRY),
            ("FAILED", {"began": False, "progress": False, "node": "n1", "worker_end": "no room"}, RETRY, RETRY),
            ("TIMEOUT", {"began": False, "progress": False, "node": "n1"}, RETRY, RETRY),
            ("TIMEOUT", {"began": False, "progress": False}, FAIL, RETRY),
            ("COMPLETED", {"began": False, "progress": False, "node": "n1"}, RETRY, RETRY),
            # nobody's fault that is known
            ("COMPLETED", {"began": False, "progress": False}, RETRY, RETRY),
            ("COMPLETED", {"worker_end": "no further task can end within the job's time limit"}, RETRY, AGAIN),
            ("COMPLETED", {"progress": False}, RETRY, RETRY),
            (LOST, {}, RETRY, AGAIN),
            (LOST, {"began": False, "progress": False}, RETRY, RETRY),
        ],
    )
    def test_decides_by_how_the_job_ended(self, state, changes, running, waiting):
        found = verdict(state, **changes)
        assert (found.running, found.waiting) == (running, waiting)
        assert found.words.startswith(("job 7", "the run"))

    def test_gives_slurms_reason_where_there_is_one(self):
        assert verdict("NODE_FAIL", reason="NodeDown").words == "job 7 was lost with its node: NODE_FAIL (NodeDown)"
        assert verdict("NODE_FAIL", reason="exit 0:0").words == "job 7 was lost with its node: NODE_FAIL"
        assert verdict("CANCELLED", reason="by 1000").words == "job 7 was cancelled by 1000"
        assert verdict("CANCELLED").words == "job 7 was cancelled from outside"
        assert verdict("CANCELLED", reason="SLURM will never start it").words.endswith("(SLURM will never start it)")

    def test_names_the_node_that_is_to_blame(self):
        words = verdict("FAILED", began=False, node="n1", reason="NonZeroExitCode, exit 1:0").words
        assert words == "job 7 failed before its first task started (NonZeroExitCode, exit 1:0), on n1"

    def test_never_goes_on_for_ever_without_progress(self):
        """Of a job in which no task ended, every waiting task counts a try, is run alone, or is given up."""
        states = sorted(FINAL_STATES | NODE_FAULTS | {LOST})
        for state, slots, began, end in itertools.product(states, (1, 4), (False, True), (None, "the job was ended")):
            found = verdict(state, slots=slots, began=began, worker_end=end, progress=False)
            assert found.running is not AGAIN
            if found.waiting is AGAIN:
                # fewer tasks are left for the next job: what ran goes into a job of its own, or has failed
                assert found.running is (ALONE if slots > 1 else FAIL)


class TestMemoryWords:
    def test_are_those_of_slurms_daemon(self):
        line = "StepId=7.batch exceeded memory limit (138579968 > 104857600), being killed"
        for name in ("slurmstepd", "slurmstepd-n1"):
            printed = f"module loaded\n{name}: error: {line}\n{name}: error: Exceeded job memory limit"
            assert memory_words(printed) == line

    @pytest.mark.parametrize(
        "printed",
        [
            "",
            "my task exceeded memory limit",
            "slurmstepd: error: *** JOB 7 ON n1 CANCELLED AT 2026-11-27T04:20:54 ***",
            # of one task, which was told of it; the worker lived on
            "slurmstepd: error: Detected 1 oom-kill event(s) in StepId=7.batch.",
        ],
    )
    def test_are_none_where_it_says_nothing_of_a_job_over_its_memory(self, printed):
        assert memory_words(printed) == ""
