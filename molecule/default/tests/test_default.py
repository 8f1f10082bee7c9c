# SPDX-License-Identifier: GPL-3.0-or-later
"""One host with everything: SLURM as systemd units, the rights, the configuration, the runtime, and work on it."""

import json

import pytest
from fractal_slurm.testing import Slurm, fractal_run, may_run_as, sudo_matrix

testinfra_hosts = ["ssh://fsm-default-host"]

BASE = "/var/lib/fractal-slurm-testbed"
BIN = f"{BASE}/bin"
SLURM_COMMANDS = [[f"{BIN}/sbatch", "--parsable"], [f"{BIN}/scancel", "1"]]
FILE_COMMANDS = [["/usr/bin/cat", "--", "/a"], ["/usr/bin/ls", "--", "/a"], ["/usr/bin/mkdir", "-p", "--", "/a"]]


@pytest.fixture
def slurm(host):
    return Slurm(host, BIN)


@pytest.mark.parametrize("daemon", ["munged", "slurmctld", "slurmd-n1", "slurmd-n4"])
def test_daemons_are_units(host, daemon):
    assert host.service(f"fractal-slurm-testbed-local-{daemon}").is_running


def test_nodes_are_idle(slurm):
    assert slurm.node_states() == {f"n{number}": "idle" for number in range(1, 5)}


def test_a_job_of_two_nodes_runs(slurm):
    assert slurm.run("srun --export=ALL true", "--nodes=2", user="anna").state == "COMPLETED"


def test_a_job_that_fails_says_so(slurm):
    job = slurm.run("exit 7", user="anna")
    assert (job.state, job.exit_code) == ("FAILED", 7)


def test_sudoers_file(host):
    file = host.file("/etc/sudoers.d/fractal-slurm")
    assert (file.user, file.group, file.mode) == ("root", "root", 0o440)
    assert host.run("visudo -c").rc == 0


def test_anna_and_ben_may_be_impersonated(host):
    answers = sudo_matrix(host, "fractal", ["anna", "ben"], [*SLURM_COMMANDS, *FILE_COMMANDS])
    assert all(answers.values()), answers


def test_others_may_not_be_impersonated(host):
    answers = sudo_matrix(host, "fractal", ["carl", "root", "slurm"], [*SLURM_COMMANDS, *FILE_COMMANDS])
    assert not any(answers.values()), answers


@pytest.mark.parametrize("command", ["/bin/sh", "/usr/bin/sbatch", "/usr/bin/vi", "/usr/bin/cp"])
def test_other_commands_are_refused(host, command):
    assert not may_run_as(host, "fractal", "anna", [command])


def test_config_file(host):
    config = json.loads(host.file("/etc/fractal/slurm_config.json").content_string)
    assert config["default_slurm_config"]["partition"] == "main"


def test_every_user_can_run_the_runtime(host):
    assert host.run("runuser -u carl -- /usr/local/bin/fractal-slurm --version").rc == 0


def test_host_is_ready(host):
    doctor = host.run("runuser -u fractal -- /usr/local/bin/fractal-slurm doctor --user anna --user ben")
    assert doctor.rc == 0, doctor.stdout + doctor.stderr


def test_a_plate_is_measured_as_two_users(host):
    python = "/opt/fractal-slurm/current/bin/python"
    demo = host.run(f"{python} /opt/plate/demo.py --service-user fractal --users anna ben --base /var/lib/plate")
    assert demo.rc == 0, demo.stdout + demo.stderr
    assert "96 of 96 wells measured" in demo.stdout


def test_a_user_who_is_not_allowed_is_refused_in_a_sentence(host):
    spec = {"task": {"name": "Any", "command": "/bin/true", "meta": {}}, "meta": {}, "parameters": [{}]}
    home = f"{BASE}/home/carl"
    code, _summary, messages = fractal_run(
        host, spec, service_user="fractal", user="carl", cache_dir=home, work_dir=f"{home}/work"
    )
    assert code == 3
    assert "carl" in messages
    assert "FRACTAL_IMPERSONATE_USERS" in messages
