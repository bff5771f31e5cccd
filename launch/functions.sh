# shellcheck shell=bash
# Functions that several scripts share; sourced, not run. dry_run=1 makes `run` print and do nothing.

dry_run="${dry_run:-0}"

# run COMMAND...: prints the command as it could be pasted, and runs it unless dry_run=1.
run() {
  printf '+' >&2
  printf ' %q' "$@" >&2
  printf '\n' >&2
  if [ "$dry_run" != 1 ]; then
    "$@"
  fi
}

# Prints the first Python from 3.11 to 3.13 that can make environments; PYTHON names one to try first.
find_python() {
  local name
  for name in "${PYTHON:-python3}" python3 python3.11 python3.12 python3.13; do
    if "$name" -c 'import sys, ensurepip, venv; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' \
      >/dev/null 2>&1; then
      command -v "$name"
      return 0
    fi
  done
  echo "error: no Python 3.11, 3.12 or 3.13 with venv and pip was found; install one (on Debian also" \
    "its -venv package), or name it: PYTHON=/path/to/python3.12" >&2
  return 2
}

# make_venv DIR: an environment in DIR with a working pip; one that is there is kept.
make_venv() {
  if ! "$1/bin/python" -m pip --version >/dev/null 2>&1; then
    local python
    python="$(find_python)" || return 2
    run "$python" -m venv --clear "$1"
  fi
}

# install_once DIR EXTRAS: installs this checkout with EXTRAS (`dev,hf`, or nothing for the core) into
# DIR. A stamp (checkout, extras, checksum of setup.py) makes the second call return at once.
install_once() {
  local venv="$1" extras="$2" stamp state
  stamp="$venv/.installed-${extras:-core}"
  state="$PWD $extras $(cksum <setup.py)"
  if [ "$(cat "$stamp" 2>/dev/null)" = "$state" ]; then
    return 0
  fi
  echo "installing pd_jax${extras:+[$extras]} into $venv; the first time this takes some minutes" >&2
  run "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    --editable ".${extras:+[$extras]}"
  if [ "$dry_run" != 1 ]; then
    echo "$state" >"$stamp"
  fi
}
