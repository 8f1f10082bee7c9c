# SPDX-License-Identifier: GPL-3.0-or-later
import itertools

import pytest
from fractal_slurm.refusals import (
    Refusal,
    is_hopeless,
    is_sudos_final_word,
    kind_of,
    own_words,
    says_sudo,
    sudo_advice,
    sudo_words,
)
from hypothesis import given
from hypothesis import strategies as st

FAILED = "sbatch: error: Batch job submission failed: "
RESOURCES = ("BB", "Billing", "Energy", "GRES", "License", "Memory", "Node", "Unknown", "Cpu", "NewThing")
OLD_SUFFIXES = ("", "Limit")


class TestIsHopeless:
    @pytest.mark.parametrize(
        "reason",
        [
            *(f"{whose}Max{what}Per{per}{end}" for whose, what, per, end in itertools.product(
                ("QOS", "Assoc"), RESOURCES, ("Job", "Node"), OLD_SUFFIXES)),
            *(f"{whose}Max{what}MinutesPerJob{end}" for whose, what, end in itertools.product(
                ("QOS", "Assoc"), RESOURCES, OLD_SUFFIXES)),
            *(f"QOSMin{what}" for what in RESOURCES),
            "QOSMinCpuNotSatisfied", "QOSMaxWallDurationPerJobLimit", "AssocMaxWallDurationPerJobLimit",
            "MaxMemPerLimit", "PartitionNodeLimit", "PartitionTimeLimit", "BadConstraints", "InvalidQOS",
            "InvalidAccount", "AccountNotAllowed", "QOSNotAllowed", "QOSTimeLimit", "AssociationTimeLimit",
            "DependencyNeverSatisfied", "DeadLine",
        ],
    )  # fmt: skip
    def test_is_a_limit_that_the_job_breaks_by_itself(self, reason):
        assert is_hopeless(reason)

    @pytest.mark.parametrize(
        "reason",
        [
            *(f"{whose}Grp{what}{end}" for whose, what, end in itertools.product(
                ("QOS", "Assoc"), RESOURCES, ("", "Limit", "Minutes", "RunMinutes", "MinutesLimit"))),
            *(f"QOSMax{what}PerUser{end}" for what, end in itertools.product(RESOURCES, OLD_SUFFIXES)),
            *(f"Max{what}PerAccount" for what in RESOURCES),
            *(f"Max{what}RunMinsPer{per}" for what, per in itertools.product(RESOURCES, ("Account", "User"))),
            "AssocMaxJobsLimit", "QOSMaxJobsPerUserLimit", "QOSGrpJobsLimit", "MaxJobsPerAccount", "QOSUsageThreshold",
            "QOSJobLimit", "QOSResourceLimit", "AssociationJobLimit", "AssociationResourceLimit", "AccountingPolicy",
            "None", "Priority", "Resources", "Licenses", "Reservation", "ReservationDeleted", "ReservationInvalid",
            "ReqNodeNotAvail", "ReqNodeNotAvail, UnavailableNodes:n1", "ReqNodeNotAvail, Reserved for maintenance",
            "Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions",
            "PartitionDown", "PartitionInactive", "PartitionConfig", "NodeDown", "FrontEndDown", "SchedDefer",
            "BurstBufferResources", "BurstBufferStageIn", "BurstBufferOperation", "FedJobLock", "MaxPoweredUpNodes",
            "MpiPortsBusy", "JobArrayTaskLimit", "JobHeldUser", "JobHeldAdmin", "BeginTime", "Dependency", "Prolog",
            "Cleaning", "",
        ],
    )  # fmt: skip
    def test_is_nothing_that_others_or_time_may_cure(self, reason):
        assert not is_hopeless(reason)


class TestKindOf:
    @pytest.mark.parametrize(
        ("kind", "words"),
        [
            (Refusal.WRONG, "sbatch: error: invalid partition specified: x"),
            (Refusal.WRONG, FAILED + "Invalid account or account/partition combination specified"),
            (Refusal.WRONG, FAILED + "Invalid qos specification"),
            (Refusal.WRONG, FAILED + "Invalid feature specification"),
            (Refusal.WRONG, FAILED + "Invalid generic resource (gres) specification"),
            (Refusal.WRONG, FAILED + "Requested node configuration is not available"),
            (Refusal.WRONG, FAILED + "Requested time limit is invalid (missing or exceeds some limit)"),
            (Refusal.WRONG, FAILED + "Node count specification invalid"),
            (Refusal.WRONG, "sbatch: error: Invalid --mem specification"),
            (Refusal.WRONG, "/usr/bin/sbatch: unrecognized option '--foo=1'"),
            (Refusal.WRONG, "sbatch: error: QOSMinGRES\n" + FAILED + "Job violates accounting/QOS policy"),
            (Refusal.WRONG, "sbatch: error: AssocMaxCpuPerJobLimit\n" + FAILED + "Job violates accounting/QOS policy"),
            (Refusal.FORBIDDEN, FAILED + "User's group not permitted to use this partition"),
            (Refusal.FORBIDDEN, FAILED + "Access/permission denied"),
            (Refusal.TOO_LARGE, FAILED + "Pathname of a file, directory or other parameter too long"),
            (Refusal.TOO_LARGE, "sbatch: error: Batch script is too large"),
            (Refusal.FULL, "sbatch: error: AssocMaxSubmitJobLimit\n" + FAILED + "Job violates accounting/QOS policy"),
            (Refusal.FULL, "sbatch: error: QOSGrpSubmitJobsLimit"),
            (Refusal.FULL, "sbatch: error: MaxSubmitJobsPerAccount"),
            (Refusal.FULL, "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying."),
            (Refusal.FULL, "sbatch: error: Slurm job queue full, sleeping and retrying"),  # 26.05
            (Refusal.NOT_NOW, FAILED + "Required partition not available (inactive or drain)"),
            (Refusal.NOT_NOW, FAILED + "Requested partition configuration not available now"),
            (Refusal.NOT_NOW, FAILED + "Partition in DOWN state"),
            (Refusal.NOT_NOW, FAILED + "Required node not available (down, drained or reserved)"),
            (Refusal.NOT_NOW, FAILED + "Requested reservation is invalid"),
            (Refusal.NOT_NOW, FAILED + "Requested reservation not usable now"),
            (Refusal.NOT_NOW, FAILED + "Invalid license specification"),
            (Refusal.NOT_NOW, FAILED + "System submissions disabled"),
            (Refusal.NOT_NOW, FAILED + "Requested operation is presently disabled"),
            (Refusal.NOT_NOW, FAILED + "Job can not start due to maintenance reservation."),
            (Refusal.NOT_NOW, FAILED + "Unable to connect to database"),
            (Refusal.NOT_NOW, FAILED + "I/O error writing script/environment to file"),
            (Refusal.NOT_NOW, FAILED + "Slurm internal error, contact system administrator"),
            (Refusal.NOT_NOW, FAILED + "Invalid user id"),
            (Refusal.NOT_NOW, FAILED + "Unspecified error"),
            (Refusal.NOT_NOW, "sbatch: error: QOSGrpCpuLimit\n" + FAILED + "Job violates accounting/QOS policy"),
            (Refusal.NOT_NOW, FAILED + "Job violates accounting/QOS policy (job submit limit, user's size)"),
            (Refusal.NOT_NOW, "The cluster is closed on Sundays."),
            (Refusal.NOT_NOW, "/usr/bin/sbatch: line 3: /opt/site/check: No such file or directory"),
            (Refusal.NOT_NOW, ""),
        ],
    )  # fmt: skip
    def test_tells_what_is_final_from_what_may_pass(self, kind, words):
        assert kind_of(words) is kind

    @given(st.text(max_size=60))
    def test_takes_anything(self, words):
        assert kind_of(words) in Refusal
        assert own_words(words)
        assert isinstance(sudo_words(words.splitlines()), str)


class TestSudosWords:
    @pytest.mark.parametrize(
        ("said", "final", "advice"),
        [
            ("sudo: a password is required", True, ""),
            ("Sorry, user svc is not allowed to execute '/usr/bin/sbatch' as ann on login.", True, ""),
            ("sudo: I'm sorry svc. I'm afraid I can't do that", True, ""),
            ("sudo: interactive authentication is required", True, ""),
            ("sudo: sorry, you must have a tty to run sudo", True, "Defaults:svc !requiretty"),
            ('sudo: The "no new privileges" flag is set, which prevents sudo from running as root.', True, "NoNewPriv"),
            ("sudo: effective uid is not 0, is /usr/bin/sudo on a file system with the 'nosuid' option", True, "4755"),
            ("sudo: account validation failure, is your account locked?", True, "chage -l svc"),
            ("sudo: Account or password is expired, reset your password and try again", True, "chage -l svc"),
            ("There were too many logins for 'ann'.\nsudo: pam_open_session: Permission denied", False, "limits.conf"),
            ("sudo: unable to fork: Resource temporarily unavailable", False, "limits.conf"),
            ("sudo: /usr/bin/sbatch: command not found", False, "/usr/bin/sbatch is not there"),
            ("sudo: unable to execute /usr/bin/sbatch: Exec format error", False, "/usr/bin/sbatch is not there"),
            ("sudo: /etc/sudoers.d/x:1:10: syntax error\nsudo: error initializing audit plugin", False, "visudo -c"),
            ("sudo: something new", False, ""),
            # These have no name before them.
            ("svc is not in the sudoers file.", True, ""),
            ("svc is not in the sudoers file.\nThis incident has been reported to the administrator.", True, ""),
            ("svc is not allowed to run sudo on login.", True, ""),
            # A file of rules went while sudo read its folder. That may be over at the next try.
            ("sudo: unable to open /etc/sudoers.d/x: No such file or directory\nsudo: a password is required", False,
             "visudo -c"),
            # What sudo says by the way hides no cause.
            ("sudo: setrlimit(RLIMIT_CORE): Operation not permitted\nsudo: a password is required", True, ""),
            ("sudo: unable to send audit message: Operation not permitted\nsudo: a password is required", True, ""),
            ("sudo: unable to mkdir /run/sudo/ts: Read-only file system\nsudo: a password is required", True, ""),
        ],
    )  # fmt: skip
    def test_each_cause_has_its_advice(self, said, final, advice):
        assert says_sudo(said)
        assert is_sudos_final_word(said) == final
        found = sudo_advice(said, service="svc", user="ann", command="/usr/bin/sbatch")
        assert advice in found
        assert bool(advice) == bool(found)

    @pytest.mark.parametrize(
        "said",
        [
            "The cluster is closed.",
            "sbatch: error: Batch job submission failed: Invalid qos specification",
            "sudo: unable to resolve host login: Name or service not known\nThe cluster is closed.",
            "sudo: unable to resolve host login: Name or service not known\nsbatch: error: no",
            "sudo: setrlimit(RLIMIT_CORE): Operation not permitted\nThe cluster is closed.",
            "sudo: unable to send audit message: Operation not permitted\nThe cluster is closed.",
            'sudo: /etc/sudoers.d/x:1:61: unknown defaults entry "y"\nThe cluster is closed.',
            "This file is not in the sudoers file.",
            "",
        ],
    )
    def test_what_others_say_is_not_sudos(self, said):
        assert not says_sudo(said)

    def test_what_sudo_says_by_the_way_is_not_told_as_the_cause(self):
        lines = ["sudo: setrlimit(RLIMIT_CORE): Operation not permitted", "sudo: a password is required"]
        assert sudo_words(lines) == "a password is required"
        assert (
            sudo_words(["sudo-rs: interactive authentication is required"]) == "interactive authentication is required"
        )

    def test_pam_tells_the_cause_where_sudo_does_not(self):
        lines = ["There were too many logins for 'ann'.", "sudo: pam_open_session: Permission denied"]
        assert sudo_words(lines) == "There were too many logins for 'ann'.; pam_open_session: Permission denied"


class TestOwnWords:
    def test_shows_every_line_that_tells_something(self):
        said = "".join(f"sbatch: error: line {number}\n" for number in range(1, 6)) + FAILED + "Unspecified error\n"
        assert own_words(said) == "line 1; line 2; line 3; line 4; line 5"

    def test_shows_a_line_that_tells_nothing_where_it_is_all(self):
        assert own_words(FAILED + "Unspecified error") == "Batch job submission failed: Unspecified error"
        assert own_words("\n") == "no reason given"

    def test_keeps_both_ends_of_a_long_text(self):
        found = own_words("first " + "x" * 5000 + " last")
        assert len(found) < 1000
        assert found.startswith("first")
        assert found.endswith("last")
