"""Teachers of any kind: another architecture through torch, another vocabulary through the text."""

import json
import shutil
import sys

import jax
import numpy as np
import pyarrow
import pytest
from etils import epath
from pyarrow import parquet

from pd_jax import config as config_lib
from pd_jax import estimate, planning
from pd_jax.data.logits.store import LogitStore
from pd_jax.data.records.shards import example_id
from pd_jax.data.text import corpora, tables
from pd_jax.data.text.lines import Origin
from pd_jax.data.tokenizers.tokenizer import load_tokenizer
from pd_jax.errors import ConfigError, LogitsError, SourceError, WeightsError
from pd_jax.models import sizes
from pd_jax.models.heads import TaskModel
from pd_jax.models.weights import hf
from pd_jax.parallel.mesh import make_mesh
from pd_jax.progress import warn
from pd_jax.stages import predict, teachers
from pd_jax.stages.classifier import load_classifier
from pd_jax.stages.context import Context
from pd_jax.stages.label import label
from pd_jax.stages.predict import make_predict_rows
from pd_jax.stages.torch_teacher import load_torch
from pd_jax.stages.train import run_train
from pd_jax.tools import import_logits, verify
from pd_jax.tools import label as label_tool
from tests import tiny

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

WORDS = np.random.default_rng(0).integers(0, 59, (24, 9))
TEXTS = [" ".join(f"w{word}" for word in row[: 2 + n % 7]) for n, row in enumerate(WORDS)]
OTHER_VOCABULARY = (*tiny.SPECIAL, *reversed(tiny.WORDS), "extra")


@pytest.fixture
def dataset(tmp_path):
    return tiny.text_dataset(tmp_path / "set", [(text,) for text in TEXTS])


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """A DistilBERT at random values with a vocabulary of its own, as transformers saves it."""
    folder = tmp_path_factory.mktemp("foreign") / "teacher"
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(OTHER_VOCABULARY) + "\n")
    transformers.BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    settings = {"vocab_size": len(OTHER_VOCABULARY), "dim": 24, "hidden_dim": 48}
    shape = transformers.DistilBertConfig(
        **settings, n_layers=3, n_heads=2, max_position_embeddings=16, initializer_range=0.2
    )
    transformers.DistilBertForSequenceClassification(shape).eval().save_pretrained(folder)
    return folder


def stage(teacher, dataset, **changes) -> config_lib.LabelStage:
    settings = {
        "teacher": str(teacher),
        "records": str(dataset.folder),
        "batch": 5,
        "lengths": (16,),
    }
    return config_lib.LabelStage(**{**settings, "labels": tiny.LABELS, **changes})


def labelled(folder, of: config_lib.LabelStage):
    mesh = make_mesh(config_lib.Mesh())
    return label(of, epath.Path(folder), mesh, title="labelling", warn=warn)


def one_by_one(folder, texts, states=()) -> tuple[np.ndarray, np.ndarray]:
    """Logits and first tokens' states as transformers gives them for each text alone."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    logits, firsts = [], []
    for written in texts:
        with torch.inference_mode():
            outputs = model(**tokenizer(written, return_tensors="pt"), output_hidden_states=True)
        logits.append(outputs.logits[0].numpy())
        firsts.append([outputs.hidden_states[layer + 1][0, 0].numpy() for layer in states])
    return np.array(logits), np.array(firsts)


def test_a_foreign_teacher_is_asked_with_its_own_tokenizer(dataset, foreign, tmp_path, capsys):
    made = labelled(tmp_path / "store", stage(foreign, dataset, states=(0, 2)))
    assert (made.rows, made.outputs, made.labels) == (24, 2, tiny.LABELS)
    rows = np.arange(24)
    stored = LogitStore.open(tmp_path / "store").read(rows, dataset.gather(rows).example_ids)
    logits, states = one_by_one(foreign, TEXTS, (0, 2))
    np.testing.assert_allclose(stored["logits"], logits, rtol=1e-5, atol=2e-5)
    np.testing.assert_allclose(stored["states"], states, rtol=1e-5, atol=2e-5)
    assert made.about["state_layers"] == [0, 2] and made.about["layers"] == 3
    arguments = [str(dataset.folder), "--workers", "1", "--logits", str(tmp_path / "store")]
    assert verify.main([*arguments, "--teacher", str(foreign)]) == 0
    assert "no fault in 24 rows" in capsys.readouterr().out


def test_texts_alone_and_in_pairs_may_be_mixed(foreign, tmp_path):
    mixed = [*((text, None) for text in TEXTS[:5]), *((text, "w1 w2") for text in TEXTS[5:9])]
    rows = [tables.Row(one, two, None, Origin("a"), 1) for one, two in mixed]
    teacher = load_torch(foreign, dtype="float32", length=16)
    other_bert(tmp_path / "bert")
    bert = predict.make_predict_rows(*load_classifier(str(tmp_path / "bert")))

    def by_torch(rows):
        found = np.zeros((len(rows), 2))
        for places, values in teacher.answers(rows, batch=4, length=16):
            found[places] = values["logits"]
        return found

    for ordered in (rows, rows[::-1]):
        for ask in (by_torch, lambda rows: next(bert(rows)).logits):
            alone = np.concatenate([ask([row]) for row in ordered])
            np.testing.assert_allclose(ask(ordered), alone, atol=2e-5)


def test_texts_that_their_teacher_cuts_are_counted(dataset, foreign, tmp_path, capsys):
    other_bert(tmp_path / "bert")
    longer = sum(len(text.split()) + 2 > 8 for text in TEXTS)
    for teacher in (foreign, tmp_path / "bert"):
        shutil.rmtree(tmp_path / "store", ignore_errors=True)
        labelled(tmp_path / "store", stage(teacher, dataset))
        assert "were cut" not in capsys.readouterr().err
        shutil.rmtree(tmp_path / "store")
        labelled(tmp_path / "store", stage(teacher, dataset, lengths=(8,)))
        assert capsys.readouterr().err.count(f"warning: {longer} texts are longer than") == 1


def test_texts_longer_than_those_of_a_teachers_training_are_told(dataset, tmp_path, capsys):
    other_bert(tmp_path / "bert")
    longest = max(len(text.split()) + 2 for text in TEXTS)
    for stated in (longest - 1, longest):
        settings = json.dumps({"model_max_length": stated})
        (tmp_path / "bert" / "tokenizer_config.json").write_text(settings)
        shutil.rmtree(tmp_path / "store", ignore_errors=True)
        labelled(tmp_path / "store", stage(tmp_path / "bert", dataset))  # lengths end at 16
        told = f"bert states model_max_length={stated}, and rows of up to {longest} tokens are"
        assert capsys.readouterr().err.count(told) == (stated < longest)


def test_texts_that_their_teacher_does_not_know_are_told(dataset, foreign, tmp_path, capsys):
    strange = [word if word in tiny.SPECIAL else f"x{word}" for word in OTHER_VOCABULARY]
    other_bert(tmp_path / "bert", strange)
    other = shutil.copytree(foreign, tmp_path / "foreign")
    (other / "vocab.txt").write_text("\n".join(strange) + "\n")
    transformers.BertTokenizerFast(str(other / "vocab.txt")).save_pretrained(other)
    words = sum(len(text.split()) for text in TEXTS)
    share = f"{words / (words + 2 * len(TEXTS)):.1%}"  # each text has [CLS] and [SEP], too
    for teacher in (tmp_path / "bert", other):
        shutil.rmtree(tmp_path / "store", ignore_errors=True)
        labelled(tmp_path / "store", stage(teacher, dataset))
        told = f"warning: {share} of the tokens that {teacher} read are [UNK]: its tokenizer was"
        assert told in capsys.readouterr().err
    labelled(tmp_path / "known", stage(foreign, dataset))
    assert "[UNK]" not in capsys.readouterr().err


def test_the_command_reads_as_much_of_a_text_as_the_teacher_can(foreign, tmp_path, capsys):
    dataset = tiny.text_dataset(tmp_path / "set", [("w1 w2",), ("w3 unknown",)], shards=1)
    arguments = ["--teacher", str(foreign), "--records", str(dataset.folder), "--labels=few, many"]
    assert label_tool.main([*arguments, "--output", str(tmp_path / "store"), "--batch=8"]) == 0
    made = LogitStore.open(tmp_path / "store").manifest
    assert made.settings["lengths"] == [16] and made.labels == tiny.LABELS
    assert "cut" not in capsys.readouterr().err


def count_traces(monkeypatch) -> list:
    """Returns a list that grows by one whenever a model on a mesh is traced."""
    traced = []
    on_mesh = predict.on_mesh

    def counted(forward, *rest, **options):
        return on_mesh(lambda *given: traced.append(1) or forward(*given), *rest, **options)

    monkeypatch.setattr(predict, "on_mesh", counted)
    return traced


def other_bert(folder, vocabulary=OTHER_VOCABULARY, **more):
    """Writes a BERT at random values with a vocabulary of its own."""

    def other_tokenizer(folder):
        (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")

    shape = sizes.BertConfig(
        vocab_size=len(OTHER_VOCABULARY), hidden=16, layers=1, heads=2, intermediate=32, **more
    )
    one = np.ones((1, 4), np.int32)
    params = tiny.weights(TaskModel(shape, 2).init, one, one, one)["params"]
    named = {"labels": ("a", "b"), "task": "classification", "add": other_tokenizer}
    hf.save(folder, params, shape, **named)


def test_a_bert_with_another_vocabulary_reads_the_text(dataset, tmp_path, monkeypatch):
    other_bert(tmp_path / "bert")
    monkeypatch.setattr(teachers, "_ROWS_OF_TEXT", 3)
    traced = count_traces(monkeypatch)
    labelled(tmp_path / "store", stage(tmp_path / "bert", dataset, labels=()))
    assert len(traced) == 1  # of 3 shards with 3 parts each, all padded to one length
    rows = np.arange(24)
    stored = LogitStore.open(tmp_path / "store").read(rows, dataset.gather(rows).example_ids)[
        "logits"
    ]
    source = config_lib.Source(path=str(tmp_path / "set.tsv"))
    predict = make_predict_rows(*load_classifier(str(tmp_path / "bert")))
    (window,) = predict(corpora.rows(source))
    np.testing.assert_allclose(stored, window.logits, atol=1e-6)
    with pytest.raises(ConfigError, match="its outputs .'a', 'b'.*leave labels out, and list"):
        labelled(tmp_path / "other", stage(tmp_path / "bert", dataset, labels=("b", "a")))
    made = labelled(tmp_path / "renamed", stage(tmp_path / "bert", dataset))
    assert made.labels == tiny.LABELS  # in the teacher's order
    made = labelled(tmp_path / "in_part", stage(tmp_path / "bert", dataset, labels=("a", "good")))
    assert made.labels == ("a", "good")
    with pytest.raises(ConfigError, match="states of .* only for records with its own vocabulary"):
        labelled(tmp_path / "other", stage(tmp_path / "bert", dataset, labels=(), states=(0,)))


def test_a_bert_of_one_segment_labels_no_pairs(dataset, tmp_path):
    pairs = tiny.text_dataset(tmp_path / "pairs", [(text, "w1") for text in TEXTS])
    other_bert(tmp_path / "bert", token_types=1)
    labelled(tmp_path / "store", stage(tmp_path / "bert", dataset))
    with pytest.raises(ConfigError, match="bert has type_vocab_size=1, so that it cannot tell"):
        labelled(tmp_path / "other", stage(tmp_path / "bert", pairs))
    assert not (tmp_path / "other").exists()


def test_a_teacher_that_reads_texts_is_known_by_its_tokenizer(dataset, tmp_path):
    folder, of = tmp_path / "store", stage(tmp_path / "bert", dataset, labels=())
    other_bert(tmp_path / "bert")
    made = labelled(folder, of)
    assert made.settings["tokenizer"] == load_tokenizer(tmp_path / "bert").fingerprint
    other_bert(tmp_path / "bert", (*tiny.SPECIAL, *tiny.WORDS, "extra"))
    with pytest.raises(LogitsError, match="finished store of another teacher, dataset or settings"):
        labelled(folder, of)
    checked = [str(dataset.folder), "--workers", "1", "--logits", str(folder)]
    with pytest.raises(LogitsError, match="made by a model other than .*, or with another tokeni"):
        verify.main([*checked, "--teacher", str(tmp_path / "bert")])
    (folder / "manifest.json").unlink()
    first, *_ = sorted(folder.glob("*.tfrecord"))
    before = first.read_bytes()
    assert labelled(folder, of).settings != made.settings
    assert first.read_bytes() != before  # none of the shards was taken over


@pytest.mark.parametrize("named", [{"0": 0, "1": 1}, {"0": "x", "1": "x"}, {"0": "x", "1": None}])
def test_outputs_without_a_name_each_are_refused_before_any_row(dataset, foreign, tmp_path, named):
    copy = shutil.copytree(foreign, tmp_path / "copy")
    description = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**description, "id2label": named}))
    with pytest.raises(ConfigError, match="copy are called .*its own name, in their order"):
        labelled(tmp_path / "store", stage(copy, dataset, labels=()))
    assert not (tmp_path / "store").exists()
    with pytest.raises(ConfigError, match=r"copy are called \('y', 'y'\)"):
        labelled(tmp_path / "store", stage(copy, dataset, labels=("y", "y")))
    assert labelled(tmp_path / "store", stage(copy, dataset)).labels == tiny.LABELS
    checked = [str(dataset.folder), "--workers", "1", "--logits", str(tmp_path / "store")]
    assert verify.main([*checked, "--teacher", str(copy)]) == 0


def test_a_bert_that_jax_does_not_compute_is_asked_through_torch(dataset, tmp_path):
    folder = tmp_path / "relu"
    load_tokenizer(tiny.tokenizer(tmp_path / "words")).save(folder)
    size = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    size |= {"intermediate_size": 24, "max_position_embeddings": 16, "initializer_range": 0.5}
    shape = transformers.BertConfig(**size, hidden_act="relu")
    transformers.BertForSequenceClassification(shape).eval().save_pretrained(folder)
    labelled(tmp_path / "store", stage(folder, dataset))
    rows = np.arange(24)
    stored = LogitStore.open(tmp_path / "store").read(rows, dataset.gather(rows).example_ids)
    np.testing.assert_allclose(stored["logits"], one_by_one(folder, TEXTS)[0], rtol=1e-5, atol=2e-5)
    path = folder / "config.json"
    values = json.loads(path.read_text())
    for changes, message in (
        ({"hidden_act": 3}, "has hidden_act=3; only gelu"),
        ({"num_attention_heads": "2"}, "has num_attention_heads='2'; it must be"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type='relative_key'"),
    ):
        path.write_text(json.dumps({**values, **changes}))
        with pytest.raises(WeightsError, match=message):
            labelled(tmp_path / "other", stage(folder, dataset))


def test_what_a_foreign_teacher_lacks_is_refused(dataset, foreign, tmp_path):
    with pytest.raises(ConfigError, match="names layer 3, but .* has 3 layers; .* 0 to 2"):
        labelled(tmp_path / "store", stage(foreign, dataset, states=(3,)))
    with pytest.raises(ConfigError, match="labels names 3 labels, but .* has 2 outputs"):
        labelled(tmp_path / "store", stage(foreign, dataset, labels=("a", "b", "c")))
    body = tmp_path / "body"
    transformers.AutoModel.from_pretrained(foreign).save_pretrained(body)
    transformers.AutoTokenizer.from_pretrained(foreign).save_pretrained(body)
    with pytest.raises(WeightsError, match="body lacks classifier.bias.*was never trained"):
        labelled(tmp_path / "store", stage(body, dataset))
    (body / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match="body is not a classifier that transformers can read"):
        labelled(tmp_path / "store", stage(body, dataset))


def test_a_foreign_teacher_without_its_vocabulary_is_refused(dataset, foreign, tmp_path):
    bare = shutil.copytree(
        foreign, tmp_path / "bare", ignore=shutil.ignore_patterns("tokenizer.json", "vocab.txt")
    )
    with pytest.raises(WeightsError, match=r"bare has no vocabulary .*vocab.txt.; save the tea"):
        labelled(tmp_path / "store", stage(bare, dataset))


def test_rows_longer_than_a_foreign_teacher_can_read_are_refused(dataset, foreign, tmp_path):
    with pytest.raises(ConfigError, match="can read 16 tokens, but rows are cut at 32"):
        labelled(tmp_path / "store", stage(foreign, dataset, lengths=(32,)))
    size = {"vocab_size": len(OTHER_VOCABULARY), "hidden_size": 8, "intermediate_size": 8}
    size |= {"num_hidden_layers": 1, "num_attention_heads": 1, "max_position_embeddings": 20}
    size |= {"pad_token_id": 0, "position_biased_input": False}
    reads = {}
    for kind, settings in (("Roberta", {}), ("DebertaV2", {"relative_attention": True})):
        folder = reads[kind] = tmp_path / kind
        shape = getattr(transformers, f"{kind}Config")(**size, **settings)
        model = getattr(transformers, f"{kind}ForSequenceClassification")(shape)
        model.save_pretrained(folder)
        transformers.AutoTokenizer.from_pretrained(foreign).save_pretrained(folder)
    # RoBERTa's positions begin behind its padding's id.
    assert load_torch(reads["Roberta"], dtype="float32", length=19).states() == (1, 8)
    with pytest.raises(ConfigError, match="Roberta can read 19 tokens, but rows are cut at 20"):
        load_torch(reads["Roberta"], dtype="float32", length=20)
    # Relative positions have no end.
    assert load_torch(reads["DebertaV2"], dtype="float32", length=64).states() == (1, 8)


def test_texts_that_have_changed_are_refused_or_named_anew(dataset, foreign, tmp_path):
    labelled(tmp_path / "whole", stage(foreign, dataset))
    path = tmp_path / "set.tsv"
    lines = path.read_text().splitlines()
    moved = tmp_path / "moved.csv"
    moved.write_text("\n".join(["words", *reversed(lines[1:])]) + "\n")
    lines[20] = "w1 changed"
    path.write_text("\n".join(lines) + "\n")
    message = r"set-0000\d-of-00003.tfrecord row \d: its text is not in the sources of the dataset"
    with pytest.raises(SourceError, match=message):
        labelled(tmp_path / "store", stage(foreign, dataset))
    named = stage(foreign, dataset, source={"path": str(moved), "text": "words"})
    made = labelled(tmp_path / "store", named)
    assert made.rows == 24
    rows = np.arange(24)
    ids = dataset.gather(rows).example_ids
    whole, again = (
        LogitStore.open(tmp_path / name).read(rows, ids)["logits"] for name in ("whole", "store")
    )
    np.testing.assert_allclose(whole, again, atol=1e-6)


def test_a_dataset_without_sources_says_so(foreign, tmp_path):
    dataset = tiny.dataset(tmp_path / "set", rows=6, labelled=False)
    with pytest.raises(SourceError, match="does not state which texts its rows were made from"):
        labelled(tmp_path / "store", stage(foreign, dataset))


def test_a_decoder_answers_alike_in_any_batch(dataset, foreign, tmp_path):
    settings = {"vocab_size": len(OTHER_VOCABULARY), "n_embd": 8, "n_layer": 1, "n_head": 1}
    for pad in (3, None):
        folder = tmp_path / f"gpt2-{pad}"
        shape = transformers.GPT2Config(**settings, pad_token_id=pad, initializer_range=0.5)
        transformers.GPT2ForSequenceClassification(shape).save_pretrained(folder)
        transformers.AutoTokenizer.from_pretrained(foreign).save_pretrained(folder)
        found = []
        for batch in (1, 8):
            store = tmp_path / f"{pad}-{batch}"
            labelled(store, stage(folder, dataset, batch=batch))
            ids = dataset.gather(np.arange(24)).example_ids
            found.append(LogitStore.open(store).read(np.arange(24), ids)["logits"])
        np.testing.assert_allclose(found[0], found[1], atol=1e-5)


def test_a_first_token_is_found_behind_padding_on_the_left(dataset, foreign, tmp_path):
    folder = shutil.copytree(foreign, tmp_path / "left")
    tokenizer = transformers.AutoTokenizer.from_pretrained(foreign, padding_side="left")
    tokenizer.save_pretrained(folder)
    settings = {"vocab_size": len(OTHER_VOCABULARY), "d_model": 8, "n_layer": 2, "n_head": 2}
    shape = transformers.XLNetConfig(**settings, d_inner=8, pad_token_id=0, initializer_range=0.5)
    transformers.XLNetForSequenceClassification(shape).eval().save_pretrained(folder)
    labelled(tmp_path / "store", stage(folder, dataset, states=(0, 1)))
    rows = np.arange(24)
    stored = LogitStore.open(tmp_path / "store").read(rows, dataset.gather(rows).example_ids)
    logits, states = one_by_one(folder, TEXTS, (0, 1))
    np.testing.assert_allclose(stored["logits"], logits, rtol=1e-5, atol=2e-5)
    np.testing.assert_allclose(stored["states"], states, rtol=1e-5, atol=2e-5)


def test_teachers_without_states_and_regressions_of_several_values_are_refused(
    dataset, foreign, tmp_path
):
    settings = {"vocab_size": 65, "d_model": 8, "encoder_layers": 1, "decoder_layers": 1}
    settings |= {"encoder_attention_heads": 1, "decoder_attention_heads": 1, "eos_token_id": 3}
    settings |= {"encoder_ffn_dim": 8, "decoder_ffn_dim": 8, "pad_token_id": 0}
    shape = transformers.BartConfig(**settings)
    transformers.BartForSequenceClassification(shape).save_pretrained(tmp_path / "bart")
    transformers.AutoTokenizer.from_pretrained(foreign).save_pretrained(tmp_path / "bart")
    with pytest.raises(ConfigError, match="a BartForSequence.* gives no states of its layers"):
        labelled(tmp_path / "store", stage(tmp_path / "bart", dataset, labels=(), states=(0,)))
    several = tmp_path / "several"
    shutil.copytree(foreign, several)
    values = json.loads((several / "config.json").read_text())
    (several / "config.json").write_text(json.dumps({**values, "problem_type": "regression"}))
    with pytest.raises(WeightsError, match="gives 2 values of a regression, and one can be learnt"):
        labelled(tmp_path / "store", stage(several, dataset, labels=()))
    other_bert(tmp_path / "bert")
    values = json.loads((tmp_path / "bert" / "config.json").read_text())
    (tmp_path / "bert" / "config.json").write_text(
        json.dumps({**values, "problem_type": "regression"})
    )
    with pytest.raises(WeightsError, match="gives 2 values of a regression"):
        load_classifier(str(tmp_path / "bert"))


def test_an_estimate_asks_a_teacher_in_a_folder(dataset, foreign, tmp_path, monkeypatch):
    shape = sizes.BertConfig(64, layers=1, hidden=8, heads=1, intermediate=8, positions=16)
    one = np.ones((1, 4), np.int32)
    params = tiny.weights(TaskModel(shape, 2).init, one, one, one)["params"]
    bert = tmp_path / "bert"
    hf.save(bert, params, shape, add=load_tokenizer(tiny.tokenizer(tmp_path / "words")).save)
    stages = {
        "by_bert": stage(bert, dataset, batch=8),
        "by_another": stage(foreign, dataset, batch=8),
        "again": stage(foreign, dataset, batch=8, states=(0,)),
        "of_tokens": stage(bert, dataset, batch=8, labels=(), language=config_lib.MaskedTokens()),
    }
    pipeline = config_lib.Pipeline(name="own", stages=stages)
    printed: list[str] = []
    found = estimate.estimate(
        pipeline, planning.plan(pipeline, tmp_path / "work"), say=printed.append
    )
    assert printed == ["measuring batches of by_bert", "measuring batches of by_another"]
    first, second, third, last = found
    assert first.seconds > 0 and second.seconds > 0 and third.seconds == second.seconds
    assert (last.seconds, last.basis) == (None, "teacher unknown")
    assert estimate.as_text(found).splitlines()[-2].endswith("not known yet: of_tokens")
    monkeypatch.setitem(sys.modules, "transformers", None)
    found = estimate.estimate(
        pipeline, planning.plan(pipeline, tmp_path / "work"), say=printed.append
    )
    assert [one.seconds is None for one in found] == [False, True, True, True]
    assert printed[-3].startswith("by_another is not counted: ") and "pip install" in printed[-1]


def test_without_the_extra_one_line_says_what_to_install(dataset, foreign, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    message = r"needs torch and transformers .*pip install 'pd_jax\[hf\]'"
    with pytest.raises(WeightsError, match=message):
        labelled(tmp_path / "store", stage(foreign, dataset))


# ---- the same training, whichever way the logits came ------------------------------------------


def trained(tmp_path, name: str, store) -> dict[str, np.ndarray]:
    """Returns the weights of a student after 6 steps on a store."""
    data = {"records": str(tmp_path / "set"), "logits": str(store), "batch": 8, "lengths": (8, 16)}
    stage = tiny.stage(
        tmp_path / "set", objective={"kind": "distill"}, data=data, length={"steps": 6}
    )
    folder = epath.Path(tmp_path / name)
    folder.mkdir()
    run_train(stage, Context(name, folder, tiny.run_options()))
    return hf.load(folder / "model").params


def test_a_foreign_teacher_gives_the_same_run_from_parquet_jsonl_and_torch(
    dataset, foreign, tmp_path
):
    labelled(tmp_path / "torch", stage(foreign, dataset))
    rows = np.arange(24)
    ids = dataset.gather(rows).example_ids
    by_id = {
        name.tobytes(): values
        for name, values in zip(
            ids, LogitStore.open(tmp_path / "torch").read(rows, ids)["logits"], strict=True
        )
    }
    order = np.random.default_rng(3).permutation(24)
    rows_as_text = [
        {"text": TEXTS[n], "score": by_id[example_id(TEXTS[n])].tolist()} for n in order
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows_as_text))
    parquet.write_table(pyarrow.Table.from_pylist(rows_as_text[::-1]), tmp_path / "a.parquet")
    for kind in ("jsonl", "parquet"):
        arguments = ["--records", str(tmp_path / "set"), "--output", str(tmp_path / kind)]
        arguments += ["--input", str(tmp_path / f"a.{kind}"), "--values", "score"]
        assert import_logits.main([*arguments, "--labels", ",".join(tiny.LABELS)]) == 0
    first, *others = (
        jax.tree.leaves_with_path(trained(tmp_path, f"run-{kind}", tmp_path / kind))
        for kind in ("torch", "jsonl", "parquet")
    )
    assert load_tokenizer(tmp_path / "set" / "tokenizer").vocab_size == 64
    for other in others:
        for (path, one), (_, two) in zip(first, other, strict=True):
            np.testing.assert_array_equal(one, two, err_msg=jax.tree_util.keystr(path))
