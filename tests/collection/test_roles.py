# SPDX-License-Identifier: GPL-3.0-or-later
"""The three roles by their playbooks: what they leave, what they refuse, and that they do nothing twice."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from ansible_collections.fractal.slurm.plugins.plugin_utils import wheelhouse
from unit.plugins.http_standin import StandIn

from .conftest import BASE, CONFIG, GROUP, LANE, MEMBER, ROOT, SERVICE, SYSTEM_UID, USER, copy_collection

SITE, REMOVE, VALIDATE, UPGRADE = (f"fractal.slurm.{name}" for name in ("site", "remove", "validate", "upgrade"))


# What a run in flight does: it reads from its version's folder at any moment. Counts the files that it finds there.
READER = """
import json, os, signal, sys
files, missing, go_on = set(), 0, [True]
signal.signal(signal.SIGTERM, lambda *_: go_on.clear())
print(flush=True)
while go_on:
    try:
        files.add(os.stat(sys.argv[1]).st_ino)
    except FileNotFoundError:
        missing += 1
print(json.dumps({"files": len(files), "missing": missing}))
"""


def as_user(user, *argv):
    return subprocess.run(["runuser", "-u", user, "--", *argv], capture_output=True, text=True, check=False, cwd="/")


# All variables, the rights, the configuration and the runtime, a task each; two remember and gather what came of it.
UNCHANGED_TASKS = 6


class TestWholeLine:
    def test_from_a_bare_host_and_back(self, site):
        bare = site.files()

        rehearsal = site.play(SITE, "--check", "--diff")
        assert rehearsal.status == 0, rehearsal.output
        assert rehearsal.changed == {"one": 3}
        assert f"+{SERVICE} ALL=(FRACTAL_IMPERSONATE_USERS) NOPASSWD: FRACTAL_CMD" in rehearsal.output
        assert site.files() == bare

        first = site.play(SITE, umask=0o077)
        assert first.status == 0, first.output
        assert first.changed == {"one": 3}
        assert list(site.remote_tmp.iterdir()) == []

        second = site.play(SITE)
        assert second.changed == {"one": 0}, second.output
        # What an unchanged run costs: a module each for the rights, the configuration and the runtime.
        assert second.tasks == {"one": UNCHANGED_TASKS}, second.output

        sudoers = site.sudoers_file("one")
        assert oct(sudoers.stat().st_mode) == "0o100440"
        assert f"{USER}, \\\n    %{GROUP}, \\\n    !root" in sudoers.read_text()
        config = site.path("one", "etc", "fractal", "slurm_config.json")
        assert oct(config.stat().st_mode) == "0o100644"
        assert json.loads(config.read_text())["default_slurm_config"]["mem"] == 100

        command = site.hosts["one"]["fractal_slurm_runtime_command"]
        for user in (SERVICE, USER, MEMBER):
            answer = as_user(user, command, "validate", str(config))
            assert answer.returncode == 0, answer.stderr

        away = site.play(REMOVE)
        assert away.changed == {"one": 3}, away.output
        assert site.files() == bare - {str(site.path("one", "opt", "fractal-slurm"))}
        assert site.play(REMOVE).changed == {"one": 0}


class TestPreflight:
    def test_tells_each_fault_once_with_the_hosts_that_have_it(self, site):
        for host in ("one", "two"):
            site.hosts[host].update(
                fractal_slurm_sudoers_impersonate_users=["root"],
                fractal_slurm_config_content={"default_slurm_config": {"partition": "main"}},
                fractal_slurm_runtime_python="/nowhere/python3",
            )
        outcome = site.play(SITE, hosts=("one", "two"))
        assert outcome.status == 2
        told, stopped = outcome.output.split("TASK [Stop]")
        for words in (
            "one, two: user root: can't be impersonated because of uid 0",
            "one: the configuration of one: $.batching_config: missing",
            "two: the configuration of two: $.batching_config: missing",
            "one, two: no Python 3.10 or newer that all users can run: /nowhere/python3 is not there",
        ):
            assert told.count(words.partition(": ")[2]) == 1, outcome.output
            assert words in told
            assert words in stopped  # all that is shown where display_ok_hosts is off

    def test_lists_all_faults_of_all_roles_and_hosts_and_changes_nothing(self, site):
        before = site.files()
        site.hosts["two"].update(
            fractal_slurm_sudoers_impersonate_users=["root", "nobody-here", USER, USER],
            fractal_slurm_sudoer_file="mine",
            fractal_slurm_config_content={"default_slurm_config": {"partition": "main"}},
            fractal_slurm_config_mode={},
            fractal_slurm_runtime_settings={"slurm_bin": "/x"},
            fractal_slurm_runtime_python="/nowhere/python3",
        )
        outcome = site.play(SITE, hosts=("one", "two"))
        assert outcome.status != 0
        for words in (
            "user root: can't be impersonated because of uid 0",
            "user nobody-here: unknown on this host",
            f"user {USER}: stands 2 times in the list: keep one",
            "fractal_slurm_sudoer_file: there is no such variable; did you mean fractal_slurm_sudoers_file?",
            "/nowhere/python3 is not there",
            "$.batching_config: missing",
            "$.default_slurm_config.mem: missing",
            "slurm_bin: unknown setting; did you mean 'slurm_bin_dir'?",
        ):
            assert words in outcome.output
        assert outcome.changed == {"one": 0, "two": 0}
        assert site.files() == before

    def test_finds_that_no_wheels_can_be_made(self, site, tmp_path, monkeypatch):
        (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['pip'] = None\n")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        before = site.files()
        outcome = site.play(SITE)
        assert outcome.status == 2, outcome.output
        assert "pip is missing on the controller" in outcome.output
        assert site.files() == before

    def test_verify_names_hosts_without_a_runtime(self, site):
        outcome = site.play("fractal.slurm.verify")
        assert outcome.status == 2, outcome.output
        assert "Not all hosts have the same runtime: {'one': 'none'}. Run the playbook site" in outcome.output

    @pytest.mark.parametrize("playbook", [SITE, VALIDATE, UPGRADE, REMOVE, "fractal.slurm.verify"])
    def test_an_inventory_without_hosts_of_ours_is_no_success(self, site, playbook):
        for options in ((), ("--tags", "runtime"), ("--check",)):
            outcome = site.play(playbook, "-e", "fractal_slurm_hosts=fractal_slrum", *options)
            assert outcome.status != 0, outcome.output
            assert "matches fractal_slrum" in " ".join(outcome.output.split())

    @pytest.mark.parametrize(
        "setting",
        ["strategy = free", "strategy = host_pinned", "any_errors_fatal = True", "jinja2_native = True", "forks = 1"],
    )
    def test_holds_whatever_the_controllers_settings(self, site, setting):
        (site.folder / "ansible.cfg").write_text(f"[defaults]\n{setting}\n")
        site.hosts["one"]["fractal_slurm_runtime_settings"] = {"slurm_bin": "/x"}
        site.hosts["two"]["fractal_slurm_config_content"] = {}
        before = site.files()
        outcome = site.play(SITE, hosts=("one", "two"))
        assert outcome.status != 0
        assert outcome.changed == {"one": 0, "two": 0}, outcome.output
        for words in ("slurm_bin: unknown setting", "$.batching_config: missing"):
            told, stopped = outcome.output.partition("TASK [Tell what is wrong]")[2].split("TASK [Stop]")
            assert words in told
            assert words in stopped  # all that is shown where display_ok_hosts is off
        assert site.files() == before

    def test_a_role_alone_stops_all_hosts_too(self, site, tmp_path):
        playbook = tmp_path / "play.yml"
        playbook.write_text(
            "- hosts: all\n  become: true\n  gather_facts: false\n  roles: [fractal.slurm.slurm_config]\n"
        )
        site.hosts["two"]["fractal_slurm_config_content"] = {}
        outcome = site.play(str(playbook), hosts=("one", "two"))
        assert outcome.status != 0
        assert not site.path("one", "etc", "fractal").exists()

    def test_validating_needs_no_connection(self, site):
        site.hosts["one"].update(ansible_connection="ssh", ansible_host="host.invalid")
        assert site.play(VALIDATE).status == 0
        data = copy.deepcopy(CONFIG)
        data["default_slurm_config"]["time"] = 36000
        site.hosts["one"].update(
            fractal_slurm_config_content=data,
            fractal_slurm_sudoers_impersonate_users=["%wheel", "a b"],
            fractal_slurm_runtime_settings={"max_retries": "many"},
            fractal_slurm_runtime_keep="some",
            fractal_slurm_note="of our own",
        )
        outcome = site.play(VALIDATE)
        assert outcome.status != 0
        for words in (
            "quote it, YAML reads 10:00:00 as 36000",
            "group wheel: privileged",
            "user 'a b': the name is not allowed",
            "fractal_slurm_runtime_keep",
            "fractal_slurm_note: no role of fractal.slurm reads this variable",
        ):
            assert words in " ".join(outcome.output.split())  # warnings are wrapped
        site.hosts["one"]["fractal_slurm_runtime_keep"] = 3
        assert "max_retries: found 'many'; a whole number" in site.play(VALIDATE).output


class TestTags:
    def test_each_chooses_what_its_name_says(self, site):
        site.hosts["one"]["fractal_slurm_config_environment_file"] = str(site.path("one", "etc", "server.env"))
        changed = {
            tag: site.play(SITE, "--check", "--tags", tag).changed["one"]
            for tag in ("sudoers", "slurm_config", "config", "service", "runtime", "preflight")
        }
        assert changed == {"sudoers": 1, "slurm_config": 2, "config": 2, "service": 1, "runtime": 1, "preflight": 0}

    def test_other_roles_need_no_variables(self, site):
        del site.hosts["one"]["fractal_slurm_config_content"]
        assert site.play(SITE, "--check", "--tags", "sudoers,runtime").changed == {"one": 2}


@pytest.fixture
def accounts(machine):
    """A system account; a user whose primary group is one of administrators, and a group with that user in it."""
    system, dora, admins, mixed = names = [f"fsct{LANE}-{name}" for name in ("system", "dora", "admins", "mixed")]
    for argv in (
        ["groupadd", admins],
        ["groupadd", mixed],
        # One more system uid would change the sudoers files of all that run beside this.
        ["useradd", "--non-unique", "--uid", SYSTEM_UID, "--no-create-home", system],
        ["useradd", "--no-create-home", "--gid", admins, "--groups", mixed, dora],
    ):
        subprocess.run(argv, check=True, capture_output=True)
    yield names
    for argv in (["userdel", dora], ["userdel", system], ["groupdel", mixed], ["groupdel", admins]):
        subprocess.run(argv, check=True, capture_output=True)


HEADER = "# Managed by Ansible (role fractal.slurm.sudoers)"
BY_HAND = f"""\
Runas_Alias FRACTAL_IMPERSONATE_USERS = {USER}, bob
Cmnd_Alias FRACTAL_CMD = /usr/bin/sbatch, \\\n    /usr/bin/cat
{SERVICE} ALL = (FRACTAL_IMPERSONATE_USERS) NOPASSWD: FRACTAL_CMD
"""


class TestSudoers:
    def refused(self, site, words):
        before = {path: Path(path).read_bytes() for path in site.files() if os.path.isfile(path)}
        outcome = site.play(SITE, "--tags", "sudoers")
        assert outcome.status != 0, outcome.output
        assert words in outcome.output
        assert {path: Path(path).read_bytes() for path in site.files() if os.path.isfile(path)} == before

    def test_refuses_an_alias_of_ours_in_another_file(self, site):
        for name in ("00-before", "zz-after"):
            other = site.path("one", "sudoers.d", name)
            other.write_text("Cmnd_Alias FRACTAL_CMD = /bin/bash\n")
            self.refused(site, f"{other}:1: defines the alias FRACTAL_CMD")
            other.unlink()

    def test_names_the_fault_of_others_before_it_changes_anything(self, site):
        other = site.path("one", "sudoers.d", "10-other")
        other.write_text("this is no rule\n")
        self.refused(site, f"broken without ours: repair them first: {other}:1")

    def test_looks_into_every_include(self, site):
        host = socket.gethostname().split(".")[0]
        folder = site.path("one")
        for name in ("local", "more.d"):
            (folder / name).mkdir()
        (folder / "sudoers").write_text(
            "root ALL=(ALL:ALL) ALL\n@include local/rules.%h\n@includedir sudoers.d\n#includedir more.d\n"
        )
        rules = folder / "local" / f"rules.{host}"
        rules.write_text("#include beside\n")
        (folder / "local" / "beside").write_text("")
        outcome = site.play(SITE, "--tags", "sudoers", "--check")
        assert outcome.changed == {"one": 1}, outcome.output
        for path in (rules, folder / "local" / "beside", folder / "more.d" / "10-more"):
            before = path.read_text() if path.exists() else ""
            path.write_text(f"{before}Runas_Alias FRACTAL_IMPERSONATE_USERS = root\n")
            line = before.count("\n") + 1
            self.refused(site, f"{path}:{line}: defines the alias FRACTAL_IMPERSONATE_USERS")
            path.write_text(f"{before}this is no rule\n")
            self.refused(site, f"broken without ours: repair them first: {path}:{line}")
            path.write_text(before)

    def test_refuses_accounts_of_this_machine_that_are_privileged(self, site, accounts):
        system, dora, admins, mixed = accounts
        site.hosts["one"].update(
            fractal_slurm_sudoers_privileged_groups=["root", admins],
            fractal_slurm_sudoers_impersonate_users=[USER, system, dora, "root", f"%{mixed}", f"%{admins}", "%root"],
        )
        self.refused(site, f"user {system}: can't be impersonated because of the uid ")
        outcome = site.play(SITE, "--tags", "sudoers")
        for words in (
            f"user {dora}: can't be impersonated because of membership in the privileged group {admins}",
            "user root: can't be impersonated because of uid 0",
            f"group {mixed}: its member {dora} can't be impersonated",
            f"group {admins}: privileged",
            "group root: privileged",
        ):
            assert words in outcome.output
        site.hosts["one"].update(
            fractal_slurm_sudoers_impersonate_users=[USER, system],
            fractal_slurm_sudoers_accept_system_users=[system],
        )
        assert site.play(SITE, "--tags", "sudoers").changed == {"one": 1}

    def test_refuses_a_folder_that_is_not_included(self, site):
        site.path("one", "sudoers").write_text("root ALL=(ALL:ALL) ALL\n")
        self.refused(site, "so sudo would not read our file")

    def test_refuses_a_command_that_is_not_there_or_that_others_can_change(self, site):
        folder = site.path("one", "slurm")
        folder.mkdir()
        site.hosts["one"]["fractal_slurm_bin_dirs"] = [str(folder)]
        self.refused(site, f"sbatch is not there: looked in {folder}")  # and not where the runtime would not look
        for name in ("sbatch", "scancel"):
            shutil.copy(f"/usr/bin/{name}", folder / name)
        assert site.play(SITE, "--tags", "sudoers", "--check").status == 0
        folder.chmod(0o777)
        self.refused(site, f"{folder} can be written by others (mode 0777)")

    def test_keeps_a_valid_file_when_a_change_is_refused(self, site):
        assert site.play(SITE, "--tags", "sudoers").changed == {"one": 1}
        site.hosts["one"]["fractal_slurm_sudoers_impersonate_users"] = ["root"]
        self.refused(site, "uid 0")

    def test_hardened_rules_pass_visudo(self, site):
        site.hosts["one"].update(
            fractal_slurm_sudoers_mode="hardened", fractal_slurm_sudoers_work_dirs=["/data/work.1"]
        )
        outcome = site.play(SITE, "--tags", "sudoers")
        assert outcome.changed == {"one": 1}, outcome.output
        assert "/sbatch --parsable" in site.sudoers_file("one").read_text()
        assert site.play(SITE, "--tags", "sudoers").changed == {"one": 0}

    def test_hardened_mode_needs_the_work_folders(self, site):
        site.hosts["one"]["fractal_slurm_sudoers_mode"] = "hardened"
        self.refused(site, "fractal_slurm_sudoers_work_dirs")

    def test_mends_owner_and_mode(self, site):
        site.play(SITE, "--tags", "sudoers")
        site.sudoers_file("one").chmod(0o644)
        assert site.play(SITE, "--tags", "sudoers").changed == {"one": 1}
        assert oct(site.sudoers_file("one").stat().st_mode) == "0o100440"

    def test_two_service_users_have_files_and_aliases_of_their_own(self, site):
        first = site.sudoers_file("one")
        assert site.play(SITE, "--tags", "sudoers").changed == {"one": 1}
        text = first.read_text()
        site.hosts["one"]["fractal_slurm_service_user"] = MEMBER
        self.refused(site, f"{first} holds the rights of another service account, {SERVICE}, and is left alone")
        site.hosts["one"]["fractal_slurm_sudoers_file"] = "fractal-slurm-2"
        outcome = site.play(SITE, "--tags", "sudoers")
        assert outcome.changed == {"one": 1}, outcome.output
        second = first.with_name("fractal-slurm-2")
        assert f"FRACTAL_CMD_{MEMBER.upper().replace('-', '_')} = /usr/bin/sbatch" in second.read_text()
        assert site.play(SITE, "--tags", "sudoers").changed == {"one": 0}
        site.hosts["one"].update(fractal_slurm_service_user=SERVICE, fractal_slurm_sudoers_file="fractal-slurm")
        assert site.play(SITE, "--tags", "sudoers").changed == {"one": 0}
        # nor is the one's file removed for the other
        site.hosts["one"]["fractal_slurm_sudoers_file"] = second.name
        assert site.play(REMOVE, "--tags", "sudoers").status != 0
        site.hosts["one"]["fractal_slurm_service_user"] = MEMBER
        assert site.play(REMOVE, "--tags", "sudoers").status == 0
        assert not second.exists()
        assert first.read_text() == text

    def test_takes_over_a_file_of_its_name(self, site):
        site.sudoers_file("one").write_text(BY_HAND)
        assert site.play(SITE, "--tags", "sudoers").changed == {"one": 1}
        assert site.sudoers_file("one").read_text().startswith(HEADER)
        for more in ("bob ALL=(ALL) ALL\n", f"{SERVICE} ALL=/bin/systemctl restart x\n", "Defaults !lecture\n"):
            site.sudoers_file("one").write_text(BY_HAND + more)
            self.refused(site, "5: the file was not made by this role, and has more in it")

    def test_takes_over_a_file_of_another_name(self, site):
        other = site.path("one", "sudoers.d", "10-by-hand")
        other.write_text(BY_HAND)
        other.chmod(0o440)
        self.refused(site, f"let the role take it over (fractal_slurm_sudoers_replaces: [{other}])")
        site.hosts["one"]["fractal_slurm_sudoers_replaces"] = [str(other), str(other.with_name("gone"))]
        outcome = site.play(SITE, "--tags", "sudoers", "--check", "--diff")
        assert outcome.changed == {"one": 1}, outcome.output
        assert f"--- before: {other}" in outcome.output
        assert other.read_text() == BY_HAND
        assert site.play(SITE, "--tags", "sudoers").changed == {"one": 1}
        assert not other.exists()
        (backup,) = other.parent.glob("10-by-hand.*~")
        assert backup.read_text() == BY_HAND
        assert "Runas_Alias FRACTAL_IMPERSONATE_USERS = " in site.sudoers_file("one").read_text()
        assert site.play(SITE, "--tags", "sudoers").changed == {"one": 0}

    def test_takes_over_a_block_in_the_main_file(self, site):
        main = site.path("one", "sudoers")
        before, after = (
            main.read_text(),
            f"Defaults:{SERVICE} !requiretty\n{SERVICE} ALL=NOPASSWD: /bin/systemctl restart x\n",
        )
        main.write_text(f"{before}# BEGIN\n{BY_HAND}# END\n{after}")
        main.chmod(0o440)
        site.hosts["one"]["fractal_slurm_sudoers_replaces"] = [str(main)]
        outcome = site.play(SITE, "--tags", "sudoers")
        assert outcome.changed == {"one": 1}, outcome.output
        assert main.read_text() == f"{before}# BEGIN\n# END\n{after}"
        assert oct(main.stat().st_mode) == "0o100440"
        again = site.play(SITE, "--tags", "sudoers")
        assert again.changed == {"one": 0}, again.output
        main.chmod(0o640)
        main.write_text(f"{before}{SERVICE}, bob ALL=(ALL) /usr/bin/cat\n")
        self.refused(site, f"{main}:3: has rights of this role together with others: take them apart")

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("bob ALL=(ALL) ALL\n", "is not a file of this role"),
            ("", "is not a file of this role"),
            (
                "# Managed by Ansible (role fractal.slurm.sudoers)\nother ALL=(bob) /bin/ls\n",
                "another service account, other",
            ),
        ],
    )
    def test_removes_no_file_of_others(self, site, text, words):
        other = site.sudoers_file("one")
        other.write_text(text)
        outcome = site.play(REMOVE, "--tags", "sudoers")
        assert outcome.status != 0
        assert words in outcome.output
        assert other.read_text() == text

    def test_removes_no_file_elsewhere(self, site):
        site.hosts["one"]["fractal_slurm_sudoers_file"] = "../sudoers"
        outcome = site.play(REMOVE, "--tags", "sudoers")
        assert "the file name '../sudoers' is not allowed" in outcome.output
        assert site.path("one", "sudoers").exists()


class ResourceServer(StandIn):
    """A fractal-server with one resource."""

    def __init__(self):
        super().__init__()
        self.resource = {"id": 1, "name": "cluster", "type": "slurm_sudo", "jobs_runner_config": {}}
        self.refusal = None

    def answer(self, method, path, body):
        if self.refusal:
            return self.refusal
        if method == "PUT":
            self.resource = {"id": 1, **json.loads(body)}
        return 200, [self.resource] if method == "GET" else self.resource


@pytest.fixture
def server():
    server = ResourceServer()
    yield server
    server.close()


class TestSlurmConfig:
    def test_one_yaml_serves_the_file_and_the_resource_with_the_job_hook_first(self, site, server):
        data = copy.deepcopy(CONFIG)
        data["default_slurm_config"]["extra_lines"] = ["export A=b"]
        data["gpu_slurm_config"] = {"partition": "gpu"}
        site.hosts["one"].update(
            fractal_slurm_config_content=data,
            fractal_slurm_config_job_hook=True,
            fractal_slurm_config_resource="cluster",
            fractal_slurm_config_api_url=server.url,
            fractal_slurm_config_api_token="to-ken",
        )
        path = Path(site.hosts["one"]["fractal_slurm_config_path"])
        hook = f"{site.hosts['one']['fractal_slurm_runtime_prefix']}/current/share/fractal-slurm/node/fractal-job.sh"
        line = f"[ ! -r {hook} ] || . {hook}"

        def lines():
            """The lines in the file and in the resource; the GPU section has those of the default section."""
            both = json.loads(path.read_text()), server.resource["jobs_runner_config"]
            assert all("extra_lines" not in config["gpu_slurm_config"] for config in both)
            return [config["default_slurm_config"]["extra_lines"] for config in both]

        # what the server refuses is a fault before the file is written
        server.refusal = (401, {"detail": "Unauthorized"})
        outcome = site.play(SITE, "--tags", "config")
        assert "status 401: Unauthorized" in outcome.output
        assert not path.exists()
        server.refusal = None
        outcome = site.play(SITE, "--tags", "config", "--diff")
        assert outcome.changed == {"one": 2}, outcome.output
        assert "to-ken" not in outcome.output
        assert len(re.findall(rf'^\+ +"{re.escape(line)}"', outcome.output, re.MULTILINE)) == 2
        assert lines() == [[line, "export A=b"]] * 2
        assert site.play(SITE, "--tags", "config").changed == {"one": 0}
        # a path that can't stand in a job's script is a fault, to validate as to site
        site.hosts["one"]["fractal_slurm_config_job_hook_path"] = "/opt/a b/fractal-job.sh"
        for playbook in (VALIDATE, SITE):
            outcome = site.play(playbook, *(["--tags", "config"] if playbook == SITE else []))
            assert "fractal_slurm_config_job_hook_path: found '/opt/a b/fractal-job.sh'" in outcome.output
        # without the hook, its line goes again
        del site.hosts["one"]["fractal_slurm_config_job_hook_path"]
        site.hosts["one"]["fractal_slurm_config_job_hook"] = False
        assert site.play(SITE, "--tags", "config", "--check").changed == {"one": 2}
        assert lines() == [[line, "export A=b"]] * 2
        assert site.play(SITE, "--tags", "config").changed == {"one": 2}
        assert lines() == [["export A=b"]] * 2

    def test_each_host_has_its_own_and_a_copy_is_kept(self, site):
        other = copy.deepcopy(CONFIG)
        other["default_slurm_config"]["partition"] = "other"
        site.hosts["two"]["fractal_slurm_config_content"] = json.dumps(other)
        outcome = site.play(SITE, "--tags", "config", hosts=("one", "two"))
        assert outcome.changed == {"one": 1, "two": 1}, outcome.output
        paths = {host: site.path(host, "etc", "fractal", "slurm_config.json") for host in ("one", "two")}
        partitions = {
            host: json.loads(path.read_text())["default_slurm_config"]["partition"] for host, path in paths.items()
        }
        assert partitions == {"one": "main", "two": "other"}
        site.hosts["one"].update(fractal_slurm_config_content=other, fractal_slurm_config_backup=True)
        outcome = site.play(SITE, "--tags", "config", "--diff")
        assert '-    "partition": "main"' in outcome.output
        assert len(list(paths["one"].parent.glob("slurm_config.json.*~"))) == 1

    def test_takes_a_file_or_a_template(self, site, tmp_path):
        del site.hosts["one"]["fractal_slurm_config_content"]
        path = site.path("one", "etc", "fractal", "slurm_config.json")
        file = tmp_path / "slurm.yml"
        file.write_text(yaml.safe_dump(CONFIG))
        site.hosts["one"]["fractal_slurm_config_src"] = str(file)
        assert site.play(SITE, "--tags", "config").changed == {"one": 1}
        from_file = path.read_text()
        template = tmp_path / "slurm.yml.j2"
        template.write_text(file.read_text().replace("main", "{{ my_partition }}"))
        site.hosts["one"].update(fractal_slurm_config_template=str(template), my_partition="main")
        assert (
            "exactly one of content, src, template; found src, template" in site.play(SITE, "--tags", "config").output
        )
        del site.hosts["one"]["fractal_slurm_config_src"]
        assert site.play(SITE, "--tags", "config").changed == {"one": 0}
        assert path.read_text() == from_file

    def test_keeps_an_environment_file_in_step(self, site):
        file = site.path("one", "etc", "fractal-server.env")
        file.write_text("SECRET=1\nFRACTAL_SLURM_CONFIG_FILE=/old\n")
        file.chmod(0o600)
        site.hosts["one"]["fractal_slurm_config_environment_file"] = str(file)
        assert site.play(SITE, "--tags", "config").changed == {"one": 2}
        path = site.hosts["one"]["fractal_slurm_config_path"]
        assert file.read_text() == f"SECRET=1\nFRACTAL_SLURM_CONFIG_FILE={path}\n"
        assert oct(file.stat().st_mode) == "0o100600"
        assert site.play(SITE, "--tags", "config").changed == {"one": 0}


@pytest.fixture
def planted(site):
    """What a user put where the runtime goes: a version that looks installed, and whose Python leaves a trace."""
    source = wheelhouse.read_source()
    folder = site.path("one", "opt", "fractal-slurm", source.folder_name)
    (folder / "bin").mkdir(parents=True)
    trace = BASE / "trace"
    (folder / "bin" / "python").write_text(f"#!/bin/sh\nid >{trace}\nexit 0\n")
    (folder / "bin" / "python").chmod(0o755)
    marker = {"version": source.folder_name, "digest": source.digest, "wheels": {}}
    (folder / "fractal-slurm-installed.json").write_text(json.dumps(marker))
    (folder.parent / "current").symlink_to(source.folder_name)
    return folder, trace


class TestStrangers:
    @pytest.mark.parametrize("where", ["prefix", "parent", "link"])
    @pytest.mark.parametrize("how", ["mode", "owner"])
    def test_run_nothing_as_root_below_a_folder_that_they_can_write(self, site, planted, where, how):
        folder, trace = planted
        prefix = folder.parent
        if where == "link":
            moved = site.path("one", "elsewhere")
            prefix.parent.rename(moved)
            prefix.parent.symlink_to(moved)
            target = moved
        else:
            target = prefix if where == "prefix" else prefix.parent
        if how == "mode":
            target.chmod(0o777)
        else:
            shutil.chown(target, USER)
        for options in (["--check"], [], ["-e", "fractal_slurm_runtime_version=previous"]):
            outcome = site.play(SITE, "--tags", "runtime", *options)
            assert outcome.status == 2, outcome.output
            assert "fractal_slurm_runtime_prefix" in outcome.output
            assert str(target) in outcome.output
            assert ("can be written by others" if how == "mode" else f"belongs to {USER}") in outcome.output
        assert site.play(REMOVE, "--tags", "runtime").status == 2
        assert not trace.exists()
        assert folder.exists()

    @pytest.mark.parametrize("name", ["", "bin", "bin/python", "fractal-slurm-installed.json"])
    def test_have_put_nothing_into_a_version_that_is_run(self, site, planted, name):
        folder, trace = planted
        shutil.chown(folder / name, USER)
        outcome = site.play(SITE, "--tags", "runtime", "--check")
        assert outcome.changed == {"one": 1}, outcome.output  # it counts for nothing, and is made anew
        assert not trace.exists()

    def test_offer_no_python_that_is_run_as_root(self, site):
        trace, folder = BASE / "trace", site.path("one", "python")
        folder.mkdir()
        (folder / "python3").write_text(f"#!/bin/sh\nid >{trace}\n")
        (folder / "python3").chmod(0o755)
        shutil.chown(folder, USER)
        site.hosts["one"]["fractal_slurm_runtime_python"] = str(folder / "python3")
        outcome = site.play(SITE, "--tags", "runtime", "--check")
        assert f"is not safe to run: {folder} belongs to {USER}" in outcome.output
        assert not trace.exists()


class TestRuntime:
    def versions(self, site):
        folder = site.path("one", "opt", "fractal-slurm")
        current = os.readlink(folder / "current")
        return current, sorted(path.name for path in folder.iterdir() if not path.is_symlink())

    def test_mends_a_broken_environment_that_is_in_use(self, installed):
        current, _all = self.versions(installed)
        folder = installed.path("one", "opt", "fractal-slurm", current)
        package = next(folder.glob("lib/python3*/site-packages/click"))
        (package / "core.py").unlink()
        worker = package.parent / "fractal_slurm" / "node" / "worker.py"
        with subprocess.Popen([sys.executable, "-c", READER, worker], stdout=subprocess.PIPE, text=True) as reader:
            reader.stdout.readline()
            outcome = installed.play(SITE, "--tags", "runtime")
            reader.terminate()
            seen = json.loads(reader.stdout.read())
        assert outcome.changed == {"one": 1}, outcome.output
        assert (package / "core.py").exists()
        assert seen == {"files": 2, "missing": 0}  # the broken one, then the mended one, and nothing between
        assert self.versions(installed)[1] == [current]
        answer = as_user(USER, installed.hosts["one"]["fractal_slurm_runtime_command"], "--version")
        assert answer.returncode == 0, answer.stderr

    def test_the_worker_lies_where_no_version_of_python_is_in_the_path(self, installed):
        current, _all = self.versions(installed)
        folder = installed.path("one", "opt", "fractal-slurm", current)
        program = "from fractal_slurm.settings import Settings; print(Settings().folder())"
        answer = as_user(USER, str(folder / "bin" / "python"), "-I", "-c", program)
        assert answer.stdout.strip() == f"{folder}/share/fractal-slurm", answer.stderr
        compiled = [path.name for path in (folder / "share" / "fractal-slurm" / "node" / "__pycache__").iterdir()]
        assert "worker" in {name.partition(".")[0] for name in compiled}

    def test_two_runs_at_once_do_not_meet(self, site):
        with ThreadPoolExecutor(2) as pool:
            outcomes = list(pool.map(lambda _: site.play(SITE, "--tags", "runtime"), range(2)))
        assert [outcome.status for outcome in outcomes] == [0, 0], outcomes
        assert len(self.versions(site)[1]) == 1

    def test_a_version_without_its_marker_counts_for_nothing(self, installed):
        current, _all = self.versions(installed)
        installed.path("one", "opt", "fractal-slurm", current, "fractal-slurm-installed.json").unlink()
        assert installed.play(SITE, "--tags", "runtime").changed == {"one": 1}

    def test_upgrade_keeps_the_old_version_and_can_go_back(self, installed, tmp_path):
        old, _all = self.versions(installed)
        copy_collection(tmp_path / "collections")
        newer = tmp_path / "collections" / "ansible_collections" / "fractal" / "slurm"
        init = newer / "python_runtime" / "src" / "fractal_slurm" / "__init__.py"
        init.write_text(init.read_text().replace('__version__ = "', '__version__ = "9.'))
        installed.collections = tmp_path / "collections"
        outcome = installed.play(UPGRADE)
        assert outcome.changed == {"one": 1}, outcome.output
        new, folders = self.versions(installed)
        assert new.startswith("9.")
        assert folders == sorted([old, new])
        back = installed.play(UPGRADE, "-e", "fractal_slurm_runtime_version=previous")
        assert back.changed == {"one": 1}, back.output
        assert self.versions(installed)[0] == old

    def test_one_host_installs_for_all_on_a_shared_file_system(self, site):
        shared = site.hosts["one"]["fractal_slurm_runtime_prefix"]
        for variables in site.hosts.values():
            variables.update(fractal_slurm_runtime_prefix=shared, fractal_slurm_runtime_shared=True)
        outcome = site.play(SITE, "--tags", "runtime", hosts=("one", "two"))
        assert outcome.changed == {"one": 1, "two": 1}, outcome.output
        assert len(self.versions(site)[1]) == 1
        assert os.path.exists(site.hosts["two"]["fractal_slurm_runtime_command"])
        assert site.play(SITE, "--tags", "runtime", hosts=("one", "two")).changed == {"one": 0, "two": 0}

    def test_hosts_need_no_index_and_get_what_the_lock_names(self, site, tmp_path):
        lock = ROOT / "python_runtime" / "requirements-lock.txt"
        wheels = tmp_path / "wheels"
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(wheels)]
        version = ["/usr/bin/python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        python = subprocess.run(version, check=True, capture_output=True, text=True).stdout.strip()
        locked = ["--require-hashes", "--no-deps", "-r", str(lock), "--only-binary=:all:", "--python-version", python]
        subprocess.run([*pip, *locked], check=True, capture_output=True)
        site.hosts["one"].update(
            fractal_slurm_runtime_find_links=[str(wheels)],
            fractal_slurm_runtime_no_index=True,
            fractal_slurm_runtime_cache=str(tmp_path / "cache"),
            fractal_slurm_runtime_python="/usr/bin/python3",
        )
        outcome = site.play(SITE, "--tags", "runtime")
        assert outcome.changed == {"one": 1}, outcome.output
        current, _all = self.versions(site)
        marker = site.path("one", "opt", "fractal-slurm", current, "fractal-slurm-installed.json")
        installed = {
            f"{wheel['name']}=={wheel['version']}"
            for wheel in json.loads(marker.read_text())["wheels"].values()
            if wheel["name"] not in ("fractal-slurm", "tomli")
        }
        assert installed == set(re.findall(r"^([a-z0-9-]+==\S+) \\$", lock.read_text(), re.MULTILINE))

    def test_what_no_place_has_is_told_in_pips_words_alone(self, site, tmp_path):
        site.hosts["one"].update(fractal_slurm_runtime_no_index=True, fractal_slurm_runtime_cache=str(tmp_path))
        before = site.files()
        outcome = site.play(SITE)
        assert outcome.status == 2, outcome.output
        assert site.files() == before  # neither rights nor configuration: wheels are made before anything is changed
        assert re.search(r"pip download: ERROR: .* \(without an index, set fractal_slurm_", outcome.output)
        assert "subprocess" not in outcome.output

    def test_a_cache_that_can_not_be_made_is_told_with_its_variable(self, site):
        site.hosts["one"]["fractal_slurm_runtime_cache"] = "/proc/nowhere/cache"
        before = site.files()
        for options in ((), ("--check",)):
            outcome = site.play(SITE, *options)
            assert outcome.status == 2, outcome.output
            assert re.search(r"/proc/nowhere.*fractal_slurm_runtime_cache", outcome.output)
            assert site.files() == before

    def test_a_lock_of_the_sites_own_is_kept_to(self, site, tmp_path):
        lock = tmp_path / "lock.txt"
        lock.write_text("pip==25.0\nclick==7.0\n")
        site.hosts["one"]["fractal_slurm_runtime_lock"] = str(lock)
        before = site.files()
        outcome = site.play(SITE, "--tags", "runtime")
        assert outcome.status != 0
        assert "it names click 7.0, and the runtime needs click" in outcome.output
        assert "pydantic is missing" in outcome.output
        assert site.files() == before


class TestRemoving:
    def test_is_refused_while_a_run_is_driven(self, installed):
        assert installed.play(SITE, "--tags", "sudoers").status == 0
        folder = installed.path("one", "opt", "fractal-slurm")
        python = folder / os.readlink(folder / "current") / "bin" / "python"
        before = installed.files()
        with subprocess.Popen([python, "-c", "input()"], stdin=subprocess.PIPE) as driver:
            outcome = installed.play(REMOVE)
            assert outcome.status == 2, outcome.output
            assert f"by 1 processes on this host ({driver.pid})" in outcome.output
            assert installed.files() == before  # the rights, which it needs to its end, are there still
            driver.communicate(b"\n")
        assert installed.play(REMOVE).status == 0

    def test_is_refused_while_jobs_are_queued_unless_that_is_meant(self, installed):
        queue = installed.path("one", "bin", "squeue")
        queue.write_text(f"#!/bin/sh\necho '17_[1-3] {USER} fractal-slurm:0123456789abcdef'\necho '18 {USER} other'\n")
        queue.chmod(0o755)
        journals = installed.path("one", "state")
        journals.mkdir()
        (journals / "x.db").write_text("")
        installed.hosts["one"].update(
            fractal_slurm_bin_dirs=[str(queue.parent)], fractal_slurm_runtime_settings={"state_dir": str(journals)}
        )
        assert installed.play(SITE, "--tags", "runtime").status == 0
        outcome = installed.play(REMOVE, "--tags", "runtime")
        assert f"1 job in the queue needs it (17 of {USER})" in outcome.output
        outcome = installed.play(REMOVE, "--tags", "runtime", "-e", "fractal_slurm_runtime_force=true")
        assert outcome.changed == {"one": 1}, outcome.output
        assert f"the journals of runs in {journals} are left" in " ".join(outcome.output.split())
        assert not installed.path("one", "opt", "fractal-slurm").exists()


SYSTEMCTL = """\
#!/bin/sh
cd /etc/systemd/system || exit 1
echo "$*" >> calls
unit=fractal-slurm-resume.service
wants=multi-user.target.wants/$unit
case $1 in
    show)
        printf 'LoadState=loaded\\nActiveState=inactive\\nUnitFileState='
        [ -e $wants ] && echo enabled || echo disabled ;;
    enable) [ -e $unit ] && mkdir -p multi-user.target.wants && ln -s ../$unit $wants ;;
    disable) [ -e $unit ] && rm -f $wants ;;
esac
"""


class TestResumeAtBoot:
    """The unit that continues runs; systemd is played, in a mount namespace with a folder of units of its own."""

    def play(self, site, playbook, *options):
        units, program = site.path("one", "units"), site.path("one", "systemctl")
        units.mkdir(exist_ok=True)
        program.write_text(SYSTEMCTL)
        program.chmod(0o755)
        mounts = 'mount --bind "$0" /etc/systemd/system && mount --bind "$1" "$2"'
        inside = f'{mounts} && shift 2 && exec "$@"'
        systemctl = shutil.which("systemctl", path="/usr/bin:/bin")
        within = ("unshare", "-m", "sh", "-c", inside, str(units), str(program), systemctl)
        return site.play(playbook, "--tags", "runtime", *options, within=within)

    @pytest.mark.skipif(shutil.which("systemctl", path="/usr/bin:/bin") is None, reason="there is no systemctl")
    def test_comes_once_is_not_started_and_goes_with_the_runtime(self, installed):
        unit = installed.path("one", "units", "fractal-slurm-resume.service")
        wants = installed.path("one", "units", "multi-user.target.wants", unit.name)
        on = ("-e", "fractal_slurm_runtime_resume_at_boot=true")
        dry = self.play(installed, SITE, *on, "--check", "--diff")
        assert (dry.changed, unit.exists()) == ({"one": 1}, False), dry.output
        assert "resume --all" in dry.output
        assert self.play(installed, SITE, *on).changed == {"one": 1}
        assert f"User={SERVICE}\n" in unit.read_text()
        assert wants.is_symlink()
        assert self.play(installed, SITE, *on).changed == {"one": 0}
        assert self.play(installed, REMOVE).changed == {"one": 1}
        assert not unit.exists()
        assert not wants.is_symlink()
        calls = installed.path("one", "units", "calls").read_text()
        assert "start" not in calls.split()


class TestWhereNothingFits:
    """File systems that are full or can't be written: found before anything is changed, also in check mode."""

    def mounted(self, site, path, options):
        path.mkdir(parents=True, exist_ok=True)
        program = f'mount -t tmpfs -o mode=755,{options} none "$0" && exec "$@"'
        outcome = site.play(SITE, "--check", within=("unshare", "-m", "sh", "-c", program, str(path)))
        assert outcome.status == 2, outcome.output
        assert outcome.changed == {"one": 0}
        return outcome.output

    @pytest.mark.parametrize(
        ("folder", "options", "words"),
        [
            ("opt", "size=20m", "left, and 150 MB are needed (fractal_slurm_runtime_prefix)"),
            ("opt", "size=1g,nr_inodes=100", "more files, and 6000 are needed (fractal_slurm_runtime_prefix)"),
            ("opt", "ro", "mounted read-only: mount it otherwise, or use another place (fractal_slurm_runtime_prefix)"),
            ("bin", "ro", "(fractal_slurm_runtime_command)"),
            ("etc", "ro", "(fractal_slurm_config_path)"),
        ],
    )
    def test_is_told_with_the_variable(self, site, folder, options, words):
        assert words in self.mounted(site, site.path("one", folder), options)


class TestWithoutRoot:
    def test_each_role_says_so_before_anything_is_changed(self, site):
        site.hosts["one"]["ansible_become_user"] = USER
        before = site.files()
        outcome = site.play(SITE)
        assert outcome.status == 2, outcome.output
        assert outcome.changed == {"one": 0}
        assert site.files() == before
        assert "root's rights are needed to read and write sudoers files: run with become" in outcome.output
        for name in ("etc", "opt"):
            words = rf"{site.path('one', name)} can't be written by {USER}"
            assert re.search(words, outcome.output), outcome.output


class TestSharedPrefix:
    def test_nobody_steps_in_for_the_host_that_installs(self, site, tmp_path):
        shared = site.hosts["one"]["fractal_slurm_runtime_prefix"]
        site.hosts["three"] = {**site.hosts["two"]}
        for variables in site.hosts.values():
            variables.update(fractal_slurm_runtime_prefix=shared, fractal_slurm_runtime_shared=True)
        playbook = tmp_path / "play.yml"
        playbook.write_text("""
- hosts: all
  become: true
  gather_facts: false
  tasks:
    - ansible.builtin.fail: {msg: out of order}
      when: inventory_hostname == 'one'
    - ansible.builtin.import_role: {name: fractal.slurm.runtime, tasks_from: change}
""")
        outcome = site.play(str(playbook), hosts=("one", "two", "three"))
        assert outcome.status == 2, outcome.output
        assert outcome.changed == {"one": 0, "two": 0, "three": 0}
        assert outcome.output.count("one installs the runtime for all hosts (fractal_slurm_runtime_shared)") >= 2
        assert not os.path.exists(shared)


class TestValuesAsInventoriesGiveThem:
    def test_text_for_lists_and_mappings_is_taken_as_what_it_stands_for(self, site):
        outcome = site.play(
            SITE,
            "-e",
            f"fractal_slurm_bin_dirs=/usr/bin fractal_slurm_sudoers_impersonate_users={USER},%{GROUP}",
            "-e",
            "fractal_slurm_runtime_settings='{\"max_retries\": 2}'",
            "-e",
            "fractal_slurm_config_against_cluster=false fractal_slurm_config_backup=no",
            "-e",
            "fractal_slurm_runtime_keep=2 fractal_slurm_runtime_shared=false fractal_slurm_runtime_no_index=false",
        )
        assert outcome.changed == {"one": 3}, outcome.output
        settings = site.path("one", "etc", "fractal", "fractal-slurm.toml").read_text()
        assert settings.splitlines()[1:] == ["max_retries = 2", 'slurm_bin_dir = "/usr/bin"']
        assert f"{USER}, \\\n    %{GROUP}, \\\n    !root" in site.sudoers_file("one").read_text()

    def test_what_is_not_clear_is_refused_alike_by_validate_and_site(self, site):
        site.hosts["one"].update(
            fractal_slurm_sudoers_impersonate_users="anna, ben",
            fractal_slurm_bin_dirs=[],
            fractal_slurm_config_mode=420,
            fractal_slurm_runtime_find_links="",
            fractal_slurm_runtime_version=1.0,
            fractal_slurm_service_user=None,
        )
        before = site.files()
        for playbook in (VALIDATE, SITE):
            outcome = site.play(playbook)
            assert outcome.status == 2
            for words in (
                "fractal_slurm_sudoers_impersonate_users: found the string 'anna, ben'; a list is allowed",
                "fractal_slurm_config_mode: found the number 420; a mode in quotes is allowed",
                "fractal_slurm_runtime_find_links: found the string ''",
                "fractal_slurm_runtime_version: found the number 1.0",
                "fractal_slurm_service_user: found nothing (null)",
            ):
                assert words in outcome.output
        assert site.files() == before


class TestCauses:
    def test_an_undefined_variable_hides_no_other_fault(self, site):
        site.hosts["one"].update(
            fractal_slurm_config_content="{{ fractal_lab_config }}",
            fractal_slurm_sudoers_impersonate_users=["root"],
            fractal_slurm_runtime_settings={"slurm_bin": "/x"},
        )
        for playbook in (VALIDATE, SITE):
            output = site.play(playbook).output
            for words in ("'fractal_lab_config' is undefined", "because of uid 0", "slurm_bin: unknown setting"):
                assert words in output
            assert "exactly one of" not in output

    @pytest.mark.parametrize("kind", ["src", "template"])
    def test_nor_does_a_file_that_is_not_there_or_none_at_all(self, site, kind):
        del site.hosts["one"]["fractal_slurm_config_content"]
        site.hosts["one"].update(fractal_slurm_sudoers_impersonate_users=["root"])
        output = site.play(VALIDATE).output
        assert "found none of them" in output
        assert "because of uid 0" in output
        site.hosts["one"][f"fractal_slurm_config_{kind}"] = "gone.yml"
        output = site.play(VALIDATE).output
        assert re.search(rf"the file gone\.yml is not there: looked in .*{site.folder}", output)
        assert "because of uid 0" in output

    def test_a_relative_file_is_looked_for_where_the_site_keeps_its_files(self, site, tmp_path):
        del site.hosts["one"]["fractal_slurm_config_content"]
        site.hosts["one"]["fractal_slurm_config_src"] = "slurm.yml"
        text = yaml.safe_dump(CONFIG)
        inventory = site.folder.parent
        for place in (inventory, inventory / "files", tmp_path):
            place.mkdir(exist_ok=True)
            (place / "slurm.yml").write_text(text)
            assert site.play(VALIDATE, cwd=tmp_path).status == 0
            (place / "slurm.yml").unlink()
        assert site.play(VALIDATE, cwd=tmp_path).status == 2

    def test_a_python_that_is_too_old_is_told_beside_the_other_faults(self, site):
        python = site.path("one", "bin", "python3.6")
        said = "SyntaxError: future feature annotations is not defined"
        python.write_text(f"#!/bin/sh\necho '{said}' >&2\nexit 1\n")
        python.chmod(0o755)
        site.hosts["one"].update(
            ansible_python_interpreter=str(python), fractal_slurm_runtime_settings={"slurm_bin": "/x"}
        )
        outcome = site.play(SITE, "--tags", "runtime,config")
        assert outcome.status == 2
        for words in (f"with the Python {python}: {said}", "ansible_python_interpreter", "slurm_bin: unknown setting"):
            assert words in outcome.output
