"""Small texts of counted words, and datasets built of them."""

import numpy as np

from pd_jax.config import RecordsStage, Source
from pd_jax.data.building.build import build_records
from pd_jax.data.records.dataset import Dataset
from pd_jax.data.tokenizers import tokenizer as tokenizer_lib

WORDS = [f"w{number}" for number in range(200)]
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *"abcdefgh", *WORDS]
PAD, UNK, CLS, SEP, MASK, DOT, A, B, C, D, E, F, G, H = range(14)
FIRST_WORD = PIECES.index("w0")


def wordpiece():
    """A tokenizer of these pieces alone."""
    return tokenizer_lib.WordPiece(PIECES, lowercase=True)


def stage(path, examples, *, columns=None, **options):
    options = {"max_length": 16, **options}
    source = Source(path=str(path), **(columns or {}))
    return RecordsStage(source=source, tokenizer="unused", examples=examples, **options)


def rows_of(folder):
    """A dataset's rows as lists of ids, and everything else as it was gathered."""
    dataset = Dataset.open(folder)
    gathered = dataset.gather(np.arange(len(dataset)))
    ends = np.cumsum(gathered.lengths)[:-1]
    return [part.tolist() for part in np.split(gathered.tokens, ends)], gathered


def build_rows(tmp_path, tokenizer, content, examples, *, name="rows.tsv", columns=None, **options):
    (tmp_path / name).write_text(content, encoding="utf-8")
    made = stage(tmp_path / name, examples, columns=columns, **options)
    return build_records(made, tokenizer, tmp_path / "set", name="rows", workers=1)


def write_corpus(path, *, documents=60, sentences=12, seed=0):
    """Documents whose sentences are counted words, so that an example shows where it comes from."""
    chance = np.random.default_rng(seed)
    texts = []
    for _ in range(documents):
        start = int(chance.integers(len(WORDS)))
        document, word = [], start
        for _ in range(sentences):
            length = int(chance.integers(2, 9))
            document.append(" ".join(WORDS[(word + k) % len(WORDS)] for k in range(length)) + ".")
            word += length
        texts.append("\n".join(document))
    path.write_text("\n\n".join(texts) + "\n")
    return path
