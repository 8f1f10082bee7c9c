# SPDX-License-Identifier: GPL-3.0-or-later
"""Commands on a host: what they print is bounded, and they end."""

from __future__ import annotations

import os
import time

import pytest
from ansible_collections.fractal.slurm.plugins.module_utils import commands


def shell(text, **options):
    return commands.run(["/bin/sh", "-c", text], **options)


def test_returns_what_a_command_says():
    assert shell("cat; echo no >&2; exit 3", stdin=b"yes") == (3, "yes", "no")


def test_hands_a_long_text_to_one_that_does_not_read():
    assert shell("exit 0", stdin=b"x" * 10**6) == (0, "", "")


def test_says_that_there_is_no_such_command():
    assert commands.run(["/gone"]) == (127, "", "/gone: No such file or directory")


def test_ends_one_that_hangs_with_all_that_it_started():
    began = time.monotonic()
    answer = shell("echo soon >&2; sleep 60 & echo $! >&2; sleep 60", timeout=1)
    assert time.monotonic() - began < 40
    assert (answer.status, answer.out) == (124, "")
    assert answer.err.startswith("soon")
    assert answer.err.endswith("no answer within 1 seconds")
    stat = f"/proc/{answer.err.splitlines()[1]}/stat"
    while is_alive(stat):
        assert time.monotonic() - began < 30
        time.sleep(0.1)


def is_alive(stat):
    try:
        with open(stat, encoding="ascii") as stream:
            return stream.read().split()[2] != "Z"  # a zombie has ended, and is not yet collected
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_does_not_wait_for_what_one_leaves_behind():
    began = time.monotonic()
    assert shell("sleep 60 & echo done") == (0, "done\n", "")
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("stream", ["1", "2"])
def test_takes_no_more_than_it_can_hold(monkeypatch, stream):
    monkeypatch.setattr(commands, "MAX_OUT", 100_000)
    monkeypatch.setattr(commands, "MAX_ERR", 100_000)
    answer = shell(f"head -c 30000000 /dev/zero >&{stream}")
    if stream == "1":
        assert (answer.status, answer.err) == (124, "\nit printed more than 100000 bytes")
    else:
        assert answer.status == 0
        assert len(answer.err) < 200_000


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
def test_becomes_the_user():
    assert shell("id -un; echo $HOME; id -G", user="nobody").out.split()[0] == "nobody"
