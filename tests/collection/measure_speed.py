# SPDX-License-Identifier: GPL-3.0-or-later
"""How long site.yml takes, on one host and on twenty that are all this machine, beside one written by hand.

Run it as root on a machine that does nothing else: python -m tests.collection.measure_speed
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from .conftest import BASE, GROUP, MEMBER, ROOT, SERVICE, USER, Site, copy_collection

HAND = str(Path(__file__).with_name("handwritten.yml"))
HOSTS = tuple(f"host{number:02d}" for number in range(1, 21))
FORKS = "10"


def duration(site: Site, playbook: str, hosts: tuple[str, ...], wheel: Path) -> float:
    """Seconds that a run took."""
    began = time.monotonic()
    outcome = site.play(playbook, "--forks", FORKS, "-e", f"runtime_wheel={wheel}", hosts=hosts)
    seconds = time.monotonic() - began
    if outcome.status != 0:
        sys.exit(outcome.output)
    return seconds


def main() -> None:
    """Measure, and print a table."""
    subprocess.run(["groupadd", "--force", GROUP], check=True)
    for name in (SERVICE, USER, MEMBER):
        subprocess.run(["useradd", "--no-create-home", name], check=False, capture_output=True)
    try:
        with tempfile.TemporaryDirectory() as folder:
            copy_collection(Path(folder))
            pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder]
            subprocess.run([*pip, str(ROOT / "python_runtime")], check=True)
            wheel = next(Path(folder).glob("*.whl"))
            print(f"{'playbook':<10} {'hosts':>5} {'first':>9} {'second':>9}", flush=True)
            for title, playbook, hosts in (
                ("by hand", HAND, HOSTS[:1]),
                ("site.yml", "fractal.slurm.site", HOSTS[:1]),
                ("site.yml", "fractal.slurm.site", HOSTS),
            ):
                shutil.rmtree(BASE, ignore_errors=True)
                BASE.mkdir(mode=0o755)
                site = Site(BASE / "hosts", Path(folder), hosts=hosts)
                first, second = (duration(site, playbook, hosts, wheel) for _time in range(2))
                print(f"{title:<10} {len(hosts):>5} {first:>7.1f} s {second:>7.1f} s", flush=True)
    finally:
        shutil.rmtree(BASE, ignore_errors=True)
        for name in (SERVICE, USER, MEMBER):
            subprocess.run(["userdel", name], check=False, capture_output=True)
        subprocess.run(["groupdel", GROUP], check=False, capture_output=True)


if __name__ == "__main__":
    main()
