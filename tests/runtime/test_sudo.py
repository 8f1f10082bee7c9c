# SPDX-License-Identifier: GPL-3.0-or-later
import re

import pytest
from fractal_slurm.errors import ClusterError, FractalSlurmError, ImpersonationError
from fractal_slurm.node.protocol import CLAIM_PREFIX
from fractal_slurm.sudo import (
    Impersonator,
    Interrupted,
    Stalled,
    TimedOut,
    TooMuch,
    clean_environment,
)
from fractal_slurm.sudo_rules import COMMANDS
from hypothesis import strategies as st

names = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,6}", fullmatch=True)
paths = st.lists(names, min_size=1, max_size=4).map(lambda parts: "/" + "/".join(parts))


class TestArgv:
    def test_is_the_command_line_that_the_rules_expect(self):
        argv = Impersonator(slurm_bin_dir="/opt/slurm/bin").argv("ann", "sbatch", ["--parsable"])
        assert argv == [
            "/usr/bin/sudo", "--non-interactive", "--set-home", "-u", "ann", "--", "/opt/slurm/bin/sbatch", "--parsable"
        ]  # fmt: skip

    @pytest.mark.parametrize("command", COMMANDS)
    def test_names_every_command_by_its_absolute_path(self, command):
        assert re.fullmatch(rf"/(usr/)?bin/{command}", Impersonator().argv("ann", command, [])[6])

    @pytest.mark.parametrize("command", ["sh", "bash", "/usr/bin/cat", "rm", "", "sbatch ", "cat\n"])
    def test_refuses_other_commands(self, command):
        with pytest.raises(FractalSlurmError, match="allowed are sbatch, scancel, cat, ls, mkdir"):
            Impersonator().argv("ann", command, [])

    def test_refuses_what_is_no_user(self):
        with pytest.raises(FractalSlurmError, match="as a user to impersonate"):
            Impersonator().argv("root", "ls", [])


class TestCleanEnvironment:
    def test_hands_on_nothing_but_what_slurm_needs(self, monkeypatch):
        for name, value in {
            "SLURM_CONF": "/x",
            "LD_PRELOAD": "/y",
            "SBATCH_WRAP": "id",
            "PATH": "/z",
            "PYTHONPATH": "/w",
        }.items():
            monkeypatch.setenv(name, value)
        environment = clean_environment()
        assert environment["SLURM_CONF"] == "/x"
        assert set(environment) <= {"PATH", "LANG", "LANGUAGE", "SLURM_CONF", "HOME", "USER", "LOGNAME"}
        assert "/z" not in environment["PATH"]


class TestRefusal:
    def test_names_the_user_the_command_and_the_aliases(self):
        words = Impersonator().refusal("nobody", "/usr/bin/sbatch")
        assert "run /usr/bin/sbatch as nobody" in words
        assert "FRACTAL_IMPERSONATE_USERS" in words
        assert "FRACTAL_CMD" in words

    def test_gives_what_sudo_said_first(self):
        said = ["a lecture", "sudo: unknown thing", "sudo: error initializing audit plugin"]
        assert Impersonator().refusal("nobody", "/usr/bin/sbatch", said).endswith(" (sudo: unknown thing)")

    def test_says_when_the_host_knows_no_such_user(self):
        words = Impersonator().refusal("nosuchuser", "/usr/bin/sbatch")
        assert "this host knows no such user" in words
        assert "getent passwd nosuchuser" in words
        assert "FRACTAL_IMPERSONATE_USERS" not in words


def played(tmp_path, body):
    """An Impersonator whose sudo is a script, and does what a user made of a command that runs as that user."""
    sudo = tmp_path / "sudo"
    sudo.write_text(f"#!/bin/sh\n{body}\n")
    sudo.chmod(0o755)
    return Impersonator(sudo=str(sudo))


class TestRun:
    def test_runs_our_forms_alone(self, tmp_path):
        sudo = played(tmp_path, "touch ran")
        for command, arguments in (("cat", ["/etc/shadow"]), ("sbatch", ["--wrap=id"]), ("mkdir", ["-p", "/x"])):
            with pytest.raises(FractalSlurmError, match="can't be run as another user: its forms are "):
                sudo.run("ann", command, arguments)
        with pytest.raises(FractalSlurmError, match="can't be run as another user"):
            list(sudo.read_files("ann", ["/work/../etc/shadow"], timeout=1, max_bytes=10))
        assert sudo.calls == 0

    @pytest.mark.parametrize("stream", ["1", "2"])
    def test_ends_a_command_that_prints_without_end(self, tmp_path, stream):
        with pytest.raises(TooMuch, match="mkdir as ann was ended: it printed more than"):
            played(tmp_path, f"exec yes >&{stream}").run("ann", "mkdir", ["--", "/work/a"], timeout=60)

    def test_knows_of_a_command_that_lives_on(self, tmp_path):
        sudo = played(tmp_path, "trap '' TERM; while :; do sleep 0.1; done")
        with pytest.raises(TimedOut):
            sudo.run("ann", "sbatch", ["--parsable"], timeout=1)
        assert sudo.is_lingering()
        sudo.lingering[0].kill()
        sudo.lingering[0].wait()
        assert not sudo.is_lingering()


class TestReadFiles:
    PATHS = ("/work/run/a", "/work/run/b")

    def read(self, tmp_path, words, **options):
        sudo = played(tmp_path, f"echo content\nprintf '%s\\n' {words} >&2\nexit 1")
        return b"".join(sudo.read_files("ann", self.PATHS, timeout=5, max_bytes=1_000, **options))

    @pytest.mark.parametrize(
        "words",
        [
            "'/usr/bin/cat: /work/run/b: No such file or directory'",
            "'cat: /work/run/b: Is a directory'",
            "'cat: /work/run/b: Not a directory' 'a lecture'",
        ],
    )
    def test_passes_over_what_is_not_there(self, tmp_path, words):
        assert self.read(tmp_path, words) == b"content\n"

    @pytest.mark.parametrize(
        "words",
        [
            "Permission denied",
            "Too many levels of symbolic links",
            "No such device or address",
            "Operation not permitted",
        ],
    )
    def test_tells_what_a_user_made_of_a_file(self, tmp_path, words):
        closed = {}
        assert self.read(tmp_path, f"'/usr/bin/cat: /work/run/b: {words}'", closed=closed) == b"content\n"
        assert closed == {"/work/run/b": words}
        with pytest.raises(ClusterError, match=f"ann's files can't be read: .*{words}"):
            self.read(tmp_path, f"'/usr/bin/cat: /work/run/b: {words}'")

    @pytest.mark.parametrize("words", ["Input/output error", "Stale file handle", "Connection timed out"])
    def test_takes_a_file_systems_trouble_for_trouble(self, tmp_path, words):
        with pytest.raises(ClusterError, match=words):
            self.read(tmp_path, f"'cat: /work/run/b: {words}'", closed={})

    def test_keeps_no_lines_of_a_user_in_its_own(self, tmp_path):
        with pytest.raises(ClusterError) as caught:
            self.read(tmp_path, "'cat: /work/run/b: Oops\r\033[2J'", closed={})
        assert all(char.isprintable() for char in str(caught.value))

    def test_ends_when_nothing_comes(self, tmp_path):
        with pytest.raises(Stalled, match="nothing came for"):
            list(played(tmp_path, "exec sleep 100").read_files("ann", self.PATHS, timeout=0.3, max_bytes=9))

    def test_stops_between_two_pieces(self, tmp_path):
        sudo = played(tmp_path, "exec yes")
        sudo.stop = lambda: True
        with pytest.raises(Interrupted):
            list(sudo.read_files("ann", self.PATHS, timeout=60, max_bytes=1 << 40))

    def test_bounds_what_is_said_on_standard_error(self, tmp_path):
        with pytest.raises(ClusterError, match="printed more than"):
            list(played(tmp_path, "exec yes >&2").read_files("ann", self.PATHS, timeout=60, max_bytes=9))


class TestListFolders:
    def test_ends_where_a_user_made_names_without_end(self, tmp_path):
        sudo = played(tmp_path, "exec yes a-name-of-a-file-that-no-worker-makes")
        found = sudo.list_folders("ann", ["/work/run"], timeout=5, most=3)
        assert found == {"/work/run": ["a-name-of-a-file-that-no-worker-makes"] * 3}

    def test_keeps_the_wanted_names_alone(self, tmp_path):
        sudo = played(tmp_path, "printf '%s\\n' /work/a: x results-0-0 '' /work/b: /work/c: results-0-1")
        found = sudo.list_folders("ann", ["/work/a", "/work/b"], wanted=lambda name: name.startswith("results"))
        assert found == {"/work/a": ["results-0-0"], "/work/b": ["results-0-1"]}


# Words of other implementations, and none that anybody knows; what they do is what GNU's do.
MKDIR = """#!/bin/bash
args=() paths=() rc=0
while [ "$1" != -- ]; do args+=("$1"); shift; done; shift
for path; do /usr/bin/mkdir "${args[@]}" -- "$path" 2>/dev/null || { echo "%s" >&2; rc=1; }; done
exit $rc
"""
CAT = """#!/bin/sh
shift; rc=0
for path; do
  /usr/bin/cat -- "$path" 2>/dev/null && continue
  echo "cat: $path: %s" >&2; rc=1
done
exit $rc
"""
LS = """#!/bin/sh
/usr/bin/ls "$@" 2>/dev/null || { echo "ls: $2: pas de fichier de ce nom" >&2; exit 2; }
"""


@pytest.fixture
def other(tmp_path):
    """A sudo that runs things as we are, and with commands that do not speak as GNU's do."""

    def make(**commands):
        for name, text in commands.items():
            (tmp_path / name).write_text(text)
            (tmp_path / name).chmod(0o755)
        sudo = tmp_path / "sudo"
        sudo.write_text(
            '#!/bin/bash\nwhile [ "$1" != -- ]; do shift; done; shift\n'
            f'own="{tmp_path}/${{1##*/}}"; [ -x "$own" ] && {{ shift; exec "$own" "$@"; }}; exec "$@"\n'
        )
        sudo.chmod(0o755)
        return Impersonator(sudo=str(sudo))

    return make


WORDS = ["mkdir: $path: File exists", "mkdir: Already exists", "mkdir: kann nicht angelegt werden", "coreutils: nope"]


class TestTakeNames:
    @pytest.mark.parametrize("words", WORDS)
    def test_tells_ours_from_a_jobs_whatever_mkdir_says(self, other, tmp_path, words):
        run = tmp_path / "run"
        run.mkdir()
        (run / "a.claim").symlink_to(".job-1")
        (run / "b.claim").mkdir()
        paths = [f"{run}/{name}" for name in ("a.claim", "b.claim", "c.claim")]
        assert other(mkdir=MKDIR % words).take_names("ann", paths) == [False, True, True]
        assert Impersonator.take_names(other(), "ann", paths) == [False, True, True]
        assert other().take_names("ann", paths[:1]) == [False]

    def test_does_not_take_a_folder_of_a_task_for_the_servers(self, other, tmp_path):
        """A job's claim leads nowhere, also where its tasks make a folder that is called like the job."""
        (tmp_path / "4711").mkdir()
        (tmp_path / "a.claim").symlink_to(CLAIM_PREFIX + "4711")
        assert other().take_names("ann", [f"{tmp_path}/a.claim"]) == [False]

    @pytest.mark.parametrize("words", WORDS)
    def test_raises_where_a_name_can_not_be_taken(self, other, tmp_path, words):
        with pytest.raises(ClusterError, match=f"ann can't make {tmp_path}/gone/a.claim: "):
            other(mkdir=MKDIR % words).take_names("ann", [f"{tmp_path}/gone/a.claim"])


class TestMakeFolder:
    @pytest.mark.parametrize("words", ["mkdir: No such file or directory", "mkdir: kann nicht angelegt werden"])
    def test_makes_what_is_missing_above(self, other, tmp_path, words):
        assert other(mkdir=MKDIR % words).make_folder("ann", f"{tmp_path}/a/b/run") == ""
        assert oct((tmp_path / "a/b/run").stat().st_mode) == "0o40700"

    @pytest.mark.parametrize("there", ["folder", "file", "link", "dangling"])
    @pytest.mark.parametrize("words", WORDS)
    def test_never_takes_what_is_there(self, other, tmp_path, there, words):
        path = tmp_path / "run"
        {
            "folder": path.mkdir,
            "file": path.touch,
            "link": lambda: path.symlink_to("/usr"),
            "dangling": lambda: path.symlink_to("nowhere"),
        }[there]()
        assert other(mkdir=MKDIR % words).make_folder("ann", str(path)) != ""

    def test_raises_where_nothing_can_be_made(self, other):
        with pytest.raises(
            ClusterError,
            match=r"make the folder /proc/none/run: .*mkdir: .*Let root make /proc/none and give it to ann",
        ):
            other().make_folder("ann", "/proc/none/run")

    def test_tells_sudos_refusal(self, other, tmp_path):
        sudo = other()
        (tmp_path / "sudo").write_text("#!/bin/sh\necho 'sudo: a password is required' >&2\nexit 1\n")
        with pytest.raises(ImpersonationError, match="a password is required"):
            sudo.make_folder("ann", f"{tmp_path}/run")


class TestFilesThatAreNotThere:
    @pytest.mark.parametrize("words", ["No such file or directory (os error 2)", "pas de fichier de ce nom"])
    def test_are_passed_over_whatever_cat_says(self, other, tmp_path, words):
        (tmp_path / "run").mkdir()
        (tmp_path / "run/there").write_text("x\n")
        sudo = other(cat=CAT % words)
        paths = [f"{tmp_path}/run/{name}" for name in ("there", "gone", "gone/deeper")]
        assert b"".join(sudo.read_files("ann", paths, timeout=5, max_bytes=100)) == b"x\n"

    def test_a_file_that_is_there_and_can_not_be_read_is_no_missing_one(self, other, tmp_path):
        (tmp_path / "there").write_text("x\n")
        sudo = other(cat=f"#!/bin/sh\necho 'cat: {tmp_path}/there: quelque chose' >&2\nexit 1\n")
        with pytest.raises(ClusterError, match="quelque chose"):
            list(sudo.read_files("ann", [f"{tmp_path}/there"], timeout=5, max_bytes=100))

    def test_are_looked_for_once_however_many_lines_the_user_writes(self, other, tmp_path):
        (tmp_path / "run").mkdir()
        paths = [f"{tmp_path}/run/{name}" for name in ("gone", "lost")]
        sudo = other(cat=f"#!/bin/sh\nyes 'pas de {paths[0]} {paths[1]}' | head -2000 >&2\nexit 1\n")
        assert list(sudo.read_files("ann", paths, timeout=5, max_bytes=100)) == []
        assert sudo.calls <= 1 + len(paths)

    def test_are_looked_for_until_the_driver_is_wanted_elsewhere(self, other, tmp_path):
        (tmp_path / "run").mkdir()
        paths = [f"{tmp_path}/run/{number}" for number in range(100)]
        sudo = other(cat='#!/bin/sh\nshift\nfor path; do echo "pas de $path" >&2; done\nexit 1\n')
        sudo.stop = lambda: sudo.calls > 5
        with pytest.raises(Interrupted):
            list(sudo.read_files("ann", paths, timeout=5, max_bytes=100))
        assert sudo.calls < 10

    def test_a_folder_that_is_not_there_has_no_names(self, other, tmp_path):
        (tmp_path / "run").mkdir()
        sudo = other(ls=LS)
        assert sudo.list_folders("ann", [f"{tmp_path}/run/gone"], timeout=5) == {f"{tmp_path}/run/gone": []}
