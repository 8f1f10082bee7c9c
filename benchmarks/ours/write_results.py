# SPDX-License-Identifier: BSD-3-Clause
"""Write the journal of a run whose jobs have all ended, and the result files that their workers would have left.

So the driver's part can be measured alone: `fractal-slurm resume` then finds everything still to be collected. The
records are copies of those that a worker wrote, with an out-JSON and a log of a typical size.

Reads one JSON document on standard input: {"spec", "config", "user", "cache_dir", "work_dir", "results", "records"},
the last the records of a worker that had one task. Writes
{"run_id", "run_folder", "create_s", "result_bytes"}; create_s is the time from the spec to a journal that is on disk.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

from fractal_slurm.config.file import load_config_file
from fractal_slurm.driver.model import JobState
from fractal_slurm.driver.prepare import connect, create_run
from fractal_slurm.settings import load_settings
from fractal_slurm.spec import load_spec


def main() -> None:
    """Do it and print where things are."""
    request = json.load(sys.stdin)
    settings = load_settings()
    start = time.monotonic()
    journal = create_run(
        load_config_file(request["config"]),
        load_spec(request["spec"]),
        settings,
        connect(settings),
        user=request["user"],
        cache_dir=request["cache_dir"],
        work_dir=request["work_dir"],
        say=lambda words: print(words, file=sys.stderr),
    )
    # What a real worker wrote of a run with one task; each record is told by the key that it begins with.
    begin, task, end = (
        next(record for record in request["records"] if kind in record) for kind in ("begin", "task", "end")
    )
    create_s = time.monotonic() - start
    written = 0
    with journal, journal.transaction():
        journal.write(replace(journal.record, folder_made=True))
        for job in journal.jobs():
            folder = Path(request["results"]) / job.token
            folder.mkdir(parents=True)
            shared = {"token": job.token, "job": str(job.number)}
            records = [begin | shared]
            for index, attempt, _arguments in journal.task_lines(job.token):
                out = {"image_list_updates": [{"zarr_url": f"/data/plate.zarr/{index}", "origin": None}]}
                tail = f"2026-01-01 00:00:00,000; INFO; well {index} measured\n"
                records.append(task | shared | {"task": index, "attempt": attempt, "out": out, "tail": tail})
            records.append(end | shared)
            text = "".join(f"\n{json.dumps(record)}\n" for record in records)
            written += (folder / "results-0-0").write_text(text, encoding="utf-8")
            journal.update_job(
                job.token, state=JobState.ENDED, slurm_job_id=str(job.number), slurm_state="COMPLETED", nodes=1
            )
        run_id, run_folder = journal.record.run_id, journal.record.run_folder
    figures = {"run_id": run_id, "run_folder": run_folder, "create_s": create_s, "result_bytes": written}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
