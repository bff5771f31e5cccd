"""Every config that reads development data runs to completion, as a smoke run, on made-up text."""

import pathlib
import random

import pytest
from etils import epath

from pd_jax import pipeline, report
from pd_jax.config import reading
from tests.golden.test_configs import CONFIGS, load

ROWS = 400
TASKS = {
    "sst2": (("0", "1"), False),
    "mnli_subset": (("entailment", "neutral", "contradiction"), True),
    "rte": (("entailment", "not_entailment"), True),
}
RUNNING = ("transfer/imdb_unsup", "corpus/wiki", "corpus/novels")
OTHER = ("amazon_electronics_kitchen_unlabelled", "reuters_news_unlabelled")


class Text:
    """Sentences of made-up words, each sentence another."""

    def __init__(self) -> None:
        self._draw = random.Random(0)
        syllables = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]
        self._words = ["".join(self._draw.choices(syllables, k=3)) for _ in range(6_000)]

    def sentence(self) -> str:
        return " ".join(self._draw.choices(self._words, k=self._draw.randint(4, 12)))

    def documents(self) -> str:
        lines = [self.sentence() + ("\n" if at % 5 == 4 else "") for at in range(ROWS)]
        return "\n".join(lines) + "\n"

    def table(self, labels: tuple[str, ...], *, pair: bool) -> str:
        names = ("text_a", "text_b") if pair else ("text",)
        header = (*(("label",) if labels else ()), *names)
        rows = [
            (*((self._draw.choice(labels),) if labels else ()), *(self.sentence() for _ in names))
            for _ in range(ROWS)
        ]
        return "".join("\t".join(row) + "\n" for row in [header, *rows])


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> pathlib.Path:
    """A folder laid out as the README says, with a few made-up sentences in each file."""
    folder, text = tmp_path_factory.mktemp("data"), Text()
    files = {f"{name}.txt": text.documents() for name in RUNNING}
    files |= {
        f"transfer/{name}.txt": "\n".join(text.sentence() for _ in range(ROWS)) + "\n"
        for name in OTHER
    }
    files["transfer/nli_pairs_unlabelled.tsv"] = text.table((), pair=True)
    for task, (labels, pair) in TASKS.items():
        for name in ("train", "dev", "test"):
            files[f"tasks/{task}/{name}.tsv"] = text.table(labels, pair=pair)
    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    letters = "abcdefghijklmnopqrstuvwxyz"
    pieces = [*special, *letters, *(f"##{letter}" for letter in letters)]
    files["vocab/vocab.txt"] = "\n".join(pieces) + "\n"
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", [path for path in CONFIGS if "finetune" not in path.parts], ids=str
)
def test_a_config_runs_to_its_end(path, data, tmp_path, monkeypatch):
    monkeypatch.setenv("PD_JAX_DATA", str(data))
    config = reading.pipeline_from(load(path, "smoke")[0])
    workdir = epath.Path(tmp_path)
    pipeline.run(config, workdir, say=print)
    assert len(list(workdir.glob("stages/*/done.json"))) > 4
    assert report.read_report(workdir, config.name).write_page().exists()


@pytest.mark.slow
def test_a_study_pre_trains_on_next_sentences(data, tmp_path, monkeypatch):
    monkeypatch.setenv("PD_JAX_DATA", str(data))
    path = pathlib.Path("study/sizes.py")
    config = reading.pipeline_from(load(path, "smoke,next_sentence")[0])
    workdir = epath.Path(tmp_path)
    wanted = ("vocabulary", "corpus_general", "pretrain_L2_H32")
    pipeline.run(config, workdir, only=wanted, say=print)
    (metrics,) = workdir.glob("stages/pretrain_L2_H32-*/metrics.jsonl")
    assert "nsp" in metrics.read_text()
