"""Hugging Face folders: bit for bit there and back, and every fault named."""

import dataclasses
import json
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
import safetensors.numpy

from pd_jax.data.tokenizers.tokenizer import WordPiece
from pd_jax.errors import WeightsError
from pd_jax.models.heads import PretrainingModel, TaskModel
from pd_jax.models.sizes import BertConfig
from pd_jax.models.weights import hf, layout
from tests.fuzzing.models import split

CONFIG = BertConfig(vocab_size=40, layers=2, hidden=8, heads=2, intermediate=12, positions=10)
WORDS = "bert.embeddings.word_embeddings.weight"
Tensors = dict[str, np.ndarray]


def make_params(*heads: str, config: BertConfig = CONFIG, outputs: int = 3) -> dict[str, Any]:
    """Returns random weights, each tensor by a seed of its own."""
    wanted = [*layout.encoder(config), *layout.pooler(config)]
    if "mlm" in heads:
        wanted += layout.mlm(config)
    if "nsp" in heads:
        wanted += layout.nsp(config)
    if "classifier" in heads:
        wanted += layout.classifier(config, outputs)
    return layout.nest(
        {
            tensor.path: np.random.default_rng(seed).standard_normal(tensor.shape, np.float32)
            for seed, tensor in enumerate(wanted)
        }
    )


def edit(folder: pathlib.Path, change: Callable[[Tensors], None]) -> None:
    path = folder / "model.safetensors"
    tensors = safetensors.numpy.load(path.read_bytes())
    change(tensors)
    path.write_bytes(safetensors.numpy.save(tensors))


def edit_config(folder: pathlib.Path, **changes: Any) -> None:
    path = folder / "config.json"
    values = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not ...}))


def test_the_tokenizer_beside_a_model_tells_how_many_tokens_it_takes(tmp_path):
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"]
    made = WordPiece(pieces, lowercase=True)
    hf.save(tmp_path / "m", make_params("classifier"), CONFIG, add=made.save)
    settings = json.loads((tmp_path / "m" / "tokenizer_config.json").read_text())
    assert settings["model_max_length"] == CONFIG.positions
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "m")
    assert tokenizer.model_max_length == CONFIG.positions
    assert len(tokenizer("a " * 50, truncation=True)["input_ids"]) == CONFIG.positions


def test_a_models_config_tells_the_padding_of_the_tokenizer_beside_it(tmp_path):
    pieces = ["[CLS]", "[UNK]", "[SEP]", "[PAD]", "[MASK]", "a"]
    hf.save(
        tmp_path / "m",
        make_params("classifier"),
        CONFIG,
        add=WordPiece(pieces, lowercase=True).save,
    )
    assert json.loads((tmp_path / "m" / "config.json").read_text())["pad_token_id"] == 3
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModel.from_pretrained(tmp_path / "m")
    assert model.embeddings.word_embeddings.padding_idx == 3


@pytest.fixture
def pretrained(tmp_path: pathlib.Path) -> pathlib.Path:
    hf.save(tmp_path / "pretrained", make_params("mlm", "nsp"), CONFIG)
    return tmp_path / "pretrained"


@pytest.fixture
def classifier(tmp_path: pathlib.Path) -> pathlib.Path:
    labels, params = ("no", "perhaps", "yes"), make_params("classifier")
    hf.save(tmp_path / "task", params, CONFIG, labels=labels, task="classification")
    return tmp_path / "task"


@pytest.mark.parametrize("gelu", ["exact", "tanh"])
@pytest.mark.parametrize("heads", [(), ("mlm",), ("nsp",), ("mlm", "nsp"), ("classifier",)])
def test_a_saved_model_loads_bit_for_bit(
    tmp_path: pathlib.Path, heads: tuple[str, ...], gelu: str
) -> None:
    config = dataclasses.replace(CONFIG, gelu=gelu, dropout=0.2, token_types=3)
    params = make_params(*heads, config=config)
    digest = hf.save(tmp_path / "model", params, config)
    loaded = hf.load(tmp_path / "model")
    assert (loaded.config, loaded.fingerprint) == (config, digest)
    ours, theirs = layout.flatten(params), layout.flatten(loaded.params)
    assert set(ours) == set(theirs)
    assert all(ours[path].tobytes() == theirs[path].tobytes() for path in ours)
    assert [item.name for item in tmp_path.iterdir()] == ["model"]


def test_jax_arrays_are_saved_as_numpy_ones_are(tmp_path: pathlib.Path) -> None:
    params = make_params("mlm", "nsp")
    on_device = jax.tree.map(jax.numpy.asarray, params)
    assert hf.save(tmp_path / "a", params, CONFIG) == hf.save(tmp_path / "b", on_device, CONFIG)


@pytest.mark.parametrize("task", ["classification", "regression", "multilabel", None])
def test_labels_and_task_come_back(tmp_path: pathlib.Path, task: str | None) -> None:
    hf.save(tmp_path / "m", make_params("classifier"), CONFIG, labels=("b", "a", "c"), task=task)
    loaded = hf.load(tmp_path / "m")
    assert (loaded.labels, loaded.task) == (("b", "a", "c"), task)
    written = json.loads((tmp_path / "m" / "config.json").read_text())
    assert written["id2label"] == {"0": "b", "1": "a", "2": "c"}
    assert written["label2id"] == {"b": 0, "a": 1, "c": 2}


def test_unnamed_labels_are_told_to_transformers_and_come_back_unnamed(
    tmp_path: pathlib.Path,
) -> None:
    hf.save(tmp_path / "m", make_params("classifier", outputs=1), CONFIG, task="regression")
    written = json.loads((tmp_path / "m" / "config.json").read_text())
    assert written["id2label"] == {"0": "LABEL_0"}
    assert written["problem_type"] == "regression"
    assert hf.load(tmp_path / "m").labels == ()


def test_the_fingerprint_is_of_tensors_labels_and_shape_alone() -> None:
    def digest(params: dict[str, Any], config: BertConfig = CONFIG, labels: Any = ("a",)) -> str:
        return hf.fingerprint(params, config, labels=labels, task=None)

    params = make_params("classifier")
    first = digest(params)
    assert digest(params, dataclasses.replace(CONFIG, dtype="bfloat16", remat=True)) == first
    assert digest(params, dataclasses.replace(CONFIG, heads=4)) != first
    assert digest(params, labels=("b",)) != first
    bits = params["classifier"]["bias"].view(np.uint32)
    bits[1] ^= 1
    assert digest(params) != first


def test_a_folder_is_replaced_whole_or_stays(pretrained: pathlib.Path) -> None:
    before = {item.name: item.read_bytes() for item in pretrained.iterdir()}

    def fail(folder: Any) -> None:
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        hf.save(pretrained, make_params("classifier"), CONFIG, add=fail)
    assert {item.name: item.read_bytes() for item in pretrained.iterdir()} == before
    assert [item.name for item in pretrained.parent.iterdir()] == ["pretrained"]
    hf.save(
        pretrained,
        make_params("classifier"),
        CONFIG,
        add=lambda folder: (folder / "vocab.txt").write_text("x"),
    )
    assert sorted(item.name for item in pretrained.iterdir()) == [
        "config.json",
        "model.safetensors",
        "vocab.txt",
    ]
    assert set(hf.load(pretrained).params) == {"bert", "classifier"}


# ---- what other programs write ----------------------------------------------------------------


def test_old_names_bare_names_and_copies_are_read(pretrained: pathlib.Path) -> None:
    expected = hf.load(pretrained)

    def as_of_2019(tensors: Tensors) -> None:
        for name in [name for name in tensors if "LayerNorm" in name]:
            value = tensors.pop(name)
            tensors[name.replace("weight", "gamma").replace("Norm.bias", "Norm.beta")] = value
        tensors["bert.embeddings.position_ids"] = np.arange(10)[None]
        tensors["cls.predictions.decoder.weight"] = tensors[WORDS].copy()
        tensors["cls.predictions.decoder.bias"] = tensors.pop("cls.predictions.bias")

    edit(pretrained, as_of_2019)
    assert hf.load(pretrained).fingerprint == expected.fingerprint

    def bare(tensors: Tensors) -> None:
        for name in list(tensors):
            value = tensors.pop(name)
            if name.startswith("bert."):
                tensors[name.removeprefix("bert.")] = value

    edit(pretrained, bare)
    edit_config(pretrained, architectures=["BertModel"])
    assert set(hf.load(pretrained).params) == {"bert"}


def test_weights_in_several_files_are_read_by_their_index(pretrained: pathlib.Path) -> None:
    expected = hf.load(pretrained).fingerprint
    places = split(pretrained)
    assert hf.load(pretrained).fingerprint == expected
    index, first = pretrained / "model.safetensors.index.json", pretrained / "model-1.safetensors"
    lost, added = dict(places), {**places, "more": "model-1.safetensors"}
    del lost[WORDS]
    moved = {**places, WORDS: "model-2.safetensors"}
    assert places[WORDS] == "model-1.safetensors"
    for wrong, name in ((lost, WORDS), (added, "more"), (moved, WORDS)):
        index.write_text(json.dumps({"weight_map": wrong}))
        with pytest.raises(WeightsError, match=f"index.json and .* differ in where '{name}' is"):
            hf.load(pretrained)
    index.write_text(json.dumps({"weight_map": places}))
    content = first.read_bytes()
    first.write_bytes(content[:-1])
    with pytest.raises(WeightsError, match=r"model-1\.safetensors is damaged"):
        hf.load(pretrained)
    first.unlink()
    with pytest.raises(WeightsError, match=r"model-1\.safetensors is missing; download"):
        hf.load(pretrained)
    index.rename(pretrained / "pytorch_model.bin.index.json")
    with pytest.raises(WeightsError, match="several torch files, .* write it with save_pretrained"):
        hf.load(pretrained)


def test_half_precision_is_widened(pretrained: pathlib.Path) -> None:
    exact = hf.load(pretrained).params["bert"]["pooler"]["kernel"]
    edit(
        pretrained, lambda tensors: tensors.update({k: v.astype("<f2") for k, v in tensors.items()})
    )
    kernel = hf.load(pretrained).params["bert"]["pooler"]["kernel"]
    assert kernel.dtype == np.float32
    np.testing.assert_array_equal(kernel, exact.astype(np.float16))
    bfloat16 = jax.numpy.bfloat16
    edit(
        pretrained,
        lambda tensors: tensors.update({k: v.astype(bfloat16) for k, v in tensors.items()}),
    )
    kernel = hf.load(pretrained).params["bert"]["pooler"]["kernel"]
    np.testing.assert_array_equal(kernel, exact.astype(np.float16).astype(bfloat16))


def test_a_bare_encoder_may_lack_its_pooler(tmp_path: pathlib.Path) -> None:
    params = make_params()  # as a BertModel with add_pooling_layer=False
    del params["bert"]["pooler"]
    hf.save(tmp_path / "m", params, CONFIG)
    loaded = hf.load(tmp_path / "m")
    assert set(loaded.params) == {"bert"} and "pooler" not in loaded.params["bert"]
    params = make_params("classifier")
    del params["bert"]["pooler"]
    with pytest.raises(WeightsError, match="lacks bert/pooler/kernel"):
        hf.save(tmp_path / "task", params, CONFIG)


def test_a_masked_language_model_may_lack_its_pooler(pretrained: pathlib.Path) -> None:
    def without(tensors: Tensors) -> None:
        for name in [name for name in tensors if "pooler" in name or "relationship" in name]:
            del tensors[name]

    edit(pretrained, without)
    with pytest.raises(WeightsError, match=r"lacks bert\.pooler\.dense\.weight"):
        hf.load(pretrained)
    edit_config(pretrained, architectures=["BertForMaskedLM"])
    loaded = hf.load(pretrained)
    assert set(loaded.params) == {"bert", "mlm"} and "pooler" not in loaded.params["bert"]
    again = pretrained.parent / "again"
    hf.save(again, loaded.params, loaded.config)
    assert hf.load(again).fingerprint == loaded.fingerprint


# ---- what is refused --------------------------------------------------------------------------

KEY = "bert.encoder.layer.1.attention.self.key.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(KEY), f"lacks {KEY}"),
        (lambda t: t.update(extra=np.zeros(2, np.float32)), "unknown extra"),
        (lambda t: t.update({KEY: t[KEY][:4]}), rf"{KEY} of shape \(4, 8\), not \(8, 8\)"),
        (lambda t: t.update({WORDS: t[WORDS][:30]}), rf"{WORDS} of shape \(30, 8\), not \(40, 8\)"),
        (lambda t: t.update({KEY: t[KEY].astype(np.int32)}), f"{KEY} as int32"),
        (lambda t: t.update({KEY: t[KEY] * np.nan}), f"has NaN or infinity in {KEY}"),
        (lambda t: t.update({KEY: t[KEY] + np.inf}), f"has NaN or infinity in {KEY}"),
        (
            lambda t: t.update({"cls.predictions.decoder.weight": t[WORDS] + 1}),
            "decoder is tied",
        ),
        (lambda t: t.pop("cls.seq_relationship.bias"), r"lacks cls\.seq_relationship\.bias"),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    pretrained: pathlib.Path, change: Callable[[Tensors], Any], message: str
) -> None:
    edit(pretrained, change)
    with pytest.raises(WeightsError, match=message):
        hf.load(pretrained)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "roberta"}, "'roberta'"),
        ({"architectures": ["BertForTokenClassification"]}, "BertForTokenClassification"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type='relative_key'"),
        ({"hidden_act": "relu"}, "hidden_act='relu'"),
        ({"is_decoder": True}, "is_decoder=True"),
        ({"num_hidden_layers": ...}, "lacks num_hidden_layers"),
        ({"num_attention_heads": 3}, "3 heads"),
        ({"hidden_size": "8"}, "hidden_size='8'; it must be a whole number"),
        ({"vocab_size": True}, "vocab_size=True; it must be a whole number"),
        ({"num_hidden_layers": 3}, r"lacks bert\.encoder\.layer\.2"),
        ({"vocab_size": 41}, r"\(40, 8\), not \(41, 8\)"),
        ({"architectures": ["BertForSequenceClassification"]}, r"lacks classifier\.weight"),
    ],
)
def test_configs_that_do_not_fit_are_named(
    pretrained: pathlib.Path, changes: dict[str, Any], message: str
) -> None:
    edit_config(pretrained, **changes)
    with pytest.raises(WeightsError, match=message):
        hf.load(pretrained)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id2label": {"0": "a", "1": "b"}}, "2 labels for a classifier of 3 outputs"),
        ({"id2label": {"0": "a", "1": "b", "2": "a"}}, "several labels 'a'; give each its own nam"),
        ({"problem_type": "ranking"}, "problem_type='ranking'"),
    ],
)
def test_labels_that_do_not_fit_are_named(
    classifier: pathlib.Path, changes: dict[str, Any], message: str
) -> None:
    edit_config(classifier, **changes)
    with pytest.raises(WeightsError, match=message):
        hf.load(classifier)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_cut_file_is_refused_by_name(pretrained: pathlib.Path, share: float) -> None:
    path = pretrained / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(WeightsError, match=r"model\.safetensors is damaged"):
        hf.load(pretrained)


def test_the_folder_of_a_stage_leads_to_its_model(pretrained: pathlib.Path) -> None:
    stage = pretrained.parent / "pd-1f0c9a7e42bd"
    shutil.copytree(pretrained, stage / "model")
    (stage / "config.json").write_text('{"kind": "train"}')
    with pytest.raises(WeightsError, match=r"is the folder of a stage; name .*42bd/model$"):
        hf.load(stage)


def test_missing_files_are_named(pretrained: pathlib.Path) -> None:
    (pretrained / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match="has neither model.safetensors nor pytorch_model.bin"):
        hf.load(pretrained)
    (pretrained / "config.json").unlink()
    with pytest.raises(WeightsError, match=r"has no config\.json; name a folder with a BERT"):
        hf.load(pretrained)


def test_only_whole_models_are_saved(tmp_path: pathlib.Path) -> None:
    params = make_params("mlm", "nsp")
    del params["bert"]["layer_1"]["mlp_in"]["bias"]
    with pytest.raises(WeightsError, match="lacks bert/layer_1/mlp_in/bias"):
        hf.save(tmp_path / "m", params, CONFIG)
    with pytest.raises(WeightsError, match="no Hugging Face class"):
        hf.save(tmp_path / "m", make_params("mlm", "classifier"), CONFIG)
    with pytest.raises(WeightsError, match="2 labels were given for a classifier of 3 outputs"):
        hf.save(tmp_path / "m", make_params("classifier"), CONFIG, labels=("a", "b"))
    with pytest.raises(WeightsError, match="task 'ranking'"):
        hf.save(tmp_path / "m", make_params("classifier"), CONFIG, task="ranking")
    assert not list(tmp_path.iterdir())


# ---- the table of names -----------------------------------------------------------------------


def test_the_table_has_the_modules_parameters() -> None:
    ids = np.zeros((1, 4), np.int32)
    key = jax.random.key(0)
    for module, heads, extra in (
        (PretrainingModel(CONFIG), ("mlm", "nsp"), (ids,)),
        (TaskModel(CONFIG, 3), ("classifier",), ()),
    ):
        fresh = jax.eval_shape(module.init, key, ids, ids, ids, *extra)["params"]
        shapes = {path: leaf.shape for path, leaf in layout.flatten(fresh).items()}
        ours = layout.flatten(make_params(*heads))
        assert {path: leaf.shape for path, leaf in ours.items()} == shapes
