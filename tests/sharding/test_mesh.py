"""Meshes: what fills the devices, what is refused and with which arithmetic, who reads what."""

import dataclasses

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from pd_jax import config
from pd_jax.errors import MeshError
from pd_jax.parallel import mesh as mesh_lib


@dataclasses.dataclass(frozen=True)
class Device:
    """What a mesh sees of a device that is not here."""

    id: int
    process_index: int
    slice_index: int = 0
    platform: str = "cpu"
    device_kind: str = "none"


def shape(data: int, fsdp: int, tensor: int) -> config.Mesh:
    return config.Mesh(data=data, fsdp=fsdp, tensor=tensor)


def layout(devices: np.ndarray) -> list[int]:
    return [device.id for device in devices.flatten()]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ((-1, 1, 1), (8, 1, 1)),
        ((-1, 4, 1), (2, 4, 1)),
        ((-1, 2, 2), (2, 2, 2)),
        ((1, 1, 8), (1, 1, 8)),
    ],
)
def test_minus_one_takes_what_is_left(asked: tuple, expected: tuple) -> None:
    mesh = mesh_lib.make_mesh(shape(*asked))
    assert tuple(mesh.shape.values()) == expected
    assert tuple(mesh.shape) == ("data", "fsdp", "tensor")
    assert mesh.axis_types == (AxisType.Auto,) * 3
    assert sorted(device.id for device in mesh.devices.flat) == list(range(8))


@pytest.mark.parametrize(
    ("asked", "arithmetic"),
    [
        ((-1, 3, 1), "8 devices do not divide by fsdp x tensor = 3 x 1 = 3 (8 % 3 = 2)"),
        ((4, 4, 1), "4 x 4 x 1 = 16 devices, but 8 are here"),
        ((2, 2, 1), "2 x 2 x 1 = 4 devices, but 8 are here"),
        ((0, 1, 1), "run.mesh.data=0"),
        ((-2, 1, 1), "run.mesh.data=-2"),
    ],
)
def test_a_shape_that_does_not_fill_the_devices_is_refused(asked: tuple, arithmetic: str) -> None:
    with pytest.raises(MeshError) as refusal:
        mesh_lib.make_mesh(shape(*asked))
    assert arithmetic in str(refusal.value)


def test_the_first_rule_for_the_hardware_is_taken() -> None:
    rules = (
        config.MeshRule(devices="TPU v5 lite:(16|64)", mesh=shape(-1, 4, 1)),
        config.MeshRule(devices="TPU .*", mesh=shape(-1, 2, 1)),
        config.MeshRule(devices="cpu:8", mesh=shape(-1, 1, 4)),
    )
    run = config.Run(mesh=shape(-1, 1, 1), mesh_rules=rules)
    assert mesh_lib.shape_for(run, "TPU v5 lite", 16).fsdp == 4
    assert mesh_lib.shape_for(run, "TPU v5 lite", 160).fsdp == 2
    assert mesh_lib.shape_for(run, "NVIDIA H100", 8) == run.mesh
    assert tuple(mesh_lib.mesh_for(run).shape.values()) == (2, 1, 4)


def test_a_rule_that_is_no_pattern_is_refused() -> None:
    with pytest.raises(ValueError, match="is not a regular expression"):
        config.MeshRule(devices="TPU (", mesh=shape(-1, 1, 1))


def slices(platform: str = "cpu") -> list[Device]:
    """Two slices of four devices; the numbering jumps between slices, as real numbering may."""
    order = (0, 4, 1, 5, 2, 6, 3, 7)
    return [Device(i, i // 2, slice_index=order.index(i) % 2, platform=platform) for i in order]


def test_several_slices_meet_along_data_only() -> None:
    arranged = mesh_lib._join_slices((4, 2, 1), 2, slices())
    assert arranged.shape == (4, 2, 1)
    assert [device.slice_index for device in arranged.flatten()] == [0, 0, 0, 0, 1, 1, 1, 1]


def test_a_mesh_over_slices_is_made_slice_by_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mesh_lib, "Mesh", lambda devices, axes, axis_types: (devices, axes))
    devices, _ = mesh_lib.make_mesh(shape(-1, 2, 1), slices())
    assert [device.slice_index for device in devices[:2].flatten()] == [0, 0, 0, 0]


def test_fsdp_over_tpu_slices_is_refused() -> None:
    with pytest.raises(MeshError, match=r"cross the 2 slices \(1 % 2 = 1\)"):
        mesh_lib.make_mesh(shape(1, 8, 1), slices("tpu"))


class FakeMesh:
    """Devices by process, in the shape of a mesh."""

    def __init__(self, processes: list[list[int]]) -> None:
        rows = [[Device(0, process) for process in row] for row in processes]
        self.devices = np.array(rows, dtype=object)[:, None, :]
        self.shape = dict(zip(mesh_lib.AXES, self.devices.shape, strict=True))


@pytest.mark.parametrize(
    ("processes", "me", "expected"),
    [
        ([[0], [0], [1], [1]], 1, (1, 2)),
        ([[0, 0], [1, 1], [2, 2], [3, 3]], 2, (2, 4)),
        # tensor spans two processes: both read the same rows
        ([[0, 1], [2, 3]], 1, (0, 2)),
        ([[0, 1], [2, 3]], 2, (1, 2)),
        ([[0, 1]], 1, (0, 1)),
        # rows of a process need not lie side by side
        ([[0], [1], [0], [1]], 1, (1, 2)),
    ],
)
def test_each_process_reads_its_rows(
    processes: list, me: int, expected: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jax, "process_index", lambda: me)
    assert mesh_lib.row_share(FakeMesh(processes)) == expected


def test_rows_shared_in_part_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "process_index", lambda: 0)
    with pytest.raises(MeshError, match="share some rows but not all"):
        mesh_lib.row_share(FakeMesh([[0, 0], [0, 1], [1, 1]]))


def test_heads_must_divide_over_tensor() -> None:
    mesh = mesh_lib.make_mesh(shape(-1, 1, 4))
    mesh_lib.check_heads(12, mesh)
    with pytest.raises(MeshError, match=r"2 attention heads .* tensor=4 \(2 % 4 = 2\)"):
        mesh_lib.check_heads(2, mesh)
