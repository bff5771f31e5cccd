"""Parsers of records and logit stores, at work on a folder of their own."""

import gzip
import io
import json
import pathlib
import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from pd_jax import files
from pd_jax.data.logits.store import LogitStore, logits_faults
from pd_jax.data.records import audit, foreign, shards
from pd_jax.data.records.dataset import Dataset
from pd_jax.data.records.manifest import TokenizerInfo
from pd_jax.data.records.shards import INDEX
from pd_jax.data.wire import example, tfrecord
from tests import tiny
from tests.fuzzing import mutate
from tests.fuzzing.engine import Target, in_file
from tests.fuzzing.mutate import Mutator


def sealed_json(path: pathlib.Path, change: Callable[[dict], object]) -> None:
    """Writes what `change` makes of a sealed JSON file, with a digest that fits."""
    value = json.loads(path.read_text())
    change(value)
    path.write_bytes(mutate.seal(value))


# ---- records -----------------------------------------------------------------------------------


def record_frames(folder: pathlib.Path) -> Target:
    """TFRecord framing, plain."""
    payloads = (b"a", b"", b"x" * 300)
    whole = b"".join(tfrecord.frame(one, tfrecord.crc32c(one)) for one in payloads)
    path = folder / "x.tfrecord"
    return in_file(
        path, mutate.spoil_records, lambda: list(tfrecord.read_frames(path)), seeds=(whole,)
    )


def zipped_frames(folder: pathlib.Path) -> Target:
    """TFRecord framing in a gzip file."""
    plain = record_frames(folder)
    seeds = tuple(gzip.compress(seed, mtime=0) for seed in plain.seeds)
    return Target(seeds, mutate.zipped(plain.mutate), plain.read)


def examples(folder: pathlib.Path) -> Target:
    """tf.train.Example; by its documentation it raises ValueError."""
    seed = foreign_example().payload
    return Target((seed,), mutate.spoil, example.parse, (ValueError,))


def foreign_example() -> example.Encoded:
    ids = np.array([2, 9, 8, 3, 0, 0])
    return example.encode(
        {
            "input_ids": ids,
            "segment_ids": np.array([0, 0, 1, 1, 0, 0]),
            "input_mask": (ids > 0).astype(int),
            "masked_lm_positions": np.array([1, 0]),
            "masked_lm_ids": np.array([7, 0]),
            "masked_lm_weights": np.array([1.0, 0.0]),
            "next_sentence_labels": np.array([1]),
            "label_ids": np.array([1]),
        }
    )


def foreign_records(folder: pathlib.Path) -> Target:
    """BERT's and Model Garden's records, on their way into a dataset."""
    payload = foreign_example().payload
    path = folder / "x.tfrecord"
    tokenizer = TokenizerInfo("f", 64, 0, 1, 2, 3, 4)
    source = foreign._Source(str(path), tokenizer, "classification", ("no", "yes"), "d")

    def parse() -> object:
        written = shards.write_shard(
            folder / "set", "x", index=0, of=1, records=foreign._records(source)
        )
        return written

    framed = tfrecord.frame(payload, tfrecord.crc32c(payload)) * 2
    return in_file(path, mutate.spoil_records, parse, seeds=(framed,))


def dataset_in(folder: pathlib.Path) -> Callable[[], object]:
    """Makes a dataset, and returns what opens it, reads all of it, and audits it."""
    tiny.dataset(folder / "set", rows=8, shards=2)

    def parse() -> object:
        faults: list[str] = []
        dataset = Dataset.open(folder / "set")
        for number in range(len(dataset.manifest.shards)):
            faults += audit.shard_faults(folder / "set", dataset.manifest, number)
        dataset.gather(np.arange(len(dataset)))
        return dataset.lengths, faults

    return parse


def dataset_fingerprint(value: Mapping[str, Any]) -> str:
    return files.digest_json(
        {
            "rows": value["rows"],
            "shards": [shard["digest"] for shard in value["shards"]],
            "tokenizer": value["tokenizer"]["fingerprint"],
            "task": value["task"],
            "labels": value["labels"],
        }
    )


def store_fingerprint(value: Mapping[str, Any]) -> str:
    held = {
        name: one for name, one in value.items() if name not in ("name", "fingerprint", "settings")
    }
    for name in ("format", "digest"):
        held.pop(name, None)
    return files.digest_json({**held, "shards": [shard["digest"] for shard in value["shards"]]})


def fitting(fingerprint: Callable[[Mapping[str, Any]], str]) -> Mutator:
    """Returns a mutator of manifests whose fingerprint and digest fit what it did."""

    def mutator(chance: random.Random, content: bytes) -> bytes:
        found = mutate.spoil_json(chance, content)
        try:
            value = json.loads(found)
            value["fingerprint"] = fingerprint(value)
            return json.dumps(value).encode()
        except (ValueError, TypeError, KeyError, RecursionError, AttributeError):
            return found

    return mutate.sealed(mutator)


def dataset_manifest(folder: pathlib.Path) -> Target:
    """A dataset's manifest, its digests made to fit."""
    parse = dataset_in(folder)
    return in_file(folder / "set" / "manifest.json", fitting(dataset_fingerprint), parse)


def dataset_index(folder: pathlib.Path) -> Target:
    """A dataset's offset index, its digest made to fit."""
    parse = dataset_in(folder)
    path = folder / "set" / "set-00000-of-00002.index.npy"

    def fits() -> object:
        digest = files.digest_file(path)
        sealed_json(
            folder / "set" / "manifest.json",
            lambda value: value["shards"][0].update(index_digest=digest),
        )
        return parse()

    return in_file(path, mutate.spoil, fits)


def dataset_shard(folder: pathlib.Path) -> Target:
    """A dataset's payloads, checksums, index and digests made to fit."""
    parse = dataset_in(folder)
    path = folder / "set" / "set-00000-of-00002.tfrecord"
    index_path = folder / "set" / "set-00000-of-00002.index.npy"
    index = np.load(index_path)

    def fits() -> object:
        content, at = path.read_bytes(), tfrecord.HEADER_BYTES
        entries = index.copy()
        payloads = mutate.frames(content)
        for entry, payload in zip(entries, payloads, strict=False):
            entry["offset"], entry["size"] = at, len(payload)
            entry["crc"] = tfrecord.crc32c(payload)
            at += len(payload) + tfrecord.FOOTER_BYTES + tfrecord.HEADER_BYTES
        stream = io.BytesIO()
        np.save(stream, entries.astype(INDEX))
        index_path.write_bytes(stream.getvalue())

        def change(value: dict) -> None:
            value["shards"][0].update(
                bytes=len(content),
                digest=files.digest_file(path),
                index_digest=files.digest_file(index_path),
            )
            value["fingerprint"] = dataset_fingerprint(value)

        sealed_json(folder / "set" / "manifest.json", change)
        return parse()

    return in_file(path, mutate.spoil_records, fits)


def shard_note(folder: pathlib.Path) -> Target:
    """The note by which an interrupted build knows a whole shard."""
    dataset_in(folder)
    return in_file(
        folder / "set" / "set-00000-of-00002.shard.json",
        mutate.sealed(mutate.spoil_json),
        lambda: shards.whole_shard(folder / "set", "set", index=0, of=2),
    )


# ---- logit stores ------------------------------------------------------------------------------


def store_in(folder: pathlib.Path) -> Callable[[], object]:
    """Makes a logit store, and returns what opens it, reads all of it, and audits it."""
    dataset = tiny.dataset(folder / "set", rows=8, shards=2)
    values = np.arange(16, dtype=np.float32).reshape(8, 2)
    tiny.logit_store(folder / "store", dataset, values)
    ids = dataset.gather(np.arange(8)).example_ids

    def parse() -> object:
        store = LogitStore.open(folder / "store").check(dataset)
        faults = list(logits_faults(store, dataset))
        return store.read(np.arange(8), ids), faults

    return parse


def store_manifest(folder: pathlib.Path) -> Target:
    """A logit store's manifest, its digests made to fit."""
    parse = store_in(folder)
    return in_file(folder / "store" / "manifest.json", fitting(store_fingerprint), parse)


def store_shard(folder: pathlib.Path) -> Target:
    """A logit store's rows, checksums and digests made to fit."""
    parse = store_in(folder)
    path = folder / "store" / "set-00000-of-00002.tfrecord"

    def fits() -> object:
        def change(value: dict) -> None:
            value["shards"][0].update(bytes=path.stat().st_size, digest=files.digest_file(path))
            value["fingerprint"] = store_fingerprint(value)

        sealed_json(folder / "store" / "manifest.json", change)
        return parse()

    return in_file(path, mutate.spoil_records, fits)


def store_note(folder: pathlib.Path) -> Target:
    """The note by which an interrupted labelling knows a whole shard."""
    store_in(folder)
    dataset = Dataset.open(folder / "set")
    values = np.arange(16, dtype=np.float32).reshape(8, 2)

    def parse() -> object:
        (folder / "store" / "manifest.json").unlink(missing_ok=True)
        return tiny.logit_store(folder / "store", dataset, values)

    path = folder / "store" / "set-00000-of-00002.shard.json"
    return in_file(path, mutate.sealed(mutate.spoil_json), parse)
