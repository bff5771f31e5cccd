"""Several transfer sets, mixed by weight, each with its own logit store."""

import numpy as np
import pydantic
import pytest

from pd_jax import config
from pd_jax.data.feed import batches as batches_lib
from pd_jax.errors import ConfigError, LogitsError, PdError
from pd_jax.stages.material import open_material, open_sets
from tests import tiny

SETS = ("near", "far")


@pytest.fixture
def folder(tmp_path):
    """Two transfer sets of 40 and 20 rows; a store's logits say set, row and teacher."""
    for number, name in enumerate(SETS):
        rows = 40 // (number + 1)
        made = tiny.dataset(tmp_path / name, rows=rows, seed=number, labelled=False)
        for teacher in (0, 1):
            values = np.stack([np.arange(rows) + 100 * number, np.full(rows, teacher)], axis=1)
            tiny.logit_store(
                tmp_path / f"{name}-{teacher}",
                made,
                values.astype(np.float32)[:, ::-1] if teacher else values.astype(np.float32),
                labels=tiny.LABELS[::-1] if teacher else tiny.LABELS,
                teacher=f"teacher {teacher}",
            )
    return tmp_path


def data(folder, *stores, **changes):
    given = {
        "records": tuple(str(folder / name) for name in SETS),
        "logits": tuple(str(folder / name) for name in stores),
        "batch": 50,
        "lengths": (16,),
    }
    return config.Data(**(given | changes))


def rows(settings):
    """Returns every row that comes in a thousand steps with what its teachers say."""
    material = open_material(settings)
    assert material.labels == tiny.LABELS
    batches = batches_lib.make_feed(
        material.datasets,
        settings,
        stores=material.stores,
        seed=0,
        first_step=0,
        steps=20,
        process_index=0,
        process_count=1,
        prefetch=1,
    )
    texts = [
        {one.gather(np.array([row])).tokens.tobytes(): row for row in range(len(one))}
        for one in material.datasets
    ]
    for batch in batches:
        filled = batch["input_mask"] > 0
        for ids, real, logits in zip(
            batch["input_ids"], filled, batch["teacher_logits"], strict=True
        ):
            key = ids[real].tobytes()
            number = int(key not in texts[0])
            yield number, texts[number][key], logits.tolist()


def test_each_row_has_the_logits_of_its_own_sets_store(folder):
    seen = list(rows(data(folder, "near-0", "far-0", weights=(1, 3))))
    assert all(logits == [row + 100 * number, 0] for number, row, logits in seen)
    assert 200 < sum(number == 0 for number, _, _ in seen) < 300
    assert len({(number, row) for number, row, _ in seen}) == 60


def test_teachers_are_averaged_within_their_set(folder):
    stores = ("near-0", "near-1", "far-0", "far-1")
    seen = list(rows(data(folder, *stores, weights=(1, 1), logit_weights=(3, 1))))
    # The second teacher's outputs, in its own order of labels, are the same numbers and a one.
    assert all(logits == [row + 100 * number, 0.25] for number, row, logits in seen)


def test_teachers_are_averaged_by_their_probabilities_where_asked_for(folder):
    stores = ("near-0", "near-1", "far-0", "far-1")
    asked = {"logit_weights": (3, 1), "logit_average": "probabilities"}
    seen = list(rows(data(folder, *stores, weights=(1, 1), **asked)))
    for number, row, logits in seen:
        first, second = ([row + 100 * number, teacher] for teacher in (0, 1))
        expected = (3 * softmax(first) + softmax(second)) / 4
        np.testing.assert_allclose(softmax(logits), expected, rtol=1e-5)


def softmax(logits) -> np.ndarray:
    odds = np.exp(np.asarray(logits) - np.max(logits))
    return odds / odds.sum()


def test_an_evaluation_sets_teachers_are_averaged_as_those_learnt_from(folder):
    learnt = data(folder, "near-0", "near-1", "far-0", "far-1", logit_weights=(3, 1))
    material = open_material(learnt)
    paths = {"dev": str(folder / "near")}

    def scored(*stores):
        asked = {"dev": tuple(str(folder / store) for store in stores)}
        return open_sets(paths, asked, material, learnt)["dev"]

    held = scored("near-0", "near-1")
    chosen = np.array([5, 7])
    ids = held.dataset.gather(chosen).example_ids
    # Of row n the first teacher says (n, 0), and the second, its labels set right, (n, 1).
    assert held.teachers.read(chosen, ids)["teacher_logits"].tolist() == [[5, 0.25], [7, 0.25]]
    alone = scored("near-1").teachers.read(chosen, ids)["teacher_logits"]
    assert alone.tolist() == [[5, 1], [7, 1]]
    with pytest.raises(ConfigError, match=r"logits.dev names 3 stores, but data.logit_weights has"):
        scored("near-0", "near-1", "near-1")


def test_stores_in_another_order_than_the_sets_are_refused(folder):
    settings = data(folder, "far-0", "near-0")
    with pytest.raises(LogitsError, match="far-0 has logits for a dataset other than .*near"):
        list(rows(settings))


def test_stores_that_do_not_go_with_the_sets_are_refused(folder):
    with pytest.raises(pydantic.ValidationError, match="as many stores for each of the 2 datasets"):
        data(folder, "near-0")
    with pytest.raises(pydantic.ValidationError, match="one number for each teacher"):
        data(folder, "near-0", "far-0", logit_weights=(1, 1))
    made = open_material(data(folder)).datasets[1]
    tiny.logit_store(
        folder / "values", made, np.zeros((20, 1), np.float32), labels=(), task="regression"
    )
    with pytest.raises(ConfigError, match="values is for task 'regression', .*near-0 for 'classi"):
        open_material(data(folder, "near-0", "values"))


def test_a_dataset_without_its_tokenizer_is_refused_before_the_training(folder):
    (folder / "near" / "tokenizer" / "vocab.txt").write_text("\n".join(tiny.SPECIAL) + "\nother\n")
    with pytest.raises(ConfigError, match="near/tokenizer is not the tokenizer that its dataset"):
        open_material(data(folder))
    (folder / "near" / "tokenizer" / "vocab.txt").unlink()
    with pytest.raises(PdError, match="near/tokenizer"):
        open_material(data(folder))
