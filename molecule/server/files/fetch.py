# SPDX-License-Identifier: GPL-3.0-or-later
"""Fetch the wheels of the newest fractal-server for a Python, once; print the archive. usage: fetch.py PYTHON FOLDER"""

import pathlib
import subprocess
import sys
import tarfile
import tempfile

python, folder = sys.argv[1], pathlib.Path(sys.argv[2])
version = "2.26.0" if tuple(map(int, python.split("."))) >= (3, 13) else "2.18.5"
archive = folder / f"fractal-server-{version}-py{python}.tar"
if not archive.exists():
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as work:
        number = python.replace(".", "")
        options = ["--only-binary=:all:", "--implementation", "cp", "--python-version", python]
        options += [word for abi in (f"cp{number}", "abi3", "none") for word in ("--abi", abi)]
        options += [word for minor in range(36, 16, -1) for word in ("--platform", f"manylinux_2_{minor}_x86_64")]
        options += ["--platform", "manylinux2014_x86_64"]
        argv = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--dest",
            f"{work}/wheels",
        ]
        subprocess.run([*argv, *options, f"fractal-server=={version}"], check=True)
        part = archive.with_suffix(".part")
        with tarfile.open(part, "w") as tar:
            tar.add(f"{work}/wheels", arcname="wheels")
        part.rename(archive)
print(archive)
