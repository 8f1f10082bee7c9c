# -*- coding: utf-8 -*-
# SPDX-License-Identifier: GPL-3.0-or-later
"""Wheels of the runtime and of all that it needs, made on the controller for a host's Python and platform.

Hosts ask no index: what is made here is all that they need, pip included.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ansible.errors import AnsibleError

# The collection's own folder of the runtime: plugins/plugin_utils/ lies beside it, in a checkout and when installed.
SOURCE = Path(__file__).resolve().parents[2] / "python_runtime"
# Exact versions and checksums of all that the runtime needs, so that what hosts get does not depend on the day.
LOCK = SOURCE / "requirements-lock.txt"
_MANIFEST = "manifest.json"


class Source(NamedTuple):
    """The runtime's source.

    Attributes:
        version: Its version number.
        digest: Checksum of all its files and of the lock, hexadecimal.
        lock: The file that names the versions of all that it needs; None for the newest that it allows.
    """

    version: str
    digest: str
    lock: Path | None

    @property
    def folder_name(self) -> str:
        """Name of the folder that it is installed to: other content never shares a folder."""
        return f"{self.version}-{self.digest[:8]}"


class Target(NamedTuple):
    """What wheels are made for.

    Attributes:
        python: Version of Python, as ``3.11``.
        machine: The machine's architecture, as ``x86_64``.
        glibc: Version of the C library, as ``2.36``.
    """

    python: str
    machine: str
    glibc: str

    @property
    def is_controller(self) -> bool:
        """Whether wheels for the controller itself fit."""
        here = f"{sys.version_info[0]}.{sys.version_info[1]}"
        return here == self.python and sysconfig.get_platform() == f"linux-{self.machine}"

    def platforms(self) -> list[str]:
        """The manylinux platforms that the host can use, newest first."""
        major, minor = (int(part) for part in self.glibc.split(".")[:2])
        found = [f"manylinux_{major}_{number}_{self.machine}" for number in range(minor, 16, -1)]
        return [*found, f"manylinux2014_{self.machine}"]


def read_source(folder: Path = SOURCE, lock: Path | None = LOCK) -> Source:
    """The version and the checksum of a source tree.

    Args:
        folder: The folder with pyproject.toml.
        lock: The file that names the versions of all that the runtime needs; None for the newest that it allows.

    Raises:
        AnsibleError: There is no runtime in the folder, or no such lock.
    """
    package = folder / "src" / "fractal_slurm"
    try:
        text = (package / "__init__.py").read_text(encoding="utf-8")
        paths = [folder / "pyproject.toml", *sorted(path for path in package.rglob("*") if _is_source(path))]
        digest = hashlib.sha256()
        for path in paths:
            content = path.read_bytes()
            digest.update(f"{path.relative_to(folder)}\0{len(content)}\0".encode() + content)
        digest.update(lock.read_bytes() if lock else b"")
    except OSError as error:
        if lock is not None and error.filename == str(lock):
            raise AnsibleError(f"the lock {lock} can't be read: {error.strerror}") from error
        raise AnsibleError(f"the runtime's source is not in {folder}: {error.strerror}: {error.filename}") from error
    match = re.search(r"^__version__ = [\"']([0-9][0-9A-Za-z.+]*)[\"']$", text, re.MULTILINE)
    if match is None:
        raise AnsibleError(f"{package / '__init__.py'} states no __version__")
    return Source(match[1], digest.hexdigest(), lock)


def _is_source(path: Path) -> bool:
    return path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"


def default_cache() -> Path:
    """Where wheelhouses are kept on the controller."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "fractal-slurm"


def require_pip() -> None:
    """Make sure that wheels can be made here.

    Raises:
        AnsibleError: The controller has no pip.
    """
    if importlib.util.find_spec("pip") is None:
        raise AnsibleError(
            f"pip is missing on the controller, for the Python that runs Ansible ({sys.executable}): install the "
            f"distribution's package of it (python3-pip), or run `{sys.executable} -m ensurepip`"
        )


def make_archive(
    source: Source,
    target: Target,
    *,
    cache: Path,
    find_links: list[str],
    no_index: bool,
    folder: Path = SOURCE,
) -> Path:
    """A tar archive of all wheels for one kind of host, from the cache where it was made before.

    Args:
        source: The runtime's source.
        target: The kind of host.
        cache: Folder of the archives.
        find_links: Folders (or pages) with wheels, besides the index.
        no_index: Ask no index, only ``find_links``.
        folder: The folder with the source's pyproject.toml.

    Raises:
        AnsibleError: The lock does not fit the runtime, or pip failed; with its words.
    """
    cache.mkdir(parents=True, exist_ok=True)
    archive = cache / f"{source.folder_name}-py{target.python}-{target.machine}-glibc{target.glibc}.tar"
    # Ansible works on several hosts at once, each in a process of its own: one of them makes the archive.
    with _locked(archive.with_suffix(".lock")):
        if not archive.exists():
            with tempfile.TemporaryDirectory(prefix="wheelhouse-", dir=cache) as work:
                _fill(Path(work), target, folder, source.lock, find_links, no_index)
                temporary = archive.with_suffix(".part")
                with tarfile.open(temporary, "w") as tar:
                    for path in sorted(Path(work).iterdir()):
                        tar.add(path, arcname=path.name)
                temporary.replace(archive)
    return archive


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _fill(work: Path, target: Target, folder: Path, lock: Path | None, find_links: list[str], no_index: bool) -> None:
    """Put all wheels, and a manifest of their checksums, into an empty folder."""
    index = ["--no-index"] if no_index else []
    for place in find_links:
        index += ["--find-links", place]
    with tempfile.TemporaryDirectory() as scratch:
        # A copy: the collection may be installed where nothing can be written, and the build leaves nothing in it.
        copy = Path(scratch) / "python_runtime"
        shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("__pycache__", "*.pyc", ".*", "build", "dist"))
        _pip(["wheel", "--no-deps", "--wheel-dir", str(work), *index, str(copy)])
    own = next(work.glob("fractal_slurm-*.whl"))
    options = ["--dest", str(work), "--only-binary=:all:"]
    if not target.is_controller:
        number = target.python.replace(".", "")
        options += ["--implementation", "cp", "--python-version", target.python]
        options += [word for abi in (f"cp{number}", "abi3", "none") for word in ("--abi", abi)]
        options += [word for platform in target.platforms() for word in ("--platform", platform)]
    needed = ["pip", *_requirements(own, target)]
    if lock is None:
        _pip(["download", *options, *index, *needed])
    else:
        with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as locked:
            locked.write("\n".join(locked_requirements(lock, needed, target)))
            locked.flush()
            _pip(["download", *options, "--no-deps", *index, "--requirement", locked.name])
    wheels = {}
    for path in sorted(work.glob("*.whl")):
        name, version = path.name.split("-")[:2]
        wheels[path.name] = {
            "name": name.replace("_", "-").lower(),
            "version": version,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
    (work / _MANIFEST).write_text(json.dumps(wheels, indent=2), encoding="utf-8")


def locked_requirements(lock: Path, needed: list[str], target: Target) -> list[str]:
    """What a lock names for a kind of host, a line a package, in pip's words.

    Args:
        lock: A file of exact versions in pip's format, with or without checksums.
        needed: What the runtime asks for.
        target: The kind of host.

    Raises:
        AnsibleError: It does not have what the runtime asks for; all faults.
    """
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.utils import canonicalize_name

    lines: dict[str, str] = {}
    versions: dict[str, str] = {}
    faults = []
    for line in re.sub(r"\\\n", " ", lock.read_text(encoding="utf-8")).splitlines():
        words, *hashes = re.sub(r"(^|\s)#.*", "", line).strip().split(" --hash=")
        if not words:
            continue
        try:
            requirement = Requirement(words.strip())
        except InvalidRequirement:
            faults.append(f"{words!r} is no package with its version")
            continue
        pins = [pin.version for pin in requirement.specifier if pin.operator == "==" and "*" not in pin.version]
        if not pins:
            faults.append(f"{words!r} names no exact version (NAME==VERSION)")
        elif requirement.marker is None or requirement.marker.evaluate(_environment(target)):
            name = canonicalize_name(requirement.name)
            versions[name] = pins[0]
            lines[name] = " ".join([f"{name}=={pins[0]}", *(f"--hash={digest.strip()}" for digest in hashes)])
    for text in needed:
        requirement = Requirement(text)
        pinned = versions.get(canonicalize_name(requirement.name))
        if pinned is None:
            faults.append(f"{requirement.name} is missing: the runtime needs {text}")
        elif not requirement.specifier.contains(pinned, prereleases=True):
            faults.append(f"it names {requirement.name} {pinned}, and the runtime needs {text}")
    if faults:
        raise AnsibleError(f"the lock {lock} does not serve: {'; '.join(faults)}")
    return [lines[name] for name in sorted(lines)]


def _environment(target: Target) -> dict[str, str]:
    """What markers ask of the target's Python."""
    return {
        "python_version": target.python,
        "python_full_version": f"{target.python}.0",
        "platform_machine": target.machine,
        "extra": "",
    }


def _requirements(wheel: Path, target: Target) -> list[str]:
    """What a wheel needs on the target: pip judges environment markers by the Python that runs it."""
    import zipfile

    from packaging.requirements import Requirement

    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = archive.read(name).decode("utf-8")
    found = []
    for line in metadata.splitlines():
        if not line:
            break
        if not line.startswith("Requires-Dist:"):
            continue
        requirement = Requirement(line.partition(":")[2].strip())
        if requirement.marker is None or requirement.marker.evaluate(_environment(target)):
            requirement.marker = None
            found.append(str(requirement))
    return found


def _pip(arguments: list[str]) -> None:
    """Run the controller's pip.

    Raises:
        AnsibleError: It failed.
    """
    argv = [sys.executable, "-m", "pip", arguments[0], "--disable-pip-version-check", "--quiet", *arguments[1:]]
    result = subprocess.run(argv, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if result.returncode == 0:
        return
    # Where a build fails, pip quotes its own words in a frame.
    words = [line.strip() for line in result.stderr.splitlines() if line.strip().startswith("ERROR")]
    words = words or [result.stderr.strip()[-2000:]]
    raise AnsibleError(
        f"the runtime's wheels can't be made on the controller: pip {arguments[0]}: {' '.join(words)} (without an "
        "index, set fractal_slurm_runtime_find_links to a folder of wheels and fractal_slurm_runtime_no_index)"
    )
