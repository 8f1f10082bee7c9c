# SPDX-License-Identifier: GPL-3.0-or-later
"""A site's cluster, seen from its login node: the rights, the runtime on all nodes, a plate over two nodes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from fractal_slurm.testing import Slurm, fractal_run, sudo_matrix

sys.path.insert(0, str(Path(__file__).parents[2] / "shared"))
from hosts import other_host

testinfra_hosts = ["ssh://fsm-cluster-login"]

NODES = ["fsm-cluster-c1", "fsm-cluster-c2"]
COMMANDS = [["/usr/bin/sbatch", "--parsable"], ["/usr/bin/scancel", "1"], ["/usr/bin/cat", "--", "/a"]]
RUNTIME = "/usr/local/bin/fractal-slurm"


@pytest.fixture(scope="module")
def plate(host):
    """What the plate's demo printed, measured as two users."""
    python = "/opt/fractal-slurm/current/bin/python"
    demo = host.run(f"{python} /opt/plate/demo.py --service-user fractal --users anna ben --base /shared/plate")
    assert demo.rc == 0, demo.stdout + demo.stderr
    return demo.stdout


def report_of(host, run_id):
    return json.loads(host.check_output(f"runuser -u fractal -- {RUNTIME} report {run_id} --json"))


def test_nodes_are_idle(host):
    assert Slurm(host).node_states() == dict.fromkeys(NODES, "idle")


def test_a_job_of_two_nodes_runs(host):
    assert Slurm(host).run("srun --export=ALL true", "--nodes=2", user="anna").state == "COMPLETED"


def test_the_same_runtime_is_on_all_nodes(host):
    ask = f"{RUNTIME} --version; readlink /opt/fractal-slurm/current"
    hosts = ["fsm-cluster-login", *NODES]
    versions = {name: other_host(name).check_output(ask) for name in hosts}
    assert len(set(versions.values())) == 1, versions


@pytest.mark.parametrize("node", [*NODES, "fsm-cluster-ctl"])
def test_compute_nodes_and_controller_grant_no_rights(node):
    other = other_host(node)
    assert not other.file("/etc/sudoers.d/fractal-slurm").exists


def test_sudo_grants_what_was_meant_and_nothing_more(host):
    answers = sudo_matrix(host, "fractal", ["anna", "ben", "carl", "root"], COMMANDS)
    assert {user for (user, _command), allowed in answers.items() if allowed} == {"anna", "ben"}
    assert all(allowed for (user, _command), allowed in answers.items() if user in {"anna", "ben"})


def test_a_plate_is_measured(plate):
    assert "96 of 96 wells measured" in plate


@pytest.mark.parametrize("user", ["anna", "ben"])
def test_files_belong_to_their_users(host, plate, user):
    folder = f"/shared/home/{user}/plate-demo"
    assert len(host.check_output(f"find {folder} -user {user} -type f").splitlines()) > 48
    assert host.check_output(f"find {folder} -not -user {user}") == ""


def test_the_service_user_owns_what_it_made(host, plate):
    assert host.check_output("find /shared/plate/plate/images -not -user fractal") == ""


def test_both_nodes_took_part(host, plate):
    status = json.loads(host.check_output(f"runuser -u fractal -- {RUNTIME} status --json"))
    tasks = [task for run in status for task in report_of(host, run["run_id"])["tasks"]]
    assert {task["host"] for task in tasks} == set(NODES)


def test_a_submit_limit_is_waited_for(host, plate):
    """The QOS of dora lets her have one job at a time, and eight wells are two."""
    layout = json.loads(host.file("/shared/plate/plate/images/layout.json").content_string)
    spec = {
        "task": {"name": "Measure", "command": "/usr/bin/python3 /opt/plate/measure_well.py", "meta": {}},
        "meta": {},
        "parameters": [{"well": entry["well"], "image": entry["image"]} for entry in layout[:8]],
    }
    home = "/shared/home/dora"
    code, summary, messages = fractal_run(
        host, spec, service_user="fractal", user="dora", cache_dir=f"{home}/cache", work_dir=f"{home}/work"
    )
    assert code == 0, messages
    assert (summary["jobs"], summary["succeeded"]) == (2, 8)


def test_a_user_who_is_not_allowed_is_refused_in_a_sentence(host):
    spec = {"task": {"name": "Any", "command": "/bin/true", "meta": {}}, "meta": {}, "parameters": [{}]}
    home = "/shared/home/carl"
    code, _summary, messages = fractal_run(
        host, spec, service_user="fractal", user="carl", cache_dir=home, work_dir=f"{home}/work"
    )
    assert code == 3
    assert "carl" in messages
    assert "FRACTAL_IMPERSONATE_USERS" in messages


def test_a_failing_task_fails_alone(host):
    spec = {
        "task": {"name": "Measure", "command": "/usr/bin/python3 /opt/plate/measure_well.py", "meta": {}},
        "meta": {},
        "parameters": [{"well": "A01", "image": "/nowhere/A01.pgm"}],
    }
    home = "/shared/home/anna"
    code, summary, _messages = fractal_run(
        host, spec, service_user="fractal", user="anna", cache_dir=home, work_dir=f"{home}/work"
    )
    assert code == 1
    assert summary["failed"] == 1
    assert summary["failures"][0]["index"] == 0


def test_a_testbed_beside_the_sites_slurm_leaves_it_alone(host):
    name = "fsm-cluster-ctl"
    controller = other_host(name)
    script = Path(__file__).parents[3] / "roles/testbed/files/testbed.py"
    subprocess.run(["podman", "cp", str(script), f"{name}:/root/testbed.py"], check=True, timeout=60)
    ask = "pgrep --exact 'munged|slurmctld|slurmdbd'; cat /etc/slurm/slurm.conf"
    before = controller.check_output(ask)
    settings = json.dumps({"base": "/opt/testbed/beside", "nodes": 2})
    controller.check_output("python3 /root/testbed.py start --settings %s", settings)
    try:
        assert Slurm(controller, "/opt/testbed/beside/bin").node_states() == {"n1": "idle", "n2": "idle"}
    finally:
        controller.check_output("python3 /root/testbed.py remove --base /opt/testbed/beside")
    assert controller.check_output(ask) == before
    assert Slurm(host).run("true", "--nodes=2", user="anna").state == "COMPLETED"
