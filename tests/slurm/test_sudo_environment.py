# SPDX-License-Identifier: BSD-3-Clause
"""What sudo adds to the environment of sbatch, and so to that of jobs."""

from __future__ import annotations

import pwd
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import ANNA, BASE, GROUP, ONE_JOB, Call, grant

LOOK = "#!/bin/sh\nenv | grep -E '^(SUDO_|LD_PRELOAD|SLURM_EXPORT_ENV|OF_)'\necho '{}' > \"$4\"\n"


@pytest.fixture
def with_defaults(call: Call) -> Iterator[Callable[..., None]]:
    """Give the service account other defaults, with SLURM's own sbatch: of the testbed's sudo would refuse a part."""

    def give(*defaults: str) -> None:
        commands = "/usr/bin/sbatch, /usr/bin/scancel"
        grant(f"{ANNA}, %{GROUP}", commands=commands, defaults=["env_keep += SLURM_CONF", *defaults])

    call.env |= {"FRACTAL_SLURM_SLURM_BIN_DIR": "/usr/bin", "SLURM_CONF": f"{BASE}/etc/slurm.conf"}
    yield give
    grant(f"{ANNA}, %{GROUP}")


def seen(call: Call) -> set[str]:
    """What the tasks of the newest run printed."""
    folder = Path(call.report()["run_folder"])
    return set("".join(log.read_text() for log in folder.glob("*/log-*")).splitlines())


class TestWhatSudoAdds:
    @pytest.mark.parametrize("options", [{}, {"nodes": 2}])
    def test_reaches_no_task(self, call: Call, with_defaults: Callable[..., None], options: dict[str, int]) -> None:
        with_defaults()
        call.config(batching=ONE_JOB, **options)
        outcome = call.run(call.spec(call.script(LOOK), 4))
        assert (outcome["succeeded"], outcome["jobs"]) == (4, 1), outcome.stderr
        assert seen(call) == set()

    @pytest.mark.parametrize("defaults", [["noexec"], ["noexec", "use_pty"], ["intercept", "intercept_type=dso"]])
    def test_a_rule_against_programs_does_not_hold_in_jobs(
        self, call: Call, with_defaults: Callable[..., None], defaults: list[str]
    ) -> None:
        with_defaults(*defaults)
        call.config(batching=ONE_JOB)
        outcome = call.run(call.spec(call.script(LOOK), 4))
        assert (outcome["succeeded"], outcome["jobs"]) == (4, 2), outcome.stderr
        assert "sudo's noexec, intercept or log_subcmds came with it" in outcome.stderr
        assert seen(call) == set()
        findings = call("doctor", "--user", ANNA, "--json").document
        assert any(finding["check"] == "sudo" and defaults[0] in finding["words"] for finding in findings)

    def test_what_the_script_sets_itself_stays(self, call: Call, with_defaults: Callable[..., None]) -> None:
        with_defaults("noexec")
        (library,) = list(Path("/lib").glob("*/libSegFault.so")) or list(Path("/lib").glob("*/libutil.so.1"))
        call.config(batching=ONE_JOB, extra_lines=[f"export LD_PRELOAD={library}", "export OF_THE_SITE=1"])
        outcome = call.run(call.spec(call.script(LOOK), 2))
        assert outcome["succeeded"] == 2, outcome.stderr
        assert seen(call) == {f"LD_PRELOAD={library}", "OF_THE_SITE=1"}

    def test_is_not_left_out_where_it_is_none_of_sudos(self, call: Call, with_defaults: Callable[..., None]) -> None:
        """A profile of the user's is run only where the rule against programs makes it necessary."""
        profile = Path(pwd.getpwnam(ANNA).pw_dir) / ".profile"
        profile.write_text("export OF_THE_PROFILE=1\n")
        profile.chmod(0o644)
        try:
            with_defaults()
            call.config(batching=ONE_JOB)
            assert call.run(call.spec(call.script(LOOK), 2))["succeeded"] == 2
            assert seen(call) == set()
            assert all(
                row["level"] == "ok" for row in call("doctor", "--json").document if row["code"] in ("D21", "D22")
            )
        finally:
            profile.unlink()
