# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line, stand-ins for sudo and SLURM, and the real worker: a process each, without root and SLURM."""

import json
import os
import subprocess
import sys
import time
from collections import Counter

import pytest
from samples import config_data
from standins import CORE, PROGRAMS, Standins

TASK = """\
#!/bin/bash
echo "${2##*/}" >> {marks}
[ ! -e {held} ] || read -r < {held}
echo '{"n": "done"}' > "$4"
"""


class Site:
    """A command line with a cluster of its own."""

    def __init__(self, folder):
        self.folder = folder
        self.slurm = Standins(folder / "cluster")
        self.slurm.install()
        self.marks, self.held = folder / "marks", folder / "held"
        self.fd = -1
        (folder / "config.json").write_text(json.dumps(config_data()))
        (folder / "settings.toml").touch()
        task = folder / "task.sh"
        task.write_text(TASK.replace("{marks}", str(self.marks)).replace("{held}", str(self.held)))
        task.chmod(0o755)
        document = {"task": {"name": "a task", "command": str(task)}, "parameters": [{"n": n} for n in range(4)]}
        (folder / "spec.json").write_text(json.dumps(document))
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("FRACTAL_")},
            "FRACTAL_SLURM_SETTINGS_FILE": str(folder / "settings.toml"),
            "FRACTAL_SLURM_CONFIG_FILE": str(folder / "config.json"),
            "FRACTAL_SLURM_STATE_DIR": str(folder / "state"),
            "FRACTAL_SLURM_SLURM_BIN_DIR": str(self.slurm.bin),
            "FRACTAL_SLURM_SUDO": str(self.slurm.bin / "sudo"),
            "FRACTAL_SLURM_CANCEL_GRACE_S": "5",
        }

    def hold(self):
        """Let tasks wait from now on: for the end of a pipe that nobody writes to."""
        os.mkfifo(self.held)
        self.fd = os.open(self.held, os.O_RDWR | os.O_CLOEXEC)

    def let_go(self):
        if self.fd >= 0:
            self.held.unlink()
            os.close(self.fd)
            self.fd = -1

    def start(self, *arguments):
        argv = [sys.executable, "-m", "fractal_slurm.cli", *arguments, "--json"]
        return subprocess.Popen(argv, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(self):
        work = ["--cache-dir", "/cache", "--work-dir", str(self.folder / "work")]
        return self.start("run", str(self.folder / "spec.json"), "--user", "standin-anna", *work)

    def run_id(self):
        return wait_for(lambda: [path.name for path in (self.folder / "state/runs").glob("[0-9]*")])[0]

    def starts(self):
        return self.marks.read_text().split() if self.marks.exists() else []


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def finish(process, code=0):
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    return json.loads(out)


@pytest.fixture
def site(tmp_path):
    made = Site(tmp_path)
    yield made
    made.let_go()  # what was started ends


def test_one_driver_dies_one_is_refused_and_one_goes_on(site):
    site.hold()
    first = site.run()
    wait_for(lambda: len(site.starts()) == 4)
    refused = finish(site.start("resume", site.run_id()), 2)
    assert "is driven by another process" in refused["errors"][0]
    first.kill()
    first.communicate()
    site.let_go()
    done = finish(site.start("resume", site.run_id()))
    assert (done["state"], done["succeeded"], done["jobs"]) == ("done", 4, len(site.slurm.jobs()))
    assert set(Counter(site.starts()).values()) == {1}


def test_cancel_by_another_process_ends_jobs_and_driver(site):
    site.hold()
    driver = site.run()
    wait_for(lambda: len(site.starts()) == 4)
    assert finish(site.start("cancel", site.run_id())) == {"run_id": site.run_id(), "signalled": driver.pid}
    ended = finish(driver, 130)
    assert (ended["state"], ended["not_run"]) == ("cancelled", 4)
    wait_for(lambda: {job["state"] for job in site.slurm.jobs().values()} <= {"COMPLETED", "CANCELLED"})


class TestStandins:
    """cat, ls and mkdir are played in the words of the real ones."""

    @pytest.fixture
    def paths(self, tmp_path):
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder/b").write_text("b\n")
        (tmp_path / "folder/a").touch()
        (tmp_path / "other").mkdir()
        (tmp_path / "claim").symlink_to(".job-7")
        return {
            name: str(tmp_path / name)
            for name in ("folder", "folder/b", "other", "claim", "absent", "absent/deep", "folder/b/c")
        }

    @pytest.mark.parametrize(
        ("program", "options", "names"),
        [
            ("cat", [], ["folder/b", "absent", "folder", "folder/b/c"]),
            ("cat", [], ["folder/b", "folder/b"]),
            ("ls", [], ["folder"]),
            ("ls", [], ["folder/b"]),
            ("ls", [], ["absent"]),
            ("ls", [], ["other", "folder", "claim", "absent", "folder/b"]),
            ("mkdir", [], ["absent", "claim", "folder"]),
            ("mkdir", ["-m", "700"], ["absent"]),
            ("mkdir", ["-m", "700"], ["folder"]),
            ("mkdir", ["-m", "700"], ["absent/deep"]),
            ("mkdir", ["-p", "-m", "700"], ["folder"]),
            ("mkdir", ["-p", "-m", "700"], ["claim"]),
        ],
    )
    def test_they_say_the_same(self, paths, program, options, names):
        arguments = [*options, "--", *(paths[name] for name in names)]
        played = CORE[program](arguments)
        if "absent" in names and program == "mkdir" and os.path.isdir(paths["absent"]):
            os.rmdir(paths["absent"])
        env = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
        real = subprocess.run([program, *arguments], env=env, capture_output=True, check=False)
        assert played == (real.returncode, real.stdout, real.stderr)

    def test_all_of_them_are_programs(self, site):
        assert sorted(path.name for path in site.slurm.bin.iterdir()) == sorted(PROGRAMS)
