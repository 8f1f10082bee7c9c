# SPDX-License-Identifier: GPL-3.0-or-later
"""After the removal the host is what it was before."""

testinfra_hosts = ["ssh://fsm-absent-host"]


def listed(host, name):
    return set(host.file(f"/root/{name}").content_string.splitlines())


def test_nothing_is_left(host):
    assert listed(host, "after") - listed(host, "before") == set()


def test_nothing_else_is_gone(host):
    assert listed(host, "before") - listed(host, "after") == set()
