# SPDX-License-Identifier: GPL-3.0-or-later
"""The unit of a fractal-server: what our drop-in says, where it would not reach it, and when a restart is due."""

from __future__ import annotations

import pytest
from ansible_collections.fractal.slurm.plugins.module_utils import systemd as systemd_units
from ansible_collections.fractal.slurm.plugins.module_utils.commands import Answer
from ansible_collections.fractal.slurm.plugins.modules import server_engine

from .test_service_environment import Failed, Module, Systemd

START = (
    "{ path=/opt/fs/bin/gunicorn ; argv[]=/opt/fs/bin/gunicorn fractal_server.main:app --bind 127.0.0.1:8000 %s; "
    "ignore_errors=no ; start_time=[n/a] ; stop_time=[n/a] ; pid=0 ; code=(null) ; status=0/0 }"
)


@pytest.fixture
def systemd(monkeypatch, tmp_path):
    systemd = Systemd(ExecStart=START % "", Environment="", EnvironmentFiles="")
    monkeypatch.setattr(systemd_units, "run", systemd.run)
    monkeypatch.setattr(systemd_units, "UNIT_FOLDER", str(tmp_path / "system"))
    monkeypatch.setattr(server_engine.os, "geteuid", lambda: 0)
    (tmp_path / "system").mkdir()
    return systemd


def service(**params):
    return server_engine.Service(Module(**{"unit": "fractal", "environment": {}, "restart": True, **params}))


class TestStart:
    @pytest.mark.parametrize(
        ("state", "words"),
        [
            (
                {"ExecStart": "{ path=/x ; argv[]=/opt/fs/bin/fractalctl start ; x=y }"},
                "does not start gunicorn, but `/opt",
            ),
            (
                {"ExecStart": START % "-c /etc/g.py "},
                "a configuration of its own: add `--config python:fractal_slurm_server",
            ),
            ({"ExecStart": START % "--config=/etc/g.py "}, "a configuration of its own"),
            ({"Environment": "A=b GUNICORN_CMD_ARGS=--workers=4"}, "has GUNICORN_CMD_ARGS already"),
        ],
    )
    def test_that_a_drop_in_would_not_reach_is_a_fault(self, systemd, state, words):
        systemd.state.update(state)
        (fault,) = service().faults()
        assert words in fault
        assert "fractal_slurm_server_engine_unit" in fault

    def test_an_environment_file_that_would_win_is_a_fault(self, systemd, tmp_path):
        file = tmp_path / "server.env"
        file.write_text("A=b\n")
        systemd.state["EnvironmentFiles"] = f"{file} (ignore_errors=no)"
        assert service().faults() == []
        file.write_text("GUNICORN_CMD_ARGS=--workers 2\n")
        assert f"{file} sets GUNICORN_CMD_ARGS" in service().faults()[0]

    def test_our_own_drop_in_is_none(self, systemd):
        service().tell()
        systemd.state["Environment"] = "GUNICORN_CMD_ARGS=--config python:fractal_slurm_server.gunicorn_conf"
        assert service().faults() == []

    def test_a_unit_must_be_there(self, systemd):
        systemd.state["LoadState"] = "not-found"
        assert "systemd knows no unit fractal.service" in service().faults()[0]
        assert service(unit="").faults() == []

    def test_a_systemd_that_stops_answering_is_a_fault(self, systemd, monkeypatch):
        monkeypatch.setattr(
            systemd_units, "unit_faults", lambda *_names, **_options: []
        )  # the first question went well
        monkeypatch.setattr(systemd_units, "run", lambda _argv, timeout: Answer(1, "", "Connection reset by peer"))
        (fault,) = service().faults()
        assert "systemd on this host can't be asked for fractal.service: Connection reset by peer" in fault


class TestDropIn:
    def test_says_what_gunicorn_reads(self, systemd, tmp_path):
        assert service(environment={"FRACTAL_SLURM_ENGINE": "off"}).tell()["changed"]
        text = (tmp_path / "system" / "fractal.service.d" / "fractal-slurm-engine.conf").read_text()
        assert text.splitlines()[1:] == [
            "[Service]",
            'Environment="FRACTAL_SLURM_ENGINE=off"',
            'Environment="GUNICORN_CMD_ARGS=--config python:fractal_slurm_server.gunicorn_conf"',
        ]
        assert systemd.calls == [["daemon-reload"]]
        assert not service(environment={"FRACTAL_SLURM_ENGINE": "off"}).tell()["changed"]

    def test_is_removed_with_its_folder(self, systemd, tmp_path):
        service().tell()
        assert service().forget()["changed"]
        assert list((tmp_path / "system").iterdir()) == []
        assert not service().forget()["changed"]

    @pytest.mark.parametrize(
        ("environment", "words"),
        [
            ({"A B": "c"}, "the name of an environment variable is allowed"),
            ({"A": True}, "found True; text in quotes"),
            ({"A": "b\nExecStart=/bin/sh"}, "text in one line"),
            ({"GUNICORN_CMD_ARGS": "--workers 2"}, "the role sets it"),
            ({"FRACTAL_SLURM_ENGINE": "no"}, "found 'no'; allowed are on, if-supported, off"),
        ],
    )
    def test_takes_no_other_variables(self, environment, words):
        (fault,) = server_engine.environment_faults(environment)
        assert words in fault
        assert server_engine.environment_faults({"A_1": "any text", "FRACTAL_SLURM_ENGINE": "Off"}) == []


class TestRestart:
    def test_is_due_after_a_change_and_once(self, systemd):
        assert service().restart(True)
        assert systemd.restarts == [["restart", "fractal.service"]]
        assert not service().restart(False, [1.0])

    def test_is_made_up_for(self, systemd):
        assert service().restart(False, [10.0**10])

    def test_a_stopped_server_stays_so(self, systemd):
        systemd.state["ActiveState"] = "inactive"
        assert not service().restart(True)

    def test_can_be_left_to_the_site(self, systemd):
        assert not service(restart=False).restart(True)
        assert not service(unit="").restart(True)

    def test_that_fails_is_told_with_its_words(self, systemd):
        systemd.fails = True
        with pytest.raises(Failed, match=r"systemctl restart fractal\.service failed: Job for"):
            service().restart(True)
