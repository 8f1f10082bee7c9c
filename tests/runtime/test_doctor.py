# SPDX-License-Identifier: GPL-3.0-or-later
from types import SimpleNamespace

import pytest
from fractal_slurm.doctor.checks import _below_a_work_folder, _sudo, _work_folder
from fractal_slurm.doctor.findings import Code, Level
from fractal_slurm.doctor.limits import examine_limits
from fractal_slurm.driver.ledger import ledger_of
from fractal_slurm.errors import ImpersonationError
from fractal_slurm.settings import Settings
from fractal_slurm.sudo import Impersonator


class TestRightsBeyondOurs:
    def test_none_are_said_to_be_none(self):
        sudo = SimpleNamespace(holds_programs_back=list, other_rights=list)
        findings = list(_sudo(SimpleNamespace(sudo=sudo)))
        assert [(each.code, each.level) for each in findings] == [(Code.SUDO_PRELOAD, "ok"), (Code.SUDO_MORE, "ok")]

    @pytest.mark.parametrize(
        ("rule", "ok"),
        [
            ("(ALL : ALL) ALL", False),
            ("(ALL) NOPASSWD:ALL", False),
            ("(ALL) NOPASSWD: ALL, !/usr/bin/su", False),
            ("(anna) /usr/bin/cat, ALL", False),
            ("(ALL) NOPASSWD: /usr/bin/systemctl restart fractal-server", True),
            ("(root) /opt/ALL/bin/tool", True),
        ],
    )
    def test_all_commands_are_a_fault_some_left_out_or_not(self, rule, ok):
        sudo = SimpleNamespace(holds_programs_back=list, other_rights=lambda: [rule])
        (finding,) = (each for each in _sudo(SimpleNamespace(sudo=sudo)) if each.code is Code.SUDO_MORE)
        assert finding.ok == ok
        assert rule in finding.words


class TestLimits:
    @pytest.fixture
    def settings(self, tmp_path):
        def make(**limits):
            return Settings(state_dir=str(tmp_path / "state"), slurm_bin_dir="/opt/slurm", limits=limits)

        return make

    def test_are_told_with_what_is_in_flight_and_nothing_is_made(self, settings, tmp_path):
        (finding,) = examine_limits(settings())
        assert (finding.level, finding.words) == ("ok", "none of our own on submissions")
        assert not (tmp_path / "state").exists()
        held = settings(
            each_user={"max_submissions": "200 in 1h", "max_jobs_in_flight": 100},
            all_users={"min_submission_interval": 0.5},
            users={"nobody": {"max_jobs_in_flight": 0}},
        )
        assert ledger_of(held).reserve("a" * 16, "anna", "run", ()) is None
        (finding,) = examine_limits(held)
        assert finding.words == (
            "each user: max_jobs_in_flight 100, max_submissions 200 in 1h; nobody: max_jobs_in_flight any number; "
            "all users: min_submission_interval 0.5; 1 job in flight now"
        )

    def test_of_an_unknown_user_are_worth_a_warning(self, settings):
        warning, rest = examine_limits(settings(users={"no-such-user": {"max_jobs_in_flight": 1}}))
        assert (warning.level, rest.level) == ("warning", "ok")
        assert "limits.users has no-such-user: this host knows no such user" in warning.words

    @pytest.mark.parametrize(
        ("limits", "level"), [({}, "warning"), ({"all_users": {"max_jobs_in_flight": 1}}, "failed")]
    )
    def test_that_can_not_be_kept_are_a_fault(self, settings, limits, level):
        file = ledger_of(settings()).file
        file.parent.mkdir(parents=True, mode=0o700)
        file.write_bytes(b"no database" * 1000)
        file.chmod(0o600)
        (finding,) = examine_limits(settings(**limits))
        assert (finding.code, finding.level) == (Code.LIMITS, level)
        assert "it is damaged" in finding.words


def test_a_work_folder_that_is_not_there_is_said(tmp_path):
    there, missing = tmp_path / "there", tmp_path / "none" / "work"
    there.mkdir()
    assert _work_folder(str(there), "nobody").level is Level.OK
    finding = _work_folder(str(missing), "nobody")
    assert (finding.code, finding.level) == (Code.WORK_DIR, Level.WARNING)
    assert f"{missing} is not there" in finding.words
    assert f"may write in {tmp_path};" in finding.words


class TestWorkFolderInSudosRules:
    """Hardened rules know the work folders. The user is allowed, so the advice must not be to allow the user."""

    @pytest.fixture
    def sudo(self, tmp_path):
        def make(*forms):
            """A sudo that answers yes to questions whose arguments begin so."""
            cases = "".join(f'    *" {form}"*) exit 0;;\n' for form in forms)
            fake = tmp_path / "sudo"
            fake.write_text(f'#!/bin/sh\ncase "$*" in\n{cases}esac\necho "sudo: a password is required" >&2\nexit 1\n')
            fake.chmod(0o755)
            return SimpleNamespace(sudo=Impersonator(sudo=str(fake), slurm_bin_dir="/usr/bin"))

        return make

    def test_that_is_not_in_them_is_said_with_what_to_do(self, sudo):
        slurm = sudo("/usr/bin/sbatch", "-- /data")
        assert _below_a_work_folder(slurm, "/data/anna", "nobody") is None
        finding = _below_a_work_folder(slurm, "/home//anna/", "nobody")
        assert finding.code is Code.WORK_DIR
        assert finding.level is Level.FAILED
        assert "mkdir as nobody for /home/anna, but it lets sbatch run" in finding.words
        assert "fractal_slurm_sudoers_work_dirs" in finding.words
        assert "FRACTAL_IMPERSONATE_USERS" not in finding.words

    def test_is_said_so_by_a_run_too_and_only_where_it_is_the_folder(self, sudo):
        with pytest.raises(ImpersonationError, match=r"for /home/anna/r, but .* fractal_slurm_sudoers_work_dirs"):
            sudo("/usr/bin/sbatch").sudo.make_folder("nobody", "/home/anna/r")
        with pytest.raises(ImpersonationError, match=r"add nobody .* to FRACTAL_IMPERSONATE_USERS"):
            sudo().sudo.make_folder("nobody", "/home/anna/r")
