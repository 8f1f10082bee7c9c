# SPDX-License-Identifier: BSD-3-Clause
"""Make OME-Zarr images of 4 x 256 x 256 pixels, in an environment that has fractal-tasks-core.

usage: make_images.py FOLDER IMAGES
"""

from __future__ import annotations

import sys

import numpy as np
from ngio import create_ome_zarr_from_array


def main() -> None:
    """Make them."""
    folder, images = sys.argv[1:]
    for index in range(int(images)):
        array = np.random.default_rng(index).integers(0, 4000, (1, 4, 256, 256), dtype="uint16")
        create_ome_zarr_from_array(f"{folder}/{index}.zarr", array, pixelsize=0.5, axes_names="czyx")


if __name__ == "__main__":
    main()
