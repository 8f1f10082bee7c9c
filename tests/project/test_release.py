# SPDX-License-Identifier: GPL-3.0-or-later
"""What `make release` refuses; the release itself is tried by hand, as CONTRIBUTING.md says."""

from __future__ import annotations

import subprocess

import pytest

from .tools import ROOT, load

release = load("release")


@pytest.fixture
def checkout(tmp_path):
    """A repository with all that the refusals look at."""
    for name, _pattern in release.VERSION_PLACES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text((ROOT / name).read_text(encoding="utf-8"), encoding="utf-8")
    fragments = tmp_path / "changelogs" / "fragments"
    fragments.mkdir(parents=True)
    for name in ("config.yaml", "changelog.yaml"):
        (fragments.parent / name).write_text((ROOT / "changelogs" / name).read_text(encoding="utf-8"), encoding="utf-8")
    (fragments / "x.yml").write_text("---\nbugfixes:\n  - runtime - a fault is mended.\n")
    for argv in (
        ["init", "--quiet"],
        ["add", "--all"],
        ["-c", "user.name=x", "-c", "user.email=x@y.z", "commit", "--quiet", "-m", "x"],
    ):
        subprocess.run(["git", "-C", tmp_path, *argv], check=True)
    return tmp_path


def newer(checkout):
    """The version after the checkout's."""
    first, second, third = release.version_key(release.current_version(checkout))
    return f"{first}.{second}.{third + 1}"


def test_takes_a_clean_checkout_with_fragments(checkout):
    release.refuse(checkout, newer(checkout))


@pytest.mark.parametrize("version", ["", "1.2", "v1.2.3", "1.2.3-rc1", "01.2.3", "1.2.3\n"])
def test_refuses_what_is_no_version(checkout, version):
    with pytest.raises(release.ReleaseError, match="is no version"):
        release.refuse(checkout, version)


def test_refuses_a_version_that_is_not_newer(checkout):
    with pytest.raises(release.ReleaseError, match="is not newer"):
        release.refuse(checkout, release.current_version(checkout))
    with pytest.raises(release.ReleaseError, match="is not newer"):
        release.refuse(checkout, "0.0.99")


def test_refuses_what_is_not_committed(checkout):
    (checkout / "new").write_text("")
    with pytest.raises(release.ReleaseError, match="not committed"):
        release.refuse(checkout, newer(checkout))


def test_refuses_a_tag_that_exists(checkout):
    subprocess.run(["git", "-C", checkout, "tag", f"v{newer(checkout)}"], check=True)
    with pytest.raises(release.ReleaseError, match="exists already"):
        release.refuse(checkout, newer(checkout))


def test_refuses_to_release_without_a_fragment(checkout):
    git = ["git", "-C", checkout, "-c", "user.name=x", "-c", "user.email=x@y.z"]
    subprocess.run([*git, "rm", "--quiet", "changelogs/fragments/x.yml"], check=True)
    subprocess.run([*git, "commit", "--quiet", "-m", "y"], check=True)
    with pytest.raises(release.ReleaseError, match="has no fragment"):
        release.refuse(checkout, newer(checkout))


def test_writes_the_version_wherever_it_stands(checkout):
    release.set_version(checkout, "7.8.9")
    assert release.current_version(checkout) == "7.8.9"
    assert '__version__ = "7.8.9"' in (checkout / release.VERSION_PLACES[1][0]).read_text(encoding="utf-8")
