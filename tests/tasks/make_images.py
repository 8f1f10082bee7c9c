# SPDX-License-Identifier: BSD-3-Clause
"""Make OME-Zarr images from seeds, for the tests on real tasks.

usage: make_images.py FOLDER IMAGES
"""

import sys

import numpy as np
from ngio import create_empty_plate, create_ome_zarr_from_array, open_ome_zarr_container
from ngio.ome_zarr_meta.ngio_specs import ImageInWellPath


def image(seed: int, acquisition: int) -> "np.ndarray":
    """Bright spots on noise; the second acquisition is the first, shifted."""
    random = np.random.default_rng(seed)
    array = random.integers(0, 300, (1, 4, 128, 128), dtype="uint16")
    for y, x in random.integers(10, 110, (12, 2)):
        array[:, 1:3, y : y + 9, x : x + 9] += 2000
    return np.roll(array, 3 * acquisition, axis=-1)


def make(folder: str, number: int) -> None:
    """A plate with a well an image, two acquisitions each, and the same images by themselves."""
    places = [
        ImageInWellPath(path=str(acquisition), row="A", column=f"{well + 1:02d}", acquisition_id=acquisition)
        for well in range(number)
        for acquisition in (0, 1)
    ]
    create_empty_plate(f"{folder}/plate.zarr", name="plate", images=places)
    options = {
        "pixelsize": 0.5,
        "axes_names": "czyx",
        "channels_meta": ["DAPI"],
        "levels": 3,
        "overwrite": True,
    }
    for well in range(number):
        for acquisition in (0, 1):
            store = f"{folder}/plate.zarr/A/{well + 1:02d}/{acquisition}"
            container = create_ome_zarr_from_array(store, image(well, acquisition), **options)
            container.add_table("FOV_ROI_table", container.build_image_roi_table("image"))
        create_ome_zarr_from_array(f"{folder}/image-{well}.zarr", image(well, 0), **options)
        open_ome_zarr_container(f"{folder}/image-{well}.zarr")


if __name__ == "__main__":
    make(sys.argv[1], int(sys.argv[2]))
