# -*- coding: utf-8 -*-
# SPDX-License-Identifier: GPL-3.0-or-later
"""Puts the engine into the virtual environment of a fractal-server, for the module ``fractal.slurm.server_engine``.

All that is added lies in one folder of the environment. One .pth file names the folder, so Python looks there last. No
package of the server is replaced. Removing the engine leaves nothing behind. Standard library only.

The environment's owner decides what runs in it. So nothing in it is run, read or written with other rights than theirs.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import tempfile

from . import runtime_install
from .atomic import write_whole
from .commands import call_as, run
from .trusted_path import fault_of_path, fault_of_tree

TYPE_CHECKING = False  # what follows is read by type checkers alone
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any

    from .commands import Answer

FOLDER = "fractal-slurm-engine"
PTH = "fractal-slurm-engine.pth"
MARKER = runtime_install.MARKER
PACKAGE = "fractal-slurm"
_VERSION_FOLDER = re.compile(r"[0-9][0-9A-Za-z.+]*-[0-9a-f]{8}")
_KEPT = 2
_WORK_S = 900
# Describes the environment. What is ours is left out.
_DESCRIBE = (
    """
import importlib.metadata, json, os, platform, sys, sysconfig
places = [path for path in sys.path if os.sep + "%s" + os.sep not in path]
found = {}
for entry in importlib.metadata.distributions(path=places):
    if entry.metadata["Name"]:
        found.setdefault(entry.metadata["Name"].lower().replace("_", "-").replace(".", "-"), entry.version)
print(json.dumps({"version": sys.version_info[:2], "platform": sysconfig.get_platform(), "libc": platform.libc_ver(),
                  "implementation": sys.implementation.name, "prefix": sys.prefix, "base": sys.base_prefix,
                  "purelib": sysconfig.get_path("purelib"), "distributions": found}))
"""
    % FOLDER
)
# Exit code 0: all is well. 3: the lines say what this fractal-server lacks. Anything else: the engine does not start.
_CHECK = """
import importlib, importlib.metadata, os, runpy, sys
folder = sys.argv[1]
sys.path[:] = [path for path in sys.path if os.sep + "%s" + os.sep not in path] + [folder]
for entry in importlib.metadata.distributions(path=[folder]):
    for file in entry.files or ():
        path = file.locate()
        if not str(path).endswith(".pyc") and "/../" not in str(path) and not os.path.exists(path):
            sys.exit("%s is missing" % path)
try:
    from packaging.requirements import Requirement
except ImportError:
    Requirement = None
for text in (importlib.metadata.requires("fractal-slurm") or ()) if Requirement else ():
    needed = Requirement(text)
    if needed.marker is None or needed.marker.evaluate({"extra": ""}):
        version = importlib.metadata.version(needed.name)
        if not needed.specifier.contains(version, prereleases=True):
            sys.exit("the environment has %s %s, and the engine needs %s" % (needed.name, version, text))
importlib.import_module("fractal_slurm.api")
sys.argv = ["fractal_slurm_server"]
runpy.run_module("fractal_slurm_server", run_name="__main__", alter_sys=True)
""".replace("%s", FOLDER, 1)


class EngineError(Exception):
    """Why the engine can't be installed; a sentence for whoever must act."""


class Venv:
    """The virtual environment of a fractal-server.

    Args:
        path: Its folder.

    Raises:
        EngineError: It can't be used: it is no such environment, or root would have to trust what others can write.
    """

    def __init__(self, path: str) -> None:
        self.path = os.path.realpath(path)
        self.python = os.path.join(self.path, "bin", "python")
        if not os.path.isfile(os.path.join(self.path, "pyvenv.cfg")) or not os.path.exists(self.python):
            raise EngineError(
                "%s is no virtual environment of Python: give the one that fractal-server runs from" % path
            )
        owner = os.stat(self.path).st_uid
        try:
            name = pwd.getpwuid(owner).pw_name
        except KeyError:
            raise EngineError("%s belongs to the uid %d, which is no account of this host" % (path, owner)) from None
        if os.geteuid() not in (0, owner):
            raise EngineError("%s belongs to %s: run with become, as root or as %s" % (path, name, name))
        self._user = name if owner != os.geteuid() else None
        if owner == 0:
            fault = fault_of_path(self.path) or fault_of_tree(self.path)
            if fault:
                raise EngineError("%s is not safe to use as root: %s" % (path, fault))
        self.found = self._describe()

    def _run(self, *words: str) -> Answer:
        return run([self.python, "-I", "-B"] + list(words), timeout=120, user=self._user)

    def _as_owner(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function that changes the environment, with the rights of the environment's owner."""
        try:
            if self._user is None:
                return function(*arguments)
            return call_as(self._user, function, *arguments, timeout=_WORK_S)
        except OSError as error:
            raise EngineError("%s: %s" % (error.filename or self.path, error.strerror or error)) from None

    def _describe(self) -> dict[str, Any]:
        answer = self._run("-c", _DESCRIBE)
        try:
            found: dict[str, Any] = json.loads(answer.out)
        except ValueError:
            said = (answer.err or answer.out).strip().splitlines()
            raise EngineError("%s does not run: %s" % (self.python, said[-1] if said else answer.status)) from None
        if found["prefix"] == found["base"]:
            raise EngineError("%s is no virtual environment" % self.path)
        return found

    def faults(self) -> list[str]:
        """Why nothing can be installed, one sentence for each fault."""
        found = self.found
        faults = []
        if tuple(found["version"]) < runtime_install.MINIMUM or found["implementation"] != "cpython":
            faults.append(
                "%s is %s %s, and the engine needs CPython %s or newer"
                % (
                    self.python,
                    found["implementation"],
                    ".".join(map(str, found["version"])),
                    ".".join(map(str, runtime_install.MINIMUM)),
                )
            )
        if found["libc"][0] != "glibc" or not found["platform"].startswith("linux-"):
            faults.append(
                "%s runs on %s without glibc, for which there are no wheels" % (self.python, found["platform"])
            )
        if "fractal-server" not in found["distributions"]:
            faults.append("there is no fractal-server in %s: give the environment that it runs from" % self.path)
        if PACKAGE in found["distributions"]:
            faults.append(
                "%s has the package %s already, and not from this role: run `%s -m pip uninstall %s` first"
                % (self.path, PACKAGE, self.python, PACKAGE)
            )
        return faults

    def target(self) -> dict[str, str]:
        """The Python, machine and C library that wheels have to fit."""
        return {
            "python": ".".join(map(str, self.found["version"])),
            "machine": self.found["platform"][len("linux-") :],
            "glibc": self.found["libc"][1],
        }

    def folder(self, version: str) -> str:
        """The folder of a version."""
        return os.path.join(self.path, FOLDER, version)

    def _pth(self) -> str:
        return os.path.join(self.found["purelib"], PTH)

    def current(self) -> str | None:
        """The version that the .pth file names, or None."""
        text = _read(self._pth())
        return os.path.basename(text.strip()) if text else None

    def is_sound(self, version: str, digest: str) -> bool:
        """Whether a version is wholly installed, and in use.

        Args:
            version: Its name.
            digest: Checksum of the source that it must come from.
        """
        try:
            marker = json.loads(_read(os.path.join(self.folder(version), MARKER)) or "{}")
        except ValueError:
            marker = {}
        wanted = {"digest": digest, "python": self.found["version"]}
        return (
            isinstance(marker, dict)
            and all(marker.get(key) == value for key, value in wanted.items())
            and _read(self._pth()) == self.folder(version) + "\n"
        )

    def check(self, folder: str) -> list[str]:
        """Ask the engine whether it supports this fractal-server.

        Args:
            folder: The folder in which the engine lies.

        Returns:
            A sentence for each fault; none where all is well.
        """
        answer = self._run("-c", _CHECK, folder)
        lines = [line.strip() for line in (answer.out or answer.err).splitlines() if line.strip()]
        if answer.status == 0:
            return []
        if answer.status == 3:
            return lines[:50] or ["the engine does not support this fractal-server"]
        said = [line.strip() for line in answer.err.splitlines() if line.strip()] or lines
        return ["the engine does not start in %s: %s" % (self.path, said[-1] if said else answer.status)]

    def try_out(self, archive: str) -> list[str]:
        """Install the engine in a folder that is removed again, and ask it.

        Args:
            archive: Path of the archive of wheels.

        Returns:
            The faults, as :meth:`check` has them.
        """
        holder: str = self._as_owner(_make_holder)
        try:
            folder = os.path.join(holder, "engine")
            self._fill(folder, archive)
            return self.check(folder)
        finally:
            self._as_owner(_remove_tree, holder)

    def install(self, version: str, digest: str, archive: str) -> list[str]:
        """Install a version and ask the engine. Only if all is well, write the .pth file.

        Args:
            version: Its name.
            digest: Checksum of its source.
            archive: Path of the archive of wheels.

        Returns:
            The faults, as :meth:`check` has them. If there are any, the environment is as it was.
        """
        folder = self.folder(version)
        build = os.path.join(self.path, FOLDER, ".build")
        self._as_owner(_remove_tree, build)
        try:
            self._fill(build, archive)
            faults = self.check(build)
            if not faults:
                marker = {"version": version, "digest": digest, "python": self.found["version"]}
                self._as_owner(_take_place, build, folder, marker, self._pth())
            return faults
        finally:
            self._as_owner(_remove_tree, build)
            self._as_owner(_remove_if_empty, os.path.dirname(build))

    def _fill(self, folder: str, archive: str) -> None:
        with open(archive, "rb") as stream:  # opened with our rights, and read with the owner's
            self._as_owner(_fill, folder, self.python, stream.fileno(), sorted(self.found["distributions"]))

    def superfluous(self) -> list[str]:
        """Folders of old versions. The one in use is kept, and the newest of the others."""
        base = os.path.join(self.path, FOLDER)
        names = [name for name in _list(base) if _VERSION_FOLDER.fullmatch(name) and name != self.current()]
        names.sort(key=lambda name: os.lstat(os.path.join(base, name)).st_mtime, reverse=True)
        return [os.path.join(base, name) for name in names[_KEPT - 1 :]]

    def remnants(self) -> list[str]:
        """All paths in the environment that are ours."""
        return [path for path in (self._pth(), os.path.join(self.path, FOLDER)) if os.path.lexists(path)]

    def remove(self, paths: Iterable[str]) -> None:
        """Remove files and folders that are ours."""
        for path in paths:
            self._as_owner(_remove_tree, path)


def _list(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read(65536)
    except OSError:
        return None


# The functions that follow run with the rights of the environment's owner.


def _make_holder() -> str:
    return tempfile.mkdtemp(prefix="fractal-slurm-engine-")


def _remove_tree(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)


def _remove_if_empty(folder: str) -> None:
    if os.path.isdir(folder) and not os.listdir(folder):
        os.rmdir(folder)


def _fill(folder: str, python: str, descriptor: int, present: list[str]) -> None:
    """Install those wheels into a folder that the environment lacks."""
    os.umask(0o022)
    with tempfile.TemporaryDirectory(prefix="fractal-slurm-engine-") as work:
        with os.fdopen(os.dup(descriptor), "rb") as archive:
            archive.seek(0)
            try:
                wheels = runtime_install.unpack(archive, work)
            except runtime_install.InstallError as error:
                raise OSError(str(error)) from None  # call_as hands on an OSError alone
        pip = next(os.path.join(work, name) for name in wheels if wheels[name]["name"] == "pip")
        missing = [name for name in sorted(wheels) if wheels[name]["name"] not in present + ["pip"]]
        _must(
            [python, os.path.join(pip, "pip"), "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
            + ["--no-cache-dir", "--disable-pip-version-check", "--target", folder]
            + [os.path.join(work, name) for name in missing]
        )
    # The result is not checked: Python compiles itself what could not be compiled here.
    run([python, "-I", "-m", "compileall", "-q", folder], timeout=300)
    runtime_install.open_to_all(folder)


def _must(argv: Sequence[str]) -> None:
    answer = run(argv, timeout=600, environment={"HOME": "/nonexistent", "PIP_CONFIG_FILE": os.devnull})
    if answer.status != 0:
        said = " ".join((answer.err or answer.out).split())[-1500:]
        raise OSError("pip can't install the wheels: %s" % said)


def _take_place(build: str, folder: str, marker: Mapping[str, Any], pth: str) -> None:
    os.umask(0o022)
    with open(os.path.join(build, MARKER), "w", encoding="utf-8") as stream:
        json.dump(marker, stream, indent=2, sort_keys=True)
    _remove_tree(folder)
    os.rename(build, folder)
    write_whole(pth, (folder + "\n").encode("utf-8"), lambda temporary: os.chmod(temporary, 0o644))
