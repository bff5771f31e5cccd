"""Which checkpoint is read, which is set aside, and what is no damage."""

import dataclasses
import errno

import jax
import jax.numpy as jnp
import pytest
from etils import epath

from pd_jax.errors import CheckpointError, MeshError
from pd_jax.parallel import distributed
from pd_jax.training import checkpoint
from pd_jax.training.checkpoint import Checkpoints
from pd_jax.training.state import TrainState
from tests.resume.test_resume import flip, harm


def state(step: int) -> TrainState:
    kernel = jnp.arange(4096, dtype=jnp.float32) + step
    return TrainState(jnp.int32(step), {"kernel": kernel}, {}, jnp.bool_(True))


LIKE = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state(0)
)


@pytest.fixture
def kept(tmp_path):
    """Checkpoints of steps 5 and 6, and what they warn of."""
    warnings: list[str] = []
    found = Checkpoints(epath.Path(tmp_path / "checkpoints"), keep=2, warn=warnings.append)
    for step in (5, 6):
        found.save(step, state(step), {"step": step})
    found.wait()
    yield found, warnings
    found.close()


def steps(tmp_path, folder: str = "checkpoints") -> list[str]:
    there = tmp_path / folder
    return sorted(path.name for path in there.iterdir()) if there.exists() else []


def failing(monkeypatch, found: Checkpoints, *faults: Exception) -> None:
    """Makes the first loads of checkpoints raise these faults, one each."""
    load, left = found._orbax.load, list(faults)

    def load_or_fail(step, like):
        if left:
            raise left.pop(0)
        return load(step, like)

    monkeypatch.setattr(found._orbax, "load", load_or_fail)


def wrapped(inner: Exception) -> Exception:
    """Returns a fault as Orbax puts it."""
    outer = KeyError("no handler")
    outer.__cause__ = inner
    return outer


@pytest.mark.parametrize(
    "fault",
    [
        OSError(errno.EMFILE, "Too many open files"),
        wrapped(OSError(errno.EACCES, "Permission denied")),
        wrapped(ValueError('PERMISSION_DENIED: Error opening "zarr3" driver')),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory"),
        MemoryError(),
    ],
    ids=["open files", "permission", "permission in text", "device memory", "memory"],
)
def test_a_fault_of_the_machine_is_raised_and_moves_nothing(kept, fault, monkeypatch, tmp_path):
    found, warnings = kept
    failing(monkeypatch, found, fault)
    with pytest.raises(type(fault)) as raised:
        found.restore(LIKE)
    assert raised.value is fault
    assert (steps(tmp_path), warnings) == (["5", "6"], [])
    assert found.restore(LIKE)[1] == {"step": 6}


def test_a_damaged_one_is_moved_once_an_older_one_was_read(kept, tmp_path):
    found, warnings = kept
    harm(tmp_path / "checkpoints" / "6", flip)
    restored, note = found.restore(LIKE)
    assert note == {"step": 5}
    assert int(restored.step) == 5
    assert (steps(tmp_path), steps(tmp_path, "damaged_checkpoints")) == (["5"], ["6", "6.txt"])
    assert "checkpoints/6 is damaged (" in warnings[0]
    assert found.latest_step == 5


def test_where_none_can_be_read_all_stay_and_each_reason_is_told(kept, monkeypatch, tmp_path):
    found, warnings = kept
    failing(monkeypatch, found, wrapped(ValueError("the sixth")), ValueError("the fifth"))
    with pytest.raises(CheckpointError, match=r"\(6: the sixth; 5: the fifth\) and were left in"):
        found.restore(LIKE)
    assert (steps(tmp_path), warnings) == (["5", "6"], [])
    assert found.restore(LIKE)[1] == {"step": 6}


def test_one_of_a_model_with_other_parameters_is_no_damage(kept, tmp_path):
    found, warnings = kept
    kernel = LIKE.params["kernel"]
    for params, message in (
        ({"kernel": kernel, "bias": kernel}, "6 in .* has not params/bias, .* model has: another"),
        ({}, "6 in .* has params/kernel, which .* model has not: .* train this stage from scratch"),
    ):
        with pytest.raises(CheckpointError, match=message):
            found.restore(dataclasses.replace(LIKE, params=params))
    assert steps(tmp_path) == ["5", "6"] and warnings == []


def test_processes_read_the_same_step(kept, monkeypatch, tmp_path):
    found, warnings = kept
    others = iter([0, 1])  # another process finds the data of step 6 damaged

    def agree(value: int) -> int:
        return max(value, next(others, 0))

    monkeypatch.setattr(distributed, "agree", agree)
    assert found.restore(LIKE)[1] == {"step": 5}
    assert "6 is damaged (another process cannot read it); not used" in warnings[0]
    assert steps(tmp_path, "damaged_checkpoints") == ["6", "6.txt"]


def test_a_fault_of_another_machine_ends_this_process_too(kept, monkeypatch, tmp_path):
    found, warnings = kept
    monkeypatch.setattr(checkpoint.distributed, "agree", lambda value: 2)
    with pytest.raises(MeshError, match="failed in another process; see that process's message"):
        found.restore(LIKE)
    assert (steps(tmp_path), warnings) == (["5", "6"], [])
