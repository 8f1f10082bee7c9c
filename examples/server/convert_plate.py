#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Make a plate: a Fractal task of the type converter_non_parallel, with the standard library only.

Arguments: ``zarr_dir``, and ``wells``, the number of wells. Each well is a folder with its image, or an empty folder
where ``images`` is false (for work that reads none).
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import make_plate


def main() -> None:
    """Run as a Fractal task."""
    parser = argparse.ArgumentParser(description="Make a plate with a number of wells.")
    parser.add_argument("--args-json", required=True)
    parser.add_argument("--out-json", required=True)
    given = parser.parse_args()
    arguments = json.loads(Path(given.args_json).read_text(encoding="utf-8"))
    folder = Path(arguments["zarr_dir"]) / "plate"
    updates = []
    for number in range(int(arguments["wells"])):
        name = make_plate.WELLS[number % len(make_plate.WELLS)]
        place = folder / f"{number:05d}-{name}"
        os.makedirs(place, exist_ok=True)
        if arguments.get("images", True):
            content, _planted = make_plate.make_well("demo", name)
            (place / f"{name}.pgm").write_bytes(content)
        updates.append({"zarr_url": str(place), "attributes": {"well": place.name}})
    Path(given.out_json).write_text(json.dumps({"image_list_updates": updates}), encoding="utf-8")
    print(f"{len(updates)} wells in {folder}")


if __name__ == "__main__":
    main()
