"""First weights from another model: loaded, fresh on purpose, or refused."""

import dataclasses
import pathlib
from typing import Any

import jax
import numpy as np
import pytest
from etils import epath

from pd_jax import config as config_lib
from pd_jax.data.tokenizers.tokenizer import load_tokenizer
from pd_jax.errors import ConfigError, WeightsError
from pd_jax.models.heads import PretrainingModel, TaskModel
from pd_jax.models.initialise import choose_layers, initialise
from pd_jax.models.sizes import BertConfig
from pd_jax.models.weights import hf, layout
from pd_jax.stages.context import Context
from pd_jax.stages.train import run_together, run_train
from tests import tiny

DEEP = BertConfig(vocab_size=20, layers=4, hidden=8, heads=2, intermediate=12, positions=10)
SHALLOW = dataclasses.replace(DEEP, layers=2)
IDS = np.zeros((1, 4), np.int32)


def fresh(config: BertConfig, outputs: int | None = None) -> dict[str, Any]:
    """Returns the shapes of a task model, or without `outputs` of a pre-training model."""
    key = jax.random.key(1)
    if outputs is None:
        made = jax.eval_shape(PretrainingModel(config).init, key, IDS, IDS, IDS, IDS)
    else:
        made = jax.eval_shape(TaskModel(config, outputs).init, key, IDS, IDS, IDS)
    return made["params"]


def saved(
    config: BertConfig, outputs: int | None = None, labels: tuple[str, ...] = ()
) -> hf.SavedModel:
    """Returns a model whose every tensor is filled with a number of its own."""
    flat = layout.flatten(fresh(config, outputs))
    flat = {
        path: np.full(leaf.shape, number, np.float32)
        for number, (path, leaf) in enumerate(flat.items())
    }
    return hf.SavedModel(config, layout.nest(flat), labels, None, "0" * 32)


def begin(
    target: dict[str, Any],
    source: hf.SavedModel,
    *,
    model: BertConfig,
    labels: Any = (),
    **init: Any,
) -> Any:
    choice = config_lib.Init(source="somewhere", **init)
    return initialise(target, source, choice, model=model, labels=labels)


def number(tree: dict[str, Any], path: str) -> float:
    leaf = layout.flatten(tree)[path]
    assert isinstance(leaf, np.ndarray) and leaf.dtype == np.float32
    return leaf.flat[0]


def test_a_pretrained_model_is_taken_whole_and_the_task_head_is_fresh() -> None:
    source, target = saved(DEEP), fresh(DEEP, 3)
    params, report = begin(target, source, model=DEEP)
    assert set(report.fresh) == {"classifier/kernel", "classifier/bias"}
    assert all(path.split("/")[0] in ("mlm", "nsp") for path in report.unused)
    assert len(report.unused) == 7
    assert params["classifier"]["kernel"] is target["classifier"]["kernel"]
    encoder = {path for path in layout.flatten(target) if path.startswith("bert/")}
    assert set(report.loaded) == encoder
    assert all(number(params, path) == number(source.params, path) for path in encoder)
    text = report.text()
    assert "loaded  bert/pooler/bias\n" in text
    assert "fresh   classifier/kernel\n" in text
    assert "unused  mlm/bias (of the source)\n" in text
    assert len(text.splitlines()) == len(layout.flatten(target)) + 7


def test_pretraining_continues_with_both_heads() -> None:
    _, report = begin(fresh(DEEP), saved(DEEP), model=DEEP)
    assert report.fresh == report.unused == ()


def test_pretraining_from_a_task_model_has_fresh_heads() -> None:
    _, report = begin(fresh(DEEP), saved(DEEP, 3), model=DEEP)
    assert {path.split("/")[0] for path in report.fresh} == {"mlm", "nsp"}
    assert set(report.unused) == {"classifier/kernel", "classifier/bias"}


@pytest.mark.parametrize(
    ("choice", "origins"),
    [("bottom", (0, 1)), ("top", (2, 3)), ("every_other", (0, 2)), ((3, 3), (3, 3))],
)
def test_layers_are_chosen(choice: Any, origins: tuple[int, int]) -> None:
    source = saved(DEEP)
    params, report = begin(fresh(SHALLOW, 2), source, model=SHALLOW, layers=choice)
    for layer, origin in enumerate(origins):
        path = "attention/query/kernel"
        ours = number(params, f"bert/layer_{layer}/{path}")
        assert ours == number(source.params, f"bert/layer_{origin}/{path}")
    unused = {path.split("/")[1] for path in report.unused if path.startswith("bert/layer")}
    assert unused == {f"layer_{index}" for index in range(4) if index not in origins}


def test_eleven_layers_do_not_pass_for_one() -> None:
    twelve = dataclasses.replace(DEEP, layers=12)
    one = dataclasses.replace(DEEP, layers=1)
    source = saved(twelve)
    params, _ = begin(fresh(one, 2), source, model=one, layers=(11,))
    expected = number(source.params, "bert/layer_11/mlp_in/bias")
    assert number(params, "bert/layer_0/mlp_in/bias") == expected
    assert expected != number(source.params, "bert/layer_1/mlp_in/bias")


def test_layer_numbers_are_those_of_the_docstring() -> None:
    assert choose_layers("every_other", 12, 4) == (0, 3, 6, 9)
    assert choose_layers("every_other", 12, 12) == tuple(range(12))
    assert choose_layers("all", 3, 3) == (0, 1, 2)


@pytest.mark.parametrize(
    ("choice", "deep", "shallow"),
    [
        ("all", 12, 6),
        ("every_other", 12, 5),
        ("bottom", 2, 4),
        ("top", 2, 4),
        ((0, 1, 2), 12, 2),
        ((0, 12), 12, 2),
        ((-1, 0), 12, 2),
    ],
)
def test_layer_counts_that_do_not_fit_are_refused(choice: Any, deep: int, shallow: int) -> None:
    with pytest.raises(WeightsError, match=r"init\.layers="):
        choose_layers(choice, deep, shallow)


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        ("word_embeddings", {"word/embedding"}),
        (
            "embeddings",
            {
                "word/embedding",
                "position/embedding",
                "token_type/embedding",
                "norm/scale",
                "norm/bias",
            },
        ),
    ],
)
def test_a_scope_takes_its_part_alone(scope: str, expected: set[str]) -> None:
    other = dataclasses.replace(DEEP, layers=3, heads=4, gelu="tanh", intermediate=20)
    params, report = begin(fresh(other, 2), saved(DEEP), model=other, scope=scope)
    assert set(report.loaded) == {f"bert/embeddings/{path}" for path in expected}
    assert len(report.fresh) == len(layout.flatten(params)) - len(expected)


def test_a_kept_head_needs_equal_labels() -> None:
    source = saved(DEEP, 3, ("no", "perhaps", "yes"))
    keep = {"model": DEEP, "head": "keep"}
    _, report = begin(fresh(DEEP, 3), source, labels=("no", "perhaps", "yes"), **keep)
    assert report.fresh == ()
    with pytest.raises(WeightsError, match="has labels no, perhaps, yes, but this task has yes"):
        begin(fresh(DEEP, 3), source, labels=("yes", "perhaps", "no"), **keep)
    with pytest.raises(WeightsError, match=r"classifier/bias has shape \(3,\).*head='fresh'"):
        begin(fresh(DEEP, 2), source, **keep)
    with pytest.raises(WeightsError, match="has no task head"):
        begin(fresh(DEEP, 3), saved(DEEP), **keep)


def test_a_source_without_pooler_leaves_the_pooler_fresh() -> None:
    source = saved(DEEP)
    del source.params["bert"]["pooler"], source.params["nsp"]
    _, report = begin(fresh(DEEP, 2), source, model=DEEP)
    pooler = {"bert/pooler/kernel", "bert/pooler/bias"}
    assert set(report.fresh) == pooler | {"classifier/kernel", "classifier/bias"}


def test_anything_else_that_is_missing_is_refused() -> None:
    source = saved(DEEP)
    del source.params["bert"]["layer_2"]["mlp_out"]["bias"]
    with pytest.raises(WeightsError, match="lacks bert/layer_2/mlp_out/bias"):
        begin(fresh(DEEP, 2), source, model=DEEP)
    source = saved(DEEP)
    del source.params["mlm"]["norm"]["scale"]
    with pytest.raises(WeightsError, match="lacks mlm/norm/scale"):
        begin(fresh(DEEP), source, model=DEEP)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 21}, "vocabulary has 20 entries, but this model's has 21"),
        ({"hidden": 4}, r"norm/bias has shape \(8,\) in the source and \(4,\)"),
        ({"positions": 9}, r"position/embedding has shape \(10, 8\) in the source and \(9, 8\)"),
        ({"intermediate": 16}, r"layer_0/mlp_in/bias has shape \(12,\) in the source and \(16,\)"),
        ({"heads": 4}, r"has 2 attention heads, but this model has 4; set model\.heads=2"),
    ],
)
def test_models_that_do_not_compute_alike_are_refused(
    changes: dict[str, Any], message: str
) -> None:
    model = dataclasses.replace(DEEP, **changes)
    with pytest.raises(WeightsError, match=message):
        begin(fresh(model, 2), saved(DEEP), model=model)


def test_rows_beyond_the_vocabulary_are_left_out_where_the_tokenizers_are_one() -> None:
    wide = dataclasses.replace(DEEP, vocab_size=24)
    source, choice = saved(wide), config_lib.Init(source="somewhere")
    params, report = initialise(fresh(DEEP), source, choice, model=DEEP, same_tokenizer=True)
    table = "bert/embeddings/word/embedding"
    np.testing.assert_array_equal(
        layout.flatten(params)[table], layout.flatten(source.params)[table][:20]
    )
    assert f"loaded  {table} from {table}[:20]\n" in report.text()
    assert "mlm/bias from mlm/bias[:20]" in report.text()
    assert report.fresh == report.unused == ()
    with pytest.raises(WeightsError, match="table has 4 unused rows beyond .* of 20 entries"):
        begin(fresh(DEEP), source, model=DEEP)


def test_loaded_leaves_are_numpy_and_fresh_ones_the_callers() -> None:
    target = jax.tree.map(lambda leaf: jax.numpy.ones(leaf.shape), fresh(DEEP, 2))
    params, _ = begin(target, saved(DEEP), model=DEEP)
    assert isinstance(params["bert"]["pooler"]["bias"], np.ndarray)
    assert params["classifier"]["bias"] is target["classifier"]["bias"]


def test_positions_begin_as_sinusoids_of_the_other_weights_power() -> None:
    config = dataclasses.replace(DEEP, positions=512, initializer_range=0.05)

    def first(kind: str) -> dict[str, np.ndarray]:
        model = PretrainingModel(dataclasses.replace(config, position_init=kind))
        params = model.init(jax.random.key(1), IDS, IDS, IDS, IDS)["params"]
        return {path: np.asarray(leaf) for path, leaf in layout.flatten(params).items()}

    drawn, waves = first("normal"), first("sinusoidal")
    (path,) = (path for path in drawn if "position" in str(path))
    # Hidden size 8: the third and fourth columns turn by 10,000 ** -(2 / 8) = 0.1 a position.
    np.testing.assert_allclose(
        waves[path][3, 2:4], 0.05 * 2**0.5 * np.array([np.sin(0.3), np.cos(0.3)]), rtol=1e-5
    )
    assert np.sqrt(np.mean(waves[path] ** 2)) == pytest.approx(0.05, rel=1e-3)
    assert all(np.array_equal(drawn[other], waves[other]) for other in drawn if other != path)


def test_a_stage_computes_as_the_model_it_begins_as(tmp_path: pathlib.Path) -> None:
    """Its table is four rows longer than the vocabulary of the tokenizer that both have."""
    made = load_tokenizer(tiny.dataset(tmp_path / "set", rows=16).folder / "tokenizer")
    released = BertConfig(
        68, layers=2, hidden=32, heads=2, intermediate=128, positions=16, gelu="tanh",
        norm_epsilon=1e-6,
    )  # fmt: skip
    params = tiny.weights(PretrainingModel(released).init, IDS, IDS, IDS, IDS)["params"]
    hf.save(tmp_path / "released", params, released, add=made.save)
    released_at = config_lib.Init(source=str(tmp_path / "released"))
    stage = tiny.stage(tmp_path / "set", init=released_at, length={"steps": 1})
    folder = epath.Path(tmp_path / "stage")
    folder.mkdir()
    context = Context("stage", folder, tiny.run_options())
    run_train(stage, context)
    config = hf.load_config(folder / "model")
    assert (config.gelu, config.norm_epsilon) == ("tanh", 1e-6)
    assert config.vocab_size == 64
    assert "word/embedding[:64]" in (folder / "parameters.txt").read_text()
    embeddings = dataclasses.replace(released_at, scope="embeddings")
    with pytest.raises(ConfigError, match="compute differently .*run them without --vmap"):
        run_together([stage, dataclasses.replace(stage, init=embeddings)], [context, context])
