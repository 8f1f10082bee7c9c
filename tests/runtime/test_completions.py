# SPDX-License-Identifier: GPL-3.0-or-later
"""Completions in the shells themselves, as somebody types; where a shell is installed."""

import os
import pty
import re
import select
import shutil
import sys
import time
from pathlib import Path

import pytest
from journals import RUN, make
from samples import run

BASH = "/usr/share/bash-completion/bash_completion"
TYPED = [
    ("fractal-slurm ret", "fractal-slurm retry "),
    ("fractal-slurm run --cac", "fractal-slurm run --cache-dir "),
    (f"fractal-slurm report {RUN[:6]}", f"fractal-slurm report {RUN} "),
    ("fractal-slurm explain spec_of_w", "fractal-slurm explain spec_of_wells.json"),
]
# What a terminal does not show, and what shells ask it.
_CONTROL = re.compile(r"\x1b\][^\x07]*\x07|\x1b[\[(][?0-9;=>]*[a-zA-Z]|\x1b[=>]|\r")
_ANSWERS = {b"\x1b[c": b"\x1b[?62;c", b"\x1b[6n": b"\x1b[1;1R"}


class Typist:
    """A shell on a terminal of its own."""

    def __init__(self, argv, env, folder):
        self.pid, self.fd = pty.fork()
        if not self.pid:
            os.chdir(folder)
            os.execvpe(argv[0], argv, env)  # noqa: S606 - the shell is what is tested
        self.text = ""

    def type(self, keys):
        os.write(self.fd, keys.encode())

    def sees(self, words, seconds=20.0):
        end = time.monotonic() + seconds
        while words not in _CONTROL.sub("", self.text) and time.monotonic() < end:
            if select.select([self.fd], [], [], 0.1)[0]:
                try:
                    data = os.read(self.fd, 65536)
                except OSError:
                    return False
                self.text += data.decode(errors="replace")
                for question, answer in _ANSWERS.items():
                    if question in data:
                        os.write(self.fd, answer)
        return words in _CONTROL.sub("", self.text)

    def close(self):
        os.kill(self.pid, 9)
        os.waitpid(self.pid, 0)
        os.close(self.fd)


@pytest.fixture
def home(tmp_path, monkeypatch):
    (tmp_path / "settings.toml").touch()
    monkeypatch.setenv("FRACTAL_SLURM_STATE_DIR", str(tmp_path / "state"))
    make(tmp_path / "state").close()
    (tmp_path / "spec_of_wells.json").touch()
    places = {
        "bash": "share/bash-completion/completions/fractal-slurm",
        "zsh": "share/zsh/vendor-completions/_fractal-slurm",
        "fish": "share/fish/vendor_completions.d/fractal-slurm.fish",
    }
    for shell, place in places.items():
        file = tmp_path / place
        file.parent.mkdir(parents=True)
        file.write_text(run("completion", shell)[1])
    (tmp_path / ".bashrc").write_text(f'PS1="ready> "\n. {BASH}\n')
    functions = tmp_path / "share/zsh/vendor-completions"
    zsh = f'PS1="ready> "\nfpath=({functions} $fpath)\nautoload -Uz compinit\ncompinit -u\n'
    (tmp_path / ".zshrc").write_text(zsh)
    (tmp_path / ".config/fish").mkdir(parents=True)
    (tmp_path / ".config/fish/config.fish").write_text('function fish_prompt\n  echo "ready> "\nend\n')
    return tmp_path


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_complete_commands_options_runs_and_files(home, shell):
    if not shutil.which(shell) or (shell == "bash" and not Path(BASH).exists()):
        pytest.skip(f"{shell} with its completions is not installed")
    env = {
        "HOME": str(home), "TERM": "xterm", "LANG": "C.UTF-8", "XDG_DATA_DIRS": f"{home}/share:/usr/share",
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "FRACTAL_SLURM_STATE_DIR": str(home / "state"), "FRACTAL_SLURM_SETTINGS_FILE": str(home / "settings.toml"),
    }  # fmt: skip
    for typed, words in TYPED:
        typist = Typist([shell, "-i"], env, home)
        try:
            assert typist.sees("ready> "), typist.text
            typist.type(typed)
            assert typist.sees(typed), typist.text
            typist.type("\t")
            assert typist.sees(words), typist.text
        finally:
            typist.close()
