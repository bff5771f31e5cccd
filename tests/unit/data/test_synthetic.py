"""The generated text: a function of its seed, disjoint, balanced, and labelled by what it says."""

import re

import pytest

from pd_jax import config as config_lib
from pd_jax.data.text import synthetic

STAGE = config_lib.SyntheticStage(
    seed=3, corpus_sentences=500, transfer_rows=400, train_rows=200, evaluation_rows=300
)
SIDE = {word: label for label in (0, 1) for word in synthetic.ADJECTIVES[label]}


def clause_label(words: list[str]) -> int:
    """What the last adjective of a clause says, turned by a negator right before it."""
    places = [place for place, word in enumerate(words) if word in SIDE]
    degrees = {word for side in synthetic.DEGREES for word in side}
    before = [word for word in words[: places[-1]] if word not in degrees]
    turned = before[-1] in synthetic.NEGATORS
    return SIDE[words[places[-1]]] ^ turned


def label_of(text: str) -> int:
    """The label by the grammar's rules, read from the text alone."""
    text = text.removesuffix(" .")
    if " but " in text:
        return clause_label(text.split(" but ")[1].split())
    if text.startswith("although "):
        return clause_label(text.split(" , ")[1].split())
    if " even though " in text:
        return clause_label(text.split(" even though ")[0].split())
    return clause_label(text.split())


def majority_label(text: str) -> int:
    votes = [SIDE[word] for word in text.split() if word in SIDE]
    return int(sum(votes) * 2 > len(votes))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("text")
    counts = synthetic.write_synthetic(STAGE, made)
    assert counts == {
        "corpus.txt": 500, "transfer.txt": 400, "train.tsv": 200, "dev.tsv": 300, "test.tsv": 300
    }  # fmt: skip
    return made


def labelled(folder, name: str) -> list[tuple[str, str]]:
    lines = (folder / f"{name}.tsv").read_text().splitlines()
    assert lines[0] == "label\ttext"
    return [tuple(line.split("\t")) for line in lines[1:]]


def test_the_same_seed_writes_the_same_files_and_another_does_not(folder, tmp_path):
    synthetic.write_synthetic(STAGE, tmp_path)
    names = sorted(path.name for path in folder.iterdir())
    assert all((folder / name).read_bytes() == (tmp_path / name).read_bytes() for name in names)
    other = config_lib.SyntheticStage(**{**vars(STAGE), "seed": 4})
    synthetic.write_synthetic(other, tmp_path)
    assert all((folder / name).read_bytes() != (tmp_path / name).read_bytes() for name in names)


def test_labels_are_balanced_and_follow_from_the_text(folder):
    for name in ("train", "dev", "test"):
        rows = labelled(folder, name)
        assert sum(label == "positive" for label, _ in rows) * 2 == len(rows)
        assert all(synthetic.LABELS[label_of(text)] == label for label, text in rows)


def test_counting_words_is_not_enough(folder):
    rows = labelled(folder, "dev") + labelled(folder, "test")
    right = sum(synthetic.LABELS[majority_label(text)] == label for label, text in rows)
    assert 0.75 < right / len(rows) < 0.95


def test_evaluation_rows_stand_in_no_other_file(folder):
    held = {text for name in ("dev", "test") for _, text in labelled(folder, name)}
    assert len(held) == 600
    others = {text for _, text in labelled(folder, "train")}
    for name in ("corpus.txt", "transfer.txt"):
        others |= set((folder / name).read_text().splitlines())
    assert not held & others


def test_degree_words_stand_in_the_corpus_alone(folder):
    degrees = {word for side in synthetic.DEGREES for word in side}
    for name in ("train.tsv", "dev.tsv", "test.tsv", "transfer.txt"):
        assert not degrees & set((folder / name).read_text().split())
    words = (folder / "corpus.txt").read_text().split()
    for place, word in enumerate(words):
        if word in degrees:
            assert word in synthetic.DEGREES[SIDE[words[place + 1]]]


def test_the_corpus_is_documents_of_one_opinion(folder):
    documents = (folder / "corpus.txt").read_text().split("\n\n")
    for document in documents:
        lines = document.strip().splitlines()
        assert 1 <= len(lines) <= 6
        assert len({label_of(line) for line in lines}) == 1
        assert all(re.fullmatch(r"[a-z ,]+ \.", line) for line in lines)
