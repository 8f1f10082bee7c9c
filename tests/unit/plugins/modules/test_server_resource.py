# SPDX-License-Identifier: GPL-3.0-or-later
"""Resources of fractal-server: what is compared, written and refused, with stand-ins of its API and its Python."""

from __future__ import annotations

import json
import os

import pytest
from ansible_collections.fractal.slurm.plugins.module_utils import fractal_server
from ansible_collections.fractal.slurm.plugins.modules import server_resource

from ..http_standin import StandIn

# As fractal-server 2.18.5 and 2.26.0 tell it: with null for what is not set, and defaults of their own.
KEPT = {
    "default_slurm_config": {
        "partition": "main",
        "cpus_per_task": 1,
        "mem": 1000,
        "time": None,
        "extra_lines": [],
        "shebang_line": "#!/bin/sh",
        "use_mem_per_cpu": False,
    },
    "gpu_slurm_config": None,
    "batching_config": {"target_num_jobs": 4, "max_num_jobs": 4},
    "user_local_exports": {},
}
WANTED = {
    "default_slurm_config": {"partition": "main", "cpus_per_task": 1, "mem": 1000},
    "batching_config": {"target_num_jobs": 4, "max_num_jobs": 4},
}


def resource(**values):
    return {
        "id": 7,
        "name": "cluster",
        "type": "slurm_sudo",
        "timestamp_created": "2026-11-26T20:16:14Z",
        "host": None,
        "jobs_poll_interval": 5,
        "jobs_runner_config": KEPT,
        **values,
    }


class Server(StandIn):
    """The part of fractal-server's API that is used."""

    def __init__(self):
        super().__init__()
        self.resources = [resource()]
        self.refusal = None

    def answer(self, method, path, body):
        if self.refusal:
            return self.refusal
        if path == "/auth/token/login/":
            good = "password=right" in body
            return (200, {"access_token": "got"}) if good else (400, {"detail": "LOGIN_BAD_CREDENTIALS"})
        if method == "GET":
            return 200, self.resources
        if method == "DELETE":
            self.resources = []
            return 204, b""
        entry = {**json.loads(body), "id": 7}
        self.resources = [entry]
        return 200, entry

    @property
    def writes(self):
        return [
            (method, path, json.loads(body)) for method, path, _token, body in self.calls if method in ("PUT", "POST")
        ]


@pytest.fixture
def server():
    server = Server()
    yield server
    server.close()


class Ended(Exception):
    """What the module said at its end."""


class Module:
    """The part of AnsibleModule that is used."""

    def __init__(self, check_mode=False, **params):
        connection = {name: option.get("default") for name, option in fractal_server.CONNECTION_SPEC.items()}
        self.params = {
            **connection,
            "name": "cluster",
            "state": "present",
            "resource": {},
            "content": json.dumps(WANTED),
            "known_faults": [],
            **params,
        }
        self.check_mode = check_mode
        self.warnings = []

    def warn(self, text):
        self.warnings.append(text)

    def fail_json(self, **result):
        raise Ended(result["msg"])


def keep(server, check_mode=False, **params):
    module = Module(check_mode, api_url=server.url, token="given", **params)
    connected = fractal_server.connect(module.params)
    return {**server_resource.keep(module, connected, connected.resources()), "warnings": module.warnings}


class TestKeep:
    def test_what_means_the_same_is_no_change(self, server):
        result = keep(server)
        assert not result["changed"]
        assert result["diff"]["before"] == result["diff"]["after"]
        assert server.writes == []

    def test_a_change_keeps_all_other_values(self, server):
        wanted = {**WANTED, "user_local_exports": {"CELLPOSE": "cellpose"}}
        result = keep(server, content=json.dumps(wanted))
        assert result["changed"]
        assert not result["warnings"]
        ((method, path, body),) = server.writes
        assert (method, path) == ("PUT", "/admin/v2/resource/7/")
        assert body == {
            "name": "cluster",
            "type": "slurm_sudo",
            "host": None,
            "jobs_poll_interval": 5,
            "jobs_runner_config": wanted,
        }
        assert "cellpose" in result["diff"]["after"]
        assert "cellpose" not in result["diff"]["before"]
        assert not keep(server, content=json.dumps(wanted))["changed"]

    def test_other_values_are_compared_as_well(self, server):
        assert not keep(server, resource={"jobs_poll_interval": 5})["changed"]
        result = keep(server, resource={"jobs_poll_interval": 1})
        assert '"jobs_poll_interval": 1' in result["diff"]["after"]
        assert "default_slurm_config" not in result["diff"]["after"]
        assert server.writes[0][2]["jobs_poll_interval"] == 1

    def test_check_mode_changes_nothing(self, server):
        assert keep(server, check_mode=True, content=json.dumps({**WANTED, "user_local_exports": {"A": "a"}}))[
            "changed"
        ]
        assert server.writes == []

    def test_one_that_is_not_there_is_made_from_its_values(self, server):
        with pytest.raises(Ended, match=r"no resource other; it has: cluster\. Give its values"):
            keep(server, name="other")
        result = keep(server, name="other", resource={"type": "slurm_sudo", "jobs_local_dir": "/jobs"})
        assert result["changed"]
        assert result["diff"]["before_header"] == "(absent)"
        assert server.writes[0][:2] == ("POST", "/admin/v2/resource/")

    def test_a_value_that_the_server_does_not_have_is_a_fault(self, server):
        with pytest.raises(
            Ended, match=r"fractal-server has no colour, size in a resource; it has: host, jobs_poll_in"
        ):
            keep(server, resource={"size": 1, "colour": "red", "jobs_poll_interval": 6})
        assert server.writes == []

    def test_local_resources_have_no_slurm(self, server):
        server.resources = [resource(type="local")]
        with pytest.raises(Ended, match="is of the type local"):
            keep(server)

    def test_faults_of_the_controller_and_of_the_host_are_told_together(self, server):
        with pytest.raises(Ended, match=r"a fault\nresource: found name"):
            keep(server, known_faults=["a fault"], resource={"name": "x"}, content=None)

    def test_content_comes_from_the_action_alone(self, server):
        with pytest.raises(Ended, match="not validated"):
            keep(server, content=WANTED)

    def test_a_value_that_the_server_keeps_in_another_way_is_told(self, server):
        server.answer = lambda method, path, body: (200, [resource()] if method == "GET" else resource())
        result = keep(server, resource={"jobs_poll_interval": 1})
        assert "keeps jobs_poll_interval of the resource cluster in another way" in result["warnings"][0]

    def test_removal(self, server):
        module = Module(check_mode=True, api_url=server.url, token="given", state="absent")
        connected = fractal_server.connect(module.params)
        assert server_resource.remove(module, connected, connected.resources())["changed"]
        assert server.resources
        module.check_mode = False
        assert server_resource.remove(module, connected, connected.resources())["changed"]
        assert not server_resource.remove(module, connected, connected.resources())["changed"]


class TestApi:
    def test_a_token_is_sent_and_a_password_gets_one(self, server):
        keep(server)
        assert server.calls[0][2] == "Bearer given"
        params = Module(api_url=server.url, username="a@b.c", password="right").params
        fractal_server.connect(params).resources()
        assert server.calls[-1][2] == "Bearer got"

    @pytest.mark.parametrize(
        ("status", "told", "said"),
        [
            (401, {"detail": "Unauthorized"}, "status 401: Unauthorized .*get a new one"),
            (403, {"detail": "Forbidden"}, "status 403: Forbidden .*an administrator"),
            (
                422,
                {"detail": [{"loc": ["body", "slurm_sudo", "x"], "msg": "Extra"}]},
                "status 422: slurm_sudo.x: Extra",
            ),
            (500, b"oops\nat line 3", "status 500: oops at line 3"),
            (500, b"\x1b[31mred\x07", r"status 500: \[31mred$"),
            (302, b"", "status 302: It sends us on to another address: is api_url right"),
            (200, [{"name": "cluster"}], "no list of resources: is this a fractal-server"),
            (200, [{"name": "cluster", "id": "../7"}], "no list of resources: is this a fractal-server"),
            (200, [{"name": 5, "id": 7}], "no list of resources: is this a fractal-server"),
            (200, [{"name": "two", "id": 1}, {"name": "two", "id": 2}], "several resources with the same name: two"),
            (200, b"<html>", "no JSON: is this a fractal-server"),
            (200, {"a": 1}, "no list of resources: is this a fractal-server"),
        ],
    )
    def test_refusals_are_told_in_words(self, server, status, told, said):
        server.refusal = (status, told)
        with pytest.raises(fractal_server.ServerError, match=said):
            keep(server)

    def test_answers_are_bounded(self, server, monkeypatch):
        monkeypatch.setattr(fractal_server, "_MAX_BYTES", 100)
        with pytest.raises(fractal_server.ServerError, match="answers more than"):
            keep(server)

    def test_answers_are_bounded_in_time(self, server):
        server.refusal = (200, "drip")
        params = Module(api_url=server.url, token="t", timeout=1).params
        with pytest.raises(fractal_server.ServerError, match=r"no answer: .*not within 1 seconds"):
            fractal_server.connect(params).resources()

    @pytest.mark.parametrize("token", ["", "to ken", "to\nken", "\u00fc"])
    def test_a_token_that_is_none_is_not_shown(self, server, token):
        with pytest.raises(fractal_server.ServerError, match="its token has signs") as error:
            fractal_server.connect(Module(api_url=server.url, token=token).params)
        assert not token or token not in str(error.value)

    def test_a_wrong_password_and_a_wrong_address(self, server):
        with pytest.raises(fractal_server.ServerError, match="is the password that of the username"):
            fractal_server.connect(Module(api_url=server.url, username="a@b.c", password="wrong").params)
        with pytest.raises(fractal_server.ServerError, match=r"no answer: .*does the server run"):
            fractal_server.connect(Module(api_url="http://127.0.0.1:1", token="t").params).resources()
        with pytest.raises(fractal_server.ServerError, match="begins with http"):
            fractal_server.connect(Module(api_url="file:///etc/passwd", token="t").params)
        with pytest.raises(fractal_server.ServerError, match="options of their own") as error:
            fractal_server.connect(Module(api_url="https://a:secret@example.org/", token="t").params)
        assert "secret" not in str(error.value)
        for seconds in (0, -1):
            with pytest.raises(fractal_server.ServerError, match="seconds above zero"):
                fractal_server.connect(Module(api_url=server.url, token="t", timeout=seconds).params)


class TestFractalctl:
    @pytest.fixture
    def ctl(self, tmp_path):
        """A fractalctl, and a Python beside it that answers what the test wants."""
        (tmp_path / "fractalctl").write_text("")
        python = tmp_path / "python"

        def answer(text, status=0):
            (tmp_path / "answer").write_text(text)
            python.write_text(
                f"#!/bin/sh\ncat >'{tmp_path}/asked'\nenv >'{tmp_path}/env'\ncat '{tmp_path}/answer'\nexit {status}\n"
            )
            python.chmod(0o755)
            params = Module(fractalctl=str(tmp_path / "fractalctl"), fractalctl_dir=str(tmp_path)).params
            return fractal_server.connect(params)

        return answer

    def test_asks_the_python_beside_it_with_the_settings_of_the_task(self, ctl, tmp_path, monkeypatch):
        monkeypatch.setenv("POSTGRES_DB", "fractal")
        monkeypatch.setenv("PYTHONPATH", "/elsewhere")
        assert ctl('{"told": []}').resources() == []
        assert json.loads((tmp_path / "asked").read_text()) == {"do": "list"}
        environment = (tmp_path / "env").read_text()
        assert "POSTGRES_DB=fractal" in environment
        assert "PYTHONPATH" not in environment

    def test_tells_what_it_said(self, ctl):
        with pytest.raises(fractal_server.ServerError, match="ValueError: no database"):
            ctl('{"failed": "ValueError: no\\ndatabase"}').resources()
        with pytest.raises(fractal_server.ServerError, match="Segmentation"):
            ctl("Segmentation fault", 139).resources()

    def test_names_what_is_missing(self, tmp_path):
        with pytest.raises(fractal_server.ServerError, match="is not there, or no python beside it"):
            fractal_server.connect(Module(fractalctl=os.fspath(tmp_path / "fractalctl")).params)

    def test_its_program_is_python(self):
        compile(fractal_server._PROGRAM, "program", "exec")
