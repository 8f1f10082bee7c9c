# SPDX-License-Identifier: BSD-3-Clause
"""Run the benchmarks: `python3 -m benchmarks [ROW ...]`, as root, from the root of the repository."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

from .environment import BenchmarkError, Environment
from .rows import ROWS, Result
from .server_rows import take_down as take_down_server


def figure(value: float | None, unit: str) -> str:
    """Write a figure as short as it says something."""
    if value is None:
        return "-"
    if unit in ("tasks", "calls", "jobs", "requests"):
        return f"{value:,.0f}"
    return f"{value:,.0f} {unit}" if abs(value) >= 100 else f"{value:.3g} {unit}"


def table_line(result: Result) -> str:
    """Write one result as a line of the table."""
    ratio = "-" if result.ratio is None else f"{result.ratio:.1f} x"
    return "  ".join(
        (
            f"{result.what:<54}",
            f"{figure(result.ours, result.unit):>12}",
            f"{figure(result.peer, result.unit):>12}",
            f"{ratio:>9}",
            "ok  " if result.reached else "MISS",
            f"{result.goal:<20}",
            result.peer_name,
        )
    )


def machine(environment: Environment) -> dict[str, object]:
    """Say what the figures were measured on."""
    version = subprocess.run([environment.bin / "sinfo", "--version"], capture_output=True, text=True, check=True)
    return {
        "cpus": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1),
        "kernel": platform.release(),
        "slurm": version.stdout.strip(),
        "load_before": os.getloadavg()[0],
    }


def main() -> int:
    """Run from the command line; returns 0 if every row ran, whether it reached its goal or not."""
    summaries = [f"  {name:<14}{(row.__doc__ or '').splitlines()[0]}" for name, row in ROWS.items()]
    parser = argparse.ArgumentParser(
        prog="python3 -m benchmarks",
        description="Measure the runtime beside its peers on a SLURM of 4 nodes with 4 CPUs each on this machine.",
        epilog="\n".join(("rows:", *summaries)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("rows", nargs="*", metavar="ROW", help="only these rows (default: all)")
    parser.add_argument("--base", type=Path, default="/var/lib/fractal-slurm-bench", help="folder for everything")
    parser.add_argument("--json", type=Path, default=Path(".build/bench.json"), help="file for the raw figures")
    parser.add_argument("--clean", action="store_true", help="only remove what the benchmarks left, users included")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.rows if name not in ROWS]:
        parser.error(f"no such row: {', '.join(unknown)}; the rows are {', '.join(ROWS)}")
    environment = Environment(arguments.base)
    try:
        if arguments.clean:
            take_down_server(environment)
            environment.take_down()
            return 0
        environment.set_up()
        document: dict[str, object] = {"machine": machine(environment)}
        results = []
        missed_rows = 0
        titles = f"{'':<54}  {'ours':>12}  {'peer':>12}  {'better':>9}  {'':<4}  {'goal':<20}  peer"
        print(titles, "-" * len(titles), sep="\n", flush=True)
        for name in arguments.rows or ROWS:
            start = time.monotonic()
            try:
                for result in ROWS[name](environment):
                    results.append(result.as_json() | {"row": name})
                    print(table_line(result), flush=True)
            except BenchmarkError as error:
                missed_rows += 1
                print(f"{name}: not measured: {error}", file=sys.stderr)
            document[f"{name}_took_s"] = round(time.monotonic() - start, 1)
        document["results"] = results
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        print(f"The raw figures are in {arguments.json}.")
        return 1 if missed_rows else 0
    except BenchmarkError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    finally:
        take_down_server(environment)
        environment.stop()


if __name__ == "__main__":
    sys.exit(main())
