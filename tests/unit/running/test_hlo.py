"""Collectives read from the text of compiled programs."""

import pytest

from pd_jax.parallel import hlo

TEXT = """
  %all-reduce.46 = (f32[128]{0:T(128)S(1)}, bf16[2,64]{1,0}, /*index=5*/pred[8]{0}) all-reduce(%a)
  %all-reduce.1 = f32[] all-reduce(%b), channel_id=3
  %gte = f32[128]{0} get-tuple-element(%all-reduce.46), index=0
  %all-gather-start = (f32[16,4]{1,0}, f32[64,4]{1,0}) all-gather-start(%c), dimensions={0}
  %all-gather-done = f32[64,4]{1,0} all-gather-done(%all-gather-start)
  ROOT %collective-permute.2 = s32[3,5]{1,0} collective-permute(%d)
"""


def test_counts_and_bytes_of_each_kind() -> None:
    found = hlo.collectives(TEXT)
    assert found == {
        "all-reduce": hlo.Traffic(2, 128 * 4 + 2 * 64 * 2 + 8 + 4),
        "all-gather": hlo.Traffic(1, 64 * 4 * 4),
        "collective-permute": hlo.Traffic(1, 3 * 5 * 4),
    }


def test_a_collective_spread_over_fusions_counts_once() -> None:
    text = """
  %all-gather.1 = bf16[8,4]{1,0:T(8,128)(2,1)S(1)} all-gather(%a), channel_id=3, dimensions={0}
  %all-gather.2 = bf16[8,4]{1,0:T(8,128)(2,1)} all-gather(%b), channel_id=3, dimensions={0}
  %all-gather.3 = bf16[8,4]{1,0} all-gather(%c), channel_id=4, dimensions={0}
  %all-gather.4 = bf16[8,4]{1,0} all-gather(%d), dimensions={0}
  %all-gather.5 = bf16[8,4]{1,0} all-gather(%e), dimensions={0}
"""
    assert hlo.collectives(text) == {"all-gather": hlo.Traffic(4, 4 * 64)}


def test_an_all_reduce_travels_twice() -> None:
    traffic = {"all-reduce": hlo.Traffic(1, 100), "all-gather": hlo.Traffic(3, 50)}
    assert hlo.seconds(traffic, 10.0) == pytest.approx(25.0)


def test_kernels_are_the_operations_of_the_main_sequence_that_do_work() -> None:
    text = """HloModule step

%fused (a: f32[4]) -> f32[4] {
  %a = f32[4]{0} parameter(0)
  ROOT %add.1 = f32[4]{0} add(%a, %a)
}

ENTRY %main (x: f32[4]) -> (f32[4], f32[]) {
  %x = f32[4]{0} parameter(0), metadata={op_name="x"}
  %fusion.1 = (f32[4]{0}, f32[]{0}) fusion(%x), kind=kLoop, calls=%fused
  %part = f32[4]{0} get-tuple-element(%fusion.1), index=0
  %copy.1 = f32[4]{0} copy(%part)
  ROOT %both = (f32[4]{0}, f32[]) tuple(%copy.1, %part)
}
"""
    assert hlo.kernels(text) == 2
