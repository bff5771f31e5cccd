"""Devices arranged as data x fsdp x tensor."""

import functools
import math
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from pd_jax import config as config_lib
from pd_jax.errors import MeshError

AXES = ("data", "fsdp", "tensor")
"""`data` splits a batch's rows, `fsdp` rows and parameters, `tensor` the width of every layer."""


def make_mesh(shape: config_lib.Mesh, devices: Sequence[Any] | None = None) -> Mesh:
    """Returns the mesh over all given devices (default: those of every process).

    Devices of several slices are joined along `data` alone, whose one all-reduce a step is all that
    the network between slices can carry well.

    Raises:
      MeshError: with the arithmetic, where the devices do not fill the shape.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = mesh_sizes(shape, len(devices))
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices > 1 and sizes[0] % slices == 0:
        arranged = _join_slices(sizes, slices, devices)
    elif slices > 1 and devices[0].platform == "tpu":
        raise MeshError(
            f"mesh data x fsdp x tensor = {_product(sizes)} lets fsdp or tensor cross the {slices} "
            f"slices ({sizes[0]} % {slices} = {sizes[0] % slices}); make run.mesh.data a multiple "
            "of the slices"
        )
    else:
        arranged = _arrange(sizes, devices)
    return Mesh(arranged, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def mesh_for(run: config_lib.Run, devices: Sequence[Any] | None = None) -> Mesh:
    """Returns the mesh that a run asks for on these devices (default: those of all processes)."""
    devices = jax.devices() if devices is None else list(devices)
    return make_mesh(shape_for(run, devices[0].device_kind, len(devices)), devices)


def shape_for(run: config_lib.Run, device_kind: str, count: int) -> config_lib.Mesh:
    """Returns the shape of the run's first rule for `count` devices of a kind, or `run.mesh`."""
    hardware = f"{device_kind}:{count}"
    matching = (rule.mesh for rule in run.mesh_rules if re.fullmatch(rule.devices, hardware))
    return next(matching, run.mesh)


def mesh_sizes(shape: config_lib.Mesh, devices: int) -> tuple[int, int, int]:
    """Returns the sizes of the axes, whose product is the devices; raises MeshError."""
    if shape.data != -1 and shape.data < 1:
        raise MeshError(
            f"run.mesh.data={shape.data} is not a size; set 1 or more, or -1 for what is left"
        )
    inner = shape.fsdp * shape.tensor
    if shape.data == -1 and devices % inner:
        raise MeshError(
            f"{devices} devices do not divide by fsdp x tensor = {shape.fsdp} x {shape.tensor} = "
            f"{inner} ({devices} % {inner} = {devices % inner}); choose run.mesh.fsdp and "
            "run.mesh.tensor so that their product divides the devices"
        )
    sizes = (devices // inner if shape.data == -1 else shape.data, shape.fsdp, shape.tensor)
    if math.prod(sizes) != devices:
        raise MeshError(
            f"mesh data x fsdp x tensor = {_product(sizes)} = {math.prod(sizes)} devices, but "
            f"{devices} are here; set run.mesh.data=-1 to take what is left"
        )
    return sizes


def row_places(mesh: Mesh) -> int:
    """Returns into how many equal parts the rows of a batch are split over the mesh."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


@functools.lru_cache(maxsize=8)
def row_share(mesh: Mesh) -> tuple[int, int]:
    """Returns (index, count): this process reads the index-th of count equal parts of every batch.

    Processes that hold the same rows, because `tensor` spans them, have the same index.

    Raises:
      MeshError: where processes share some of their rows but not all.
    """
    rows = np.asarray(mesh.devices).reshape(-1, mesh.shape["tensor"])
    held: dict[int, set[int]] = {}
    for row, devices in enumerate(rows):
        for device in devices:
            held.setdefault(device.process_index, set()).add(row)
    parts = sorted({tuple(sorted(part)) for part in held.values()})
    if len(rows) != sum(map(len, parts)) or len(set(map(len, parts))) > 1:
        raise MeshError(
            f"mesh {_product(tuple(mesh.shape.values()))} makes processes share some rows but not "
            "all; make run.mesh.tensor a divisor or a multiple of the devices of one process"
        )
    return parts.index(tuple(sorted(held[jax.process_index()]))), len(parts)


def check_heads(heads: int, mesh: Mesh) -> None:
    """Raises MeshError where the attention heads cannot be dealt over the `tensor` axis."""
    if heads % mesh.shape["tensor"]:
        raise MeshError(
            f"{heads} attention heads do not divide over tensor={mesh.shape['tensor']} "
            f"({heads} % {mesh.shape['tensor']} = {heads % mesh.shape['tensor']}); "
            "make run.mesh.tensor a divisor of the heads"
        )


def _arrange(sizes: tuple[int, ...], devices: Sequence[Any]) -> np.ndarray:
    """Returns the devices in an order that suits the interconnect of one slice."""
    return mesh_utils.create_device_mesh(
        sizes, devices=devices, allow_split_physical_axes=devices[0].platform == "tpu"
    )


def _join_slices(sizes: tuple[int, ...], slices: int, devices: Sequence[Any]) -> np.ndarray:
    """Returns the devices with each slice a contiguous block along `data`."""
    return mesh_utils.create_hybrid_device_mesh(
        (sizes[0] // slices, *sizes[1:]),
        (slices, 1, 1),
        devices=devices,
        allow_split_physical_axes=devices[0].platform == "tpu",
    )


def _product(sizes: tuple[int, ...]) -> str:
    return " x ".join(map(str, sizes))
