#!/usr/bin/env bash
# Requests one or several TPU slices from Google Cloud's queue, and runs a pipeline on them:
#   bash launch/tpu_vm.sh VERB --name=NAME --zone=ZONE [options] [flags of pd_jax.main]
#
#   create   requests the slice:    --type=v5litepod-16 [--slices=2] [--spot] [--runtime=VERSION]
#   wait     returns when the slice is ready
#   setup    copies the committed checkout to every host and installs it
#   run      starts the pipeline on every host: --config=FILE --workdir=gs://BUCKET/RUN
#   logs     shows the first host's log as it grows
#   stop     makes every host save and end; returns when all have
#   resume   after a preemption: deletes what is left, then create, wait, setup and run, with the
#            flags of create and run
#   delete   gives the slice back
#
# Each host runs the command again (launch/repeat.sh) when it was asked to stop or lost its peers,
# and ends on success or on a fault that needs you. Pass --slices=N to every verb. [--project=ID];
# --dry-run prints the commands.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. launch/functions.sh

take_flags "$@"
verb="${arguments[0]:-}"
arguments=(${arguments[@]+"${arguments[@]:1}"})

# runtime_of TYPE: prints the software that Google Cloud names for such a slice and jax.
runtime_of() {
  case "$1" in
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v6e-*) echo v2-alpha-tpuv6e ;;
    v[234]-*) echo tpu-ubuntu2204-base ;;
    *)
      echo "error: --type=$1 is none of v2-*, v3-*, v4-*, v5litepod-*, v5p-* and v6e-*; name its" \
        "software, too: --runtime=VERSION" >&2
      return 2
      ;;
  esac
}

check_run_flags() {
  need_flags --config
  case "$(flag --workdir)" in
    gs://*) ;;
    *)
      echo "error: --workdir=gs://... is missing; hosts share nothing but the bucket" >&2
      exit 2
      ;;
  esac
}

# Reports what `setup` would not ship. A copy without git can `run` what was shipped before.
check_commit() {
  local config
  config="$(flag --config)"
  config="${config%%:*}" # FILE:argument
  if ! git rev-parse --quiet --verify HEAD >/dev/null 2>&1; then
    return 0
  fi
  if [ -n "$config" ] && ! git cat-file -e "HEAD:$config" 2>/dev/null; then
    echo "error: --config=$config is not in the commit that hosts get; name it from the" \
      "checkout's top, commit it, and run setup" >&2
    exit 2
  fi
  if [ -n "$(git status --porcelain)" ]; then
    echo "warning: hosts get the last commit, without the changes that git status shows" >&2
  fi
}

# Checks everything before the first command, because resume begins by deleting.
case "$verb" in
  create | wait | setup | run | logs | stop | resume | delete) ;;
  *)
    echo "error: ${verb:-nothing} is not a verb of tpu_vm.sh: create, wait, setup, run, logs, stop," \
      "resume, delete" >&2
    exit 2
    ;;
esac
need_flags --name --zone
slices="$(flag --slices 1)"
if ! [[ $slices =~ ^[1-9][0-9]*$ ]]; then
  echo "error: --slices=$slices is not a number of slices; give 1 or more" >&2
  exit 2
fi
type="" runtime=""
case "$verb" in create | resume)
  need_flags --type
  type="$(flag --type)"
  runtime="$(flag --runtime)"
  runtime="${runtime:-$(runtime_of "$type")}"
  ;;
esac
case "$verb" in run | resume) check_run_flags ;; esac
case "$verb" in setup | run | resume) check_commit ;; esac

name="$(flag --name)"
place=(--zone="$(flag --zone)")
if [ -n "$(flag --project)" ]; then
  place+=(--project="$(flag --project)")
fi
slice=(--accelerator-type="$type" --runtime-version="$runtime")
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

on_hosts() { # on_hosts COMMAND: runs COMMAND on every host, slice after slice
  local node
  for node in "${nodes[@]}"; do
    run gcloud compute tpus tpu-vm ssh "$node" "${place[@]}" --worker=all --command="$1"
  done
}

# at_once COMMAND: runs COMMAND on every host, of all slices at once, and whichever of them fail.
at_once() {
  local command ids=() id node status=0
  for node in "${nodes[@]}"; do
    command=(gcloud compute tpus tpu-vm ssh "$node" "${place[@]}" --worker=all --command="$1")
    show "${command[@]}"
    if [ "$dry_run" != 1 ]; then
      "${command[@]}" &
      ids+=("$!")
    fi
  done
  for id in ${ids[@]+"${ids[@]}"}; do
    wait "$id" || status=$?
  done
  return "$status"
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
  on_hosts 'mkdir -p pd_jax && tar -xzf pd_jax.tar.gz -C pd_jax && cd pd_jax &&
    . launch/functions.sh &&
    { find_python ||
      { sudo apt-get update && sudo apt-get install --yes python3.11 python3.11-venv; }; } &&
    make_venv .venv && install_once .venv tpu'
}

start() {
  local hardware=tpu main
  if [ "$slices" -gt 1 ]; then
    hardware=tpu_slices
  fi
  printf -v main '%q ' .venv/bin/python -m pd_jax.main --distributed=on "${arguments[@]}"
  # In braces, only nohup is in the background, and nothing there keeps ssh's streams open.
  at_once "cd pd_jax &&
    { flock --nonblock run.lock true || {
      echo 'error: a run is already in progress here; see logs, or end it with stop' >&2; exit 2; }; } &&
    { nohup flock --nonblock run.lock bash launch/repeat.sh bash launch/with_env.sh $hardware \
      $main >>run.log 2>&1 </dev/null & }"
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
  stop) at_once 'bash pd_jax/launch/stop.sh' ;;
  resume)
    delete
    create
    wait_for_slice
    setup
    start
    ;;
  delete) delete ;;
esac
