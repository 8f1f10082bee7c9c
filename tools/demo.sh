# shellcheck shell=bash
# SPDX-License-Identifier: GPL-3.0-or-later
# What tools/demo and tools/demo-server share.
base=/var/lib/fractal-slurm-demo
# Show what changes and what fails, not all that is as it should be.
export ANSIBLE_COLLECTIONS_PATH=$PWD/.build/collections \
    ANSIBLE_LOCALHOST_WARNING=false ANSIBLE_INVENTORY_UNPARSED_WARNING=false ANSIBLE_DEPRECATION_WARNINGS=false \
    ANSIBLE_DISPLAY_OK_HOSTS=false ANSIBLE_DISPLAY_SKIPPED_HOSTS=false ANSIBLE_CALLBACK_RESULT_FORMAT=yaml
play() {
    .build/venv/bin/ansible-playbook "playbooks/$1.yml" --skip-tags workload \
        -e "fractal_slurm_demo_base=$base" -e "fractal_slurm_runtime_cache=$PWD/.build/wheels"
}
