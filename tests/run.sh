#!/usr/bin/env bash
# Checks and tests this checkout: bash tests/run.sh [pytest arguments]
#
# Makes .venv where there is none, adds what the tests need, then runs the linter, the formatter,
# the type checker and the tests. Tests marked slow are left out: bash tests/run.sh -m slow runs
# those. Safe to repeat; the second time nothing is installed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. launch/functions.sh

venv=.venv
tests_seconds=4500 # ends a suite that hangs; on two quiet cores it takes a fourth or so
torch=2.13.0

# The CPU build of torch is asked for by its local version, where pip is configured to find one;
# elsewhere the plain version is installed, which on Linux brings gigabytes of CUDA along.
install_torch() {
  if "$venv/bin/python" -c 'import torch' 2>/dev/null; then
    return 0
  fi
  local pip=("$venv/bin/python" -m pip install --quiet --disable-pip-version-check)
  run "${pip[@]}" "torch==$torch+cpu" || run "${pip[@]}" "torch==$torch"
}

run_pytest() {
  local command=("$venv/bin/python" -m pytest -n 2 --dist worksteal -m "not slow" "$@")
  if command -v timeout >/dev/null; then
    # An interrupt lets pytest say which tests were running and end their processes.
    timeout --foreground --signal=INT --kill-after=60 "$tests_seconds" "${command[@]}"
  else
    "${command[@]}"
  fi
}

failed=()
check() {
  local name="$1"
  shift
  echo "== $name"
  "$@" || failed+=("$name")
}

make_venv "$venv"
install_once "$venv" dev,export
if install_torch; then
  install_once "$venv" hf
else
  echo "torch $torch could not be installed: tests that compare with torch are skipped" >&2
fi

check lint "$venv/bin/ruff" check --quiet .
check format "$venv/bin/ruff" format --quiet --check .
check shell "$venv/bin/shellcheck" --external-sources \
  launch/*.sh launch/env/*.sh launch/slurm.sbatch tests/run.sh .ci/run
check types "$venv/bin/pyright" --pythonpath "$venv/bin/python"
check tests run_pytest "$@"
if [ "${#failed[@]}" -gt 0 ]; then
  echo "failed: ${failed[*]}" >&2
  exit 1
fi
echo "all checks and tests passed"
