#!/usr/bin/env bash
# Runs a command again and again, as long as running it again can fix how it ended:
#   bash launch/repeat.sh COMMAND...
# Final are 0 (done), 2 (a fault that needs you) and 130 (your interrupt). Others (75 asked to stop;
# 1, 134, 137 peers lost or killed) are tried again, unless the command ends ten times in a row
# within ten minutes each.
set -uo pipefail

# Well above the 300 s for which a process waits for its peers at the start: where they never come,
# this gives up, too.
quick_seconds=600
quick=0
while true; do
  started=$SECONDS
  "$@"
  status=$?
  case "$status" in
    0 | 2 | 130) exit "$status" ;;
  esac
  if [ $((SECONDS - started)) -lt "$quick_seconds" ]; then
    quick=$((quick + 1))
  else
    quick=0
  fi
  if [ "$quick" -ge 10 ]; then
    echo "error: ended ten times in a row within ten minutes each, last with status $status;" \
      "see why above, and run the command again" >&2
    exit "$status"
  fi
  echo "ended with status $status; running it again" >&2
  sleep "${PD_JAX_REPEAT_SECONDS:-10}"
done
