# SPDX-License-Identifier: GPL-3.0-or-later
"""What doctor tells people and monitoring: codes that the docs explain, and metrics that Prometheus reads."""

import json
import re
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from fractal_slurm.doctor import checks
from fractal_slurm.doctor.checks import _journals
from fractal_slurm.doctor.findings import Code, Level, failed, passed, warned
from fractal_slurm.doctor.metrics import label
from fractal_slurm.doctor.probe import _clock, _runtime
from hypothesis import given
from journals import RUN, make
from samples import any_texts, run

DOCS = Path(__file__).parents[2] / "docs" / "doctor.md"
SAMPLE = re.compile(r'[a-z_]+(\{[a-z]+="(?:[^"\\\n]|\\[\\"n])*"(,[a-z]+="(?:[^"\\\n]|\\[\\"n])*")*\})? [0-9]+')


class TestCodes:
    def test_are_each_explained_and_none_else(self):
        assert re.findall(r"^## (D[0-9]+)$", DOCS.read_text(), re.M) == [code.value for code in Code]

    def test_lead_to_their_explanation(self):
        assert failed(Code.SLURM, "SLURM", "x").document() == {
            "check": "SLURM", "ok": False, "words": "x", "code": "D11", "level": "failed", "docs": "docs/doctor.md#d11",
        }  # fmt: skip
        assert [found.ok for found in (passed(Code.SLURM, "", ""), warned(Code.SLURM, "", ""))] == [True, True]


class TestCommand:
    @pytest.fixture
    def found(self, monkeypatch, tmp_path):
        monkeypatch.setenv("FRACTAL_SLURM_STATE_DIR", str(tmp_path / "state"))
        findings = []
        monkeypatch.setattr(checks, "examine", lambda *_args, **_kwargs: findings)
        return findings

    @pytest.mark.parametrize(
        ("levels", "code", "strict"),
        [([], 0, 0), ([Level.OK], 0, 0), ([Level.OK, Level.WARNING], 0, 1), ([Level.WARNING, Level.FAILED], 3, 3)],
    )
    def test_exit_codes_tell_the_worst(self, found, levels, code, strict):
        makers = {Level.OK: passed, Level.WARNING: warned, Level.FAILED: failed}
        found += [makers[level](Code.SLURM, "SLURM", "x") for level in levels]
        assert run("doctor")[0] == code
        assert run("doctor", "--strict")[0] == strict
        assert [row["level"] for row in json.loads(run("doctor", "--json")[1])] == levels

    def test_writes_metrics_that_node_exporter_can_read(self, found, tmp_path):
        found += [passed(Code.SLURM, "SLURM", "secret"), failed(Code.SUDO_USER, 'sudo as a"b', "secret")]
        make(tmp_path / "state", state="driven").close()
        file = tmp_path / "x.prom"
        assert run("doctor", "--textfile", file)[0] == 3
        assert file.stat().st_mode & 0o777 == 0o644
        text = file.read_text()
        assert "secret" not in text
        assert "Measure" not in text
        assert r'fractal_slurm_doctor_check{code="D23",check="sudo as a\"b"} 2' in text
        assert "fractal_slurm_doctor_ok 0" in text
        assert 'fractal_slurm_runs{state="interrupted"} 1' in text
        assert 'fractal_slurm_tasks{state="waiting"} 1' in text
        assert all(line.startswith("#") or SAMPLE.fullmatch(line) for line in text.splitlines())
        assert run("doctor", "--textfile", tmp_path / "no" / "x.prom")[0] == 2

    def test_a_probe_needs_user_and_folder(self, found):
        assert run("doctor", "--probe", "--user", "ann")[0] == 2

    @given(any_texts)
    def test_any_name_is_a_label(self, text):
        assert SAMPLE.fullmatch(f'x{{a="{label(text)}"}} 1')


class TestJournals:
    def test_that_wait_for_somebody_are_named(self, tmp_path):
        make(tmp_path, state="driven").close()
        found = {finding.code: finding for finding in _journals(tmp_path)}
        assert found[Code.JOURNALS].level is Level.WARNING
        assert RUN in found[Code.JOURNALS].words
        (tmp_path / "runs" / RUN / "journal.sqlite").write_bytes(b"x" * 5000)
        found = {finding.code: finding for finding in _journals(tmp_path)}
        assert "can't be read" in found[Code.JOURNALS].words

    def test_that_are_done_wait_for_nobody(self, tmp_path):
        make(tmp_path).close()
        assert {finding.code for finding in _journals(tmp_path) if finding.level is Level.OK} >= {Code.JOURNALS}

    @pytest.mark.parametrize(
        ("megabytes", "files", "level"),
        [(10, 10**6, "failed"), (500, 10**6, "warning"), (5_000, 10, "warning"), (5_000, 10**6, "ok")],
    )
    def test_need_room(self, tmp_path, monkeypatch, megabytes, files, level):
        room = SimpleNamespace(f_frsize=10**6, f_bavail=megabytes, f_files=10**7, f_favail=files)
        monkeypatch.setattr(checks.os, "statvfs", lambda _path: room)
        assert next(found.level for found in _journals(tmp_path) if found.code is Code.STATE_SPACE) == level


class TestProbe:
    @pytest.mark.parametrize(
        ("off", "level"), [(0, "ok"), (5, "ok"), (60, "warning"), (900, "failed"), (-900, "failed")]
    )
    def test_clocks(self, off, level):
        assert _clock({"time": int(time.time()) + off}, "n1", time.time() - 2).level == level

    @pytest.mark.parametrize("answer", [{}, {"time": "x"}, {"time": None}])
    def test_a_node_that_says_no_time(self, answer):
        assert _clock(answer, "n1", time.time()).level is Level.WARNING

    def test_another_worker_fails(self, tmp_path):
        (tmp_path / "worker.py").write_text("")
        empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        assert _runtime({"worker": empty}, "n1", str(tmp_path / "worker.py")).ok
        assert not _runtime({"worker": "x"}, "n1", str(tmp_path / "worker.py")).ok
        assert not _runtime({}, "n1", str(tmp_path / "nowhere")).ok
