# SPDX-License-Identifier: GPL-3.0-or-later
"""What verify makes of the answers that it gets."""

from __future__ import annotations

import json

import pytest
from ansible_collections.fractal.slurm.plugins.module_utils.commands import Answer
from ansible_collections.fractal.slurm.plugins.modules import verify_deployment as verify


class TestConfigPartitions:
    @pytest.mark.parametrize(
        ("config", "expected"),
        [
            (
                {"default_slurm_config": {"partition": "main"}, "gpu_slurm_config": {"partition": "gpu"}},
                ["main", "gpu"],
            ),
            ({"default_slurm_config": {"partition": "main"}, "gpu_slurm_config": None}, ["main"]),
            ({"default_slurm_config": {"partition": "main"}, "gpu_slurm_config": {"partition": None}}, ["main"]),
            ({"default_slurm_config": {"partition": "main"}, "gpu_slurm_config": {"partition": "main"}}, ["main"]),
            ({"default_slurm_config": None}, []),
            ({"default_slurm_config": {"partition": ["a"]}, "gpu_slurm_config": [1]}, []),
            ([], []),
            (None, []),
            ("main", []),
        ],
    )
    def test_reads_whatever_a_file_holds(self, config, expected):
        assert verify.config_partitions(config) == expected


class TestJudgeProbe:
    def judged(self, report, out="{}", err=""):
        return verify.judge_probe(Answer(0, out, err), report, "anna", 1001)

    def report(self, result, **summary):
        return {"tasks": [{"result": result, "reason": "exit code 1"}], "summary": {"succeeded": 1, **summary}}

    def test_says_who_ran_it_where(self):
        ok, words = self.judged(self.report({"uid": "1001", "host": "n1"}, wall_s=1.26, sudo_calls=3))
        assert (ok, words) == (True, "ran as anna on n1 in 1.3 s, 3 sudo calls")

    def test_knows_another_user(self):
        assert self.judged(self.report({"uid": "1002", "host": "n1"}))[0] is False

    @pytest.mark.parametrize("result", [None, {}, [], "anna", 7])
    def test_says_why_it_did_not_run(self, result):
        ok, words = self.judged(self.report(result, succeeded=0))
        assert (ok, words) == (False, "the probe did not run: exit code 1")

    @pytest.mark.parametrize("report", [{}, {"tasks": []}, {"tasks": None}, {"tasks": [None]}, {"summary": []}])
    def test_has_no_words_where_it_knows_nothing(self, report):
        assert self.judged(report) == (False, None)

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"run_id": 7}', "null", "nonsense"])
    def test_reads_whatever_the_command_prints(self, text):
        assert verify.report_of(Answer(1, text, ""), lambda _run_id: {"tasks": []}) == {}

    def test_reads_the_report_of_the_run(self):
        report = verify.report_of(Answer(0, json.dumps({"run_id": "r1"}), ""), lambda run_id: {"id": run_id})
        assert report == {"id": "r1", "summary": {"run_id": "r1"}}


class TestWords:
    """A user writes the result of their own probe."""

    def checks(self, words, monkeypatch):
        monkeypatch.setattr(verify.impersonation, "Rights", lambda *_: None)
        verification = verify.Verification({}, None, True)
        verification.add("probe job", "anna in main", False, words)
        return verification.checks

    @pytest.mark.parametrize("end", ["\n", "\r", "\u2028", "\x85", "\x1b[2K", "\x0b"])
    def test_of_others_forge_no_line(self, end, monkeypatch):
        report = {"tasks": [{"result": {"uid": "7", "host": end + "ok    refused  all"}}], "summary": {"succeeded": 1}}
        _ok, words = verify.judge_probe(Answer(0, "{}", ""), report, "anna", 1001)
        (row,) = verify.table(self.checks(words, monkeypatch))
        assert row.isprintable()
        assert row.startswith("FAULT  probe job")

    def test_of_any_length_are_cut(self, monkeypatch):
        (row,) = verify.table(self.checks("x" * 1_000_000, monkeypatch))
        assert len(row) < 3000


class TestChooseNodes:
    told = "\n".join(
        [
            "c1|main|idle|c1|10.0.0.1",
            "c1|gpu|idle|c1|10.0.0.1",
            "c2|long|idle|c2.site|c2",
            "c3|main|allocated|c3|c3",
            "n4|main|mixed|Big4|big4.site",
            "c5|main|down*|c5|c5",
            "a line that is none",
        ]
    )

    def test_every_node_wherever_it_is(self):
        chosen = verify.choose_nodes(self.told, None, ["main"])
        assert [entry[:2] for entry in chosen] == [
            ("c1", "main"),
            ("c2", "long"),
            ("c3", "main"),
            ("c5", "main"),
            ("n4", "main"),
        ]
        assert [name for name, _partition, why_not in chosen if why_not] == ["c5"]

    @pytest.mark.parametrize(
        ("hosts", "expected"),
        [
            ({"c1": ["c1", "/usr/bin/python3.11"]}, [("c1", "gpu", None)]),
            ({"10.0.0.1": ["", ""]}, [("c1", "gpu", None)]),
            ({"somewhere": ["c1.domain", ""]}, [("c1", "gpu", None)]),
            ({"big4": []}, [("n4", "main", None)]),
            ({"c2.site": ["c2", ""]}, [("c2", "long", "it is in none of the partitions that are probed")]),
            ({"c3": ["c3", ""]}, [("c3", "main", "the node is allocated")]),
            ({"login": ["login1", ""]}, []),
            ({"10.0.0.9": ["", ""]}, []),
        ],
    )
    def test_hosts_that_are_nodes_with_room(self, hosts, expected):
        assert verify.choose_nodes(self.told, hosts, ["gpu", "main"]) == expected


class TestJudgePythons:
    def test_names_another_python_and_a_missing_one(self):
        hosts = {"c1": ("c1", "/usr/bin/python3.11"), "c2": ["c2", "/usr/bin/python3.13"], "c3": ["c3", ""], "c4": None}
        found = verify.judge_pythons(hosts, "/usr/bin/python3.11")
        assert [(host, ok) for host, ok, _words in found] == [("c1", True), ("c2", True), ("c3", False), ("c4", False)]
        assert "/usr/bin/python3.13, and this host has /usr/bin/python3.11" in found[1][2]
