# SPDX-License-Identifier: GPL-3.0-or-later
"""Hosts of a scenario beside the one that a test is given."""

import os

import testinfra


def other_host(name):
    """testinfra's host of that name, reached as all are."""
    return testinfra.get_host(f"ssh://{name}", ssh_config=f"{os.environ['MOLECULE_EPHEMERAL_DIRECTORY']}/ssh_config")
