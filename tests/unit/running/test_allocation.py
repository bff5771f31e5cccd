"""A process that keeps its memory soon asks the kernel for no page of a later step.

The first steps may still grow the heap by their temporary arrays, where small blocks lie between
the large ones: as measured, up to ten of them, by chance. So steps 31 to 60 are held to it, and of
these all but three: nine in ten, where without it every one faults all of its pages in.
"""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
from pd_jax.allocation import keep_memory
assert sys.argv[1] == "not" or keep_memory()
import jax, jax.numpy as jnp

def step(x):  # temporary arrays of 64 MB
    return jnp.sum(jnp.cumsum(x[:, None] * x[None] + 1.0, axis=0))

step, x = jax.jit(step), jnp.arange(4096.0)
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
counts = []
for _ in range(60):
    before = faults()
    step(x).block_until_ready()
    counts.append(faults() - before)
print(*sorted(counts[30:]))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_a_later_step_faults_no_page_in():
    def faults(wish: str) -> list[int]:
        command = [sys.executable, "-c", PROGRAM, wish]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return [int(count) for count in done.stdout.split()]

    assert faults("not")[0] > 10_000
    assert faults("keep")[-4] < 1_000
