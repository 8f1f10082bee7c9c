#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Write down what is on a host: files, accounts, units, processes that last. usage: inventory.sh FILE
# Left out: what every system changes by itself, and Ansible's own folder.
{
    find / \( -path /proc -o -path /sys -o -path /dev -o -path /run -o -path /tmp -o -path /var/tmp -o -path /var/log \
        -o -path /shared -o -path /root -o -path /var/lib/systemd -o -path /opt \) -prune \
        -o -not -name '*.pyc' -not -name __pycache__ -not -path '/etc/*-' -not -path /etc/.pwd.lock -print
    find /run/lock /run/systemd/system -mindepth 1 2>/dev/null
    getent passwd
    getent group
    systemctl list-unit-files --no-legend --no-pager
    ps -e -o user:32=,args= | grep -v -e ssh -e '\[.*\]' -e ansible -e 'ps -e' -e find -e sort -e grep -e inventory.sh
    ss -Hltn | awk '{ print $4 }'
} | sort -u > "$1"
