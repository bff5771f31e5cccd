#!/usr/bin/env bash
# A TPU slice, or several, from Google Cloud's queue, and a pipeline on it:
#   bash launch/tpu_vm.sh VERB --name=NAME --zone=ZONE [options] [flags of pd_jax.main]
#
#   create   asks for the slice:    --type=v5litepod-16 [--slices=2] [--spot] [--runtime=VERSION]
#   wait     returns when the slice is there
#   setup    copies the committed checkout to every host and installs it
#   run      starts the pipeline on every host: --config=FILE --workdir=gs://BUCKET/RUN
#   logs     shows the first host's log as it grows
#   resume   after a preemption: deletes what is left, then create, wait, setup and run
#   delete   gives the slice back
#
# Each host runs the command again (launch/repeat.sh) when it was asked to stop or lost its peers,
# and ends on success or on a fault that needs you. [--project=ID]; --dry-run prints the commands.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. launch/functions.sh

verb="${1:---help}"
take_flags "$@"
arguments=(${arguments[@]+"${arguments[@]:1}"})
need_flags --name --zone
name="$(flag --name)"
slices="$(flag --slices 1)"
place=(--zone="$(flag --zone)")
if [ -n "$(flag --project)" ]; then
  place+=(--project="$(flag --project)")
fi
slice=(--accelerator-type="$(flag --type v5litepod-16)"
  --runtime-version="$(flag --runtime v2-alpha-tpuv5-lite)")
if [ "$slices" -gt 1 ]; then
  slice+=(--node-count="$slices" --node-prefix="$name")
else
  slice+=(--node-id="$name")
fi
if has_flag --spot; then
  slice+=(--spot)
fi
drop_flags --name --zone --project --type --runtime --slices --spot

nodes=("$name")
if [ "$slices" -gt 1 ]; then
  nodes=()
  for ((index = 0; index < slices; index++)); do
    nodes+=("$name-$index")
  done
fi

on_hosts() { # on_hosts WORKER COMMAND: runs COMMAND on that worker (or all) of every slice
  local node
  for node in "${nodes[@]}"; do
    run gcloud compute tpus tpu-vm ssh "$node" "${place[@]}" --worker="$1" --command="$2"
  done
}

create() {
  run gcloud compute tpus queued-resources create "$name" "${place[@]}" "${slice[@]}"
}

state() {
  gcloud compute tpus queued-resources describe "$name" "${place[@]}" --format='value(state.state)'
}

wait_for_slice() {
  if [ "$dry_run" = 1 ]; then
    run gcloud compute tpus queued-resources describe "$name" "${place[@]}"
    return
  fi
  local now=""
  while [ "$now" != ACTIVE ]; do
    now="$(state)"
    echo "$(date +%H:%M:%S) $name is $now" >&2
    case "$now" in
      FAILED | SUSPENDED)
        echo "error: $name is $now; see why with gcloud compute tpus queued-resources describe" \
          "$name ${place[*]}, then: bash launch/tpu_vm.sh resume" >&2
        exit 2
        ;;
      ACTIVE) ;;
      *) sleep 30 ;;
    esac
  done
}

setup() {
  local archive node
  archive="$(mktemp)"
  run git archive --format=tar.gz --output="$archive" HEAD
  for node in "${nodes[@]}"; do
    run gcloud compute tpus tpu-vm scp "$archive" "$node:pd_jax.tar.gz" "${place[@]}" --worker=all
  done
  rm -f "$archive"
  # Images with Ubuntu 22.04 come with Python 3.10.
  on_hosts all 'mkdir -p pd_jax && tar -xzf pd_jax.tar.gz -C pd_jax && cd pd_jax &&
    . launch/functions.sh &&
    { find_python ||
      { sudo apt-get update && sudo apt-get install --yes python3.11 python3.11-venv; }; } &&
    make_venv .venv && install_once .venv tpu'
}

start() {
  need_flags --config
  case "$(flag --workdir)" in
    gs://*) ;;
    *)
      echo "error: --workdir=gs://... is missing; hosts share nothing but the bucket" >&2
      exit 2
      ;;
  esac
  local hardware=tpu main
  if [ "$slices" -gt 1 ]; then
    hardware=tpu_slices
  fi
  printf -v main '%q ' .venv/bin/python -m pd_jax.main --distributed=on "${arguments[@]}"
  # flock: a second run finds the first one at work and leaves it alone.
  on_hosts all "cd pd_jax && nohup flock --nonblock run.lock bash launch/repeat.sh \
bash launch/with_env.sh $hardware $main>>run.log 2>&1 </dev/null &"
}

delete() {
  run gcloud compute tpus queued-resources delete "$name" "${place[@]}" --force --quiet
}

case "$verb" in
  create) create ;;
  wait) wait_for_slice ;;
  setup) setup ;;
  run) start ;;
  logs) run gcloud compute tpus tpu-vm ssh "${nodes[0]}" "${place[@]}" --worker=0 \
    --command='tail -n 100 -F pd_jax/run.log' ;;
  resume)
    delete
    create
    wait_for_slice
    setup
    start
    ;;
  delete) delete ;;
  *)
    echo "error: $verb is no verb of tpu_vm.sh: create, wait, setup, run, logs, resume, delete" >&2
    exit 2
    ;;
esac
