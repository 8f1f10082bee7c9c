# SPDX-License-Identifier: BSD-3-Clause
"""Make images as a Fractal task of the type converter_non_parallel; arguments: ``zarr_dir`` and ``images``."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from make_images import make


def main() -> None:
    """Run as a Fractal task."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--args-json", required=True)
    parser.add_argument("--out-json", required=True)
    given = parser.parse_args()
    arguments = json.loads(Path(given.args_json).read_text(encoding="utf-8"))
    os.makedirs(arguments["zarr_dir"], exist_ok=True)
    updates = [{"zarr_url": path} for path in make(arguments["zarr_dir"].rstrip("/"), arguments["images"])]
    Path(given.out_json).write_text(json.dumps({"image_list_updates": updates}), encoding="utf-8")


if __name__ == "__main__":
    main()
