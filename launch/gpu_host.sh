#!/usr/bin/env bash
# Runs a pipeline on every GPU of this host:
#   bash launch/gpu_host.sh [--dry-run] --config=FILE --workdir=DIR [flags of pd_jax.main]
#
# One process drives all GPUs. Makes .venv with the CUDA build of jax (its wheels bring CUDA along;
# only the driver must be installed). The same command continues an interrupted run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. launch/functions.sh

take_flags "$@"
need_flags --config --workdir
make_venv .venv
install_once .venv gpu
run_last bash launch/with_env.sh gpu .venv/bin/python -m pd_jax.main "${arguments[@]}"
