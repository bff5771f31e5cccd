"""MFU and goodput: by hand, and of a stage that ran."""

import pwd

import jax
import pytest
from etils import epath

from pd_jax.models.flops import forward_flops, step_flops
from pd_jax.models.sizes import BertConfig
from pd_jax.stages.context import Context
from pd_jax.stages.train import run_train
from pd_jax.training import utilisation as utilisation_lib
from pd_jax.training.utilisation import matmul_peak, utilisation
from tests import tiny


def test_shares_by_hand():
    spans = {"compile": 10.0, "step": 6.0, "wait for data": 2.0, "save": 2.0}
    found = utilisation(4e9, spans, seconds=24.0, peak=1e9)
    assert found["mfu"] == pytest.approx(0.5)  # 4e9 operations in 8 s, of 1e9 a second
    assert found["goodput"] == pytest.approx(0.25)  # 6 s of 24


def test_nothing_trained_is_no_division_by_zero():
    assert utilisation(0.0, {}, seconds=0.0, peak=1e9)["mfu"] == 0.0


def test_a_full_device_has_no_peak_to_compare_with(monkeypatch):
    def measure(dtype: str) -> float:
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 268435456")

    monkeypatch.setattr(utilisation_lib, "_measured_peak", measure)
    assert matmul_peak("bfloat16") == 0.0
    spans = {"step": 6.0}
    assert utilisation(4e9, spans, seconds=24.0, peak=0.0)["mfu"] == 0.0
    matmul_peak.cache_clear()


def test_a_stage_says_its_own(tmp_path, monkeypatch):
    # As in a container whose user has no name.
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: {}[uid])
    data = tiny.dataset(tmp_path / "data", rows=64)
    folder = epath.Path(tmp_path / "stage")
    folder.mkdir()
    done = run_train(tiny.stage(data.folder), Context("train", folder, tiny.run_options()))
    assert done.megabytes > 0
    shape = BertConfig(vocab_size=64, layers=2, hidden=32, heads=2, intermediate=128, positions=16)
    per_step = step_flops(forward_flops(shape, rows=16, length=16, outputs=2))
    assert done.utilisation["flops"] == 11 * per_step  # the first step was compiled
    assert 0 < done.utilisation["mfu"] < 1
    assert 0 < done.utilisation["goodput"] < 1
    assert done.utilisation["peak_flops"] == matmul_peak("float32") * len(jax.devices())
