# SPDX-License-Identifier: GPL-3.0-or-later
"""A workflow through fractal-server's API: made, judged and removed, whatever the server answers."""

from __future__ import annotations

import getpass
import json
import re
import subprocess

import pytest
from ansible_collections.fractal.slurm.plugins.module_utils import fractal_server, server_proof

from ..http_standin import StandIn

ME = getpass.getuser()


class Server(StandIn):
    """The part of fractal-server's API that is used, with what was made in it.

    ``replies`` gives other answers: a regular expression for "METHOD PATH" to (status, body), or to a function that
    is called with what does and answers as usual.
    """

    def __init__(self, jobs):
        super().__init__()
        self.jobs_dir = jobs
        self.version = "2.26.0"
        self.projects, self.groups, self.jobs = {}, {}, {}
        self.replies = {}
        self.run = True

    def answer(self, method, path, body):
        def usual():
            return self.usual(method, path, json.loads(body) if body else None)

        for pattern, reply in self.replies.items():
            if re.fullmatch(pattern, f"{method} {path}"):
                return reply(usual) if callable(reply) else reply
        return usual()

    def usual(self, method, path, body):
        bare = path.partition("?")[0]
        words = bare.strip("/").split("/")
        if bare == "/api/alive/":
            return 200, {"alive": True, "version": self.version}
        if bare == "/auth/current-user/profile-info/":
            return 200, {"has_profile": True, "username": ME}
        if (method, bare) == ("POST", "/api/v2/task/"):
            self.groups[5] = body
            return 201, {"id": 50, "taskgroupv2_id": 5}
        if bare == "/api/v2/task-group/":
            listed = [{"id": number, "pkg_name": each["name"]} for number, each in self.groups.items()]
            return 200, [["others", [{"id": 1, "pkg_name": "others"}]], ["ours", listed]]
        if words[2] == "task-group":
            if words[-1] == "delete":
                del self.groups[5]
                return 202, {}
            return (200, {}) if 5 in self.groups else (404, {"detail": "TaskGroup 5 not found"})
        if bare == "/api/v2/project/":
            if method == "GET":
                return 200, [
                    {"id": 2, "name": "another"},
                    *({"id": 3, "name": name} for name in self.projects.values()),
                ]
            self.projects[3] = body["name"]
            return 201, {"id": 3}
        return self.in_project(method, words[4:], body)

    def in_project(self, method, words, body):
        if not words:
            if any(job["status"] == "submitted" for job in self.jobs.values()):
                return 422, {"detail": "Cannot delete project 3 because it is linked to active job(s) 7."}
            del self.projects[3]
            return 204, b""
        if words[0] in ("dataset", "workflow"):
            return 201, {"id": 4} if len(words) == 1 else [{"id": 6}]
        if words == ["job", "submit"]:
            self.submit()
        elif words[-1] == "stop":
            self.jobs[7]["status"] = "failed"
            return 202, b""
        return 200, list(self.jobs.values()) if words == ["job"] else self.jobs[7]

    def submit(self):
        folder = self.jobs_dir / "proj_v2_0000003_wf_0000004_job_0000007_20261127_000000"
        folder.mkdir()
        (folder / "log").write_text("x")
        folder.with_name(folder.name + ".zip").write_text("packed")
        state = "submitted"
        if self.run:
            argv = self.groups[5]["command_non_parallel"].split()
            out = self.jobs_dir / "out.json"
            subprocess.run([*argv, "--args-json", "-", "--out-json", str(out)], check=True)
            assert json.loads(out.read_text()) == {}
            out.unlink()
            state = "done"
        self.jobs[7] = {"id": 7, "status": state, "log": "", "working_dir": str(folder), "working_dir_user": None}


@pytest.fixture
def server(tmp_path, monkeypatch):
    (tmp_path / "jobs").mkdir()
    server = Server(tmp_path / "jobs")
    for name in ("_LOOK_S", "_AFTER_S", "_STOP_S", "_FILE_S"):
        monkeypatch.setattr(server_proof, name, 0.02)
    # Without root, nobody becomes another user.
    monkeypatch.setattr(server_proof, "call_as", lambda _user, function, *values, **_options: function(*values))
    yield server
    server.close()


def proof_of(server, tmp_path, account=ME, timeout=5):
    client = fractal_server.Client(server.url, "token", timeout=timeout, hints=server_proof.HINTS, option="server_url")
    return server_proof.Proof(client, account, ME, str(tmp_path / "probe"))


def prove(server, tmp_path, **options):
    """Returns whether it is well, and in which words. Nothing may be left, unless the words say so."""
    ((account, ok, words),) = server_proof.prove([proof_of(server, tmp_path, **options)], 0.2)
    assert account == options.get("account", ME)
    if "left behind" not in words:
        assert left(server, tmp_path) == []
    return ok, words


def left(server, tmp_path):
    return [*server.projects, *server.groups, *server.jobs_dir.iterdir(), *tmp_path.glob("probe*")]


@pytest.mark.parametrize("version", ["2.18.5", "2.26.0"])
def test_says_who_ran_it_and_leaves_nothing(server, tmp_path, version):
    server.version = version
    ok, words = prove(server, tmp_path)
    assert (ok, re.sub(r"on \S+ in \S+ s", "on H in T s", words)) == (
        True,
        f"ran as {ME} on H in T s, by fractal-server {version}",
    )
    asked = [(path, json.loads(body)) for method, path, _token, body in server.calls if "/wftask/" in path]
    begin = "/api/v2/project/3/workflow/4/wftask/"
    assert asked == [(begin, [{"task_id": 50}])] if version == "2.26.0" else [(f"{begin}?task_id=50", {})]
    assert {token for _method, _path, token, _body in server.calls} == {"Bearer token"}
    private = [path for method, path, _token, _body in server.calls if (method, path[:13]) == ("POST", "/api/v2/task/")]
    assert private == ["/api/v2/task/?private=true"]


def test_asks_whom_it_would_act_as_before_it_makes_anything(server, tmp_path):
    server.replies = {"GET /auth/.*": (200, {"has_profile": True, "username": "eve"})}
    assert prove(server, tmp_path) == (False, "the token is of a user whose jobs run as eve: nothing is tried")
    server.replies = {"GET /auth/.*": (200, {"has_profile": False})}
    assert "has no profile" in prove(server, tmp_path)[1]
    assert "this host has no user of this name" in prove(server, tmp_path, account="no-such-user")[1]
    assert {method for method, _path, _token, _body in server.calls} == {"GET"}


STEPS = [
    "GET /api/alive/",
    "GET /auth/current-user/profile-info/",
    r"POST /api/v2/task/.*",
    "POST /api/v2/project/",
    "POST /api/v2/project/3/dataset/",
    "POST /api/v2/project/3/workflow/",
    "POST /api/v2/project/3/workflow/4/wftask/",
    r"POST /api/v2/project/3/job/submit/.*",
    "GET /api/v2/project/3/job/7/",
]
TROUBLES = [
    ((401, {"detail": "Unauthorized"}), "status 401: Unauthorized .*the token is wrong or too old"),
    ((404, {"detail": "Not Found"}), "status 404: Not Found"),
    ((422, {"detail": [{"loc": ["body", "name"], "msg": "too long"}]}), "status 422: name: too long"),
    ((502, b"<html>Bad Gateway</html>"), "status 502: <html>Bad Gateway</html>"),
    ((200, b"<html>Welcome</html>"), "no JSON: is this a fractal-server"),
    ((200, b"[" * 100_000), "no JSON: is this a fractal-server"),
    ((200, b" " * 2_000_000), "answers more than"),
    ((200, []), "is this a fractal-server"),
    ((200, "drip"), "no answer: .*not within"),
]


# Every trouble at the steps that make something, and some at every step.
CASES = [
    (step, *trouble)
    for step in STEPS
    for number, trouble in enumerate(TROUBLES)
    if number in (0, 4) or step in ("POST /api/v2/project/", STEPS[-2])
]


@pytest.mark.parametrize(("step", "reply", "said"), CASES, ids=lambda value: str(value)[:24])
def test_each_trouble_is_told_and_what_was_made_is_removed(server, tmp_path, monkeypatch, step, reply, said):
    monkeypatch.setattr(fractal_server, "_MAX_BYTES", 1_000_000)

    def respond(usual):
        del server.replies[step]  # it recovers
        if not 400 <= reply[0] < 500:
            usual()  # whether the server did what it was asked for, its answer leaves open
        return reply

    server.replies = {step: respond}
    server.run = "job/" not in step
    ok, words = prove(server, tmp_path, timeout=2 if reply[1] == "drip" else 30)
    assert not ok
    assert re.search(said, words)
    assert "left behind" not in words


def test_a_job_that_does_not_end_is_stopped(server, tmp_path):
    server.run = False
    ok, words = prove(server, tmp_path)
    assert not ok
    assert words.startswith("its job has not ended within 0 seconds")
    assert server.jobs[7]["status"] == "failed"


def test_a_job_that_can_not_be_stopped_is_told_and_its_folder_stays(server, tmp_path):
    server.run = False
    server.replies = {"GET .*/stop/": (500, b"no")}
    ok, words = prove(server, tmp_path)
    assert not ok
    for said in ("status 500: no", "Cannot delete project 3", "its job may still run: project fractal-slurm-verify-"):
        assert said in words
    assert list((tmp_path / "probe").glob("verify-*/task.sh"))


def test_a_group_that_stays_is_told(server, tmp_path):
    server.replies = {"POST .*/delete/": (202, {}), "GET /api/v2/task-group/5/": (200, {})}
    ok, words = prove(server, tmp_path)
    assert not ok
    assert re.search(r"ran as .*; left behind: task group fractal-slurm-verify-.* has not removed it", words)


def test_a_failed_job_is_told_in_the_words_of_the_server(server, tmp_path):
    server.replies = {".*/job/submit/.*": lambda usual: (200, {**usual()[1], "status": "failed", "log": "No room\n"})}
    assert prove(server, tmp_path) == (False, "its job is failed: No room\n")


@pytest.mark.parametrize("text", ["", "[]", '{"uid": "12345", "host": "h"}', '{"uid": 7}', "x" * 100_000])
def test_a_result_of_another_is_a_fault(server, tmp_path, monkeypatch, text):
    monkeypatch.setattr(server_proof, "TASK", f'printf %s \'{text}\' > "$(dirname "$0")/ran"\necho \'{{}}\' > "$4"\n')
    ok, words = prove(server, tmp_path)
    assert not ok
    assert "left no result" in words or "its task ran as uid 12345, and its file belongs to uid" in words


def test_a_result_that_is_a_link_is_not_read(server, tmp_path, monkeypatch):
    monkeypatch.setattr(server_proof, "TASK", 'ln -s /etc/hostname "$(dirname "$0")/ran"\necho "{}" > "$4"\n')
    assert "left no result" in prove(server, tmp_path)[1]


def test_a_job_folder_of_another_name_is_left_alone(server, tmp_path):
    other = tmp_path / "precious"
    other.mkdir()
    server.replies = {".*/job/submit/.*": lambda usual: (200, {**usual()[1], "working_dir": str(other)})}
    ((_account, ok, _words),) = server_proof.prove([proof_of(server, tmp_path)], 0.2)
    assert ok
    assert other.is_dir()


def test_a_probe_folder_that_no_command_can_have_is_told(server, tmp_path):
    proof = server_proof.Proof(fractal_server.Client(server.url, "t", timeout=5), ME, ME, f"{tmp_path}/a b")
    ((_account, ok, words),) = server_proof.prove([proof], 0.2)
    assert not ok
    assert "signs that fractal-server takes in no command" in words
    assert server.projects == server.groups == {}


def test_an_interruption_leaves_nothing(server, tmp_path, monkeypatch):
    proof = proof_of(server, tmp_path)

    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr(proof, "look", interrupt)
    with pytest.raises(KeyboardInterrupt):
        server_proof.prove([proof], 5)
    assert left(server, tmp_path) == []
