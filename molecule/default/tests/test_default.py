# SPDX-License-Identifier: GPL-3.0-or-later
"""One host with everything."""

testinfra_hosts = ["podman://fsm-default-host"]


def test_slurm_runs_as_units(host):
    assert host.service("fractal-slurm-testbed-local-slurmctld").is_running
