#!/usr/bin/env bash
# Runs a command under the settings of one kind of hardware:
#   bash launch/with_env.sh cpu|gpu|tpu|tpu_slices COMMAND...
# XLA reads its flags when jax is imported, so they are set here, outside the program. Nothing in
# env/ changes what is computed: that belongs in the config.
set -euo pipefail
folder="$(dirname "${BASH_SOURCE[0]}")/env"
hardware="${1:?name the hardware: cpu, gpu, tpu or tpu_slices}"
shift
if ! [ -f "$folder/$hardware.sh" ]; then
  echo "error: no settings for $hardware in launch/env; known are cpu, gpu, tpu, tpu_slices" >&2
  exit 2
fi
# shellcheck source=/dev/null
. "$folder/$hardware.sh"
exec "$@"
