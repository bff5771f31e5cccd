"""Digests of trees of arrays: of what the arrays hold, not of where they lie."""

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from pd_jax import config
from pd_jax.parallel.mesh import make_mesh
from pd_jax.training.digest import leaf_digests


def laid_out(tree: dict[str, np.ndarray], spec: P) -> dict[str, jax.Array]:
    mesh = make_mesh(config.Mesh(data=2, fsdp=2, tensor=2))
    return jax.device_put(tree, NamedSharding(mesh, spec))


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def test_every_layout_has_the_same_digest():
    tree = {"kernel": numbers(8, 4)}
    layouts = (P(), P("fsdp"), P("fsdp", "tensor"), P(("data", "fsdp"), "tensor"))
    for spec in layouts:
        assert leaf_digests(laid_out(tree, spec)) == leaf_digests(tree)


def test_one_flipped_bit_two_swapped_elements_and_another_shape_are_seen():
    kernel = numbers(8, 4)
    flipped = kernel.copy()
    flipped.view(np.uint32)[3, 2] ^= 1
    swapped = kernel.copy()
    swapped[0, [0, 1]] = kernel[0, [1, 0]]
    changed = [flipped, swapped, kernel.T.copy()]
    assert len({leaf_digests({"kernel": one})["kernel"] for one in [kernel, *changed]}) == 4


def test_many_arrays_on_a_mesh_do_not_wait_for_each_other():
    """Dispatched all at once, their collectives end this process after 40 seconds."""
    tree = {f"kernel_{number}": numbers(64 * (1 + number % 7), 32) for number in range(120)}
    assert leaf_digests(laid_out(tree, P("fsdp", "tensor"))) == leaf_digests(tree)
