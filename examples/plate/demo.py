#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Measure a plate of 96 wells on SLURM as several users at once, and show that all of it went as it should.

Run as root on a host that the playbook fractal.slurm.demo (or fractal.slurm.site) has set up. Root only prepares
folders, looks at what belongs to whom, and draws the page; the images are made and `fractal-slurm` is run by the
service account, and the wells are measured by the users, in SLURM jobs.

Exit code: 0 if everything that is checked holds, 1 if not, 2 if it can't be tried at all, 130 if interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import pwd
import re
import shlex
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import plate_page

WELLS = 96
MOST_JOBS = 6
MOST_SUDO_CALLS_A_JOB = 4
REFRESH_S = 0.2  # between two looks at how far the users' runs are
PLAIN_REFRESH_S = 2.0  # the same where each look adds a line
BAR_WIDTH = 24


class DemoError(Exception):
    """The demo can't be tried; the message is a sentence for whoever started it."""


@dataclass(frozen=True)
class Share:
    """One user's part of the plate.

    Attributes:
        account: The user.
        wells: The entries of layout.json that the user is to measure.
        work_dir: Where the runtime keeps its files for the user, in the user's home.
        cache_dir: The base of the config file's user_local_exports, in the user's home.
    """

    account: pwd.struct_passwd
    wells: list[dict[str, Any]]
    work_dir: Path
    cache_dir: Path

    @property
    def user(self) -> str:
        """The user's name."""
        return self.account.pw_name

    @property
    def previews(self) -> Path:
        """The folder that each task writes a picture into, by user_local_exports."""
        return self.cache_dir / "plate" / "previews"


# --- acting as the service account


def plain_environment(account: pwd.struct_passwd, arguments: argparse.Namespace) -> dict[str, str]:
    """Give the environment of a fresh login, and the places of the config and the settings."""
    environment = {
        "HOME": account.pw_dir,
        "USER": account.pw_name,
        "LOGNAME": account.pw_name,
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
    }
    if arguments.config:
        environment["FRACTAL_SLURM_CONFIG_FILE"] = str(arguments.config)
    if arguments.settings:
        environment["FRACTAL_SLURM_SETTINGS_FILE"] = str(arguments.settings)
    return environment


def start_as(account: pwd.struct_passwd, argv: Sequence[str], arguments: argparse.Namespace) -> subprocess.Popen[str]:
    """Start a command as a user with none of root's rights."""
    return subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        cwd="/",
        env=plain_environment(account, arguments),
        user=account.pw_uid,
        group=account.pw_gid,
        extra_groups=os.getgrouplist(account.pw_name, account.pw_gid),
        umask=0o022,
    )


def run_as(account: pwd.struct_passwd, argv: Sequence[str], arguments: argparse.Namespace) -> str:
    """Run a command as a user; returns its standard output.

    Raises:
        DemoError: It failed.
    """
    with start_as(account, argv, arguments) as process:
        output, errors = process.communicate()
    if process.returncode != 0:
        command = f"`{shlex.join(argv)}`, run as {account.pw_name},"
        raise DemoError(f"{command} ended with exit code {process.returncode}:\n{errors.strip()}")
    return output


# --- preparing


def find_user(name: str) -> pwd.struct_passwd:
    """Look a user up.

    Raises:
        DemoError: There is none of that name, or it is root.
    """
    try:
        account = pwd.getpwnam(name)
    except KeyError:
        raise DemoError(f"There is no user {name} on this host. `make demo` makes the demo's users.") from None
    if account.pw_uid == 0:
        raise DemoError(f"{name} is root; the demo's users are ordinary ones.")
    return account


def prepare_folder(base: Path, service: pwd.struct_passwd) -> Path:
    """Make the folder that the service account writes images and specs to, and that the users read.

    The example's scripts are copied there, since a checkout may lie where only its owner can read.

    Raises:
        DemoError: The users could not reach it.
    """
    for folder in (base, *base.parents):
        if folder.exists() and not folder.stat().st_mode & stat.S_IXOTH:
            raise DemoError(f"{folder} can't be entered by other users; choose a --base that they can reach.")
    base.mkdir(mode=0o755, parents=True, exist_ok=True)
    for script in ("make_plate.py", "measure_well.py"):
        copy = Path(shutil.copyfile(HERE / script, base / script))
        copy.chmod(0o755)
    plate = base / "plate"
    plate.mkdir(mode=0o755, exist_ok=True)
    os.chown(plate, service.pw_uid, service.pw_gid)
    return plate


def share_out(layout: list[dict[str, Any]], users: Sequence[pwd.struct_passwd]) -> list[Share]:
    """Give each user an equal part of the plate, row after row."""
    size = -(-len(layout) // len(users))
    return [
        Share(
            account=account,
            wells=layout[size * number : size * (number + 1)],
            work_dir=Path(account.pw_dir) / "plate-demo" / "work",
            cache_dir=Path(account.pw_dir) / "plate-demo" / "cache",
        )
        for number, account in enumerate(users)
    ]


def write_spec(share: Share, plate: Path, base: Path, python: str) -> Path:
    """Write the unit of work of one user: the task, and one parameter set a well."""
    spec = {
        "task": {"name": "Measure wells", "command": shlex.join([python, str(base / "measure_well.py")]), "meta": {}},
        "meta": {},
        "parameters": [{"well": well["well"], "image": well["image"]} for well in share.wells],
    }
    path = plate / f"{share.user}.json"
    path.write_text(json.dumps(spec, indent=1) + "\n", encoding="utf-8")
    return path


# --- running


class Running:
    """`fractal-slurm run` for one user, on its way.

    Attributes:
        share: What it is to do.
        messages: The lines that it wrote to standard error so far.
        seconds: How long it took, once it has ended.
    """

    def __init__(self, share: Share, process: subprocess.Popen[str]) -> None:
        self.share = share
        self.process = process
        self.messages: list[str] = []
        self.seconds: float | None = None
        self._output = ""
        self._began = time.monotonic()
        # A thread for each stream, so that neither ever fills up and stops the process.
        self._threads = [threading.Thread(target=read, daemon=True) for read in (self._read_errors, self._read_output)]
        for thread in self._threads:
            thread.start()

    def _read_errors(self) -> None:
        for line in self.process.stderr or ():
            self.messages.append(line.rstrip())

    def _read_output(self) -> None:
        self._output = "".join(self.process.stdout or ())
        self.process.wait()
        self.seconds = time.monotonic() - self._began

    def ending(self) -> str:
        """Say in a word or two how it ended."""
        return "done" if self.process.returncode == 0 else f"exit code {self.process.returncode}"

    def wait(self) -> None:
        """Wait until it has ended and all that it wrote is read."""
        for thread in self._threads:
            thread.join()

    def summary(self) -> dict[str, Any]:
        """Read what `fractal-slurm run --json` ended with.

        Raises:
            DemoError: It is no such document, as when the run was refused.
        """
        try:
            summary: dict[str, Any] = json.loads(self._output)
            complete = {"run_id", "tasks", "succeeded", "wall_s", "sudo_calls"} <= summary.keys()
        except (ValueError, AttributeError):
            complete = False
        if not complete:
            words = "\n".join(self.messages) or "It said nothing."
            raise DemoError(f"The run for {self.share.user} ended with exit code {self.process.returncode}:\n{words}")
        return summary


def measured_since(share: Share, start: float) -> int:
    """Count the pictures that a user wrote after a time (seconds since the epoch): one for each well measured."""
    try:
        with os.scandir(share.previews) as entries:
            files = [entry.stat(follow_symlinks=False) for entry in entries]
    except OSError:
        return 0  # the first task has not made the folder yet
    return sum(file.st_mtime >= start and file.st_uid == share.account.pw_uid for file in files)


class Screen:
    """Shows a line for each run: redrawn in place on a terminal, else added when something has changed."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.live = stream.isatty()
        self.last: dict[str, tuple[int, bool]] = {}
        self.progress: Progress | None = None
        self.bars: dict[str, TaskID] = {}

    def __enter__(self) -> Screen:
        if self.live:
            counts = "{task.completed:>2} of {task.total} wells  {task.fields[seconds]:5.1f} s  {task.fields[end]}"
            name, words = (TextColumn(text, markup=False) for text in ("  {task.description}", counts))
            self.progress = Progress(name, BarColumn(BAR_WIDTH), words, console=Console(file=self.stream))
            self.progress.start()
        return self

    def __exit__(self, *_error: object) -> None:
        if self.progress is not None:
            self.progress.stop()

    def show(self, runs: Sequence[Running], start: float, elapsed: float) -> None:
        """Show how far each run is."""
        for run in runs:
            user, total = run.share.user, len(run.share.wells)
            done, ended = measured_since(run.share, start), run.seconds is not None
            seconds, end = (elapsed, "") if run.seconds is None else (run.seconds, run.ending())
            if self.progress is not None:
                if user not in self.bars:
                    self.bars[user] = self.progress.add_task(user, total=total, seconds=0.0, end="")
                self.progress.update(self.bars[user], completed=done, seconds=seconds, end=end)
            elif self.last.get(user) != (done, ended):
                self.last[user] = (done, ended)
                self.stream.write(f"  {user}  {done} of {total} wells  {seconds:.1f} s{f'  {end}' if end else ''}\n")
                self.stream.flush()


def run_all(
    shares: Sequence[Share], specs: Sequence[Path], service: pwd.struct_passwd, arguments: argparse.Namespace
) -> list[Running]:
    """Run `fractal-slurm run` for all users at the same time and show how far they are."""
    start, clock = time.time(), time.monotonic()
    runs: list[Running] = []
    for share, spec in zip(shares, specs, strict=True):
        argv = [arguments.command, "run", str(spec), "--user", share.user, "--json"]
        argv += ["--cache-dir", str(share.cache_dir), "--work-dir", str(share.work_dir)]
        runs.append(Running(share, start_as(service, argv, arguments)))
    try:
        with Screen(sys.stdout) as screen:
            interval = REFRESH_S if screen.live else PLAIN_REFRESH_S
            while any(run.seconds is None for run in runs):
                screen.show(runs, start, time.monotonic() - clock)
                deadline = time.monotonic() + interval
                while time.monotonic() < deadline and any(run.seconds is None for run in runs):
                    time.sleep(0.05)
            for run in runs:
                run.wait()
            screen.show(runs, start, time.monotonic() - clock)
    except KeyboardInterrupt:
        # The terminal has sent the signal to the runs as well; they cancel their jobs before they end.
        print("\nInterrupted: waiting until the jobs are cancelled. Again to leave at once.", file=sys.stderr)
        for run in runs:
            run.wait()
        raise
    return runs


# --- checking


@dataclass
class Checks:
    """Collects what was checked, and prints each finding as it is made."""

    failed: int = 0

    def say(self, holds: bool, sentence: str, otherwise: str = "") -> None:
        """Print a finding, and what is wrong where it does not hold."""
        self.failed += not holds
        print(f"  {'ok  ' if holds else 'FAIL'}  {sentence}{'' if holds or not otherwise else f': {otherwise}'}")


def owners_below(*folders: Path) -> dict[int, int]:
    """Count the files and folders in some folders by the uid of their owner, not following links."""
    owners: dict[int, int] = {}
    for folder in folders:
        for path, _folders, files in os.walk(folder):
            for name in (".", *files):
                uid = os.lstat(os.path.join(path, name)).st_uid
                owners[uid] = owners.get(uid, 0) + 1
    return owners


def check_owners(checks: Checks, share: Share, start: float) -> None:
    """Check that all that a user's tasks left belongs to that user, pictures included, and is as new as the run."""
    owners = owners_below(share.work_dir, share.cache_dir)
    others = {uid: number for uid, number in owners.items() if uid != share.account.pw_uid}
    checks.say(
        bool(owners) and not others,
        f"all {sum(owners.values())} files and folders below {share.work_dir.parent} belong to {share.user}",
        f"some belong to others (uid: number): {others}" if others else "there are none",
    )
    expected, found = len(share.wells), measured_since(share, start)
    checks.say(
        found == expected,
        f"user_local_exports led the tasks of {share.user} to {share.previews}",
        f"{found} of {expected} pictures are there",
    )


def some_of(items: Sequence[str], most: int = 5) -> str:
    """List items, the first few by name and the rest by number."""
    rest = len(items) - most
    return ", ".join(items[:most]) + (f" and {rest} more" if rest > 0 else "")


def check_plate(checks: Checks, wells: Sequence[plate_page.Well], layout: Sequence[dict[str, Any]]) -> None:
    """Check the measured numbers against those planted, and say why wells were not measured."""
    planted = {well["well"]: sum(well["planted_spots"]) for well in layout}
    wrong = [well.name for well in wells if well.spots != planted[well.name]]
    checks.say(
        not wrong,
        f"{len(layout) - len(wrong)} of {len(layout)} wells measured, each with as many spots as were planted in it",
        f"not so {some_of(wrong)}",
    )
    for well in [well for well in wells if well.error is not None][:3]:
        print(f"        {well.name}: {well.error}")


def read_preview(share: Share, well: str) -> bytes | None:
    """Read a user's picture of a well; root reads no link that a user may have put there."""
    try:
        descriptor = os.open(share.previews / f"{well}.png", os.O_RDONLY | os.O_NOFOLLOW)
        with open(descriptor, "rb") as file:
            return file.read(1_000_000)
    except OSError:
        return None


def failure(task: dict[str, Any]) -> str:
    """Say why a task did not succeed: the runtime's reason, and the last line that the task itself wrote."""
    reason = str(task.get("reason") or task["state"])
    last_words = (task.get("log_tail") or "").strip().rpartition("\n")[2]
    return f"{reason}: {last_words}" if last_words else reason


def read_wells(share: Share, report: dict[str, Any]) -> tuple[list[plate_page.Well], list[str]]:
    """Put together what is known of each of a user's wells.

    Returns the wells, and the names of those whose task ran as somebody else.
    """
    wells, strangers = [], []
    for task in report["tasks"]:
        entry = share.wells[task["index"]]
        result = task.get("result") if task["state"] == "succeeded" else None
        result = result if isinstance(result, dict) else {}
        if result and result.get("measured_by") != share.user:
            strangers.append(entry["well"])
        wells.append(
            plate_page.Well(
                name=entry["well"],
                condition=entry["condition"],
                user=share.user,
                job=str(task.get("job") or "none"),
                host=str(task.get("host") or "no node"),
                seconds=task.get("duration_s"),
                spots=result.get("spots"),
                mean_area_px=result.get("mean_area_px"),
                mean_intensity=result.get("mean_intensity"),
                preview_png=read_preview(share, entry["well"]) if result else None,
                error=None if result else failure(task),
            )
        )
    return wells, strangers


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows of text as a table, the first of them as titles."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for number, row in enumerate(rows):
        print("  " + "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
        if number == 0:
            print("  " + "  ".join("-" * width for width in widths))


# --- the whole


def run_demo(arguments: argparse.Namespace) -> int:
    """Run the demo; returns the exit code.

    Raises:
        DemoError: It can't be tried.
    """
    if os.geteuid() != 0:
        raise DemoError("The demo acts as several users, so it must be run as root.")
    service = find_user(arguments.service_user)
    users = [find_user(name) for name in arguments.users]
    if not os.access(arguments.command, os.X_OK):
        raise DemoError(f"{arguments.command} is no command; is the runtime installed? See --command.")
    base: Path = arguments.base
    plate = prepare_folder(base, service)
    page_path: Path = arguments.page or base / "plate.html"

    print(f"Plate {arguments.plate}: {WELLS} wells, measured on SLURM as {' and '.join(arguments.users)}.\n")
    clock = time.monotonic()
    argv = [arguments.python, str(base / "make_plate.py"), str(plate / "images"), "--plate", arguments.plate]
    run_as(service, argv, arguments)
    layout = json.loads((plate / "images" / "layout.json").read_text(encoding="utf-8"))
    print(f"  {service.pw_name} made {len(layout)} images in {plate / 'images'} ({time.monotonic() - clock:.1f} s)\n")

    shares = share_out(layout, users)
    specs = [write_spec(share, plate, base, arguments.python) for share in shares]
    start = time.time()
    runs = run_all(shares, specs, service, arguments)
    summaries = [run.summary() for run in runs]

    rows: list[Sequence[str]] = [("user", "SLURM jobs", "wells", "seconds", "sudo calls")]
    wells: list[plate_page.Well] = []
    page_runs: list[plate_page.Run] = []
    strangers: list[str] = []
    for share, summary in zip(shares, summaries, strict=True):
        output = run_as(service, [arguments.command, "report", summary["run_id"], "--json"], arguments)
        report = json.loads(output)
        jobs = [str(job["slurm_job_id"]) for job in report["jobs"]]
        succeeded, tasks = summary["succeeded"], summary["tasks"]
        seconds, calls = summary["wall_s"], summary["sudo_calls"]
        rows.append((share.user, ", ".join(jobs), f"{succeeded} of {tasks}", f"{seconds:.1f}", str(calls)))
        page_runs.append(plate_page.Run(share.user, jobs, tasks, succeeded, seconds, calls))
        user_wells, user_strangers = read_wells(share, report)
        wells += user_wells
        strangers += user_strangers
    print()
    print_table(rows)
    print()

    checks = Checks()
    check_plate(checks, wells, layout)
    checks.say(not strangers, "each was measured by the user that it was given to", f"not so {some_of(strangers)}")
    jobs_in_all = sum(len(run.jobs) for run in page_runs)
    checks.say(0 < jobs_in_all <= MOST_JOBS, f"{jobs_in_all} SLURM jobs; at most {MOST_JOBS} are allowed")
    calls_a_job = sum(run.sudo_calls for run in page_runs) / max(jobs_in_all, 1)
    # A figure and no check: a slow machine makes longer runs, and the runtime looks at long runs more often.
    print(f"        {calls_a_job:.1f} sudo calls a job; the goal is at most {MOST_SUDO_CALLS_A_JOB}")
    for share in shares:
        check_owners(checks, share, start)
    owners = owners_below(plate / "images")
    checks.say(set(owners) == {service.pw_uid}, f"the images belong to {service.pw_name}", f"by uid: {owners}")

    page_path.parent.mkdir(parents=True, exist_ok=True)
    page_path.write_text(plate_page.build_page(arguments.plate, wells, page_runs), encoding="utf-8")
    print(f"\n  A picture of the plate, with each well's values and image: {page_path.resolve()}")
    if checks.failed:
        print(f"\nFailed checks: {checks.failed}. See FAIL above.", file=sys.stderr)
        return 1
    return 0


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Measure a plate of 96 wells on SLURM as several users at once.")
    parser.add_argument("--service-user", default="fractal-demo", help="who runs fractal-slurm (default: %(default)s)")
    parser.add_argument(
        "--users", nargs="+", default=["plate-anna", "plate-ben"], metavar="USER", help="who measure the wells"
    )
    parser.add_argument(
        "--base", type=Path, required=True, help="folder for images, specs and the page; other users must reach it"
    )
    parser.add_argument(
        "--command", default="/usr/local/bin/fractal-slurm", help="fractal-slurm (default: %(default)s)"
    )
    parser.add_argument("--config", type=Path, help="Fractal's SLURM config file (default: the runtime's own default)")
    parser.add_argument("--settings", type=Path, help="the runtime's settings file (default: its own default)")
    parser.add_argument("--python", default="/usr/bin/python3", help="Python 3.10 or newer that every user can run")
    parser.add_argument("--plate", default="demo", help="the plate's name, from which its images follow")
    parser.add_argument("--page", type=Path, help="where to write the page (default: plate.html in --base)")
    arguments = parser.parse_args()
    if not re.fullmatch(r"[A-Za-z0-9_-]+", arguments.plate):
        parser.error(f"--plate {arguments.plate!r}: only letters, digits, _ and - are allowed.")
    return arguments


def main() -> int:
    """Run from the command line; returns the exit code."""
    arguments = parse_arguments()
    try:
        return run_demo(arguments)
    except DemoError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nInterrupted; the jobs are cancelled by `fractal-slurm run`.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
