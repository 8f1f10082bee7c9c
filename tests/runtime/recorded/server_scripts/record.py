# SPDX-License-Identifier: GPL-3.0-or-later
"""Record what fractal-server writes for a job, by its own code: run this with the Python of a fractal-server.

usage: PYTHON record_server_script.py FOLDER

Writes ``FOLDER/VERSION-KIND.sbatch`` and ``FOLDER/VERSION-KIND.input.json`` for the kinds sudo and ssh. The paths in it
begin with /srv/fractal (the server's side) and /home/anna (the user's side).
"""

import json
import os
import sys
import tempfile
from pathlib import Path

os.environ.update(JWT_SECRET_KEY="0" * 32, POSTGRES_DB="none", FRACTAL_RUNNER_BACKEND="slurm_sudo")

import fractal_server
from fractal_server.runner.executors.slurm_common.slurm_config import SlurmConfig
from fractal_server.runner.executors.slurm_common.slurm_job_task_models import SlurmJob, SlurmTask
from fractal_server.runner.executors.slurm_ssh.runner import SlurmSSHRunner
from fractal_server.runner.executors.slurm_sudo.runner import SlurmSudoRunner
from fractal_server.runner.task_files import TaskFiles

LOCAL, REMOTE = "/srv/fractal/jobs/proj_v2_0000001", "/home/anna/.fractal/proj_v2_0000001"


def record(runner_class: type, kind: str, target: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder + LOCAL)
        runner = object.__new__(runner_class)
        runner.slurm_runner_type = kind
        runner.python_worker_interpreter = "/opt/fractal-server/bin/python"
        runner.user_cache_dir = "/home/anna/.fractal_cache"
        files = [
            TaskFiles(
                root_dir_local=local,
                root_dir_remote=Path(REMOTE),
                task_name="Measure Wells",
                task_order=1,
                prefix="par-000000",
                component=f"{number:07d}",
            )
            for number in range(5)
        ]
        places = {"workdir_local": files[0].wftask_subfolder_local, "workdir_remote": files[0].wftask_subfolder_remote}
        tasks = [
            SlurmTask(
                prefix="par-000000",
                index=number,
                component=each.component,
                parameters={"zarr_url": f"/data/plate.zarr/{number}"},
                task_files=each,
                workflow_task_order=1,
                workflow_task_id=1,
                task_name="Measure Wells",
                **places,
            )
            for number, each in enumerate(files)
        ]
        places["workdir_local"].mkdir(parents=True)
        config = SlurmConfig(
            partition="main",
            cpus_per_task=1,
            mem_per_task_MB=100,
            job_name="Measure_Wells",
            time="00:10:00",
            extra_lines=[". /opt/fractal-slurm/share/fractal-slurm/node/fractal-job.sh", "export SITE=here"],
            user_local_exports={"MY_CACHE": "my/cache"},
            tasks_per_job=5,
            parallel_tasks_per_job=2,
            target_cpus_per_job=4,
            max_cpus_per_job=4,
            target_mem_per_job=4000,
            max_mem_per_job=4000,
            target_num_jobs=4,
            max_num_jobs=4,
        )
        runner._prepare_single_slurm_job(
            base_command="/opt/tasks/bin/python /opt/tasks/measure.py",
            slurm_job=SlurmJob(prefix="par-000000", tasks=tasks, **places),
            slurm_config=config,
        )
        name = f"{fractal_server.__VERSION__}-{kind}"
        script = Path(SlurmJob(prefix="par-000000", tasks=tasks, **places).slurm_submission_script_local).read_text()
        (target / f"{name}.sbatch").write_text(script.replace(folder, ""))
        document = Path(tasks[0].input_file_local).read_text().replace(folder, "")
        (target / f"{name}.input.json").write_text(json.dumps(json.loads(document), indent=2) + "\n")


if __name__ == "__main__":
    record(SlurmSudoRunner, "sudo", Path(sys.argv[1]))
    record(SlurmSSHRunner, "ssh", Path(sys.argv[1]))
