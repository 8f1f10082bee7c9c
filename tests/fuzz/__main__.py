# SPDX-License-Identifier: GPL-3.0-or-later
"""Try inputs that nobody thought of: `make fuzz`, or `python tests/fuzz NAME --seconds 60`."""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
BUILD = HERE.parents[1] / ".build/fuzz"
# An input that takes longer, or more memory, is a fault.
TIMEOUT_S, MEMORY_MB = 20, 2_048


def main() -> int:
    """Run one target, or all of them, each in a process of its own. Returns how many found a fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", help="which ones; all of them if none is named")
    parser.add_argument("--seconds", type=int, default=10, help="how long each is tried")
    parser.add_argument("--here", action="store_true", help="in this process; for one target")
    arguments = parser.parse_args()
    if arguments.here:
        fuzz(arguments.targets[0], arguments.seconds)
        return 0
    names = arguments.targets or sorted(entry.name for entry in (HERE / "corpus").iterdir())
    failed = []
    for name in names:
        argv = [sys.executable, str(HERE), name, "--here", "--seconds", str(arguments.seconds)]
        result = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        print(f"fuzz {name}, {arguments.seconds} s: {'a fault' if result.returncode else 'no fault'}", flush=True)
        if result.returncode != 0:
            failed.append(name)
            print(result.stdout.decode(errors="replace")[-6_000:])
    if failed:
        print(f"faults in: {', '.join(failed)}; the inputs are in {BUILD}; keep them in tests/fuzz/corpus")
    return len(failed)


def fuzz(name: str, seconds: int) -> None:
    """Try inputs for a while. A fault ends the process, and its input is written down."""
    BUILD.mkdir(parents=True, exist_ok=True)
    try:
        import atheris
    except ImportError:
        without_sight(name, seconds)
        return
    with atheris.instrument_imports(include=["fractal_slurm"]):
        import targets
    found = BUILD / "found" / name
    found.mkdir(parents=True, exist_ok=True)
    argv = [
        sys.argv[0], f"-max_total_time={seconds}", f"-timeout={TIMEOUT_S}", f"-rss_limit_mb={MEMORY_MB}",
        "-max_len=65536", f"-artifact_prefix={BUILD}/{name}-", "-verbosity=0", "-print_final_stats=1",
        str(found), str(targets.CORPUS / name),
    ]  # fmt: skip
    atheris.Setup(argv, lambda data: targets.attempt(name, data))
    atheris.Fuzz()


def without_sight(name: str, seconds: int) -> None:
    """The same with Hypothesis, which does not see what an input reaches: pieces of the corpus, put together anew."""
    import targets
    from hypothesis import HealthCheck, given, seed, settings
    from hypothesis import strategies as st

    samples = [path.read_bytes()[:4_096] for path in targets.seeds(name)]
    cuts = st.tuples(st.sampled_from(samples), st.integers(0, 4_096), st.integers(0, 4_096))
    pieces = cuts.map(lambda cut: cut[0][min(cut[1:]) : max(cut[1:])]) | st.binary(max_size=8)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:

        @seed(random.randrange(1 << 32))  # noqa: S311 - any numbers will do
        @settings(max_examples=300, deadline=TIMEOUT_S * 1_000, suppress_health_check=list(HealthCheck), database=None)
        @given(st.lists(pieces, max_size=6).map(b"".join))
        def trial(data: bytes) -> None:
            try:
                targets.attempt(name, data)
            except BaseException:
                (BUILD / f"{name}-hypothesis").write_bytes(data)
                raise

        trial()


if __name__ == "__main__":
    sys.exit(main())
