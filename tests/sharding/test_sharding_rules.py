"""Rules for where parameters live: all covered, none idle, nothing split that does not divide."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from pd_jax import config
from pd_jax.errors import MeshError
from pd_jax.models.heads import PretrainingModel, TaskModel
from pd_jax.models.sizes import BertConfig
from pd_jax.parallel import sharding
from pd_jax.parallel.mesh import make_mesh

WIDTH, INNER, ROWS = 128, 512, 16


def small(vocab_size: int = 1002) -> BertConfig:
    return BertConfig(vocab_size, layers=2, hidden=WIDTH, heads=2, intermediate=INNER, positions=32)


@functools.cache
def mesh_of(data: int, fsdp: int, tensor: int) -> Mesh:
    return make_mesh(config.Mesh(data=data, fsdp=fsdp, tensor=tensor))


@functools.cache
def shapes_of(kind: str = "pretraining", vocab_size: int = 1002) -> dict:
    ids = jnp.zeros((2, 8), jnp.int32)
    if kind == "task":
        model, inputs = TaskModel(small(vocab_size), outputs=3), (ids, ids, ids)
    else:
        model, inputs = PretrainingModel(small(vocab_size)), (ids, ids, ids, ids[:, :2])
    return jax.eval_shape(model.init, jax.random.key(0), *inputs)["params"]


def specs(tree: object) -> dict[str, P]:
    return {
        sharding.parameter_name(path): leaf.spec
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


@pytest.mark.parametrize("kind", ["pretraining", "task"])
def test_data_parallel_keeps_every_parameter_whole(kind: str) -> None:
    placed = sharding.assign(shapes_of(kind), sharding.RULES, mesh_of(8, 1, 1))
    assert set(specs(placed).values()) == {P()}


def test_columns_then_rows_over_fsdp_and_tensor() -> None:
    placed = specs(sharding.assign(shapes_of(), sharding.RULES, mesh_of(2, 2, 2)))
    assert placed["bert/layer_1/attention/query/kernel"] == P("fsdp", "tensor")
    assert placed["bert/layer_1/attention/query/bias"] == P("tensor")
    assert placed["bert/layer_1/attention/output/kernel"] == P("tensor", "fsdp")
    assert placed["bert/layer_1/attention/output/bias"] == P()
    assert placed["bert/layer_0/mlp_in/kernel"] == P("fsdp", "tensor")
    assert placed["bert/layer_0/mlp_out/kernel"] == P("tensor", "fsdp")
    assert placed["bert/layer_0/mlp_norm/scale"] == P()
    assert placed["bert/embeddings/word/embedding"] == P("fsdp")  # 1002 = 2 x 501
    assert placed["nsp/kernel"] == P()


def test_axes_of_one_device_are_left_out() -> None:
    placed = specs(sharding.assign(shapes_of(), sharding.RULES, mesh_of(2, 4, 1)))
    assert placed["bert/layer_0/mlp_out/kernel"] == P(None, "fsdp")
    assert placed["bert/layer_0/mlp_in/bias"] == P()


def test_a_vocabulary_that_does_not_divide_stays_whole_and_says_so() -> None:
    shapes = shapes_of(vocab_size=1002)
    placed = sharding.assign(shapes, sharding.RULES, mesh_of(2, 4, 1))
    assert specs(placed)["bert/embeddings/word/embedding"] == P()
    line = re.search("^bert/embeddings/word.*$", sharding.table(shapes, placed), re.MULTILINE)
    assert line is not None
    assert line[0].endswith("1002 does not divide by fsdp = 4 (1002 % 4 = 2)")


def test_moments_lie_where_their_parameter_lies_and_counts_everywhere() -> None:
    mesh, shapes = mesh_of(2, 2, 2), shapes_of()
    state = jax.eval_shape(optax.adamw(1e-3).init, shapes)
    placed = specs(sharding.assign(state, sharding.RULES, mesh))
    for name, spec in specs(sharding.assign(shapes, sharding.RULES, mesh)).items():
        assert placed[f"0/mu/{name}"] == placed[f"0/nu/{name}"] == spec
    assert placed["0/count"] == P()


def test_arrays_take_the_assigned_places() -> None:
    mesh = mesh_of(2, 2, 2)
    placed = sharding.assign(shapes_of(), sharding.RULES, mesh)
    made = jax.jit(
        lambda: jax.tree.map(lambda leaf: jnp.ones(leaf.shape), shapes_of()), out_shardings=placed
    )()
    kernel = made["bert"]["layer_0"]["mlp_in"]["kernel"]
    assert kernel.shape == (WIDTH, INNER)
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(WIDTH // 2, INNER // 2)}


def shape(*sizes: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


@pytest.mark.parametrize(
    ("tree", "rules", "message"),
    [
        ({"bert": {"new": shape(4, 4)}}, sharding.RULES, "no sharding rule covers bert/new 4x4"),
        ({"head": {"kernel": shape(4)}}, sharding.RULES, "no sharding rule covers head/kernel 4"),
        (
            {"m": {"a": shape(4)}},
            {"m": (("a", ((),)), ("b", ((),)))},
            "sharding rule m: 'b' places no tensor",
        ),
        ({"m": {"a": shape(8, 8)}}, {"m": (("a", (("fsdp", "fsdp"),)),)}, "'fsdp' twice"),
        (
            {"m": {"a": shape(8, 8)}},
            {"m": (("a", ((("fsdp", "tensor"), "fsdp"),)),)},
            "'fsdp' twice",
        ),
        ({"m": {"a": shape(8)}}, {"m": (("a", (("model",),)),)}, "names axis 'model'"),
        ({"m": {"a": shape(8)}}, {"m": (("a", (("fsdp", None),)),)}, "names 2 dimensions"),
        (
            {"m": {"a": shape(8, 6)}},
            {"m": (("a", ((None, ("fsdp", "tensor")),)),)},
            "m/a 8x6 cannot be split: 6 does not divide by fsdp x tensor = 4 (6 % 4 = 2)",
        ),
    ],
)
def test_what_the_rules_refuse(tree: dict, rules: dict, message: str) -> None:
    with pytest.raises(MeshError) as refusal:
        sharding.assign(tree, rules, mesh_of(2, 2, 2))
    assert message in str(refusal.value)


def test_the_rules_of_an_absent_head_are_not_idle() -> None:
    assert "mlm" in sharding.RULES
    placed = specs(sharding.assign(shapes_of("task"), sharding.RULES, mesh_of(4, 2, 1)))
    assert not any(name.startswith("mlm/") for name in placed)


def test_the_table_counts_bytes_by_hand() -> None:
    shapes = {"m": {"kernel": shape(8, 8)}, "classifier": {"bias": shape(3)}}
    rules = {"m": (("kernel", (("fsdp", None),)),), "classifier": ((".", ((),)),)}
    placed = sharding.assign(shapes, rules, mesh_of(2, 4, 1))
    lines = [line.split() for line in sharding.table(shapes, placed, rules).splitlines()]
    assert lines == [
        ["tensor", "shape", "spec", "bytes/device", "remark"],
        ["classifier/bias", "3", "whole", "12"],
        ["m/kernel", "8x8", "fsdp", "64"],
        ["2", "tensors", "76"],
    ]


def test_a_batch_is_spread_by_row_and_keeps_its_order() -> None:
    mesh = mesh_of(2, 2, 2)
    rows = np.arange(ROWS * 3, dtype=np.int32).reshape(ROWS, 3)
    placed = sharding.put_batch({"input_ids": rows, "weight": np.ones(ROWS, np.float32)}, mesh)
    np.testing.assert_array_equal(placed["input_ids"], rows)
    assert {shard.data.shape for shard in placed["input_ids"].addressable_shards} == {(4, 3)}
    assert placed["weight"].sharding == sharding.batch_sharding(mesh)


def test_a_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(MeshError, match=r"6 rows for 4 row places .*\(6 % 4 = 2\)"):
        sharding.put_batch({"input_ids": np.zeros((6, 2), np.int32)}, mesh_of(2, 2, 2))


@pytest.mark.parametrize("sizes", [(8, 1, 1), (2, 4, 1), (4, 2, 1), (2, 2, 2)])
def test_activations_are_held_by_row(sizes: tuple[int, int, int]) -> None:
    mesh = mesh_of(*sizes)
    with jax.set_mesh(mesh):
        held = jax.jit(lambda: sharding.constrain_batch(jnp.zeros((ROWS, 4))))()
    assert held.sharding.is_equivalent_to(sharding.batch_sharding(mesh), 2)


def test_without_a_mesh_nothing_is_constrained() -> None:
    values = jnp.zeros((ROWS, 4))
    assert sharding.constrain_batch(values) is values


KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all")


def collectives(mesh: Mesh, rules: sharding.Rules = sharding.RULES) -> dict[str, int]:
    """Returns how often each collective stands in a compiled MLM gradient."""
    model, shapes = PretrainingModel(small()), shapes_of()
    where = sharding.assign(shapes, rules, mesh)

    def gradient(params: dict, ids: jax.Array, positions: jax.Array) -> dict:
        def loss(params: dict) -> jax.Array:
            logits, pairs = model.apply({"params": params}, ids, ids, ids, positions)
            return jax.nn.logsumexp(logits, axis=-1).mean() + pairs.mean()

        return jax.grad(loss)(params)

    rows = sharding.batch_sharding(mesh)
    params = jax.tree.map(
        lambda leaf, at: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at), shapes, where
    )
    ids = jax.ShapeDtypeStruct((ROWS, 32), jnp.int32, sharding=rows)
    positions = jax.ShapeDtypeStruct((ROWS, 4), jnp.int32, sharding=rows)
    with jax.set_mesh(mesh):
        compiled = jax.jit(gradient, out_shardings=where).lower(params, ids, positions).compile()
    text = compiled.as_text()
    return {kind: len(re.findall(rf"= .*? {kind}(?:-start)?\(", text)) for kind in KINDS}


REBUILT = "Involuntary full rematerialization"


def test_data_parallel_reduces_and_never_gathers(capfd: pytest.CaptureFixture[str]) -> None:
    found = collectives(mesh_of(8, 1, 1))
    assert found["all-reduce"] >= 1
    assert found["all-gather"] == found["all-to-all"] == found["reduce-scatter"] == 0
    assert REBUILT not in capfd.readouterr().err


@pytest.mark.parametrize("sizes", [(2, 4, 1), (4, 2, 1), (2, 2, 2)])
def test_fsdp_gathers_and_rebuilds_nothing(sizes: tuple, capfd: pytest.CaptureFixture[str]) -> None:
    assert collectives(mesh_of(*sizes))["all-gather"] >= 1
    assert REBUILT not in capfd.readouterr().err


def test_an_embedding_split_by_feature_is_what_gets_rebuilt(
    capfd: pytest.CaptureFixture[str],
) -> None:
    word, *others = sharding.RULES["bert"]
    by_feature = {**sharding.RULES, "bert": ((word[0], ((None, "fsdp"),)), *others)}
    collectives(mesh_of(2, 4, 1), by_feature)
    assert REBUILT in capfd.readouterr().err
