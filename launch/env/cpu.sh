# shellcheck shell=bash
# A host without an accelerator. None of the XLA flags tried made a BERT step faster on a CPU.

# No search for accelerators, and no notice that there is none.
export JAX_PLATFORMS=cpu
