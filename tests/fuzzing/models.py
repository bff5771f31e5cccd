"""Parsers of weights, model configs and vocabularies, at work on a folder of their own."""

import io
import json
import pathlib
import pickle
import random
import zipfile
from collections.abc import Callable

import numpy as np
import safetensors.numpy as safetensors_numpy

from pd_jax import config
from pd_jax.data.tokenizers.tokenizer import load_tokenizer, train_tokenizer
from pd_jax.models.sizes import BertConfig
from pd_jax.models.weights import hf, layout, pickles, tf1
from tests import tf1_writer, tiny
from tests.fuzzing import mutate
from tests.fuzzing.engine import Target, in_file
from tests.fuzzing.mutate import Mutator

SENTENCES = ("a film of rare charm", "", "w1 w2 [MASK] é 漢字 \x00 x" * 20)
SHAPE = BertConfig(vocab_size=64, hidden=8, layers=1, heads=2, intermediate=16, positions=16)


# ---- weights -----------------------------------------------------------------------------------


def model_in(folder: pathlib.Path) -> Callable[[], object]:
    """Writes a model of one layer, and returns what loads it."""
    wanted = [*layout.encoder(SHAPE), *layout.pooler(SHAPE), *layout.classifier(SHAPE, 2)]
    flat = {tensor.path: np.full(tensor.shape, 0.5, np.float32) for tensor in wanted}
    hf.save(folder / "model", layout.nest(flat), SHAPE, labels=tiny.LABELS, task="classification")
    return lambda: hf.load(folder / "model")


def safetensors(folder: pathlib.Path) -> Target:
    """model.safetensors."""
    parse = model_in(folder)
    return in_file(folder / "model" / hf.WEIGHTS_FILE, mutate.spoil_safetensors, parse)


def safetensors_index(folder: pathlib.Path) -> Target:
    """model.safetensors.index.json, of weights in two files."""
    parse = model_in(folder)
    index = folder / "model" / hf.INDEX_FILE
    split(folder / "model")
    return in_file(index, mutate.spoil_json, parse)


def split(folder: pathlib.Path) -> dict[str, str]:
    """Moves a model's weights to two files with an index; returns tensor -> file."""
    whole = folder / hf.WEIGHTS_FILE
    tensors = safetensors_numpy.load(whole.read_bytes())
    whole.unlink()
    parts: dict[str, dict[str, np.ndarray]] = {"model-1.safetensors": {}, "model-2.safetensors": {}}
    for number, (name, value) in enumerate(sorted(tensors.items())):
        parts[f"model-{1 + number % 2}.safetensors"][name] = value
    for file, held in parts.items():
        (folder / file).write_bytes(safetensors_numpy.save(held))
    places = {name: file for file, held in parts.items() for name in held}
    (folder / hf.INDEX_FILE).write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return places


def model_config(folder: pathlib.Path) -> Target:
    """A Hugging Face config.json."""
    parse = model_in(folder)
    return in_file(folder / "model" / hf.CONFIG_FILE, mutate.spoil_json, parse)


def torch_archive(folder: pathlib.Path) -> Target:
    """pytorch_model.bin as torch 1.6 and later write it."""
    path = folder / "model.bin"
    program, storage = torch_program()
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/data/0", storage)
    return in_file(
        path, mutate.spoil_archive, lambda: pickles.load(path), seeds=(stream.getvalue(),)
    )


def torch_stream(folder: pathlib.Path) -> Target:
    """pytorch_model.bin as torch before 1.6 wrote it."""
    path = folder / "model.bin"
    program, storage = torch_program()
    heads = (pickles._LEGACY_MAGIC, pickles._LEGACY_PROTOCOL, {"little_endian": True})
    content = b"".join(pickle.dumps(one, protocol=2) for one in heads) + program
    content += pickle.dumps(["0"], protocol=2) + (6).to_bytes(8, "little") + storage
    return in_file(path, mutate.spoil, lambda: pickles.load(path), seeds=(content,))


def torch_program() -> tuple[bytes, bytes]:
    """Returns the pickle of a table with one tensor of six numbers, and those numbers."""
    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
    storage += b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x06tQ"
    tensor = (
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00K\x02K\x03\x86K\x03K\x01\x86"
    )
    tensor += b"\x89ccollections\nOrderedDict\n)RtR"
    return b"\x80\x02}X\x01\x00\x00\x00w" + tensor + b"s.", np.arange(6, dtype="<f4").tobytes()


def tf1_in(folder: pathlib.Path) -> pathlib.Path:
    wanted = [*layout.encoder(SHAPE), *layout.pooler(SHAPE)]
    tensors = {one.tf1: np.full(one.tf1_shape(), 0.5, np.float32) for one in wanted}
    return tf1_writer.write(folder / "tf1", tensors, SHAPE)


def tf1_index(folder: pathlib.Path) -> Target:
    """The index of a TF1 checkpoint, its checksums made to fit where the table can be read."""
    prefix = tf1_in(folder)
    path = prefix.with_name(f"{prefix.name}.index")
    good = path.read_bytes()
    footer = good[-48:]
    rows = list(tf1._entries(good, footer, tf1._skip_handle(footer, 0)))

    def mutator(chance: random.Random, content: bytes) -> bytes:
        if chance.random() < 0.4:
            return mutate.spoil(chance, content)
        changed = list(rows)
        for _ in range(chance.choice((1, 1, 3))):
            at = chance.randrange(len(changed))
            key, value = changed[at]
            spoilt = (key, mutate.spoil(chance, value)), (mutate.spoil(chance, key), value)
            changed[at] = chance.choice((*spoilt, chance.choice(rows)))
        return tf1_writer.table(changed)

    return in_file(path, mutator, lambda: tf1.load(prefix))


def tf1_data(folder: pathlib.Path) -> Target:
    """The tensors of a TF1 checkpoint."""
    prefix = tf1_in(folder)
    path = prefix.with_name(f"{prefix.name}.data-00000-of-00001")
    return in_file(path, mutate.spoil, lambda: tf1.load(prefix))


def tf1_config(folder: pathlib.Path) -> Target:
    """bert_config.json beside a TF1 checkpoint."""
    prefix = tf1_in(folder)
    return in_file(folder / "tf1" / tf1.CONFIG_FILE, mutate.spoil_json, lambda: tf1.load(prefix))


# ---- vocabularies ------------------------------------------------------------------------------


def tokenizer_in(folder: pathlib.Path, name: str, mutator: Mutator) -> Target:
    load_tokenizer(tiny.tokenizer(folder / "made")).save(folder / "tokenizer")
    path = folder / "tokenizer" / name
    if name == "vocab.txt":
        (folder / "tokenizer" / "tokenizer.json").unlink()
    if name == "tokenizer_config.json":
        (folder / "tokenizer" / "tokenizer.json").unlink()

    def parse() -> object:
        tokenizer = load_tokenizer(folder / "tokenizer")
        return tokenizer.encode(SENTENCES), tokenizer.encode(SENTENCES, limit=3)

    return in_file(path, mutator, parse)


def vocabulary(folder: pathlib.Path) -> Target:
    """vocab.txt."""
    return tokenizer_in(folder, "vocab.txt", mutate.spoil)


def tokenizer_config(folder: pathlib.Path) -> Target:
    """tokenizer_config.json beside a vocab.txt."""
    return tokenizer_in(folder, "tokenizer_config.json", mutate.spoil_json)


def tokenizer_json(folder: pathlib.Path) -> Target:
    """tokenizer.json."""
    return tokenizer_in(folder, "tokenizer.json", mutate.spoil_json)


def sentence_pieces(folder: pathlib.Path) -> Target:
    """A SentencePiece model."""
    stage = config.TokenizerStage(
        source=config.Source(path="none"), vocab_size=21, algorithm="unigram"
    )
    lines = (f"{one} {two} stories" for one in ("cold", "warm") for two in ("films", "plots") * 9)
    train_tokenizer(lines, stage).save(folder / "tokenizer")
    (path,) = (folder / "tokenizer").glob("*.model")

    def parse() -> object:
        tokenizer = load_tokenizer(path)
        return tokenizer.encode(SENTENCES), tokenizer.word_starts

    return in_file(path, mutate.spoil, parse)
