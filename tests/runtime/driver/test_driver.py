# SPDX-License-Identifier: GPL-3.0-or-later
"""The driver in a played world: what it does about each fault, one at a time.

The same faults on a real SLURM are in ``tests/slurm``. Any sequence of them is in ``test_machine.py``.
"""

import pytest
from fractal_slurm.cluster.commands import Slurm, SlurmJob
from fractal_slurm.driver import ledger, places, quota, submit
from fractal_slurm.driver.journal import Journal
from fractal_slurm.driver.ledger import ledger_of
from fractal_slurm.errors import ClusterError, ImpersonationError, RunError
from fractal_slurm.jobs.script import ScriptTooLarge
from played import Killed, Site

DONE = ("succeeded", "")


@pytest.fixture
def make(tmp_path):
    """Makes the world of a run, and begins the run."""
    worlds = []

    def begin(**options):
        site = Site(tmp_path, **options)
        worlds.append(site.played())
        worlds[-1].__enter__()
        for program, words in options.pop("faults", {}).items():
            site.slurm.fault(program, words)
        return site

    yield begin
    for world in worlds:
        world.__exit__(None, None, None)


@pytest.fixture
def site(make):
    return make()


def said(site, *words):
    return any(all(word in sentence for word in words) for sentence in site.said)


class TestSubmission:
    def test_all_tasks_run(self, site):
        site.begin()
        site.pass_time(2)
        assert site.jobs("PENDING") == ["1", "2"]
        site.go_on()
        assert site.error is None
        assert site.outcome() == [DONE] * 4
        assert site.state() == "done"

    @pytest.mark.parametrize("fault", ["not now", "full"])
    def test_what_may_pass_is_waited_out(self, site, fault):
        site.slurm.fault("sbatch", fault)
        site.begin()
        site.pass_time(120)
        assert site.slurm.jobs() == {}
        assert site.is_driven()
        site.slurm.fault("sbatch")
        site.go_on()
        assert site.outcome() == [DONE] * 4

    def test_what_is_wrong_ends_the_run_and_can_be_resumed(self, site):
        site.slurm.fault("sbatch", "wrong")
        site.begin()
        site.pass_time(5)
        assert not site.is_driven()
        assert site.state() == "refused"
        assert {state for state, _reason in site.outcome()} == {"not_run"}
        site.slurm.fault("sbatch")
        site.resume()
        site.go_on()
        assert site.outcome() == [DONE] * 4

    def test_a_wait_for_what_does_not_pass_has_an_end(self, make):
        site = make(refusal_wait_s=100)
        site.slurm.fault("sbatch", "not now")
        site.begin()
        site.pass_time(250)
        assert not site.is_driven()
        assert site.state() == "refused"

    def test_sudos_final_word_ends_the_driver(self, site):
        site.begin()
        site.slurm.fault("sudo", "a password is required")
        site.pass_time(5)
        assert isinstance(site.error, ImpersonationError)
        site.slurm.fault("sudo")
        site.resume()
        site.go_on()
        assert site.outcome() == [DONE] * 4

    def test_a_job_whose_submission_got_no_answer_is_found_by_its_name(self, site):
        site.slurm.fault("sbatch", "no answer, a job")
        site.begin()
        site.pass_time(1)
        site.slurm.fault("sbatch")
        site.go_on()
        assert site.outcome() == [DONE] * 4
        assert len(site.slurm.jobs()) == 2

    @pytest.mark.parametrize("away_s", [1, 3_600])
    def test_one_that_the_site_renamed_is_found_by_its_comment(self, site, away_s):
        site.slurm.fault("plugin", "renames")
        site.slurm.fault("sbatch", "no answer, a job")
        site.begin()
        site.pass_time(0.2)
        site.slurm.fault("slurmctld", "away")
        site.pass_time(away_s)
        site.slurm.fault("slurmctld")
        site.slurm.fault("sbatch")
        site.go_on()
        assert site.outcome() == [DONE] * 4
        assert len(site.slurm.jobs()) == 2
        assert sum("the site renamed job" in words for words in site.said) == 1
        with Journal.open(site.settings.state_path(), site.run_id(), drive=False) as journal:
            assert [event.what for event in journal.events() if "found by" in event.what] == ["found by its comment"]

    def test_a_job_that_comes_up_after_its_work_was_given_away_does_nothing(self, site):
        site.slurm.fault("sbatch", "no answer, a job later")
        site.begin()
        site.pass_time(1)
        site.slurm.fault("sbatch")
        site.pass_time(30)
        assert len(site.slurm.jobs()) == 3
        site.slurm.change("1", unborn=False)
        late = site.start("1")
        assert not late.alive
        site.go_on()
        assert site.outcome() == [DONE] * 4
        assert all(len(tokens) == 1 for tokens in site.tokens_of.values())

    def test_a_job_that_began_before_it_was_fenced_is_found_by_its_claim(self, make):
        site = make(hidden=True)
        site.slurm.fault("sbatch", "no answer, a job later")
        site.begin()
        site.pass_time(0.2)
        site.slurm.fault("sbatch")
        site.slurm.change("1", unborn=False)
        site.start("1")
        site.pass_time(10)
        site.go_on()
        assert site.outcome() == [DONE] * 4
        assert len(site.slurm.jobs()) == 2

    def test_nothing_is_made_while_slurm_is_away(self, site):
        site.slurm.fault("slurmctld", "away")
        site.begin()
        site.pass_time(1)
        assert isinstance(site.error, ClusterError)
        assert not site.run_id()


class TestLimits:
    def test_a_limit_is_said_once_with_the_time_and_waited_for(self, make):
        site = make(limits={"each_user": {"max_submissions": "1 in 10m"}})
        site.begin()
        site.pass_time(60)
        assert len(site.slurm.jobs()) == 1
        with Journal.open(site.settings.state_path(), site.run_id(), drive=False) as journal:
            (wait,) = journal.record.waits.values()
            assert [event.detail for event in journal.events() if event.what == "limit reached"] == [
                f"waiting {wait.words}"
            ]
        assert "1 submission in 10 min for played-anna (limits.each_user.max_submissions): it goes on at " in wait.words
        site.go_on()
        assert site.outcome() == [DONE] * 4
        assert sum("our limit" in sentence for sentence in site.said) == 1
        assert site.clock.now > 1_600

    def test_the_time_is_said_also_after_the_turn_of_an_older_run(self, make):
        site = make(limits={"each_user": {"max_submissions": "2 in 10m"}})
        older, scopes = ledger_of(site.settings), site.settings.limits.of("played-anna")
        older.reserve("a" * 16, "played-anna", "00000000-000000-000000", scopes, more=1)
        site.begin()
        site.pass_time(3)
        assert [sentence.rpartition(": ")[2] for sentence in site.said if "our limit" in sentence] == [
            "it goes on after older runs of played-anna"
        ]
        older.reserve("b" * 16, "played-anna", "00000000-000000-000000", scopes)
        site.pass_time(30)
        said = [sentence for sentence in site.said if "our limit" in sentence]
        assert len(said) == 2
        assert "it goes on at " in said[1]
        site.go_on()

    @pytest.mark.parametrize("limit", [{"max_jobs_in_flight": 1}, {"limits": {"each_user": {"max_jobs_in_flight": 1}}}])
    def test_room_that_a_job_of_the_run_makes_is_taken_at_once(self, make, limit):
        site = make(**limit)
        site.begin()
        site.pass_time(1)
        worker = site.start("1")
        site.pass_time(100)  # it looks at SLURM every ten seconds by now
        worker.work()
        site.pass_time(20)
        with Journal.open(site.settings.state_path(), site.run_id(), drive=False) as journal:
            at = {event.what: event.at for event in journal.events()}
        assert 0 <= at["submitting"] - at["collected"] <= 1
        site.go_on()

    def test_jobs_of_all_runs_count_and_a_cancel_does_not_wait(self, make):
        site = make(limits={"all_users": {"max_jobs_in_flight": 1}})
        other = ledger_of(site.settings)
        other.reserve("other", "ben", "another run", (), shown=False)
        other.accepted("other", "99", "ben")
        site.begin()
        site.pass_time(100)
        assert site.slurm.jobs() == {}
        assert said(site, "our limit of 1 job in flight for all users")
        site.runner.interrupt()
        site.pass_time(20)
        assert not site.is_driven()
        assert site.state() == "cancelled"

    def test_room_that_another_run_made_is_taken(self, make):
        site = make(limits={"all_users": {"max_jobs_in_flight": 1}})
        other = ledger_of(site.settings)
        other.reserve("other", "ben", "another run", ())
        site.begin()
        site.pass_time(100)
        other.keep("ben", "another run", {})
        site.go_on()
        assert site.outcome() == [DONE] * 4

    def test_jobs_that_slurm_does_not_have_any_more_count_no_more(self, make):
        site = make(limits={"all_users": {"max_jobs_in_flight": 1}})
        other = ledger_of(site.settings)
        other.reserve("other", "ben", "a run whose driver died", ())
        other.accepted("other", "99", "ben")
        site.begin()
        site.go_on()
        assert site.outcome() == [DONE] * 4
        assert said(site, "our limit of 1 job in flight for all users")

    def test_why_nobody_can_note_that_jobs_ended_is_said(self, make, monkeypatch):
        site = make(limits={"all_users": {"max_jobs_in_flight": 1}})
        other = ledger_of(site.settings)
        other.reserve("other", "ben", "a run whose driver died", ())
        other.accepted("other", "99", "ben")

        def full(*_arguments):
            raise ledger.NotShared("what runs share can't be used: the disk is full")

        with monkeypatch.context() as patch:
            patch.setattr(ledger.Ledger, "publish", full)
            site.begin()
            site.pass_time(60)
            assert said(site, "the disk is full; limits are set, so nothing is submitted meanwhile")
        site.go_on()
        assert site.outcome() == [DONE] * 4

    def test_a_script_that_is_too_large_takes_no_place(self, make, monkeypatch):
        site = make(limits={"each_user": {"max_submissions": "4 in 1h"}})
        render = submit.render

        def small(*arguments, tasks, **options):
            if len(tasks) > 1:
                raise ScriptTooLarge("too large")
            return render(*arguments, tasks=tasks, **options)

        monkeypatch.setattr(submit, "render", small)
        site.begin()
        site.pass_time(5)
        assert ledger_of(site.settings).in_flight("played-anna") == len(site.slurm.jobs()) == 3
        site.go_on()
        assert site.outcome() == [DONE] * 4

    def test_jobs_by_hand_that_came_during_a_wait_count(self, make, monkeypatch):
        each = {"max_submissions": "1 in 5m", "max_jobs_in_flight": 2}
        site = make(limits={"each_user": each, "count_foreign_jobs": True})
        by_hand = {}

        def squeue_of(slurm, _users):
            ours = slurm.squeue(list(site.slurm.jobs())) if site.slurm.jobs() else {}
            return [("played-anna", job_id, job) for job_id, job in {**ours, **by_hand}.items()]

        monkeypatch.setattr(Slurm, "squeue_of", squeue_of)
        site.begin()
        site.pass_time(5)
        site.start("1").work()  # it ends, so the run asks no more
        site.pass_time(60)
        by_hand |= {job_id: SlurmJob(job_id, "RUNNING") for job_id in ("901", "902")}
        site.pass_time(400)
        assert len(site.slurm.jobs()) == 1
        assert said(site, "2 jobs in flight for played-anna")
        by_hand.clear()
        site.go_on()
        assert site.outcome() == [DONE] * 4

    def test_hidden_jobs_of_a_driven_run_count_for_as_long_as_they_run(self, make, monkeypatch):
        monkeypatch.setattr(places, "UNSEEN_S", 1_200.0)
        monkeypatch.setattr(quota, "_KEEP_S", 600.0)
        site = make(hidden=True, silent_worker_s=900)
        site.begin()
        site.pass_time(5)
        for job_id in site.jobs("PENDING"):
            site.start(job_id)
        site.pass_time(2_500)
        assert ledger_of(site.settings).in_flight("played-anna") == 2
        site.go_on()
        assert ledger_of(site.settings).in_flight() == 0

    def test_places_survive_a_driver_that_dies(self, make):
        site = make(limits={"each_user": {"max_submissions": "2 in 1h"}})
        site.begin()
        site.kill("sbatch")  # it was called, and its answer is lost
        site.pass_time(5)
        site.resume()
        site.pass_time(60)
        assert len(site.slurm.jobs()) == 2
        site.go_on()
        assert site.outcome() == [DONE] * 4

    def test_what_cannot_be_shared_holds_up_those_with_limits_alone(self, make):
        site = make(limits={"each_user": {"max_jobs_in_flight": 5}})
        file = ledger_of(site.settings).file
        file.parent.mkdir(parents=True)
        file.write_bytes(b"damaged" * 1000)
        site.begin()
        site.pass_time(60)
        assert site.slurm.jobs() == {}
        assert said(site, "it is damaged", "nothing is submitted meanwhile")
        file.unlink()
        site.go_on()
        assert site.outcome() == [DONE] * 4

    def test_without_limits_a_run_goes_on_where_nothing_can_be_shared(self, site):
        file = ledger_of(site.settings).file
        file.parent.mkdir(parents=True)
        file.write_bytes(b"damaged" * 1000)
        site.begin()
        site.go_on()
        assert site.outcome() == [DONE] * 4
        assert sum("it is damaged" in sentence for sentence in site.said) == 1

    def test_a_refusal_of_the_site_holds_back_other_runs_of_the_user(self, site):
        ledger_of(site.settings).refused("played-anna", "AssocMaxSubmitJobLimit")
        site.begin()
        site.pass_time(1)
        assert site.slurm.jobs() == {}
        assert said(site, "the site's limit is reached (AssocMaxSubmitJobLimit): waiting for room")
        site.pass_time(10)
        assert len(site.slurm.jobs()) == 2


class TestEnds:
    @pytest.fixture
    def running(self, site):
        """A run with two jobs of two tasks, all of which run."""
        site.begin()
        site.pass_time(1)
        for job_id in site.jobs("PENDING"):
            site.start(job_id)
        site.pass_time(2)
        return site

    def test_a_failed_task_is_told_with_its_reason(self, running):
        running.workers[0].finish("failed", "exit code 3")
        running.go_on()
        assert running.outcome() == [("failed", "exit code 3"), DONE, DONE, DONE]

    def test_a_failed_task_runs_again_where_that_is_set(self, make):
        site = make(max_retries=1)
        site.begin()
        site.pass_time(1)
        site.start("1").finish("failed", "exit code 3")
        site.go_on()
        assert site.outcome() == [DONE] * 4

    def test_tasks_of_a_lost_node_run_again(self, running):
        running.workers[0].gone("NODE_FAIL")
        running.go_on()
        assert running.outcome() == [DONE] * 4
        assert len(running.slurm.jobs()) == 3

    def test_the_retries_of_a_bad_cluster_have_an_end(self, make):
        site = make(tasks=1)
        site.begin()
        for _number in range(3):
            site.pass_time(30)
            [job_id] = site.jobs("PENDING")
            site.start(job_id).gone("NODE_FAIL")
        site.pass_time(30)
        [(state, reason)] = site.outcome()
        assert state == "failed"
        assert "tried 3 times" in reason

    def test_what_a_time_limit_cuts_fails(self, running):
        running.workers[0].gone("TIMEOUT")
        running.go_on()
        states = [state for state, _reason in running.outcome()]
        assert states == ["failed", "failed", "succeeded", "succeeded"]

    def test_after_a_job_was_killed_each_task_runs_alone(self, running):
        running.workers[0].gone("OUT_OF_MEMORY", "0:9")
        running.pass_time(30)
        [job_id] = running.jobs("PENDING")
        assert running.slurm.job(job_id)["slots"] == 1
        running.go_on()
        assert running.outcome() == [DONE] * 4

    def test_a_job_cancelled_from_outside_is_not_run_again(self, running):
        running.slurm.change("1", state="CANCELLED")
        running.heed_scancel()
        running.go_on()
        states = [state for state, _reason in running.outcome()]
        assert states == ["not_run", "not_run", "succeeded", "succeeded"]

    def test_a_requeued_job_keeps_what_it_finished(self, running):
        first = running.workers[0]
        first.finish("succeeded")
        first.lost = True
        first.gone("PENDING")
        running.slurm.change("1", state="PENDING", restart=1)
        running.pass_time(40)
        assert running.start("1").tasks == [1]
        running.go_on()
        assert running.outcome() == [DONE] * 4

    def test_a_job_that_slurm_lost_is_shut_out_before_its_tasks_run_again(self, running):
        first = running.workers[0]
        first.lost = True
        running.slurm.change("1", forgotten="lost")
        running.pass_time(120)
        [job_id] = running.jobs("PENDING")
        first.finish("succeeded")  # too late
        first.start()
        assert not first.alive
        running.start(job_id)
        running.go_on()
        assert running.outcome() == [DONE] * 4

    def test_the_accounting_tells_of_a_job_that_slurm_forgot(self, make):
        site = make(accounting=True)
        site.begin()
        site.pass_time(1)
        site.start("1").gone("TIMEOUT")
        site.slurm.change("1", forgotten="old")
        site.go_on()
        assert "time limit" in site.outcome()[0][1]

    def test_a_torn_record_is_none(self, running):
        running.workers[0].finish("succeeded", torn=True)
        running.workers[0].gone("FAILED", "0:9")
        running.go_on()
        assert running.outcome() == [DONE] * 4
        assert said(running, "1 torn")

    def test_results_that_come_late_are_waited_for(self, running):
        first = running.workers[0]
        first.work()
        late = running.folder / "late"
        results = running.work_dir / running.run_id() / first.token
        results.rename(late)
        running.pass_time(5)
        late.rename(results)
        running.go_on()
        assert running.outcome() == [DONE] * 4
        assert len(running.slurm.jobs()) == 2

    def test_an_id_that_slurm_gave_a_second_time_is_not_our_job(self, running):
        running.workers[0].lost = True
        running.slurm.change("1", name="other.0123456789abcdef", state="CANCELLED")
        running.pass_time(30)
        assert running.outcome()[0] == ("waiting", "")
        running.go_on()
        assert running.outcome() == [DONE] * 4


class TestHidden:
    def test_jobs_are_followed_by_their_files(self, make):
        site = make(hidden=True)
        site.begin()
        site.go_on()
        assert site.outcome() == [DONE] * 4

    def test_a_silent_worker_is_lost(self, make):
        site = make(hidden=True, tasks=1)
        site.begin()
        site.pass_time(1)
        first = site.start("1")
        site.pass_time(60)
        first.gone("NODE_FAIL")
        site.pass_time(700)
        assert site.jobs("PENDING") == ["2"]
        site.go_on()
        assert site.outcome() == [DONE]


class TestDriver:
    def test_two_drivers_are_one_too_many(self, site):
        site.begin()
        site.pass_time(1)
        with pytest.raises(RunError):
            Journal.open(site.settings.state_path(), site.run_id(), drive=True)
        site.go_on()
        assert site.outcome() == [DONE] * 4

    @pytest.mark.parametrize("acts", range(1, 60))
    def test_a_driver_that_is_killed_anywhere_is_resumed(self, make, acts):
        site = make()
        site.begin()
        site.kill(acts)
        site.pass_time(5)
        assert isinstance(site.error, Killed)
        site.resume()
        site.go_on()
        assert site.outcome() == [DONE] * 4
        assert len(site.tokens_of) == 4
        assert all(len(tokens) == 1 for tokens in site.tokens_of.values())

    @pytest.mark.parametrize("acts", range(1, 30))
    def test_a_driver_that_is_killed_while_results_come_home_is_resumed(self, site, acts):
        site.begin()
        site.pass_time(1)
        for job_id in site.jobs("PENDING"):
            site.start(job_id).work()
        site.kill(acts)
        site.pass_time(10)
        if site.error is not None:
            site.resume()
        site.go_on()
        assert site.outcome() == [DONE] * 4
        assert len(site.slurm.jobs()) == 2

    def test_outages_are_said_once_and_waited_out(self, site):
        site.begin()
        site.pass_time(1)
        site.slurm.fault("slurmctld", "away")
        site.pass_time(300)
        assert sum("SLURM does not answer" in sentence for sentence in site.said) == 1
        site.slurm.fault("slurmctld")
        site.go_on()
        assert said(site, "SLURM answers again")
        assert site.outcome() == [DONE] * 4


class TestCancel:
    def test_what_has_finished_is_kept(self, site):
        site.begin()
        site.pass_time(1)
        site.start("1").finish("succeeded")
        site.pass_time(2)
        site.runner.interrupt()
        site.pass_time(1)
        site.workers[0].start()  # it sees the mark
        assert not site.workers[0].alive
        site.pass_time(60)
        site.heed_scancel()
        site.go_on()
        assert site.state() == "cancelled"
        assert site.outcome() == [DONE, *[("not_run", "the run was cancelled")] * 3]
        assert site.slurm.job("2")["state"] == "CANCELLED"

    def test_a_worker_that_heeds_nothing_is_left_to_scancel(self, site):
        site.begin()
        site.pass_time(1)
        site.start("1")
        site.runner.interrupt()
        site.pass_time(60)
        assert {job["state"] for job in site.slurm.jobs().values()} == {"CANCELLED"}

    def test_a_cancelled_run_that_lost_its_driver_stays_cancelled(self, site):
        site.begin()
        site.pass_time(1)
        site.start("1")
        site.runner.interrupt()
        site.kill(8)
        site.pass_time(5)
        assert isinstance(site.error, Killed)
        site.resume()
        site.go_on()
        assert site.state() in ("cancelled", "done")
        assert len(site.slurm.jobs()) == 2
