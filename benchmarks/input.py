"""Text into records and records into batches, against TensorFlow, torch and Hugging Face.

    python -m benchmarks.input --data ../shared/data

All figures are per second of processor time over all threads, that is per core, so that a busy
machine changes them little. Peers that are not installed (tensorflow-cpu; torch; datasets with
transformers) are reported as skipped. The cases:

* Batches of 256 x 128, shuffled, every row at most once. "From disk", every repetition opens the
  same TFRecord shards, and checks (CRC) and decodes each record: `pd_jax.data.feed`; tf.data with
  `parse_single_example` and `padded_batch`, like BERT's and Model Garden's input code; tf.data with
  `parse_example` on whole batches. "From memory", the tokens were decoded before:
  `pd_jax.data.feed`, which keeps a small dataset in memory once it has been read, against a torch
  DataLoader with `pad_sequence`.
* Text to masked-language examples of 128 tokens: `build_records` with one worker; `datasets.map`
  with the fast tokenizer and grouping, like run_mlm.py. Each runs in its own process.
* The share of padding in the batches of SST-2 and IMDb: padded, in buckets of length, and packed.
"""

import functools
import importlib.util
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from benchmarks import side_by_side
from benchmarks.side_by_side import OURS, Case, Peer, Skipped
from pd_jax import config, files
from pd_jax.data.building import build
from pd_jax.data.feed import batches as batches_lib
from pd_jax.data.records.dataset import Dataset
from pd_jax.data.text import corpora
from pd_jax.data.tokenizers.tokenizer import load_tokenizer

BATCH, LENGTH, STEPS = 256, 128, 100
"""The most steps; a small dataset takes as many as an epoch has."""
_SHUFFLE = 10_000
_BUCKETS = {128: (32, 64, 96, 128), 512: (64, 128, 192, 256, 384, 512)}
_PACKING = 16
_POLL_SECONDS = 0.05


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 after writing the figures."""
    parser = side_by_side.arguments(__doc__, "input", repetitions=5)
    default = os.environ.get("PD_JAX_DATA", "../shared/data")
    parser.add_argument("--data", type=pathlib.Path, default=pathlib.Path(default))
    parser.add_argument("--megabytes", type=float, default=6.0, help="of corpus text")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        made = _Made(arguments.data, pathlib.Path(scratch), int(arguments.megabytes * 1e6))
        result = side_by_side.run(
            "Input",
            _cases(made),
            repetitions=arguments.repetitions,
            output=arguments.output,
            command=side_by_side.command_line("input"),
        )
        result["padding"] = [_padding(made, *chosen) for chosen in _SETS]
    for line in result["padding"]:
        print(json.dumps(line))
    files.write_json(arguments.output, result)
    return 0


class _Made:
    """Text and datasets, made when first requested."""

    def __init__(self, data: pathlib.Path, scratch: pathlib.Path, size: int):
        self.data, self.scratch, self._size = data, scratch, size
        self.vocabulary = data / "vocab" / "vocab.txt"

    @functools.cached_property
    def corpus(self) -> pathlib.Path:
        """Complete documents from the beginning of the corpus."""
        path = self.scratch / "corpus.txt"
        with (self.data / "corpus" / "wiki.txt").open(encoding="utf-8") as source:
            lines, size = [], 0
            for line in source:
                lines.append(line)
                size += len(line.encode("utf-8"))
                if size > self._size and not line.strip():
                    break
        path.write_text("".join(lines), encoding="utf-8")
        return path

    @functools.cached_property
    def reviews(self) -> pathlib.Path:
        """IMDb's reviews, one a row."""
        path = self.scratch / "reviews.jsonl"
        source = config.Source(path=str(self.data / "transfer" / "imdb_unsup.txt"))
        with path.open("w", encoding="utf-8") as stream:
            for document, _ in zip(corpora.documents(source), range(5_000), strict=False):
                stream.write(json.dumps({"text": " ".join(document.sentences)}) + "\n")
        return path

    def dataset(self, source: config.Source, examples: Any, max_length: int) -> Dataset:
        """Returns the records of a source."""
        name = f"{pathlib.Path(str(source.path)).stem}-{source.rows or 'all'}-{max_length}"
        stage = config.RecordsStage(
            source=source,
            tokenizer=str(self.vocabulary),
            examples=examples,
            max_length=max_length,
            shards=4,
        )
        folder = self.scratch / name
        build.build_records(stage, load_tokenizer(self.vocabulary), folder, name="a", workers=1)
        return Dataset.open(folder)

    def sst2(self, rows: int | None = None) -> Dataset:
        """The sentences of SST-2, or the first of them."""
        path = str(self.data / "tasks" / "sst2" / "train.tsv")
        return self.dataset(config.Source(path=path, rows=rows), config.Rows(), LENGTH)

    def imdb(self) -> Dataset:
        """The reviews of IMDb, cut at 512 tokens."""
        return self.dataset(config.Source(path=str(self.reviews)), config.Rows(), 512)


def _cases(made: _Made) -> Iterator[Case]:
    yield _build_case(made)
    corpus = made.dataset(config.Source(path=str(made.corpus)), config.Corpus(), LENGTH)
    for name, dataset in (("corpus", corpus), ("SST-2", made.sst2(rows=STEPS * BATCH))):
        yield from _batch_cases(name, dataset)


def _batch_cases(name: str, dataset: Dataset) -> Iterator[Case]:
    """Yields the comparisons of reading and batching an epoch, and of batching alone."""
    steps = min(STEPS, len(dataset) // BATCH)
    paths = [str(dataset.folder / shard.file) for shard in dataset.manifest.shards]
    facts = {
        "tokens_an_example": round(dataset.manifest.tokens / len(dataset), 1),
        "steps": steps,
        "seconds": "of the processor",
    }

    def case(way: str, ours: Callable[[], Dataset], *peers: Peer | Skipped) -> Case:
        run = Peer(OURS, lambda: _consume(_feed(ours(), steps), steps), BATCH * steps)
        title = f"batches of {BATCH} x {LENGTH} from {way}, {name}"
        return Case(title, "examples", [run, *peers], facts=facts, clock=time.process_time)

    yield case(
        "disk",
        lambda: Dataset.open(dataset.folder),
        _tensorflow("tf.data, stock", functools.partial(_tf_stock, paths), steps),
        _tensorflow("tf.data, whole batches", functools.partial(_tf_batched, paths), steps),
    )
    yield case("memory", lambda: dataset, _torch(dataset, steps))


def _feed(dataset: Dataset, steps: int, **settings: Any) -> Iterator[dict[str, np.ndarray]]:
    given = {"records": "set", "batch": BATCH, "lengths": (LENGTH,), **settings}
    return batches_lib.make_feed(
        [dataset],
        config.Data(**given),
        seed=0,
        first_step=0,
        steps=steps,
        process_index=0,
        process_count=1,
        prefetch=4,
    )


def _consume(batches: Iterator[Any], steps: int) -> None:
    """Reads all batches; each must have the expected size."""
    count = 0
    for batch in batches:
        assert np.shape(batch["input_ids"]) == (BATCH, LENGTH)
        count += 1
    assert count == steps


def _tensorflow(name: str, make: Callable[[Any], Any], steps: int) -> Peer | Skipped:
    try:
        import tensorflow as tf
    except ImportError as fault:
        return Skipped(name, str(fault))

    def run() -> None:
        _consume(make(tf).take(steps).as_numpy_iterator(), steps)

    return Peer(name, run, BATCH * steps)


def _tf_stock(paths: Sequence[str], tf: Any) -> Any:
    """Returns the dataset as the reference code makes it, with each example parsed on its own."""
    wanted = {"input_ids": tf.io.FixedLenSequenceFeature([], tf.int64, allow_missing=True)}

    def parse(record: Any) -> dict[str, Any]:
        ids = tf.cast(tf.io.parse_single_example(record, wanted)["input_ids"], tf.int32)
        return {"input_ids": ids, "input_mask": tf.ones_like(ids), "segment_ids": ids * 0}

    made = tf.data.TFRecordDataset(paths).shuffle(_SHUFFLE, seed=0)
    made = made.map(parse, num_parallel_calls=tf.data.AUTOTUNE)
    made = made.padded_batch(
        BATCH, dict.fromkeys(("input_ids", "input_mask", "segment_ids"), [LENGTH])
    )
    return made.prefetch(tf.data.AUTOTUNE)


def _tf_batched(paths: Sequence[str], tf: Any) -> Any:
    """Returns the dataset with a batch's examples parsed at once."""
    wanted = {"input_ids": tf.io.RaggedFeature(tf.int64, row_splits_dtype=tf.int32)}

    def parse(records: Any) -> dict[str, Any]:
        ids = tf.cast(tf.io.parse_example(records, wanted)["input_ids"], tf.int32)
        padded = ids.to_tensor(shape=[BATCH, LENGTH])
        mask = tf.sequence_mask(ids.row_lengths(), LENGTH, tf.int32)
        return {"input_ids": padded, "input_mask": mask, "segment_ids": tf.zeros_like(padded)}

    made = tf.data.TFRecordDataset(paths).shuffle(_SHUFFLE, seed=0)
    made = made.batch(BATCH, drop_remainder=True)
    return made.map(parse, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def _torch(dataset: Dataset, steps: int) -> Peer | Skipped:
    try:
        import torch
    except ImportError as fault:
        return Skipped("torch DataLoader", str(fault))
    gathered = dataset.gather(np.arange(len(dataset)))
    rows = [
        torch.from_numpy(ids) for ids in np.split(gathered.tokens, np.cumsum(gathered.lengths)[:-1])
    ]

    def collate(examples: list[Any]) -> dict[str, Any]:
        padded = torch.nn.utils.rnn.pad_sequence(examples, batch_first=True)
        ids = torch.nn.functional.pad(padded, (0, LENGTH - padded.shape[1]))
        return {
            "input_ids": ids,
            "input_mask": (ids != 0).int(),
            "segment_ids": torch.zeros_like(ids),
        }

    def run() -> None:
        chance = torch.utils.data.RandomSampler(rows, num_samples=BATCH * steps)
        loader = torch.utils.data.DataLoader(rows, BATCH, sampler=chance, collate_fn=collate)
        _consume(iter(loader), steps)

    return Peer("torch DataLoader", run, BATCH * steps)


_HUGGING_FACE = """
import itertools, sys
import datasets, transformers
datasets.disable_progress_bars()
text, vocabulary, cache = sys.argv[1:]
tokenizer = transformers.BertTokenizerFast(vocabulary, model_max_length=1 << 30)
made = datasets.load_dataset("text", data_files=text, split="train", cache_dir=cache)
made = made.map(
    lambda rows: tokenizer(rows["text"], add_special_tokens=False),
    batched=True,
    remove_columns="text",
)
def group(rows):
    ids = list(itertools.chain(*rows["input_ids"]))
    whole = [ids[at : at + 126] for at in range(0, len(ids), 126)]
    ids = [[tokenizer.cls_token_id, *part, tokenizer.sep_token_id] for part in whole]
    return {"input_ids": ids, "attention_mask": [[1] * len(part) for part in ids]}
made = made.map(group, batched=True, remove_columns=made.column_names)
made.save_to_disk(cache + "/made")
print(len(made))
"""


def _build_case(made: _Made) -> Case:
    peaks: dict[str, float] = {}
    megabytes = made.corpus.stat().st_size / 1e6

    def process(name: str, *command: str) -> Callable[[], None]:
        def run() -> None:
            with tempfile.TemporaryDirectory(dir=made.scratch) as folder:
                peaks[name] = max(peaks.get(name, 0.0), _peak_of([*command, folder]))

        return run

    ours = process(
        OURS, "-m", "pd_jax.tools.build_records", "--input", str(made.corpus), "--layout", "corpus",
        "--tokenizer", str(made.vocabulary), "--workers", "1", "--output",
    )  # fmt: skip
    peers: list[Peer | Skipped] = [Peer(OURS, ours, megabytes)]
    missing = [name for name in ("datasets", "transformers") if not importlib.util.find_spec(name)]
    if missing:
        peers.append(Skipped("datasets.map", f"{' and '.join(missing)} not installed"))
    else:
        theirs = ("-c", _HUGGING_FACE, str(made.corpus), str(made.vocabulary))
        peers.append(Peer("datasets.map", process("datasets.map", *theirs), megabytes))
    facts = {"seconds": "of the processor", "megabytes": round(megabytes, 1), "peak_mb": peaks}
    name = f"text to examples of {LENGTH} tokens"
    return Case(name, "MB", peers, facts=facts, clock=_children_seconds)


def _peak_of(command: Sequence[str]) -> float:
    """Returns the most memory (MB) of a Python process that ran to its end."""
    # Polled: the peak that wait4 reports starts from that of the process that forked.
    peak = 0.0
    with tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(
            [sys.executable, *command], stdout=subprocess.DEVNULL, stderr=errors
        )
        while child.poll() is None:
            peak = max(peak, side_by_side.peak_bytes(child.pid) / 1e6)
            time.sleep(_POLL_SECONDS)
        if child.returncode:
            errors.seek(0)
            message = errors.read().decode(errors="replace")
            raise RuntimeError(f"exit {child.returncode}: {message[-500:]}")
    return round(peak, 1)


def _children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


_SETS: tuple[tuple[str, Callable[[_Made], Dataset], int], ...] = (
    ("SST-2 sentences", _Made.sst2, 128),
    ("IMDb reviews", _Made.imdb, 512),
)


def _padding(
    made: _Made, name: str, make: Callable[[_Made], Dataset], length: int
) -> dict[str, Any]:
    """Returns the share of padding in a set's batches, by the way of making batches."""
    dataset = make(made)
    ways = {
        "padded": {"lengths": (length,)},
        "buckets": {"lengths": _BUCKETS[length]},
        "packed": {"lengths": (length,), "packing": _PACKING},
    }
    shares: dict[str, Any] = {"set": name, "length": length}
    for way, settings in ways.items():
        places = filled = 0
        for batch in _feed(dataset, STEPS, **settings):
            places += batch["input_mask"].size
            filled += int((batch["input_mask"] > 0).sum())
        shares[way] = round(1 - filled / places, 4)
    return shares


if __name__ == "__main__":
    sys.exit(main())
