#!/bin/bash -eu
# SPDX-License-Identifier: GPL-3.0-or-later
# Start accounting and slurmctld, with an account, the people in it, and a QOS under which a user may have one job at a
# time. usage: controller.sh DATABASE_PASSWORD
systemctl enable --now --quiet mariadb
mariadb --execute "
    create database slurm_acct;
    create user slurm@localhost identified by '$1';
    grant all on slurm_acct.* to slurm@localhost;"
systemctl enable --now --quiet slurmdbd
tries=60 # until slurmdbd answers
until sacctmgr --immediate --quiet add cluster molecule; do
    tries=$((tries - 1))
    [ $tries -gt 0 ]
    sleep 1
done
sacctmgr --immediate --quiet add qos single MaxSubmitJobsPerUser=1
sacctmgr --immediate --quiet add account plates Cluster=molecule
sacctmgr --immediate --quiet add user anna,ben,carl Account=plates
sacctmgr --immediate --quiet add user dora Account=plates QOS=single DefaultQOS=single
systemctl enable --now --quiet slurmctld
