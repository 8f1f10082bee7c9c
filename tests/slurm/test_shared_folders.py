# SPDX-License-Identifier: BSD-3-Clause
"""Work folders in which others can write: a colleague neither runs code as the user nor harms a file of theirs."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import ANNA, BEN, EVE, GROUP, ONE_JOB, SERVICE, WORK, Call, finish, slurm, wait_for

# A task that imports what is in its working directory, as `python -m` does.
TASK = """#!/bin/sh
echo begun
python3 -c 'import helper' 2>/dev/null
sleep "${SLEEP:-0}"
echo '{}' > "$4"
"""
PLANTED = """
import os
open(os.path.join({home!r}, "taken-over"), "w")
"""


def as_user(user: str, *words: object) -> None:
    groups = [GROUP] if user == BEN else []
    subprocess.run([str(word) for word in words], check=True, user=user, group=user, extra_groups=groups)


def shared(call: Call, mode: int, owner: str = ANNA, group: str = GROUP) -> Path:
    """The user's work folder, open to others."""
    folder = WORK / call.folder.name / ANNA
    folder.mkdir(parents=True)
    shutil.chown(folder, owner, group)
    folder.chmod(mode)
    return folder


def run_folder(call: Call) -> Path:
    return Path(call.report()["run_folder"])


class Prey:
    """Files of the user's, as they are before a colleague plays tricks."""

    def __init__(self) -> None:
        self.home = Path(pwd.getpwnam(ANNA).pw_dir)
        self.file = self.home / "precious"
        self.file.write_text("precious\n")
        shutil.chown(self.file, ANNA, ANNA)
        (self.home / "taken-over").unlink(missing_ok=True)

    def is_unharmed(self) -> bool:
        return self.file.read_text() == "precious\n" and not (self.home / "taken-over").exists()

    def plant(self, folder: Path, token: str) -> None:
        """Put a folder of a colleague's in the place of a run's, full of what does harm where it is trusted."""
        script = folder.parent / "plant.py"
        names = ["results-0-0", "log-0-0", "slot-0-0-0", "slot-0-0-1"]
        script.write_text(
            f"""
import json, os
os.rename({str(folder)!r}, {str(folder)!r} + ".away")
os.umask(0)
for name in ("", {token!r}, {token!r} + "/files-0-0"):
    os.mkdir(os.path.join({str(folder)!r}, name), 0o777)
os.symlink({str(self.file)!r}, os.path.join({str(folder)!r}, {token!r} + ".slurm.out"))
for name in {names!r}:
    os.symlink({str(self.file)!r}, os.path.join({str(folder)!r}, {token!r}, name))
for place in ("", {token!r}, {token!r} + "/files-0-0"):
    place = os.path.join({str(folder)!r}, place)
    open(os.path.join(place, "helper.py"), "w").write({PLANTED.format(home=str(self.home))!r})
    todo = {{"words": ["/usr/bin/touch", os.path.join({str(self.home)!r}, "taken-over")], "log": "/dev/null"}}
    for slot in range(4):
        json.dump(todo, open(os.path.join(place, "slot-%d.todo" % slot), "w"))
"""
        )
        as_user(BEN, "python3", script)


def token_of(call: Call) -> str:
    """The token of the only live job."""
    (name,) = slurm("squeue", "--noheader", "--format=%j").split()
    return name.rpartition(".")[2]


@pytest.fixture
def prey(call: Call) -> Prey:
    return Prey()


class TestAGroupsFolder:
    @pytest.mark.parametrize("options", [{}, {"nodes": 2}])
    def test_is_as_good_as_any(self, call: Call, options: dict[str, Any]) -> None:
        call.config(batching=ONE_JOB, **options)
        folder = shared(call, 0o2775)
        outcome = call.run(call.spec(call.script(TASK), 4))
        assert outcome.code == 0, outcome.stderr
        assert (outcome["succeeded"], outcome["jobs"]) == (4, 1)
        assert f"{folder} (mode 2775) lets its group" in outcome.stderr
        assert "chmod +t" in outcome.stderr
        logs = "".join(path.read_text() for path in run_folder(call).glob("*/log-0-*"))
        assert logs == "begun\n" * 4
        assert outcome["run_folder"] == str(run_folder(call))
        assert oct(run_folder(call).stat().st_mode & 0o777) == "0o700"

    def test_needs_no_word_with_the_sticky_bit(self, call: Call) -> None:
        call.config(batching=ONE_JOB)
        shared(call, 0o3775)
        outcome = call.run(call.spec(call.script(TASK), 2))
        assert outcome["succeeded"] == 2
        assert "warning" not in outcome.stderr

    @pytest.mark.parametrize("options", [{}, {"nodes": 2}, {"isolation": "step"}])
    def test_a_run_folder_that_was_swapped_while_the_job_waited_is_not_touched(
        self, call: Call, prey: Prey, options: dict[str, Any]
    ) -> None:
        call.env["FRACTAL_SLURM_ISOLATION"] = options.pop("isolation", "none")
        call.config(batching=ONE_JOB, extra_lines=["echo from the script", "python3 -c 'import helper'"], **options)
        shared(call, 0o2775)
        slurm("scontrol", "update", "nodename=ALL", "state=drain", "reason=test")
        process = call.begin(call.spec(call.script(TASK), 4))
        wait_for(lambda: slurm("squeue", "--noheader"))
        prey.plant(run_folder(call), token_of(call))
        slurm("scontrol", "update", "nodename=ALL", "state=resume")
        outcome = finish(process, code=3)
        assert prey.is_unharmed()
        assert outcome["not_run"] == 4
        assert "its run folder is not, or not any more, a folder of the user's own and private" in outcome.stderr
        # Put right again, the folder serves.
        folder = run_folder(call)
        shutil.rmtree(folder)
        folder.with_name(f"{folder.name}.away").rename(folder)
        resumed = call("resume", call.run_id(), "--json")
        assert (resumed.code, resumed["succeeded"]) == (0, 4), resumed.stderr

    @pytest.mark.parametrize("isolation", ["none", "step"])
    def test_a_worker_goes_on_in_the_folder_that_it_proved(self, call: Call, prey: Prey, isolation: str) -> None:
        call.env["FRACTAL_SLURM_ISOLATION"] = isolation
        call.config(batching={**ONE_JOB, "target_cpus_per_job": 1, "max_cpus_per_job": 1})
        shared(call, 0o2775)
        process = call.begin(call.spec(call.script("#!/bin/sh\nSLEEP=1\n" + TASK), 4))
        wait_for(lambda: call.runs() and any(run_folder(call).glob("*/slot-*")))
        folder, token = run_folder(call), token_of(call)
        wait_for(lambda: any(record.stat().st_size for record in folder.glob("*/results-0-0")))
        prey.plant(folder, token)
        wait_for(lambda: not slurm("squeue", "--noheader"))
        assert prey.is_unharmed()
        away = folder.with_name(f"{folder.name}.away")
        lines = (away / token / "results-0-0").read_text()
        assert lines.count('"state":"succeeded"') == 4
        shutil.rmtree(folder)
        away.rename(folder)
        finish(process)


class TestAFolderThatEverybodyCanWrite:
    def test_serves_with_the_sticky_bit(self, call: Call) -> None:
        call.config(batching=ONE_JOB)
        shared(call, 0o1777, "root", "root")
        outcome = call.run(call.spec(call.script(TASK), 2))
        assert outcome["succeeded"] == 2
        assert "warning" not in outcome.stderr

    def test_is_refused_without_it(self, call: Call) -> None:
        folder = shared(call, 0o777)
        outcome = call(*call.run_arguments(call.spec(call.script(TASK), 2))[:-1])
        assert outcome.code != 0
        assert f"--work-dir {folder}: not safe" in outcome.stderr
        assert "chmod +t" in outcome.stderr
        assert not call.runs()
        assert not any(folder.iterdir())

    def test_a_folder_that_a_stranger_made_first_is_not_used(self, call: Call, prey: Prey) -> None:
        call.config(batching=ONE_JOB)
        folder = shared(call, 0o1777, "root", "root")
        # The stranger is the quickest there can be: just before mkdir.
        sudo = call.script(
            '#!/bin/bash\ncase "$*" in *"mkdir -m 700"*|*"mkdir -p"*) d=${@: -1}\n'
            f'[ -e {call.folder}/state/once ] || {{ touch {call.folder}/state/once; mkdir -m 777 -- "$d"; }} ;; esac\n'
            'exec /usr/bin/sudo "$@"\n',
            "sudo",
        )
        call.env["FRACTAL_SLURM_SUDO"] = sudo
        outcome = call.run(call.spec(call.script(TASK), 2))
        assert outcome.code == 0, outcome.stderr
        assert outcome["succeeded"] == 2
        owners = {entry.owner(): list(entry.iterdir()) for entry in folder.iterdir()}
        assert set(owners) == {SERVICE, ANNA}
        assert owners[SERVICE] == []
        assert run_folder(call).owner() == ANNA
        resumed = call("resume", call.run_id(), "--json")
        assert resumed.code == 0, resumed.stderr


class TestMissingFolders:
    def test_are_made_with_the_run(self, call: Call) -> None:
        call.config(batching=ONE_JOB)
        work = call.work(ANNA) / "not" / "there"
        arguments = call.run_arguments(call.spec(call.script(TASK), 2))
        arguments[arguments.index("--work-dir") + 1] = f"{work}//"
        outcome = call(*arguments)
        assert outcome.code == 0, outcome.stderr
        assert Path(outcome["run_folder"]).parent == work
        assert os.stat(outcome["run_folder"]).st_uid == pwd.getpwnam(ANNA).pw_uid

    def test_a_folder_that_the_user_may_not_write_in_is_named(self, call: Call) -> None:
        folder = shared(call, 0o755, EVE, EVE)
        outcome = call(*call.run_arguments(call.spec(call.script(TASK), 2))[:-1])
        assert outcome.code != 0
        assert f"{ANNA} can't make" in outcome.stderr
        assert "Permission denied" in outcome.stderr
        assert str(folder) in outcome.stderr
