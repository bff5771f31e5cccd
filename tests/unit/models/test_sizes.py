"""Parameter counts of the paper's grid, from a formula that knows nothing of the model's code."""

import jax
import pytest

from pd_jax import config as config_lib
from pd_jax.errors import ConfigError
from pd_jax.models import sizes
from pd_jax.models.heads import PretrainingModel, TaskModel
from pd_jax.objectives.objective import dummy_inputs

VOCABULARY = 30_522
# Turc et al. 2019, Table 1a, millions of parameters: rows are layers, columns hidden sizes.
TABLE_1A = {
    2: (4.4, 9.7, 22.8, 39.2),
    4: (4.8, 11.3, 29.1, 53.4),
    6: (5.2, 12.8, 35.4, 67.5),
    8: (5.6, 14.4, 41.7, 81.7),
    10: (6.0, 16.0, 48.0, 95.9),
    12: (6.4, 17.6, 54.3, 110.1),
}


def encoder_count(layers: int, hidden: int) -> int:
    """Embeddings, encoder and pooler: paper.md 1.3."""
    embeddings = (VOCABULARY + 512 + 2) * hidden + 2 * hidden
    return embeddings + layers * (12 * hidden**2 + 13 * hidden) + hidden**2 + hidden


def mlm_count(hidden: int) -> int:
    return hidden**2 + hidden + 2 * hidden + VOCABULARY


def count(module, *extra) -> int:
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *dummy_inputs(), *extra))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def shape_of(size: str) -> sizes.BertConfig:
    return sizes.bert_config(config_lib.Model(size=size), vocab_size=VOCABULARY)


@pytest.mark.parametrize("size", sizes.GRID)
def test_every_size_of_the_grid_has_the_papers_parameters_to_the_unit(size):
    shape = shape_of(size)
    encoder = encoder_count(shape.layers, shape.hidden)
    positions = jax.numpy.zeros((1, 1), "int32")
    assert count(TaskModel(shape, 3)) == encoder + 3 * shape.hidden + 3
    total = count(PretrainingModel(shape), positions)
    assert total == encoder + mlm_count(shape.hidden) + 2 * shape.hidden + 2
    printed = TABLE_1A[shape.layers][sizes.HIDDEN.index(shape.hidden)]
    # Two cells of the table are cut, not rounded (67.58 and 81.75 million).
    assert abs((encoder + mlm_count(shape.hidden)) / 1e6 - printed) < 0.1


@pytest.mark.parametrize(
    ("name", "encoder", "with_mlm_and_nsp"),
    [
        ("Tiny", 4_385_920, 4_433_468),
        ("Mini", 11_170_560, 11_267_900),
        ("Small", 28_763_648, 29_058_876),
        ("Medium", 41_373_184, 41_668_412),
        ("Base", 109_482_240, 110_106_428),
    ],
)
def test_released_names_have_the_released_counts(name, encoder, with_mlm_and_nsp):
    shape = shape_of(name)
    assert encoder_count(shape.layers, shape.hidden) == encoder
    assert count(PretrainingModel(shape), jax.numpy.zeros((1, 1), "int32")) == with_mlm_and_nsp
    assert shape.heads == shape.hidden // 64


def test_large_is_bert_large():
    shape = shape_of("large")
    assert (shape.layers, shape.hidden, shape.heads, shape.intermediate) == (24, 1024, 16, 4096)


def test_a_size_that_is_none_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match=r"model.size='Tini' is not a size.*did you mean 'tiny'"):
        sizes.canonical("Tini")
    with pytest.raises(ConfigError, match="100 does not divide into 3 heads"):
        sizes.bert_config(config_lib.Model(size="L2_H100", heads=3), vocab_size=10)
