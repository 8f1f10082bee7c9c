# SPDX-License-Identifier: GPL-3.0-or-later
"""The service that reads the configuration, started anew with it and once only; and the one that continues runs."""

testinfra_hosts = ["ssh://fsm-default-host"]

DROP_IN = "/etc/systemd/system/fractal-server.service.d/fractal-slurm.conf"
CONFIG = "/etc/fractal/slurm_config.json"


def test_drop_in(host):
    file = host.file(DROP_IN)
    assert (file.user, file.group, file.mode) == ("root", "root", 0o644)
    assert f'Environment="FRACTAL_SLURM_CONFIG_FILE={CONFIG}"' in file.content_string


def test_systemd_knows_it(host):
    assert host.service("fractal-server").systemd_properties["DropInPaths"] == DROP_IN


def test_the_service_was_started_anew_with_it_and_left_alone_since(host):
    assert host.service("fractal-server").is_running
    # by prepare, then by converge; idempotence and check found nothing to do
    assert host.file("/run/fractal-server.starts").content_string.split() == ["nowhere", CONFIG]


def test_runs_continue_at_boot(host):
    unit = host.service("fractal-slurm-resume")
    assert unit.is_enabled
    assert host.run("systemd-analyze verify fractal-slurm-resume.service").rc == 0
    # As at boot. There is no run to continue.
    assert host.run("systemctl start fractal-slurm-resume").rc == 0
    assert unit.systemd_properties["NoNewPrivileges"] == "no"
    assert unit.systemd_properties["User"] == "fractal"
