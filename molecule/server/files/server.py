# SPDX-License-Identifier: GPL-3.0-or-later
"""A fractal-server on this host, and workflows through it.

usage: server.py set-up | tokens USER... | plate USER WELLS SLEEP [crash | stop]

tokens prints the token of each user as JSON, plate what came of a workflow. crash: while its tasks run, the server is
killed and started again.
"""

import json
import os
import pwd
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, "/opt/examples/server")

import demo_server
from local_server import LocalServer, SudoLog

BIN = Path("/var/lib/fractal-slurm-testbed/bin")
UNIT = "/etc/systemd/system/fractal-server.service"
SERVER = LocalServer(Path("/srv/fractal-server"), BIN, "fractal", 8000)


def systemctl(*words):
    """Tell systemd something."""
    subprocess.run(["systemctl", *words], check=True)


def wait_until_it_answers():
    """Wait for the API."""
    for _attempt in range(300):
        if SERVER.answers():
            return
        time.sleep(0.2)
    sys.exit("the server does not answer")


def set_up():
    """Install the server, and start it as a service with its own runner."""
    SERVER.set_up()
    SudoLog(Path("/etc/sudoers.d/fractal-server"), "fractal", BIN, SERVER.base / "sudo.log").set_up()
    Path(UNIT).write_text(SERVER.unit())
    folder = SERVER.base / "tasks"
    folder.mkdir(exist_ok=True)
    for source in demo_server.TASK_FILES:
        (folder / source.name).write_bytes(source.read_bytes())
    systemctl("daemon-reload")
    systemctl("start", "fractal-server")
    wait_until_it_answers()


def tokens(users):
    """The token of each user of the server."""
    wait_until_it_answers()
    return {user: SERVER.user(user, Path(pwd.getpwnam(user).pw_dir)).token() for user in users}


def plate(user, wells, sleep, what=""):
    """Run a workflow; returns what came of it."""
    wait_until_it_answers()
    client = SERVER.user(user, Path(pwd.getpwnam(user).pw_dir))
    tasks = client.collect(f"plate-{user}", "/usr/bin/python3", str(SERVER.base / "tasks"), demo_server.TASKS)
    arguments = {} if sleep == 0 else {"sleep": sleep}
    workflow = client.workflow(
        f"{user} {time.time():.2f}",
        [
            (tasks["Make plate"], {"args_non_parallel": {"wells": wells, "images": sleep == 0}}),
            (tasks["Measure wells"], {"args_parallel": arguments}),
        ],
    )
    job = workflow.submit()
    if what:
        # The plate is made, and some of its wells are measured. Before a stop they are just begun: all may end at once.
        while workflow.units()["done"] < (1 if what == "stop" else 2):
            if workflow.job(job)["status"] != "submitted":
                sys.exit(f"it ended too early: {workflow.job(job)}")
            time.sleep(0.2)
    if what == "crash":
        systemctl("kill", "--signal=KILL", "fractal-server")
        time.sleep(1)
        subprocess.run(["systemctl", "reset-failed", "fractal-server"], check=False)
        systemctl("start", "fractal-server")
        wait_until_it_answers()
    if what == "stop":
        time.sleep(5)
        workflow.stop(job)
    ended = workflow.wait(job, 180, interval=0.5)
    units = [(run, unit) for run in workflow.runs() for unit in workflow.units_of(run)]
    folder = Path(ended["working_dir_user"])
    owners = {pwd.getpwuid(path.lstat().st_uid).pw_name for path in folder.rglob("*")} if folder.exists() else set()
    queue = subprocess.run([BIN / "squeue", "--noheader", "--all"], capture_output=True, text=True, check=True)
    return {
        "status": ended["status"],
        "log": ended.get("log"),
        "units": workflow.units(),
        "images": workflow.images(),
        "logs": [workflow.log(run, unit["id"]) for run, unit in units],
        "owners": sorted(owners),
        "queue": queue.stdout.split(),
        "scripts": [path.read_text(errors="replace") for path in Path(ended["working_dir"]).rglob("*.sh")][:2],
    }


if __name__ == "__main__":
    os.umask(0o022)
    if sys.argv[1] == "set-up":
        set_up()
    elif sys.argv[1] == "tokens":
        print(json.dumps(tokens(sys.argv[2:])))
    else:
        print(json.dumps(plate(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), *sys.argv[5:])))
