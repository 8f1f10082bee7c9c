# SPDX-License-Identifier: GPL-3.0-or-later
"""What runs of several processes share: places for submissions, and refusals of the site."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sqlite3
import stat
import subprocess
import sys
from functools import partial
from itertools import count

import pytest
from fractal_slurm.cluster.commands import SlurmJob
from fractal_slurm.cluster.queue import Answer
from fractal_slurm.driver import clocks, places
from fractal_slurm.driver import ledger as module
from fractal_slurm.driver.ledger import Ledger, NotShared, ledger_of
from fractal_slurm.driver.lock import lock
from fractal_slurm.limits import LimitSettings
from fractal_slurm.settings import Settings
from hypothesis import given, settings
from hypothesis import strategies as st


class Clock:
    """The module ``time`` of the ledger. ``now`` passes; ``set`` sets the wall clock, as an administrator does."""

    def __init__(self, now=1_700_000_000.0):
        self.uptime = 1_000.0
        self.ahead = now - self.uptime

    def __getattr__(self, name):
        return getattr(module_time, name)

    @property
    def now(self):
        return self.uptime + self.ahead

    @now.setter
    def now(self, now):
        self.uptime = now - self.ahead

    def set(self, step):
        self.ahead += step

    def time(self):
        return self.now

    def clock_gettime(self, _clock):
        return self.uptime

    @contextlib.contextmanager
    def in_use(self):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "time", self)
            patch.setattr(clocks, "time", self)
            yield self


module_time = module.time


@pytest.fixture
def clock():
    with Clock().in_use() as clock:
        yield clock


@pytest.fixture
def reboot(monkeypatch):
    """Restarts the host; returns nothing."""
    starts = (f"start {number}" for number in count())
    return lambda: monkeypatch.setattr(clocks, "boot", partial(str, next(starts)))


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path / "shared/a.sqlite")


def scopes(user="anna", **limits):
    return LimitSettings(**limits).of(user)


def take(ledger, number, user="anna", **limits):
    return ledger.reserve(f"{number:016x}", user, "run", scopes(user, **limits))


class TestPlaces:
    def test_there_are_as_many_as_the_limit_on_jobs(self, ledger):
        limits = {"each_user": {"max_jobs_in_flight": 2}, "all_users": {"max_jobs_in_flight": 3}}
        assert [take(ledger, n, **limits) for n in range(2)] == [None, None]
        blocked = take(ledger, 2, **limits)
        assert blocked.until is None
        assert blocked.words == (
            "for our limit of 2 jobs in flight for anna (limits.each_user.max_jobs_in_flight): "
            "it goes on when a job ends"
        )
        assert take(ledger, 3, "ben", **limits) is None
        assert take(ledger, 4, "ben", **limits).limit == "limits.all_users.max_jobs_in_flight"

    def test_a_job_that_ended_or_never_was_makes_room(self, ledger):
        limits = {"each_user": {"max_jobs_in_flight": 1}}
        take(ledger, 1, **limits)
        ledger.give_back(f"{1:016x}", "anna")
        assert take(ledger, 2, **limits) is None
        ledger.accepted(f"{2:016x}", "77", "anna")
        assert take(ledger, 3, **limits)
        ledger.keep("anna", "run", {})
        assert take(ledger, 3, **limits) is None

    def test_a_user_may_have_other_limits(self, ledger):
        limits = {"each_user": {"max_jobs_in_flight": 1}, "users": {"anna": {"max_jobs_in_flight": 0}}}
        assert [take(ledger, n, **limits) for n in range(3)] == [None] * 3
        take(ledger, 8, "ben", **limits)
        assert take(ledger, 9, "ben", **limits)

    def test_jobs_of_others_count_where_they_are_known(self, ledger):
        held = scopes(each_user={"max_jobs_in_flight": 3})
        assert ledger.reserve("a", "anna", "run", held, foreign={"anna": 3, "ben": 1})
        assert ledger.reserve("a", "anna", "run", held, foreign={"anna": 2}) is None

    def test_an_interval_is_held_and_its_end_told(self, ledger, clock):
        limits = {"each_user": {"min_submission_interval": 5}}
        take(ledger, 1, **limits)
        clock.now += 4
        blocked = take(ledger, 2, **limits)
        assert blocked.until == pytest.approx(clock.now + 1)
        assert "it goes on at " + places.clock(clock.now + 1) in blocked.words
        clock.now += 1.01
        assert take(ledger, 2, **limits) is None

    def test_counts_what_other_processes_submitted_and_what_died_in_between(self, ledger, clock):
        limits = {"each_user": {"max_submissions": "3 in 1h", "max_jobs_in_flight": 3}}
        for number in range(3):
            take(Ledger(ledger.file), number, **limits)  # none of them comes to its answer
        assert take(ledger, 9, **limits).until == pytest.approx(clock.now + 3600)
        clock.now += 700  # they count as submissions; as jobs where SLURM shows them, until it is asked
        assert ledger.in_flight("anna") == 3
        ledger.publish(Answer(module_time.monotonic(), looked_for=[f"{number:016x}" for number in range(3)]))
        assert ledger.in_flight("anna") == 0
        assert take(ledger, 9, **limits).limit == "limits.each_user.max_submissions"

    def test_twelve_processes_take_no_more_places_than_there_are(self, tmp_path):
        code = (
            "import sys; from pathlib import Path; from fractal_slurm.driver.ledger import Ledger\n"
            "from fractal_slurm.limits import LimitSettings\n"
            "held = LimitSettings(each_user={'max_submissions': '50 in 1h'}).of('anna')\n"
            "ledger = Ledger(Path(sys.argv[1]))\n"
            "print(sum(ledger.reserve(f'{sys.argv[2]}-{n}', 'anna', 'r', held) is None for n in range(20)))\n"
        )
        argv = [sys.executable, "-c", code, str(tmp_path / "shared/a.sqlite")]
        others = [subprocess.Popen([*argv, str(n)], stdout=subprocess.PIPE) for n in range(12)]
        assert sum(int(other.communicate(timeout=60)[0]) for other in others) == 50

    @given(
        st.integers(1, 4), st.sampled_from([10, 60]),
        st.lists(st.tuples(st.floats(0, 30), st.sampled_from(["anna", "ben"])), max_size=30),
    )  # fmt: skip
    def test_a_window_slides_as_a_naive_one_does(self, tmp_path_factory, most, span, steps):
        ledger = Ledger(tmp_path_factory.mktemp("ledger") / "a.sqlite")
        limits = {"each_user": {"max_submissions": f"{most} in {span}s"}}
        taken = []
        with Clock().in_use() as clock:
            for number, (passed, user) in enumerate(steps):
                clock.now += passed
                within = [at for at, whose in taken if whose == user and at > clock.now - span]
                blocked = take(ledger, number, user, **limits)
                if len(within) < most:
                    assert blocked is None
                    taken.append((clock.now, user))
                else:
                    assert blocked.until == sorted(within)[-most] + span


class Users:
    """Users with a run each, in processes of their own, that wait for places of all users."""

    def __init__(self, file, clock, limits, **others):
        self.clock = clock
        self.limits = {"all_users": limits, **others}
        self.jobs = {user: [] for user in ("anna", "ben", "cleo")}
        self.ledgers = {user: Ledger(file) for user in self.jobs}
        self.numbers = count()

    def ask(self, user, more=99):
        """Ask for a place; returns whether it was given."""
        token = f"{next(self.numbers):016x}"
        self.blocked = self.ledgers[user].reserve(token, user, f"run of {user}", scopes(user, **self.limits), more=more)
        self.clock.now += 0.001
        if self.blocked is None:
            self.jobs[user].append(token)
        return self.blocked is None

    def ask_often(self, user, times, more=99):
        """Returns how many places there were."""
        return sum(self.ask(user, more) for _turn in range(times))

    def end(self, user, jobs=99):
        del self.jobs[user][:jobs]
        there = dict.fromkeys(self.jobs[user], ("7", self.clock.now))
        self.ledgers[user].keep(user, f"run of {user}", there)


class TestTurns:
    def test_a_freed_place_is_for_the_user_with_the_fewest_jobs(self, ledger, clock):
        users = Users(ledger.file, clock, {"max_jobs_in_flight": 4})
        assert users.ask_often("anna", 4) == 4
        assert not users.ask("ben")
        assert users.blocked.words.endswith("(limits.all_users.max_jobs_in_flight): it goes on when a job ends")
        for _turn in range(2):
            users.end("anna", 1)
            assert not users.ask("anna")
            assert users.blocked.words == (
                "for our limit of 4 jobs in flight for all users (limits.all_users.max_jobs_in_flight): "
                "it goes on after users who have fewer"
            )
            assert users.ask("ben")
        # Each has two. From here on each takes what it gave back.
        users.end("anna", 1)
        assert not users.ask("ben")
        assert users.ask("anna")
        users.end("ben", 1)
        assert not users.ask("anna")
        assert users.ask("ben")

    @pytest.mark.parametrize("limits", [{"max_jobs_in_flight": 9}, {"max_submissions": "9 in 20s"}])
    def test_what_is_free_at_once_is_shared_whoever_looks_first(self, ledger, clock, limits):
        users = Users(ledger.file, clock, limits)
        assert users.ask_often("anna", 10) == 9
        assert not users.ask("ben")
        assert not users.ask("cleo", more=0)  # wants one
        if "max_submissions" in limits:
            clock.now += 20
        users.end("anna")
        assert users.ask_often("anna", 9) == 4
        assert users.ask("cleo", more=0)
        assert users.ask_often("ben", 9) == 4

    def test_one_submission_in_a_span_goes_to_each_in_turn(self, ledger, clock):
        users = Users(ledger.file, clock, {"min_submission_interval": 5})
        assert users.ask("anna")
        order = []
        for _turn in range(6):
            assert not any(users.ask(user) for user in users.jobs)
            clock.now += 5
            order += [user for user in ("anna", "ben", "cleo") if users.ask(user)]
        assert order == ["ben", "cleo", "anna"] * 2

    def test_two_limits_do_not_let_two_users_wait_for_each_other(self, ledger, clock):
        users = Users(ledger.file, clock, {"max_jobs_in_flight": 3, "max_submissions": "4 in 1m"})
        assert users.ask_often("ben", 2) == 2  # the fewest submissions, the most jobs
        users.end("anna")
        clock.now += 30
        assert users.ask("anna")
        users.end("anna")
        assert users.ask("anna")
        assert not users.ask("ben")
        assert not users.ask("anna")
        users.end("anna")
        clock.now += 30.1
        assert users.ask_often("ben", 1) + users.ask_often("anna", 1) == 1

    def test_who_can_not_take_a_place_holds_none(self, ledger, clock):
        users = Users(ledger.file, clock, {"max_jobs_in_flight": 4}, users={"ben": {"max_jobs_in_flight": 1}})
        assert users.ask_often("anna", 4) == 4
        assert not users.ask("ben")
        ledger.refused("cleo", "AssocMaxSubmitJobLimit")
        assert not users.ask("cleo")
        users.end("anna", 3)
        assert users.ask("ben")
        assert not users.ask("ben")
        assert not users.ask("cleo")
        assert users.ask_often("anna", 3) == 2

    def test_who_has_no_more_jobs_or_was_refused_holds_none(self, ledger, clock):
        users = Users(ledger.file, clock, {"max_jobs_in_flight": 2})
        assert users.ask_often("anna", 2) == 2
        assert not users.ask("ben", more=0)
        users.end("anna")
        assert users.ask("ben", more=0)
        assert users.ask("anna")
        assert not users.ask("cleo")
        users.end("ben")
        assert users.ask("cleo")
        ledger.give_back(users.jobs["cleo"].pop(), "cleo")
        assert users.ask("anna")

    @pytest.mark.parametrize(
        ("limits", "look_s"), [({"max_jobs_in_flight": 2}, 2), ({"max_submissions": "2 in 20s"}, 20)]
    )
    def test_a_process_that_died_as_it_waited_holds_nobody_for_long(self, ledger, clock, limits, look_s):
        users = Users(ledger.file, clock, limits)
        assert users.ask_often("anna", 2) == 2
        assert not users.ask("ben")
        clock.now += look_s
        users.end("anna")
        assert users.ask_often("anna", 2) == 1
        clock.now += 15.1
        assert users.ask("anna")

    def test_a_clock_that_went_back_leaves_no_place_to_who_is_gone(self, ledger, clock):
        users = Users(ledger.file, clock, {"max_jobs_in_flight": 1})
        assert users.ask("anna")
        assert not users.ask("ben")
        users.end("anna")
        clock.now -= 86_400  # over a restart
        assert users.ask("anna")

    def test_a_file_of_an_earlier_version_is_used(self, ledger, clock):
        ledger.in_flight()
        with contextlib.closing(sqlite3.connect(ledger.file)) as db:
            db.executescript("DROP TABLE want; DROP TABLE line; DROP TABLE clock; DROP INDEX job_last;")
        users = Users(ledger.file, clock, {"max_jobs_in_flight": 1})
        assert users.ask("anna")
        assert not users.ask("ben")

    @settings(max_examples=25, deadline=None)
    @given(
        st.fixed_dictionaries(
            {},
            optional={
                "max_jobs_in_flight": st.integers(1, 4),
                "max_submissions": st.sampled_from(["1 in 10s", "2 in 10s", "3 in 60s"]),
                "min_submission_interval": st.sampled_from([0.5, 10.0]),
            },
        ).filter(bool),
        st.lists(st.permutations(["anna", "ben", "cleo"]), min_size=20, max_size=20),
    )
    def test_whoever_looks_first_nobody_is_passed_over_and_no_place_is_left(self, tmp_path_factory, limits, orders):
        with Clock().in_use() as clock:
            users = Users(tmp_path_factory.mktemp("ledger") / "a.sqlite", clock, limits)
            passed = dict.fromkeys(users.jobs, 0)
            for order in orders:
                clock.now += 10
                for user in users.jobs:
                    users.end(user)
                given = [user for user in (*order, *order, *order) if users.ask(user)]
                assert given or "after users" not in users.blocked.words
                for user in passed:
                    passed[user] = 0 if user in given or not given else passed[user] + 1
                assert max(passed.values()) <= 2


class TestTheOldestRunOfAUser:
    LIMITS = ({"each_user": {"max_jobs_in_flight": 2}}, {"all_users": {"max_jobs_in_flight": 2}})

    @staticmethod
    def ask(ledger, run, *, more=9, user="anna", **limits):
        """Ask in another process for a place for a run. Returns what blocks it."""
        token = f"{next(TestTheOldestRunOfAUser.numbers):016x}"
        blocked = Ledger(ledger.file).reserve(token, user, run, scopes(user, **limits), more=more)
        if blocked is None:
            ledger.accepted(token, token, user)
        return blocked

    numbers = count()

    def full(self, ledger, run="run 1", user="anna"):
        """Fill all places with jobs of a run; returns what ends one of them."""
        left = {f"{run} {number}": (str(number), module_time.time()) for number in range(2)}
        ledger.keep(user, run, left)

        def end():
            left.popitem()
            ledger.keep(user, run, left)

        return end

    @pytest.mark.parametrize("limits", LIMITS)
    def test_gets_the_place_whichever_process_looks_first(self, ledger, clock, limits):
        end = self.full(ledger, "run 3")
        assert self.ask(ledger, "run 2", **limits)
        assert self.ask(ledger, "run 1", more=0, **limits)
        end()
        assert self.ask(ledger, "run 3", **limits)
        blocked = self.ask(ledger, "run 2", **limits)
        assert blocked.words.endswith(": it goes on after older runs of anna")
        assert blocked.until is None
        assert self.ask(ledger, "run 1", more=0, **limits) is None
        end()
        assert self.ask(ledger, "run 3", **limits)
        assert self.ask(ledger, "run 2", **limits) is None

    @pytest.mark.parametrize("limits", LIMITS)
    def test_leaves_what_it_does_not_want(self, ledger, clock, limits):
        end = self.full(ledger, "run 3")
        assert self.ask(ledger, "run 1", more=0, **limits)
        end()
        end()
        assert self.ask(ledger, "run 2", **limits) is None
        assert self.ask(ledger, "run 2", **limits)
        assert self.ask(ledger, "run 1", more=0, **limits) is None

    def test_a_window_that_opens_is_for_it(self, ledger, clock):
        limits = {"each_user": {"max_submissions": "2 in 1h"}}
        assert self.ask(ledger, "run 2", **limits) is None
        assert self.ask(ledger, "run 2", **limits) is None
        clock.now += 3_590
        assert self.ask(ledger, "run 1", more=0, **limits)
        clock.now += 10.1
        assert self.ask(ledger, "run 2", **limits) is None  # one of two
        assert self.ask(ledger, "run 2", **limits)
        assert self.ask(ledger, "run 1", more=0, **limits) is None

    @pytest.mark.parametrize("how", ["it died", "it was withdrawn", "SLURM does not take its job"])
    def test_holds_nobody_up_for_long_that_submits_nothing(self, ledger, clock, how):
        limits = {"each_user": {"max_jobs_in_flight": 2}}
        end = self.full(ledger, "run 3")
        assert self.ask(ledger, "run 1", **limits)
        end()
        if how == "it died":
            clock.now += 17.1
        elif how == "it was withdrawn":
            ledger.withdraw("run 1")
        else:
            assert ledger.reserve("refused", "anna", "run 1", scopes(**limits), more=9) is None
            ledger.give_back("refused", "anna")
        assert self.ask(ledger, "run 2", **limits) is None

    def test_does_not_wait_for_younger_ones_nor_for_those_of_others(self, ledger, clock):
        limits = {"each_user": {"max_jobs_in_flight": 2}}
        end = self.full(ledger, "run 2")
        assert self.ask(ledger, "run 3", **limits)
        assert self.ask(ledger, "run 1", user="ben", **limits) is None  # it wants more
        end()
        assert self.ask(ledger, "run 2", **limits) is None

    def test_waits_for_other_users_as_ever(self, ledger, clock):
        limits = {"all_users": {"max_jobs_in_flight": 2}}
        end = self.full(ledger, "run 2")
        assert self.ask(ledger, "run 1", **limits)
        assert self.ask(ledger, "run 9", user="ben", more=0, **limits)
        end()
        assert self.ask(ledger, "run 2", **limits)
        assert self.ask(ledger, "run 1", **limits).words.endswith("after users who have fewer")
        assert self.ask(ledger, "run 9", user="ben", more=0, **limits) is None


class TestClocksThatJump:
    DAY = 86_400

    @pytest.mark.parametrize("step", [400 * DAY, 3_000, 1, -1, -3_000, -400 * DAY])
    def test_a_window_stays_as_long_as_it_is(self, ledger, clock, step):
        limits = {"each_user": {"max_submissions": "2 in 1h"}}
        take(ledger, 1, **limits)
        clock.now += 600
        take(Ledger(ledger.file), 2, **limits)
        clock.now += 600
        clock.set(step)
        assert take(ledger, 3, **limits).until == pytest.approx(clock.now + 2_400)
        clock.now += 2_399
        assert take(Ledger(ledger.file), 3, **limits)
        clock.set(-step)
        assert take(Ledger(ledger.file), 3, **limits)
        clock.now += 1.1
        assert take(ledger, 3, **limits) is None
        assert take(ledger, 4, **limits).until == pytest.approx(clock.now + 600, abs=0.2)

    @pytest.mark.parametrize("step", [DAY, 30, -30, -DAY])
    def test_pauses_and_places_stay_as_long_as_they_are(self, ledger, clock, step):
        take(ledger, 1)
        ledger.accepted(f"{1:016x}", "77", "anna")
        ledger.publish(Answer(module_time.monotonic(), frozenset({"77"})))  # it is over
        take(ledger, 2)
        for _turn in range(20):
            pause = ledger.refused("anna", "AssocMaxSubmitJobLimit")
        clock.set(step)
        assert ledger.in_flight() == 1
        assert ledger.claim(5, math.inf).job_ids == {"77"}
        assert take(ledger, 3).until == pytest.approx(clock.now + pause)
        clock.now += pause + 0.1
        assert take(ledger, 3) is None
        ledger.publish(Answer(trouble="none"))
        assert ledger.claim(5, math.inf).unsure == {"anna"}

    @pytest.mark.parametrize("step", [DAY, -DAY])
    def test_what_others_want_is_believed_as_long(self, ledger, clock, step):
        users = Users(ledger.file, clock, {"max_jobs_in_flight": 1})
        assert users.ask("anna")
        assert not users.ask("ben")
        users.end("anna")
        clock.set(step)
        assert not users.ask("anna")
        clock.now += 17.1
        assert users.ask("anna")

    def test_clocks_that_are_slewed_move_nothing(self, ledger, clock):
        take(ledger, 1)
        for _turn in range(100):
            clock.now += 60
            clock.set(0.0009)
            ledger.in_flight()
        with ledger._use() as db:
            assert db.execute("SELECT at FROM job").fetchone()[0] == pytest.approx(clock.now - 6_000 - 0.09, abs=1e-3)

    def test_a_process_that_was_stopped_as_it_read_them_moves_nothing(self, ledger, clock, monkeypatch):
        limits = {"each_user": {"max_submissions": "1 in 1h"}}
        take(ledger, 1, **limits)
        stops = [500.0]

        def time():
            now = clock.now
            clock.now += stops.pop() if stops else 0
            return now

        monkeypatch.setattr(clock, "time", time)
        assert take(ledger, 2, **limits).until == pytest.approx(clock.now + 3_100)

    def test_back_over_a_restart_holds_nobody_for_longer_than_a_span(self, ledger, clock, reboot):
        limits = {"each_user": {"max_submissions": "1 in 1h", "min_submission_interval": 60}}
        reboot()
        take(ledger, 1, **limits)
        reboot()
        clock.set(-400 * self.DAY)
        assert take(ledger, 2, **limits).until == pytest.approx(clock.now + 3600)
        clock.now += 3601
        assert take(ledger, 2, **limits) is None

    def test_back_over_a_restart_keeps_no_refusal(self, ledger, clock, reboot):
        reboot()
        ledger.refused("anna", "full")
        reboot()
        clock.set(-self.DAY)
        assert take(ledger, 1) is None

    def test_ahead_over_a_restart_forgets_jobs_until_they_are_seen_again(self, ledger, clock, reboot):
        reboot()
        take(ledger, 1)
        ledger.accepted(f"{1:016x}", "77", "anna")
        reboot()
        clock.set(30 * self.DAY)
        assert ledger.in_flight() == 0
        ledger.keep("anna", "run", {f"{1:016x}": ("77", clock.now - 5)})
        assert ledger.in_flight() == 1

    def test_a_clock_that_nobody_set_since_the_start_is_right_over_a_restart(self, ledger, clock, reboot):
        limits = {"each_user": {"max_submissions": "1 in 1h"}}
        reboot()
        take(ledger, 1, **limits)
        reboot()
        clock.uptime, clock.ahead = 20.0, clock.now + 600 - 20.0
        assert take(ledger, 2, **limits).until == pytest.approx(clock.now + 3_000)

    def test_processes_whose_clocks_begin_elsewhere_do_not_move_each_others_times(self, ledger):
        code = (
            "import sys, time; from pathlib import Path; from fractal_slurm.driver.ledger import Ledger\n"
            "print(time.clock_gettime(time.CLOCK_BOOTTIME))\n"
            "Ledger(Path(sys.argv[1])).in_flight()\n"
        )
        took = []
        take(ledger, 1)
        at = ledger._db.execute("SELECT at FROM job").fetchone()
        for elsewhere in (["unshare", "--user", "--time", "--boottime=1000000", "--fork"], []):
            argv = [*elsewhere, sys.executable, "-c", code, str(ledger.file)]
            done = subprocess.run(argv, capture_output=True, text=True, check=False)
            if done.returncode != 0 and elsewhere:
                pytest.skip(f"no namespaces of time here: {done.stderr}")
            took.append(float(done.stdout))
        assert took[0] > took[1] + 900_000
        assert ledger._db.execute("SELECT at FROM job").fetchone() == at


class TestRefusals:
    def test_one_tries_and_the_others_of_that_user_follow(self, ledger, clock):
        assert ledger.refused("anna", "AssocMaxSubmitJobLimit") == 2
        blocked = take(ledger, 1)
        assert (blocked.limit, blocked.words) == ("", "AssocMaxSubmitJobLimit")
        assert take(ledger, 2, "ben") is None
        clock.now += 2.1
        assert take(ledger, 1) is None  # it tries
        assert take(ledger, 3)
        ledger.accepted(f"{1:016x}", "77", "anna")
        assert take(ledger, 3) is None

    def test_a_job_that_squeue_shows_as_over_makes_room_before_its_driver_has_seen_it(self, ledger, clock):
        ledger.keep("anna", "run", {"a": ("7", clock.now)})
        ledger.refused("anna", "x")
        ledger.publish(Answer(module_time.monotonic(), frozenset({"7"}), {"7": SlurmJob("7", "COMPLETED")}))
        assert take(ledger, 1) is None
        ledger.refused("anna", "x")
        ledger.keep("anna", "run", {})
        assert take(ledger, 2) is None

    def test_pauses_grow_and_end_when_a_job_does(self, ledger, clock):
        assert [ledger.refused("anna", "x") for _turn in range(3)] == [2, 3, 4.5]
        assert [ledger.refused("anna", "x") for _turn in range(20)][-1] == 60
        ledger.keep("anna", "run", {"a": ("7", clock.now)})
        assert take(ledger, 1)
        ledger.keep("anna", "run", {})
        assert take(ledger, 1) is None

    def test_one_that_died_as_it_tried_holds_nobody(self, ledger, clock):
        ledger.refused("anna", "x")
        clock.now += 2.1
        assert take(ledger, 1) is None
        clock.now += places.TRY_S - 1
        assert take(ledger, 2)
        clock.now += 1.1
        assert take(ledger, 2) is None


class TestPlacesOfWhichNothingWasHeard:
    """The process died, or was stopped, between its place and the answer of sbatch."""

    TOKEN = f"{1:016x}"

    def asked(self, ledger, **named):
        ledger.publish(Answer(module_time.monotonic(), named=named, looked_for=[self.TOKEN]))

    def test_count_until_slurm_has_no_such_job(self, ledger, clock):
        take(ledger, 1)
        assert ledger.claim(5, math.inf).unsure == frozenset()
        self.asked(ledger)  # it may come yet
        clock.now += 61
        ledger.publish(Answer(module_time.monotonic()))  # it was not looked for
        assert ledger.in_flight() == 1
        question = ledger.claim(5, math.inf)
        assert (question.unsure, question.tokens) == ({"anna"}, {self.TOKEN: "anna"})
        self.asked(ledger)
        assert ledger.in_flight() == 0
        assert ledger.claim(5, math.inf).tokens == {self.TOKEN: "anna"}  # a late one is found all the same
        self.asked(ledger, **{self.TOKEN: "7"})
        assert ledger.claim(5, math.inf).job_ids == {"7"}

    def test_count_as_the_job_that_slurm_has_of_that_name(self, ledger, clock):
        take(ledger, 1)
        clock.now += 3_600
        self.asked(ledger, **{self.TOKEN: "7"})
        assert ledger.claim(5, math.inf).job_ids == {"7"}
        clock.now += 3_600
        assert ledger.in_flight() == 1
        ledger.publish(Answer(module_time.monotonic(), frozenset({"7"})))
        assert ledger.in_flight() == 0

    def test_count_as_long_as_somebody_drives_the_run(self, ledger, clock):
        ledger.reserve(self.TOKEN, "anna", "20260101-000000-abcdef", ())
        folder = ledger.file.parent.parent / "runs/20260101-000000-abcdef"
        folder.mkdir(parents=True)
        held = lock(folder)
        clock.now += 700
        self.asked(ledger)
        assert ledger.in_flight() == 1
        os.close(held)
        self.asked(ledger)
        assert ledger.in_flight() == 0

    def test_count_for_ten_minutes_where_slurm_hides_them(self, ledger, clock):
        ledger.reserve(self.TOKEN, "anna", "run", (), shown=False)
        clock.now += 590
        assert ledger.in_flight() == 1
        clock.now += 20
        assert ledger.in_flight() == 0


class TestFile:
    def test_that_is_moved_away_is_made_anew_by_those_who_had_it(self, ledger):
        limits = {"each_user": {"max_submissions": "2 in 1h"}}
        other = Ledger(ledger.file)
        assert take(ledger, 1, **limits) is None
        assert other.in_flight() == 1
        ledger.file.rename(ledger.file.with_name("before"))
        assert take(ledger, 2, **limits) is None
        assert take(other, 3, **limits) is None
        assert ledger.in_flight() == other.in_flight() == 2
        assert take(ledger, 4, **limits)
        assert ledger.opened == other.opened == 2

    def test_that_is_removed_under_several_processes_is_made_anew_without_a_word(self, ledger):
        code = (
            "import sys, time; from pathlib import Path; from fractal_slurm.driver.ledger import Ledger\n"
            "ledger, end, n = Ledger(Path(sys.argv[1])), time.monotonic() + 4, 0\n"
            "while time.monotonic() < end:\n"
            "    ledger.reserve(f'{sys.argv[2]}-{(n := n + 1)}', 'anna', 'run', ())\n"
            "    time.sleep(0.02)\n"
            "print(ledger.opened)\n"
        )
        argv = [sys.executable, "-c", code, str(ledger.file)]
        others = [subprocess.Popen([*argv, str(n)], stdout=subprocess.PIPE, stderr=subprocess.PIPE) for n in range(4)]
        for _turn in range(2):
            module_time.sleep(1.3)
            ledger.file.unlink(missing_ok=True)  # and not what lies beside it
        for other in others:
            out, err = other.communicate(timeout=60)
            assert (other.returncode, int(out or 0) > 0) == (0, True), err

    def test_that_is_emptied_while_it_is_open_is_opened_anew(self, ledger):
        take(ledger, 1)
        os.truncate(ledger.file, 0)
        assert take(ledger, 2) is None
        assert Ledger(ledger.file).in_flight() == ledger.in_flight()

    def test_that_is_damaged_while_it_is_open_is_opened_anew(self, ledger):
        take(ledger, 1)
        ledger._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        ledger._db.execute("UPDATE full SET pause = 1")
        content = ledger.file.read_bytes()
        ledger.file.write_bytes(content[:100] + bytes(len(content) - 100))
        with pytest.raises(NotShared, match=r"it is damaged .* with the two files beside it that begin with its name"):
            Ledger(ledger.file).in_flight()
        for path in ledger.file.parent.iterdir():
            path.rename(path.with_name(f"old-{path.name}"))
        assert ledger.in_flight() == 0

    @pytest.mark.parametrize(
        "sql", ["INSERT INTO full VALUES ('anna', 'x', 'y', 'z')", "ALTER TABLE job DROP COLUMN at"]
    )
    def test_with_values_that_are_not_ours_is_damaged(self, ledger, sql):
        ledger.in_flight()
        for index in ("job_at", "job_last"):
            ledger._db.execute(f"DROP INDEX {index}")
        ledger._db.execute(sql)
        with pytest.raises(NotShared, match="it is damaged"):
            take(ledger, 1)

    @pytest.mark.parametrize("said", ['{"states":[],"asked":[],"asked_at":"x"}', '{"states":[],"asked":3}', "7", "[]"])
    def test_with_an_answer_that_is_none_has_none(self, ledger, said):
        ledger.in_flight()
        values = (clocks.boot(), module_time.monotonic(), said)
        ledger._db.execute("INSERT INTO answer VALUES (1, ?, ?, ?)", values)
        assert ledger.answer(0) is None

    @pytest.mark.parametrize(("which", "mode"), [("file", 0o622), ("folder", 0o777)])
    def test_in_which_others_may_write_is_not_believed(self, ledger, which, mode):
        ledger.in_flight()
        (ledger.file if which == "file" else ledger.file.parent).chmod(mode)
        with pytest.raises(NotShared, match=f"the {which} belongs to the uid .* no other may write in, is allowed"):
            Ledger(ledger.file).in_flight()

    def test_is_private_and_one_for_each_cluster(self, tmp_path):
        settings = Settings(state_dir=str(tmp_path / "state"), slurm_bin_dir="/a")
        ledger = ledger_of(settings)
        assert ledger is ledger_of(settings)
        assert ledger.file != ledger_of(Settings(state_dir=str(tmp_path / "state"), slurm_bin_dir="/b")).file
        ledger.in_flight()
        modes = [stat.S_IMODE(path.stat().st_mode) for path in (ledger.file, *ledger.file.parents[:2])]
        assert modes == [0o600, 0o700, 0o700]
        assert {stat.S_IMODE(path.stat().st_mode) for path in ledger.file.parent.iterdir()} == {0o600}

    def test_says_what_is_wrong_with_it(self, tmp_path):
        (tmp_path / "a.sqlite").write_bytes(b"no database" * 1000)
        with pytest.raises(NotShared, match=r"a\.sqlite can't be used: it is damaged .*move it away"):
            Ledger(tmp_path / "a.sqlite").in_flight()
        os.mkfifo(tmp_path / "pipe", 0o600)
        with pytest.raises(NotShared, match="it is no file"):
            Ledger(tmp_path / "pipe").in_flight()
        (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(NotShared, match="Too many levels of symbolic links"):
            Ledger(tmp_path / "link").in_flight()
        assert not (tmp_path / "elsewhere").exists()

    @pytest.mark.parametrize("error", [sqlite3.OperationalError("disk I/O error"), OSError(37, "No locks available")])
    def test_a_file_system_without_locks_is_no_place_for_it(self, ledger, monkeypatch, error):
        def connection():
            raise error

        monkeypatch.setattr(ledger, "_connection", connection)
        with pytest.raises(NotShared, match=r"a file system that has no locks, such as some NFS.*state_dir"):
            ledger.in_flight()

    def test_what_another_process_holds_is_waited_for_once_and_tried_again(self, ledger, clock, monkeypatch):
        ledger.in_flight()
        monkeypatch.setattr(module, "_BUSY_S", 0.1)
        waiting = Ledger(ledger.file)
        ticks = [0.0]
        monkeypatch.setattr(clock, "monotonic", lambda: ticks[0], raising=False)
        with ledger._write():
            for _turn in range(2):
                began = module_time.monotonic()
                with pytest.raises(NotShared, match="another process holds it"):
                    waiting.in_flight()
            assert module_time.monotonic() - began < 0.1
        ticks[0] = 10.1
        assert waiting.in_flight() == 0

    def test_forgets_what_counts_no_more(self, ledger, clock):
        take(ledger, 1)  # its cluster is gone
        take(ledger, 2)
        ledger.keep("anna", "run", {f"{1:016x}": ("7", clock.now)})
        clock.now += 8 * 86_400
        take(ledger, 3)
        with ledger._use() as db:
            assert [row[0] for row in db.execute("SELECT token FROM job")] == [f"{3:016x}"]

    def test_a_newer_format_is_left_alone(self, tmp_path):
        Ledger(tmp_path / "a.sqlite").in_flight()
        with sqlite3.connect(tmp_path / "a.sqlite") as db:
            db.execute("PRAGMA user_version = 99")
        with pytest.raises(NotShared, match="it has format 99, of another version"):
            Ledger(tmp_path / "a.sqlite").in_flight()

    @pytest.mark.parametrize(("number", "waits"), [(signal.SIGKILL, False), (signal.SIGSTOP, True)])
    def test_a_process_that_dies_in_the_midst_holds_nobody(self, ledger, monkeypatch, number, waits):
        monkeypatch.setattr(module, "_BUSY_S", 0.2)
        take(ledger, 1)
        code = (
            "import sys, time; from pathlib import Path; from fractal_slurm.driver.ledger import Ledger\n"
            "with Ledger(Path(sys.argv[1]))._write() as (db, now):\n"
            "    db.execute('DELETE FROM job'); print('in', flush=True); time.sleep(60)\n"
        )
        other = subprocess.Popen([sys.executable, "-c", code, str(ledger.file)], stdout=subprocess.PIPE)
        try:
            other.stdout.readline()
            other.send_signal(number)
            if waits:
                with pytest.raises(NotShared, match=r"another process holds it for over 0\.2 s"):
                    Ledger(ledger.file).in_flight()
            else:
                other.wait()
                assert Ledger(ledger.file).in_flight() == 1  # nothing of what it began
        finally:
            other.kill()
            other.communicate()
        assert ledger.in_flight() == 1

    def test_a_full_disk_is_told(self, ledger, monkeypatch):
        ledger.in_flight()
        ledger._db.execute("PRAGMA max_page_count = 1")
        with pytest.raises(NotShared, match="full"):
            ledger.keep("anna", "run", {str(number): (None, 0.0) for number in range(2_000)})
        assert ledger.in_flight() == 0
