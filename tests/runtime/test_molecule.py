# SPDX-License-Identifier: GPL-3.0-or-later
"""What scenarios keep to, so that they run side by side and a destroy finds all that is theirs."""

import ipaddress
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
STAGES = ["destroy", "syntax", "create", "prepare", "converge", "idempotence", "check", "verify", "destroy"]
SCENARIOS = sorted(path.parent.name for path in ROOT.glob("molecule/*/molecule.yml"))


def load(path):
    return yaml.safe_load((ROOT / path).read_text())


def containers(scenario):
    return load(f"molecule/{scenario}/inventory/hosts.yml")["all"]["children"]["containers"]


def test_all_are_there():
    assert SCENARIOS == ["absent", "cluster", "default", "hardened", "outage", "server", "upgrade"]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_names_and_addresses_are_the_scenarios_own(scenario):
    subnet = ipaddress.ip_network(containers(scenario)["vars"]["podman_subnet"])
    for host, variables in containers(scenario)["hosts"].items():
        assert host.startswith(f"fsm-{scenario}-")
        assert ipaddress.ip_address(variables["ansible_host"]) in subnet
    others = {containers(other)["vars"]["podman_subnet"] for other in SCENARIOS if other != scenario}
    assert not any(subnet.overlaps(ipaddress.ip_network(other)) for other in others)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_each_goes_through_all_stages(scenario):
    base = load(".config/molecule/config.yml")["scenario"]["test_sequence"]
    stages = load(f"molecule/{scenario}/molecule.yml")["scenario"].get("test_sequence", base)
    assert [stage for stage in stages if stage != "side_effect"] == STAGES
    assert ("side_effect" in stages) == (ROOT / f"molecule/{scenario}/side_effect.yml").exists()


def test_the_workflow_has_all_of_them():
    matrix = load(".github/workflows/ci.yml")["jobs"]["molecule"]["strategy"]["matrix"]
    pairs = {(release, scenario) for release in matrix["release"] for scenario in matrix["scenario"]}
    pairs |= {(entry["release"], entry["scenario"]) for entry in matrix["include"]}
    assert pairs >= {(release, scenario) for release in ("bookworm", "trixie") for scenario in ("default", "cluster")}
    assert {scenario for _release, scenario in pairs} == set(SCENARIOS)
