# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading what SLURM's commands print, from recorded output and in the forms that are documented."""

import re

import pytest
from fractal_slurm.cluster import facts as cluster
from fractal_slurm.errors import ClusterError, FractalSlurmError
from samples import HERE

RECORDED = HERE / "recorded"
VERSIONS = sorted(path.name for path in RECORDED.glob("cluster-*"))


def recorded(version):
    return {path.stem: path.read_text() for path in (RECORDED / version).glob("*.txt")}


class TestParse:
    @pytest.mark.parametrize("version", VERSIONS)
    def test_reads_each_recorded_version(self, version):
        found = cluster.parse(recorded(version))
        assert found.version.startswith(version.removeprefix("cluster-"))
        assert set(found.partitions) == {"main", "short", "down"}
        assert found.partitions["main"].is_default
        assert found.partitions["main"].max_time_s == 3600
        assert found.partitions["main"].default_time_s == 600
        assert found.partitions["short"].max_time_s == 60
        assert found.partitions["short"].default_time_s is None
        assert found.partitions["down"].state == "DOWN"
        assert found.partitions["down"].max_time_s is None
        assert [node.name for node in found.nodes_of("down")] == ["n2"]
        node = found.nodes["n1"]
        assert (node.cpus, node.memory_mb, node.gres, node.features) == (4, 8000, {"gpu": 2}, ("avx2", "ib"))
        assert node.partitions == ("main", "short")
        assert node.is_up
        assert (found.max_array_size, found.max_job_count) == (501, 10000)
        assert found.max_script_size == 4 * 1024 * 1024
        assert found.private_data == ()

    @pytest.mark.parametrize("version", VERSIONS)
    def test_reads_accounts_and_limits(self, version):
        found = cluster.parse(recorded(version))
        if not found.has_accounting:
            pytest.skip("recorded without accounting")
        ben = next(entry for entry in found.associations if entry.user == "ben")
        assert (ben.account, ben.qos, ben.default_qos, ben.max_submit) == ("proj1", ("small",), "small", 3)
        assert ben.max_wall_s == 86_400
        assert found.qos["small"].max_submit_per_user == 5
        assert any(entry.account == "proj1" and entry.user == "" for entry in found.associations)

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            ("none", False),
            ("jobs", True),
            ("accounts,jobs,usage", True),
            ("accounts, Jobs", True),
            ("nodes", False),
            ("", False),
        ],
    )
    def test_knows_whether_jobs_are_hidden(self, value, expected):
        outputs = recorded(VERSIONS[0])
        outputs["config"] = re.sub(r"(?m)^PrivateData .*$", f"PrivateData = {value}", outputs["config"])
        assert cluster.parse(outputs).hides_jobs is expected

    @pytest.mark.parametrize(("line", "expected"), [("KillWait = 5 sec", 5), ("KillWait = 45", 45), ("", 30)])
    def test_reads_how_long_a_job_has_to_end(self, line, expected):
        outputs = recorded(VERSIONS[0])
        outputs["config"] = re.sub(r"(?m)^KillWait .*$", line, outputs["config"])
        assert cluster.parse(outputs).kill_wait_s == expected

    def test_names_the_command_that_gave_nothing(self):
        with pytest.raises(ClusterError, match=r"no output of scontrol show config"):
            cluster.parse({"config": "", "partitions": "PartitionName=a"})

    def test_reads_a_limit_of_zero_and_takes_an_unreadable_one_for_unknown(self):
        outputs = recorded("cluster-22.05")
        outputs["qos"] = (
            "zero|||||00:00:00|\nodd||||soon|\nlong|||||1-00:00:00|DenyOnLimit,PartitionTimeLimit\n".replace(
                "|||||", "||||"
            )
        )
        found = cluster.parse(outputs).qos
        assert (found["zero"].max_wall_s, found["odd"].max_wall_s, found["long"].max_wall_s) == (0, None, 86_400)
        assert found["long"].flags == ("DenyOnLimit", "PartitionTimeLimit")

    @pytest.mark.parametrize("text", ["abc", "²", "1:2:3:4", "9" * 5000, "-1", "", "UNLIMITED"])
    def test_takes_a_time_that_is_none_for_no_limit(self, text):
        assert cluster.parse_partition(f"PartitionName=a MaxTime={text} State=UP").max_time_s is None

    def test_leaves_out_the_accounts_of_other_clusters(self):
        outputs = recorded("cluster-22.05")
        name = cluster.parse(outputs).name
        rows = [f"lab|ann||normal||{limit}||||{where}" for limit, where in ((1, "other"), (2, name), (3, ""))]
        outputs["associations"] = "\n".join(rows)
        outputs["accounts"] = ""
        assert [entry.max_submit for entry in cluster.parse(outputs).associations] == [2, 3]

    @pytest.mark.parametrize(
        ("private", "expected"), [("none", True), ("accounts,users", False), ("jobs", True), ("users", False)]
    )
    def test_knows_whether_slurmdbd_shows_accounts(self, private, expected):
        outputs = recorded("cluster-22.05")
        outputs["accounting_config"] = (
            f"PrivateData = accounts,users\n\nSlurmDBD configuration:\nDbdPort = 1\nPrivateData    = {private}\n"
        )
        assert cluster.parse(outputs).shows_accounts is expected

    def test_takes_what_is_hidden_for_unknown(self):
        found = cluster.parse({"config": "SLURM_VERSION = 22.05.8", "partitions": "No partitions in the system\n"})
        assert (found.shows_partitions, found.shows_nodes) == (False, False)

    def test_refuses_what_is_not_scontrol_s(self):
        outputs = {"config": "hello = world", "partitions": "PartitionName=a", "nodes": "NodeName=a"}
        with pytest.raises(ClusterError, match="SLURM_VERSION"):
            cluster.parse(outputs)

    def test_goes_without_accounting(self):
        outputs = {name: text for name, text in recorded("cluster-22.05").items() if name in cluster.COMMANDS}
        assert cluster.parse(outputs).associations is None

    def test_reads_max_script_size(self):
        outputs = recorded("cluster-22.05")
        outputs["config"] = re.sub(
            r"SchedulerParameters.*", "SchedulerParameters = bf_interval=1,max_script_size=8388608", outputs["config"]
        )
        assert cluster.parse(outputs).max_script_size == 8_388_608


class TestNode:
    @pytest.mark.parametrize(
        ("state", "is_up"),
        [
            ("IDLE", True),
            ("MIXED", True),
            ("ALLOCATED", True),
            ("IDLE+CLOUD+POWERED_DOWN", True),
            ("DOWN*", False),
            ("IDLE+DRAIN", False),
            ("DOWN*+DRAIN", False),
            ("IDLE+NOT_RESPONDING", False),
            ("UNKNOWN", False),
        ],
    )
    def test_knows_whether_it_is_up(self, state, is_up):
        assert cluster.Node("n1", state, 1, 1).is_up is is_up

    def test_leaves_out_what_is_set_aside_for_the_system(self):
        node = cluster.parse_node("NodeName=n1 CPUEfctv=30 CPUTot=32 RealMemory=64000 MemSpecLimit=4000 State=IDLE")
        assert (node.cpus, node.memory_mb) == (30, 60_000)

    def test_reads_values_with_blanks(self):
        line = "NodeName=n1 OS=Linux 6.1 #1 SMP State=DOWN Reason=disk is full [root@2026-01-01T00:00:00]"
        node = cluster.parse_node(line)
        assert node.state == "DOWN"
        assert node.reason == "disk is full [root@2026-01-01T00:00:00]"

    @pytest.mark.parametrize("number", ["9" * 5000, "²", "many", ""])
    def test_takes_numbers_that_are_none_for_unknown(self, number):
        node = cluster.parse_node(f"NodeName=a CPUTot={number} RealMemory={number} Gres=gpu:a:b:{number} State=IDLE")
        assert (node.cpus, node.memory_mb, node.gres) == (0, 0, {})
        assert node.unknown == ("gres", "cpus", "memory_mb")

    def test_reads_a_line_of_blanks_in_no_time(self):
        line = "NodeName=a" + " " * 200_000 + "b State=IDLE"
        assert cluster.parse_node(line).state == "IDLE"


class TestParseGres:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("(null)", {}),
            ("", {}),
            ("gpu", {"gpu": 1}),
            ("gpu:2", {"gpu": 2}),
            ("gpu:a100:4(S:0-1)", {"gpu": 4, "gpu:a100": 4}),
            ("gpu:a100:2,gpu:v100:1,shard:8", {"gpu": 3, "gpu:a100": 2, "gpu:v100": 1, "shard": 8}),
            ("gres/gpu:2", {"gpu": 2}),
            ("gres/gpu=2", {"gpu": 2}),
            ("bandwidth:4K", {"bandwidth": 4096}),
            ("gres:gpu:2", {"gpu": 2}),
        ],
    )
    def test_counts_by_name_and_type(self, text, expected):
        assert cluster.parse_gres(text) == expected

    @pytest.mark.parametrize("text", ["a:b:c:1", "gpu:" + "9" * 5000, ":1", "gpu:99999999999999999999"])
    def test_refuses_what_is_none(self, text):
        with pytest.raises(FractalSlurmError, match="name:type:count") as caught:
            cluster.parse_gres(text)
        assert len(str(caught.value)) < 300


class TestExpandHostlist:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("n1", ["n1"]),
            ("n1,n2", ["n1", "n2"]),
            ("n[1-3]", ["n1", "n2", "n3"]),
            ("gpu[01-02,7],login", ["gpu01", "gpu02", "gpu7", "login"]),
            ("r[1-2]n[3-4]", ["r1n3", "r1n4", "r2n3", "r2n4"]),
            ("n[1-2]-ib", ["n1-ib", "n2-ib"]),
        ],
    )
    def test_names_each_node(self, text, expected):
        assert cluster.expand_hostlist(text) == expected

    @pytest.mark.parametrize(
        "text",
        [
            "", "n[a-b]", "n[3-1]", "n[1-", "n[1-9999999]", "n[²-3]", f"n[{'9' * 5000}]", "a[1-99999],a[1-99999]",
            ",".join(["a[1-99999]"] * 4000), "a[1-400]b[1-400]", "a[1-60000,1-60000]",
        ],
    )  # fmt: skip
    def test_refuses_what_is_none(self, text):
        with pytest.raises(FractalSlurmError) as caught:
            cluster.expand_hostlist(text)
        assert len(str(caught.value)) < 400

    @pytest.mark.parametrize(
        "text", ["n" * 50_000 + "[1-90000]", "n[1-90000]" + "n" * 50_000, "n" + "[1,22]" * 14 + "x" * 255]
    )
    def test_bounds_the_length_of_names_before_it_makes_them(self, text):
        with pytest.raises(FractalSlurmError, match="a name has over 255 characters"):
            cluster.expand_hostlist(text)
