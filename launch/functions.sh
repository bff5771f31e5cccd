# shellcheck shell=bash
# Functions that several scripts share; sourced, not run. dry_run=1 makes `run` print and do
# nothing.

dry_run="${dry_run:-0}"

# show COMMAND...: prints the command as it could be pasted.
show() {
  local line
  printf -v line ' %q' "$@"
  echo "+$line" >&2 # at once, for lines of commands that run side by side
}

# run COMMAND...: prints the command, and runs it unless dry_run=1.
run() {
  show "$@"
  if [ "$dry_run" != 1 ]; then
    "$@"
  fi
}

# run_last COMMAND...: as `run`, in place of this shell, so that a signal to it reaches the command.
run_last() {
  show "$@"
  if [ "$dry_run" != 1 ]; then
    exec "$@"
  fi
}

# Prints the first Python from 3.11 to 3.13 that can make environments; PYTHON names one to try
# first.
find_python() {
  local name
  for name in "${PYTHON:-python3}" python3 python3.11 python3.12 python3.13; do
    if "$name" -c '
import ensurepip, sys, venv
sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' >/dev/null 2>&1; then
      command -v "$name"
      return 0
    fi
  done
  echo "error: no Python 3.11, 3.12 or 3.13 with venv and pip was found; install one (Debian:" \
    "python3 and python3-venv), or name it: PYTHON=/path/to/python3.12" >&2
  return 2
}

# make_venv DIR: makes an environment in DIR with a working pip. An existing one is kept, and gets
# pip if it has none (uv makes such).
make_venv() {
  if "$1/bin/python" -m pip --version >/dev/null 2>&1; then
    return 0
  fi
  if [ ! -e "$1/pyvenv.cfg" ]; then
    local python
    python="$(find_python)" || return 2
    run "$python" -m venv "$1"
  elif ! run "$1/bin/python" -m ensurepip >&2; then
    echo "error: $1 is an environment without pip, and pip cannot be installed in it; remove the" \
      "folder, and a new one will be made: rm -r $1" >&2
    return 2
  fi
}

# install_once DIR EXTRAS: installs this checkout with EXTRAS (`dev,hf`, or nothing for the core)
# into DIR. A stamp (checkout, extras, checksum of setup.py) makes the second call return at once.
install_once() {
  local venv="$1" extras="$2" stamp state
  stamp="$venv/.installed-${extras:-core}"
  state="$PWD $extras $(cksum <setup.py)"
  if [ "$(cat "$stamp" 2>/dev/null)" = "$state" ]; then
    return 0
  fi
  echo "installing pd_jax${extras:+[$extras]} into $venv; this takes some minutes, only once" >&2
  if ! run "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    --editable ".${extras:+[$extras]}"; then
    echo "error: pip did not install pd_jax${extras:+[$extras]} into $venv; see its message" \
      "above, and run the command again" >&2
    return 2
  fi
  if [ "$dry_run" != 1 ]; then
    echo "$state" >"$stamp"
  fi
}

# take_flags ARGUMENTS...: sets `arguments` to all of them except --dry-run, which sets dry_run=1;
# --help prints the comment at the top of the script.
arguments=()
take_flags() {
  local argument
  for argument in "$@"; do
    case "$argument" in
      --dry-run) dry_run=1 ;;
      --help) show_help && exit 0 ;;
      *) arguments+=("$argument") ;;
    esac
  done
}

show_help() {
  awk 'NR > 1 && !/^#/ { exit } NR > 1 && !/^#SBATCH/ { sub(/^# ?/, ""); print }' "$0"
}

# need_flags --NAME...: exits with an error unless `arguments` has every --NAME=VALUE.
need_flags() {
  local name
  for name in "$@"; do
    if [ -z "$(flag "$name")" ]; then
      echo "error: $name=... is missing; see bash ${0##*/} --help" >&2
      exit 2
    fi
  done
}

# flag --NAME [DEFAULT]: prints the value of --NAME in `arguments`.
flag() {
  local argument value="${2:-}"
  for argument in ${arguments[@]+"${arguments[@]}"}; do
    case "$argument" in
      "$1="*) value="${argument#*=}" ;;
    esac
  done
  printf '%s' "$value"
}

# has_flag --NAME: whether `arguments` has --NAME without a value.
has_flag() {
  local argument
  for argument in ${arguments[@]+"${arguments[@]}"}; do
    if [ "$argument" = "$1" ]; then
      return 0
    fi
  done
  return 1
}

# drop_flags --NAME...: removes the launcher's own flags from `arguments`; the rest go to the
# program.
drop_flags() {
  local argument name rest=()
  for argument in ${arguments[@]+"${arguments[@]}"}; do
    for name in "$@"; do
      case "$argument" in
        "$name" | "$name="*) continue 2 ;;
      esac
    done
    rest+=("$argument")
  done
  arguments=(${rest[@]+"${rest[@]}"})
}
