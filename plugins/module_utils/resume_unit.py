# -*- coding: utf-8 -*-
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeps the systemd unit that continues runs at boot. Standard library only."""

from __future__ import annotations

import os
import pwd
import re

from . import systemd
from .managed_file import ManagedFile

TYPE_CHECKING = False  # what follows is read by type checkers alone
if TYPE_CHECKING:
    from typing import Any

NAME = "fractal-slurm-resume.service"
VARIABLE = "fractal_slurm_runtime_resume_at_boot"
# The first line of our file. A file of the same name without it belongs to somebody else.
_MARK = "# Managed by Ansible (role fractal.slurm.runtime).\n"
_TEXT = """\
[Unit]
Description=Continue the runs of fractal-slurm that have not ended
Wants=network-online.target
# A user who is not known yet, or whose folder is not mounted, would be a refusal.
After=network-online.target remote-fs.target autofs.service nss-user-lookup.target sssd.service time-sync.target
After=munge.service sackd.service slurmdbd.service slurmctld.service slurmd.service
RequiresMountsFor={mounts}

[Service]
Type=simple
User={user}
WorkingDirectory=/
{environment}ExecStart={command} resume --all
# 1: tasks of a run failed. 130: the service was stopped, or a run was cancelled. Neither is a fault of the service.
SuccessExitStatus=1 130
Restart=on-abnormal
RestartSec=30
# SIGTERM leaves the jobs in SLURM. It goes to the driver alone, so that an sbatch can end.
KillMode=mixed
UMask=0077
# The driver calls sudo. So there is nothing here that implies NoNewPrivileges, or that takes from root what sudo needs.
NoNewPrivileges=no
ProtectSystem=full
ProtectControlGroups=yes
CapabilityBoundingSet=~CAP_SYS_MODULE CAP_SYS_BOOT CAP_SYS_TIME CAP_SYS_RAWIO CAP_SYS_PTRACE CAP_MKNOD CAP_NET_ADMIN

[Install]
WantedBy=multi-user.target
"""


def unit_text(prefix: str, user: str, settings_file: str | None, state_dir: str | None) -> str:
    """The text of the unit.

    Args:
        prefix: The folder of the runtime's versions.
        user: The account that the runs belong to.
        settings_file: The runtime's settings file. None for the runtime's own default.
        state_dir: The folder of the journals, if the settings have it.
    """
    mounts = [path for path in (prefix, state_dir) if path and path.startswith("/")]
    return _MARK + _TEXT.format(
        mounts=" ".join(_quoted(path) for path in mounts),
        user=user,
        environment=(
            "Environment=%s\n" % _quoted("FRACTAL_SLURM_SETTINGS_FILE=" + settings_file) if settings_file else ""
        ),
        command=_quoted(prefix + "/current/bin/fractal-slurm"),
    )


def _quoted(text: str) -> str:
    """A text as a word in a unit file. systemd reads % as a specifier, and %% as the sign."""
    return '"%s"' % re.sub(r'(["\\])', r"\\\1", text).replace("%", "%%")


class ResumeUnit:
    """The unit on this host.

    Args:
        module: The running module, with the parameters of the module runtime.
        prefix: The folder of the runtime's versions.
    """

    def __init__(self, module: Any, prefix: str) -> None:
        self._module = module
        self._prefix = prefix
        self._user: str = module.params["service_user"] or ""
        self._file = ManagedFile(module, os.path.join(systemd.UNIT_FOLDER, NAME), variable=VARIABLE)

    def is_ours(self) -> bool:
        """Whether the file is there, and was written by us."""
        try:
            return (self._file.read() or "").startswith(_MARK)
        except OSError:
            return False

    def faults(self) -> list[str]:
        """Find all that would keep the unit from being written or from starting, one sentence each."""
        found = systemd.unit_faults(VARIABLE, NAME, must_exist=False) + self._file.faults()
        if os.path.lexists(self._file.path) and not self.is_ours():
            found.append("%s is not a file of this role: move it away (%s)" % (self._file.path, VARIABLE))
        if os.geteuid() != 0:
            found.append("%s: root enables services: run with become" % VARIABLE)
        try:
            pwd.getpwnam(self._user)
        except KeyError:
            found.append(
                "%s: the account %r is unknown on this host: make it first, or name another one "
                "(fractal_slurm_service_user)" % (VARIABLE, self._user)
            )
        words = (self._prefix, self._user, self._settings_file() or "", self._state_dir() or "")
        if any(re.search(r"[\n\r\0]", word) for word in words):
            found.append("%s: found a path of more than one line; paths of one line are allowed" % VARIABLE)
        return found

    def keep(self) -> list[dict[str, Any]]:
        """Write the unit, and have it start at boot. It is not started now.

        Returns:
            The results of what differed.
        """
        outcome = self._file.write(
            unit_text(self._prefix, self._user, self._settings_file(), self._state_dir()),
        )
        state = systemd.unit_state(NAME, ["UnitFileState"])
        is_enabled = isinstance(state, dict) and state.get("UnitFileState") == "enabled"
        if not self._module.check_mode:
            if outcome["changed"]:
                systemd.act(self._module, "daemon-reload")
            if not is_enabled:
                systemd.act(self._module, "enable", NAME)
        if not is_enabled:
            outcome["changed"] = True
        return [outcome] if outcome["changed"] else []

    def remove(self) -> list[dict[str, Any]]:
        """Remove the unit if it is ours. What it runs at the moment goes on.

        Returns:
            The results of what differed.
        """
        if not self.is_ours():
            return []
        can_be_asked = isinstance(systemd.unit_state(NAME), dict)
        if can_be_asked and not self._module.check_mode:
            systemd.act(self._module, "disable", NAME)
        outcome = self._file.remove()
        if can_be_asked and not self._module.check_mode:
            systemd.act(self._module, "daemon-reload")
        return [outcome]

    @property
    def path(self) -> str:
        """The unit's file."""
        return self._file.path

    def _settings_file(self) -> str | None:
        return self._module.params["settings_file"] or None

    def _state_dir(self) -> str | None:
        folder = (self._module.params["settings"] or {}).get("state_dir")
        return folder if isinstance(folder, str) else None
