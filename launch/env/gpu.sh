# shellcheck shell=bash
# NVIDIA GPUs.

# A broken driver must end the run, not move it to the CPU.
export JAX_PLATFORMS=cuda,cpu

# jax takes three quarters of the memory by default; on a host of our own it can use the rest, too.
export XLA_CLIENT_MEM_FRACTION="${XLA_CLIENT_MEM_FRACTION:-${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}}"
unset XLA_PYTHON_CLIENT_MEM_FRACTION # its former name, which must not be set as well

# Starts the gradients' all-reduce while the backward pass still computes.
XLA_FLAGS="${XLA_FLAGS:-} --xla_gpu_enable_latency_hiding_scheduler=true"
export XLA_FLAGS

# Reports which peer failed; silent otherwise.
export NCCL_DEBUG="${NCCL_DEBUG:-WARN}"
