"""Nearness of texts by ranks of n-grams, held to sums done by hand."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pd_jax.config import Source
from pd_jax.data.text import corpora, similarity
from pd_jax.data.text.similarity import Words, correlation, frequencies
from pd_jax.errors import SourceError
from pd_jax.tools import command
from pd_jax.tools import similarity as tool


def both(first, second):
    words = Words()
    return words, frequencies(first, words), frequencies(second, words)


def test_ngrams_are_counted_within_texts_whatever_their_case():
    words, found, _ = both(["The cat, the CAT", "cat"], ["x"])
    the, cat, comma = (words.numbers(word)[0] for word in ("the", "cat", ","))
    ones = dict(zip(found[1].ngrams.tolist(), found[1].counts.tolist(), strict=True))
    assert ones == {the: 2, cat: 3, comma: 1}
    # the-cat twice, cat-, and ,-the once; nothing joins the last word of one text to the next text
    assert sorted(found[2].counts.tolist()) == [1, 1, 2] and found[2].total == 4
    assert found[3].total == 3


def test_marks_are_parts_of_words_and_chinese_characters_are_words():
    words = Words()
    counts = [
        len(words.numbers(text)) for text in ("हिन्दी भाषा", "ม้า", "我喜欢 it。", "ノート", "❤️ i̇")
    ]
    assert counts == [2, 1, 5, 3, 3]
    assert words.numbers("दिन") != words.numbers("दान")
    latin = "Déjà-vu: naïve œuvre_1, £5 (½)"
    assert words.numbers(latin) == words.numbers(" ".join(re.findall(r"\w+|[^\w\s]", latin)))


def test_equal_values_share_the_mean_of_their_ranks():
    assert similarity.mean_ranks(np.array([5, 1, 3, 3, 9])).tolist() == [4.0, 1.0, 2.5, 2.5, 5.0]


def test_spearman_by_hand():
    _, first, second = both(["a a a b b c"], ["a b b c c c d d d d"])
    # a b c have counts 3 2 1 and 1 2 3: the ranks are each other's reverse.
    assert correlation(first, second, size=1, vocabulary=10).value == pytest.approx(-1.0)
    _, first, second = both(["a a a a b b b c c d"], ["a a b b b c"])
    # Counts 4 3 2 1 and 2 3 1 0, ranks 4 3 2 1 and 3 4 2 1: 1 - 6 * 2 / (4 * 15) = 0.8.
    assert correlation(first, second, size=1, vocabulary=10).value == pytest.approx(0.8)
    # With ties, counts 2 1 1 and 1 2 0: ranks 3 1.5 1.5 and 2 3 1;
    # centred 1 -.5 -.5 and 0 1 -1: 0 / ... = 0.
    _, first, second = both(["a a b c"], ["a b b"])
    assert correlation(first, second, size=1, vocabulary=10).value == pytest.approx(0.0)


def test_the_vocabulary_is_the_labelled_sets_most_frequent():
    _, first, second = both(["a a a b b c"], ["a a b c c c d d d d d"])
    assert len(correlation(first, second, size=1, vocabulary=10).first) == 3
    assert correlation(first, second, size=1, vocabulary=2).value == pytest.approx(1.0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text("abc d", min_size=1, max_size=30), min_size=1, max_size=20))
def test_a_text_is_as_near_as_can_be_to_itself(texts):
    try:
        _, first, second = both(texts, texts)
        values = [correlation(first, second, size=n, vocabulary=9).value for n in similarity.SIZES]
    except SourceError:
        return
    assert values == pytest.approx([1.0, 1.0, 1.0])


def test_blocks_and_sums_change_nothing(monkeypatch):
    chance = np.random.default_rng(0)
    texts = [" ".join(chance.choice(list("abcdefg"), 6)) for _ in range(300)]
    whole = frequencies(texts, Words())
    monkeypatch.setattr(similarity, "_TEXTS_AT_ONCE", 7)
    monkeypatch.setattr(similarity, "_WAITING_NGRAMS", 50)
    parts = frequencies(texts, Words())
    for size in similarity.SIZES:
        assert whole[size].ngrams.tolist() == parts[size].ngrams.tolist()
        assert whole[size].counts.tolist() == parts[size].counts.tolist()


@pytest.mark.parametrize("texts", [[], ["", " "]])
def test_no_words_is_said_so(texts):
    with pytest.raises(SourceError, match="no words in the text"):
        frequencies(texts, Words())


def test_nothing_to_rank_is_said_so():
    _, first, second = both(["a b c"], ["a b b"])
    with pytest.raises(SourceError, match="equally frequent"):
        correlation(first, second, size=1, vocabulary=10)


def test_rows_that_speak_like_the_labelled_set_are_chosen_in_order():
    films = ["a good film", "the film was good", "a bad film", "good acting in a bad film"]
    news = ["shares rose", "the bank cut its rate", "oil shares fell", "the rate of the bank"]
    pool = [news[0], films[1], news[1], "", films[3], news[3]]
    words, near, among = both(films, [*news, *pool])
    chosen = similarity.choose(pool, near=near, among=among, words=words, rows=2)
    assert chosen.tolist() == [1, 4]
    everything = similarity.choose(pool, near=near, among=among, words=words, rows=99)
    assert everything.tolist() == list(range(6))


def test_a_score_by_hand():
    words, near, among = both(["a a b"], ["b c"])
    # Words: p(near) = 3/6 2/6 1/6 and p(among) = 1/5 2/5 2/5 of a b c, each count one more.
    # Bigrams aa ab bc: near 2 2 1 of 5, among 1 1 2 of 4. Text "a b": a, b, ab.
    expected = np.log((3 / 6) / (1 / 5)) + np.log((2 / 6) / (2 / 5)) + np.log((2 / 5) / (1 / 4))
    tables = [similarity._ratios(near[size], among[size]) for size in (1, 2)]
    found = similarity._scores(["a b", ""], tables, words)
    assert found[0] == pytest.approx(expected / 13) and found[1] == -np.inf


def test_the_picture_is_dark_where_ranks_agree():
    _, first, _ = both([" ".join(f"w{n} " * (n + 1) for n in range(64))], ["x"])
    found = correlation(first, first, size=1, vocabulary=64)
    rows = similarity.picture(found, width=8, height=8).splitlines()
    assert [row[3:] for row in rows[:8]] == [" " * (7 - n) + "@" + " " * n for n in range(8)]


def run(*arguments):
    return command.run(tool.main, [str(argument) for argument in arguments])


@pytest.fixture
def sets(tmp_path):
    films = "the film was good\na good film\nthe film was bad\na bad film\n"
    (tmp_path / "train.tsv").write_text("sentence\n" + films)
    (tmp_path / "films.txt").write_text("the film was good\n\nwhat a good film\nthe plot was\n")
    news = "the bank rose\tthe rate fell\nthe film was bad\ta good film\n"
    (tmp_path / "news.tsv").write_text("a\tb\n" + news)
    return tmp_path


def test_the_command_compares_sets(sets, capsys):
    labelled = ("--labelled", sets / "train.tsv", "--labelled-text-column", "sentence")
    assert run(*labelled, "--transfer", sets / "films.txt", sets / "films.txt") == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert lines[0].split() == ["transfer", "set", "words", "bigrams", "trigrams"]
    assert lines[1] == lines[2] and lines[1].startswith(str(sets / "films.txt"))
    assert "frequency 0" in lines[3]
    assert "the labelled set's 10,000 most frequent words" in printed.err


def test_the_command_writes_the_nearest_rows(sets, capsys):
    labelled = ("--labelled", sets / "train.tsv", "--labelled-text-column", "sentence")
    columns = ("--transfer-text-column", "a", "--transfer-pair-column", "b")
    transfer = ("--transfer", sets / "news.tsv", *columns)
    out = sets / "near.tsv"
    assert run(*labelled, *transfer, "--select", 1, "--output", out) == 0
    assert out.read_text() == "text\tpair\nthe film was bad\ta good film\n"
    printed = capsys.readouterr().out
    assert printed.endswith(f"1 nearest rows: {out}\n") and "upwards" in printed


def test_rows_that_are_written_as_tsv_are_read_again(sets):
    out = sets / "near.tsv"
    labelled = ("--labelled", sets / "train.tsv", "--labelled-text-column", "sentence")
    transfer = ("--transfer", sets / "films.txt", "--select", 9, "--output", out)
    assert run(*labelled, *transfer) == 0
    texts = ["the film was good", "what a good film", "the plot was"]
    assert [row.text for row in corpora.rows(Source(path=str(out)))] == texts


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--select", "1"], "give --select N and --output FILE together"),
        (["--select", "1", "--output", "x"], "name only one in --transfer"),
    ],
)
def test_the_command_refuses_what_does_not_fit(sets, capsys, arguments, message):
    both_ = (sets / "films.txt", sets / "films.txt")
    assert run("--labelled", sets / "films.txt", "--transfer", *both_, *arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--select", "--vocabulary", "--sample-rows"])
def test_the_command_counts_from_one(sets, capsys, option):
    films = sets / "films.txt"
    with pytest.raises(SystemExit):
        run("--labelled", films, "--transfer", films, option, "0")
    assert f"argument {option}: '0' is not a whole number from 1 on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("transfer", "output"),
    [("films.txt", "films.txt"), ("film?.txt", "films.txt"), ("films.txt", "train.tsv")],
)
def test_the_command_overwrites_nothing_that_it_reads(sets, capsys, transfer, output):
    before = (sets / output).read_bytes()
    labelled = ("--labelled", sets / "train.tsv", "--labelled-text-column", "sentence")
    select = ("--transfer", sets / transfer, "--select", 1, "--output", sets / output)
    assert run(*labelled, *select) == 2
    told = capsys.readouterr().err
    assert told == f"error: --output={sets / output} is a file that is read; name another one\n"
    assert (sets / output).read_bytes() == before
