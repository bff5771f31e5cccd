#!/usr/bin/env bash
# Queues a pipeline on TPUs through xpk (https://github.com/AI-Hypercomputer/xpk):
#   bash launch/xpk.sh --name=NAME --cluster=CLUSTER --image=IMAGE --type=v5litepod-16 \
#     --config=FILE --workdir=gs://BUCKET/RUN [options] [flags of pd_jax.main]
#
# IMAGE is the tpu target of the Dockerfile. Options: --slices=1, --zone=ZONE, --project=ID. xpk
# restarts all hosts when one ends with status 75 (asked to stop, and saved), 1 or above 126 (lost
# its peers, killed); the run then continues. --dry-run prints the command.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. launch/functions.sh

take_flags "$@"
need_flags --name --cluster --image --type --config --workdir
slices="$(flag --slices 1)"
where=()
for name in zone project; do
  if [ -n "$(flag "--$name")" ]; then
    where+=("--$name=$(flag "--$name")")
  fi
done
command=(xpk workload create --workload="$(flag --name)" --cluster="$(flag --cluster)"
  --docker-image="$(flag --image)" --tpu-type="$(flag --type)" --num-slices="$slices"
  --max-restarts=100 --restart-on-exit-codes="1,75" ${where[@]+"${where[@]}"})

hardware=tpu
if [ "$slices" -gt 1 ]; then
  hardware=tpu_slices
fi
drop_flags --name --cluster --image --type --slices --zone --project
printf -v main ' %q' python -m pd_jax.main --distributed=on "${arguments[@]}"
run "${command[@]}" --command="bash launch/with_env.sh $hardware$main"
