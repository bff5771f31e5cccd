"""TPU slices and GPUs by name, for hardware that is not present, and the limits of one chip."""

import dataclasses
import math
import os
import re
from collections.abc import Sequence
from typing import Any

import jax

from pd_jax.errors import MeshError, first_line

GIB = 1024**3


@dataclasses.dataclass(frozen=True)
class Gpu:
    """What XLA's compiler has to know of a GPU, from NVIDIA's data sheets and tuning guides."""

    name: str
    capability: tuple[int, int]
    multiprocessors: int
    units: int
    """Float32 units of a multiprocessor."""
    threads: int
    """The most threads of a multiprocessor."""
    shared_memory: int
    """Bytes of a multiprocessor; a block can have all but one kilobyte."""
    cache: int
    """Bytes of the second level."""
    clock_ghz: float
    memory: int


@dataclasses.dataclass(frozen=True)
class Chip:
    """One chip's limits: usable memory, operations and bytes a second.

    A TPU's memory is what libtpu's compiler accepts (compile-time limit), a GPU's what
    `launch/env/gpu.sh` lets JAX take. The rest is from Google's system architecture pages and
    NVIDIA's data sheets, per chip, bfloat16 without sparsity, and all links of the interconnect
    together.
    """

    kind: str
    device_kind: str
    """What jax calls it."""
    memory: float
    flops: float
    bandwidth: float
    interconnect: float
    gpu: Gpu | None = None

    @property
    def platform(self) -> str:
        """The platform to lower for."""
        return "cuda" if self.gpu else "tpu"


_GPU_SHARE = 0.92
_L4 = Gpu("NVIDIA L4", (8, 9), 58, 128, 1536, 100 * 1024, 48 << 20, 2.04, 23_034 << 20)
_A100 = Gpu(
    "NVIDIA A100-SXM4-40GB", (8, 0), 108, 64, 2048, 164 * 1024, 40 << 20, 1.41, 40_960 << 20
)
_H100 = Gpu(
    "NVIDIA H100 80GB HBM3", (9, 0), 132, 128, 2048, 228 * 1024, 50 << 20, 1.98, 81_559 << 20
)
_A100_80 = dataclasses.replace(_A100, name="NVIDIA A100-SXM4-80GB", memory=81_920 << 20)
_H200 = dataclasses.replace(_H100, name="NVIDIA H200", memory=143_771 << 20)


def _chip(kind: str, gpu: Gpu, flops: float, bandwidth: float, interconnect: float) -> Chip:
    return Chip(kind, gpu.name, _GPU_SHARE * gpu.memory, flops, bandwidth, interconnect, gpu)


CHIPS = {
    chip.kind: chip
    for chip in (
        Chip("v4", "TPU v4", 30.75 * GIB, 275e12, 1228e9, 300e9),
        Chip("v5e", "TPU v5 lite", 15.75 * GIB, 197e12, 819e9, 200e9),
        Chip("v5p", "TPU v5", 95.73 * GIB, 459e12, 2765e9, 600e9),
        Chip("v6e", "TPU v6 lite", 31.24 * GIB, 918e12, 1640e9, 448e9),
        _chip("l4", _L4, 121e12, 300e9, 64e9),
        _chip("a100", _A100, 312e12, 1555e9, 600e9),
        _chip("a100-80", _A100_80, 312e12, 2039e9, 600e9),
        _chip("h100", _H100, 989e12, 3352e9, 900e9),
        _chip("h200", _H200, 989e12, 4800e9, 900e9),
    )
}
_NAME = re.compile(r"(?P<kind>[a-z0-9-]+):(?P<sizes>\d+(x\d+)*)")
_HOST_CHIPS = 4


def parse(topology: str) -> tuple[Chip, tuple[int, ...]]:
    """Returns the chip and the grid that `v5e:16x16` names, or for GPUs the hosts and the GPUs of
    each that `h100:2x8` does; raises MeshError for no such kind.
    """
    match = _NAME.fullmatch(topology)
    chip = CHIPS.get(match["kind"]) if match else None
    grid = tuple(map(int, match["sizes"].split("x"))) if match else ()
    if chip is None or not (len(grid) <= 2 if chip.gpu else len(grid) >= 2) or 0 in grid:
        raise MeshError(
            f"--topology={topology} is not a topology; write KIND:AxB or KIND:AxBxC of TPU chips, "
            "KIND:GPUS or KIND:HOSTSxGPUS, with KIND one of "
            f"{', '.join(CHIPS)}, for example v5e:16x16, v4:16x16x16 or h100:1"
        )
    return chip, grid


def devices(topology: str) -> Sequence[Any]:
    """Returns the devices of a slice or of GPUs that are not here, one a chip, for compiling only.

    Raises:
      MeshError: where the compiler is not installed, or knows no such slice.
    """
    chip, grid = parse(topology)
    try:
        return _gpus(chip, chip.gpu, grid) if chip.gpu else _tpus(topology, chip, grid)
    except (RuntimeError, NotImplementedError) as fault:
        reason = first_line(fault)
        if isinstance(fault, NotImplementedError) or "not installed" in reason:
            compiler, extra = ("jax's CUDA plugin", "gpu") if chip.gpu else ("libtpu", "tpu")
            raise MeshError(
                f"--topology={topology} needs {compiler}; install it with pip install "
                f"'pd_jax[{extra}]', or lower without it by --abstract"
            ) from None
        raise MeshError(
            f"--topology={topology} does not exist ({reason}); choose another"
        ) from None


def _tpus(topology: str, chip: Chip, grid: tuple[int, ...]) -> Sequence[Any]:
    # Without these libtpu asks a metadata server which slice this machine is part of, and keeps
    # other processes out, as if there were chips to share.
    for name, value in (
        ("ALLOW_MULTIPLE_LIBTPU_LOAD", "1"),
        ("TPU_SKIP_MDS_QUERY", "1"),
        ("TPU_ACCELERATOR_TYPE", "v5litepod-16"),
        ("TPU_WORKER_HOSTNAMES", "localhost"),
        ("TPU_WORKER_ID", "0"),
    ):
        os.environ.setdefault(name, value)
    from jax.experimental import topologies

    options: dict[str, Any] = {}
    if chip.kind == "v4":
        options["chip_config_name"] = "megacore"  # else each of its two cores is a device
    if math.prod(grid) < _HOST_CHIPS:
        options["chips_per_host_bounds"] = (*grid, 1, 1)[:3]
    return topologies.get_topology_desc(platform="tpu", topology_name=topology, **options).devices


def _gpus(chip: Chip, gpu: Gpu, grid: tuple[int, ...]) -> Sequence[Any]:
    # Where it is to be used, jax's plugin asks the driver for its version first, and there is none.
    jax.config.update("jax_platforms", "cpu")
    from jax.experimental import topologies

    hosts, count = grid if len(grid) == 2 else (1, *grid)
    return topologies.get_topology_desc(
        platform="cuda", topology=f"1x{hosts}x{count}", target_config=_target(chip, gpu)
    ).devices


def _target(chip: Chip, gpu: Gpu) -> str:
    """Returns XLA's description of a GPU (`GpuTargetConfigProto`), as text."""
    most = 2**31 - 1
    facts = {
        "threads_per_block_limit": 1024,
        "threads_per_warp": 32,
        "shared_memory_per_block": 48 * 1024,
        "shared_memory_per_core": gpu.shared_memory,
        "threads_per_core_limit": gpu.threads,
        "core_count": gpu.multiprocessors,
        "fpus_per_core": gpu.units,
        "block_dim_limit_x": most,
        "block_dim_limit_y": 65_535,
        "block_dim_limit_z": 65_535,
        "memory_bandwidth": round(chip.bandwidth),
        "l2_cache_size": gpu.cache,
        "clock_rate_ghz": gpu.clock_ghz,
        "device_memory_size": gpu.memory,
        "shared_memory_per_block_optin": gpu.shared_memory - 1024,
        "registers_per_core_limit": 65_536,
        "registers_per_block_limit": 65_536,
    }
    lines = "".join(f"{name}: {value}\n" for name, value in facts.items())
    major, minor = gpu.capability
    return (
        f"gpu_device_info {{ {lines} cuda_compute_capability {{ major: {major} minor: {minor} }} }}"
        'platform_name: "CUDA" dnn_version_info { major: 9 } runtime_version { major: 12 minor: 9 }'
        f'device_description_str: "{gpu.name}"'
    )
