"""One step on any mesh: the same losses, the collectives one expects, and no more."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from pd_jax import config as config_lib
from pd_jax.errors import MeshError
from pd_jax.models.sizes import BertConfig
from pd_jax.objectives.classify import make_classify
from pd_jax.objectives.distill import make_distill
from pd_jax.objectives.mlm import Vocabulary, make_mlm
from pd_jax.parallel import sharding
from pd_jax.parallel.mesh import make_mesh
from pd_jax.training import rng
from pd_jax.training.optim import AdamW, make_schedule
from pd_jax.training.step import check_batch, first_state, make_train_step
from tests import tiny

# Head sizes, layers and vocabulary divide by every axis tried here.
SHAPE = BertConfig(vocab_size=256, layers=2, hidden=64, heads=4, intermediate=128, positions=32)
MESHES = {"8x1x1": (8, 1, 1), "2x4x1": (2, 4, 1), "2x2x2": (2, 2, 2)}
BATCH, LENGTH = 16, 16


def objective(kind: str, shape: BertConfig | None = None):
    """Returns the objective of a kind, of SHAPE by default."""
    shape = shape or SHAPE
    if kind == "mlm":
        vocabulary = Vocabulary(256, 0, 2, 3, 4, None)
        return make_mlm(config_lib.MaskedLanguageModel(next_sentence=True), shape, vocabulary)
    labels = ("a", "b", "c")
    if kind == "classify":
        return make_classify(shape, task="classification", labels=labels)
    return make_distill(
        config_lib.Distill(temperature=2.0, hard_weight=0.25),
        shape,
        task="classification",
        labels=labels,
        has_labels=True,
    )


def batches(steps: int):
    generator = np.random.default_rng(0)
    for _ in range(steps):
        lengths = generator.integers(4, LENGTH + 1, BATCH)
        mask = (np.arange(LENGTH) < lengths[:, None]).astype(np.int32)
        yield {
            "input_ids": generator.integers(5, 256, (BATCH, LENGTH)).astype(np.int32) * mask,
            "segment_ids": np.zeros((BATCH, LENGTH), np.int32),
            "input_mask": mask,
            "weight": np.ones(BATCH, np.float32),
            "label": generator.integers(0, 3, BATCH).astype(np.int32),
            "next_sentence": generator.integers(0, 2, BATCH).astype(np.int32),
            "teacher_logits": generator.normal(size=(BATCH, 3)).astype(np.float32),
        }


@functools.cache
def prepared(kind: str, mesh_shape: tuple[int, int, int], micro_batches: int = 1):
    mesh = make_mesh(
        config_lib.Mesh(data=mesh_shape[0], fsdp=mesh_shape[1], tensor=mesh_shape[2]),
        jax.devices()[: int(np.prod(mesh_shape))],
    )
    made = objective(kind)

    def first(key):
        return first_state(made.init(key))

    at = sharding.assign(jax.eval_shape(first, rng.root_key(0)), sharding.RULES, mesh)
    step = make_train_step(
        made,
        config_lib.Optimizer(learning_rate=1e-3),
        steps=20,
        mesh=mesh,
        state_sharding=at,
        micro_batches=micro_batches,
    )
    return mesh, step, jax.jit(first, out_shardings=at), made


@functools.cache
def losses(kind: str, mesh_shape: tuple[int, int, int], micro_batches: int = 1) -> list[float]:
    mesh, step, first, made = prepared(kind, mesh_shape, micro_batches)
    found = []
    with jax.set_mesh(mesh):
        state = first(rng.root_key(0))
        for batch in batches(20):
            state, sums = step(state, sharding.put_batch(batch, mesh), rng.root_key(1))
            found.append(
                sum(w * float(sums[t][0]) / float(sums[t][1]) for t, w in made.terms.items())
            )
    return found


# With a share of labels, distillation holds classification's loss.
@pytest.mark.parametrize("kind", ["mlm", "distill"])
@pytest.mark.parametrize("mesh", MESHES)
def test_losses_over_twenty_steps_do_not_depend_on_the_mesh(kind, mesh):
    """Dropout is on: its bits belong to the example, not to the device."""
    alone = losses(kind, (1, 1, 1))
    assert len(set(alone)) == 20
    np.testing.assert_allclose(losses(kind, MESHES[mesh]), alone, rtol=0, atol=2e-6)


def collectives(kind: str, mesh_shape: tuple[int, int, int]) -> dict[str, int]:
    mesh, step, first, _ = prepared(kind, mesh_shape)
    with jax.set_mesh(mesh):
        batch = sharding.put_batch(next(batches(1)), mesh)
        text = (
            step.trace(first(rng.root_key(0)), batch, rng.root_key(1)).lower().compile().as_text()
        )
    names = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
    found = re.findall(rf"= .*?\b({names})(?:-start)?\(", text)
    return {name: found.count(name) for name in set(found)}


@pytest.mark.parametrize("kind", ["mlm", "distill"])
def test_the_replicated_step_only_reduces(kind):
    found = collectives(kind, (8, 1, 1))
    assert found.get("all-reduce", 0) > 0
    assert set(found) == {"all-reduce"}


@pytest.fixture
def compiled_anew():
    """Programs are partitioned again, not taken from the cache: only then XLA warns."""
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    prepared.cache_clear()
    yield
    prepared.cache_clear()
    jax.config.update("jax_enable_compilation_cache", True)
    compilation_cache.reset_cache()


@pytest.mark.parametrize("mesh", ["2x4x1", "2x2x2"])
def test_the_fsdp_step_gathers_its_parameters_and_never_whole_activations(
    mesh, compiled_anew, capfd
):
    assert collectives("mlm", MESHES[mesh]).get("all-gather", 0) > 0
    assert "rematerialization" not in capfd.readouterr().err


@pytest.mark.parametrize("kind", ["mlm", "distill"])
def test_micro_batches_give_the_whole_batchs_gradient(kind, monkeypatch):
    """Without dropout, whose bits depend on the split, two micro-batches change nothing."""
    shape = BertConfig(**{**vars(SHAPE), "dropout": 0.0, "attention_dropout": 0.0})
    monkeypatch.setitem(globals(), "SHAPE", shape)
    prepared.cache_clear()
    losses.cache_clear()
    whole, parts = losses(kind, (1, 1, 1), 1), losses(kind, (1, 1, 1), 4)
    prepared.cache_clear()
    losses.cache_clear()
    np.testing.assert_allclose(parts, whole, rtol=0, atol=3e-6)


def test_a_step_that_is_not_finite_changes_nothing_from_then_on():
    mesh, step, first, _ = prepared("distill", (1, 1, 1))
    with jax.set_mesh(mesh):
        state = first(rng.root_key(0))
        before = jax.tree.map(np.asarray, state.params)
        good, bad = batches(2)
        bad = {**bad, "weight": np.full(BATCH, np.nan, np.float32)}
        for batch in (bad, good):
            state, sums = step(state, sharding.put_batch(batch, mesh), rng.root_key(1))
            assert sums["healthy"][0] == 0.0
    assert int(state.step) == 0
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(np.asarray, state.params), before)


def test_one_batch_is_learnt_by_heart():
    """MLM and classification both overfit a single batch within 60 steps."""
    for kind, name in (("mlm", "mlm_loss"), ("classify", "loss")):
        shape = BertConfig(**{**vars(SHAPE), "dropout": 0.0, "attention_dropout": 0.0})
        made = (
            make_mlm(config_lib.MaskedLanguageModel(), shape, Vocabulary(256, 0, 2, 3, 4, None))
            if kind == "mlm"
            else make_classify(shape, task="classification", labels=("a", "b", "c"))
        )
        settings = config_lib.Optimizer(learning_rate=3e-3, schedule="constant")
        adamw, schedule = AdamW(settings), make_schedule(settings, 120)
        state = first_state(tiny.weights(made.init))
        batch = {key: jnp.asarray(value) for key, value in next(batches(1)).items()}
        batch = jax.jit(made.prepare)(batch, rng.root_key(2))

        @jax.jit
        def step(state, made=made, adamw=adamw, schedule=schedule, batch=batch, name=name):
            def loss(params):
                total, count = made.sums(params, batch, None)[name]
                return total / count

            value, grads = jax.value_and_grad(loss)(state.params)
            rate, norm = schedule(state.step), optax.tree.norm(grads)
            params, moments = adamw.update(
                grads, state.optimizer, state.params, rate=rate, norm=norm
            )
            return type(state)(state.step + 1, params, moments, state.healthy), value

        for _ in range(120):
            state, value = step(state)
        assert value < 0.05, kind


def test_a_batch_that_does_not_divide_is_refused_with_the_arithmetic():
    mesh = make_mesh(config_lib.Mesh())
    with pytest.raises(MeshError, match=r"data.batch=20 .* 8 x 1 x 1 = 8"):
        check_batch(20, micro_batches=1, mesh=mesh)
