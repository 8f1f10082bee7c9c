# -*- coding: utf-8 -*-
# SPDX-License-Identifier: GPL-3.0-or-later
"""Installs, checks, switches and removes versions of the runtime on a host, for the module ``fractal.slurm.runtime``.

Below a prefix, each version has a folder: a virtual environment with a marker. A link ``current`` names one of them. It
is switched last. A version is built beside its folder, and takes its place in one step. Standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import json
import os
import platform
import pwd
import re
import shutil
import stat
import tarfile
import tempfile

from .atomic import replace_link, write_whole
from .commands import run
from .managed_file import unwritable
from .trusted_path import fault_of_path, fault_of_tree, unreachable_part

TYPE_CHECKING = False  # what follows is read by type checkers alone
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import IO, Any

MARKER = "fractal-slurm-installed.json"
CURRENT = "current"
MINIMUM = (3, 10)
# The room that one version takes, and some more. Most of its files have few kilobytes.
_ROOM_BYTES, _ROOM_FILES = 150 * 1000 * 1000, 6000
_UNPACKED_BYTES = 40 * 1000 * 1000
_VERSION_FOLDER = re.compile(r"[0-9][0-9A-Za-z.+]*-[0-9a-f]{8}")
# The folder in which a version is built. Its name has the length of the version's own: paths in files are replaced, and
# the sizes of files must stay as they are.
_BUILD_FOLDER = re.compile(r"\.[0-9A-Za-z.+]*-[0-9a-f]{8}(\.old)?")
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_CANDIDATES = ["/usr/bin/python3"] + [
    "%s/python3.%d" % (folder, minor) for minor in range(20, 9, -1) for folder in ("/usr/bin", "/usr/local/bin")
]
# The interpreter in question runs this program.
_DESCRIBE = """
import json, platform, sys, sysconfig
print(json.dumps({"version": sys.version_info[:2], "platform": sysconfig.get_platform(),
                  "libc": platform.libc_ver(), "implementation": sys.implementation.name}))
"""
# Compares what is installed with the marker, looks for every file, and imports every module of the runtime.
_IMPORT_TEST = """
import importlib, importlib.metadata, json, os, pkgutil, sys
marker = json.load(open(sys.argv[1], encoding="utf-8"))
for wheel in marker["wheels"].values():
    found = importlib.metadata.distribution(wheel["name"])
    if found.version != wheel["version"]:
        sys.exit("%s %s is installed, and %s was" % (wheel["name"], found.version, wheel["version"]))
    for file in found.files:
        path = file.locate()
        if not os.path.exists(path) or (file.size is not None and os.path.getsize(path) != file.size):
            sys.exit("%s is missing, or not as it was installed" % path)
import fractal_slurm
for module in pkgutil.walk_packages(fractal_slurm.__path__, "fractal_slurm."):
    if not module.name.rpartition(".")[2].startswith("_"):
        importlib.import_module(module.name)
"""


class InstallError(Exception):
    """Something went wrong on the host; the message is a sentence for whoever must act."""


def run_python(argv: Sequence[str], timeout: float = 900) -> tuple[int, str]:
    """Run an interpreter. Nothing in the environment changes what pip and Python do.

    Returns:
        Two values: the exit code, and one text with output and errors.
    """
    answer = run(argv, timeout=timeout, environment={"HOME": "/nonexistent", "PIP_CONFIG_FILE": os.devnull})
    return answer.status, "\n".join(text for text in (answer.out.strip(), answer.err) if text)


def describe_python(path: str) -> dict[str, str] | str:
    """Describe an interpreter: its version, machine and C library.

    Returns:
        The description, with the keys path, python, machine and glibc; or a sentence that says why the interpreter does
        not serve.
    """
    if not os.path.isfile(path) or not os.access(path, os.X_OK):
        return "%s is not there" % path
    blocked = unreachable_part(path)
    if blocked:
        return "%s can't be run by other users, who can't pass %s" % (path, blocked)
    untrusted = fault_of_path(path)  # before it runs with our rights
    if untrusted:
        return "%s is not safe to run: %s" % (path, untrusted)
    status, out = run_python([path, "-I", "-c", _DESCRIBE], timeout=60)
    try:
        found = json.loads(out) if status == 0 else None
    except ValueError:
        found = None
    if found is None:
        return "%s does not run" % path
    if tuple(found["version"]) < MINIMUM or found["implementation"] != "cpython":
        return "%s is %s %s" % (path, found["implementation"], ".".join(map(str, found["version"])))
    if found["libc"][0] != "glibc" or not found["platform"].startswith("linux-"):
        return "%s runs on %s without glibc, for which there are no wheels" % (path, found["platform"])
    return {
        "path": path,
        "python": ".".join(map(str, found["version"])),
        "machine": found["platform"][len("linux-") :],
        "glibc": found["libc"][1],
    }


def find_python(wanted: str | None) -> dict[str, str] | str:
    """The interpreter to use.

    Args:
        wanted: The absolute path that the administrator asks for; None for the first interpreter that serves.

    Returns:
        The description of the interpreter, or a sentence that says why there is none.
    """
    if wanted:
        return describe_python(wanted)
    reasons = []
    for path in _CANDIDATES:
        found = describe_python(path)
        if isinstance(found, dict):
            return found
        if not found.endswith("is not there"):
            reasons.append(found)
    return "; ".join(reasons) or "there is none in /usr/bin and /usr/local/bin"


def python_package(os_release: str) -> str | None:
    """The package of this distribution that brings a Python which serves; None where none is known.

    Args:
        os_release: The text of /etc/os-release.
    """
    fields = dict(re.findall(r"^(ID|ID_LIKE|VERSION_ID)=[\"']?([^\"'\n]*)", os_release, re.MULTILINE))
    names = [fields.get("ID", "")] + fields.get("ID_LIKE", "").split()
    version = tuple(int(part) for part in re.findall(r"[0-9]+", fields.get("VERSION_ID", "")))
    # python3 is new enough from some release on. Before it, some distributions have a second package.
    if names[0] == "fedora":
        return "python3"
    if "rhel" in names or "fedora" in names:
        if version >= (10,):
            return "python3"
        return "python3.11" if version >= (8,) else None
    first: tuple[int, ...]
    for name, first in (("ubuntu", (22, 4)), ("debian", (12,))):
        if names[0] == name:
            return "python3" if version >= first else None
    return None


def target_of_package(package: str | None) -> dict[str, str] | None:
    """What wheels have to fit once a package has brought its Python; None where its name does not tell.

    Args:
        package: The package's name, such as ``python3.11``.
    """
    found = re.fullmatch(r"python(3)\.?([0-9]{2})", package or "")
    libc, version = platform.libc_ver()
    if found is None or libc != "glibc":
        return None
    return {"python": "%s.%s" % found.groups(), "machine": platform.machine(), "glibc": version}


def read_os_release() -> str:
    """The text of /etc/os-release. It is empty where there is no such file."""
    for path in ("/etc/os-release", "/usr/lib/os-release"):
        try:
            with open(path, encoding="utf-8", errors="replace") as stream:
                return stream.read()
        except OSError:
            continue
    return ""


def toml(settings: Mapping[str, object]) -> str:
    """The text of the runtime's settings file.

    Args:
        settings: Names to strings, numbers, truth values, and tables of such.
    """
    lines = ["# Managed by Ansible (role fractal.slurm.runtime): what is changed by hand here is lost."]
    return "\n".join(lines + _toml_lines(settings, "")) + "\n"


def _toml_lines(table: Mapping[str, object], above: str) -> list[str]:
    """The lines of one table and of those in it. Plain values look the same in JSON and in TOML."""
    lines = []
    for name in sorted(table):
        if not isinstance(table[name], dict):
            lines.append("%s = %s" % (_toml_key(name), json.dumps(table[name], ensure_ascii=False)))
    for name in sorted(table):
        inner = table[name]
        if isinstance(inner, dict):
            path = above + _toml_key(name)
            lines += ["", "[%s]" % path] + _toml_lines(inner, path + ".")
    return lines


def _toml_key(name: str) -> str:
    """A key, quoted where it is no plain word."""
    return name if re.match(r"[A-Za-z0-9_-]+\Z", name) else json.dumps(name, ensure_ascii=False)


class Prefix:
    """The versions of the runtime below a folder.

    Args:
        path: The folder.
        command_link: Path of the link to the command; None for no link.
    """

    def __init__(self, path: str, command_link: str | None = None) -> None:
        self.path = path.rstrip("/")
        self._command_link = command_link

    def trust_fault(self) -> str | None:
        """Why nothing below the prefix may be read, run or made, or None. Others could have put it there."""
        fault = fault_of_path(self.path)
        return (
            "the runtime's folder %s (fractal_slurm_runtime_prefix) is not safe: %s" % (self.path, fault)
            if fault
            else None
        )

    def folder(self, version: str) -> str:
        """The folder of a version."""
        return os.path.join(self.path, version)

    def versions(self) -> list[str]:
        """Names of all installed versions. The newest installation comes first."""
        try:
            names = [name for name in os.listdir(self.path) if self.marker(name) is not None]
        except FileNotFoundError:
            return []
        return sorted(names, key=lambda name: os.stat(self._marker_path(name)).st_mtime, reverse=True)

    def current(self) -> str | None:
        """The version that the link names, or None."""
        try:
            return os.path.basename(os.readlink(os.path.join(self.path, CURRENT)))
        except OSError:
            return None

    def previous(self, bundled: str | None = None) -> str | None:
        """The version that was current before the collection's own; None where there is none to go back to.

        The answer stays the same however often a host goes back. A host that has gone back already has the version that
        is meant. So does a host that never had the collection's version.

        Args:
            bundled: Name of the collection's own version.
        """
        current = self.current() or ""
        marker = self.marker(current)
        if marker is None:
            return None
        if marker.get("gone_back_from") or (bundled and current != bundled and self.marker(bundled) is None):
            return current
        before: str | None = marker.get("replaced")
        if before and before == bundled:
            return current
        return before if before and self.marker(before) is not None else None

    def _kept(self) -> list[str | None]:
        """The versions that are never superfluous: the current one, and those that it can be exchanged for."""
        current = self.current()
        marker = self.marker(current or "") or {}
        return [current, marker.get("replaced"), marker.get("gone_back_from")]

    def _marker_path(self, version: str) -> str:
        return os.path.join(self.folder(version), MARKER)

    def marker(self, version: str) -> dict[str, Any] | None:
        """The marker of a version, which is written when it has been installed; None where there is none."""
        if not _VERSION_FOLDER.fullmatch(version):
            return None
        try:
            with open(self._marker_path(version), encoding="utf-8") as stream:
                found: dict[str, Any] = json.load(stream)
                return found
        except (OSError, ValueError):
            return None

    def is_sound(self, version: str, digest: str | None = None) -> bool:
        """Whether a version is wholly installed: its marker is there and fits, and the import test passes.

        Args:
            version: Its name.
            digest: Checksum of the source that it must come from; None for any.
        """
        marker = self.marker(version)
        if marker is None or (digest is not None and marker.get("digest") != digest):
            return False
        return _import_fault(self.folder(version)) is None

    def install(self, version: str, digest: str, python: str, archive: str) -> None:
        """Install a version from an archive of wheels.

        The version is built and tried beside its folder. A broken version may be there already, and runs in flight may
        use it.

        Args:
            version: Its name.
            digest: Checksum of the source.
            python: Path of the interpreter.
            archive: Path of the archive of wheels with their manifest.

        Raises:
            InstallError: A step failed. The message has the words of that step. What was there before is still there.
        """
        os.umask(0o022)
        _make_folders(self.path)
        fault = self.trust_fault()  # others may have made a part of it meanwhile
        if fault:
            raise InstallError(fault)
        with _alone(self.path):
            if not self.is_sound(version, digest):  # another run of Ansible may have made it meanwhile
                self._install(version, digest, python, archive)

    def _install(self, version: str, digest: str, python: str, archive: str) -> None:
        folder = self.folder(version)
        build = self.folder("." + version[1:])
        if os.path.lexists(build):
            shutil.rmtree(build)  # left by an installation that did not end
        try:
            wheels = _build(build, folder, python, archive)
            before = self.marker(version) or {}
            marker: dict[str, Any] = {"version": version, "digest": digest, "wheels": wheels, "python": python}
            marker.update({key: before[key] for key in ("replaced", "gone_back_from") if before.get(key)})
            _write_marker(build, marker)
            fault = _import_fault(build)
            if fault:
                raise InstallError("the import test of %s failed: %s" % (folder, fault))
            _take_place(build, folder)
        finally:
            if os.path.lexists(build):
                shutil.rmtree(build)

    def place_faults(self, installs: bool) -> list[str]:
        """Why the prefix can't be changed, one sentence for each fault.

        Args:
            installs: Whether a version will be installed. Else only links will be set.
        """
        faults = []
        folder = _nearest(self.path)
        fault = unwritable(folder)
        if fault:
            faults.append("%s (fractal_slurm_runtime_prefix)" % fault)
        elif installs:
            fault = _room_fault(folder, _ROOM_BYTES, _ROOM_FILES)
            if fault:
                faults.append("%s (fractal_slurm_runtime_prefix)" % fault)
        if installs:
            fault = _room_fault(tempfile.gettempdir(), _UNPACKED_BYTES, 50)
            if fault:
                faults.append("%s, where wheels are unpacked (TMPDIR)" % fault)
        return faults

    def links_differ(self, version: str) -> bool:
        """Whether the links need a change to make a version the current one."""
        return any(_read_link(path) != target for path, target in self._links(version))

    def _links(self, version: str) -> list[tuple[str, str]]:
        links = [(os.path.join(self.path, CURRENT), version)]
        if self._command_link:
            links.append((self._command_link, os.path.join(self.path, CURRENT, "bin", "fractal-slurm")))
        return links

    def link_fault(self) -> str | None:
        """Why the link to the command can't be set, or None."""
        link = self._command_link
        if not link:
            return None
        if os.path.lexists(link) and not os.path.islink(link):
            return "%s is there and no link of ours: move it away, or set fractal_slurm_runtime_command" % link
        if not os.path.isdir(os.path.dirname(link)):
            return "the folder %s is not there: make it first, or set fractal_slurm_runtime_command" % os.path.dirname(
                link
            )
        fault = unwritable(os.path.dirname(link)) if _read_link(link) != self._links("")[1][1] else None
        return "%s (fractal_slurm_runtime_command)" % fault if fault else None

    def switch(self, version: str, back: bool = False) -> None:
        """Make a version the current one. Each link is replaced in one step.

        Args:
            version: Its name.
            back: Whether this goes back to an older version. Then the marker still says which version that one had
                replaced.

        Raises:
            InstallError: The version is not installed. The links are as they were.
        """
        before = self.current()
        if before and before != version:
            marker = self.marker(version)
            if marker is None:
                raise InstallError("the version %s is no longer installed below %s: run again" % (version, self.path))
            marker.pop("gone_back_from", None)
            marker["gone_back_from" if back else "replaced"] = before
            _write_marker(self.folder(version), marker)
        for path, target in self._links(version):
            if _read_link(path) == target:
                continue
            replace_link(path, target)

    def superfluous(self, keep: int) -> list[str]:
        """Versions that are neither current, nor among the newest ``keep``, nor in use on this host."""
        chosen = [name for name in self.versions() if name not in self._kept()]
        kept = max(0, keep - 2)
        return [name for name in chosen[kept:] if not self.in_use(name)]

    def in_use(self, version: str) -> list[int]:
        """Ids of the processes on this host that run something in a version's folder."""
        folder = self.folder(version) + "/"
        found = []
        for name in os.listdir("/proc"):
            if not (name.isascii() and name.isdigit()) or int(name) == os.getpid():
                continue
            try:
                with open("/proc/%s/cmdline" % name, "rb") as stream:
                    command = stream.read().split(b"\0")
            except OSError:
                continue
            if any(part.startswith(folder.encode()) for part in command):
                found.append(int(name))
        return found

    def uses(self) -> list[str]:
        """What runs on this host, one sentence for each version in use."""
        found = []
        for name in self.versions():
            pids = self.in_use(name)
            if pids:
                shown = ", ".join(str(pid) for pid in sorted(pids)[:10])
                found.append("%s by %d processes on this host (%s)" % (name, len(pids), shown))
        return found

    def delete(self, version: str) -> None:
        """Remove a version. Its marker goes first, so that half a version never counts as installed."""
        if os.path.exists(self._marker_path(version)):
            os.unlink(self._marker_path(version))
        shutil.rmtree(self.folder(version))

    def remnants(self) -> list[str]:
        """All paths that are ours: versions, whole or not, and links."""
        found = []
        if self._command_link and (_read_link(self._command_link) or "").startswith(self.path + "/"):
            found.append(self._command_link)
        if os.path.islink(os.path.join(self.path, CURRENT)):
            found.append(os.path.join(self.path, CURRENT))
        if os.path.isdir(self.path):
            names = sorted(os.listdir(self.path))
            found += [
                self.folder(name) for name in names if _VERSION_FOLDER.fullmatch(name) or _BUILD_FOLDER.fullmatch(name)
            ]
        return found

    def remove_all(self) -> None:
        """Remove all that is ours, and the prefix itself where nothing else is in it."""
        for path in self.remnants():
            if os.path.islink(path):
                os.unlink(path)
            else:
                shutil.rmtree(path)
        if os.path.isdir(self.path) and not os.listdir(self.path):
            os.rmdir(self.path)


def queued_jobs(bin_dirs: Iterable[str]) -> list[str]:
    """Our jobs in SLURM's queue, as a list of at most one sentence. It is empty where SLURM can't be asked.

    Args:
        bin_dirs: Folders in which squeue is looked for first.
    """
    folders = list(bin_dirs) + ["/usr/bin", "/usr/local/bin"]
    squeue = next(
        (path for path in (os.path.join(name, "squeue") for name in folders) if os.access(path, os.X_OK)), None
    )
    if squeue is None or fault_of_path(squeue):
        return []
    answer = run([squeue, "--noheader", "--all", "--format=%i %u %k"], timeout=30)
    if answer.status != 0:
        return []
    jobs = re.findall(r"^([0-9]+)\S* ([\w.@+\\$-]+) fractal-slurm:(?:[0-9a-f-]+:)?[0-9a-f]{16}\s*$", answer.out, re.M)
    if not jobs:
        return []
    shown = ", ".join("%s of %s" % job for job in jobs[:10])
    need = "1 job in the queue needs it" if len(jobs) == 1 else "%d jobs in the queue need it" % len(jobs)
    return ["%s (%s%s)" % (need, shown, ", ..." if len(jobs) > 10 else "")]


def journals(settings_file: str | None, service_user: str | None) -> list[str]:
    """Folders with journals, as far as they can be found: that of the settings, or that of the service account.

    Args:
        settings_file: Path of the runtime's settings file. It may be None or empty, and the file may be missing.
        service_user: Name of the account that runs the service; None where that is not known.
    """
    found = []
    try:
        with open(settings_file or os.devnull, encoding="utf-8") as stream:
            found = re.findall(r'^state_dir\s*=\s*"([^"\\]+)"\s*$', stream.read(1000000), re.MULTILINE)
    except (OSError, ValueError):
        pass
    if not found and service_user:
        with contextlib.suppress(KeyError):
            found = [os.path.join(pwd.getpwnam(service_user).pw_dir, ".local", "state", "fractal-slurm")]
    return [path for path in found if os.path.isdir(path) and os.listdir(path)]


@contextlib.contextmanager
def _alone(folder: str) -> Iterator[None]:
    """Let one process at a time install to a folder, where the file system can lock folders."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # NFS locks files alone: there, one host installs for all
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _import_fault(folder: str) -> str | None:
    """Why the version in a folder does not work, or None. It only runs if nobody else could have written it."""
    python = os.path.join(folder, "bin", "python")
    if not os.path.exists(python):
        return "there is no %s" % python
    untrusted = fault_of_tree(folder)
    if untrusted:
        return untrusted
    status, out = run_python([python, "-I", "-c", _IMPORT_TEST, os.path.join(folder, MARKER)], timeout=120)
    return None if status == 0 else out.strip().splitlines()[-1] if out.strip() else "exit code %d" % status


def _build(build: str, folder: str, python: str, archive: str) -> dict[str, dict[str, str]]:
    """Make a virtual environment that will be moved.

    Args:
        build: The folder in which it is made.
        folder: The folder to which it will be moved. All paths in it name this folder.
        python: Path of the interpreter.
        archive: Path of the archive of wheels with their manifest.

    Returns:
        The manifest: file name to name, version and sha256.
    """
    with tempfile.TemporaryDirectory(prefix="fractal-slurm-") as work:
        wheels = unpack(archive, work)
        requirements = os.path.join(work, "requirements.txt")
        with open(requirements, "w", encoding="utf-8") as stream:
            for name in sorted(wheels):
                wheel = wheels[name]
                stream.write("%s==%s --hash=sha256:%s\n" % (wheel["name"], wheel["version"], wheel["sha256"]))
        pip = next(os.path.join(work, name) for name in wheels if wheels[name]["name"] == "pip")
        # Made without pip, since Debian keeps ensurepip in a package of its own. A wheel of pip runs as it is.
        _must([python, "-I", "-m", "venv", "--without-pip", build], "the virtual environment can't be made")
        interpreter = os.path.join(build, "bin", "python")
        _must(
            [interpreter, os.path.join(pip, "pip"), "install", "--quiet", "--no-index", "--no-cache-dir"]
            + ["--disable-pip-version-check", "--no-compile"]
            + ["--find-links", work, "--require-hashes", "-r", requirements],
            "pip can't install the wheels",
        )
    texts = [os.path.join(build, "pyvenv.cfg")]
    texts += [os.path.join(build, "bin", name) for name in os.listdir(os.path.join(build, "bin"))]
    for path in texts:
        if not os.path.islink(path):
            _replace_in(path, os.fsencode(build), os.fsencode(folder))
    _must(
        [interpreter, "-I", "-m", "compileall", "-q", "-s", build, "-p", folder]
        + [os.path.join(build, name) for name in ("lib", "share") if os.path.isdir(os.path.join(build, name))],
        "the modules can't be compiled",
    )
    open_to_all(build)
    return wheels


def _replace_in(path: str, old: bytes, new: bytes) -> None:
    with open(path, "rb") as source:
        content = source.read()
    if old in content:
        with open(path, "wb") as target:
            target.write(content.replace(old, new))


def _write_marker(folder: str, marker: Mapping[str, Any]) -> None:
    text = json.dumps(marker, indent=2, sort_keys=True)
    write_whole(os.path.join(folder, MARKER), text.encode("utf-8"), lambda temporary: os.chmod(temporary, 0o644))


def _take_place(build: str, folder: str) -> None:
    """Put a folder in the place of another. Where the system can exchange them, one is there at any moment."""
    if not os.path.lexists(folder):
        os.rename(build, folder)
        return
    exchange = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    paths = (os.fsencode(build), os.fsencode(folder))
    if exchange is None or exchange(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE) != 0:
        # NFS can't exchange them, nor can a C library before 2.28. Then the folder is away for a moment.
        away = build + ".old"
        os.rename(folder, away)
        os.rename(build, folder)
        os.rename(away, build)


def _nearest(path: str) -> str:
    """The deepest folder of a path that is there."""
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path


def _room_fault(folder: str, size: int, files: int) -> str | None:
    """Why something does not fit into a file system, or None. What a file system does not count never runs out."""
    try:
        room = os.statvfs(folder)
    except OSError:
        return None
    free = room.f_frsize * (room.f_bfree if os.geteuid() == 0 else room.f_bavail)
    if room.f_blocks and free < size:
        return "the file system of %s has %d MB left, and %d MB are needed" % (folder, free // 10**6, size // 10**6)
    if room.f_files and room.f_ffree < files:
        return "the file system of %s has room for %d more files, and %d are needed" % (folder, room.f_ffree, files)
    return None


def _read_link(path: str) -> str | None:
    try:
        return os.readlink(path)
    except OSError:
        return None


def _make_folders(path: str) -> None:
    if not os.path.isdir(path):
        _make_folders(os.path.dirname(path))
        try:
            os.mkdir(path, 0o755)
        except FileExistsError:
            return  # others made it meanwhile; it is checked before it is used
        os.chmod(path, 0o755)  # noqa: S103 - for all to use, whatever the umask


def open_to_all(folder: str) -> None:
    """Let all users read everything, and run what its owner can run."""
    for parent, _folders, files in os.walk(folder):
        os.chmod(parent, 0o755)  # noqa: S103 - for all to use
        for name in files:
            path = os.path.join(parent, name)
            if not os.path.islink(path):
                os.chmod(path, 0o755 if os.stat(path).st_mode & stat.S_IXUSR else 0o644)


def unpack(archive: str | IO[bytes], work: str) -> dict[str, dict[str, str]]:
    """Unpack the wheels and check each against the manifest.

    Args:
        archive: Path of the archive, or an open file.
        work: An empty folder.

    Returns:
        The manifest: file name to name, version and sha256.
    """
    opened = tarfile.open(archive) if isinstance(archive, str) else tarfile.open(fileobj=archive)
    with opened as tar:
        for member in tar.getmembers():
            is_ours = member.isfile() and os.path.basename(member.name) == member.name
            source = tar.extractfile(member) if is_ours else None
            if source is None:
                raise InstallError("the archive of wheels holds %r, which does not belong there" % member.name)
            with source, open(os.path.join(work, member.name), "wb") as copy:
                shutil.copyfileobj(source, copy)
    with open(os.path.join(work, "manifest.json"), encoding="utf-8") as stream:
        wheels: dict[str, dict[str, str]] = json.load(stream)
    for name, wheel in wheels.items():
        with open(os.path.join(work, name), "rb") as unpacked:
            if hashlib.sha256(unpacked.read()).hexdigest() != wheel["sha256"]:
                raise InstallError("the wheel %s does not have the checksum that its manifest states" % name)
    return wheels


def _must(argv: Sequence[str], what: str) -> None:
    status, out = run_python(argv)
    if status != 0:
        raise InstallError("%s: %s" % (what, " ".join(out.split())[-2000:]))
