# SPDX-License-Identifier: GPL-3.0-or-later
"""Tasks that compute on a real GPU, in new processes and in forks.

A context of CUDA does not survive a fork. So the worker has to see whether the imports of a task made one. Needs an
NVIDIA GPU, and a Python with PyTorch (FRACTAL_GPU_PYTHON, else the first python3 on PATH); skipped without.
"""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest
from test_worker_process import Job

PYTHON = os.environ.get("FRACTAL_GPU_PYTHON") or shutil.which("python3") or "python3"
TASKS = 5


def _has(module: str, expression: str) -> bool:
    code = f"import sys, {module}; sys.exit(not ({expression}))"
    return subprocess.run([PYTHON, "-c", code], capture_output=True, timeout=300, check=False).returncode == 0


needs_torch = pytest.mark.skipif(
    not os.path.exists("/dev/nvidiactl") or not _has("torch", "torch.cuda.is_available()"),
    reason="no NVIDIA GPU, or no PyTorch that sees it",
)

LIBRARIES = {
    "torch": """
        import torch
        a = torch.arange(1_000_000, dtype=torch.float64, device="cuda").reshape(1000, 1000) % 17
        print(torch.cuda.device_count(), (a @ a).sum().item(), a.device)
    """,
    "cupy": """
        import cupy
        a = cupy.arange(1_000_000, dtype="float64").reshape(1000, 1000) % 17
        print(cupy.cuda.runtime.getDeviceCount(), float((a @ a).sum()))
    """,
    "jax": """
        import jax, jax.numpy as np
        a = np.arange(250_000, dtype="float32").reshape(500, 500) % 17
        # The sum would depend on the kernel that is found fastest at the time; the elements are exact.
        print(jax.devices()[0].platform, float((a @ a).max()), float((a @ a).min()))
    """,
}
# A module of which the import makes a context, as some do to find out what the GPU can.
EAGER = """
import torch
ones = torch.ones(8, device="cuda")
"""
ENVIRONMENT = {
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    **{name: os.environ[name] for name in ("LD_LIBRARY_PATH", "HOME") if name in os.environ},
}


def run(folder, text: str, task_start: str, **files: str) -> tuple[list[tuple[str, str]], dict]:
    """Run tasks of a script in two slots. Returns state and log of each, and the record of the worker's end."""
    place = folder / task_start
    place.mkdir(mode=0o700)
    for name, content in files.items():
        (place / f"{name}.py").write_text(content)
    script = place / "compute.py"
    script.write_text("\n".join(line[8:] if line.startswith(" " * 8) else line for line in text.splitlines()))
    job = Job(place, [{}] * TASKS, command=(PYTHON, str(script)), task_start=task_start)
    status, said = job.run(slots=2, timeout_s=240, **ENVIRONMENT)
    assert status == 0, said
    log = (place / job.claim.name.partition(".")[0] / "log-0-0").read_bytes()
    found = []
    for record in sorted(job.tasks(), key=lambda record: record["task"]):
        start, size = record["log"]
        found.append((record["state"], log[start : start + size].decode(errors="replace")))
    [end] = [record for record in job.records() if "end" in record]
    return found, end


@needs_torch
class TestGpu:
    @pytest.mark.parametrize("name", LIBRARIES)
    def test_computes_the_same_in_a_fork(self, tmp_path, name):
        if not _has(name, "True"):
            pytest.skip(f"no {name}")
        fresh, _end = run(tmp_path, LIBRARIES[name], "fresh")
        fork, end = run(tmp_path, LIBRARIES[name], "fork")
        assert [state for state, _log in fresh] == ["succeeded"] * TASKS, fresh
        assert fork == fresh, end
        if name == "torch":
            # Its import leaves the GPU alone.
            assert (end["forked"], end["fresh_why"]) == (TASKS, None)

    def test_starts_tasks_fresh_whose_imports_open_the_gpu(self, tmp_path):
        text = "import eager\nprint((eager.ones * 2).sum().item())\n"
        fresh, _end = run(tmp_path, text, "fresh", eager=EAGER)
        fork, end = run(tmp_path, text, "fork", eager=EAGER)
        assert [state for state, _log in fresh] == ["succeeded"] * TASKS, fresh
        assert fork == fresh, end
        assert "/dev/nvidia" in end["fresh_why"]
        assert end["forked"] < TASKS
