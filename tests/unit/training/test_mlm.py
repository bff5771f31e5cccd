"""Masking statistics over more than 1e5 tokens, whole words, and the gathered loss by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pd_jax import config as config_lib
from pd_jax.evaluation.evaluate import evaluate
from pd_jax.models.sizes import BertConfig
from pd_jax.objectives.mlm import Vocabulary, make_mlm, mask_tokens, predictions_per_row
from pd_jax.parallel.mesh import mesh_for
from tests import tiny

SIZE, PAD, CLS, SEP, MASK = 1000, 0, 1, 2, 3
STARTS = np.arange(SIZE) % 3 != 0  # every third piece continues a word
VOCABULARY = Vocabulary(SIZE, PAD, CLS, SEP, MASK, STARTS)


def random_batch(rows: int, length: int, *, seed: int = 0) -> tuple[jax.Array, jax.Array]:
    """Returns ids and mask of rows of many lengths, with [CLS] and [SEP] in their places."""
    generator = np.random.default_rng(seed)
    ids = generator.integers(4, SIZE, (rows, length))
    mask = np.zeros((rows, length), np.int32)
    for row, tokens in enumerate(generator.integers(3, length + 1, rows)):
        ids[row, 0], ids[row, tokens - 1], ids[row, tokens:] = CLS, SEP, PAD
        mask[row, :tokens] = 1
    return jnp.asarray(ids, jnp.int32), jnp.asarray(mask)


def masked(ids, mask, *, seed: int = 1, whole_word: bool = False, rate: float = 0.15):
    draw = functools.partial(
        mask_tokens, vocabulary=VOCABULARY, mask_rate=rate, whole_word=whole_word
    )
    return jax.jit(draw)(ids, mask, jax.random.key(seed))


def test_shares_are_fifteen_percent_and_eighty_ten_ten():
    ids, mask = random_batch(2048, 128)
    found = masked(ids, mask)
    eligible = np.asarray((mask > 0) & (ids != CLS) & (ids != SEP))
    assert eligible.sum() > 1e5
    chosen = np.asarray(found.weights) > 0
    per_row = chosen.sum(-1)
    expected = np.clip(np.round(eligible.sum(-1) * 0.15), 1, predictions_per_row(128, 0.15))
    np.testing.assert_array_equal(per_row, expected)

    new = np.take_along_axis(np.asarray(found.input_ids), np.asarray(found.positions), -1)[chosen]
    old = np.asarray(found.targets)[chosen]
    total = len(old)
    share_masked, share_kept = np.mean(new == MASK), np.mean((new == old) & (new != MASK))
    # Four standard deviations of a share p over n draws.
    assert abs(share_masked - 0.8) < 4 * np.sqrt(0.8 * 0.2 / total) + 1 / SIZE
    assert abs(share_kept - 0.1) < 4 * np.sqrt(0.1 * 0.9 / total) + 1 / SIZE
    drawn = new[(new != MASK) & (new != old)]
    assert abs(len(drawn) / total - 0.1) < 4 * np.sqrt(0.1 * 0.9 / total) + 1 / SIZE
    assert abs(drawn.mean() - (SIZE - 1) / 2) < 4 * SIZE / np.sqrt(12 * len(drawn))


def test_only_chosen_positions_change_and_never_special_ones():
    ids, mask = random_batch(512, 64)
    found = masked(ids, mask)
    changed = np.asarray(found.input_ids != ids)
    special = np.asarray((mask == 0) | (ids == CLS) | (ids == SEP))
    assert not (changed & special).any()
    listed = np.zeros_like(changed)
    rows = np.arange(len(changed))[:, None]
    listed[rows, np.asarray(found.positions)] = np.asarray(found.weights) > 0
    assert not (changed & ~listed).any()
    np.testing.assert_array_equal(
        np.asarray(found.targets),
        np.take_along_axis(np.asarray(ids), np.asarray(found.positions), -1),
    )


def test_positions_are_uniform_over_a_row():
    ids = jnp.full((4096, 34), 7, jnp.int32).at[:, 0].set(CLS).at[:, -1].set(SEP)
    found = masked(ids, jnp.ones_like(ids))
    counts = np.bincount(np.asarray(found.positions)[np.asarray(found.weights) > 0], minlength=34)[
        1:-1
    ]
    expected = counts.sum() / 32
    # Chi-squared with 31 degrees of freedom: 61.1 is its 99.9th percentile.
    assert np.sum((counts - expected) ** 2 / expected) < 61.1


def test_the_draw_is_a_function_of_the_key():
    ids, mask = random_batch(8, 32)
    first, again, other = masked(ids, mask), masked(ids, mask), masked(ids, mask, seed=2)
    np.testing.assert_array_equal(first.input_ids, again.input_ids)
    assert (np.asarray(first.positions) != np.asarray(other.positions)).any()


def test_whole_words_are_chosen_together():
    ids, mask = random_batch(512, 64)
    found = masked(ids, mask, whole_word=True)
    filled = []
    for row in range(len(ids)):
        positions = np.asarray(found.positions[row])[np.asarray(found.weights[row]) > 0]
        words = words_of(np.asarray(ids[row]), np.asarray(mask[row]))
        counts = np.bincount(words[words >= 0])
        budget = np.clip(np.round(counts.sum() * 0.15), 1, predictions_per_row(64, 0.15))
        assert len(positions) <= budget
        for chosen in np.unique(words[positions]) if counts.min(initial=64) <= budget else ():
            assert set(np.flatnonzero(words == chosen)) <= set(positions)
        filled.append((len(positions), budget))
    masked_tokens, budgets = np.sum(filled, axis=0)
    assert masked_tokens > 0.98 * budgets


def words_of(ids, mask) -> np.ndarray:
    """Returns the number of the word that each token of a row is a piece of, -1 for none."""
    word, words = -1, np.full(len(ids), -1)
    for place, token in enumerate(ids):
        if mask[place] and token not in (CLS, SEP):
            word += bool(STARTS[token]) or words[place - 1] < 0
            words[place] = word
    return words


def short_rows(rows: int, length: int, longest: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns rows of words of 1 to `longest` pieces, between [CLS] and [SEP]."""
    generator = np.random.default_rng(0)
    ids = np.full((rows, length), SEP)
    ids[:, 0] = CLS
    for row in ids:
        sizes = generator.integers(1, longest + 1, length)
        pieces = np.concatenate([[4] + [6] * (size - 1) for size in sizes])  # 6 continues a word
        row[1:-1] = pieces[: length - 2]
    return ids, np.ones_like(ids)


def test_a_budget_is_filled_with_the_next_words_that_fit():
    ids, mask = short_rows(1024, 16, 3)
    found = masked(jnp.asarray(ids), jnp.asarray(mask), whole_word=True)
    chosen = np.asarray(found.weights) > 0
    budget, full = 2, []  # of 14 tokens
    for row, positions in enumerate(np.asarray(found.positions)):
        words = words_of(ids[row], mask[row])
        counts = np.bincount(words[words >= 0])
        positions = positions[chosen[row]]
        assert len(set(positions)) == len(positions) <= budget
        if counts.min() <= budget:
            assert len(positions) and (words[positions] >= 0).all()
            for word in np.unique(words[positions]):
                assert set(np.flatnonzero(words == word)) <= set(positions)
        left = budget - len(positions)
        others = np.delete(counts, np.unique(words[positions]))
        assert not (others <= left).any()
        full.append(left == 0)
    assert np.mean(full) > 0.9


def test_words_longer_than_the_budget_still_give_a_token():
    row = [CLS, 4, 6, 6, 6, 6, 6, 4, 6, 6, 6, 6, 6, 6, 6, SEP]
    ids = jnp.broadcast_to(jnp.asarray(row), (64, 16))
    found = masked(ids, jnp.ones_like(ids), whole_word=True)
    assert (np.asarray(found.weights).sum(-1) == 2).all()
    used = np.asarray(found.positions)[:, :2]
    assert {tuple(sorted(pair)) for pair in used.tolist()} == {(1, 2), (7, 8)}
    nothing = masked(ids, jnp.zeros_like(ids), whole_word=True)
    assert not np.asarray(nothing.weights).any()
    np.testing.assert_array_equal(nothing.input_ids, ids)


def small(**changes) -> BertConfig:
    shape = dict(vocab_size=SIZE, layers=2, hidden=32, heads=2, intermediate=64, positions=64)
    return BertConfig(**{**shape, "dropout": 0.0, "attention_dropout": 0.0, **changes})


def test_loss_is_the_mean_over_chosen_positions_and_padding_does_not_count():
    objective = make_mlm(config_lib.MaskedLanguageModel(), small(), VOCABULARY)
    params = tiny.weights(objective.init)
    ids, mask = random_batch(4, 32)
    batch = {
        "input_ids": ids,
        "input_mask": mask,
        "segment_ids": jnp.zeros_like(ids),
        "weight": jnp.asarray([1.0, 1.0, 1.0, 0.0]),
    }
    prepared = jax.jit(objective.prepare)(batch, jax.random.key(5))
    sums = jax.jit(objective.sums)
    total, count = sums(params, prepared, None)["mlm_loss"]
    assert count == np.asarray(prepared["prediction_weights"])[:3].sum()
    # At initialisation every token is about equally likely: log(1000) = 6.91 nats.
    assert total / count == pytest.approx(np.log(SIZE), abs=0.1)

    wider = {
        name: jnp.pad(values, ((0, 0), (0, 8)))
        if values.ndim == 2 and name != "positions"
        else values
        for name, values in prepared.items()
    }
    wider["prediction_weights"], wider["targets"] = (
        prepared["prediction_weights"],
        prepared["targets"],
    )
    again, _ = sums(params, wider, None)["mlm_loss"]
    assert again == pytest.approx(float(total), rel=1e-5)


def test_without_next_sentences_there_is_no_head_for_them_and_all_else_is_the_same():
    alone, both = (
        make_mlm(config_lib.MaskedLanguageModel(next_sentence=also), small(), VOCABULARY)
        for also in (False, True)
    )
    params = jax.jit(both.init)(jax.random.key(1))
    own = {"bert": {**params["bert"]}, "mlm": params["mlm"]}
    assert "nsp" in params and own["bert"].pop("pooler")
    jax.tree.map(np.testing.assert_array_equal, jax.jit(alone.init)(jax.random.key(1)), own)
    ids, mask = random_batch(4, 16)
    batch = {"input_ids": ids, "input_mask": mask, "segment_ids": jnp.zeros_like(ids)}
    batch |= {"weight": jnp.ones(4), "next_sentence": jnp.zeros(4, jnp.int32)}
    prepared = jax.jit(alone.prepare)(batch, jax.random.key(5))
    found = jax.jit(alone.sums)(own, prepared, None)
    assert set(found) == {"mlm_loss", "mlm_accuracy"}
    expected, _ = jax.jit(both.sums)(params, prepared, None)["mlm_loss"]
    assert found["mlm_loss"][0] == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("whole_word", [False, True])
def test_masks_of_a_scored_set_follow_from_its_rows_alone(whole_word):
    ids, mask = map(np.asarray, random_batch(16, 16))
    settings = config_lib.MaskedLanguageModel(whole_word=whole_word)
    objective = make_mlm(settings, small(), VOCABULARY)

    @jax.jit
    def step(params, batch, key):
        made = objective.prepare(batch, key)
        chosen = made["prediction_weights"] * made["positions"]
        of_row = {"chosen": chosen.sum(-1), "seen": (made["input_ids"] % 97).sum(-1)}
        scale = batch["row"] + 1
        return {name: (jnp.sum(scale * value), 1.0) for name, value in of_row.items()}, None

    found = []
    for order, batch, padding in ((range(16), 16, 0), (range(15, -1, -1), 8, 0), (range(16), 8, 8)):
        numbers = np.asarray(order).reshape(-1, batch)
        batches = (
            {
                "input_ids": np.pad(ids[rows], ((0, 0), (0, padding))),
                "input_mask": np.pad(mask[rows], ((0, 0), (0, padding))),
                "weight": np.ones(batch, np.float32),
                "row": rows,
            }
            for rows in numbers
        )
        mesh = mesh_for(config_lib.Run())
        metrics = evaluate(step, None, batches, mesh, terms={}, task=None).metrics
        found.append({name: metrics[name] * len(numbers) for name in ("chosen", "seen")})
    assert found[0] == found[1] == found[2]
