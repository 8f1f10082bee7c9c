# SPDX-License-Identifier: GPL-3.0-or-later
"""A state folder on a file system without locks, which a filter of system calls plays."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import subprocess
import sys
import time

import pytest
from fractal_slurm.driver.ledger import Ledger
from journals import RUN, make

# By machine: the numbers of flock(2) and fcntl(2).
CALLS = {"x86_64": (73, 72), "aarch64": (32, 25)}
LOAD, IF_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOWED, ERROR = 0x7FFF0000, 0x00050000
WORDS = "which the file system of state_dir must have (some NFS has none)"


def refuse(call: str, number: int) -> None:
    """Let no lock of a kind succeed in this process and its children."""
    flock, fcntl = CALLS[os.uname().machine]
    end = [(RETURN, 0, 0, ERROR | number), (RETURN, 0, 0, ALLOWED)]
    if call == "flock":
        steps = [(LOAD, 0, 0, 0), (IF_EQUAL, 0, 1, flock), *end]
    else:  # the low half of its second argument: F_SETLK, F_SETLKW, F_OFD_SETLK
        kinds = [(IF_EQUAL, 2, 0, 6), (IF_EQUAL, 1, 0, 7), (IF_EQUAL, 0, 1, 37)]
        steps = [(LOAD, 0, 0, 0), (IF_EQUAL, 0, 5, fcntl), (LOAD, 0, 0, 24), *kinds, *end]
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    filters = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(steps), ctypes.addressof(program)))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    if libc.prctl(22, 2, ctypes.byref(filters), 0, 0):  # PR_SET_SECCOMP
        raise OSError(ctypes.get_errno(), "no filter of system calls")


@pytest.fixture
def without_locks(tmp_path):
    """Calls Python code, or fractal-slurm, where a kind of locks is refused in some way."""
    if os.uname().machine not in CALLS:
        pytest.skip("the numbers of the system calls are not known here")

    def call(kind, number, *argv):
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-I", *argv], capture_output=True, text=True, check=False, timeout=60,
            env={**os.environ, "FRACTAL_SLURM_STATE_DIR": str(tmp_path / "state")},
            preexec_fn=lambda: refuse(kind, number),
        )  # fmt: skip
        assert time.monotonic() - began < 20  # SQLite would wait for 30
        return done

    return call


@pytest.mark.parametrize("kind", ["flock", "fcntl"])
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_nothing_is_driven_there_and_the_cause_is_told_at_once(tmp_path, without_locks, kind, number):
    make(tmp_path / "state", state="driven").close()
    ended = "20250101-000000-abcdef"
    make(tmp_path / "state", ended).close()
    calls = [["resume", RUN], ["resume", "--all"], ["cancel", RUN], ["prune", "--older-than", "0d"], ["resume", ended]]
    if kind == "fcntl":  # SQLite needs them to read, too
        calls += [["status"], ["report", RUN], ["attach", RUN], ["logs", ended]]
    for arguments in calls:
        done = without_locks(kind, number, "-m", "fractal_slurm.cli", *arguments)
        assert "No locks available" in done.stderr, (arguments, done.stderr)
        assert WORDS in done.stderr
        assert (done.returncode == 0) == (arguments[0] in ("prune", "status"))


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS])
def test_what_runs_share_is_not_kept_there(tmp_path, without_locks, number):
    Ledger(tmp_path / "shared/a.sqlite").in_flight()
    code = (
        "import sys; from pathlib import Path; from fractal_slurm.driver.ledger import Ledger, NotShared\n"
        "for name in ('a', 'new'):\n"
        "    try: Ledger(Path(sys.argv[1], name + '.sqlite')).in_flight()\n"
        "    except NotShared as error: print(error)\n"
    )
    done = without_locks("fcntl", number, "-c", code, str(tmp_path / "shared"))
    assert done.stdout.count("a file system that has no locks, such as some NFS, is no place for it") == 2, done
