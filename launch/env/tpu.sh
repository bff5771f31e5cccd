# shellcheck shell=bash
# One TPU slice.

# A TPU that another process holds must end the run, not move it to the CPU.
export JAX_PLATFORMS=tpu,cpu

# Lets the gradients' all-reduces and the parameters' all-gathers (fsdp) run beside the matrix
# units.
LIBTPU_INIT_ARGS="${LIBTPU_INIT_ARGS:-}"
LIBTPU_INIT_ARGS+=" --xla_tpu_enable_async_collective_fusion=true"
LIBTPU_INIT_ARGS+=" --xla_tpu_enable_async_collective_fusion_fuse_all_gather=true"
LIBTPU_INIT_ARGS+=" --xla_tpu_overlap_compute_collective_tc=true"
export LIBTPU_INIT_ARGS

# The runtime's notices are hundreds of lines per host; errors are kept.
export TPU_MIN_LOG_LEVEL="${TPU_MIN_LOG_LEVEL:-2}" TPU_STDERR_LOG_LEVEL="${TPU_STDERR_LOG_LEVEL:-2}"
