#!/usr/bin/env bash
# Stops the run that launch/repeat.sh keeps going in this checkout: bash launch/stop.sh
#
# The run saves first and is not repeated. Returns when it has ended.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if ! command -v pgrep >/dev/null; then
  echo "error: pgrep is not installed on $(hostname); install it (package procps)" >&2
  exit 2
fi
found=0
for repeat in $(pgrep -f '^bash launch/repeat[.]sh'); do
  if [ "$(readlink "/proc/$repeat/cwd")" = "$(pwd -P)" ]; then
    found=1
    # repeat.sh first, or it would run the command again; its `sleep` may be over by then.
    for process in "$repeat" $(pgrep -P "$repeat"); do
      kill -TERM "$process" 2>/dev/null || true
    done
  fi
done
if [ "$found" = 0 ]; then
  echo "no run is in progress on $(hostname)" >&2
elif ! flock --wait 300 run.lock true; then # whatever `repeat.sh` runs holds it to its end
  echo "error: the run on $(hostname) has not ended within 300 s; see run.log, and try again" >&2
  exit 2
fi
