"""tools.import_weights: every kind of source becomes a folder that all of pd_jax reads."""

import json
import pathlib

import numpy as np
import pytest

from pd_jax.data.tokenizers.tokenizer import load_tokenizer
from pd_jax.errors import EXIT_CODE, ConfigError, WeightsError
from pd_jax.models.sizes import BertConfig
from pd_jax.models.weights import hf, layout
from pd_jax.tools import command, import_weights
from tests import tf1_writer

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmno"]
CONFIG = BertConfig(
    vocab_size=len(PIECES), layers=2, hidden=8, heads=2, intermediate=12, positions=10
)
TENSORS = (
    *layout.encoder(CONFIG),
    *layout.pooler(CONFIG),
    *layout.mlm(CONFIG),
    *layout.nsp(CONFIG),
)


@pytest.fixture
def release(tmp_path: pathlib.Path) -> pathlib.Path:
    """Returns the folder of an unpacked TF1 release: table, numbers, config and vocabulary."""
    tensors = {
        tensor.tf1: np.random.default_rng(seed).standard_normal(tensor.tf1_shape(), np.float32)
        for seed, tensor in enumerate(TENSORS)
    }
    tensors["bert/pooler/dense/bias/adam_m"] = np.zeros(8, np.float32)
    folder = tf1_writer.write(tmp_path / "release", tensors, CONFIG).parent
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in PIECES))
    return folder


def test_a_release_becomes_a_model_folder(
    release: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "model"
    assert import_weights.main(["--source", str(release), "--output", str(output)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("loaded  ") for line in printed) == len(TENSORS)
    assert "loaded  bert/layer_1/mlp_in/kernel  (8, 12)" in printed
    assert (
        "absent  classifier (a model that starts from this one and needs it gets a new one)"
        in printed
    )
    assert "unused  bert/pooler/dense/bias/adam_m (of the optimiser)" in printed
    model = hf.load(output)
    assert printed[-1] == f"imported to {output}: fingerprint {model.fingerprint}"
    assert model.config.gelu == "tanh"
    assert load_tokenizer(output).vocab_size == len(PIECES)
    (tmp_path / "done.json").write_text("{}")
    for source, again in ((output, "from-folder"), (tmp_path, "from-stage")):
        arguments = ["--source", str(source), "--output", str(tmp_path / again)]
        assert import_weights.main(arguments) == 0
        assert hf.load(tmp_path / again).fingerprint == model.fingerprint
    with pytest.raises(ConfigError, match="is the model that is read; name another folder"):
        import_weights.main(["--source", str(tmp_path), "--output", str(output)])
    with pytest.raises(ConfigError, match="--gelu is for TF1 checkpoints, and .*model has a con"):
        import_weights.main(
            ["--source", str(output), "--output", str(tmp_path / "x"), "--gelu=exact"]
        )


def test_a_conversion_that_kept_the_release_s_config_is_read_as_what_it_is(
    release: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    model = tmp_path / "model"
    assert import_weights.main(["--source", str(release), "--output", str(model)]) == 0
    (model / "bert_config.json").write_text((release / "bert_config.json").read_text())
    arguments = ["--source", str(model), "--output", str(tmp_path / "again")]
    assert import_weights.main(arguments) == 0
    assert hf.load(tmp_path / "again").fingerprint == hf.load(model).fingerprint
    with pytest.raises(ConfigError, match="is the model that is read; name another folder"):
        import_weights.main(["--source", str(model), "--output", str(model)])


def test_a_checkpoint_by_name_with_exact_gelu(
    release: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    output = tmp_path / "model"
    arguments = ["--source", str(release / "bert_model.ckpt"), "--output", str(output)]
    assert import_weights.main([*arguments, "--gelu", "exact"]) == 0
    assert hf.load(output).config.gelu == "exact"


def test_one_of_several_checkpoints_is_named_by_its_step(
    release: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in list(release.glob("bert_model.ckpt.*")):
        ending = path.name.removeprefix("bert_model.ckpt")
        for step in (0, 343):
            (release / f"model.ckpt-{step}{ending}").write_bytes(path.read_bytes())
        path.unlink()
    found = []
    for name in ("", "model.ckpt-343", "model.ckpt-343.index"):
        output = tmp_path / f"model-{len(found)}"
        arguments = ["--source", str(release / name), "--output", str(output)]
        found.append(command.run(import_weights.main, arguments))
        if found[-1] == 0:
            assert hf.load(output).config.gelu == "tanh"
    assert found == [EXIT_CODE, 0, 0]
    refused = capsys.readouterr().err
    assert "but has model.ckpt-0.index, model.ckpt-343.index; name the file" in refused


def test_a_torch_file_becomes_a_model_folder(release: pathlib.Path, tmp_path: pathlib.Path) -> None:
    torch = pytest.importorskip("torch")
    source, output = tmp_path / "hf", tmp_path / "model"
    import_weights.main(["--source", str(release), "--output", str(source)])
    expected = hf.load(source)
    flat = layout.flatten(expected.params)
    state = {
        tensor.hf: torch.from_numpy(
            flat[tensor.path].T if tensor.hf_transposed else flat[tensor.path]
        )
        for tensor in TENSORS
    }
    torch.save(state, source / "pytorch_model.bin")
    (source / "model.safetensors").unlink()
    assert import_weights.main(["--source", str(source), "--output", str(output)]) == 0
    assert hf.load(output).fingerprint == expected.fingerprint


def test_a_vocabulary_of_another_size_is_refused(
    release: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    with (release / "vocab.txt").open("a") as stream:
        stream.write("more\n")
    arguments = ["--source", str(release), "--output", str(tmp_path / "model")]
    with pytest.raises(WeightsError, match="tokenizer has 21 entries, but the model has 20"):
        import_weights.main(arguments)
    assert not (tmp_path / "model").exists()


def test_a_padded_vocabulary_is_imported_and_said(
    release: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (release / "vocab.txt").write_text("".join(f"{piece}\n" for piece in PIECES[:-2]))
    output = tmp_path / "model"
    assert import_weights.main(["--source", str(release), "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    assert "\nunused  2 of 20 word embeddings (the tokenizer has 18 entries)\n" in printed
    assert hf.load(output).config.vocab_size == 20 and load_tokenizer(output).vocab_size == 18


def test_a_damaged_release_ends_with_one_line_and_no_folder(
    release: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = json.loads((release / "bert_config.json").read_text())
    (release / "bert_config.json").write_text(json.dumps({**values, "num_hidden_layers": 3}))
    arguments = ["--source", str(release), "--output", str(tmp_path / "model")]
    assert command.run(import_weights.main, arguments) == EXIT_CODE
    announced, line = capsys.readouterr().err.splitlines()
    assert announced == f"importing {release}, a TF1 checkpoint, to {tmp_path / 'model'}"
    assert line.startswith("error: ") and "lacks bert/encoder/layer_2/attention/self" in line
    assert not (tmp_path / "model").exists()
