#!/usr/bin/env bash
# Runs a command, again and again while it ends in a way that the same command mends:
#   bash launch/repeat.sh COMMAND...
# 0 is done, 2 a fault that needs you, 130 your interrupt: these are final. Others (75 asked to
# stop, 1, 134, 137 peers lost or killed) are tried again, unless they come ten times in a row
# within five minutes.
set -uo pipefail

quick=0
while true; do
  started=$SECONDS
  "$@"
  status=$?
  case "$status" in
    0 | 2 | 130) exit "$status" ;;
  esac
  if [ $((SECONDS - started)) -lt 300 ]; then
    quick=$((quick + 1))
  else
    quick=0
  fi
  if [ "$quick" -ge 10 ]; then
    echo "error: ended ten times in a row within five minutes, last with status $status" >&2
    exit "$status"
  fi
  echo "ended with status $status; running it again" >&2
  sleep "${PD_JAX_REPEAT_SECONDS:-10}"
done
