# SPDX-License-Identifier: BSD-3-Clause
# Makes a job script of fractal-server run its tasks in the slots of its job, by one process and without srun a task.
#
# It is read by a line of extra_lines that ends in ". /PATH/fractal-job.sh", in the shell of the job. Where the script is
# one that the program beside it knows, that program takes the shell's place after the last line before the tasks, which
# says when the job started. It runs the tasks, and does what follows in the script. So no srun is started, and no
# subshell for each. Any other script runs as it stands: nothing is changed in its shell.
#
# Outside of a job, and in a shell in which someone types, there is nothing to do.
[ -n "${SLURM_JOB_ID-}" ] || return 0
case $- in *i*) return 0 ;; esac
fractal_hook_folder=$(sed -n 's|^\(.*[[:space:]]\)\{0,1\}\.[[:space:]]\{1,\}\(/[^[:space:];&"$]*\)/fractal-job\.sh[[:space:]]*$|\2|p' \
  "$0" 2>/dev/null) || :
# The real folder: an upgrade while the job runs is not its business.
fractal_hook_folder=$([ -n "$fractal_hook_folder" ] && cd -- "$fractal_hook_folder/.." 2>/dev/null && pwd -P) || :
for fractal_hook_python in "$fractal_hook_folder/../../bin/python" /usr/bin/python3; do
  [ ! -x "$fractal_hook_python" ] || break
done
# In a heterogeneous job each srun chooses a part of it.
if [ -n "$fractal_hook_folder" ] && [ -z "${SLURM_ARRAY_JOB_ID-}${SLURM_HET_SIZE-}${SLURM_PACK_SIZE-}" ] && {
  "$fractal_hook_python" -I -S -c \
    "import sys; sys.path.append(sys.argv[1]); from node import hook; sys.exit(hook.check(sys.argv[2]))" \
    "$fractal_hook_folder" "$0" 2>/dev/null || {
    [ $? = 3 ] || echo "fractal-slurm: this job runs as fractal-server wrote it: $fractal_hook_python can't run its program"
    false
  }
}
then
  echo() {
    command echo "$@" || return
    case ${1-} in
      "Start time: "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]T*) ;;
      *) return 0 ;;
    esac
    set -- "$fractal_hook_python" "$fractal_hook_folder"
    unset fractal_hook_python fractal_hook_folder
    unset -f echo
    # What was read since then may have made what that program can't keep, or an environment in which it can't start.
    case $(command -v srun) in
      /*) ;;
      *) command echo "fractal-slurm: this job runs as fractal-server wrote it: its srun is no program"; return 0 ;;
    esac
    if [ -n "$(trap)" ]; then
      command echo "fractal-slurm: this job runs as fractal-server wrote it: its shell has a trap"
      return 0
    fi
    "$1" -I -S -c "import sys; sys.path.append(sys.argv[1]); from node import hook" "$2" 2>/dev/null || {
      command echo "fractal-slurm: this job runs as fractal-server wrote it: $1 does not start after its lines"
      return 0
    }
    # The processes that "wait" of this shell would wait for: in bash its jobs, in other shells all of its children.
    set -- "$1" "$2" all
    [ -z "${BASH_VERSION-}" ] || set -- "$1" "$2" "$(jobs -p)"
    exec "$1" -I -S -c "import sys; sys.path.append(sys.argv[1]); from node import hook
sys.exit(hook.main(sys.argv[2:]))" "$2" "$0" "${SLURM_TASKS_PER_NODE-}" "$3"
  }
else
  unset fractal_hook_python fractal_hook_folder
fi
