# SPDX-License-Identifier: GPL-3.0-or-later
"""Nodes, networks and the controller fail while a run goes on."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fractal_slurm.testing import Slurm

sys.path.insert(0, str(Path(__file__).parents[2] / "shared"))
from background import RUNTIME, BackgroundRun
from hosts import other_host

testinfra_hosts = ["ssh://fsm-outage-login"]

TASKS, SECONDS = 48, 2
NODES = ["fsm-outage-c1", "fsm-outage-c2"]
ADDRESSES = dict(zip(NODES, ["10.89.74.12", "10.89.74.13"], strict=True))
CONTROLLER = other_host("fsm-outage-ctl")


def podman(*arguments):
    subprocess.run(["podman", *arguments], check=True, capture_output=True, timeout=60)


def wait_for_nodes(host):
    deadline = time.monotonic() + 90
    while (states := Slurm(host).node_states()) != dict.fromkeys(NODES, "idle"):
        assert time.monotonic() < deadline, states
        time.sleep(1)


@pytest.fixture
def run(host, request):
    """A run that has begun to work on both nodes."""
    wait_for_nodes(host)
    host.check_output("mkdir -p /shared/runs && chown fractal: /shared/runs")
    name = request.node.originalname.removeprefix("test_").replace("_", "-")
    run = BackgroundRun(
        host, name, user="anna", home="/shared/home/anna", folder="/shared/runs", tasks=TASKS, seconds=SECONDS
    )
    deadline = time.monotonic() + 60
    while len(set(host.check_output("squeue --noheader --states=R --format=%N").split())) < len(NODES):
        assert time.monotonic() < deadline, "the jobs did not start on both nodes"
        time.sleep(0.2)
    time.sleep(SECONDS * 2)
    return run


def start_requeued_jobs_at_once(host):
    """SLURM lets a requeued job wait for some two minutes; nothing is learnt from waiting with it."""
    wait_for_nodes(host)
    for job in host.check_output("squeue --noheader --states=PD --format=%A").split():
        CONTROLLER.check_output(f"scontrol update JobId={job} StartTime=now")


def assert_all_done(host, run):
    code, summary, said = run.wait(timeout_s=600)
    assert code == 0, said
    assert (summary["tasks"], summary["succeeded"]) == (TASKS, TASKS), said
    report = json.loads(host.check_output(f"runuser -u fractal -- {RUNTIME} report {summary['run_id']} --json"))
    assert [task["index"] for task in report["tasks"]] == list(range(TASKS))
    assert {task["state"] for task in report["tasks"]} == {"succeeded"}


def test_controller_restarts(host, run):
    CONTROLLER.check_output("systemctl restart slurmctld")
    assert_all_done(host, run)


def test_controller_is_away_for_a_while(host, run):
    CONTROLLER.check_output("systemctl stop slurmctld")
    time.sleep(15)
    CONTROLLER.check_output("systemctl start slurmctld")
    assert_all_done(host, run)


def test_a_node_dies_and_comes_back(host, run):
    podman("kill", NODES[0])
    try:
        time.sleep(15)
    finally:
        podman("start", NODES[0])
    start_requeued_jobs_at_once(host)
    assert_all_done(host, run)


def test_the_network_of_a_node_is_cut(host, run):
    podman("network", "disconnect", "fsm-outage", NODES[1])
    try:
        time.sleep(20)
    finally:
        podman("network", "connect", "--ip", ADDRESSES[NODES[1]], "fsm-outage", NODES[1])
    start_requeued_jobs_at_once(host)
    assert_all_done(host, run)
