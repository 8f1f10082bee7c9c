# SPDX-License-Identifier: BSD-3-Clause
"""Write the sbatch script: #SBATCH lines, exports, and the tasks. sbatch reads it from standard input.

SLURM keeps the script in a file on the node. Only the user can read this file (0700). The worker reads its tasks from
there. So the server writes no file, and no other user can see the tasks.
"""

from __future__ import annotations

import base64
import re
import shlex
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from jinja2 import Environment, StrictUndefined

from ..config.options import SBATCH_PREFIX, check_extra_line, check_option_value, check_text, directive_words
from ..config.resolve import SlurmConfig
from ..config.types import check_export_name, check_export_path
from ..config.walltime import format_walltime
from ..errors import FractalSlurmError, SpecError
from ..node.protocol import HOOK, MAGIC, NO_FILES_EXIT, PRELOAD_EXIT, UNSAFE_EXIT, asks_for_gpus
from .layout import claim_path, job_folder, output_path

# The default of slurmctld's limit (max_script_size in slurm.conf). The margin is for what slurmctld adds.
DEFAULT_MAX_SCRIPT_BYTES = 4 * 1024 * 1024
_SCRIPT_MARGIN_BYTES = 4096
# Most characters of a task's name in a job name.
_MAX_NAME = 80

# jinja2 must not escape values: it would do so for HTML. Every value is checked and quoted before it gets here.
_ENVIRONMENT = Environment(undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)  # noqa: S701
_TEMPLATE = _ENVIRONMENT.from_string(
    """\
{{ shebang_line }}
{% for name, value in options %}#SBATCH --{{ name }}={{ value }}
{% endfor %}
{% for line in directives %}{{ line }}
{% endfor %}
unset SUDO_COMMAND SUDO_GID SUDO_UID SUDO_USER SUDO_HOME SUDO_TTY SUDO_INTERCEPT_FD
{% if clear_preload %}
[ -n "${LD_PRELOAD-}" ] || unset LD_PRELOAD
unset SLURM_EXPORT_ENV
{% endif %}
# This library is in the shell by now, and refuses all programs that it would start.
case ${LD_PRELOAD-} in *sudo_noexec.so* | *sudo_intercept.so*)
  echo "fractal-slurm: LD_PRELOAD=$LD_PRELOAD came from sudo with the job: it can start no program" >&2
  exit {{ preload }} ;;
esac
{% if not slurm_output %}
# Others may rename what is above the run's folder: no file is opened in it, and nothing looked for in it, before it
# is known to be the user's own and private.
cd {{ run_folder }} || exit {{ no_files }}
[ -O . ] || exit {{ unsafe }}
case $(/bin/ls -ldn .) in d???--[-S]--[-T]*) ;; *) exit {{ unsafe }} ;; esac
(: >> {{ output }}) || exit {{ no_files }}
exec >> {{ output }} 2>&1
{% endif %}
{% for line in extra_lines %}{{ line }}
{% endfor %}
{% for name, path in exports %}export {{ name }}={{ path }}
{% endfor %}
export FRACTAL_CACHE_DIR={{ cache_dir }}
set -- {{ start }}
if [ "${SLURM_JOB_NUM_NODES:-1}" -gt 1 ]; then
  # One step for the whole job: a worker a node. srun overwrites SLURM_TASKS_PER_NODE, hence the arguments: the others
  # are the job's age, and where its tasks are to begin. SLURM hands on the umask that sbatch had.
  SLURM_UMASK=$(umask)
  export SLURM_UMASK
  exec {{ srun }} --quiet --export=ALL --input=all --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" \\
    --ntasks-per-node=1 --mem=0 --overlap --cpu-bind=none --mpi=none --kill-on-bad-exit=0 --wait=0 --chdir=/ \\
    {{ worker }} - "$SLURM_TASKS_PER_NODE" "$(ps -o etimes= -p $$ 2>/dev/null)" "$(pwd)" < "$0"
fi
exec {{ worker }} "$0" "$SLURM_TASKS_PER_NODE"
exit 127
"""
)

# Starts the worker on a node. The arguments are the Python, the folder of node/, and the arguments of the worker. If
# the node does not have this Python, it uses the Python of the runtime there, or the one of the system. Tasks do not
# see the variables of this text.
_START_WORKER = """\
fractal_python=$1 fractal_folder=$2 fractal_node=${SLURMD_NODENAME:-$(uname -n)}
shift 2
if [ ! -r "$fractal_folder/node/worker.py" ]; then
  echo "fractal-slurm: the runtime is not on node $fractal_node: $fractal_folder/node/worker.py can not be read there: \
run the playbook fractal.slurm.site for this node" >&2
  exit 127
fi
[ -x "$fractal_python" ] || for fractal_python in "$fractal_folder/../../bin/python" /usr/bin/python3 ""; do
  "$fractal_python" -I -S -c "import sys; sys.exit(sys.version_info < (3, 8))" 2>/dev/null && break
done
if [ -z "$fractal_python" ]; then
  echo "fractal-slurm: node $fractal_node has no Python 3.8 or newer for the runtime: install one as /usr/bin/python3, \
or set worker_python" >&2
  exit 127
fi
# With -c the worker is imported, and so read from its compiled form: that saves 15 ms a job.
exec "$fractal_python" -I -S -c "import sys; sys.path.append(sys.argv[1]); from node import worker
sys.exit(worker.main(sys.argv[2:]))" "$fractal_folder" "$@"
"""


@dataclass(frozen=True)
class JobSettings:
    """The values that all scripts of a run share, beside the SlurmConfig.

    Attributes:
        command: The words of the task's command.
        run_folder: Folder of the run, in the user's work folder. It is the job's working directory.
        cache_dir: The user's cache_dir. It is the base of user_local_exports, and the tasks' FRACTAL_CACHE_DIR.
        worker_python: Absolute path of the Python that runs the worker on the nodes.
        worker_folder: Absolute path of the folder that has node/worker.py.
        srun: The command srun in the script.
        memory_limit: ``job`` (SLURM limits the job) or ``watch`` (the worker also watches each task).
        isolation: ``none``, or ``step``: each slot is a job step.
        task_logs: ``joined`` (one file for all tasks) or ``separate`` (a file for each task).
        task_start: ``fresh``, or ``fork``: tasks are forks of a Python process that has done their imports.
        fork_fallback: Whether a task that failed in a fork runs once more as a new process.
        max_out_bytes: The largest out-JSON, in bytes.
        kill_wait_s: SLURM's KillWait, in seconds.
        max_script_bytes: The largest script that the cluster accepts, in bytes.
        time_scope: What the option ``time`` limits: ``task`` or ``job``.
        start_slack_s: Seconds that are added to a job's time limit for its start.
        max_walltime_s: The longest time limit that a job may have, in seconds. None for no limit.
        max_walltime_of: Who sets this limit, in words. Empty for the partition.
        slurm_output: Whether SLURM may open the job's output file by its path. If not, the script opens it.
        clear_preload: Whether sbatch must not pass on the LD_PRELOAD that sudo gave it.
        run_id: The run's id, for the job's comment, so that squeue shows it. Empty if it is not known.
    """

    command: tuple[str, ...]
    run_folder: str
    cache_dir: str
    worker_python: str
    worker_folder: str
    srun: str = "srun"
    memory_limit: str = "job"
    isolation: str = "none"
    task_logs: str = "joined"
    task_start: str = "fresh"
    fork_fallback: bool = True
    max_out_bytes: int = 64_000_000
    kill_wait_s: int = 30
    max_script_bytes: int = DEFAULT_MAX_SCRIPT_BYTES
    time_scope: str = "task"
    start_slack_s: int = 60
    max_walltime_s: int | None = None
    slurm_output: bool = True
    max_walltime_of: str = ""
    clear_preload: bool = False
    run_id: str = ""


def safe_job_name(name: str) -> str:
    """Return a job name that is safe in a shell, for sbatch, and in a line of a log."""
    return re.sub(r"[^A-Za-z0-9_+-]", "_", name)[:_MAX_NAME] or "task"


def quote(value: str, what: str) -> str:
    """Quote a value for the shell that runs the script.

    Args:
        value: The value.
        what: The name of the value in messages.

    Raises:
        FractalSlurmError: The value has a control character.
    """
    return shlex.quote(check_text(value, what))


def job_limit_s(config: SlurmConfig, settings: JobSettings, tasks: int) -> int | None:
    """Return the time limit of a job with so many tasks, in seconds. None stands for the partition's default.

    ``time`` is the time of one task. If a slot runs several tasks, one after the other, the job needs it as many times.
    It also needs a little time to start.
    """
    time_s = config.time_s
    if time_s is None:
        return None
    if settings.time_scope == "job":
        return time_s
    limit = time_s * rounds(config, tasks)
    most = settings.max_walltime_s
    with_slack = -(-(limit + settings.start_slack_s) // 60) * 60
    return limit if most is not None and limit <= most < with_slack else with_slack


def rounds(config: SlurmConfig, tasks: int) -> int:
    """Return the most tasks that one slot of a job runs, one after the other."""
    return -(-tasks // min(config.parallel_tasks_per_job, tasks))


def sbatch_options(config: SlurmConfig, settings: JobSettings, *, token: str, tasks: int) -> list[tuple[str, str]]:
    """Return the options of a job for sbatch, in the order of the script."""
    slots = min(config.parallel_tasks_per_job, tasks)
    limit = job_limit_s(config, settings, tasks)
    # --mem is the memory on each node. If a job had several nodes, each would need the memory of the whole job.
    if config.use_mem_per_cpu or config.nodes not in (None, "1"):
        memory = ("mem-per-cpu", f"{-(-config.memory_mb // config.cpus_per_task)}M")
    else:
        memory = ("mem", f"{config.memory_mb * slots}M")
    name = f"{safe_job_name(config.job_name)}.{token}"
    options: list[tuple[str, str]] = [
        ("job-name", name),
        ("comment", ":".join(filter(None, ("fractal-slurm", settings.run_id, token)))),
        ("partition", config.partition),
        ("ntasks", str(slots)),
        ("cpus-per-task", str(config.cpus_per_task)),
        memory,
    ]
    for option in ("constraint", "gres", "gpus", "account", "nodes", "nodelist", "exclude"):
        value = getattr(config, option)
        if value is not None:
            options.append((option, str(value)))
    if limit is not None:
        options.append(("time", format_walltime(limit)))
    options += [
        ("chdir", settings.run_folder if settings.slurm_output else "/"),
        ("output", output_path(settings.run_folder, token) if settings.slurm_output else "/dev/null"),
        ("open-mode", "append"),
        # Not NONE: SLURM would run the user's login profile on the node, which may wait, fail or exit. The environment
        # from sudo is clean already (env_reset), and the script removes sudo's own variables.
        # Only an explicit list can leave out a variable. But with a list SLURM runs the profile, too.
        ("export", "ALL,LD_PRELOAD=" if settings.clear_preload else "ALL"),
        ("propagate", "NONE"),
    ]
    return options


def render(
    config: SlurmConfig,
    settings: JobSettings,
    *,
    token: str,
    tasks: Sequence[tuple[int, int, str]],
) -> bytes:
    """Write the script of one job.

    Args:
        config: The merged config.
        settings: The values that all scripts of the run share.
        token: The token of this submission.
        tasks: Index, attempt and args-JSON (on one line) of each task.

    Returns:
        The script. If it would be too large for the cluster, its tasks are compressed.

    Raises:
        FractalSlurmError: A value is not allowed in a script.
        ScriptTooLarge: The script is too large, even compressed. The tasks need more jobs.
    """
    checked = [check_extra_line(line) for line in config.extra_lines]
    directives = [line for line in checked if line.startswith(SBATCH_PREFIX)]
    # Leave out the line of the job hook: it is only for fractal-server's own scripts.
    lines = [line for line in checked if not line.startswith(SBATCH_PREFIX) and not line.strip().endswith(HOOK)]
    worker = " ".join(
        (
            '/bin/sh -c "$1" sh',
            quote(settings.worker_python, "worker_python"),
            quote(settings.worker_folder, "the runtime's folder"),
        )
    )
    text = _TEMPLATE.render(
        shebang_line=check_text(config.shebang_line, "shebang_line"),
        options=[
            (name, check_option_value(value, name))
            for name, value in sbatch_options(config, settings, token=token, tasks=len(tasks))
        ],
        directives=directives,
        extra_lines=lines,
        exports=[
            (check_export_name(name), quote(export_path(settings.cache_dir, path), name))
            for name, path in config.user_local_exports.items()
        ],
        cache_dir=quote(settings.cache_dir, "the cache_dir"),
        slurm_output=settings.slurm_output,
        clear_preload=settings.clear_preload,
        preload=PRELOAD_EXIT,
        run_folder=quote(settings.run_folder, "the run's folder"),
        output=PurePosixPath(output_path(settings.run_folder, token)).name,
        no_files=NO_FILES_EXIT,
        unsafe=UNSAFE_EXIT,
        srun=quote(settings.srun, "srun"),
        start=shlex.quote(_START_WORKER),
        worker=worker,
    )
    body = "\n".join(f"{index}\t{attempt}\t{args}" for index, attempt, args in tasks).encode("utf-8") + b"\n"
    for encoding in ("plain", "zlib"):
        if encoding == "zlib":
            body = base64.encodebytes(zlib.compress(body, 6))
        header = _header(config, settings, token=token, tasks=len(tasks), encoding=encoding)
        script = text.encode("utf-8") + header + body
        if len(script) <= settings.max_script_bytes - _SCRIPT_MARGIN_BYTES:
            return script
    raise ScriptTooLarge(
        f"the script of a job with {len(tasks)} tasks has {len(script)} bytes, compressed; "
        f"the cluster takes {settings.max_script_bytes} (max_script_size)"
    )


def without_tasks(script: bytes) -> str:
    """Return a script without the part that is for our worker: its tasks, and values for it."""
    return (script.partition(b"\n" + MAGIC)[0] + b"\n").decode("utf-8", "replace")


class ScriptTooLarge(FractalSlurmError):
    """A script is too large for the cluster, even compressed."""


def export_path(cache_dir: str, path: str) -> str:
    """Return the absolute path for a value of user_local_exports. It is below the user's cache_dir."""
    return str(PurePosixPath(cache_dir) / check_export_path(path))


def _header(config: SlurmConfig, settings: JobSettings, *, token: str, tasks: int, encoding: str) -> bytes:
    """Return the header of the data part. :func:`fractal_slurm.node.protocol.read_work` reads it."""
    task_time_s = config.time_s if config.time_s is not None and settings.time_scope == "task" else 0
    pairs: list[tuple[str, object]] = [
        ("encoding", encoding),
        ("tasks", tasks),
        ("token", token),
        ("claim", claim_path(settings.run_folder, token)),
        ("folder", job_folder(settings.run_folder, token)),
        ("cpus_per_task", config.cpus_per_task),
        ("memory_mb", config.memory_mb),
        ("memory_limit", settings.memory_limit),
        ("isolation", settings.isolation),
        ("srun", settings.srun),
        ("task_time_s", task_time_s),
        ("job_limit_s", job_limit_s(config, settings, tasks) or 0),
        ("kill_wait_s", settings.kill_wait_s),
        ("max_out_bytes", settings.max_out_bytes),
        ("task_logs", settings.task_logs),
        *(("command", word) for word in settings.command),
    ]
    if gres := kind_of_gres(config):
        pairs.append(("gres", gres))
    if settings.task_start == "fork":
        pairs += [("task_start", "fork"), ("fork_fallback", int(settings.fork_fallback))]
    lines = "".join(f"{key}\t{check_text(str(value), key)}\n" for key, value in pairs)
    return MAGIC + b"\n" + lines.encode("utf-8") + b"\n"


def kind_of_gres(config: SlurmConfig) -> str:
    """Return what jobs of a config ask SLURM for: ``gpu`` for GPUs, ``other`` for other gres, or nothing.

    Parts of GPUs (shard, mps) are nothing of these: a slot has no share of its own, but can't do without them.
    """
    words = [word for line in config.extra_lines for word in directive_words(line)]
    words += [f"--{name}={value}" for name, value in (("gres", config.gres), ("gpus", config.gpus)) if value]
    if asks_for_gpus(words):
        return "gpu"
    text = " ".join(words)
    return "other" if "--gre" in text and not re.search("shard|mps", text) else ""


def split_command(command: str) -> tuple[str, ...]:
    """Split a task's command into words, without a shell.

    Raises:
        SpecError: The command is empty, or has a quote that is not closed.
        FractalSlurmError: The command has a control character.
    """
    check_text(command, "the command")
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise SpecError(f"{command!r} can't be split into words: {error}") from None
    if not words or not words[0]:
        raise SpecError("is empty: give the command that runs one task")
    return tuple(words)
