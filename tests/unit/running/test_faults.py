"""What a user is told when memory does not suffice."""

import pathlib

import jax
import pytest
from etils import epath

from pd_jax import config
from pd_jax.errors import RecordsError, StageError, no_memory, no_space, sentence_of
from pd_jax.stages.faults import with_remedy
from tests import tiny


def test_want_of_memory_is_recognised_from_what_a_device_says():
    with pytest.raises(jax.errors.JaxRuntimeError) as fault:
        jax.numpy.zeros(1 << 50).block_until_ready()
    assert "RESOURCE_EXHAUSTED" in no_memory(fault.value) and no_space(fault.value) == ""
    assert sentence_of(fault.value).endswith("; lower the batch, or free memory")
    assert no_memory(RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore"))
    assert no_memory(MemoryError()) == "out of memory"
    assert no_memory(RuntimeError("RESOURCE_EXHAUSTED: too many requests")) == ""
    full = RuntimeError("RESOURCE_EXHAUSTED: write: No space left on device [28]")
    assert no_memory(full) == "" and sentence_of(full).startswith("the disk is full")


@pytest.mark.parametrize(
    ("stage", "remedy"),
    [
        (tiny.stage(pathlib.Path("train")), "raise compute.micro_batches or set compute.remat"),
        (config.LabelStage(teacher="t", records="r", lengths=(16,)), "lower its batch, or free"),
    ],
)
def test_a_stage_that_does_not_fit_says_what_to_lower(stage, remedy):
    fault = RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes.")
    shown = with_remedy(fault, "big", stage, epath.Path("folder"))
    assert isinstance(shown, StageError) and shown.__cause__ is fault
    assert "'big' does not fit" in str(shown) and "9 bytes" in str(shown) and remedy in str(shown)


def test_a_teacher_in_torch_that_does_not_fit_is_told_to_label_without_jax():
    stage = config.LabelStage(teacher="t", records="r", lengths=(16,))
    fault = RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total of ...")
    shown = str(with_remedy(fault, "labels", stage, epath.Path("folder")))
    assert "run the stage with JAX_PLATFORMS=cpu and --stages=labels, which leaves" in shown
    assert "or lower its batch" in shown and "Tried to allocate 2.00 GiB" in shown
    other = with_remedy(fault, "big", tiny.stage(pathlib.Path("train")), epath.Path("folder"))
    assert "JAX_PLATFORMS" not in str(other)


def test_a_damaged_file_of_a_stage_before_names_the_folder_to_remove():
    stage, inputs = tiny.stage(pathlib.Path("train")), [epath.Path("w/rows-1"), epath.Path("w/a-2")]
    damaged = RecordsError("w/a-2/records/x.tfrecord row 3 is damaged; build the dataset again")
    shown = with_remedy(damaged, "big", stage, epath.Path("w/big-3"), inputs=inputs)
    assert isinstance(shown, RecordsError)
    assert "row 3 is damaged" in str(shown) and "remove w/a-2 and run the same" in str(shown)
    elsewhere = RecordsError("own/x.tfrecord row 3 is damaged; build the dataset again")
    assert with_remedy(elsewhere, "big", stage, epath.Path("w/big-3"), inputs=inputs) is elsewhere


def test_a_bug_stays_a_bug():
    bug, stage = KeyError("bug"), tiny.stage(pathlib.Path("train"))
    assert with_remedy(bug, "big", stage, epath.Path("folder")) is bug
