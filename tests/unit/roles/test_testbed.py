# SPDX-License-Identifier: GPL-3.0-or-later
"""The testbed's script: what it refuses before anything is changed, and the configuration that it writes."""

import importlib.util
import json
import os
import pwd
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "roles/testbed/files/testbed.py"
spec = importlib.util.spec_from_file_location("testbed", SCRIPT)
testbed = importlib.util.module_from_spec(spec)
sys.modules["testbed"] = testbed
spec.loader.exec_module(testbed)


@pytest.fixture
def folder(tmp_path_factory):
    """A folder whose path is short enough for a base."""
    return tmp_path_factory.mktemp("base")


def slurm_conf(**settings):
    files = testbed.Testbed(testbed.Settings(base="/var/lib/nowhere", **settings)).files()
    return files[Path("/var/lib/nowhere/etc/slurm.conf")][0].splitlines()


class TestSettings:
    def test_defaults_are_valid(self):
        assert testbed.Settings().node_names == ["n1", "n2", "n3", "n4"]

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            ({"base": "relative/path"}, "absolute path"),
            ({"base": "/top"}, "at least two folders"),
            ({"base": "/var/lib/a b"}, "letters, digits"),
            ({"base": "/var/lib/../lib"}, "letters, digits"),
            ({"base": "/var/" + "x" * 70}, "at most 70"),
            ({"name": "Big-Name"}, "small letters and digits"),
            ({"nodes": 0}, "from 1 to 50"),
            ({"nodes": "4"}, "must be of type int"),
            ({"accounting": 1}, "must be of type bool"),
            ({"port": 80}, "from 1024"),
            ({"partitions": {}}, "at least one"),
            ({"users": {"Anna": []}}, "'Anna'"),
            ({"users": {"anna": ["unmade"]}}, "unmade, which is not one of the groups"),
            ({"accounts": {"plates": ["anna"]}}, "need accounting"),
        ],
    )
    def test_refuses_in_a_sentence(self, settings, words):
        with pytest.raises(testbed.TestbedError) as caught:
            testbed.Settings(**settings)
        assert words in str(caught.value)
        assert caught.value.exit_code == 2

    def test_tells_all_faults_at_once(self):
        with pytest.raises(testbed.TestbedError) as caught:
            testbed.Settings(nodes=0, cpus=0, name="")
        assert len(caught.value.messages) == 3


class TestReadSettings:
    def test_reads_text_and_file(self, tmp_path):
        (tmp_path / "settings.json").write_text('{"nodes": 2}')
        assert testbed.read_settings('{"nodes": 2}', None) == testbed.read_settings(f"@{tmp_path}/settings.json", None)

    def test_the_base_alone_brings_back_what_was_saved(self):
        # Not pytest's folder: its path grows with the number of runs, over what a testbed takes.
        with tempfile.TemporaryDirectory(dir="/tmp", prefix="base") as base:
            Path(base, "settings.json").write_text(json.dumps({"base": base, "nodes": 7}))
            assert testbed.read_settings(None, base).nodes == 7

    @pytest.mark.parametrize("text", ["{", "[]", "@/nowhere/settings.json"])
    def test_refuses_what_is_no_object(self, text):
        with pytest.raises(testbed.TestbedError):
            testbed.read_settings(text, None)

    def test_names_the_unknown_and_the_known(self):
        with pytest.raises(testbed.TestbedError) as caught:
            testbed.read_settings('{"node": 2}', None)
        assert "unknown: node;" in str(caught.value)
        assert "nodes" in str(caught.value)


class TestSlurmConf:
    def test_one_line_for_all_nodes_with_a_port_each(self):
        (line,) = [line for line in slurm_conf(nodes=3, port=30000) if line.startswith("NodeName=")]
        assert line.startswith("NodeName=n[1-3] ")
        assert "Port=[30011-30013]" in line

    def test_options_are_set_added_and_taken_out(self):
        lines = slurm_conf(slurm_conf={"MinJobAge": "2", "PrivateData": "jobs", "DefMemPerCPU": None})
        assert "MinJobAge=2" in lines
        assert "PrivateData=jobs" in lines
        assert not [line for line in lines if line.startswith("DefMemPerCPU")]

    def test_partitions_replace_the_default_ones(self):
        lines = slurm_conf(partitions={"gpu": {"Nodes": "n1", "MaxTime": "5"}})
        assert [line for line in lines if line.startswith("PartitionName")] == [
            "PartitionName=gpu State=UP Nodes=n1 MaxTime=5"
        ]

    @pytest.mark.parametrize(
        ("own", "address", "kept_to_it"),
        [
            ("127.0.0.1", "127.0.0.1", ["NoInAddrAny,NoCtldInAddrAny"]),
            ("127.0.1.1", "127.0.1.1", ["NoCtldInAddrAny"]),  # srun must listen where steps answer
            ("192.0.2.7", "127.0.0.1", []),
        ],
    )
    def test_steps_can_answer_whatever_address_the_machines_name_has(self, monkeypatch, own, address, kept_to_it):
        monkeypatch.setattr(testbed.socket, "gethostbyname", lambda _name: own)
        lines = slurm_conf()
        assert f"SlurmctldHost=localhost({address})" in lines
        assert [line.partition("=")[2] for line in lines if line.startswith("CommunicationParam")] == kept_to_it

    def test_accounting_only_where_asked_for(self):
        assert not [line for line in slurm_conf() if line.startswith("AccountingStorage")]
        assert "AccountingStorageEnforce=associations,limits,qos,safe" in slurm_conf(accounting=True)


class TestProblems:
    def problems(self, **settings):
        return "\n".join(testbed.Testbed(testbed.Settings(**settings)).problems())

    def test_a_user_that_was_there_before(self):
        name = pwd.getpwuid(0).pw_name
        assert f"there is a user {name} already" in self.problems(users={name: []})

    def test_a_group_that_was_there_before(self):
        assert "there is a group root already" in self.problems(groups=["root"])

    def test_a_port_that_is_taken(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            assert f"port {port} (slurmctld) is taken" in self.problems(base="/var/lib/nowhere", port=port)

    def test_a_folder_of_somebody_else(self, folder):
        (folder / "thesis.tex").touch()
        assert "has files that are not a testbed's" in self.problems(base=str(folder))

    def test_a_folder_that_others_can_write(self, folder):
        folder.chmod(0o777)
        assert f"{folder} can be written by others than root" in self.problems(base=f"{folder}/testbed")


def test_remove_touches_nothing_but_a_testbed(folder):
    (folder / "thesis.tex").touch()
    with pytest.raises(testbed.TestbedError, match="is no testbed"):
        testbed.Testbed(testbed.Settings(base=str(folder))).remove()
    assert (folder / "thesis.tex").exists()


def test_exit_codes_and_output(capsys):
    assert testbed.main(["start", "--check", "--settings", '{"nodes": 0}']) == 2
    assert "testbed: nodes: is 0; must be from 1 to 50." in capsys.readouterr().err
    assert testbed.main(["status", "--base", "/var/lib/nowhere-at-all"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "absent"


INSTALL = """
import importlib.util, os, pathlib, sys
spec = importlib.util.spec_from_file_location("testbed", sys.argv[1])
testbed = importlib.util.module_from_spec(spec)
sys.modules["testbed"] = testbed
spec.loader.exec_module(testbed)
testbed.POLICY = pathlib.Path(sys.argv[2])
testbed.installed_packages = set
testbed.install_packages(["something"])
print("went on")
"""


def heed() -> None:
    """Heed what is ignored under nohup and in the background of a script."""
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)


@pytest.mark.skipif(os.geteuid() != 0, reason="root's rights are needed")
class TestInstalling:
    def start(self, tmp_path):
        """Begin an installation by an apt-get that waits for the file `go`; its policy is there once this returns."""
        (tmp_path / "bin").mkdir()
        apt = tmp_path / "bin" / "apt-get"
        apt.write_text(f"#!/bin/sh\ncd {tmp_path}\ntouch began\nwhile [ ! -e go ]; do sleep 0.02; done\ntouch ended\n")
        apt.chmod(0o755)
        process = subprocess.Popen(
            [sys.executable, "-c", INSTALL, SCRIPT, tmp_path / "policy"],
            env={**os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"},
            stdout=subprocess.PIPE,
            umask=0,
            preexec_fn=heed,
        )
        deadline = time.monotonic() + 20
        while not (tmp_path / "began").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return process

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
    def test_what_asks_it_to_end_waits_and_no_policy_is_left(self, tmp_path, number):
        process = self.start(tmp_path)
        assert oct((tmp_path / "policy").stat().st_mode) == "0o100755"
        process.send_signal(number)
        (tmp_path / "go").touch()
        said = process.communicate(timeout=20)[0]
        assert process.returncode in (-number, 1)  # 1: Python's own way with Ctrl-C
        assert said == b""
        assert (tmp_path / "ended").exists()
        assert not (tmp_path / "policy").exists()

    def test_a_policy_that_a_killed_one_left_is_taken_away_by_the_next(self, tmp_path):
        process = self.start(tmp_path)
        process.kill()
        process.wait()
        (tmp_path / "go").touch()
        assert (tmp_path / "policy").exists()
        (tmp_path / "bin" / "apt-get").unlink()
        (tmp_path / "bin").rmdir()
        (tmp_path / "began").unlink()
        assert self.start(tmp_path).wait(timeout=20) == 0
        assert not (tmp_path / "policy").exists()

    def test_a_policy_of_others_stays(self, tmp_path):
        (tmp_path / "policy").write_text("theirs")
        (tmp_path / "go").touch()
        self.start(tmp_path).wait(timeout=20)
        assert (tmp_path / "policy").read_text() == "theirs"
