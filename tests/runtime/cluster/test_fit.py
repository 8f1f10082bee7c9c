# SPDX-License-Identifier: GPL-3.0-or-later
"""Config files that fit the recorded cluster, and that do not."""

from dataclasses import replace

import pytest
from fractal_slurm.cluster import facts as cluster
from fractal_slurm.cluster import fit
from fractal_slurm.config import file as config_file
from samples import HERE

RECORDED = HERE / "recorded" / "cluster-22.05"
CLUSTER = cluster.parse({path.stem: path.read_text() for path in RECORDED.glob("*.txt")})
BATCHING = {
    "target_cpus_per_job": 2,
    "max_cpus_per_job": 4,
    "target_mem_per_job": 2000,
    "max_mem_per_job": 8000,
    "target_num_jobs": 2,
    "max_num_jobs": 3,
}


def check(default=None, gpu=None, batching=None, users=(), on=CLUSTER):
    data = {
        "default_slurm_config": {"partition": "main", "cpus_per_task": 1, "mem": 100, **(default or {})},
        "batching_config": {**BATCHING, **(batching or {})},
    }
    if gpu is not None:
        data["gpu_slurm_config"] = gpu
    return fit.check(config_file.parse_config(data, source="test"), on, users=users)


def messages(findings, severity):
    return [str(finding) for finding in findings if finding.severity is severity]


def errors(*args, **kwargs):
    return messages(check(*args, **kwargs), fit.Severity.ERROR)


def warnings(*args, **kwargs):
    return messages(check(*args, **kwargs), fit.Severity.WARNING)


class TestCheck:
    def test_finds_nothing_wrong_with_what_fits(self):
        findings = check({"time": "00:30:00", "constraint": "avx2&ib", "gres": "gpu:1"}, users=["anna", "ben"])
        assert messages(findings, fit.Severity.ERROR) == []
        assert messages(findings, fit.Severity.WARNING) == []

    def test_errors_come_first_and_advice_last(self):
        severities = [finding.severity for finding in check({"cpus_per_task": 4, "mem": 9000, "time": "1-00"})]
        assert severities == sorted(severities, key=list(fit.Severity).index)

    def test_advises_on_the_batching(self):
        advice = messages(check(), fit.Severity.ADVICE)
        assert [line for line in advice if "96 tasks: 3 jobs of up to 32 tasks, 4 at a time" in line]
        assert [line for line in advice if "1 task: 1 job of up to 1 task, 1 at a time" in line]
        assert len([line for line in advice if "task: " in line or "tasks: " in line]) == 4


class TestPartition:
    def test_names_the_partitions_that_there_are(self):
        assert errors({"partition": "gone"}) == [
            "$.default_slurm_config.partition: found 'gone'; the cluster anst has down, main, short"
        ]

    def test_warns_where_it_is_not_up(self):
        assert any("is DOWN" in line for line in warnings({"partition": "down"}))

    @pytest.mark.parametrize("value", ["short,main", "main,short", "main,main", "main,", ",short"])
    def test_takes_several_of_which_one_fits(self, value):
        assert errors({"partition": value, "time": "1"}) == []
        assert errors({"partition": "short,main", "time": "30"}) == []
        assert any(
            "'short' allows at most 00:01:00" in line for line in warnings({"partition": value, "time": "30"})
        ) == ("short" in value and "main" in value)

    def test_refuses_several_of_which_none_fits_or_one_is_not_there(self):
        assert len(errors({"partition": "short,main", "time": "2:00:00"})) == 2
        assert "found 'gone'" in errors({"partition": "main,gone"})[0]

    @pytest.mark.parametrize("hidden", ["shows_partitions", "shows_nodes"])
    def test_takes_what_is_hidden_for_unknown(self, hidden):
        blind = replace(CLUSTER, nodes={}, **{hidden: False}, **({"partitions": {}} if "part" in hidden else {}))
        options = {"cpus_per_task": 4, "constraint": "nope", "nodelist": "n99"}
        assert errors(options, on=blind) == []
        assert any("PrivateData" in line for line in warnings(options, on=blind))

    def test_looks_at_the_gpu_section_by_its_own_path(self):
        assert errors(gpu={"partition": "gone"}) == [
            "$.gpu_slurm_config.partition: found 'gone'; the cluster anst has down, main, short"
        ]


class TestNodes:
    @pytest.mark.parametrize(
        ("option", "value", "words"),
        [
            ("cpus_per_task", 5, "it has 4 CPUs, and 5 are asked for"),
            ("mem", "9G", "it has 8000 MB, and 9000 MB are asked for"),
            ("gres", "gpu:3", "it has 2 gpu, and 3 gpu are asked for"),
            ("gres", "gpu:a100:1", "1 gpu:a100 are asked for"),
            ("gpus", "4", "4 gpu are asked for"),
            ("constraint", "skylake", "it has the features avx2, ib, and 'skylake' is asked for"),
        ],
    )
    def test_says_why_the_best_node_falls_short(self, option, value, words):
        batching = {"max_cpus_per_job": 16, "max_mem_per_job": 64000}
        found = errors({option: value}, batching=batching)
        assert len(found) == 1
        assert found[0].startswith(f"$.default_slurm_config.{option}: no node of the partition 'main' fits a task")
        assert words in found[0]

    def test_refuses_unknown_nodes(self):
        assert "$.default_slurm_config.nodelist: no such nodes: n9" in errors({"nodelist": "n[1,9]"})

    def test_refuses_nodes_of_another_partition(self):
        found = errors({"partition": "short", "nodelist": "n2"})
        assert "$.default_slurm_config.nodelist: not in the partition 'short': n2" in found

    @pytest.mark.parametrize("option", ["nodelist", "exclude"])
    @pytest.mark.parametrize("value", ["n[3-1]", "./nodes", "/etc/nodes", "localhost", "n{1,2}", f"n[{'9' * 5000}]"])
    def test_warns_of_a_list_that_it_can_not_read_at_its_own_place(self, option, value):
        assert errors({option: value}) == []
        assert any(line.startswith(f"$.default_slurm_config.{option}: ") for line in warnings({option: value}))

    @pytest.mark.parametrize("option", ["gres", "gpus"])
    @pytest.mark.parametrize("value", ["a:b:c:1", "9" * 5000, "help"])
    def test_warns_of_resources_that_it_can_not_read_at_their_own_place(self, option, value):
        if (option, value) == ("gres", "9" * 5000) or (option, value) == ("gpus", "help"):
            return
        assert errors({option: value}) == []
        assert any(line.startswith(f"$.default_slurm_config.{option}: ") for line in warnings({option: value}))

    def test_takes_a_node_of_which_it_knows_nothing_for_one_that_may_fit(self):
        odd = {name: replace(node, unknown=("cpus", "memory_mb", "gres")) for name, node in CLUSTER.nodes.items()}
        options, batching = {"cpus_per_task": 4, "mem": 9000, "gres": "gpu:9"}, {"max_mem_per_job": 9000}
        assert errors(options, batching=batching, on=replace(CLUSTER, nodes=odd)) == []

    def test_refuses_when_all_are_excluded(self):
        assert any("leave no node" in line for line in errors({"exclude": "n[1-3]"}))


class TestTime:
    def test_refuses_more_than_the_partition_allows(self):
        assert errors({"time": "02:00:00"}) == [
            "$.default_slurm_config.time: found '02:00:00'; the partition 'main' allows at most 01:00:00"
        ]

    def test_refuses_more_than_a_users_qos_allows(self):
        assert errors({"time": "00:45:00"}, users=["ben"]) == [
            "$.default_slurm_config.time: found '00:45:00'; the QOS 'small' of ben allows at most 00:30:00"
        ]


class TestWhoseLimit:
    """A limit refuses only whom it applies to, and its true source is named."""

    def limited(self, **changes):
        small = replace(CLUSTER.qos["small"], **changes)
        return replace(CLUSTER, qos={**CLUSTER.qos, "small": small})

    def test_a_qos_that_lets_nothing_run_stops_its_own_users_alone(self):
        zero = self.limited(max_wall_s=0)
        assert errors({"time": "1"}, users=["anna"], on=zero) == []
        assert errors({"time": "1"}, users=["ben"], on=zero) == [
            "$.default_slurm_config.time: found '1'; the QOS 'small' of ben allows at most 00:00:00"
        ]
        assert fit.longest_walltime(zero, partition="main", user="anna").option == "MaxTime"
        assert str(fit.longest_walltime(zero, partition="main", user="ben")) == (
            "the QOS 'small' of ben allows 00:00:00 (MaxWall)"
        )

    def test_a_qos_comes_before_the_association_and_may_lift_the_partitions_limit(self):
        lifted = self.limited(max_wall_s=86_400, flags=("PartitionTimeLimit",))
        assert errors({"time": "12:00:00"}, users=["ben"], on=lifted) == []
        assert fit.walltime_limit(lifted, partition="main", user="ben") == 86_400
        assert errors({"time": "12:00:00"}, users=["anna"], on=lifted) != []
        assert warnings({"time": "12:00:00"}, on=lifted) != []
        assert errors({"time": "12:00:00"}, on=lifted) == []


class TestWalltimeLimit:
    def test_is_the_partition_s(self):
        assert fit.walltime_limit(CLUSTER, partition="main", user="anna") == 3600
        assert fit.walltime_limit(CLUSTER, partition="short", user="anna") == 60
        assert fit.walltime_limit(CLUSTER, partition="down", user="nobody") is None

    def test_is_the_longest_of_several_partitions(self):
        assert fit.walltime_limit(CLUSTER, partition="short,main", user="anna") == 3600
        assert fit.walltime_limit(CLUSTER, partition="short,down", user="nobody") is None

    def test_heeds_the_limits_of_user_and_qos(self):
        ben = next(entry for entry in CLUSTER.associations if entry.user == "ben")
        small = replace(CLUSTER.qos["small"], max_wall_s=1200)
        own = tuple(replace(e, max_wall_s=1500) if e is ben else e for e in CLUSTER.associations)
        limited = replace(CLUSTER, qos={**CLUSTER.qos, "small": small}, associations=own)
        assert fit.walltime_limit(limited, partition="main", user="ben") == 1200
        assert fit.walltime_limit(limited, partition="main", user="ben", qos="normal") == 1500
        assert fit.walltime_limit(limited, partition="main", user="anna", qos="small") == 1200


class TestAccount:
    def test_refuses_users_without_one_where_accounts_are_enforced(self):
        assert errors(users=["zoe"]) == [
            "$.default_slurm_config.account: zoe has no account, and the cluster takes jobs of accounts only"
        ]

    def test_refuses_an_account_that_a_user_does_not_have(self):
        assert errors({"account": "proj2"}, users=["anna"]) == [
            "$.default_slurm_config.account: found 'proj2'; anna has proj1"
        ]

    def test_warns_where_slurmdbd_shows_an_account_its_own_associations_only(self):
        blind = replace(CLUSTER, shows_accounts=False)
        for options, users in (({}, ["zoe"]), ({"account": "proj2"}, ["anna"])):
            assert errors(options, users=users, on=blind) == []
            assert any("that slurmdbd shows this account" in line for line in warnings(options, users=users, on=blind))

    def test_finds_nothing_wrong_where_slurm_needs_no_account(self):
        free = replace(CLUSTER, accounting_enforced=())
        assert errors({"account": "proj2"}, users=["anna", "zoe"], on=free) == []


class TestWhatIsHidden:
    """What SLURM does not show is unknown, and unknown is no error."""

    def test_a_partition_that_is_not_shown_where_some_are(self):
        private = replace(CLUSTER, private_data=("accounts", "partitions"))
        assert errors({"partition": "secret"}) != []
        assert errors({"partition": "secret"}, on=private) == []
        assert any(
            "'secret'" in line and "PrivateData" in line for line in warnings({"partition": "secret"}, on=private)
        )

    @pytest.mark.parametrize(
        "options",
        [{"constraint": "far"}, {"nodelist": "c9"}, {"gres": "gpu:9"}],
    )
    def test_nodes_in_a_cloud_that_are_powered_down(self, options):
        main = CLUSTER.partitions["main"]
        partitions = {**CLUSTER.partitions, "main": replace(main, total_nodes=main.total_nodes + 8)}
        cloud = replace(CLUSTER, partitions=partitions)
        assert errors(options) != []
        assert errors(options, on=cloud) == []
        assert any("nodes of 'main'" in line for line in warnings(options, on=cloud))
        assert errors(options, on=replace(cloud, nodes={"else": replace(CLUSTER.nodes["n1"], partitions=())})) == []

    @pytest.mark.parametrize(
        ("enforced", "heeded"),
        [
            (("associations", "limits"), True),
            (("safe",), True),
            (("all",), True),
            (("associations", "qos"), False),
            ((), False),
        ],
    )
    def test_limits_of_accounts_where_slurm_heeds_none(self, enforced, heeded):
        qos = {name: replace(entry, max_wall_s=60) for name, entry in CLUSTER.qos.items()}
        site = replace(CLUSTER, qos=qos, accounting_enforced=enforced)
        assert bool(errors({"time": "00:30:00"}, users=["anna"], on=site)) is heeded
        assert (
            any("submitted jobs" in line for line in warnings(batching={"max_num_jobs": 10}, users=["ben"], on=site))
            is heeded
        )

    @pytest.mark.parametrize(("version", "severe"), [("22.05.8", True), ("24.11.3", False), ("25.05.0", False)])
    def test_accounts_below_one_that_a_partition_allows(self, version, severe):
        main = replace(CLUSTER.partitions["main"], allow_accounts=("parent",))
        site = replace(CLUSTER, version=version, partitions={**CLUSTER.partitions, "main": main})
        assert any("'main' is for only parent" in line for line in errors({"account": "proj1"}, on=site)) is severe


class TestBatching:
    def test_warns_of_jobs_larger_than_a_node(self):
        found = warnings(batching={"max_cpus_per_job": 8, "max_mem_per_job": "16G"})
        assert any("max_cpus_per_job: found 8; the largest node of 'main' has 4 CPUs" in line for line in found)
        assert any("max_mem_per_job: found 16000" in line for line in found)

    def test_warns_of_more_jobs_than_a_user_may_submit(self):
        found = warnings(batching={"max_num_jobs": 10}, users=["ben"])
        assert any("the account 'proj1' allows ben 3 submitted jobs" in line for line in found)
        assert any("the QOS 'small' allows ben 5 submitted jobs" in line for line in found)

    def test_refuses_a_task_larger_than_a_job(self):
        assert any(
            "over max_cpus_per_job" in line
            for line in errors({"cpus_per_task": 4}, batching={"target_cpus_per_job": 1, "max_cpus_per_job": 2})
        )


class TestSatisfies:
    @pytest.mark.parametrize(
        ("constraint", "expected"),
        [
            ("a", True),
            ("c", False),
            ("a&b", True),
            ("a&c", False),
            ("a|c", True),
            ("c|d", False),
            ("(a|c)&b", True),
            ("(c|d)&b", False),
            ("a,b", True),
            ("[a|c]", True),
            ("[c|d]", False),
            ("a*2&c*2", True),
            ("(a", True),
            ("c*2&d*1", True),
            ("a b", True),
            ("&a", True),
            ("a&(b|c)&((a))", True),
            ("a&(c|d)", False),
            ("c|d|b", True),
            ("7z|c", False),
            ("cpu:amd", False),
            ("!c", False),
            ("(" * 5000 + "a", True),
            ("(" * 5000 + "c" + ")" * 5000, False),
        ],
    )
    def test_understands_and_or_and_parentheses(self, constraint, expected):
        assert fit.satisfies(("a", "b"), constraint) is expected
