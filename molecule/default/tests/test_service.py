# SPDX-License-Identifier: GPL-3.0-or-later
"""The service that reads the configuration: its drop-in, and that it was started anew with it, and once only."""

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
