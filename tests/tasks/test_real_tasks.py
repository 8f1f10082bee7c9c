# SPDX-License-Identifier: GPL-3.0-or-later
"""Tasks of fractal-tasks-core, and the libraries that such tasks use: the same in a fork as in a new process."""

from __future__ import annotations

import filecmp
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT
from test_nursery import Tasks
from test_worker_process import Job

PYTHON = Path(os.environ.get("FRACTAL_TASKS_PYTHON", ROOT / ".build/tasks/bin/python"))
# The first task of a job is forked of a nursery that has imported nothing, the second of one that has.
IMAGES = 2


@pytest.fixture(scope="session")
def images(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    program = Path(__file__).with_name("make_images.py")
    subprocess.run([PYTHON, program, folder, str(IMAGES)], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def package() -> Path:
    code = "import fractal_tasks_core as package; print(package.__path__[0])"
    answer = subprocess.run([PYTHON, "-c", code], check=True, capture_output=True, text=True)
    return Path(answer.stdout.strip())


def stages(folder: Path) -> list[tuple[str, list[dict]]]:
    """The tasks, one after the other, and the args of each."""
    singles = [f"{folder}/image-{number}.zarr" for number in range(IMAGES)]
    wells = [f"{folder}/plate.zarr/A/{number + 1:02d}" for number in range(IMAGES)]
    projected = {"method": "Maximum intensity projection", "overwrite": True, "new_plate_name": "plate_mip.zarr"}
    return [
        ("projection", [{"zarr_url": url} for url in singles]),
        (
            "threshold_segmentation",
            [{"zarr_url": url, "channel": {"identifier": "DAPI"}, "output_label_name": "cells"} for url in singles],
        ),
        ("measure_features", [{"zarr_url": url, "input_label_name": "cells"} for url in singles]),
        (
            "import_ome_zarr",
            [
                {
                    "zarr_dir": str(folder),
                    "zarr_name": Path(url).name,
                    "advanced_options": {"add_image_roi_table": True},
                }
                for url in singles
            ],
        ),
        ("init_projection_hcs", [{"zarr_urls": [f"{well}/0" for well in wells], "zarr_dir": str(folder)}]),
        (
            "compute_projection_hcs",
            [
                {
                    "zarr_url": f"{well.replace('plate', 'plate_mip')}/0",
                    "init_args": {"origin_url": f"{well}/0", **projected},
                }
                for well in wells
            ],
        ),
        (
            "compute_image_based_registration",
            [
                {
                    "zarr_url": f"{well}/1",
                    "init_args": {"reference_zarr_url": f"{well}/0"},
                    "wavelength_id": "DAPI",
                    "level_path": "0",
                }
                for well in wells
            ],
        ),
        ("projection", [{"zarr_url": f"{folder}/no-such-image.zarr"}, {"zarr_url": "no-zarr"}, {}]),
    ]


def comparable(text: str, folder: Path) -> str:
    """A log without what differs from start to start: times, folders, addresses."""
    text = text.replace(str(folder), "FOLDER")
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+", "TIME", text)
    text = re.sub(r"\d+\.\d+ ?s\b", "N s", text)
    return re.sub("0x[0-9a-f]{8,}", "ADDRESS", text)


def differences(first: Path, second: Path) -> list[str]:
    """Files below two folders that are not the same, byte for byte."""
    found = []

    def look(pair: filecmp.dircmp, below: str) -> None:
        found.extend(f"{below}{name}: on one side" for name in (*pair.left_only, *pair.right_only))
        _same, other, odd = filecmp.cmpfiles(pair.left, pair.right, pair.common_files, shallow=False)
        found.extend(f"{below}{name}" for name in (*other, *odd))
        for name, inner in pair.subdirs.items():
            look(inner, f"{below}{name}/")

    look(filecmp.dircmp(first, second, ignore=[]), "")
    return found


class TestTasksOfFractal:
    def run(self, tmp_path: Path, images: Path, package: Path, task_start: str) -> tuple[Path, list[dict]]:
        """Run all stages on a copy of the images. Returns the copy, and the records of the tasks in their order."""
        folder = tmp_path / task_start / "images"
        shutil.copytree(images, folder)
        records = []
        for number, (name, args) in enumerate(stages(folder)):
            place = tmp_path / task_start / f"{number}-{name}"
            place.mkdir(mode=0o700)
            command = (str(PYTHON), str(package / f"{name}.py"))
            job = Job(place, args, command=command, task_start=task_start)
            # Some write sets down in their order, which Python chooses anew for each process.
            process = job.start(slots=1, PYTHONHASHSEED="0")
            _out, said = process.communicate(timeout=300)
            assert process.returncode == 0, said
            [end] = [record for record in job.records() if "end" in record]
            if task_start == "fork":
                assert (end["forked"], end["fresh_why"]) == (len(args), None), said
            log = (place / job.claim.name.partition(".")[0] / "log-0-0").read_bytes()
            for record in sorted(job.tasks(), key=lambda record: record["task"]):
                start, size = record["log"]
                record["name"] = name
                record["whole log"] = comparable(log[start : start + size].decode(), folder)
                records.append(record)
        return folder, records

    def test_leave_the_same_results_files_and_logs(self, tmp_path, images, package):
        fresh_folder, fresh = self.run(tmp_path, images, package, "fresh")
        fork_folder, fork = self.run(tmp_path, images, package, "fork")
        assert len(fresh) == len(fork) == 6 * IMAGES + 1 + 3
        for one, other in zip(fresh, fork, strict=True):
            assert (other["name"], other["state"], other["exit"]) == (one["name"], one["state"], one["exit"]), other
            out = json.dumps(one.get("out")).replace(str(fresh_folder), str(fork_folder))
            assert json.dumps(other.get("out")) == out
            assert other["whole log"] == one["whole log"], other["name"]
        assert [record["state"] for record in fresh[-3:]] == ["failed"] * 3
        assert all(record["state"] == "succeeded" for record in fresh[:-3]), fresh
        assert differences(fresh_folder, fork_folder) == []


LIBRARIES = {
    "numpy": """
        import numpy as np
        a = np.arange(250_000.0).reshape(500, 500) % 17
        print((a @ a).sum(), np.linalg.svd(a, compute_uv=False)[:3].round(3), np.fft.fft(a[0])[:3].round(3))
    """,
    "scipy": """
        import numpy as np
        import scipy.linalg, scipy.ndimage, scipy.fft
        a = np.arange(90_000.0).reshape(300, 300) % 13 + np.eye(300)
        print(scipy.linalg.det(a), scipy.ndimage.gaussian_filter(a, 2).sum().round(3))
        print(abs(scipy.fft.fft2(a, workers=2)).sum().round(1))
    """,
    "numba": """
        import numba, numpy as np
        @numba.njit(parallel=True)
        def total(a):
            result = 0.0
            for i in numba.prange(a.shape[0]):
                result += a[i]
            return result
        print(total(np.arange(100_000.0)), numba.get_num_threads())
    """,
    "dask and zarr": """
        import dask.array as da, numpy as np, os, tempfile, zarr
        a = da.from_array(np.arange(1_000_000).reshape(1000, 1000), chunks=(250, 250))
        print((a + a.T).sum().compute(), a.mean(axis=0)[:3].compute())
        with tempfile.TemporaryDirectory() as folder:
            array = zarr.create_array(folder + "/a.zarr", shape=a.shape, chunks=a.chunksize, dtype=a.dtype)
            da.store(a, array)
            print(zarr.open_array(folder + "/a.zarr", mode="r")[:].sum())
        import dask.system
        print(dask.system.CPU_COUNT)
    """,
    "tifffile": """
        import io, numpy as np, tifffile
        file = io.BytesIO()
        tifffile.imwrite(file, np.arange(40_000, dtype="uint16").reshape(4, 100, 100), tile=(16, 16))
        print(tifffile.imread(io.BytesIO(file.getvalue())).sum(), len(file.getvalue()))
    """,
    "scikit-image": """
        import numpy as np
        from skimage import filters, measure, segmentation
        a = np.zeros((100, 100)); a[20:40, 20:40] = 1; a[60:90, 50:80] = 2
        labels = measure.label(a > filters.threshold_otsu(a) / 2)
        print(labels.max(), [region.area for region in measure.regionprops(labels)])
        print(segmentation.watershed(-a, labels).sum())
    """,
    "polars and pyarrow": """
        import io, polars as pl, pyarrow.parquet
        frame = pl.DataFrame({"a": list(range(10_000)), "b": [n % 7 for n in range(10_000)]})
        print(frame.group_by("b").agg(pl.col("a").sum()).sort("b").to_dicts())
        file = io.BytesIO()
        frame.write_parquet(file)
        print(pl.thread_pool_size())
        # With threads, pyarrow now and then aborts at the end of a process, of a new one, too.
        print(pyarrow.parquet.read_table(io.BytesIO(file.getvalue()), use_threads=False).num_rows)
        few = pl.scan_parquet(io.BytesIO(file.getvalue())).filter(pl.col("b") == 3)
        print(few.collect(engine="streaming").height)
    """,
    "pandas and anndata": """
        import anndata, numpy as np, pandas as pd
        frame = pd.DataFrame({"a": np.arange(1000), "b": np.arange(1000) % 3})
        print(frame.groupby("b").sum().to_dict(), anndata.AnnData(np.ones((3, 2))).shape)
    """,
}


class TestLibraries:
    @pytest.mark.parametrize("name", LIBRARIES)
    def test_compute_the_same_in_a_fork(self, tasks, name):
        # More than one: then OpenBLAS has threads when the process is forked.
        made: Tasks = tasks(LIBRARIES[name], env={"OPENBLAS_NUM_THREADS": "4", "OMP_NUM_THREADS": "4"})
        made.command[0] = str(PYTHON)
        fresh, fork = made.fresh(), made.fork()
        assert (fresh.status, fork.status) == (0, 0), fresh.log + fork.log
        assert comparable(fork.log, made.folder) == comparable(fresh.log, made.folder)

    def test_no_two_tasks_share_the_numbers_of_numpy(self, tasks):
        made: Tasks = tasks("import numpy as np\nprint(np.random.random(), np.random.default_rng().random())\n")
        made.command[0] = str(PYTHON)
        logs = [made.fork().log.split() for _number in range(3)]
        assert all(len(set(values)) == 3 for values in zip(*logs, strict=True))
