# SPDX-License-Identifier: BSD-3-Clause
"""Make OME-Zarr images of 4 x 256 x 256 pixels, in an environment that has fractal-tasks-core.

usage: make_images.py FOLDER IMAGES
"""

from __future__ import annotations

import sys

import numpy as np
from ngio import create_ome_zarr_from_array


def make(folder: str, images: int) -> list[str]:
    """Make images in a folder; returns their paths."""
    paths = [f"{folder}/{index}.zarr" for index in range(images)]
    for index, path in enumerate(paths):
        array = np.random.default_rng(index).integers(0, 4000, (1, 4, 256, 256), dtype="uint16")
        create_ome_zarr_from_array(path, array, pixelsize=0.5, axes_names="czyx")
    return paths


def main() -> None:
    """Make them."""
    folder, images = sys.argv[1:]
    make(folder, int(images))


if __name__ == "__main__":
    main()
