#!/usr/bin/env bash
# Queues a pipeline on TPUs of a GKE cluster that has JobSet and Kueue:
#   bash launch/gke.sh --name=NAME --image=IMAGE --accelerator=tpu-v5-lite-podslice --topology=4x4 \
#     --hosts=4 --config=FILE --workdir=gs://BUCKET/RUN [options] [flags of pd_jax.main]
#
# IMAGE is the tpu target of the Dockerfile. Options: --slices=1, --chips=4 (of a host),
# --queue=default. The manifest goes to kubectl apply; --dry-run prints it instead.
# Logs: kubectl logs -f job/NAME-slice-0. If a host is preempted or breaks, the JobSet restarts all
# of them and the run continues. Delete: kubectl delete jobset NAME.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. launch/functions.sh

take_flags "$@"
need_flags --name --image --accelerator --topology --hosts --config --workdir
slices="$(flag --slices 1)"
hardware=tpu
if [ "$slices" -gt 1 ]; then
  hardware=tpu_slices
fi

manifest="$(cat launch/gke_jobset.yaml)"
fill() { # fill NAME VALUE: puts VALUE where the manifest has ${NAME}
  manifest="${manifest//"\${$1}"/"$2"}"
}
fill NAME "$(flag --name)"
fill IMAGE "$(flag --image)"
fill ACCELERATOR "$(flag --accelerator)"
fill TOPOLOGY "$(flag --topology)"
fill HOSTS "$(flag --hosts)"
fill SLICES "$slices"
fill CHIPS "$(flag --chips 4)"
fill QUEUE "$(flag --queue default)"
fill HARDWARE "$hardware"

drop_flags --name --image --accelerator --topology --hosts --slices --chips --queue
list=""
for argument in python -m pd_jax.main --distributed=on "${arguments[@]}"; do
  argument="${argument//\\/\\\\}"
  list+="${list:+, }\"${argument//\"/\\\"}\""
done
fill ARGUMENTS "[$list]"

if [ "$dry_run" = 1 ]; then
  printf '%s\n' "$manifest"
else
  printf '%s\n' "$manifest" | run kubectl apply -f -
fi
