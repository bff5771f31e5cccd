#!/usr/bin/env bash
# Runs one task of launch/slurm.sbatch, and leaves a file where it ends with a fault that needs you:
#   bash launch/slurm_task.sh FILE COMMAND...
# All nodes must see the file's folder.
set -uo pipefail
fault="${1:?name the file to leave}"
shift

# Slurm may signal this shell alone.
trap 'kill -TERM "${!:-}" 2>/dev/null' INT TERM
"$@" &
id=$!
# A signal to this shell interrupts `wait`; the last one returns how the command ended.
until wait "$id" || ! kill -0 "$id" 2>/dev/null; do :; done
wait "$id"
status=$?
if [ "$status" = 2 ]; then
  : >"$fault"
fi
exit "$status"
