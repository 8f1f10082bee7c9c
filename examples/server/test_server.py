# SPDX-License-Identifier: BSD-3-Clause
"""The parts of the server's demo that need neither SLURM nor a server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import demo_server
from fractal_api import ApiError, Client, Workflow
from local_server import LocalServer, SudoLog


class Api:
    """Answers as fractal-server does; each test says what to."""

    def __init__(self) -> None:
        self.answers: dict[str, object] = {"/auth/token/login/": {"access_token": "t"}}
        self.asked: list[tuple[str, str, str]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
                outer.asked.append((self.command, self.path, body))
                found = outer.answers.get(self.path.partition("?")[0])
                text = json.dumps(found).encode()
                self.send_response(200 if found is not None else 404)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_POST = answer  # noqa: N815 - http.server's names

            def log_message(self, *_words: object) -> None:
                pass

        self.http = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def client(self) -> Client:
        return Client(f"http://127.0.0.1:{self.http.server_address[1]}", "a@example.org", "secret")


@pytest.fixture
def api() -> Iterator[Api]:
    api = Api()
    yield api
    api.http.shutdown()
    api.http.server_close()


def test_steps_are_sent_as_each_version_takes_them(api: Api) -> None:
    api.answers.update(
        {
            "/api/v2/project/": {"id": 1},
            "/api/v2/project/1/dataset/": {"id": 2},
            "/api/v2/project/1/workflow/": {"id": 3},
            "/api/v2/project/1/workflow/3/wftask/": {},
        }
    )
    for version, sent in (("2.18.5", {"args_parallel": {}}), ("2.26.0", [{"task_id": 7, "args_parallel": {}}])):
        api.answers["/api/alive/"] = {"version": version}
        workflow = api.client().workflow("p", [(7, {"args_parallel": {}})])
        assert (workflow.project, workflow.dataset, workflow.workflow) == (1, 2, 3)
        assert json.loads(api.asked[-1][2]) == sent


def test_units_are_counted_over_all_tasks(api: Api) -> None:
    api.answers["/api/v2/project/1/workflow/3/"] = {"task_list": [{"id": 5, "task": {"name": "Measure"}}]}
    api.answers["/api/v2/project/1/status/run/"] = [
        {"id": 1, "num_done_units": 4, "num_failed_units": 1, "num_submitted_units": None},
        {"id": 2, "num_done_units": 2, "num_failed_units": 0, "num_submitted_units": 3},
    ]
    assert Workflow(api.client(), 1, 2, 3).units() == {"done": 6, "failed": 1, "submitted": 3}


def test_refusals_and_silence_are_told(api: Api) -> None:
    with pytest.raises(ApiError, match=r"GET /nowhere: status 404"):
        api.client().call("GET", "/nowhere")
    with pytest.raises(ApiError, match="no answer"):
        Client("http://127.0.0.1:1", "a", "b").call("GET", "/")


def test_the_password_is_not_shown() -> None:
    assert "secret" not in repr(Client("http://x", "a@example.org", "secret"))


def test_the_hook_comes_first_and_goes_again() -> None:
    config = {"default_slurm_config": {"partition": "main", "extra_lines": ["export A=b"]}}
    hooked = demo_server.with_hook(config, "/opt/x/fractal-job.sh")
    assert hooked["default_slurm_config"]["extra_lines"] == [
        "[ ! -r /opt/x/fractal-job.sh ] || . /opt/x/fractal-job.sh",
        "export A=b",
    ]
    assert demo_server.with_hook(hooked, None) == config


def test_what_sudo_ran_is_counted(tmp_path: Path) -> None:
    log = SudoLog(tmp_path / "sudoers", "fractal", Path("/opt/slurm/bin"), tmp_path / "log")
    assert log.count() == 0
    line = "Nov 26 20:00:00 : fractal : PWD=/ ; USER=anna ; COMMAND="
    log.path.write_text(f"{line}/opt/slurm/bin/sbatch --parsable\n{line}/usr/bin/cat /x\nother\n")
    assert (log.count(), log.count("sbatch")) == (2, 1)


def test_the_table_says_what_was_lost(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    server = LocalServer(tmp_path, tmp_path / "bin", "fractal", 1)
    fine = demo_server.Outcome("engine", "done", 2.0, 96, 0, 9, "")
    lossy = demo_server.Outcome("built-in", "failed", 20.0, 90, 6, 300, "no memory")
    assert demo_server.tell(server, [lossy, fine], ["hook"]) == 0  # what its own runner loses is not ours
    said = capsys.readouterr().out
    for words in ("6 of 96", "0 of 96", "with the hook: not installed here", "no memory", "http://127.0.0.1:1/docs"):
        assert words in said
    assert demo_server.tell(server, [demo_server.Outcome("hook", "done", 2.0, 95, 1, 9, "")], []) == 1


def test_a_pid_of_something_else_is_not_ours(tmp_path: Path) -> None:
    server = LocalServer(tmp_path, tmp_path / "bin", "fractal", 1)
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "gunicorn.pid").write_text(str(os.getpid()))
    assert server.pid() is None
    assert server.processes() == []


def test_the_tasks_make_and_measure_a_plate(tmp_path: Path) -> None:
    for source in demo_server.TASK_FILES:
        (tmp_path / source.name).write_bytes(source.read_bytes())

    def run(script: str, arguments: dict[str, object]) -> dict[str, list[dict[str, object]]]:
        (tmp_path / "in.json").write_text(json.dumps(arguments))
        argv = [
            sys.executable,
            tmp_path / script,
            "--args-json",
            tmp_path / "in.json",
            "--out-json",
            tmp_path / "out.json",
        ]
        subprocess.run(argv, check=True, capture_output=True)
        found: dict[str, list[dict[str, object]]] = json.loads((tmp_path / "out.json").read_text())
        return found

    made = run("convert_plate.py", {"zarr_dir": str(tmp_path / "z"), "wells": 2})["image_list_updates"]
    assert [Path(str(entry["zarr_url"])).name for entry in made] == ["00000-A01", "00001-A02"]
    measured = run("measure_plate.py", {"zarr_url": made[0]["zarr_url"]})["image_list_updates"]
    assert measured[0]["zarr_url"] == made[0]["zarr_url"]
    assert int(str(measured[0]["attributes"]["spots"])) > 0  # type: ignore[index]
    run("measure_plate.py", {"zarr_url": made[1]["zarr_url"], "sleep": 0})
