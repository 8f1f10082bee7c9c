# SPDX-License-Identifier: GPL-3.0-or-later
"""What the first pages show has to work as it stands."""

import re
import runpy
import textwrap
from pathlib import Path

import yaml
from fractal_slurm.config.file import parse_config

ROOT = Path(__file__).parents[2]


def test_the_inventory_names_variables_that_roles_have_and_a_valid_config():
    block = re.search(r" +```yaml\n(.*?)```", (ROOT / "docs/start.md").read_text(), re.DOTALL)[1]
    variables = yaml.safe_load(textwrap.dedent(block))["fractal_slurm"]["vars"]
    known = set()
    for specs in ROOT.glob("roles/*/meta/argument_specs.yml"):
        for entry in yaml.safe_load(specs.read_text())["argument_specs"].values():
            known |= set(entry.get("options", {}))
    assert set(variables) <= known
    parse_config(variables["fractal_slurm_config_content"], source="docs/start.md")


def test_the_picture_shows_the_live_view_as_it_is():
    pictures = runpy.run_path(str(ROOT / "tools/pictures"))
    kept = (ROOT / "docs/pictures/live.svg").read_text()
    assert pictures["live"]() == kept, "draw it anew: .build/venv/bin/python tools/pictures"
    assert "://" not in kept.replace("http://www.w3.org/", "").replace("https://www.textualize.io", "")


def test_the_readme_is_one_screen_with_pictures_that_are_there():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) < 60
    pictures = re.findall(r'<img src="([^"]+)"', text)
    assert pictures
    assert all((ROOT / picture).is_file() for picture in pictures)
