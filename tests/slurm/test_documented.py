# SPDX-License-Identifier: GPL-3.0-or-later
"""What the pages tell a reader to type is typed, with the names of this cluster in place of the pages'."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

from conftest import ANNA, BASE, REPO, Call

sys.path.insert(0, str(REPO / "tools" / "site"))
import commands

# The name of a command alone, in a sentence.
_NAME_ALONE = re.compile(r"fractal-slurm (run|resume|prune|doctor|completion|logs|report)")
START = (REPO / "docs/start.md").read_text("utf-8")


def block(language: str) -> str:
    """The last block of this language in the page on the first run."""
    return re.findall(rf"^```{language}\n(.*?)^```", START, re.DOTALL | re.MULTILINE)[-1]


def test_the_commands_of_the_pages_work_as_they_are_shown(call: Call) -> None:
    # The task and the spec of the page on the first run, and one task that fails: some commands are for that.
    task = call.script(block("python"), "hello.py")
    spec = call.folder / "work.json"
    text = block("json").replace("/opt/tasks/hello.py", task)
    assert '{"well": "A02"}' in text
    spec.write_text(text.replace('{"well": "A02"}', '{"well": "A02"}, {"no_well": 1}'))
    begun = ["--user", ANNA, "--cache-dir", str(call.work(ANNA) / "cache"), "--work-dir", str(call.work(ANNA))]
    first = call("run", str(spec), *begun)
    assert first.code == 1, first.stderr  # that of a run with tasks that failed
    run, made = call.run_id(), call.folder / "made"
    made.mkdir(mode=0o777)
    made.chmod(0o777)
    names = {
        "RUN": run, "20261126-202753-45d7c0": run, "TASK": "2", "SPEC": str(spec), "work.json": str(spec),
        "USER": ANNA, "anna": ANNA, "DIR": str(call.work(ANNA)), "/work/anna": str(call.work(ANNA)),
        "/shared/anna/runs": str(call.work(ANNA)), "/cache/anna": str(call.work(ANNA) / "cache"),
        "FILE": str(made / "report.html"), "files/slurm_config.json": str(call.folder / "config.json"),
        "/var/lib/node_exporter/fractal_slurm.prom": str(made / "runs.prom"), "8G": "100M", "02:00:00": "00:20:00",
        "...": "",
    }  # fmt: skip
    texts = dict.fromkeys(command.text.partition(" > ")[0] for command in commands.commands())
    wrong = []
    for text in texts:
        if _NAME_ALONE.fullmatch(text):
            continue
        words = [names.get(word, word) for word in shlex.split(text)]
        if words[:1] == ["squeue"]:
            answer = subprocess.run([BASE / "bin" / "squeue", *words[1:]], capture_output=True, text=True, check=False)
            code, said = answer.returncode, answer.stderr
        elif re.match(r"fractal-slurm [a-z-]", text):
            if words[1] == "run" and "--user" not in words:
                words += begun
            if words[1] == "validate" and "report.html" in words[-1]:
                words[-1] = str(call.folder / "config.json")
            outcome = call(*filter(None, words[1:]))
            code, said = outcome.code, outcome.stderr
        else:
            continue
        # 2 is a command that is used wrongly; 0 and 1 say what a run or a check came to.
        right = code in (0, 1) or (words[1] == "cancel" and "has ended already" in said)
        if not right or "Traceback" in said:
            wrong.append(f"{text}: exit code {code}: {said[-600:]}")
    assert not wrong, "\n".join(wrong)
    assert (made / "report.html").stat().st_size > 1000
    assert "fractal_slurm_" in (made / "runs.prom").read_text()
