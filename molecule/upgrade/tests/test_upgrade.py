# SPDX-License-Identifier: GPL-3.0-or-later
"""After the upgrade the new runtime is in use, and the run that began before ends well."""

import json
import time

testinfra_hosts = ["ssh://fsm-upgrade-host"]

RUNTIME = "/usr/local/bin/fractal-slurm"


def test_the_new_version_is_in_use(host):
    assert "0.0.9" not in host.check_output(f"{RUNTIME} --version")


def test_the_old_version_is_kept(host):
    assert any(name.startswith("0.0.9") for name in host.check_output("ls /opt/fractal-slurm").split())


def test_the_new_configuration_is_in_use(host):
    assert "user_local_exports" in json.loads(host.file("/etc/fractal/slurm_config.json").content_string)


def test_the_run_that_began_before_ends_well(host):
    deadline = time.monotonic() + 180
    while host.check_output("systemctl show --value --property=SubState long-run") == "running":
        assert time.monotonic() < deadline
        time.sleep(1)
    assert host.check_output("systemctl show --value --property=ExecMainStatus long-run") == "0"
    ended = host.check_output("systemctl show --timestamp=unix --value --property=ExecMainExitTimestamp long-run")
    upgraded = host.check_output("stat --format=%Y /opt/fractal-slurm/current")
    assert int(ended.lstrip("@")) > int(upgraded), "it had ended before the upgrade, so this shows nothing"
    summary = json.loads(host.file("/shared/long-run.out").content_string)
    assert (summary["tasks"], summary["succeeded"]) == (48, 48)


def test_a_new_run_works(host):
    python = "/opt/fractal-slurm/current/bin/python"
    demo = host.run(f"{python} /opt/plate/demo.py --service-user fractal --users anna ben --base /var/lib/plate")
    assert demo.rc == 0, demo.stdout + demo.stderr
