# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbooks on a real SLURM and the real sudo: set up, proved, hardened, and found wanting where it is."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from .conftest import BASE, CONFIG, ROOT, Site

TESTBED = ROOT / "roles" / "testbed" / "files" / "testbed.py"
SLURM = Path("/var/lib/fractal-slurm-collection-cluster")
SERVICE, ANNA, BEN, EVE, GROUP = "fscc-service", "fscc-anna", "fscc-ben", "fscc-eve", "fscc-lab"
SUDOERS = Path("/etc/sudoers.d/fractal-slurm-collection-test")
SITE, VERIFY, REMOVE = (f"fractal.slurm.{name}" for name in ("site", "verify", "remove"))


def operate(*arguments):
    subprocess.run(["/usr/bin/python3", TESTBED, *arguments], check=True, capture_output=True)


@pytest.fixture(scope="module")
def slurm(machine):
    """A SLURM of one's own, with a folder in which every user can make folders."""
    settings = {
        "base": str(SLURM),
        "name": "fscc",
        "port": 27200,
        "nodes": 2,
        "groups": [GROUP],
        "users": {SERVICE: [], ANNA: [], BEN: [GROUP], EVE: []},
    }
    operate("start", "--settings", json.dumps(settings))
    work = SLURM / "work"
    work.mkdir(exist_ok=True)
    work.chmod(0o1777)
    yield SLURM
    operate("remove", "--base", str(SLURM))


@pytest.fixture(scope="module")
def line(slurm, collections):
    """One host with everything, sudo's own folder included, for all tests of this file."""
    shutil.rmtree(BASE, ignore_errors=True)
    BASE.mkdir(mode=0o755)
    site = Site(BASE / "hosts", collections)
    site.hosts["one"].update(
        fractal_slurm_service_user=SERVICE,
        fractal_slurm_sudoers_impersonate_users=[ANNA, f"%{GROUP}"],
        fractal_slurm_sudoers_main_file="/etc/sudoers",
        fractal_slurm_sudoers_directory="/etc/sudoers.d",
        fractal_slurm_sudoers_file=SUDOERS.name,
        fractal_slurm_bin_dirs=[str(slurm / "bin")],
        fractal_slurm_config_against_cluster=True,
    )
    outcome = site.play(SITE)
    assert outcome.status == 0, outcome.output
    yield site
    assert site.play(REMOVE).status == 0
    assert not SUDOERS.exists()


@pytest.fixture
def deployed(line):
    """The same, whose variables and sudoers file a test may change."""
    variables, text = copy.deepcopy(line.hosts), SUDOERS.read_text()
    yield line
    line.hosts = variables
    SUDOERS.write_text(text)


def test_what_is_deployed_works_and_what_must_not_is_refused(deployed: Site):
    results = BASE / "results.json"
    outcome = deployed.play(
        VERIFY,
        "-e",
        json.dumps({"fractal_slurm_verify_json": str(results), "fractal_slurm_verify_refused_users": [EVE]}),
    )
    assert outcome.status == 0, outcome.output
    checks = json.loads(results.read_text())["one"]
    assert all(check["ok"] for check in checks)
    probes = [check["what"] for check in checks if check["check"] == "probe job"]
    assert probes == [f"{ANNA} in main", f"{BEN} in main"]
    refused = {check["what"] for check in checks if check["check"] == "refused"}
    assert "/bin/sh -c id as root" in refused
    assert any(what.endswith(f"as {EVE}") for what in refused)
    assert not list((SLURM / "home").glob("*/fractal-slurm-verify"))


def test_hardened_rules_allow_all_that_the_runtime_does(deployed: Site):
    deployed.hosts["one"].update(
        fractal_slurm_sudoers_mode="hardened", fractal_slurm_sudoers_work_dirs=[str(SLURM / "work")]
    )
    assert deployed.play(SITE, "--tags", "sudoers").changed == {"one": 1}
    outcome = deployed.play(VERIFY)
    assert outcome.status == 0, outcome.output
    assert f"ran as {BEN}" in outcome.output


def test_verification_names_what_is_missing(deployed: Site):
    text = SUDOERS.read_text()
    SUDOERS.write_text(text.replace(f"{SLURM}/bin/sbatch, \\\n", ""))
    outcome = deployed.play(VERIFY)
    assert outcome.status != 0
    assert (
        f"{SERVICE} may not run" in outcome.output
        or f"{SLURM}/bin/sbatch --parsable as {ANNA}: refused" in outcome.output
    )


def test_verification_names_what_is_too_much(deployed: Site):
    text = SUDOERS.read_text()
    SUDOERS.write_text(text + f"{SERVICE} ALL=({EVE}) NOPASSWD: ALL\n")
    outcome = deployed.play(VERIFY, "-e", json.dumps({"fractal_slurm_verify_refused_users": [EVE]}))
    assert outcome.status != 0
    assert f"/usr/bin/cat -- /data/fractal/run as {EVE}" in outcome.output


def test_a_configuration_that_does_not_fit_the_cluster_is_not_written(deployed: Site):
    path = Path(deployed.hosts["one"]["fractal_slurm_config_path"])
    before = path.read_text()
    data = copy.deepcopy(CONFIG)
    data["default_slurm_config"].update(partition="gone")
    data["gpu_slurm_config"] = {"partition": "main", "gres": "gpu:1"}
    deployed.hosts["one"]["fractal_slurm_config_content"] = data
    outcome = deployed.play(SITE)
    assert outcome.status != 0
    assert "found 'gone'; the cluster fscc has main, short" in outcome.output
    assert "$.gpu_slurm_config.gres: no node of the partition 'main' fits a task" in outcome.output
    assert path.read_text() == before
