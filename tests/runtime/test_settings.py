# SPDX-License-Identifier: GPL-3.0-or-later
import time
from pathlib import Path

import pytest
from fractal_slurm.errors import SettingsError
from fractal_slurm.settings import PREFIX, Settings, check_settings, load_settings
from hypothesis import given
from hypothesis import strategies as st
from samples import outcome


@pytest.fixture
def toml(tmp_path):
    """Writes a settings file."""
    path = tmp_path / "fractal-slurm.toml"

    def write(content):
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


class TestLoadSettings:
    def test_has_a_default_and_a_description_of_everything(self, toml):
        assert load_settings(toml(""), {}) == Settings()
        assert all(entry.description.endswith(".") for entry in Settings.model_fields.values())

    def test_reads_the_file(self, toml):
        settings = load_settings(toml('slurm_bin_dir = "/opt/slurm/bin"\nmax_jobs_in_flight = 5\n'), {})
        assert (settings.bin_dir(), settings.max_jobs_in_flight) == ("/opt/slurm/bin", 5)

    def test_takes_a_variable_over_the_file(self, toml):
        path = toml('max_jobs_in_flight = 5\ntask_logs = "joined"')
        environ = {"FRACTAL_SLURM_MAX_JOBS_IN_FLIGHT": " 7 ", "FRACTAL_SLURM_TASK_LOGS": "separate"}
        settings = load_settings(path, environ)
        assert (settings.max_jobs_in_flight, settings.task_logs) == (7, "separate")

    def test_finds_the_file_by_its_variable(self, toml):
        path = toml("max_retries = 2")
        assert load_settings(environ={"FRACTAL_SLURM_SETTINGS_FILE": str(path)}).max_retries == 2

    def test_leaves_the_variable_of_fractals_own_file_alone(self, toml):
        assert load_settings(toml(""), {"FRACTAL_SLURM_CONFIG_FILE": "x"}) == Settings()

    def test_asks_for_a_file_only_where_one_was_named(self, tmp_path):
        with pytest.raises(SettingsError, match="can't be read: it is not there"):
            load_settings(tmp_path / "nowhere.toml", {})
        with pytest.raises(SettingsError, match="can't be read: Is a directory"):
            load_settings(tmp_path, {})

    def test_names_every_fault_at_once(self, toml):
        path = toml(
            'slurm_bindir = "/x"\nzzz = 1\nmax_retries = -1\nsudo = 3\nworker_python = "python"\nmemory_limit = "no"\n'
            "max_out_bytes = true\nkill = 1.5\n"
        )
        with pytest.raises(SettingsError) as caught:
            load_settings(path, {"FRACTAL_SLURM_MAX_NODE_RETRIES": "two", "FRACTAL_SLURM_STATE_DIR": "here"})
        lines = [line.removeprefix(f"{path}: ") for line in caught.value.messages]
        assert lines[0] == "slurm_bindir: unknown setting; did you mean 'slurm_bin_dir'?"
        assert lines[1].startswith("zzz: unknown setting; known settings are slurm_bin_dir, ")
        assert lines[2] == "max_retries: found -1; a whole number from 0 to 1000000000000 is allowed"
        assert lines[3] == "sudo: found 3; a string is allowed"
        assert lines[4] == "worker_python: found 'python'; an absolute path is allowed"
        assert lines[5] == "memory_limit: found 'no'; allowed are job, watch"
        assert lines[6].startswith("max_out_bytes: found True; a whole number")
        assert lines[7].startswith("kill: unknown setting")
        assert lines[8] == "FRACTAL_SLURM_STATE_DIR: found 'here'; an absolute path is allowed"
        assert lines[9].startswith("FRACTAL_SLURM_MAX_NODE_RETRIES: found 'two'; a whole number")

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            ("a = ", "no TOML"),
            ("max_retries = 1\nmax_retries = 2", "no TOML"),
            (b"a = '\xff'", "it is not UTF-8"),
            ("a = " + "[" * 50_000, "nested too deeply"),
            ("a = " + "9" * 5000, "can't be read"),
        ],
    )
    def test_says_why_a_file_cannot_be_read(self, toml, content, words):
        with pytest.raises(SettingsError, match=words) as caught:
            load_settings(toml(content), {})
        assert len(caught.value.messages) == 1

    @pytest.mark.parametrize("value", ["9" * 5000, "-1", "1.5", "", "1_0", "1e3", "0x10", "1\x1f", "٣"])
    def test_refuses_variables_that_are_no_numbers(self, toml, value):
        with pytest.raises(SettingsError, match="FRACTAL_SLURM_MAX_RETRIES: found "):
            load_settings(toml(""), {"FRACTAL_SLURM_MAX_RETRIES": value})

    @given(st.sampled_from(list(Settings.model_fields)), st.text(max_size=8) | st.integers().map(str))
    def test_takes_any_value_or_refuses_it_in_one_line(self, name, value):
        variable = PREFIX + name.upper()
        settings, messages = outcome(load_settings, "/dev/null", {variable: value})
        if settings:
            assert type(getattr(settings, name)) is type(getattr(Settings(), name))
        else:
            (message,) = messages
            assert message.startswith(f"{variable}: found ")
            assert "\n" not in message


class TestLimits:
    def test_are_read_from_tables_and_from_json(self, toml):
        text = '[limits.each_user]\nmax_submissions = "200 in 1h"\nmin_submission_interval = 0.5\n'
        text += "[limits.users.anna]\nmax_jobs_in_flight = 20\nmin_submission_interval = 0\n"
        limits = load_settings(toml(text), {}).limits
        (anna,), (ben,) = limits.of("anna"), limits.of("ben")
        assert dict(anna.limits) == {
            "max_jobs_in_flight": 20, "max_submissions": "200 in 1h", "min_submission_interval": 0,
        }  # fmt: skip
        assert anna.names["max_jobs_in_flight"] == "limits.users.anna.max_jobs_in_flight"
        assert anna.names["max_submissions"] == ben.names["max_submissions"] == "limits.each_user.max_submissions"
        assert ben.limits.max_jobs_in_flight is None
        assert not limits.counts_jobs("ben")
        given = load_settings(toml(text), {"FRACTAL_SLURM_LIMITS": '{"all_users": {"max_jobs_in_flight": 3}}'}).limits
        assert [scope.of_whom for scope in given.of("ben")] == ["all users"]
        assert Settings().limits.of("anna") == ()

    def test_name_every_fault_with_its_place(self, toml):
        text = """[limits]
            count_foreign_jobs = 3
            [limits.each_user]
            max_submissions = "200 per hour"
            max_subs = 1
            [limits.users.anna]
            max_jobs_in_fligth = 20
            [limits.users."b c"]
            [limits.al_users]
            [limits.all_users]
            min_submission_interval = true
            max_submissions = "0 in 1h"
            max_jobs_in_flight = -1
        """
        path = toml(text)
        with pytest.raises(SettingsError) as caught:
            load_settings(path, {"FRACTAL_SLURM_LIMITS": "[]"})
        rate = 'a number in a span such as "200 in 1h" is allowed; units are s, m, h, d, and 7 days are the most'
        assert [line.removeprefix(f"{path}: limits") for line in caught.value.messages] == [
            ".count_foreign_jobs: found 3; true or false are allowed",
            f".each_user.max_submissions: found '200 per hour'; {rate}",
            ".each_user.max_subs: unknown setting; did you mean 'max_submissions'?",
            ".users.anna.max_jobs_in_fligth: unknown setting; did you mean 'max_jobs_in_flight'?",
            ".users[\"b c\"]: 'b c' is not allowed as a user to impersonate: give the name of an ordinary user",
            ".al_users: unknown setting; did you mean 'all_users'?",
            ".all_users.min_submission_interval: found True; a number of seconds from 0 to 86400 is allowed",
            f".all_users.max_submissions: found '0 in 1h'; {rate}",
            ".all_users.max_jobs_in_flight: found -1; a whole number from 0 to 1000000 is allowed",
            "FRACTAL_SLURM_LIMITS: found '[]'; an object in JSON is allowed",
        ]

    @pytest.mark.parametrize("text", ["8 d", "1 in 8d", "1 in 0s", "1 in 1w", "1.5 in 1h", "-1 in 1h", "1 in 1h x", 3])
    def test_refuse_what_is_no_rate(self, text):
        with pytest.raises(SettingsError, match=r"x: limits\.each_user\.max_submissions: found .*is allowed"):
            check_settings({"limits": {"each_user": {"max_submissions": text}}}, source="x")


class TestHook:
    def test_lies_below_the_link_to_the_version_that_is_in_use(self, tmp_path):
        for version in ("1.0.0", "2.0.0"):
            (tmp_path / version / "share/fractal-slurm/node").mkdir(parents=True)
        (tmp_path / "current").symlink_to("2.0.0")
        found = [Settings(worker_folder=f"{tmp_path}/{name}/share/fractal-slurm").hook() for name in ("1.0.0", "2.0.0")]
        below = "share/fractal-slurm/node/fractal-job.sh"
        assert found == [f"{tmp_path}/1.0.0/{below}", f"{tmp_path}/current/{below}"]

    def test_is_there_in_a_checkout(self):
        assert Path(Settings().hook()).is_file()


class TestCheckSettings:
    def test_takes_values_as_the_file_and_the_environment_have_them(self):
        assert check_settings({"max_retries": " 2 ", "fork_fallback": "False"}, source="x") == Settings(
            max_retries=2, fork_fallback=False
        )

    def test_names_every_fault_at_once(self):
        with pytest.raises(SettingsError) as caught:
            check_settings({"max_retries": None, "slurm_bindir": "/x", "a\nb": 1, "z" * 200: 1}, source="x")
        assert [line.partition("; ")[0] for line in caught.value.messages] == [
            "x: max_retries: found nothing",
            "x: slurm_bindir: unknown setting",
            r"x: 'a\nb': unknown setting",
            f"x: 'zzz{'z' * 73}...: unknown setting",
        ]


class TestSettings:
    def test_finds_folders_of_its_own_where_none_are_set(self, monkeypatch, tmp_path):
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
        assert Settings().state_path() == tmp_path / "fractal-slurm"
        assert str(Settings(state_dir="/var/lib/x").state_path()) == "/var/lib/x"
        assert Settings().python().startswith("/")
        assert Settings().folder().endswith("/fractal_slurm")
        assert Settings(slurm_bin_dir="/opt/slurm/bin/").bin_dir() == "/opt/slurm/bin"

    def test_finds_slurm_by_the_path(self, monkeypatch, tmp_path):
        command = tmp_path / "sbatch"
        command.touch(mode=0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        assert Settings().bin_dir() == str(tmp_path)
        monkeypatch.setenv("PATH", "/nowhere")
        assert Settings().bin_dir() == "/usr/bin"


class TestTheUnreasonable:
    @pytest.mark.parametrize(
        "text",
        [
            ".".join(["a"] * 20_000) + "=1\n",
            "[" + ".".join(["a"] * 20_000) + "]\n",
            '"' + '"."'.join(["a"] * 10_000) + '"=1\n',
            "a=" + "{a=" * 9_000,
            "a=" + "[" * 30_000,
            "a=1\n" * 100_000,
            'sudo = "/a\\u0000b"\n',
            'sudo = "/a\\nb"\n',
            "max_retries = 0x" + "f" * 30_000 + "\n",
            f'sudo = "{"a" * 30_000}"\n',
        ],
    )
    def test_is_refused_at_once(self, toml, text):
        began = time.monotonic()
        _settings, messages = outcome(load_settings, toml(text), {})
        assert len(messages) == 1
        assert len(messages[0]) < 600
        assert time.monotonic() - began < 2

    def test_a_path_with_a_nul(self):
        _settings, messages = outcome(load_settings, "a\0b", {})
        assert "embedded null byte" in messages[0]
