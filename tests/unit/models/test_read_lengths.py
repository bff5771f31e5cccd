"""A model says how long the texts are that it has learnt to read."""

import json
import pathlib

import pytest

from pd_jax.data.tokenizers.tokenizer import WordPiece
from pd_jax.models.weights import hf
from tests.unit.models.test_weights_hf import CONFIG, make_params


@pytest.mark.parametrize("longest", [None, 3])
def test_a_model_tells_how_long_the_texts_are_that_it_has_learnt_to_read(
    tmp_path: pathlib.Path, longest: int | None
) -> None:
    made = WordPiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"], lowercase=True)
    hf.save(tmp_path / "m", make_params("classifier"), CONFIG, longest=longest, add=made.save)
    path = tmp_path / "m" / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    read = longest or CONFIG.positions
    assert settings["model_max_length"] == read
    assert hf.load(tmp_path / "m").reads == hf.reads(tmp_path / "m") == read
    for stated in (CONFIG.positions + 1, 10**30, "3", 0, None):
        path.write_text(json.dumps({**settings, "model_max_length": stated}))
        assert hf.load(tmp_path / "m").reads == CONFIG.positions
