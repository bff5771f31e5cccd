# shellcheck shell=bash
# Several TPU slices, joined by the data-centre network.
# shellcheck source=launch/env/tpu.sh
. "$(dirname "${BASH_SOURCE[0]}")/tpu.sh"

# Between slices only the gradients' all-reduce travels: both flags let it start, in pieces of any
# size, before the backward pass is over.
LIBTPU_INIT_ARGS+=" --xla_tpu_enable_data_parallel_all_reduce_opt=true"
LIBTPU_INIT_ARGS+=" --xla_tpu_data_parallel_opt_different_sized_ops=true"
export LIBTPU_INIT_ARGS
