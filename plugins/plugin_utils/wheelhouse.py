# -*- coding: utf-8 -*-
# SPDX-License-Identifier: GPL-3.0-or-later
"""Wheels of the runtime and of all that it needs, made on the controller for a host's Python and platform.

Hosts ask no index: what is made here is all that they need, pip included.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import importlib.util
import io
import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import urllib.parse
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ansible.errors import AnsibleError

from ..module_utils import trusted_path

# The collection's own folder of the runtime: plugins/plugin_utils/ lies beside it, in a checkout and when installed.
SOURCE = Path(__file__).resolve().parents[2] / "python_runtime"
# Exact versions and checksums of all that the runtime needs, so that what hosts get does not depend on the day.
LOCK = SOURCE / "requirements-lock.txt"
_MANIFEST = "manifest.json"
_MAX_WHEEL_BYTES = 200 * 1024 * 1024


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
        paths = [folder / "pyproject.toml", *(file for each in _packages(folder) for file in _source_files(each))]
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


def _packages(folder: Path) -> list[Path]:
    """The folders of the distribution's packages: the runtime, and the adapter that fractal-server imports."""
    return sorted(path.parent for path in (folder / "src").glob("*/__init__.py"))


def _source_files(path: Path) -> list[Path]:
    """A file, or all files below a folder but for what Python made of them."""
    found = [path] if path.is_file() else sorted(path.rglob("*"))
    return [file for file in found if file.is_file() and "__pycache__" not in file.parts and file.suffix != ".pyc"]


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

    Only we can write to the cache, and what is in it is still checked against the source and the lock each time.

    Args:
        source: The runtime's source.
        target: The kind of host.
        cache: Folder of the archives.
        find_links: Folders (or pages) with wheels, besides the index.
        no_index: Ask no index, only ``find_links``.
        folder: The folder with the source's pyproject.toml.

    Raises:
        AnsibleError: The lock does not fit the runtime, the cache can't be used, or pip failed; with its words.
    """
    own = own_wheel(folder, source.version)
    needed = ["pip", *requirements(folder, target)]
    locked = None if source.lock is None else locked_requirements(source.lock, needed, target)
    if locked is None or not all(" --hash=" in line for line in locked):
        _check_places(find_links)
    try:
        _open_cache(cache)
        archive = cache / f"{source.folder_name}-py{target.python}-{target.machine}-glibc{target.glibc}.tar"
        # Ansible works on several hosts at once, each in a process of its own: one of them makes the archive.
        with _locked(archive.with_suffix(".lock")):
            if archive_fault(archive, own, locked) is not None:
                with tempfile.TemporaryDirectory(prefix="wheelhouse-", dir=cache) as work:
                    _fill(Path(work), target, own, needed, locked, find_links, no_index)
                    temporary = archive.with_suffix(".part")
                    temporary.unlink(missing_ok=True)
                    with tarfile.open(temporary, "x") as tar:
                        for path in sorted(Path(work).iterdir()):
                            tar.add(path, arcname=path.name, filter=_plain)
                    fault = archive_fault(temporary, own, locked)
                    if fault is not None:
                        temporary.unlink()
                        raise AnsibleError(f"the runtime's wheels are not as the lock wants them: {fault}")
                    temporary.replace(archive)
    except OSError as error:
        raise AnsibleError(
            f"the runtime's wheels can't be made on the controller: {error.strerror or error}: "
            f"{error.filename or cache}: make room or a folder that can be written, or name another "
            "(fractal_slurm_runtime_cache; for what pip needs meanwhile: TMPDIR)"
        ) from error
    return archive


def _check_places(find_links: list[str]) -> None:
    """Refuse folders of wheels that others could have put some into, where no checksum would tell.

    Raises:
        AnsibleError: There is one.
    """
    owners = trusted_path.trusted_owners(os.stat(__file__).st_uid)
    for place in find_links:
        if "://" in place and urllib.parse.urlsplit(place).scheme != "file":
            continue
        # As pip reads it: file://localhost/a%20b is a folder of this host, too.
        path = urllib.parse.unquote(urllib.parse.urlsplit(place).path) if "://" in place else place
        fault = trusted_path.fault_of_path(os.path.abspath(os.path.expanduser(path)), owners, True)
        if fault:
            raise AnsibleError(
                f"the folder of wheels {place} (fractal_slurm_runtime_find_links) is not safe: {fault}; or use a lock "
                "with checksums (fractal_slurm_runtime_lock)"
            )


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without who packed it, and when: what the host needs is its name and content."""
    member.mtime, member.mode, member.uid, member.gid = 0, 0o644, 0, 0
    member.uname = member.gname = ""
    return member


def _open_cache(cache: Path) -> None:
    """Make the cache where it is missing, and keep it to ourselves.

    Raises:
        AnsibleError: Others could have put something in it.
    """
    # Whoever owns the collection decides what runs here anyway.
    owners = trusted_path.trusted_owners(os.stat(__file__).st_uid)
    for _attempt in range(2):  # the second time with what was made
        fault = trusted_path.fault_of_path(str(cache), owners, private_groups=True, is_made=True)
        if fault:
            raise AnsibleError(f"the cache of wheels (fractal_slurm_runtime_cache) is not safe: {fault}")
        for folder in reversed([cache, *cache.parents]):
            folder.mkdir(mode=0o700 if folder == cache else 0o755, exist_ok=True)
    if cache.stat().st_mode & 0o077:
        cache.chmod(0o700)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def archive_fault(archive: Path, own: tuple[str, bytes], locked: list[str] | None) -> str | None:
    """Why an archive is not to be used: it holds other wheels than the source and the lock name.

    Args:
        archive: The archive, which may be missing.
        own: File name and content of the runtime's own wheel.
        locked: What the lock names, as of :func:`locked_requirements`; None where there is no lock.

    Returns:
        A sentence, or None.
    """
    try:
        with tarfile.open(archive) as tar:
            digests: dict[str, str] = {}
            manifest = None
            for member in tar:
                stream = tar.extractfile(member) if member.isreg() else None
                if stream is None or member.name in digests or Path(member.name).name != member.name:
                    return f"it holds {member.name!r}, which does not belong there"
                if member.size > _MAX_WHEEL_BYTES:
                    return f"{member.name} has {member.size} bytes"
                content = stream.read()
                if member.name == _MANIFEST:
                    manifest = json.loads(content)
                else:
                    digests[member.name] = hashlib.sha256(content).hexdigest()
    except (OSError, ValueError, EOFError, tarfile.TarError) as error:
        return f"{archive} can't be read: {error}"
    if manifest != _manifest(digests):
        return "its manifest does not fit its wheels"
    if digests.get(own[0]) != hashlib.sha256(own[1]).hexdigest():
        return f"{own[0]} is not made from this source"
    if locked is None:
        return None
    allowed: dict[str, list[str]] = {}
    for line in locked:
        words, *hashes = line.split(" --hash=")
        allowed[words] = hashes
    found = {f"{wheel['name']}=={wheel['version']}": name for name, wheel in manifest.items() if name != own[0]}
    if set(found) != set(allowed):
        return f"the lock and it differ in {', '.join(sorted(set(found) ^ set(allowed)))}"
    for words, hashes in allowed.items():
        if hashes and f"sha256:{digests[found[words]]}" not in hashes:
            return f"{found[words]} does not have a checksum that the lock states"
    return None


def _manifest(digests: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """What a host is told of wheels: file name to name, version and sha256."""
    from packaging.utils import canonicalize_name

    wheels = {}
    for file, digest in sorted(digests.items()):
        name, version = [*file.split("-"), ""][:2]
        wheels[file] = {"name": str(canonicalize_name(name)), "version": version, "sha256": digest}
    return wheels


def _fill(
    work: Path,
    target: Target,
    own: tuple[str, bytes],
    needed: list[str],
    locked: list[str] | None,
    find_links: list[str],
    no_index: bool,
) -> None:
    """Put all wheels, and a manifest of their checksums, into an empty folder."""
    index = ["--no-index"] if no_index else []
    for place in find_links:
        index += ["--find-links", place if "://" in place else os.path.abspath(os.path.expanduser(place))]
    options = ["--dest", str(work), "--only-binary=:all:"]
    if not target.is_controller:
        number = target.python.replace(".", "")
        options += ["--implementation", "cp", "--python-version", target.python]
        options += [word for abi in (f"cp{number}", "abi3", "none") for word in ("--abi", abi)]
        options += [word for platform in target.platforms() for word in ("--platform", platform)]
    if locked is None:
        _pip(["download", *options, *index, *needed])
    else:
        with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as lines:
            lines.write("\n".join(locked))
            lines.flush()
            _pip(["download", *options, "--no-deps", *index, "--requirement", lines.name])
    (work / own[0]).write_bytes(own[1])
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in work.glob("*.whl")}
    (work / _MANIFEST).write_text(json.dumps(_manifest(digests), indent=2), encoding="utf-8")


def own_wheel(folder: Path, version: str) -> tuple[str, bytes]:
    """The wheel of the runtime: the same bytes from the same source, and no build backend that somebody else wrote.

    Beside the package it holds what runs on nodes in a folder whose name does not change with Python's version.

    Args:
        folder: The folder with the source's pyproject.toml.
        version: The runtime's version.

    Returns:
        Its file name and its content.

    Raises:
        AnsibleError: pyproject.toml can't be read.
    """
    described = _pyproject(folder)
    project = described["project"]
    name = project["name"].replace("-", "_")
    info = f"{name}-{version}.dist-info"
    source = folder / "src"
    files = {
        path.relative_to(source).as_posix(): path.read_bytes()
        for package in _packages(folder)
        for path in _source_files(package)
    }
    hatch = described.get("tool", {}).get("hatch", {}).get("build", {}).get("targets", {}).get("wheel", {})
    for path, place in sorted(hatch.get("shared-data", {}).items()):
        for file in _source_files(folder / path):
            below = file.relative_to(folder / path).as_posix()
            files[f"{name}-{version}.data/data/{place if below == '.' else f'{place}/{below}'}"] = file.read_bytes()
    metadata = {"Metadata-Version": "2.1", "Name": project["name"], "Version": version}
    for header, key in (("Summary", "description"), ("Requires-Python", "requires-python")):
        if key in project:
            metadata[header] = project[key]
    lines = [f"{header}: {value}" for header, value in metadata.items()]
    lines += [f"Requires-Dist: {text}" for text in project.get("dependencies", [])]
    for extra, texts in sorted(project.get("optional-dependencies", {}).items()):
        lines.append(f"Provides-Extra: {extra}")
        lines += [f'Requires-Dist: {text}; extra == "{extra}"' for text in texts]
    scripts = [f"{script} = {entry}" for script, entry in project.get("scripts", {}).items()]
    files[f"{info}/METADATA"] = "\n".join([*lines, ""]).encode()
    files[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: fractal.slurm\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[f"{info}/entry_points.txt"] = "\n".join(["[console_scripts]", *scripts, ""]).encode()
    record = [f"{path},sha256={_record_digest(content)},{len(content)}" for path, content in files.items()]
    files[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""]).encode()
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as wheel:
        for path, content in files.items():
            entry = zipfile.ZipInfo(path)  # of 1 January 1980
            entry.external_attr = 0o100644 << 16
            wheel.writestr(entry, content)
    return f"{name}-{version}-py3-none-any.whl", stream.getvalue()


def _record_digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def _pyproject(folder: Path) -> dict[str, Any]:
    """What pyproject.toml says of the runtime."""
    try:
        import tomllib
    except ModuleNotFoundError:
        try:
            import tomli as tomllib  # type: ignore[no-redef, import-not-found, unused-ignore]
        except ModuleNotFoundError as error:
            raise AnsibleError(
                "the Python package tomli is missing on the controller, for the Python that runs Ansible "
                f"({sys.executable}; Python 3.10 needs it): run `{sys.executable} -m pip install tomli`"
            ) from error
    try:
        with (folder / "pyproject.toml").open("rb") as stream:
            described: dict[str, Any] = tomllib.load(stream)
    except (OSError, ValueError) as error:
        raise AnsibleError(f"{folder / 'pyproject.toml'} can't be read: {error}") from error
    return described


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


def requirements(folder: Path, target: Target) -> list[str]:
    """What the runtime needs on the target: pip judges environment markers by the Python that runs it."""
    from packaging.requirements import Requirement

    found = []
    for text in _pyproject(folder)["project"].get("dependencies", []):
        requirement = Requirement(text)
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
    # In a folder of root's: with -m Python looks for modules where it is started, and that may be anybody's.
    result = subprocess.run(argv, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, cwd="/")
    if result.returncode == 0:
        return
    # Where a build fails, pip quotes its own words in a frame.
    words = [line.strip() for line in result.stderr.splitlines() if line.strip().startswith("ERROR")]
    words = words or [result.stderr.strip()[-2000:]]
    raise AnsibleError(
        f"the runtime's wheels can't be made on the controller: pip {arguments[0]}: {' '.join(words)} (without an "
        "index, set fractal_slurm_runtime_find_links to a folder of wheels and fractal_slurm_runtime_no_index)"
    )
