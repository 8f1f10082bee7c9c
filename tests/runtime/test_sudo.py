# SPDX-License-Identifier: GPL-3.0-or-later
import re

import pytest
from fractal_slurm.errors import ClusterError, FractalSlurmError, ImpersonationError
from fractal_slurm.node.protocol import CLAIM_PREFIX
from fractal_slurm.sudo import (
    COMMANDS,
    Impersonator,
    Interrupted,
    Stalled,
    TimedOut,
    TooMuch,
    check_path,
    check_user_name,
    clean_environment,
    hardened_arguments,
    rules_beyond,
)
from hypothesis import given
from hypothesis import strategies as st
from samples import outcome

names = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,6}", fullmatch=True)
paths = st.lists(names, min_size=1, max_size=4).map(lambda parts: "/" + "/".join(parts))


def allows(command, arguments, bases=("/home/ann/work", "/scratch")):
    """Whether a hardened rule lets a command run: sudo joins its arguments with blanks and matches the whole."""
    joined = " ".join(arguments)
    patterns = hardened_arguments(bases)[command]
    return any(re.search(p, joined) is not None if p.startswith("^") else p == joined for p in patterns)


class TestHardenedArguments:
    def test_covers_the_five_commands_and_no_other(self):
        assert COMMANDS == ("sbatch", "scancel", "cat", "ls", "mkdir")
        assert set(hardened_arguments(["/work"])) == set(COMMANDS)

    @pytest.mark.parametrize(
        ("command", "arguments"),
        [
            ("sbatch", ["--parsable"]),
            ("scancel", ["1"]),
            ("scancel", ["1", "22", "333"]),
            ("cat", ["--", "/home/ann/work/run/results-0-0"]),
            ("cat", ["--", "/home/ann/work/a", "/scratch/b/c.json"]),
            ("ls", ["--", "/scratch/run"]),
            ("cat", ["--", "/scratch/ann@site.org/run+1/results-0-0"]),
            ("mkdir", ["-p", "-m", "700", "--", "/scratch/run"]),
            ("mkdir", ["-p", "-m", "700", "--", "/scratch"]),
            ("mkdir", ["-m", "700", "--", "/scratch/run"]),
            ("mkdir", ["--", "/scratch/run/token.claim", "/scratch/run/token.claim.stop"]),
        ],
    )
    def test_allows_the_forms_that_the_runtime_uses(self, command, arguments):
        assert allows(command, arguments)

    @pytest.mark.parametrize(
        ("command", "arguments"),
        [
            ("sbatch", []),
            ("sbatch", ["--parsable", "--wrap=id"]),
            ("sbatch", ["--parsable", "/home/ann/x.sh"]),
            ("sbatch", ["--parsable\n"]),
            ("scancel", []),
            ("scancel", ["--user=ann"]),
            ("scancel", ["1", "-u", "ann"]),
            ("scancel", ["1_2"]),
            ("scancel", ["1\n2"]),
            ("scancel", ["12345678901"]),
            ("cat", ["/home/ann/work/x"]),
            ("cat", ["--", "/etc/shadow"]),
            ("cat", ["--", "/home/ann/work"]),
            ("cat", ["--", "/home/ann/workx/y"]),
            ("cat", ["--", "/home/ann/work/../.ssh/id_rsa"]),
            ("cat", ["--", "/home/ann/work/.hidden"]),
            ("cat", ["--", "/home/ann/work/.fractal_cache2/x"]),
            ("cat", ["--", "/home/ann/work/.ssh/.fractal_cache"]),
            ("cat", ["--", "/home/ann/work/a/.."]),
            ("cat", ["--", "/home/ann/work//x"]),
            ("cat", ["--", "/home/ann/work/x/"]),
            ("cat", ["--", "/home/ann/work/x", "/etc/shadow"]),
            ("cat", ["--", "/home/ann/work/x /etc/shadow"]),
            ("cat", ["--", "/home/ann/work/x\n/etc/shadow"]),
            ("cat", ["--", "/home/ann/work/-n"]),
            ("cat", ["--", "/homeXann/work/x"]),
            ("cat", ["--"]),
            ("ls", ["-l", "--", "/scratch/x"]),
            ("ls", ["--", "/"]),
            ("mkdir", ["-p", "-m", "777", "--", "/scratch/x"]),
            ("mkdir", ["-m", "4777", "--", "/scratch/x"]),
            ("mkdir", ["-p", "--", "/scratch/x"]),
            ("mkdir", ["-m", "700", "--", "/scratch"]),
            ("mkdir", ["--", "/scratch"]),
            ("mkdir", ["-p", "-m", "700", "--", "/scratchx"]),
            ("mkdir", ["-p", "-m", "700", "--", "/"]),
            ("mkdir", ["-m", "777", "--", "/scratch/x"]),
            ("mkdir", ["-m", "700", "-p", "--", "/scratch/x"]),
        ],
    )
    def test_allows_nothing_else(self, command, arguments):
        assert not allows(command, arguments)

    @given(st.lists(paths, min_size=1, max_size=3), st.lists(paths, min_size=1, max_size=3))
    def test_allows_plain_paths_below_any_base(self, bases, below):
        assert allows("cat", ["--", *(base + path for base in bases for path in below)], bases)

    @given(st.lists(st.text(max_size=12) | paths, max_size=3))
    def test_keeps_cat_below_the_bases_whatever_the_arguments(self, arguments):
        if allows("cat", arguments):
            assert arguments[0] == "--"
            words = " ".join(arguments[1:]).split(" ")
            assert all(re.match("/(home/ann/work|scratch)/", word) and "/." not in word for word in words)

    @pytest.mark.parametrize(
        "base", ["", "/", "work", "/a b", "/a/../b", "/a/.b", "/a$", "/a*", "/(a|b)", "/a\nb", "/-a"]
    )
    def test_refuses_a_work_folder_that_is_no_plain_path(self, base):
        with pytest.raises(FractalSlurmError, match="the work folder"):
            hardened_arguments([base])

    def test_knows_the_folder_of_fractal_server_though_its_name_begins_with_a_dot(self):
        assert allows("ls", ["--", "/home/ann/work/p/.fractal_cache/x"])
        assert allows("mkdir", ["-m", "700", "--", "/data/ann/.fractal_cache/run"], ["/data/ann/.fractal_cache"])
        assert not allows("cat", ["--", "/data/ann/.fractal_cache"], ["/data/ann/.fractal_cache"])
        assert not allows("cat", ["--", "/data/ann/Xfractal_cache/x"], ["/data/ann/.fractal_cache"])

    def test_takes_a_dot_in_a_base_for_a_dot(self):
        assert allows("ls", ["--", "/a.b-c/x"], ["/a.b-c"])
        assert not allows("ls", ["--", "/aXb-c/x"], ["/a.b-c"])


class TestCheckUserName:
    @pytest.mark.parametrize(
        "name",
        ["ann", "_svc", "ann.lee-2", "Ann", "host$", "ann@site.org", "SITE\\ann", "S+ann", "1ann", "ANN", "a" * 255],
    )
    def test_takes_names_of_users(self, name):
        assert check_user_name(name) == name

    @pytest.mark.parametrize(
        "name",
        ["", "root", "#0", "#1000", "-u", "ann lee", "ann\n", "ann\0", "a;b", "%group", "a/b", "0", "ALL,b", "!ann"],
    )
    def test_refuses_what_sudo_reads_otherwise(self, name):
        with pytest.raises(FractalSlurmError, match="as a user to impersonate"):
            check_user_name(name)

    @pytest.mark.parametrize(
        "name", ["a" * 256, "é", ".ann", "$ann", "ann$x", "SITE\\\\ann", "ann\\", "\\ann", "7", "ALL", "a'b"]
    )
    def test_refuses_what_is_no_users_name(self, name):
        with pytest.raises(FractalSlurmError, match="as a user to impersonate"):
            check_user_name(name)


class TestCheckPath:
    @given(st.text(max_size=16) | paths)
    def test_lets_only_plain_absolute_paths_through(self, text):
        path, messages = outcome(check_path, text, "it")
        if messages:
            assert "\n" not in messages[0]
        else:
            assert re.fullmatch(r"(/[A-Za-z0-9_.@+-]+)+", path)
            assert not any(part.startswith((".", "-")) for part in path.split("/"))


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
    @pytest.mark.parametrize("stream", ["1", "2"])
    def test_ends_a_command_that_prints_without_end(self, tmp_path, stream):
        with pytest.raises(TooMuch, match="mkdir as ann was ended: it printed more than"):
            played(tmp_path, f"exec yes >&{stream}").run("ann", "mkdir", [], timeout=60)

    def test_knows_of_a_command_that_lives_on(self, tmp_path):
        sudo = played(tmp_path, "trap '' TERM; while :; do sleep 0.1; done")
        with pytest.raises(TimedOut):
            sudo.run("ann", "sbatch", [], timeout=0.2)
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
        with pytest.raises(ClusterError, match=r"ann can't make the folder /proc/none/run: .*mkdir: "):
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


class TestRulesBeyond:
    OURS = "    (anna, %lab, !root) NOPASSWD: /bin/sbatch, /bin/scancel ^[0-9]{1,10}( [0-9]{1,10})*$, /usr/bin/cat\n"
    HEAD = "Matching Defaults entries for svc on h:\n    env_reset, use_pty\n\nUser svc may run the following on h:\n"

    def test_knows_our_own(self):
        assert rules_beyond(self.HEAD + self.OURS, COMMANDS) == []
        assert rules_beyond("", COMMANDS) == []

    @pytest.mark.parametrize(
        "rule",
        [
            "(ALL : ALL) ALL",
            "(ALL) NOPASSWD: ALL",
            "(root) NOPASSWD: SETENV: /bin/systemctl restart x",
            "(anna) /usr/bin/sbatch, /bin/sh",
            '("a b") /usr/bin/',
        ],
    )
    def test_finds_what_is_more(self, rule):
        assert rules_beyond(f"{self.HEAD}{self.OURS}    {rule}\n", COMMANDS) == [rule]

    def test_reads_wrapped_lines(self):
        listing = self.HEAD + "    (anna,\n        ben) NOPASSWD: /usr/bin/cat,\n        /bin/sh\n"
        assert rules_beyond(listing, COMMANDS) == ["(anna, ben) NOPASSWD: /usr/bin/cat, /bin/sh"]
