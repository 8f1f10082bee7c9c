# SPDX-License-Identifier: GPL-3.0-or-later
"""A run that goes on while a test does something to the cluster."""

import json
import time

RUNTIME = "/usr/local/bin/fractal-slurm"


class BackgroundRun:
    """`fractal-slurm run` on a host as the service account, in a systemd unit of its own.

    Args:
        host: testinfra's host.
        name: A name for the unit and the files.
        user: Who is impersonated.
        home: The user's home.
        folder: Where the spec and the output go; the service account must be able to write it.
        tasks: Number of tasks.
        seconds: How long each takes.
    """

    def __init__(self, host, name, *, user, home, folder, tasks, seconds):
        self.host, self.name, self.folder = host, name, folder
        spec = {
            "task": {"name": name, "command": "/usr/bin/python3 /opt/slow_task.py", "meta": {}},
            "meta": {},
            "parameters": [{"seconds": seconds}] * tasks,
        }
        host.check_output("printf %%s %s > %s", json.dumps(spec), f"{folder}/{name}.json")
        host.check_output(
            f"systemd-run --unit={name} --uid=fractal --property=RemainAfterExit=yes "
            f"--property=StandardOutput=truncate:{folder}/{name}.out "
            f"--property=StandardError=truncate:{folder}/{name}.err "
            f"{RUNTIME} run {folder}/{name}.json --user {user} --cache-dir {home}/cache --work-dir {home}/work --json"
        )

    def show(self, name):
        return self.host.check_output(f"systemctl show --value --property={name} {self.name}")

    def wait(self, timeout_s=300):
        """Wait until it has ended; returns its exit code, its summary and what it said."""
        deadline = time.monotonic() + timeout_s
        while self.show("SubState") == "running":
            assert time.monotonic() < deadline, f"{self.name} goes on after {timeout_s} s"
            time.sleep(0.5)
        code = int(self.show("ExecMainStatus"))
        self.host.run(f"systemctl stop {self.name}; systemctl reset-failed {self.name}")
        said = self.host.file(f"{self.folder}/{self.name}.err").content_string
        out = self.host.file(f"{self.folder}/{self.name}.out").content_string
        return code, json.loads(out) if out.strip() else {}, said
