# SPDX-License-Identifier: BSD-3-Clause
# Makes a job script of fractal-server run its tasks in the slots of its job, by one process and without srun a task.
#
# It is read by a line of extra_lines that ends in ". /PATH/fractal-job.sh", in the shell of the job. Where the script is
# one that the program beside it knows, that program takes the shell's place after the last line before the tasks, which
# says when the job started. It runs the tasks, and does what follows in the script. So no srun is started, and no
# subshell for each. Any other script runs as it stands: nothing is changed in its shell.
fractal_hook_folder=$(sed -n 's|^\(.*[[:space:]]\)\{0,1\}\.[[:space:]]\{1,\}\(/[^[:space:];&"$]*\)/fractal-job\.sh[[:space:]]*$|\2|p' \
  "$0" 2>/dev/null) || :
# The real folder: an upgrade while the job runs is not its business.
fractal_hook_folder=$([ -n "$fractal_hook_folder" ] && cd -- "$fractal_hook_folder/.." 2>/dev/null && pwd -P) || :
for fractal_hook_python in "$fractal_hook_folder/../../bin/python" /usr/bin/python3; do
  [ ! -x "$fractal_hook_python" ] || break
done
if [ -n "$fractal_hook_folder" ] && [ -z "${SLURM_ARRAY_JOB_ID-}" ] && "$fractal_hook_python" -I -S -c \
  "import sys; sys.path.append(sys.argv[1]); from node import hook; sys.exit(hook.check(sys.argv[2]))" \
  "$fractal_hook_folder" "$0" 2>/dev/null
then
  echo() {
    command echo "$@" || return
    case ${1-} in
      "Start time: "[0-9]*) ;;
      *) return 0 ;;
    esac
    set -- "$fractal_hook_python" "$fractal_hook_folder"
    unset fractal_hook_python fractal_hook_folder
    unset -f echo
    exec "$1" -I -S -c "import sys; sys.path.append(sys.argv[1]); from node import hook
sys.exit(hook.main(sys.argv[2:]))" "$2" "$0" "${SLURM_TASKS_PER_NODE-}"
  }
else
  unset fractal_hook_python fractal_hook_folder
fi
