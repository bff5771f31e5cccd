"""How well a run used its devices: MFU and goodput.

MFU (model FLOPs utilisation, Chowdhery et al. 2022, section 4.1) is the model's own operations a
second, while it trained, as a share of what the devices reach on a large matrix product, measured
here and now. Padding counts as work: it is what the step was asked to do. Goodput is the share of
all seconds that were spent stepping, neither compiling, evaluating, saving nor waiting for data.
"""

import functools
import time
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from pd_jax.errors import no_memory

_SIZES = {"cpu": 1024}
_SIZE = 8192
_REPETITIONS = 5


@functools.cache
def matmul_peak(dtype: str) -> float:
    """Returns one device's best measured matmul FLOP/s; 0 if the matrices do not fit in free
    memory.
    """
    try:
        return _measured_peak(dtype)
    except Exception as fault:
        if not no_memory(fault):
            raise
        return 0.0


def _measured_peak(dtype: str) -> float:
    device = jax.local_devices()[0]
    size = _SIZES.get(device.platform, _SIZE)
    matrix = jax.device_put(jnp.ones((size, size), dtype), device)
    product = jax.jit(jnp.matmul)
    product(matrix, matrix).block_until_ready()
    best = float("inf")
    for _ in range(_REPETITIONS):
        begin = time.perf_counter()
        product(matrix, matrix).block_until_ready()
        best = min(best, time.perf_counter() - begin)
    return 2.0 * size**3 / best


def utilisation(
    flops: float, spans: Mapping[str, float], *, seconds: float, peak: float
) -> dict[str, float]:
    """Returns `mfu` and `goodput` as shares, with what they were computed from.

    Args:
      flops: operations of a run's steps, without the first of each shape, whose time is compiling.
      spans: seconds by span. While the host waits for data, the devices may still be stepping.
      seconds: of the whole run.
      peak: operations a second of all its devices.
    """
    stepping = spans.get("step", 0.0)
    training = stepping + spans.get("wait for data", 0.0)
    return {
        "mfu": flops / training / peak if training and peak else 0.0,
        "goodput": stepping / seconds if seconds else 0.0,
        "flops": flops,
        "peak_flops": peak,
        "training_seconds": training,
    }
