"""A store of what a masked language model says: numbers by hand, and the teacher at hand again."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pydantic
import pytest
from etils import epath

from pd_jax import config as config_lib
from pd_jax.data.feed import batches
from pd_jax.data.logits.store import LogitStore
from pd_jax.data.logits.teachers import Teachers
from pd_jax.data.records import manifest
from pd_jax.data.records.dataset import Dataset
from pd_jax.errors import ConfigError, LogitsError
from pd_jax.models import sizes
from pd_jax.models.heads import PretrainingModel
from pd_jax.models.weights import hf
from pd_jax.objectives.lm_distill import make_lm_distill
from pd_jax.objectives.losses import kl_divergence, top_k_divergence
from pd_jax.objectives.mlm import Vocabulary, masked_as_stored
from pd_jax.objectives.objective import OnlineTeacher, dummy_inputs
from pd_jax.parallel.mesh import make_mesh
from pd_jax.stages.context import Context
from pd_jax.stages.declared import declared
from pd_jax.stages.label import label
from pd_jax.stages.language_teacher import stored_language
from pd_jax.stages.objectives import make_objective
from pd_jax.stages.train import run_train
from pd_jax.tools import label as label_tool
from pd_jax.tools import verify
from tests import tiny

SHAPE = sizes.BertConfig(
    64, layers=1, hidden=32, heads=2, intermediate=64, positions=16, dropout=0.0
)
ROWS = 24
MASKED = {"kind": "lm_distill", "positions": "masked", "cosine_weight": 0.0}


# ---- the loss ----------------------------------------------------------------------------------


def test_all_tokens_but_the_kept_ones_count_as_one():
    student = jnp.log(jnp.asarray([[0.1, 0.2, 0.3, 0.4]])) + 5.0
    teacher = jnp.log(jnp.asarray([[0.5, 0.25, 0.15, 0.1]])) - 3.0
    kept, tokens = jax.lax.top_k(teacher, 2)
    normaliser = jax.nn.logsumexp(teacher, axis=-1)
    found = jax.jit(top_k_divergence)(student, tokens, kept, normaliser)
    by_hand = 0.5 * math.log(0.5 / 0.1) + 0.25 * math.log(0.25 / 0.2) + 0.25 * math.log(0.25 / 0.7)
    assert found[0] == pytest.approx(by_hand, rel=1e-5)
    assert 0 < found[0] < kl_divergence(student, teacher)[0]


def test_with_every_token_kept_it_is_the_divergence_itself():
    student, teacher = (jax.random.normal(jax.random.key(seed), (3, 2, 9)) * 4.0 for seed in (0, 1))

    def stored(logits, kept):
        largest, tokens = jax.lax.top_k(teacher, kept)
        normaliser = jax.nn.logsumexp(teacher, axis=-1)
        return top_k_divergence(logits, tokens, largest, normaliser).sum()

    @jax.jit
    def all_of_them(logits):
        exact = jax.value_and_grad(lambda logits: kl_divergence(logits, teacher).sum())(logits)
        fewer = [stored(logits, kept) for kept in (1, 4, 8)]
        return jax.value_and_grad(stored)(logits, 9), exact, fewer

    (found, slope), (exact, true_slope), fewer = jax.device_get(all_of_them(student))
    assert found == pytest.approx(exact, rel=1e-6)
    np.testing.assert_allclose(slope, true_slope, atol=1e-6)
    assert sorted(fewer) == fewer and fewer[-1] == pytest.approx(exact, rel=1e-5)


def test_nothing_left_over_has_finite_slopes():
    teacher, student = jnp.asarray([[40.0, 0.0, -40.0]]), jnp.asarray([[60.0, -60.0, -60.0]])
    kept, tokens = jax.lax.top_k(teacher, 1)
    args = (tokens, kept, jax.nn.logsumexp(teacher, axis=-1))
    of = jax.jit(jax.value_and_grad(lambda logits: top_k_divergence(logits, *args).sum()))
    value, slope = of(student)
    assert np.isfinite(value) and np.isfinite(slope).all()
    np.testing.assert_allclose(slope, 0.0, atol=1e-6)


# ---- the store ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a dataset, a teacher, and stores of 8 tokens and, masked by another seed, of
    all 64.
    """
    folder = tmp_path_factory.mktemp("language")
    tiny.dataset(folder / "set", rows=ROWS, labelled=False)
    zeros = jnp.zeros((1, 1), jnp.int32)
    params = jax.jit(PretrainingModel(SHAPE).init)(jax.random.key(3), *dummy_inputs(), zeros)[
        "params"
    ]
    # Away from zero, or every token would be as likely as every other.
    params = jax.tree.map(lambda leaf: leaf * 6.0 if leaf.ndim > 1 else leaf, params)
    hf.save(folder / "teacher", params, SHAPE, add=tiny.tokenizer)
    for kept, seed in ((8, 0), (64, 1)):
        stage, output = asked(folder, top_k=kept, seed=seed), epath.Path(folder / f"top{kept}")
        label(stage, output, mesh(), title="labels", warn=pytest.fail)
    return folder


def mesh():
    return make_mesh(config_lib.Mesh())


def asked(folder, *, lengths=(16,), **language):
    return config_lib.LabelStage(
        teacher=str(folder / "teacher"),
        records=str(folder / "set"),
        batch=8,
        lengths=lengths,
        language=config_lib.MaskedTokens(**language),
    )


def batch_of(folder, store):
    dataset = Dataset.open(folder / "set")
    teachers = Teachers(dataset, [LogitStore.open(folder / store)])
    (batch,) = batches.evaluation_batches(dataset, batch=ROWS, lengths=(16,), teachers=teachers)
    return {name: jnp.asarray(values) for name, values in batch.items()}


def objectives(folder):
    """The objective over the store of all tokens, and over the teacher at hand."""
    saved = hf.load(folder / "teacher")
    vocabulary = Vocabulary(64, 0, 2, 3, 4, None)
    stored = stored_language(LogitStore.open(folder / "top64"))
    assert stored is not None
    kind = config_lib.LanguageDistill(**MASKED)
    held = OnlineTeacher(SHAPE, {name: saved.params[name] for name in ("bert", "mlm")})
    return [make_lm_distill(kind, SHAPE, vocabulary, teacher) for teacher in (stored, held)]


def test_a_store_of_all_tokens_teaches_as_the_teacher_at_hand_does(made):
    stored, at_hand = objectives(made)
    prepared = jax.jit(stored.prepare)(batch_of(made, "top64"), jax.random.key(0))
    bare = {name: value for name, value in prepared.items() if not name.startswith("teacher_")}
    taught = jax.jit(at_hand.teach)(at_hand.frozen, bare)
    params = jax.jit(stored.init)(jax.random.key(7))

    def loss(params, objective, batch):
        found = objective.sums(params, batch, None)
        return sum(
            weight * found[name][0] / found[name][1] for name, weight in objective.terms.items()
        ), found

    def of(objective, batch):
        found = jax.jit(
            lambda params: jax.value_and_grad(loss, has_aux=True)(params, objective, batch)
        )
        return jax.device_get(found(params))

    (ours, sums), slopes = of(stored, prepared)
    (theirs, others), true_slopes = of(at_hand, taught)
    assert sums.keys() == others.keys() >= {"soft_loss", "mlm_loss", "kl", "agreement"}
    assert ours == pytest.approx(theirs, rel=1e-6)
    for name, (total, count) in others.items():
        assert sums[name][1] == count
        assert sums[name][0] == pytest.approx(total, rel=1e-5), name
    for one, other in zip(jax.tree.leaves(slopes), jax.tree.leaves(true_slopes), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    assert others["kl"][0] / others["kl"][1] > 0.1  # there is something to learn


def test_a_row_is_masked_as_the_teacher_saw_it(made):
    batch = batch_of(made, "top8")
    prepared = jax.jit(masked_as_stored)(batch)
    ids, corrupted = np.asarray(batch["input_ids"]), np.asarray(prepared["input_ids"])
    used = np.asarray(batch["teacher_positions"]) >= 0
    rows, places = np.nonzero(used)
    at = np.asarray(batch["teacher_positions"])[rows, places]
    np.testing.assert_array_equal(corrupted[rows, at], batch["teacher_replacements"][used])
    np.testing.assert_array_equal(ids[rows, at], prepared["targets"][used])
    np.testing.assert_array_equal(prepared["prediction_weights"], used)
    elsewhere = np.ones(ids.shape, bool)
    elsewhere[rows, at] = False
    np.testing.assert_array_equal(ids[elsewhere], corrupted[elsewhere])
    tokens = np.asarray(batch["input_mask"]).sum(1)
    assert (used.sum(1) == np.round((tokens - 2) * 0.15).clip(1)).all()
    assert (corrupted[rows, at] == 4).mean() > 0.5


def test_masks_depend_on_seed_and_row_alone(made, tmp_path):
    rows = np.arange(ROWS)
    ids = Dataset.open(made / "set").gather(rows).example_ids
    stage = asked(made, top_k=8, lengths=(8, 16))
    label(stage, epath.Path(tmp_path / "padded"), mesh(), title="labels", warn=pytest.fail)
    one, other, padded = (
        LogitStore.open(folder).read(rows, ids)
        for folder in (made / "top8", made / "top64", tmp_path / "padded")
    )
    for name in ("positions", "replacements"):
        np.testing.assert_array_equal(one[name], padded[name])
    np.testing.assert_allclose(one["normalisers"], padded["normalisers"], atol=1e-4)
    assert (one["positions"] != other["positions"]).any()


def test_a_row_takes_as_many_bytes_as_is_said(made):
    eight, whole = (LogitStore.open(made / name).manifest for name in ("top8", "top64"))
    places = 3  # 15 % of 16 tokens
    size = {store.outputs: store.shards[0].bytes / store.shards[0].rows for store in (eight, whole)}
    assert size.keys() == {places * 8, places * 64}
    assert size[places * 64] - size[places * 8] == pytest.approx(places * 56 * 8, abs=8)
    assert size[places * 8] < places * (16 + 8 * 8) + 180


def damage(source, folder):
    """Copies a store, with two rows exchanged in its second shard, and seals it anew."""
    folder.mkdir()
    for path in source.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    shard = sorted(folder.glob("*.tfrecord"))[1]
    content = np.frombuffer(shard.read_bytes(), np.uint8).reshape(ROWS // 2, -1)
    shard.write_bytes(content[[1, 0, *range(2, ROWS // 2)]].tobytes())
    return folder


def test_swapped_rows_and_other_sets_are_refused(made, tmp_path):
    dataset = Dataset.open(made / "set")
    store = LogitStore.open(damage(made / "top8", tmp_path / "swapped")).check(dataset)
    rows = np.arange(ROWS)
    with pytest.raises(LogitsError, match="00001-of-00002.tfrecord row 0 belongs to a different"):
        store.read(rows, dataset.gather(rows).example_ids)
    other = tiny.dataset(tmp_path / "other", rows=ROWS, seed=1, labelled=False)
    with pytest.raises(LogitsError, match="top8 has logits for a dataset other than"):
        LogitStore.open(made / "top8").check(other)


def test_a_manifest_that_says_what_no_teacher_says_is_refused(made):
    store = LogitStore.open(made / "top8")
    for about in ({"length": 16, "top_k": "many"}, {}, {**store.manifest.about, "mask_rate": 0.5}):
        manifest = dataclasses.replace(store.manifest, about=about)
        with pytest.raises(LogitsError, match="has a manifest that no masked language model"):
            stored_language(LogitStore(store.folder, manifest))


def test_what_a_pipeline_declares_is_what_a_batch_will_hold(made):
    data = {"records": "@set", "logits": "@labels", "batch": ROWS, "lengths": (16,)}
    examples = config_lib.Rows()
    rows = config_lib.RecordsStage(
        source=config_lib.Source(path="rows.txt"),
        tokenizer=str(made / "set" / "tokenizer"),
        examples=examples,
        max_length=16,
    )
    labels = dataclasses.replace(asked(made, top_k=8), records="@set")
    pupil = tiny.stage(made / "set", objective=MASKED, data=data)
    stages = {"set": rows, "labels": labels, "pupil": pupil}
    facts = declared(config_lib.Pipeline(name="planned", stages=stages), pupil)
    assert facts.vocabulary is not None
    shape = sizes.bert_config(pupil.model, vocab_size=facts.vocabulary.size)
    batch = batch_of(made, "top8")
    assert {
        name: ((ROWS, *leaf.shape), leaf.dtype)
        for name, leaf in make_objective(pupil, shape, facts).inputs.items()
    } == {
        name: (array.shape, array.dtype)
        for name, array in batch.items()
        if name.startswith("teacher_")
    }
    assert facts.teacher == stored_language(LogitStore.open(made / "top8"))


# ---- stages and commands -----------------------------------------------------------------------


def student(made, folder, objective, **changes):
    """Trains for a few steps, and returns the stage's metrics."""
    data = {"records": str(made / "set"), "batch": 8, "lengths": (16,)}
    stage = tiny.stage(
        made / "set",
        **{
            "objective": objective,
            "data": {**data, **changes.pop("data", {})},
            "length": {"steps": 6},
            "optimizer": {"learning_rate": 1e-2},
            **changes,
        },
    )
    folder.mkdir()
    return run_train(stage, Context("run", epath.Path(folder), tiny.run_options())).metrics


@pytest.mark.slow
def test_a_student_learns_from_a_store(made, tmp_path):
    sets = {"plain": str(made / "set"), "dev": str(made / "set")}
    found = student(
        made,
        tmp_path / "run",
        MASKED,
        data={"logits": str(made / "top8")},
        evaluation={"sets": sets, "logits": {"dev": str(made / "top8")}},
    )
    names = ("loss", "soft_loss", "kl", "agreement", "mlm_loss", "mlm_accuracy")
    assert {f"{which}/{name}" for which in ("train", "dev") for name in names} <= found.keys()
    expected = 5.0 * found["dev/soft_loss"] + 2.0 * found["dev/mlm_loss"]
    assert found["dev/loss"] == pytest.approx(expected, rel=1e-5)
    # Without a store a set is masked anew, and scored by its tokens alone.
    assert {"plain/soft_loss", "plain/loss"}.isdisjoint(found) and found["plain/mlm_loss"] > 0


@pytest.mark.parametrize(
    ("objective", "data", "message"),
    [
        ({"positions": "all"}, {}, "objective.positions='all', but the logit store was made for"),
        ({"cosine_weight": 1.0}, {}, "objective.cosine_weight=1.0, but the logit store"),
        ({"temperature": 1.0}, {}, "objective.temperature=1.0, .* made for 2.0"),
        ({"mask_rate": 0.3}, {}, "objective.mask_rate=0.3, .* made for 0.15"),
        ({}, {"lengths": (8,)}, r"data.lengths ends in 8, .* rows cut to 16 tokens"),
        ({}, {"logits": None}, "objective.kind='lm_distill' needs a teacher"),
        ({"teacher": "teacher"}, {}, "objective.teacher reads every batch itself"),
    ],
)
def test_a_store_made_for_something_else_is_refused(made, tmp_path, objective, data, message):
    data = {"logits": str(made / "top8"), **data}
    with pytest.raises(ConfigError, match=message):
        student(made, tmp_path / "run", {**MASKED, **objective}, data=data)


def test_stores_of_another_kind_are_refused(made, tmp_path):
    logits = {"logits": str(made / "top8")}
    with pytest.raises(ConfigError, match="top8 contains a masked language model's outputs"):
        student(made, tmp_path / "distill", {"kind": "distill"}, data=logits)
    sets = {"sets": {"dev": str(made / "set")}, "logits": {"dev": str(made / "top64")}}
    with pytest.raises(ConfigError, match="evaluation.logits.dev: .*top64 is not the kind of st"):
        student(made, tmp_path / "run", MASKED, data=logits, evaluation=sets)
    with pytest.raises(pydantic.ValidationError, match="language does not work with labels"):
        dataclasses.replace(asked(made), states=(0,))


@pytest.mark.slow
def test_the_commands_label_and_verify(made, tmp_path, capsys):
    known = [str(made / name) for name in ("teacher", "set")]
    output = str(tmp_path / "store")
    arguments = ["--teacher", known[0], "--records", known[1], "--output", output, "--batch", "8"]
    assert label_tool.main([*arguments, "--lengths", "16", "--top-k", "8"]) == 0
    assert f"{ROWS} rows x 24 outputs in {output}" in capsys.readouterr().out
    kept = [
        json.loads((folder / manifest.FILE).read_text())
        for folder in (tmp_path / "store", made / "top8")
    ]
    assert kept[0] == kept[1]
    checked = [known[1], "--logits", output, "--teacher", known[0], "--workers", "1"]
    assert verify.main(checked) == 0
