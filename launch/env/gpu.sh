# shellcheck shell=bash
# NVIDIA GPUs.

# A broken driver must end the run, not move it to the CPU.
export JAX_PLATFORMS=cuda,cpu

# jax takes three quarters of the memory by default; on a host of our own the rest is of use too.
export XLA_CLIENT_MEM_FRACTION="${XLA_CLIENT_MEM_FRACTION:-${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}}"
unset XLA_PYTHON_CLIENT_MEM_FRACTION # its name of before, which may not stand beside it

# Starts the gradients' all-reduce while the backward pass still computes.
XLA_FLAGS="${XLA_FLAGS:-} --xla_gpu_enable_latency_hiding_scheduler=true"
export XLA_FLAGS

# Says which peer failed; silent otherwise.
export NCCL_DEBUG="${NCCL_DEBUG:-WARN}"
