#!/usr/bin/env bash
# Runs a pipeline on this machine: bash launch/local.sh [--dry-run] [--processes N] [flags of
# pd_jax.main]
#
# Makes .venv, installs the core, and runs the quick start: the whole chain on generated text,
# offline, in minutes. Later flags win: for another config, run  bash launch/local.sh --config=...
# --workdir=... The same command continues an interrupted run and does nothing for a finished one.
# --processes N runs N processes of one CPU device each that train together over loopback, as N
# hosts would. --dry-run prints the commands and runs none.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. launch/functions.sh

processes=1
arguments=()
while [ $# -gt 0 ]; do
  case "$1" in
    --dry-run) dry_run=1 ;;
    --processes) processes="${2:?--processes needs a number}" && shift ;;
    --processes=*) processes="${1#*=}" ;;
    --help) show_help && exit 0 ;;
    *) arguments+=("$1") ;;
  esac
  shift
done
if ! [ "$processes" -ge 1 ] 2>/dev/null; then
  echo "error: --processes=$processes is not a number of processes; give 1 or more" >&2
  exit 2
fi

make_venv .venv
install_once .venv ""
main=(.venv/bin/python -m pd_jax.main --config=configs/quickstart.py --workdir=runs/quickstart)
main+=(${arguments[@]+"${arguments[@]}"})

if [ "$processes" -eq 1 ]; then
  run_last "${main[@]}"
  exit
fi

port=PORT
if [ "$dry_run" != 1 ]; then
  port="$(.venv/bin/python -c '
import socket
with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    print(probe.getsockname()[1])')"
fi
ids=()
stopped=0
# Also for Ctrl-C: processes that a script starts in the background ignore it. $! is the one that is
# not yet in the list.
trap 'stopped=1; kill ${ids[@]+"${ids[@]}"} ${!:+"$!"} 2>/dev/null || :' INT TERM
for ((index = 0; index < processes && !stopped; index++)); do
  run_last env JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=1 PD_JAX_COORDINATOR="127.0.0.1:$port" \
    PD_JAX_PROCESSES="$processes" PD_JAX_PROCESS_ID="$index" "${main[@]}" &
  ids+=("$!")
done
status=$((stopped * 143))
for id in ${ids[@]+"${ids[@]}"}; do
  # A signal to this script interrupts `wait`; the last one returns how the process ended.
  until wait "$id" || ! kill -0 "$id" 2>/dev/null; do :; done
  wait "$id" || status=$?
done
exit "$status"
