# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbooks on a real SLURM and the real sudo: set up, proved, hardened, and found wanting where it is."""

from __future__ import annotations

import ast
import copy
import grp
import json
import os
import re
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

from .conftest import BASE, CONFIG, LANE, ROOT, SYSTEM_UID, Outcome, Site

TESTBED = ROOT / "roles" / "testbed" / "files" / "testbed.py"
NAME = f"fscc{LANE}"
SLURM = Path(f"/var/lib/fractal-slurm-collection-cluster-{LANE}")
SERVICE, ANNA, BEN, EVE, GROUP = (f"{NAME}-{name}" for name in ("service", "anna", "ben", "eve", "lab"))
SUDOERS = Path(f"/etc/sudoers.d/fractal-slurm-collection-test-{LANE}")
SITE, VERIFY, REMOVE = (f"fractal.slurm.{name}" for name in ("site", "verify", "remove"))


def operate(*arguments):
    subprocess.run(["/usr/bin/python3", TESTBED, *arguments], check=True, capture_output=True)


@pytest.fixture(scope="module")
def slurm(machine):
    """A SLURM of one's own, with a folder in which every user can make folders."""
    settings = {
        "base": str(SLURM),
        "name": NAME,
        "port": 27450 + 100 * LANE,
        "nodes": 2,
        "groups": [GROUP],
        "users": {SERVICE: [], ANNA: [], BEN: [GROUP], EVE: []},
        "accounting": True,
        "accounts": {"lab": [ANNA, BEN], "others": [SERVICE]},
    }
    operate("start", "--settings", json.dumps(settings))
    limit = [SLURM / "bin" / "sacctmgr", "--immediate", "modify", "user", BEN, "set", "MaxSubmitJobs=2"]
    subprocess.run(limit, check=True, capture_output=True)
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
    # max_num_jobs is 3, and a member of the group may submit 2: that has to wait, and is no fault
    assert re.search(rf"WARNING.*max_num_jobs.*{BEN}", " ".join(outcome.output.split())), outcome.output
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
    SUDOERS.chmod(0o440)


def run_tasks(site: Site, *tasks: dict[str, Any], **play: Any) -> tuple[Outcome, dict[str, Any]]:
    """Run tasks on the host ``one``.

    Args:
        site: The host.
        tasks: What to run; those with ``register`` are returned.
        play: More of the play.

    Returns:
        What the play came to, and what was registered.
    """
    names = [task["register"] for task in tasks if "register" in task]
    answers = BASE / "answers.json"
    answers.unlink(missing_ok=True)
    keep = {"ansible.builtin.copy": {"dest": str(answers), "mode": "0600", "content": "{{ answers | to_json }}"}}
    keep["vars"] = {"answers": {name: "{{ " + name + " }}" for name in names}}
    playbook = BASE / "tasks.yml"
    playbook.write_text(
        yaml.safe_dump([{"hosts": "all", "become": True, "gather_facts": False, **play, "tasks": [*tasks, keep]}])
    )
    outcome = site.play(str(playbook))
    return outcome, json.loads(answers.read_text()) if answers.exists() else {}


def verify_parameters(site: Site, **options: Any) -> dict[str, Any]:
    """Parameters of the module verify_deployment for the host ``one``."""
    variables = site.hosts["one"]
    return {
        "service_user": SERVICE,
        "users": [ANNA],
        "bin_dirs": variables["fractal_slurm_bin_dirs"],
        "command": variables["fractal_slurm_runtime_command"],
        "config_path": variables["fractal_slurm_config_path"],
        "settings_file": variables["fractal_slurm_runtime_settings_file"],
        **options,
    }


def test_what_is_deployed_works_and_what_must_not_is_refused(deployed: Site):
    results = BASE / "results.json"
    outcome = deployed.play(
        VERIFY,
        "-e",
        json.dumps(
            {
                "fractal_slurm_verify_json": "results.json",  # where the playbook is started, not in the collection
                "fractal_slurm_verify_refused_users": [EVE],
                "fractal_slurm_verify_partitions": ["short"],
                "fractal_slurm_verify_every_node": True,
            }
        ),
        cwd=BASE,
    )
    assert outcome.status == 0, outcome.output
    checks = json.loads(results.read_text())["one"]
    assert all(check["ok"] for check in checks)
    probes = {check["what"]: check["words"] for check in checks if check["check"] == "probe job"}
    on_nodes = [f"{ANNA} on n1", f"{ANNA} on n2"]
    assert list(probes) == [f"{ANNA} in main", f"{BEN} in main", f"{ANNA} in short", *on_nodes]
    assert all(words.startswith(f"ran as {what.split()[0]} on ") for what, words in probes.items())
    refused = {check["what"] for check in checks if check["check"] == "refused"}
    assert "/bin/sh -c id as root" in refused
    assert any(what.endswith(f"as {EVE}") for what in refused)
    assert not list((SLURM / "home").glob("*/fractal-slurm-verify"))
    assert not list((SLURM / "home" / SERVICE).glob(".local/state/fractal-slurm/runs/*"))  # not among the runs


def test_hardened_rules_allow_all_that_the_runtime_does(deployed: Site):
    deployed.hosts["one"].update(
        fractal_slurm_sudoers_mode="hardened", fractal_slurm_sudoers_work_dirs=[str(SLURM / "work")]
    )
    assert deployed.play(SITE, "--tags", "sudoers").changed == {"one": 1}
    outcome = deployed.play(VERIFY)
    assert outcome.status == 0, outcome.output
    assert f"ran as {BEN}" in outcome.output
    # doctor asks sudo about a run's folder before a run does
    variables = deployed.hosts["one"]
    settings = f"FRACTAL_SLURM_SETTINGS_FILE={variables['fractal_slurm_runtime_settings_file']}"
    argv = ["runuser", "-u", SERVICE, "--", "env", settings, variables["fractal_slurm_runtime_command"], "doctor"]
    folders = {str(SLURM / "work" / ANNA): True, "/tmp": False}  # noqa: S108 - nothing is written there
    work_dirs = [word for folder in folders for word in ("--work-dir", folder)]
    asked = subprocess.run(
        [*argv, "--user", ANNA, "--json", *work_dirs], capture_output=True, text=True, check=False, cwd="/"
    )
    found = [row for row in json.loads(asked.stdout) if row["code"] == "D25"]
    assert [row["ok"] for row in found] == list(folders.values()), found
    assert "fractal_slurm_sudoers_work_dirs" in found[1]["words"]


def test_verification_names_what_is_missing(deployed: Site):
    text = SUDOERS.read_text()
    SUDOERS.write_text(text.replace(f"{SLURM}/bin/sbatch, \\\n", ""))
    outcome = deployed.play(VERIFY)
    assert outcome.status != 0
    assert (
        f"{SERVICE} may not run" in outcome.output
        or f"{SLURM}/bin/sbatch --parsable as {ANNA}: refused" in outcome.output
    )


def test_verification_through_a_server_says_why_it_can_not_be_and_shows_no_token(deployed: Site):
    params = verify_parameters(deployed, server_url="http://127.0.0.1:1", server_tokens={ANNA: "to-ken", EVE: "a\nb-c"})
    outcome, answers = run_tasks(
        deployed,
        {"fractal.slurm.verify_deployment": params, "check_mode": True, "register": "checked"},
        {"fractal.slurm.verify_deployment": {**params, "users": [ANNA]}, "register": "tried"},
    )
    assert outcome.status == 0, outcome.output
    rows = {
        name: {check["what"]: check for check in answer["checks"] if check["check"] == "fractal-server"}
        for name, answer in answers.items()
    }
    assert [(row["ok"], row["words"]) for row in rows["checked"].values()] == [(True, "not tried: check mode")] * 2
    assert "GET http://127.0.0.1:1/api/alive/: no answer: " in rows["tried"][ANNA]["words"]
    assert "is server_url right?" in rows["tried"][ANNA]["words"]
    assert "its token has signs" in rows["tried"][EVE]["words"]
    for text in (outcome.output, (BASE / "answers.json").read_text()):
        assert "to-ken" not in text
        assert "b-c" not in text


def test_verification_names_what_is_too_much(deployed: Site):
    text = SUDOERS.read_text()
    SUDOERS.write_text(text + f"{SERVICE} ALL=({EVE}) NOPASSWD: ALL\n")
    outcome = deployed.play(VERIFY, "-e", json.dumps({"fractal_slurm_verify_refused_users": [EVE]}))
    assert outcome.status != 0
    assert f"/usr/bin/cat -- /data/fractal/run as {EVE}" in outcome.output


def test_verification_runs_nothing_that_is_allowed(deployed: Site):
    # a rule for everything: whatever verify ran to prove a refusal would do what it says
    SUDOERS.write_text(SUDOERS.read_text() + f"{SERVICE} ALL=(ALL) NOPASSWD: ALL\n")
    precious = BASE / "precious"
    precious.write_text("data")
    params = verify_parameters(deployed, refused_commands=[["/usr/bin/tee", str(precious)], ["/bin/sh", "-c", "id"]])
    _outcome, answers = run_tasks(
        deployed, {"fractal.slurm.verify_deployment": params, "check_mode": False, "register": "answer"}
    )
    assert precious.read_text() == "data"
    checks = answers["answer"]["checks"]
    assert not [check for check in checks if check["check"] == "refused"]
    assert {check["what"] for check in checks if not check["ok"]} >= {
        f"/usr/bin/tee {precious} as root",
        f"/bin/sh -c id as {ANNA}",
    }


def test_rights_that_the_role_did_not_give_are_named(deployed: Site):
    other = Path(f"/etc/sudoers.d/fractal-slurm-collection-test-{LANE}-old")
    old = f"{SERVICE} ALL=({ANNA},{EVE}) NOPASSWD: /usr/bin/cat\n"
    restart = (
        f"# \\\n%{SERVICE} ALL=NOPASSWD: /bin/systemctl restart x\nDefaults:{SERVICE} noexec, env_keep += LD_DEBUG\n"
    )
    params = verify_parameters(deployed, users=[ANNA, f"%{GROUP}"], accepted_commands=["/bin/systemctl restart x"])
    check = {"fractal.slurm.verify_deployment": params, "check_mode": True, "register": "answer"}
    try:
        for text, faults in [(old + restart, 1), (old.replace(EVE, BEN) + restart, 0)]:
            other.write_text(text)
            other.chmod(0o440)
            outcome, answers = run_tasks(deployed, check)
            found = {item["what"]: item for item in answers["answer"]["checks"] if item["check"] == "rights"}
            assert set(found) == {f"{other}:1", f"{other}:3"}
            assert found[f"{other}:1"]["ok"] is not bool(faults)
            assert [f for f in answers["answer"]["faults"] if f.startswith("rights: ")] == [
                f"rights: {other}:1: {SERVICE} may do more than was asked for: ({ANNA}, {EVE}) NOPASSWD: /usr/bin/cat"
            ][:faults]
            assert any(f"{other}:4: noexec" in text for text in answers["answer"]["warnings"])
            doctor = [item["words"] for item in answers["answer"]["checks"] if item["check"] == "runtime"]
            assert any("run more than our commands: (root) NOPASSWD: /bin/systemctl" in words for words in doctor)
            # the role says the same, and goes on
            outcome = " ".join(deployed.play(SITE, "--tags", "sudoers").output.split())
            assert f"{other}:1: gives {SERVICE} rights that this role did not" in outcome
            assert f"{other}:4: env_keep lets LD_DEBUG through" in outcome
        # who was taken off the list is a fault even before site runs again
        params.update(users=[BEN])
        _outcome, answers = run_tasks(deployed, check)
        own = f"rights: {SUDOERS}:"
        assert any(fault.startswith(own) and ANNA in fault for fault in answers["answer"]["faults"])
    finally:
        other.unlink()


def test_a_file_written_by_hand_is_taken_over_without_a_moment_without_rights(deployed: Site):
    other = Path(f"/etc/sudoers.d/fractal-slurm-collection-test-{LANE}-old")
    other.write_text(SUDOERS.read_text().replace("# Managed", "# Written"))
    other.chmod(0o440)
    SUDOERS.unlink()
    # Sudo lists the folder, reads this file for a while, and opens the older one only then.
    long = Path(f"/etc/sudoers.d/fractal-slurm-collection-test-{LANE}-long")
    long.write_text("# nothing\n" * 50_000)
    long.chmod(0o440)
    deployed.hosts["one"]["fractal_slurm_sudoers_replaces"] = [str(other)]
    answers, ended = [], threading.Event()

    def ask():
        while not ended.is_set():
            argv = ["sudo", "-n", "-l", "-U", SERVICE, "-u", ANNA, "--", "/usr/bin/cat", "x"]
            asked = subprocess.run(argv, capture_output=True, text=True, check=False)
            answers.append((asked.returncode, asked.stderr))

    threads = [threading.Thread(target=ask) for _number in range(4)]
    try:
        for thread in threads:
            thread.start()
        assert deployed.play(SITE, "--tags", "sudoers").changed == {"one": 1}
    finally:
        ended.set()
        for thread in threads:
            thread.join()
        left = other.exists()
        for path in [long, *other.parent.glob(f"{other.name}*")]:
            path.unlink()
    assert not left
    assert SUDOERS.exists()
    assert len(answers) > 20
    assert {status for status, _words in answers} == {0}, set(answers)


def test_the_list_stays_closed_to_whom_later_joins(deployed: Site):
    chefs, system = f"{NAME}-chefs", f"{NAME}-system"
    gid = str(grp.getgrnam("sudo").gr_gid)
    cat = ["sudo", "-n", "-l", "-U", SERVICE, "-u"]

    def allowed(user):
        return subprocess.run([*cat, user, "--", "/usr/bin/cat"], capture_output=True, check=False).returncode == 0

    # One more system uid would change the sudoers files of all that run beside this.
    subprocess.run(["useradd", "--non-unique", "--uid", SYSTEM_UID, "--no-create-home", system], check=True)
    subprocess.run(["groupadd", "--non-unique", "--gid", gid, chefs], check=True)
    try:
        assert allowed(BEN)
        subprocess.run(["usermod", "--append", "--groups", GROUP, system], check=True)
        subprocess.run(["usermod", "--append", "--groups", f"{GROUP},{chefs}", EVE], check=True)
        assert not allowed(system)
        assert not allowed(EVE)
        assert not allowed("slurm")  # SlurmUser of the testbed
        deployed.hosts["one"].update(
            fractal_slurm_sudoers_impersonate_users=["slurm"], fractal_slurm_sudoers_accept_system_users=["slurm"]
        )
        assert "SLURM's SlurmUser, who can start jobs as anybody" in deployed.play(SITE, "--tags", "sudoers").output
    finally:
        subprocess.run(["gpasswd", "--delete", EVE, GROUP], check=True)
        for argv in (["userdel", system], ["groupdel", chefs]):
            subprocess.run(argv, check=True)


def test_names_of_directory_services_work_from_the_role_to_the_job(deployed: Site):
    # SLURM's accounting keeps no backslash, and capitals only where it is told to: tests/slurm has those, without it
    names = [f"{NAME}@site.org", f"1{NAME}"]
    try:
        for number, name in enumerate(names):
            home = SLURM / "home" / f"odd{number}"
            subprocess.run(["useradd", "--badname", "--create-home", "--home-dir", home, name], check=True)
            home.chmod(0o700)
            known = [SLURM / "bin" / "sacctmgr", "--immediate", "add", "user", name, "account=lab"]
            subprocess.run(known, check=True, capture_output=True)
        deployed.hosts["one"]["fractal_slurm_sudoers_impersonate_users"] = names
        outcome = deployed.play(SITE, "--tags", "sudoers")
        assert outcome.changed == {"one": 1}, outcome.output
        params = verify_parameters(deployed, users=names)
        _outcome, answers = run_tasks(deployed, {"fractal.slurm.verify_deployment": params, "register": "answer"})
        assert answers["answer"]["faults"] == []
        probes = [check["words"] for check in answers["answer"]["checks"] if check["check"] == "probe job"]
        assert [words.partition(" on ")[0] for words in probes] == [f"ran as {name}" for name in names]
    finally:
        for name in names:
            subprocess.run(["userdel", "--force", name], check=False, capture_output=True)


@pytest.mark.parametrize("folder", ["scratch", "home"])
def test_verification_removes_nothing_of_the_users(deployed: Site, folder: str):
    scratch = BASE / "scratch"
    home = SLURM / "home" / ANNA
    (scratch / ANNA).mkdir(parents=True, exist_ok=True)
    for path in (scratch / ANNA, home):
        (path / "data").write_text("precious")
        shutil.chown(path, ANNA)
    probe_dir = {"scratch": f"{scratch}/USER", "home": "HOME"}[folder]
    before = {path: sorted(os.listdir(path)) for path in (scratch / ANNA, home)}
    params = verify_parameters(deployed, users=[ANNA], probe_dir=probe_dir)
    _outcome, answers = run_tasks(deployed, {"fractal.slurm.verify_deployment": params, "register": "answer"})
    assert {path: sorted(os.listdir(path)) for path in (scratch / ANNA, home)} == before
    assert any(
        f"probe job: {ANNA} in main" in fault and "is not empty" in fault for fault in answers["answer"]["faults"]
    )
    (home / "data").unlink()


def test_a_configuration_that_does_not_fit_the_cluster_is_not_written(deployed: Site):
    path = Path(deployed.hosts["one"]["fractal_slurm_config_path"])
    before = path.read_text()
    deployed.hosts["one"]["fractal_slurm_sudoers_impersonate_users"] = [ANNA, f"%{GROUP}", EVE]
    data = copy.deepcopy(CONFIG)
    data["default_slurm_config"].update(partition="gone")
    data["gpu_slurm_config"] = {"partition": "main", "gres": "gpu:1"}
    deployed.hosts["one"]["fractal_slurm_config_content"] = data
    outcome = deployed.play(SITE)
    assert outcome.status != 0
    assert f"found 'gone'; the cluster {NAME} has main, short" in outcome.output
    assert f"{EVE} has no account, and the cluster takes jobs of accounts only" in outcome.output
    assert "$.gpu_slurm_config.gres: no node of the partition 'main' fits a task" in outcome.output
    assert path.read_text() == before


def test_hosts_with_different_runtimes_are_named(deployed: Site):
    other = deployed.path("one", "opt", "other")
    other.mkdir()
    (other / "current").symlink_to("0.0.1-00000000")
    deployed.hosts["two"].update({**deployed.hosts["one"], "fractal_slurm_runtime_prefix": str(other)})
    outcome = deployed.play(VERIFY, "--tags", "runtime", hosts=("one", "two"))
    assert outcome.status != 0
    assert re.search(
        r"Not all hosts have the same runtime: \{'one': '[^']+', 'two': '0.0.1-00000000'\}", outcome.output
    )
    deployed.hosts["two"] = deployed.hosts["one"]
    assert deployed.play(VERIFY, "--tags", "runtime", hosts=("one", "two")).status == 0


def test_modules_that_only_read(deployed: Site):
    config = deployed.hosts["one"]["fractal_slurm_config_path"]
    bad = BASE / "bad.json"
    bad.write_text('{"default_slurm_config": {"partition": 1}}')
    look, sudo = "fractal.slurm.slurm_config_info", "fractal.slurm.impersonation_info"
    rights = {"service_user": SERVICE, "users": [ANNA, f"%{GROUP}"], "bin_dirs": [str(SLURM / "bin")]}
    outcome, found = run_tasks(
        deployed,
        {look: {"path": config}, "register": "good"},
        {look: {"path": str(bad)}, "register": "bad"},
        {look: {"path": str(BASE)}, "register": "folder"},
        {look: {"path": "/nowhere/x"}, "register": "missing"},
        {look: {"path": str(bad), "fail_on_invalid": True}, "register": "asked", "ignore_errors": True},
        {"fractal.slurm.cluster_info": {"users": [ANNA, f"%{GROUP}"]}, "register": "cluster"},
        {sudo: {**rights, "refused_users": [EVE], "fail_on_surprise": True}, "register": "rights"},
        {sudo: {**rights, "users": [EVE], "fail_on_surprise": True}, "register": "surprise", "ignore_errors": True},
        module_defaults={"fractal.slurm.cluster_info": {"bin_dirs": [str(SLURM / "bin")]}},
    )
    assert outcome.status == 0, outcome.output
    assert all(not answer["changed"] for answer in found.values())
    assert found["good"]["valid"]
    assert found["good"]["config"]["default_slurm_config"]["mem"] == 100
    for name, words in (
        ("bad", "$.batching_config: missing"),
        ("folder", "can't be read"),
        ("missing", "no such file"),
    ):
        assert not found[name].get("failed")
        assert not found[name]["valid"]
        assert any(words in fault for fault in found[name]["faults"]), found[name]
    assert len(found["bad"]["faults"]) > 1
    assert found["asked"]["failed"]

    assert found["cluster"]["users"] == [ANNA, BEN]
    cluster = found["cluster"]["cluster"]
    assert (cluster["name"], sorted(cluster["partitions"])) == (NAME, ["main", "short"])
    assert cluster["partitions"]["main"]["is_default"]
    assert sorted(cluster["nodes"]) == ["n1", "n2"]
    assert cluster["has_accounting"]
    assert {"associations", "limits"} <= set(cluster["accounting_enforced"])
    limits = {(entry["account"], entry["user"]): entry["max_submit"] for entry in cluster["associations"]}
    assert {pair: limit for pair, limit in limits.items() if pair[1]} == {("lab", ANNA): None, ("lab", BEN): 2}
    assert "normal" in cluster["qos"]
    assert min(cluster[name] for name in ("max_array_size", "max_job_count", "max_script_size", "min_job_age_s")) > 0

    assert found["rights"]["users"] == [ANNA, BEN]
    assert found["rights"]["surprises"] == []
    for entry in found["rights"]["matrix"]:
        assert (entry["rule"] is not None) == entry["allowed"] == entry["expected"], entry
    assert found["surprise"]["failed"]
    assert f"{SERVICE} may not run {SLURM}/bin/sbatch --parsable as {EVE}, and must" in found["surprise"]["surprises"]


def examples_of_modules() -> list[dict[str, Any]]:
    """The tasks of all modules' EXAMPLES, with names of this machine; those that look come before those that change.

    Those that need a fractal-server are left out: Molecule's scenario server has one.
    """
    here = {
        r"\balice\b": ANNA,
        r"\bbob\b": BEN,
        "%microscopy": f"%{GROUP}",
        "service_user: fractal": f"service_user: {SERVICE}",
        r"\badmin1\b": EVE,
        "/opt/slurm/bin": str(SLURM / "bin"),
        "- /data": f"- {SLURM}/work",
        "/etc/fractal/server.env": str(BASE / "server.env"),
    }
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted((ROOT / "plugins" / "modules").glob("*.py")):
        if path.stem.startswith("server_"):
            continue
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Assign) and node.targets[0].id == "EXAMPLES":
                text = ast.literal_eval(node.value)
                for pattern, replacement in here.items():
                    text = re.sub(pattern, replacement, text)
                found[path.stem] = yaml.safe_load(text)
    first = [name for name in found if name.endswith("_info") or name.startswith(("validate", "verify"))]
    return [task for name in [*first, *(name for name in found if name not in first)] for task in found[name]]


def test_examples_of_modules_run(deployed: Site):
    prefix = BASE / "examples"
    shutil.copytree(deployed.hosts["one"]["fractal_slurm_runtime_prefix"], prefix, symlinks=True)
    current = prefix / "current"
    (prefix / os.readlink(current)).rename(prefix / "0.0.1-00000000")  # what the example goes back to
    current.unlink()
    current.symlink_to("0.0.1-00000000")
    config, bin_dirs = str(prefix / "slurm_config.json"), [str(SLURM / "bin")]
    variables = deployed.hosts["one"]
    installed = {
        "command": variables["fractal_slurm_runtime_command"],
        "config_path": variables["fractal_slurm_config_path"],
        "settings_file": variables["fractal_slurm_runtime_settings_file"],
    }
    runtime = {
        "prefix": str(prefix),
        "command": "",
        "settings_file": str(prefix / "settings.toml"),
        "cache": variables["fractal_slurm_runtime_cache"],
    }
    outcome, _found = run_tasks(
        deployed,
        *examples_of_modules(),
        module_defaults={
            "fractal.slurm.cluster_info": {"bin_dirs": bin_dirs},
            "fractal.slurm.impersonation_info": {"bin_dirs": bin_dirs},
            "fractal.slurm.verify_deployment": {"bin_dirs": bin_dirs, **installed},
            "fractal.slurm.sudoers": {"bin_dirs": bin_dirs, "file": SUDOERS.name},
            "fractal.slurm.slurm_config": {"path": config},
            "fractal.slurm.slurm_config_info": {"path": installed["config_path"]},
            "fractal.slurm.runtime": runtime,
        },
    )
    assert outcome.status == 0, outcome.output
    assert "FAULT" not in outcome.output
    assert not SUDOERS.exists()
    assert not current.exists()


def test_examples_of_filters_run(deployed: Site):
    examples: dict[str, Any] = {}
    numbers = {}
    for path in sorted((ROOT / "plugins" / "filter").glob("*.yml")):
        text = yaml.safe_load(path.read_text())["EXAMPLES"]
        examples.update(yaml.safe_load(text))
        numbers.update(re.findall(r'^(\w+): ".*"  # (\d+)$', text, re.MULTILINE))
    assert len(examples) == 5
    assert numbers == {"mem_mb": "4000", "limit": "129600"}
    # as variables of the play, which is where such lines stand; the last one would define what the others use
    back = examples.pop("fractal_slurm_config_content").replace("resource.", "example_resource.")
    examples["example_back"] = back
    config = {**CONFIG, "batching_config": {**CONFIG["batching_config"], "max_mem_per_job": "16G"}}
    outcome, found = run_tasks(
        deployed,
        *({"ansible.builtin.set_fact": {name: text}} for name, text in examples.items() if name != "example_back"),
        {"ansible.builtin.set_fact": {"example_resource": "{{ resource }}"}},
        {"ansible.builtin.set_fact": {"example_back": back}},
        {"ansible.builtin.set_fact": {"seen": {name: "{{ " + name + " }}" for name in examples}}, "register": "answer"},
        vars={"fractal_slurm_config_content": config},
    )
    assert outcome.status == 0, outcome.output
    seen = found["answer"]["ansible_facts"]["seen"]
    assert {name: str(seen[name]) for name in numbers} == numbers
    assert seen["merged"]["sources"]["mem_per_task_MB"] == "task.meta"
    assert seen["resource"]["jobs_runner_config"]["default_slurm_config"]["partition"] == "main"
    assert seen["example_back"]["default_slurm_config"]["mem"] == 100
