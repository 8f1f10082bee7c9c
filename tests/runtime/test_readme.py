# SPDX-License-Identifier: GPL-3.0-or-later
"""What the README shows has to work as it stands."""

import re
from pathlib import Path

import yaml
from fractal_slurm.config.file import parse_config

ROOT = Path(__file__).parents[2]


def test_the_inventory_names_variables_that_roles_have_and_a_valid_config():
    block = re.search(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    variables = yaml.safe_load(block)["fractal_slurm"]["vars"]
    known = set()
    for specs in ROOT.glob("roles/*/meta/argument_specs.yml"):
        for entry in yaml.safe_load(specs.read_text())["argument_specs"].values():
            known |= set(entry.get("options", {}))
    assert set(variables) <= known
    parse_config(variables["fractal_slurm_config_content"], source="README.md")
