#!/usr/bin/env bash
# Starts a managed SkyPilot job that survives preemptions (launch/sky.yaml):
#   bash launch/sky.sh --name=NAME --bucket=BUCKET --config=FILE [options] [flags of pd_jax.main]
#
# Options: --gpus=A100:8, --nodes=1. The workdir is /runs/pd_jax on the mounted bucket. Logs:
# sky jobs logs --name NAME. --dry-run prints the command.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. launch/functions.sh

take_flags "$@"
need_flags --name --bucket --config
command=(sky jobs launch launch/sky.yaml --yes --name="$(flag --name)"
  --gpus="$(flag --gpus A100:8)" --num-nodes="$(flag --nodes 1)" --env BUCKET="$(flag --bucket)")
drop_flags --name --bucket --gpus --nodes
printf -v main '%q ' "${arguments[@]}"
run "${command[@]}" --env ARGUMENTS="$main"
