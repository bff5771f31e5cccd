#!/usr/bin/env bash
# Starts a managed SkyPilot job that survives preemptions (launch/sky.yaml):
#   bash launch/sky.sh --name=NAME --bucket=BUCKET --config=FILE [options] [flags of pd_jax.main]
#
# Options: --gpus=A100:8, --nodes=1, --workdir=/runs/pd_jax, which is on the mounted bucket. Several
# nodes need a workdir gs://BUCKET/RUN: a mount shows other nodes' files late. Logs:
# sky jobs logs --name NAME. --dry-run prints the command.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. launch/functions.sh

take_flags "$@"
need_flags --name --bucket --config
nodes="$(flag --nodes 1)"
workdir="$(flag --workdir /runs/pd_jax)"
if [ "$nodes" -gt 1 ] && [[ "$workdir" != gs://* ]]; then
  echo "error: --nodes=$nodes needs --workdir=gs://BUCKET/RUN: a mount shows other nodes' files late" >&2
  exit 2
fi
command=(sky jobs launch launch/sky.yaml --yes --name="$(flag --name)"
  --gpus="$(flag --gpus A100:8)" --num-nodes="$nodes" --env BUCKET="$(flag --bucket)"
  --env WORKDIR="$workdir")
drop_flags --name --bucket --gpus --nodes --workdir
printf -v main '%q ' "${arguments[@]}"
run "${command[@]}" --env ARGUMENTS="$main"
