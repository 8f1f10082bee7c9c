# SPDX-License-Identifier: GPL-3.0-or-later
"""Workflows of two users through a real fractal-server: on the engine, with the hook, over a crash; what is left."""

import json

import pytest

testinfra_hosts = ["ssh://fsm-server-host"]


def outcome(host, name):
    return json.loads(host.file(f"/root/outcomes/{name}.json").content_string)


@pytest.mark.parametrize("user", ["anna", "ben"])
@pytest.mark.parametrize("way", ["engine", "hook"])
def test_a_workflow_is_done_as_its_user(host, way, user):
    found = outcome(host, f"{way}-{user}")
    assert found["status"] == "done", found["log"]
    assert found["units"] == {"done": 7, "failed": 0, "submitted": 0}
    assert found["images"] == 6
    assert found["owners"] == [user]
    measured = [log for log in found["logs"] if "spots" in log]
    assert len(measured) == 6
    assert all(f"measured by {user}" in log for log in measured)
    assert found["queue"] == []


def test_after_a_crash_the_runs_are_brought_home(host):
    found = outcome(host, "crash")
    assert found["status"] == "failed"  # the workflow does not go on by itself
    assert "The server ended while this job ran, and was started again." in found["log"]
    assert found["units"] == {"done": 17, "failed": 0, "submitted": 0}
    assert sum("slept" in log for log in found["logs"]) == 16
    assert found["queue"] == []


def test_a_stop_ends_the_jobs(host):
    found = outcome(host, "stop")
    assert found["status"] == "failed"
    assert found["units"]["submitted"] == 0
    assert found["queue"] == []


def test_removal_leaves_the_server_as_it_was(host):
    before = host.file("/root/outcomes/before").content_string
    assert "gunicorn_conf" in before
    assert "fractal-slurm-engine" in before
    assert not host.file("/etc/systemd/system/fractal-server.service.d").exists
    assert host.run("find /srv/fractal-server/venv -name '*fractal*slurm*'").stdout == ""
    assert host.service("fractal-server").is_running
    assert "GUNICORN_CMD_ARGS" not in host.check_output("systemctl show --property Environment fractal-server")
