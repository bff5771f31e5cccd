"""TPU slices by name, for hardware that is not present, and the limits of one chip."""

import dataclasses
import math
import os
import re
from collections.abc import Sequence
from typing import Any

from pd_jax.errors import MeshError

GIB = 1024**3


@dataclasses.dataclass(frozen=True)
class Chip:
    """One chip's limits: usable memory, operations and bytes a second.

    Memory is what libtpu's compiler accepts (compile-time limit); the rest is from Google's system
    architecture pages, per chip, bfloat16, and all links of the interconnect together.
    """

    kind: str
    device_kind: str
    """What jax calls it."""
    memory: float
    flops: float
    bandwidth: float
    interconnect: float


CHIPS = {
    chip.kind: chip
    for chip in (
        Chip("v4", "TPU v4", 30.75 * GIB, 275e12, 1228e9, 300e9),
        Chip("v5e", "TPU v5 lite", 15.75 * GIB, 197e12, 819e9, 200e9),
        Chip("v5p", "TPU v5", 95.73 * GIB, 459e12, 2765e9, 600e9),
        Chip("v6e", "TPU v6 lite", 31.24 * GIB, 918e12, 1640e9, 448e9),
    )
}
_NAME = re.compile(r"(?P<kind>[a-z0-9]+):(?P<sizes>\d+(x\d+)+)")
_HOST_CHIPS = 4


def parse(topology: str) -> tuple[Chip, tuple[int, ...]]:
    """Returns the chip and the grid that `v5e:16x16` names; raises MeshError for no such kind."""
    match = _NAME.fullmatch(topology)
    if match is None or match["kind"] not in CHIPS:
        raise MeshError(
            f"--topology={topology} is not a topology; write KIND:AxB or KIND:AxBxC with KIND one "
            f"of {', '.join(CHIPS)}, for example v5e:16x16 or v4:16x16x16"
        )
    return CHIPS[match["kind"]], tuple(map(int, match["sizes"].split("x")))


def devices(topology: str) -> Sequence[Any]:
    """Returns the devices of a slice that is not here, one a chip, for compiling only.

    Raises:
      MeshError: where libtpu is not installed, or knows no such slice.
    """
    chip, grid = parse(topology)
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
    try:
        return topologies.get_topology_desc(
            platform="tpu", topology_name=topology, **options
        ).devices
    except RuntimeError as fault:
        reason = str(fault).splitlines()[0]
        if "not installed" in reason:
            raise MeshError(
                f"--topology={topology} needs libtpu; install it with pip install 'pd_jax[tpu]', "
                "or lower without it by --abstract"
            ) from None
        raise MeshError(
            f"--topology={topology} does not exist ({reason}); choose another"
        ) from None
