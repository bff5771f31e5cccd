"""A model says how long the texts are that it has learnt to read."""

import json
import pathlib

import pytest

from pd_jax.data.tokenizers.tokenizer import WordPiece
from pd_jax.models.weights import hf
from pd_jax.stages.classifier import beyond_training
from pd_jax.tools import label as label_tool
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


def test_rows_beyond_those_of_training_are_told(tmp_path: pathlib.Path) -> None:
    made = WordPiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"], lowercase=True)
    hf.save(tmp_path / "m", make_params("classifier"), CONFIG, longest=3, add=made.save)
    assert beyond_training(str(tmp_path / "m"), 3) is None
    told = beyond_training(str(tmp_path / "m"), 4) or ""
    assert told == (
        f"the tokenizer of {tmp_path / 'm'} states model_max_length=3, and rows of up to 4 tokens "
        "are read here, whose later positions may never have been trained; cut them at 3, "
        "or correct model_max_length if the model was trained on longer rows"
    )
    declared = label_tool._lengths(None, str(tmp_path / "m"))
    assert declared == (3,)
    hf.save(tmp_path / "whole", make_params("classifier"), CONFIG, add=made.save)
    assert label_tool._lengths(None, str(tmp_path / "whole"))[-1] == CONFIG.positions
