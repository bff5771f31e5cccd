"""Exports: each is run by the program it is for, and held to what the model computes here."""

import json
import pathlib
import pwd
import shutil
from typing import Any

import jax
import numpy as np
import pytest
import safetensors.numpy as safetensors_numpy

from pd_jax import config as config_lib
from pd_jax.data.tokenizers.tokenizer import load_tokenizer
from pd_jax.errors import ConfigError, WeightsError
from pd_jax.models.export import onnx_graph, programs, stablehlo, write
from pd_jax.models.export.forward import difference, make_forward, probes
from pd_jax.models.heads import PretrainingModel, TaskModel
from pd_jax.models.sizes import BertConfig, bert_config
from pd_jax.models.weights import hf
from pd_jax.stages import model_card
from pd_jax.tools import export, import_weights
from tests import tiny

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
PIECES += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"] + ["good", "film", "."]
IDS = np.zeros((1, 4), np.int32)


def make_model(kind: str, config: BertConfig) -> hf.SavedModel:
    """Returns a model whose weights are five times BERT's first ones, so that it is not linear."""
    if kind == "task":
        made = tiny.weights(TaskModel(config, 3).init, IDS, IDS, IDS)["params"]
    else:
        made = tiny.weights(PretrainingModel(config).init, IDS, IDS, IDS, IDS)["params"]
    made = jax.tree.map(lambda leaf: np.asarray(leaf) * (5 if leaf.ndim > 1 else 1), made)
    if kind == "encoder":
        made = {"bert": made["bert"]}
    if kind == "masked":  # as a BertForMaskedLM of transformers, without a pooler
        bert = {name: part for name, part in made["bert"].items() if name != "pooler"}
        made = {"bert": bert, "mlm": made["mlm"]}
    labels = ("no", "perhaps", "yes") if kind == "task" else ()
    task = "classification" if kind == "task" else None
    digest = hf.fingerprint(made, config, labels=labels, task=task)
    return hf.SavedModel(config, made, labels, task, digest)


def small(gelu: str = "exact") -> BertConfig:
    return BertConfig(
        vocab_size=len(PIECES),
        layers=2,
        hidden=16,
        heads=4,
        intermediate=24,
        positions=64,
        gelu=gelu,
    )


@pytest.fixture
def vocabulary(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "vocab.txt"
    path.write_text("".join(f"{piece}\n" for piece in PIECES))
    return path


@pytest.fixture(params=["task", "pretrained", "masked", "encoder"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def folder(tmp_path: pathlib.Path, vocabulary: pathlib.Path) -> pathlib.Path:
    """Returns the folder of a finished training stage's model."""
    model, stage = make_model("task", small()), tmp_path / "stages" / "student-0123"
    tokenizer = load_tokenizer(vocabulary)
    hf.save(
        stage / "model",
        model.params,
        model.config,
        labels=model.labels,
        task=model.task,
        add=tokenizer.save,
    )
    done = {"steps": 1200, "examples": 38400, "parameters": 5000, "metrics": {}, "inputs": {}}
    evaluation = {"sets": {"dev": "@dev"}, "final": {}}
    mlm = {
        "kind": "train",
        "model": {"size": "L2_H16"},
        "objective": {"kind": "mlm"},
        "evaluation": evaluation,
    }
    student = {
        **mlm,
        "objective": {"kind": "distill"},
        "init": {"source": "@pretrained"},
        "data": {"records": ["@transfer"], "logits": "@labels"},
        "seed": 7,
    }
    teacher = {**mlm, "objective": {"kind": "classify"}}
    records = {"kind": "records", "source": {"path": ["/home/me/private/reviews.txt"]}}
    inputs = {"pretrained": "1", "transfer": "2", "labels": "3", "dev": "9"}
    scores = {"dev/accuracy": 0.912345, "train/loss": 0.5}
    for name, config, more in (
        ("student-0123", student, {"metrics": scores, "inputs": inputs}),
        ("pretrained-1", mlm, {}),
        ("transfer-2", records, {}),
        ("labels-3", {"kind": "label", "teacher": "@teacher"}, {"inputs": {"teacher": "4"}}),
        ("teacher-4", teacher, {"metrics": {"dev/accuracy": 0.95}}),
    ):
        (stage.parent / name).mkdir(exist_ok=True)
        (stage.parent / name / "config.json").write_text(json.dumps(config))
        (stage.parent / name / "done.json").write_text(json.dumps({**done, **more}))
    (stage / "versions.json").write_text(json.dumps({"jax": "0.10.2", "commit": None}))
    return stage / "model"


def largest(model: hf.SavedModel, program: Any) -> float:
    forward = jax.jit(make_forward(model.config, model.params))
    found = difference(model.config, forward, program)
    assert found.scale > 0.1
    return found.largest / max(1.0, found.scale)


# ---- ONNX -------------------------------------------------------------------------------------


@pytest.mark.parametrize("gelu", ["exact", "tanh"])
def test_the_onnx_graph_computes_the_model(tmp_path: pathlib.Path, kind: str, gelu: str) -> None:
    pytest.importorskip("onnxruntime")
    model = make_model(kind, small(gelu))
    path = write.epath.Path(tmp_path) / "model.onnx"
    path.write_bytes(onnx_graph.build(model.config, model.params).SerializeToString())
    assert largest(model, programs.onnx_program(path.read_bytes())) < 1e-5


def test_onnx_holds_each_table_once(tmp_path: pathlib.Path) -> None:
    """The tied decoder is a transposition in the graph, not a second copy of the largest tensor."""
    pytest.importorskip("onnx")
    model = make_model("pretrained", small())
    size = len(onnx_graph.build(model.config, model.params).SerializeToString())
    bytes_of_weights = 4 * sum(leaf.size for leaf in jax.tree.leaves(model.params))
    assert bytes_of_weights < size < bytes_of_weights + 20_000


def test_padding_does_not_reach_the_onnx_outputs(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("onnxruntime")
    model = make_model("task", small())
    path = write.epath.Path(tmp_path) / "model.onnx"
    path.write_bytes(onnx_graph.build(model.config, model.params).SerializeToString())
    run = programs.onnx_program(path.read_bytes())
    ids = np.array([[2, 9, 10, 3]])
    plain = run(ids, ids * 0, ids * 0 + 1)["logits"]
    padded = np.pad(ids, ((0, 0), (0, 5)), constant_values=11)
    mask = np.array([[1, 1, 1, 1, 0, 0, 0, 0, 0]])
    np.testing.assert_allclose(run(padded, padded * 0, mask)["logits"], plain, atol=1e-6)


def test_int8_is_a_quarter_of_the_size_and_close(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("onnxruntime")
    config = bert_config(config_lib.Model(size="Tiny", positions=64), vocab_size=2000)
    model = make_model("task", config)
    exact = onnx_graph.build(config, model.params).SerializeToString()
    target = write.epath.Path(tmp_path) / "int8.onnx"
    target.write_bytes(onnx_graph.quantise(exact))
    assert target.stat().length < 0.3 * len(exact)
    error = largest(model, programs.onnx_program(target.read_bytes()))
    assert 1e-6 < error < 0.1


# ---- StableHLO --------------------------------------------------------------------------------


def test_stablehlo_computes_the_model_at_any_batch_and_length(
    tmp_path: pathlib.Path, kind: str
) -> None:
    model = make_model(kind, small())
    path = write.epath.Path(tmp_path) / "model.stablehlo"
    path.write_bytes(stablehlo.serialise(model.config, model.params))
    assert stablehlo.load(path.read_bytes()).platforms == stablehlo.PLATFORMS
    assert largest(model, programs.stablehlo_program(path)) < 1e-6


def test_stablehlo_asks_for_float32_on_any_hardware(kind: str) -> None:
    model = make_model(kind, small())
    text = stablehlo.load(stablehlo.serialise(model.config, model.params)).mlir_module()
    products = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
    assert products and all(line.count("HIGHEST") == 2 for line in products)


# ---- the whole folder -------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["hf", "onnx", "stablehlo"])
def test_the_command_writes_compares_and_tells(
    folder: pathlib.Path,
    format: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if format == "stablehlo":  # as in a container whose user has no name
        monkeypatch.setattr(pwd, "getpwuid", lambda uid: {}[uid])
    for package in {"hf": ("torch", "transformers"), "onnx": ("onnxruntime",)}.get(format, ()):
        pytest.importorskip(package)
    output = folder.parents[2] / "out"
    arguments = ["--model", str(folder), "--output", str(output), "--format", format]
    assert export.main([*arguments, "--license", "apache-2.0", "--name", "My model"]) == 0
    told = capsys.readouterr()
    assert f"exporting {folder} as {format} to {output}\n" in told.err
    printed = told.out
    assert "differ from ours by at most" in printed and "one text of 64 tokens takes" in printed
    assert printed.splitlines()[-1].startswith(f"exported to {output}: ")
    text = (output / "README.md").read_text()
    for part in (
        "license: apache-2.0",
        f"library_name: {dict(hf='transformers', onnx='onnx', stablehlo='jax')[format]}",
        "# My model",
        "no, perhaps, yes (classification)",
        "distillation: soft cross-entropy",
        "First weights: `pretrained`: L2_H16, 5,000 parameters, masked language modelling",
        "Data: `transfer`: 38,400 rows of reviews.txt",
        "Teacher: `teacher`: L2_H16, 5,000 parameters, supervised training on labels, "
        "dev/accuracy 0.95",
        "Steps: 1,200, examples: 38,400, seed: 7",
        "One run, seed 7.",
        "| dev/accuracy | 0.9123 |",
        "Made with jax 0.10.2.",
        "differ from ours by at most",
    ):
        assert part in text, part
    assert "train/loss" not in text and "/home/me" not in text
    assert json.loads((output / "config.json").read_text())["pad_token_id"] == 0
    names = {item.name for item in output.iterdir()}
    assert {"config.json", "vocab.txt", "tokenizer.json", "README.md"} <= names
    assert not [item for item in output.parent.iterdir() if item.name.startswith(".")]


def test_an_exported_folder_runs_in_transformers_as_here(
    folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """Text to probabilities by transformers' own pipeline parts, against ours from the ids on."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    output = tmp_path / "out"
    assert export.main(["--model", str(folder), "--output", str(output)]) == 0
    texts = ["good film.", "a bad, bad film", "zzz"]
    inputs = transformers.AutoTokenizer.from_pretrained(output)(
        texts, padding=True, return_tensors="pt"
    )
    task = transformers.AutoModelForSequenceClassification.from_pretrained(output).eval()
    assert task.config.id2label == {0: "no", 1: "perhaps", 2: "yes"}
    assert task.config.problem_type == "single_label_classification"
    with torch.no_grad():
        theirs = task(**inputs).logits.numpy()
    tokenizer = load_tokenizer(output)
    saved = hf.load(output)
    forward = make_forward(saved.config, saved.params)
    for row, ids in enumerate(tokenizer.encode(texts)):
        framed = np.array([[tokenizer.cls_id, *ids, tokenizer.sep_id]])
        ours = forward(framed, framed * 0, framed * 0 + 1)["logits"][0]
        np.testing.assert_allclose(ours, theirs[row], atol=1e-5)


@pytest.mark.parametrize(
    ("format", "pooler"), [("hf", False), ("hf", True), ("onnx", False), ("stablehlo", False)]
)
def test_a_masked_language_model_of_transformers_is_exported(
    tmp_path: pathlib.Path, vocabulary: pathlib.Path, format: str, pooler: bool
) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("onnxruntime")
    size = {"vocab_size": len(PIECES), "hidden_size": 16, "num_hidden_layers": 2}
    size |= {"num_attention_heads": 4, "intermediate_size": 24, "max_position_embeddings": 64}
    theirs = transformers.BertForMaskedLM(transformers.BertConfig(**size, initializer_range=0.2))
    theirs.save_pretrained(tmp_path / "model")
    if pooler:  # as transformers saved it until 2020
        path = tmp_path / "model" / "model.safetensors"
        more = {"weight": np.zeros((16, 16), np.float32), "bias": np.zeros(16, np.float32)}
        more = {f"bert.pooler.dense.{name}": value for name, value in more.items()}
        path.write_bytes(safetensors_numpy.save({**safetensors_numpy.load_file(path), **more}))
    load_tokenizer(vocabulary).save(tmp_path / "model")
    output = tmp_path / "out"
    arguments = ["--model", str(tmp_path / "model"), "--output", str(output), "--format", format]
    assert export.main(arguments) == 0
    card = (output / "README.md").read_text()
    assert "pipeline_tag: fill-mask" in card
    if format == "hf":  # the card is of what was written, without a pooler
        assert f"Fingerprint: `{hf.load(output).fingerprint}`" in card
    if not pooler:
        program = programs.transformers_program(write.epath.Path(tmp_path) / "model")
        assert largest(hf.load(tmp_path / "model"), program) < 1e-5


@pytest.mark.parametrize("kind", ["pretrained", "masked"])
def test_a_pretrained_folder_fills_masks_in_transformers(tmp_path: pathlib.Path, kind: str) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = make_model(kind, small())
    hf.save(tmp_path / "m", model.params, model.config)
    masked = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "m").eval()
    ids, segments, mask = list(probes(model.config))[-1]
    with torch.no_grad():
        theirs = masked(
            input_ids=torch.from_numpy(ids),
            token_type_ids=torch.from_numpy(segments),
            attention_mask=torch.from_numpy(mask),
        ).logits.numpy()
    ours = make_forward(model.config, model.params)(ids, segments, mask)["logits"]
    np.testing.assert_allclose(ours[mask > 0], theirs[mask > 0], atol=1e-5)


# ---- what is refused --------------------------------------------------------------------------


def test_an_export_that_computes_something_else_is_not_written(
    folder: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    build = onnx_graph.build

    def wrong(config: BertConfig, params: Any) -> Any:
        classifier = {**params["classifier"], "bias": params["classifier"]["bias"] + 1e-3}
        return build(config, {**params, "classifier": classifier})

    monkeypatch.setattr(onnx_graph, "build", wrong)
    arguments = ["--model", str(folder), "--output", str(tmp_path / "out"), "--format", "onnx"]
    with pytest.raises(WeightsError, match="model.onnx does not compute what the model does"):
        export.main(arguments)
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_not_finite_is_no_rounding() -> None:
    model = make_model("task", small())
    forward = make_forward(model.config, model.params)
    for spoilt in (np.nan, np.inf):

        def program(*inputs: Any, spoilt: float = spoilt) -> dict[str, np.ndarray]:
            logits = np.array(forward(*inputs)["logits"])
            logits[0, 0] = spoilt
            return {"logits": logits}

        found = difference(model.config, forward, program)
        assert found.largest == np.inf
        assert not found.fits(np.inf)
        assert not difference(model.config, program, program).fits(1e-5)


def test_an_output_of_another_shape_is_not_stretched_to_ours() -> None:
    model = make_model("task", small())

    def forward(*inputs: Any) -> dict[str, np.ndarray]:
        return {"logits": np.ones((len(inputs[0]), 3))}

    def narrow(*inputs: Any) -> dict[str, np.ndarray]:
        return {"logits": np.ones((len(inputs[0]), 1))}

    with pytest.raises(WeightsError, match=r"gives logits of shape \[2, 1\] where .* \[2, 3\]"):
        difference(model.config, forward, narrow)


def test_a_tokenizer_larger_than_the_model_is_refused(
    folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    (folder / "tokenizer.json").unlink()
    with (folder / "vocab.txt").open("a") as stream:
        stream.write("more\n")
    with pytest.raises(WeightsError, match="the tokenizer has 61 entries, but the model has 60"):
        export.main(["--model", str(folder), "--output", str(tmp_path / "out")])


def test_models_without_a_part_are_refused(tmp_path: pathlib.Path) -> None:
    params = make_model("pretrained", small()).params
    half = {name: params[name] for name in ("bert", "nsp")}
    bare = {"bert": make_model("masked", small()).params["bert"]}
    for part, name in ((half, "bert, nsp"), (bare, "bert"), ({**bare, **half}, "bert, nsp")):
        with pytest.raises(WeightsError, match=f"a model of {name} cannot be exported"):
            make_forward(small(), part)


def test_an_export_takes_no_models_place(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    other = tmp_path / "other"
    hf.save(other, make_model("task", small()).params, small())
    foreign = tmp_path / "foreign"  # as downloaded, with a card of its own
    shutil.copytree(other, foreign)
    (foreign / "README.md").write_text("# Another's model")
    config = json.loads((foreign / "config.json").read_text())
    del config["pd_jax_version"]
    (foreign / "config.json").write_text(json.dumps(config))
    for output, error, message in (
        (folder, ConfigError, "is the model that is read; name another folder"),
        (folder / ".." / folder.name, ConfigError, "is the model that is read"),
        (other, WeightsError, "is not a folder of the kind to be written"),
        (foreign, WeightsError, "is not a folder of the kind to be written"),
    ):
        for kind in ("hf", "stablehlo"):
            arguments = ["--model", str(folder), "--output", str(output), "--format", kind]
            with pytest.raises(error, match=message):
                export.main(arguments)
    assert hf.load(folder).labels and hf.load(other).params and hf.load(foreign).params
    with pytest.raises(WeightsError, match="is not a folder of the kind to be written"):
        import_weights.main(["--source", str(folder), "--output", str(foreign)])
    for _ in range(2):  # an older export is replaced
        assert export.main(["--model", str(folder), "--output", str(tmp_path / "out")]) == 0


def test_8_bit_weights_are_to_be_scored(
    folder: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    arguments = ["--model", str(folder), "--output", str(tmp_path / "out"), "--format", "onnx"]
    assert export.main([*arguments, "--int8"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert f"pd_jax.tools.compare --model int8={folder} --programs jax onnx_int8 --rec" in last


def test_int8_is_for_onnx_only(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConfigError, match="int8 works with format='onnx' only, not with 'hf'"):
        export.main(["--model", str(folder), "--output", str(tmp_path / "out"), "--int8"])


def test_a_folder_by_itself_has_no_run_to_tell_of(tmp_path: pathlib.Path) -> None:
    (tmp_path / "model").mkdir()
    assert model_card.read_run(write.epath.Path(tmp_path) / "model") is None


@pytest.mark.parametrize(
    ("kind", "tag", "loader", "output"),
    [
        ("task", "text-classification", "AutoModelForSequenceClassification", "logits"),
        ("pretrained", "fill-mask", "AutoModelForMaskedLM", "logits"),
        ("encoder", "feature-extraction", "AutoModel", "last_hidden_state"),
    ],
)
def test_the_card_loads_no_head_that_the_model_lacks(
    kind: str, tag: str, loader: str, output: str
) -> None:
    model = make_model(kind, small())
    made = {
        format: model_card.write_card(model, None, name="m", format=format, licence=None, checks=())
        for format in ("hf", "onnx", "stablehlo")
    }
    assert all(f"pipeline_tag: {tag}\n" in text for text in made.values())
    assert f"import {loader}, AutoTokenizer" in made["hf"]
    assert f'model = {loader}.from_pretrained("FOLDER")' in made["hf"]
    assert f"{output} = model(**inputs).{output}" in made["hf"]
    assert f"{output} = session.run" in made["onnx"]
    assert f'{output} = outputs["{output}"]' in made["stablehlo"]
