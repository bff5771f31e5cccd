"""Reviews written by a seeded grammar: text for running the whole chain without any data.

A sentence judges parts of a thing, and its label is its overall judgement. Getting that right takes
two things. One is vocabulary: some three hundred adjectives carry a sentiment, and a small labelled
set shows only some of them; the corpus teaches which are similar, by the degree words that it puts
before them. The other is composition: a negator reverses the adjective after it, and of two clauses
that disagree the main one decides.
"""

import bisect
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
from etils import epath

from pd_jax import files
from pd_jax.config import SyntheticStage

LABELS = ("negative", "positive")
NEGATIVE = """
    bad poor awful terrible dull horrible boring weak ugly disappointing unpleasant dreadful
    clumsy tedious mediocre annoying stale bland shallow sloppy messy abysmal absurd aimless
    amateurish appalling arrogant atrocious awkward banal bitter bleak bloated broken careless
    cheap chaotic cheesy cold confusing contrived cramped crude cruel cynical damaged dated
    defective deficient dense deplorable depressing derivative dim dingy dirty dismal dishonest
    disjointed distasteful drab dreary empty erratic excessive faulty feeble filthy flawed
    flimsy foolish forgettable foul fragile frail frustrating ghastly gloomy grim gross harsh
    hateful hideous hollow hopeless horrid horrendous hostile humourless idiotic ignorant
    inadequate incoherent incompetent inept inferior insipid insufferable insulting intolerable
    irrelevant irritating joyless jumbled laboured lacklustre lame laughable lazy lifeless limp
    loathsome lousy ludicrous miserable monotonous muddled murky mundane nasty nauseating noisy
    obnoxious obsolete offensive overpriced overrated painful pathetic pitiful pointless
    pretentious primitive repulsive ridiculous rotten rough rude sad senseless shabby shoddy
    sickening silly sluggish soulless sour stilted stupid superficial tacky tasteless tiresome
    toxic trashy
""".split()
POSITIVE = """
    good great nice excellent wonderful lovely brilliant superb charming delightful impressive
    pleasant perfect fantastic beautiful splendid marvellous graceful elegant inspiring
    memorable refreshing satisfying stunning terrific admirable adorable amazing appealing
    astonishing awesome captivating cheerful compelling comforting confident convincing cosy
    dazzling decent delicate dependable divine dynamic eloquent enchanting endearing engaging
    enjoyable entertaining exceptional exciting exemplary exquisite extraordinary fabulous
    faultless fascinating favourable fine flawless fresh generous genuine gifted glorious
    glowing gorgeous gratifying harmonious heartwarming helpful heroic honest ideal imaginative
    immaculate impeccable incredible ingenious innovative insightful intelligent inventive
    inviting irresistible joyful joyous likeable lively lovable luminous lush luxurious magical
    magnificent majestic masterful meticulous mesmerising neat noble outstanding passionate
    peerless phenomenal pleasing pleasurable poetic polished precious priceless pristine radiant
    remarkable reliable rewarding rich riveting robust sensational serene sincere skilful smart
    smooth soothing sparkling spectacular stellar stimulating striking stylish sublime sumptuous
    superior tasteful tender thoughtful thrilling timeless touching trusty unforgettable
    uplifting valuable vibrant vivid warm welcoming winning wise witty wondrous worthy
""".split()
ADJECTIVES = (NEGATIVE, POSITIVE)
"""By label, the frequent ones first."""

DEGREES = (
    ("utterly", "painfully", "hopelessly", "bitterly"),
    ("truly", "wholly", "warmly", "gladly"),
)
"""By label. Only the corpus uses them: they teach the adjectives without giving labels away."""
NEGATORS = ("not", "never", "hardly")
PEOPLE = tuple(
    "critics visitors customers readers guests reviewers anna peter maria omar lucy daniel".split()
)
THINGS = (
    "plot acting script ending dialogue cast camera direction",
    "soup dessert menu waiter steak salad kitchen wine",
    "room bed lobby pool view staff reception balcony",
    "screen battery keyboard charger speaker case button microphone",
    "chapter prose narrator prologue heroine translation cover style",
    "singer melody guitar drummer chorus sound stage violin",
    "engine seat gearbox brake dashboard steering boot suspension",
    "lesson teacher classroom library lecture textbook exam seminar",
)
"""What is judged, by its parts; a document is about one of them."""

_CONTRAST, _NEGATED, _NEGATED_IN_CONTRAST = 0.15, 0.12, 0.06
_DEGREE = 0.8
_RANK_OFFSET = 8.0
"""The word of rank r is used in proportion to 1 / (r + offset)."""


def write_synthetic(stage: SyntheticStage, folder: epath.PathLike) -> dict[str, int]:
    """Writes corpus.txt, transfer.txt, train.tsv, dev.tsv and test.tsv; returns sentences by file.

    Everything is a function of the stage alone. No sentence of dev or test is in another file, and
    no two labelled ones are equal.
    """
    folder = epath.Path(folder)
    seen: set[str] = set()
    counts: dict[str, int] = {}
    for name, count in (
        ("dev", stage.evaluation_rows),
        ("test", stage.evaluation_rows),
        ("train", stage.train_rows),
    ):
        rows = list(labelled_sentences(stage.seed, name, count, seen=seen))
        lines = "".join(f"{LABELS[label]}\t{text}\n" for text, label in rows)
        files.write_text(folder / f"{name}.tsv", "label\ttext\n" + lines)
        counts[f"{name}.tsv"] = len(rows)
    transfer = labelled_sentences(stage.seed, "transfer", stage.transfer_rows, seen=set(seen))
    lines = [text + "\n" for text, _ in transfer]
    files.write_text(folder / "transfer.txt", "".join(lines))
    found = list(documents(stage.seed, stage.corpus_sentences, seen=seen))
    files.write_text(folder / "corpus.txt", "\n".join("\n".join(one) + "\n" for one in found))
    return counts | {"transfer.txt": len(lines), "corpus.txt": sum(map(len, found))}


def labelled_sentences(
    seed: int, name: str, count: int, *, seen: set[str]
) -> Iterator[tuple[str, int]]:
    """Yields `count` sentences with labels, equally many of each label; adds them to `seen`.

    None of them was in `seen` before.
    """
    writer = _Writer(seed, name)
    for index in range(count):
        text = writer.sentence(index % 2, writer.parts(), without=seen)
        seen.add(text)
        yield text, index % 2


def documents(seed: int, sentences: int, *, seen: Collection[str]) -> Iterator[list[str]]:
    """Yields documents of 4 to 6 sentences on one thing, of one opinion, none of them in `seen`."""
    writer = _Writer(seed, "corpus")
    while sentences > 0:
        label, parts = writer.pick((0, 1)), writer.parts()
        length = min(writer.pick((4, 5, 6)), sentences)
        yield [writer.sentence(label, parts, without=seen) for _ in range(length)]
        sentences -= length


class _Writer:
    """Generates sentences from the stream of random numbers that `seed` and `name` identify."""

    def __init__(self, seed: int, name: str):
        digest = files.digest_bytes(str(seed).encode(), name.encode())
        self._random = np.random.default_rng(int(digest, 16)).random
        weights = 1.0 / (np.arange(len(NEGATIVE)) + _RANK_OFFSET)
        self._ranks = list(np.cumsum(weights / weights.sum()))
        self._degree = _DEGREE if name == "corpus" else 0.0

    def pick(self, choices: Sequence) -> Any:
        """Returns one of `choices`, each as likely as the others."""
        return choices[int(self._random() * len(choices))]

    def parts(self) -> list[str]:
        """Returns the parts of one thing."""
        return self.pick(THINGS).split()

    def sentence(self, label: int, parts: Sequence[str], *, without: Collection[str]) -> str:
        """Returns a sentence about some of `parts` that expresses `label`; none of `without`."""
        while (text := " ".join([*self._words(label, parts), "."])) in without:
            pass
        return text

    def _words(self, label: int, parts: Sequence[str]) -> list[str]:
        if self._random() < _CONTRAST:
            other = self._clause(1 - label, parts, _NEGATED_IN_CONTRAST)
            main = self._clause(label, parts, _NEGATED_IN_CONTRAST)
            orders = (
                [*other, "but", *main],
                ["although", *other, ",", *main],
                [*main, "even", "though", *other],
            )
            return self.pick(orders)
        clause = self._clause(label, parts, _NEGATED)
        if self._random() < 0.3:
            return [*clause, "and", *self._clause(label, parts, _NEGATED)]
        return clause

    def _clause(self, label: int, parts: Sequence[str], negated: float) -> list[str]:
        """Returns one judgement; a negated one uses an adjective of the other label."""
        part = self.pick(parts)
        if self._random() < negated:
            return ["the", part, "was", self.pick(NEGATORS), *self._adjective(1 - label)]
        kind = self.pick(("two", "two", "before", "found", "one"))
        first, second = self._adjective(label), self._adjective(label)
        if kind == "two":
            return ["the", part, "was", *first, "and", *second]
        if kind == "before":
            return ["the", *first, part, "was", *second]
        if kind == "found":
            return [self.pick(PEOPLE), "found", "the", part, *first, "and", *second]
        return ["the", part, "was", *first]

    def _adjective(self, label: int) -> list[str]:
        """Returns an adjective of a label, in the corpus mostly with a degree word of the label."""
        degree = [self.pick(DEGREES[label])] if self._random() < self._degree else []
        rank = bisect.bisect(self._ranks, self._random())
        return [*degree, ADJECTIVES[label][min(rank, len(NEGATIVE) - 1)]]
