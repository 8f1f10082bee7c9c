#!/bin/bash -eu
# SPDX-License-Identifier: GPL-3.0-or-later
# Make a container a host of the site's cluster: people, munge, SLURM's folders. usage: host.sh MUNGE_KEY
# One script, since it is done on each of four hosts: as tasks of Ansible it takes half a minute.
groupadd --gid 2100 plate-users
person() { # NAME NUMBER [OPTION]...: the same numbers on all hosts, and homes on the shared folder
    name=$1 number=$2
    shift 2
    useradd --uid "$number" --home-dir "/shared/home/$name" --no-create-home --shell /bin/bash "$@" "$name"
    mkdir -p "/shared/home/$name"
    chown "$name:" "/shared/home/$name"
}
person fractal 2000
person anna 2001
person ben 2002 --groups plate-users
person carl 2003
person dora 2004 --groups plate-users

(umask 077 && printf %s "$1" > /etc/munge/munge.key && chown munge: /etc/munge/munge.key)
systemctl enable --now --quiet munge

# a cgroup plugin that starts without cgroups
case $(slurmd -V) in
    "slurm-wlm 22."*) plugin=cgroup/v1 ;;
    *) plugin=disabled ;;
esac
echo "CgroupPlugin=$plugin" > /etc/slurm/cgroup.conf
install -d -o slurm -g slurm /var/lib/slurm /var/lib/slurm/slurmctld /var/lib/slurm/slurmd /var/log/slurm
