"""The `tokenizer.json` of a SentencePiece model keeps the marks that the model was trained on."""

import pytest
import tokenizers

from pd_jax.data.tokenizers.tokenizer import train_tokenizer
from tests.unit.data.test_tokenizers import corpus, encode, stage


@pytest.mark.parametrize("lowercase", [True, False])
@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_marks_that_no_letter_is_composed_with_are_kept_in_tokenizer_json(
    tmp_path, kind, lowercase
):
    texts = [
        "O\u0323\u0300ro\u0323\u0300 a\u0300ti i\u0300s\u0323e\u0301",  # Yoruba
        "\u042f\u0301\u0431\u043b\u043e\u043a\u043e \u044f\u0301\u0434\u0430",  # Russian, stressed
        "G\u0303uarani g\u0303",
        "\u0e19\u0e49\u0e33 \u0939\u093f\u0928\u094d\u0926\u0940 \u0645\u0651\u064e",
        "Vi\u1ec7t Vie\u0323\u0302t tie\u0302\u0301ng",  # Vietnamese, composed and not
    ]
    trained = train_tokenizer(iter([*corpus(), *texts * 20]), stage(kind, lowercase=lowercase))
    trained.save(tmp_path)
    saved = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in texts:
        assert saved.encode(text, add_special_tokens=False).ids == encode(trained, text), text
