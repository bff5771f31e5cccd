"""GLUE: the released files as they lie in the zips, and answers as the server takes them."""

import dataclasses
import importlib.util
import json
import pathlib
import zipfile
from typing import Any

import jax
import numpy as np
import pytest

from pd_jax.config import Measure, reading
from pd_jax.data.building.layouts import row_records
from pd_jax.data.text import corpora
from pd_jax.data.tokenizers.tokenizer import load_tokenizer
from pd_jax.errors import ConfigError, SourceError, WeightsError
from pd_jax.evaluation import glue
from pd_jax.models.heads import TaskModel
from pd_jax.models.sizes import BertConfig
from pd_jax.models.weights import hf
from pd_jax.stages.classifier import load_classifier
from pd_jax.stages.predict import make_predict_rows
from pd_jax.tools import glue as tool
from tests import tiny

ROOT = pathlib.Path(__file__).resolve().parents[3]
PAIR = "index\tsentence1\tsentence2\tlabel"
STSB = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore"
MNLI = (
    "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\t"
    "sentence1_parse\tsentence2_parse\tsentence1\tsentence2\tlabel1\tgold_label"
)
# Header and first row of each training file, as released; the text is ours.
RELEASED = {
    "cola": ("CoLA", None, 'gj04\t1\t\tw1 "w2 w3.', ('w1 "w2 w3.', None, 1)),
    "sst2": ("SST-2", "sentence\tlabel", "w1 w2 \t0", ("w1 w2", None, 0)),
    "mrpc": (
        "MRPC",
        "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String",
        '1\t702876\t702977\tw1 " w2\tw3',
        ('w1 " w2', "w3", 1),
    ),
    "stsb": ("STS-B", STSB, "0\tg\tf\t2012\t0001\tn\tn\tw1\tw2.\t3.800", ("w1", "w2.", 3.8)),
    "qqp": (
        "QQP",
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
        "1\t2\t3\tw1 w2?\tw3?\t1",
        ("w1 w2?", "w3?", 1),
    ),
    "mnli": ("MNLI", MNLI, "0\t1\t1n\tg\tb\tb\tp\tp\tw1\tw2\tn\tneutral", ("w1", "w2", 1)),
    "qnli": (
        "QNLI",
        "index\tquestion\tsentence\tlabel",
        "0\tw1?\tw2\tnot_entailment",
        ("w1?", "w2", 1),
    ),
    "rte": ("RTE", PAIR, "0\tw1\tw2\tnot_entailment", ("w1", "w2", 1)),
    "wnli": ("WNLI", PAIR, "0\tw1\tw2\t1", ("w1", "w2", 1)),
}
RTE = glue.TEST_SETS["RTE.tsv"]
WNLI = glue.TEST_SETS["WNLI.tsv"]


def load_config(arg: str) -> Any:
    path = ROOT / "configs" / "finetune" / "glue.py"
    spec = importlib.util.spec_from_file_location("glue_config", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return reading.pipeline_from(module.get_config(arg)), module.TASKS


@pytest.fixture
def released(tmp_path: pathlib.Path) -> pathlib.Path:
    """A folder of training and development files of all nine tasks, one row each."""
    for task, (folder, header, row, _) in RELEASED.items():
        (tmp_path / folder).mkdir()
        names = ("train", "dev_matched", "dev_mismatched") if task == "mnli" else ("train", "dev")
        for name in names:
            lines = [*([header] if header else []), row, ""]
            (tmp_path / folder / f"{name}.tsv").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("task", RELEASED)
def test_a_task_reads_its_released_files(released: pathlib.Path, task: str) -> None:
    config, _ = load_config(f"task={task},data={released},vocabulary={released}")
    tokenizer = load_tokenizer(tiny.tokenizer(released))
    first, second, label = RELEASED[task][3]
    stages = {name: stage for name, stage in config.stages.items() if stage.kind == "records"}
    assert len(stages) == (3 if task == "mnli" else 2)
    for stage in stages.values():
        rows = list(corpora.rows(stage.source))
        assert [(row.text, row.pair) for row in rows] == [(first, second)]
        (record,) = row_records(rows, tokenizer, layout=stage.examples, max_length=16)
        assert record.label == pytest.approx(label)
    assert set(config.report.metrics) <= {
        f"{name}/{score}"
        for name in stages
        for score in ("accuracy", "f1", "matthews", "pearson", "spearman")
    }


def test_rows_of_qqp_that_are_in_pieces_are_skipped(released: pathlib.Path) -> None:
    path = released / "QQP" / "train.tsv"
    path.write_text(path.read_text() + "2\t4\t5\tbroken\nin two?\tw?\t0\n3\t6\t7\tw1\tw2\t0\n")
    config, _ = load_config(f"task=qqp,data={released},vocabulary={released}")
    rows = list(corpora.rows(config.stages["train"].source))
    assert [row.label for row in rows] == ["1", "0"]


def test_the_config_and_the_test_sets_agree() -> None:
    _, tasks = load_config("")
    assert set(tasks) == set(glue.TASKS)
    for test_set in glue.TEST_SETS.values():
        assert tasks[test_set.task].labels == (test_set.names or test_set.answers)


@pytest.mark.parametrize("arg", ["task=rtee", "task=cola", "rate=x"])
def test_arguments_without_sense_are_refused(arg: str) -> None:
    with pytest.raises(ValueError, match=r"rtee.* are cola|not in the development data|'x'"):
        load_config(arg)


# ---- answers ----------------------------------------------------------------------------------


def test_answers_are_the_servers_words_whatever_the_model_calls_and_orders_its_labels() -> None:
    logits = np.array([[2.0, 1.0], [0.0, 3.0]])
    assert WNLI.predictions(logits, ("not_entailment", "entailment")) == ["0", "1"]
    assert WNLI.predictions(logits, ("entailment", "not_entailment")) == ["1", "0"]
    assert WNLI.predictions(logits, ("0", "1")) == ["0", "1"]
    assert RTE.predictions(logits, ("not_entailment", "entailment")) == [
        "not_entailment",
        "entailment",
    ]
    stsb = glue.TEST_SETS["STS-B.tsv"]
    assert stsb.predictions(np.array([[-0.2], [3.1416], [5.3]]), ()) == ["0.000", "3.142", "5.000"]


@pytest.mark.parametrize(
    ("name", "outputs", "labels", "message"),
    [
        ("RTE.tsv", 2, ("no", "yes"), "labels no, yes cannot answer rte, .* entailment, not_ent"),
        ("RTE.tsv", 2, ("entailment", "entailment"), "cannot answer rte"),
        ("MNLI-m.tsv", 2, ("entailment", "neutral"), "cannot answer mnli"),
        ("SST-2.tsv", 2, ("LABEL_0", "LABEL_1"), "negative, positive or 0, 1; train it with"),
        ("STS-B.tsv", 2, (), "stsb is answered by a number, but the model has 2 outputs"),
    ],
)
def test_models_of_other_tasks_are_refused(
    name: str, outputs: int, labels: tuple[str, ...], message: str
) -> None:
    with pytest.raises(WeightsError, match=message):
        glue.TEST_SETS[name].predictions(np.zeros((1, outputs)), labels)


def make_model(folder: pathlib.Path, **changes: Any) -> pathlib.Path:
    """Returns the folder of a random model for WNLI."""
    config = BertConfig(vocab_size=64, layers=1, hidden=16, heads=2, intermediate=24, positions=32)
    config = dataclasses.replace(config, **changes)
    ids = np.zeros((1, 4), np.int32)
    shapes = jax.eval_shape(TaskModel(config, 2).init, jax.random.key(0), ids, ids, ids)["params"]
    random = np.random.default_rng(0)
    made = jax.tree.map(lambda leaf: random.standard_normal(leaf.shape, np.float32), shapes)
    # What [CLS] reads outweighs what it is, so that answers differ.
    made["bert"]["layer_0"]["attention"]["output"]["kernel"] *= 20
    made["classifier"]["bias"] *= 0
    tokenizer = load_tokenizer(tiny.tokenizer(folder.parent / "tokenizer"))
    labels = ("not_entailment", "entailment")
    hf.save(folder, made, config, labels=labels, task="classification", add=tokenizer.save)
    return folder


def make_test_set(folder: pathlib.Path, rows: int) -> None:
    random = np.random.default_rng(0)
    lines = ["index\tsentence1\tsentence2"]
    for row in range(rows):
        words = [" ".join(f"w{n}" for n in random.integers(0, 59, 5)) for _ in range(2)]
        lines.append("\t".join([str(row), *words]))
    (folder / "WNLI").mkdir()
    (folder / "WNLI" / "test.tsv").write_text("\n".join(lines) + "\n")


def test_the_tool_writes_the_eleven_files_that_the_server_wants(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_model(tmp_path / "model")
    make_test_set(tmp_path, WNLI.rows)
    arguments = ["--data", str(tmp_path), "--model", f"wnli={model}", "--fill"]
    for name in ("a.zip", "b.zip"):
        assert tool.main([*arguments, "--output", str(tmp_path / name)]) == 0
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    printed = capsys.readouterr().out.splitlines()[-1]
    assert printed.startswith("submission of 11 files in ") and "AX.tsv" in printed
    few = [*arguments, "--max-length", "12", "--output", str(tmp_path / "cut.zip")]
    written = (model / "tokenizer_config.json").read_text()
    stated = json.dumps({**json.loads(written), "model_max_length": 9})
    (model / "tokenizer_config.json").write_text(stated)
    assert tool.main(few) == 0
    (model / "tokenizer_config.json").write_text(written)
    told = capsys.readouterr().err
    assert "model states model_max_length=9, and rows of up to 12 tokens are read here" in told
    assert f"warning: {WNLI.rows} texts of WNLI/test.tsv were cut at the last token" in told
    with zipfile.ZipFile(tmp_path / "a.zip") as packed:
        found = {name: packed.read(name).decode().splitlines() for name in packed.namelist()}
    assert set(found) == {
        "CoLA.tsv", "SST-2.tsv", "MRPC.tsv", "STS-B.tsv", "QQP.tsv", "MNLI-m.tsv", "MNLI-mm.tsv",
        "QNLI.tsv", "RTE.tsv", "WNLI.tsv", "AX.tsv",
    }  # fmt: skip
    for name, rows in (("QQP.tsv", 390_965), ("AX.tsv", 1_104), ("WNLI.tsv", 146)):
        assert found[name][0] == "index\tprediction"
        assert len(found[name]) == rows + 1
        assert found[name][-1].split("\t")[0] == str(rows - 1)
    assert found["MNLI-m.tsv"][1] == "0\tentailment"
    source = corpora.Source(
        path=str(tmp_path / "WNLI" / "test.tsv"), text="sentence1", pair="sentence2"
    )
    classifier, tokenizer = load_classifier(str(model))
    (window,) = make_predict_rows(classifier, tokenizer)(corpora.rows(source))
    expected = [str(number) for number in window.logits.argmax(1)]
    assert [line.split("\t")[1] for line in found["WNLI.tsv"][1:]] == expected
    assert set(expected) == {"0", "1"}


def test_the_tool_names_what_is_wrong_before_it_works(tmp_path: pathlib.Path) -> None:
    model = make_model(tmp_path / "model")
    alone = make_model(tmp_path / "alone", token_types=1)
    make_test_set(tmp_path, 145)
    base = ["--data", str(tmp_path), "--output", str(tmp_path / "out.zip"), "--model"]
    for given, error, message in (
        ([f"wnli={model}"], ConfigError, "no model for cola, sst2, .*, rte; .*--fill"),
        ([f"wnli={model}", "--fill"], SourceError, r"WNLI/test.tsv has 145 rows, .* 146"),
        ([f"rte={model}", "--fill"], SourceError, r"RTE/test.tsv does not exist"),
        ([f"cola={model}", "--fill"], WeightsError, "cannot answer cola"),
        ([f"wnlli={model}", "--fill"], ConfigError, "not a GLUE task .*did you mean 'wnli'"),
        (["wnli", "--fill"], ConfigError, "write TASK=FOLDER"),
        (["wnli=a", "--model", "wnli=b", "--fill"], ConfigError, "names wnli twice"),
        ([f"wnli={alone}", "--fill"], ConfigError, "alone has type_vocab_size=1, so that"),
        (
            [f"wnli={model}", "--fill", "--max-length=600"],
            ConfigError,
            "model can read [0-9]+ tokens, but rows are cut at 600; cut them at",
        ),
    ):
        with pytest.raises(error, match=message):
            tool.main([*base, *given])
    assert not (tmp_path / "out.zip").exists()
    (tmp_path / "out.zip").mkdir()
    with pytest.raises(ConfigError, match="--output=.*out.zip is a folder; name a file in it"):
        tool.main([*base, f"wnli={model}", "--fill"])
    for taken, message in (
        (tmp_path / "WNLI" / "test.tsv", "is a file that is read; name another one"),
        (model / "config.json", f"is in {model}, which is read; name another place"),
    ):
        with pytest.raises(ConfigError, match=f"--output={taken} {message}"):
            tool.main([*base, f"wnli={model}", "--fill", "--output", str(taken)])


def test_a_submission_of_another_length_is_never_written(tmp_path: pathlib.Path) -> None:
    answers = {name: test_set.filler() for name, test_set in glue.TEST_SETS.items()}
    with pytest.raises(ValueError, match=r"AX.tsv needs 1104 rows, not 1103"):
        glue.write_submission(tmp_path / "o.zip", {**answers, "AX.tsv": answers["AX.tsv"][1:]})
    del answers["AX.tsv"]
    with pytest.raises(ValueError, match="a submission is"):
        glue.write_submission(tmp_path / "o.zip", answers)
    assert not (tmp_path / "o.zip").exists()


def test_the_grid_is_that_of_the_released_code(released: pathlib.Path) -> None:
    """Five batch sizes by four rates, four epochs, judged by the task's own metrics."""
    path = ROOT / "configs" / "study" / "glue.py"
    spec = importlib.util.spec_from_file_location("glue_study", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    arg = f"task=cola,data={released},vocabulary={released},seeds=2"
    config = reading.pipeline_from(module.get_config(arg))
    trained = [stage for stage in config.stages.values() if stage.kind == "train"]
    assert len(trained) == 5 * 4 * 2
    assert {stage.data.batch for stage in trained} == {8, 16, 32, 64, 128}
    assert {stage.optimizer.learning_rate for stage in trained} == {3e-4, 1e-4, 5e-5, 3e-5}
    assert {stage.length.epochs for stage in trained} == {4.0}
    measures = [(measure.quantity, measure.sets) for measure in config.study.measures]
    assert measures == [("matthews", ("dev",)), ("accuracy", ("dev",))]
    with pytest.raises(ValueError, match="matthews is not a mean over rows; name one set, not a"):
        Measure(quantity="matthews", sets=("a", "b"))
