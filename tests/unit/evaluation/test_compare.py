"""Models side by side: scores worked out from the rows, programs that agree, and what is said."""

import dataclasses
import json
import pathlib
from typing import Any

import jax
import numpy as np
import pytest

from pd_jax import config as config_lib
from pd_jax.data.feed.batches import evaluation_batches
from pd_jax.data.tokenizers.tokenizer import load_tokenizer
from pd_jax.errors import ConfigError, RecordsError, WeightsError
from pd_jax.evaluation import compare as compare_lib
from pd_jax.models.heads import TaskModel
from pd_jax.models.sizes import BertConfig
from pd_jax.models.weights import hf
from pd_jax.stages.classifier import load_classifier
from pd_jax.stages.compare import run_compare
from pd_jax.stages.context import Context
from pd_jax.tools import compare as tool
from tests import tiny

CONFIG = BertConfig(vocab_size=64, layers=1, hidden=16, heads=2, intermediate=24, positions=16)
IDS = np.zeros((1, 4), np.int32)
DATA_ROWS = 60


def make_model(
    folder: pathlib.Path,
    *,
    seed: int,
    labels: tuple[str, ...] = tiny.LABELS,
    flip: bool = False,
    task: str | None = "classification",
) -> pathlib.Path:
    """Returns the folder of a random classifier; `flip` changes its outputs' places."""
    random = np.random.default_rng(seed)
    shapes = jax.eval_shape(TaskModel(CONFIG, len(labels)).init, jax.random.key(0), IDS, IDS, IDS)
    made = jax.tree.map(
        lambda leaf: 0.5 * random.standard_normal(leaf.shape, np.float32), shapes["params"]
    )
    if flip:
        made["classifier"] = jax.tree.map(lambda leaf: leaf[..., ::-1], made["classifier"])
        labels = labels[::-1]
    tokenizer = load_tokenizer(tiny.tokenizer(folder.parent / "words"))
    hf.save(folder, made, CONFIG, labels=labels, task=task, add=tokenizer.save)
    return folder


@pytest.fixture
def data(tmp_path: pathlib.Path) -> Any:
    return tiny.dataset(tmp_path / "data", rows=DATA_ROWS)


def stage(folder: pathlib.Path, models: dict[str, pathlib.Path], **changes: Any) -> Any:
    named = tuple({"name": name, "model": str(path)} for name, path in models.items())
    fields = {"models": named, "records": str(folder), "batch": 16, "lengths": (16,)}
    return config_lib.CompareStage(**{**fields, **changes})


def test_every_program_scores_what_the_rows_say(data: Any, tmp_path: pathlib.Path) -> None:
    pytest.importorskip("onnxruntime")
    teacher = make_model(tmp_path / "teacher", seed=1)
    models = {"Teacher": teacher, "Student": make_model(tmp_path / "student", seed=2)}
    wanted = stage(data.folder, models, programs=("jax", "onnx", "onnx_int8"))
    done = run_compare(wanted, Context("compare", tmp_path / "stage", tiny.run_options()))
    written = json.loads((tmp_path / "stage" / "comparison" / "comparison.json").read_text())
    assert written == {"models": done.outputs["models"]}
    rows = done.outputs["models"]
    assert [(row["name"], row["program"]) for row in rows] == [
        (name, program) for name in models for program in ("jax", "onnx", "onnx_int8")
    ]
    (batch,) = evaluation_batches(data, batch=DATA_ROWS, lengths=(16,))
    inputs = (batch["input_ids"], batch["segment_ids"], batch["input_mask"])
    logits = {}
    for name, folder in models.items():
        saved = hf.load(folder)
        logits[name] = np.asarray(TaskModel(CONFIG, 2).apply({"params": saved.params}, *inputs))
    for row in rows:
        found = logits[row["name"]].argmax(-1)
        loose = 0.1 if row["program"] == "onnx_int8" else 1e-9
        right = np.mean(found == batch["label"])
        assert row["scores"]["accuracy"] == pytest.approx(right, abs=loose)
        if row["name"] == "Student":
            agreement = np.mean(found == logits["Teacher"].argmax(-1))
            assert row["scores"]["agreement"] == pytest.approx(agreement, abs=loose)
        assert row["milliseconds"].keys() == {"1", "32"}
        for count, time in row["milliseconds"].items():
            assert row["rows_per_second"][count] == pytest.approx(1e3 * int(count) / time)
        assert row["parameters"] == sum(
            leaf.size for leaf in jax.tree.leaves(hf.load(teacher).params)
        )
    first, exact, small = rows[:3]
    assert first["difference"] is None and "agreement" not in first["scores"]
    assert exact["difference"] < 1e-5 < small["difference"] < 0.5
    assert first["megabytes"] == pytest.approx(4e-6 * first["parameters"], abs=1e-3)
    assert exact["scores"]["agreement"] == 1.0


def test_outputs_are_brought_into_the_order_of_the_records(
    data: Any, tmp_path: pathlib.Path
) -> None:
    same, flipped = (
        make_model(tmp_path / "a", seed=1),
        make_model(tmp_path / "b", seed=1, flip=True),
    )
    models = {name: hf.load(folder) for name, folder in (("a", same), ("b", flipped))}
    batches = lambda: evaluation_batches(data, batch=16, lengths=(16,))  # noqa: E731
    one, other = compare_lib.compare(
        models, batches, task="classification", labels=tiny.LABELS, wanted=("jax",)
    )
    assert models["b"].labels == ("many", "few")
    assert other.scores["agreement"] == 1.0
    assert {name: other.scores[name] for name in one.scores} == one.scores


def test_what_cannot_be_compared_is_named(data: Any, tmp_path: pathlib.Path) -> None:
    model = make_model(tmp_path / "model", seed=1)
    other = make_model(tmp_path / "other", seed=1, labels=("no", "yes"))
    foreign = make_model(tmp_path / "foreign", seed=1)
    (foreign / "tokenizer.json").unlink()
    words = (foreign / "vocab.txt").read_text().replace("w7\n", "v7\n")
    (foreign / "vocab.txt").write_text(words)
    unlabelled = tiny.dataset(tmp_path / "texts", rows=8, labelled=False)
    for wanted, error, message in (
        (stage(data.folder, {"A": other}), WeightsError, "A is for classification with .* no, yes"),
        (stage(data.folder, {"A": foreign}), ConfigError, "A .* have different vocabularies"),
        (
            stage(data.folder, {"A": model}, lengths=(32,)),
            ConfigError,
            "A can read 16 tokens, but rows are cut at 32",
        ),
        (stage(unlabelled.folder, {"A": model}), RecordsError, "texts has no labels"),
    ):
        with pytest.raises(error, match=message):
            run_compare(wanted, Context("compare", tmp_path / "stage", tiny.run_options()))
    assert not (tmp_path / "stage").exists()
    with pytest.raises(ValueError, match="models has a name twice: A, A"):
        config_lib.CompareStage(
            models=({"name": "A", "model": "x"}, {"name": "A", "model": "y"}),
            records="r",
            lengths=(16,),
        )


def test_a_model_without_a_task_is_taken_as_transformers_takes_it(
    data: Any, tmp_path: pathlib.Path
) -> None:
    named = make_model(tmp_path / "named", seed=1, task=None)
    context = Context("compare", tmp_path / "stage", tiny.run_options())
    done = run_compare(stage(data.folder, {"Teacher": named}), context)
    assert done.outputs["models"][0]["scores"].keys() >= {"accuracy"}
    unnamed = make_model(tmp_path / "unnamed", seed=1, task=None, labels=("LABEL_0", "LABEL_1"))
    with pytest.raises(WeightsError, match="labels LABEL_0, LABEL_1, .*name this one's outputs"):
        run_compare(stage(data.folder, {"Teacher": unnamed}), context)
    for labels, same in ((tiny.LABELS, True), (tiny.LABELS[::-1], False)):
        again = config_lib.Compared(name="Teacher", model=str(unnamed), labels=labels)
        wanted = dataclasses.replace(stage(data.folder, {"Teacher": unnamed}), models=(again,))
        found = run_compare(wanted, context).outputs["models"]
        scores = [row["scores"]["accuracy"] for row in (found[0], done.outputs["models"][0])]
        assert (scores[0] == scores[1]) is same
        assert sum(scores) == pytest.approx(2 * scores[0] if same else 1.0)
    folder = make_model(tmp_path / "rated", seed=1, task=None, labels=("LABEL_0",))
    rated, _ = load_classifier(str(folder))
    assert compare_lib.in_label_order("rated", rated, task="regression", labels=()) is None


def test_a_model_is_doubted_once_and_only_where_it_is_compared(
    data: Any, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_model(tmp_path / "model", seed=1)
    settings = json.loads((model / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").write_text(json.dumps({**settings, "model_max_length": 6}))
    context = Context("compare", tmp_path / "stage", tiny.run_options())
    run_compare(stage(data.folder, {"A": model, "B": model}), context)
    assert capsys.readouterr().err.count("model states model_max_length=6, and rows of up") == 1
    other = make_model(tmp_path / "other", seed=1, labels=("no", "yes"))
    words = (other / "vocab.txt").read_text().replace("w7\n", "v7\n")
    (other / "tokenizer.json").unlink()
    (other / "vocab.txt").write_text(words)
    with pytest.raises(ConfigError, match="have different vocabularies"):
        run_compare(stage(data.folder, {"A": model, "B": other}), context)
    assert "warning" not in capsys.readouterr().err


def test_the_tool_prints_the_table_and_writes_the_same_figures(
    data: Any, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, output = make_model(tmp_path / "model", seed=1), tmp_path / "out.json"
    arguments = ["--records", str(data.folder), "--output", str(output), "--lengths", "16"]
    arguments += ["--model", f"Teacher={model}", "--model", f"Student={model}"]
    assert tool.main(arguments) == 0
    header, rule, teacher, student, *rest = capsys.readouterr().out.splitlines()
    assert header.split("  ")[0] == "model" and set(rule) == {"-", " "}
    assert teacher.startswith("Teacher, L1_H16  JAX, cpu") and "100.0" in student
    assert rest[-1] == f"compared 2 models: {output}"
    models = json.loads(output.read_text())["models"]
    assert [row["name"] for row in models] == ["Teacher", "Student"]
    assert tool.main([*arguments[:4], *arguments[6:]]) == 0  # the longest row sets the lengths
    assert "are cut there" not in capsys.readouterr().err
    assert tool.main([*arguments, "--lengths", "8"]) == 0
    assert "rows of" in (told := capsys.readouterr().err) and "longer than 8 tokens" in told
    with pytest.raises(ConfigError, match="--output=.* is a folder; name a file in it"):
        tool.main([*arguments, "--output", str(tmp_path)])
    for taken in (model / "config.json", model / "new.json", data.folder / "manifest.json"):
        with pytest.raises(ConfigError, match=f"--output={taken} is in {taken.parent}, which is"):
            tool.main([*arguments, "--output", str(taken)])
    with pytest.raises(ConfigError, match="--model x is incomplete; write NAME=FOLDER"):
        tool.main([*arguments, "--model", "x"])
    unnamed = make_model(tmp_path / "unnamed", seed=1, task=None, labels=("LABEL_0", "LABEL_1"))
    arguments += ["--model", f"Hub={unnamed}", "--labels", f"Hub={','.join(tiny.LABELS)}"]
    assert tool.main(arguments) == 0
    *_, hub = json.loads(output.read_text())["models"]
    assert hub["name"] == "Hub" and hub["scores"]["agreement"] == 1.0
    with pytest.raises(ConfigError, match="--labels names Hub's outputs twice; name them once"):
        tool.main([*arguments, "--labels", "Hub=many,few"])
    with pytest.raises(ConfigError, match="--labels names 'Hab', which no --model is"):
        tool.main([*arguments, "--labels", "Hab=few,many"])
