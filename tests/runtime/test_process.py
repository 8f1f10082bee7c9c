# SPDX-License-Identifier: GPL-3.0-or-later
import os
import resource
import subprocess
import sys
import time

import pytest
from fractal_slurm.process import Child, Expired, Overflow, Stopped, run_command

ENV = {"PATH": "/usr/bin:/bin"}


def run(*argv, **options):
    return run_command(argv, env=ENV, **{"timeout": 20, "max_bytes": 1_000_000, **options})


class TestRunCommand:
    def test_gives_exit_code_and_both_streams(self):
        found = run("sh", "-c", "cat; echo b >&2; exit 3", stdin=b"a")
        assert (found.returncode, found.stdout, found.stderr) == (3, b"a", b"b\n")

    def test_feeds_more_than_a_pipe_holds_to_who_answers_meanwhile(self):
        data = os.urandom(3_000_000)
        assert run("cat", stdin=data, max_bytes=3_000_000).stdout == data

    def test_does_not_mind_a_command_that_reads_nothing(self):
        assert run("true", stdin=b"x" * 3_000_000).returncode == 0

    @pytest.mark.parametrize("stream", ["1", "2"])
    def test_ends_what_prints_without_end(self, stream):
        with pytest.raises(Overflow):
            run("sh", "-c", f"exec yes >&{stream}")

    def test_ends_a_command_at_its_time_with_what_it_said(self):
        with pytest.raises(Expired) as caught:
            run("sh", "-c", "echo why >&2; exec sleep 100", timeout=1)
        assert (caught.value.stderr, caught.value.process) == (b"why\n", None)

    def test_takes_an_answer_that_comes_at_the_last_moment(self):
        found = run("sh", "-c", "trap 'echo 17; exit 0' TERM; sleep 100 >&- 2>&- & wait", timeout=1)
        assert found.stdout == b"17\n"

    def test_kills_what_heeds_nothing_unless_it_is_spared(self):
        stubborn = ("sh", "-c", "trap '' TERM; while :; do sleep 0.1; done")
        with pytest.raises(Expired) as caught:
            run(*stubborn, timeout=1)
        assert caught.value.process is None
        with pytest.raises(Expired) as caught:
            run(*stubborn, timeout=1, spare=True)
        assert caught.value.process.poll() is None
        caught.value.process.kill()
        caught.value.process.wait()

    def test_does_not_wait_for_whoever_else_holds_the_pipe(self):
        began = time.monotonic()
        assert run("sh", "-c", "sleep 100 & echo a; exit 4").returncode == 4
        assert time.monotonic() - began < 10

    def test_stops_when_it_is_told_to(self):
        with pytest.raises(Stopped):
            run("sleep", "100", stop=lambda: True)

    def test_works_in_a_process_with_more_than_1024_open_files(self):
        # In a process of its own: the limit is raised for it alone.
        code = (
            "import os\nfrom fractal_slurm.process import run_command\n"
            "held = [os.open('/dev/null', os.O_RDONLY) for _number in range(1100)]\n"
            "print(run_command(['echo', 'a'], env={'PATH': '/usr/bin'}, timeout=9, max_bytes=9).stdout)\n"
        )
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if hard != resource.RLIM_INFINITY and hard < 2_000:
            pytest.skip("this machine lets no process have so many open files")

        def limits():
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2_000), hard))

        found = subprocess.run([sys.executable, "-c", code], capture_output=True, preexec_fn=limits, check=False)
        assert found.stdout == b"b'a\\n'\n", found.stderr


class TestChild:
    def test_tells_silence_from_the_end(self):
        child = Child(["sh", "-c", "echo a; sleep 0.5; exit 2"], env=ENV)
        assert child.piece(10) == b"a\n"
        assert child.piece(0.05) is None
        assert child.piece(10) == b""
        assert child.process.returncode == 2
        child.close()
