# SPDX-License-Identifier: BSD-3-Clause
"""Turns of many runs: who gets one, and how many threads that takes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from itertools import pairwise

from fractal_slurm.driver import loop as module
from fractal_slurm.driver.loop import Loop

WAIT_S = 20


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.01)


class TestTurns:
    def test_each_member_has_turns_until_it_needs_none(self):
        loop, done, turns = Loop(), [], {}

        def turn(name: str) -> float | None:
            turns[name] = turns.get(name, 0) + 1
            if turns[name] < 5:
                return time.monotonic() + 0.001
            done.append(name)
            return None

        for number in range(40):
            loop.add(f"user-{number % 3}", lambda name=f"run-{number}": turn(name))
        until(lambda: len(done) == 40)
        assert set(turns.values()) == {5}
        until(lambda: loop.threads() == 0)

    def test_a_user_has_one_turn_at_a_time_and_users_have_theirs_side_by_side(self):
        loop, together = Loop(), threading.Barrier(3)
        now, most, done = {"a": 0, "b": 0, "c": 0}, [0], []

        def turn(user: str) -> None:
            now[user] += 1
            most[0] = max(most[0], now[user])
            together.wait(WAIT_S)  # of three different users, or for ever
            now[user] -= 1
            done.append(user)

        for user in "abc" * 4:
            loop.add(user, lambda user=user: turn(user))
        until(lambda: len(done) == 12)
        assert most == [1]

    def test_slow_users_hold_back_nobody_and_threads_do_not_grow_with_runs(self):
        loop, gate, done = Loop(most_threads=4), threading.Event(), []
        for user in ("slow-1", "slow-2", "slow-3"):
            for _number in range(20):
                loop.add(user, lambda: gate.wait(WAIT_S) and None)
        for number in range(50):
            loop.add(f"quick-{number % 5}", lambda number=number: done.append(number))
        until(lambda: len(done) == 50)
        assert loop.threads() <= 4
        gate.set()
        until(lambda: loop.threads() == 0)

    def test_users_who_begin_to_hang_hold_back_nobody_whose_turn_comes_later(self):
        loop, gate, turns = Loop(), threading.Event(), {"a": 0, "b": 0, "c": 0}

        def turn(user: str) -> float | None:
            turns[user] += 1
            if turns[user] == 1:
                return time.monotonic() + 1.0
            if user == "c":
                return None if turns["c"] == 4 else time.monotonic() + 0.1
            gate.wait(WAIT_S)
            return None

        for user in turns:
            loop.add(user, lambda user=user: turn(user))
            until(lambda user=user: turns[user] == 1 and loop._idle > 0)  # one thread does for all as yet
        began = time.monotonic()
        until(lambda: turns == {"a": 2, "b": 2, "c": 4})
        assert time.monotonic() - began < WAIT_S / 2
        gate.set()
        until(lambda: loop.threads() == 0)

    def test_more_hung_users_than_threads_hold_back_nobody_for_long(self, monkeypatch):
        monkeypatch.setattr(module, "_HANGS_S", 0.2)
        loop, gate, done = Loop(), threading.Event(), []
        for number in range(40):
            loop.add(f"hung-{number}", lambda: gate.wait(WAIT_S) and None)
        began = time.monotonic()
        for number in range(50):
            loop.add(f"quick-{number % 5}", lambda number=number: done.append(number))
        until(lambda: len(done) == 50)
        assert time.monotonic() - began < WAIT_S / 2
        assert loop.threads() <= module._MOST_IN_ALL
        gate.set()
        until(lambda: loop.threads() == 0)

    def test_users_who_were_slow_have_half_of_the_threads(self, monkeypatch):
        monkeypatch.setattr(module, "_SLOW_S", 0.05)
        loop, gate, lock, now, most, stop = Loop(), threading.Event(), threading.Lock(), [0], [0], threading.Event()

        def hang(turns: list[int]) -> float | None:
            turns[0] += 1
            if turns[0] == 1:
                time.sleep(0.1)
                return 0.0
            gate.wait(WAIT_S)
            with lock:
                now[0] += 1
                most[0] = max(most[0], now[0])
            stop.wait(0.3)
            with lock:
                now[0] -= 1
            return None if stop.is_set() else 0.0

        for number in range(12):
            loop.add(f"hung-{number}", lambda turns=[0]: hang(turns))
        until(lambda: len(loop._slow) == 12)
        done: list[int] = []
        for number in range(20):
            loop.add(f"quick-{number}", lambda number=number: done.append(number))
        until(lambda: len(done) == 20)  # while all those hang that may
        gate.set()
        until(lambda: most[0] > 1)
        time.sleep(0.5)
        stop.set()
        until(lambda: loop.threads() == 0)
        assert most[0] <= 8

    def test_users_take_turns_and_within_a_user_the_oldest_goes_first(self):
        loop, order, gate = Loop(most_threads=1), [], threading.Event()
        loop.add("first", lambda: gate.wait(WAIT_S) and None)

        def turn(name: str, left: list[int]) -> float | None:
            order.append(name)
            left[0] -= 1
            return 0.0 if left[0] else None

        for name, turns in (("big-1", 30), ("big-2", 2)):
            loop.add("big", lambda name=name, left=[turns]: turn(name, left))
        loop.add("small", lambda left=[3]: turn("small", left))
        gate.set()
        until(lambda: len(order) == 35)
        assert order[:6] == ["big-1", "small", "big-1", "small", "big-1", "small"]
        assert order[6:] == ["big-1"] * 27 + ["big-2"] * 2

    def test_a_turn_can_be_asked_for_before_it_is_due_and_during_one(self):
        loop, turns, is_in, go_on = Loop(), [], threading.Event(), threading.Event()

        def turn() -> float | None:
            turns.append(time.monotonic())
            if len(turns) == 2:
                is_in.set()
                go_on.wait(WAIT_S)
            return time.monotonic() + 3600 if len(turns) < 3 else None

        member = loop.add("user", turn)
        until(lambda: len(turns) == 1)
        loop.wake(member)
        assert is_in.wait(WAIT_S)
        loop.wake(member)
        go_on.set()
        until(lambda: len(turns) == 3)

    def test_a_run_is_not_kept_waiting_by_an_older_one_of_its_user_that_always_has_more(self):
        loop, turns, stop = Loop(most_threads=1), {"old": [], "second": [], "third": []}, threading.Event()

        def turn(name: str) -> float | None:
            turns[name].append(time.monotonic())
            time.sleep(0.05)
            return None if stop.is_set() else 0.0

        for name in turns:
            loop.add("user", lambda name=name: turn(name))
        began = time.monotonic()
        until(lambda: len(turns["third"]) >= 2 and len(turns["second"]) >= 2)
        took = time.monotonic() - began
        stop.set()
        until(lambda: loop.threads() == 0)
        assert took < 12
        # The oldest goes on having the most turns, and never waits for more than one of the others.
        assert len(turns["old"]) > len(turns["second"]) + len(turns["third"])
        others = sorted(turns["second"] + turns["third"])
        before_end = [at for at in others if at < turns["old"][-1]]
        assert all(any(first < at < second for at in turns["old"]) for first, second in pairwise(before_end))

    def test_a_run_that_is_to_be_cancelled_has_its_turn_before_older_ones_of_its_user(self):
        loop, order, gate = Loop(most_threads=1), [], threading.Event()
        # It holds the only thread until all are there.
        loop.add("other", lambda: gate.wait(WAIT_S) and None)
        loop.add("user", lambda: order.append("old") or (0.0 if len(order) < 50 else None))
        young = loop.add("user", lambda: order.append("young"))
        loop.wake(young)
        gate.set()
        until(lambda: loop.threads() == 0)
        assert order[0] == "young"
