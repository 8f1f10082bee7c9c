#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Measure one well of a plate of convert_plate.py: a Fractal task of the type parallel, standard library only.

Arguments: ``zarr_url``. With ``sleep``, it sleeps so many seconds instead, and reads no image.
"""

from __future__ import annotations

import argparse
import json
import time


def main() -> None:
    """Run as a Fractal task."""
    parser = argparse.ArgumentParser(description="Measure one well.")
    parser.add_argument("--args-json", required=True)
    parser.add_argument("--out-json", required=True)
    given = parser.parse_args()
    with open(given.args_json, encoding="utf-8") as file:
        arguments = json.load(file)
    url = arguments["zarr_url"]
    name = url.rpartition("-")[2]
    attributes: dict[str, object] = {"measured": True}
    if "sleep" in arguments:
        time.sleep(float(arguments["sleep"]))
        print(f"{name}: slept {arguments['sleep']} s")
    else:
        import measure_well

        result = measure_well.measure(name, f"{url}/{name}.pgm", measure_well.threshold_sigmas(), None)
        attributes["spots"] = str(result["spots"])
        print(f"{name}: {result['spots']} spots, measured by {result['measured_by']}")
    with open(given.out_json, "w", encoding="utf-8") as file:
        json.dump({"image_list_updates": [{"zarr_url": url, "attributes": attributes}]}, file)


if __name__ == "__main__":
    main()
