"""Packed batches: the same examples in fewer rows, each encoded as if it were alone."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pydantic
import pytest
from etils import epath
from hypothesis import given, settings
from hypothesis import strategies as st

from pd_jax import config
from pd_jax.data.feed import batches
from pd_jax.data.feed.packing import Packing, make_packing, pack
from pd_jax.data.logits.store import LogitStore
from pd_jax.errors import ConfigError
from pd_jax.models.heads import TaskModel
from pd_jax.models.sizes import BertConfig
from pd_jax.objectives.classify import make_classify
from pd_jax.objectives.distill import make_distill
from pd_jax.objectives.mlm import Vocabulary, make_mlm
from pd_jax.stages.context import Context
from pd_jax.stages.train import run_train
from tests import tiny

SHAPE = BertConfig(vocab_size=64, layers=1, hidden=32, heads=2, intermediate=64, positions=12)


def padded(sizes, length: int = 12, seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    mask = (np.arange(length) < np.asarray(sizes)[:, None]).astype(np.int32)
    return {
        "input_ids": generator.integers(5, 64, mask.shape).astype(np.int32) * mask,
        "segment_ids": generator.integers(0, 2, mask.shape).astype(np.int32) * mask,
        "input_mask": mask,
        "weight": np.ones(len(sizes), np.float32),
        "next_sentence": generator.integers(0, 2, len(sizes)).astype(np.int32),
    }


def test_a_packed_batch_by_hand():
    batch = {
        "input_ids": np.array([[1, 2, 3, 9], [4, 5, 9, 9], [6, 9, 9, 9]], np.int32),
        "segment_ids": np.array([[0, 0, 1, 0], [0, 0, 0, 0], [1, 0, 0, 0]], np.int32),
        "input_mask": np.array([[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]], np.int32),
        "weight": np.ones(3, np.float32),
        "label": np.array([[5, 6], [7, 8], [9, 10]], np.float32),
    }
    packing = make_packing(np.array([3, 2, 1]), room=4, most=2, multiple=3)
    assert packing.rows.tolist() == [0, 1, 0] and packing.height == 3
    packed = pack(batch, packing, most=2, pad_id=9)
    assert packed["input_ids"].tolist() == [[1, 2, 3, 6], [4, 5, 9, 9], [9, 9, 9, 9]]
    assert packed["segment_ids"].tolist() == [[0, 0, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert packed["input_mask"].tolist() == [[1, 1, 1, 2], [1, 1, 0, 0], [0, 0, 0, 0]]
    assert packed["starts"].tolist() == [[0, 3], [0, 0], [0, 0]]
    assert packed["weight"].tolist() == [[1, 1], [1, 0], [0, 0]]
    assert packed["label"].tolist() == [[[5, 6], [9, 10]], [[7, 8], [0, 0]], [[0, 0], [0, 0]]]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=200), st.integers(1, 6), st.integers(1, 4))
@settings(max_examples=100, deadline=None)
def test_no_two_examples_overlap_and_shares_are_the_whole(lengths, most, multiple):
    packing = make_packing(np.array(lengths), room=32, most=most, multiple=multiple)
    assert packing.height % multiple == 0
    held = np.zeros((packing.height, 32), int)
    for size, row, start in zip(lengths, packing.rows, packing.starts, strict=True):
        size = min(size, 32)
        assert start + size <= 32
        held[row, start : start + size] += 1
    assert held.max() == 1
    places = set(zip(packing.rows.tolist(), packing.slots.tolist(), strict=True))
    assert len(places) == len(lengths) and packing.slots.max() < most
    parts = [packing.share(index, multiple) for index in range(multiple)]
    assert sorted(np.concatenate([chosen for chosen, _ in parts]).tolist()) == list(
        range(len(lengths))
    )
    for index, (chosen, part) in enumerate(parts):
        assert (part.rows + index * part.height == packing.rows[chosen]).all()


SIZES = [12, 3, 5, 4, 7, 2, 6, 12, 1]


def packing_of(sizes) -> Packing:
    packing = make_packing(np.array(sizes), room=12, most=4, multiple=1)
    assert packing.height < len(sizes)
    return packing


def test_a_packed_example_has_the_outputs_of_the_padded_one():
    """Numbers of a leak, of shifted positions or of a wrong [CLS] would differ by far more."""
    batch, packing = padded(SIZES), packing_of(SIZES)
    packed = pack(batch, packing, most=4, pad_id=0)
    model = TaskModel(SHAPE, outputs=3)
    inputs = ("input_ids", "segment_ids", "input_mask")
    params = jax.jit(model.init)(jax.random.key(0), *(batch[name] for name in inputs))
    apply = jax.jit(model.apply)
    alone = apply(params, *(batch[name] for name in inputs))
    together = apply(params, *(packed[name] for name in inputs), packed["starts"])
    assert together.shape == (packing.height, 4, 3)
    np.testing.assert_allclose(together[packing.rows, packing.slots], alone, rtol=0, atol=1e-5)
    assert np.abs(np.diff(alone, axis=0)).min() > 1e-4  # the examples do differ


def test_packed_masked_words_have_the_losses_and_gradients_of_the_padded_ones():
    batch, packing = padded(SIZES), packing_of(SIZES)
    objective = make_mlm(
        config.MaskedLanguageModel(next_sentence=True), SHAPE, Vocabulary(64, 0, 2, 3, 4, None)
    )
    params = jax.jit(objective.init)(jax.random.key(1))
    # The same two words of every example that has them, by place in the example and in its row.
    places = np.array([[1, min(size, 5) - 1] for size in SIZES])
    real = (places < np.array(SIZES)[:, None]).astype(np.float32)
    real[:, 1] *= places[:, 1] > 1
    targets = np.random.default_rng(3).integers(5, 64, places.shape)
    chosen = {"positions": places, "targets": targets, "prediction_weights": real}
    alone = {**batch, **chosen}
    packed = pack(batch, packing, most=4, pad_id=0)
    shape = (packing.height, 4, 2)
    moved = {name: np.zeros(shape, values.dtype) for name, values in chosen.items()}
    for name, values in {**chosen, "positions": places + packing.starts[:, None]}.items():
        moved[name][packing.rows, packing.slots] = values
    together = {**packed, **{name: values.reshape(-1, 8) for name, values in moved.items()}}

    @functools.partial(jax.value_and_grad, has_aux=True)
    def loss(params, batch):
        sums = objective.sums(params, batch, None)
        return sum(sums[name][0] / sums[name][1] for name in objective.terms), sums

    (one, sums), gradient = jax.jit(loss)(params, alone)
    (other, others), packed_gradient = jax.jit(loss)(params, together)
    assert sums["mlm_loss"][1] == others["mlm_loss"][1] == real.sum()
    assert abs(one - other) < 1e-5
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5), gradient, packed_gradient
    )


def test_masks_of_a_packed_batch_keep_their_rate_and_weigh_real_words_only():
    sizes = np.random.default_rng(0).integers(4, 33, 512)
    batch = padded(sizes, length=64)
    packed = pack(batch, make_packing(sizes, room=64, most=8, multiple=1), most=8, pad_id=0)
    packed["input_ids"][packed["input_mask"] == 0] = 0
    objective = make_mlm(config.MaskedLanguageModel(), SHAPE, Vocabulary(64, 0, 2, 3, 4, None))
    made = jax.jit(objective.prepare)(packed, jax.random.key(0))
    weights = np.asarray(made["prediction_weights"])
    chosen = np.take_along_axis(packed["input_mask"], np.asarray(made["positions"]), axis=1)
    assert (chosen[weights > 0] > 0).all()
    assert abs(weights.sum() / (packed["input_mask"] > 0).sum() - 0.15) < 0.01


def test_a_feed_packs_the_examples_of_each_step(tmp_path):
    dataset = tiny.dataset(tmp_path / "set", rows=64)
    data = {"records": "set", "batch": 16, "lengths": (16, 32)}
    options = {"seed": 1, "first_step": 0, "steps": 6, "prefetch": 2}

    def steps(packing: int, **changes):
        given = {"process_index": 0, "process_count": 1, **options, **changes}
        return list(batches.make_feed([dataset], config.Data(**data, packing=packing), **given))

    def examples(batch):
        """Returns the tokens and label of every example in a batch."""
        found = []
        for row, slot in zip(*np.nonzero(batch["weight"]), strict=True):
            ids = batch["input_ids"][row, batch["input_mask"][row] == slot + 1]
            found.append((*ids.tolist(), int(batch["label"][row, slot])))
        return sorted(found)

    data["lengths"] = (32,)
    alone, together = steps(1), steps(4)
    halves = [steps(4, process_index=index, process_count=2) for index in (0, 1)]
    for number, (one, other) in enumerate(zip(alone, together, strict=True)):
        filled = one["input_mask"] > 0
        rows = zip(one["input_ids"], filled, one["label"], strict=True)
        assert examples(other) == sorted((*ids[real].tolist(), int(y)) for ids, real, y in rows)
        assert other["input_ids"].shape[0] < 8
        parts = [half[number] for half in halves]
        assert len({part["input_ids"].shape for part in parts}) == 1
        assert sorted(examples(parts[0]) + examples(parts[1])) == examples(other)
    resumed = steps(4, first_step=4)
    for one, other in zip(together[4:], resumed, strict=True):
        assert all((one[name] == other[name]).all() for name in one)


def test_processes_without_an_example_complete_the_packed_batch(tmp_path):
    """Of eight processes, the last get rows that no example fell into."""
    dataset = tiny.dataset(tmp_path / "set", rows=64)
    answers = np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32)
    tiny.logit_store(tmp_path / "store", dataset, answers)
    data = config.Data(records="set", logits="store", batch=32, lengths=(128,), packing=16)

    def steps(index: int, of: int):
        return list(
            batches.make_feed(
                [dataset], data, stores=[[LogitStore.open(tmp_path / "store")]], seed=1,
                first_step=0, steps=4, process_index=index, process_count=of, prefetch=1,
                rows_multiple=8,
            )
        )  # fmt: skip

    parts = [steps(index, 8) for index in range(8)]
    assert not any(batch["weight"].any() for batch in parts[-1])
    for number, whole in enumerate(steps(0, 1)):
        assert all(part[number].keys() == whole.keys() for part in parts)
        for name, values in whole.items():
            joined = np.concatenate([part[number][name] for part in parts])
            assert joined.dtype == values.dtype
            np.testing.assert_array_equal(joined, values)


def test_a_packed_run_has_the_losses_of_the_padded_one(tmp_path):
    """Over eight devices and two micro-batches; dropout's bits belong to places, so it is off."""
    tiny.dataset(tmp_path / "train", rows=200)

    def losses(packing: int) -> list[float]:
        stage = tiny.stage(
            tmp_path / "train",
            model={
                "size": "L1_H32", "heads": 2, "positions": 32, "dropout": 0, "attention_dropout": 0
            },
            data={
                "records": str(tmp_path / "train"), "batch": 64, "lengths": (32,),
                "packing": packing,
            },
            compute={"micro_batches": 2},
            length={"steps": 6},
        )  # fmt: skip
        folder = epath.Path(tmp_path / f"run-{packing}")
        run_train(stage, Context("job", folder, tiny.run_options(log_steps=1)))
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return [line["train/loss"] for line in lines if "train/loss" in line]

    alone = losses(1)
    assert len(set(alone)) == 6
    np.testing.assert_allclose(losses(4), alone, rtol=0, atol=1e-5)


def test_rows_longer_than_the_model_are_refused(tmp_path):
    tiny.dataset(tmp_path / "train", rows=20)
    data = {"records": str(tmp_path / "train"), "batch": 16, "lengths": (8, 64)}
    with pytest.raises(ConfigError, match="data.lengths ends in 64, but the model has 16 posi"):
        run_train(
            tiny.stage(tmp_path / "train", data=data),
            Context("job", epath.Path(tmp_path / "run"), tiny.run_options()),
        )


def test_objectives_that_cannot_be_packed_are_refused():
    data = {"records": "set", "batch": 16, "lengths": (16,), "packing": 4}
    with pytest.raises(pydantic.ValidationError, match="packing=4 .* set it to 1 for patient"):
        tiny.stage("set", data=data, objective={"kind": "patient", "teacher": "model"})


def test_bucketed_examples_have_the_losses_of_padded_ones(tmp_path):
    """Through the feed and the objectives of classify and distill, example by example."""
    dataset = tiny.dataset(tmp_path / "set", rows=64)
    answers = np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32)
    tiny.logit_store(tmp_path / "store", dataset, answers)
    store = LogitStore.open(tmp_path / "store")
    task = {"task": "classification", "labels": tiny.LABELS}
    shape = dataclasses.replace(SHAPE, positions=16)
    soft = config.Distill(temperature=2.0, hard_weight=0.25)
    for objective in (
        make_classify(shape, **task),
        make_distill(soft, shape, has_labels=True, **task),
    ):
        # Larger weights than the first ones, whose outputs hardly differ between examples.
        params = jax.tree.map(lambda value: 4 * value, jax.jit(objective.init)(jax.random.key(0)))

        def loss(params, row, objective=objective):
            one = {name: value[None] for name, value in row.items()}
            total, count = objective.sums(params, one, None)["loss"]
            return total / count

        losses = jax.jit(jax.vmap(loss, in_axes=(None, 0)))

        def of(lengths, params=params, losses=losses):
            """Returns each example's loss by its tokens, and the lengths of the batches."""
            found, seen = {}, set()
            data = config.Data(records="set", logits="store", batch=16, lengths=lengths)
            for batch in batches.make_feed(
                [dataset], data, stores=[[store]], seed=1, first_step=0, steps=64,
                process_index=0, process_count=1, prefetch=1,
            ):  # fmt: skip
                seen.add(batch["input_ids"].shape[1])
                if len(found) == 64 and seen == set(lengths):
                    return found, seen
                ids = [tuple(row[row != 0].tolist()) for row in batch["input_ids"]]
                found |= dict(zip(ids, np.asarray(losses(params, batch)).tolist(), strict=True))
            return found, seen

        alone, _ = of((16,))
        bucketed, seen = of((8, 12, 16))
        assert seen == {8, 12, 16} and alone.keys() == bucketed.keys()
        assert len(alone) == 64 and np.std(list(alone.values())) > 1e-3
        for ids, value in alone.items():
            assert abs(bucketed[ids] - value) < 1e-5
