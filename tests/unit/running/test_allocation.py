"""A process that keeps its memory soon asks the kernel for no page of a later step.

The first steps may still grow the heap, where small blocks lie between the large ones.
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
for _ in range(14):
    before = faults()
    step(x).block_until_ready()
    counts.append(faults() - before)
print(sorted(counts[-11:])[5])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_a_later_step_faults_no_page_in():
    def faults(wish: str) -> int:
        command = [sys.executable, "-c", PROGRAM, wish]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return int(done.stdout)

    assert faults("not") > 10_000
    assert faults("keep") < 1_000
