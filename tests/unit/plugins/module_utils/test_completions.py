# SPDX-License-Identifier: GPL-3.0-or-later
"""Completions of shells: written where a shell is, and nothing but ours removed."""

import pytest
from ansible_collections.fractal.slurm.plugins.module_utils import completions


@pytest.fixture
def share(tmp_path):
    for folder in ("bash-completion/completions", "zsh/site-functions"):
        (tmp_path / "share" / folder).mkdir(parents=True)
    return tmp_path / "share"


class TestPlaces:
    def test_are_those_of_shells_that_are_there(self, share, tmp_path):
        assert completions.places(str(tmp_path / "bin/fractal-slurm")) == {
            "bash": str(share / "bash-completion/completions/fractal-slurm"),
            "zsh": str(share / "zsh/site-functions/_fractal-slurm"),
        }
        (share / "zsh/vendor-completions").mkdir()
        found = completions.places(str(tmp_path / "bin/fractal-slurm"))
        assert found["zsh"] == str(share / "zsh/vendor-completions/_fractal-slurm")

    @pytest.mark.parametrize("command", ["", None, "/opt/x/fractal-slurm", "bin/fs", "/usr/local/bin/fs"])
    def test_are_none_for_another_command(self, command):
        assert completions.places(command) == {}
        assert completions.ours(command) == []


class TestOurs:
    def test_are_told_by_what_is_in_them(self, share, tmp_path):
        command = str(tmp_path / "bin/fractal-slurm")
        (share / "zsh/site-functions/_fractal-slurm").write_text("somebody else's")
        assert completions.ours(command) == []
        ours = share / "bash-completion/completions/fractal-slurm"
        ours.write_text("env _FRACTAL_SLURM_COMPLETE=bash_complete")
        assert completions.ours(command) == [str(ours)]


class TestText:
    @pytest.mark.parametrize(
        ("words", "found"),
        [("echo _FRACTAL_SLURM_COMPLETE", "_FRACTAL_SLURM_COMPLETE\n"), ("echo x", None), ("exit 2", None)],
    )
    def test_is_that_of_the_version(self, tmp_path, words, found):
        python = tmp_path / "python"
        python.write_text("#!/bin/sh\n" + words + "\n")
        python.chmod(0o755)
        assert completions.text(str(python), "bash") == found
