# SPDX-License-Identifier: BSD-3-Clause
"""Run calls through our SlurmExecutor, in an environment that has our runtime.

Reads one JSON document on standard input: {"calls", "command", "user", "config", "cache_dir", "work_dir"}. Writes
{"wall_s", "succeeded", "lost", "runs"}.
"""

from __future__ import annotations

import json
import sys
import time

from fractal_slurm.executor import SlurmExecutor


def main() -> None:
    """Run the calls and print the figures."""
    request = json.load(sys.stdin)
    start = time.monotonic()
    with SlurmExecutor(
        request["user"], config=request["config"], cache_dir=request["cache_dir"], work_dir=request["work_dir"]
    ) as executor:
        futures = [executor.submit(request["command"], {"number": number}) for number in range(request["calls"])]
        done = [future for future in futures if future.exception() is None]
    figures = {
        "wall_s": time.monotonic() - start,
        "succeeded": len(done),
        "lost": request["calls"] - len(done),
        "runs": len({future.result().run_id for future in done}),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
