"""Parsers of text tables and of what a run leaves behind, at work on a folder of their own."""

import gzip
import json
import os
import pathlib
import random
import shutil
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow
from etils import epath
from pyarrow import parquet

from pd_jax import config, files, report
from pd_jax.data.text import corpora
from pd_jax.inputs import InputDigests
from pd_jax.training import loop
from pd_jax.training.checkpoint import Checkpoints
from pd_jax.training.state import TrainState
from tests.fuzzing import mutate
from tests.fuzzing.engine import Target, in_file
from tests.fuzzing.mutate import Mutator
from tests.unit.report.conftest import Workdir

# ---- tables ------------------------------------------------------------------------------------


def table(path: pathlib.Path, mutator: Mutator, content: bytes) -> Target:
    source = config.Source(path=str(path), text="text", label="label")

    def parse() -> object:
        pieces = [piece for shard in corpora.split(source, 3) for piece in shard]
        found = [row for piece in pieces for row in corpora.rows(piece)]
        return found, list(corpora.documents(source))

    return in_file(path, mutator, parse, seeds=(content,))


def plain_text(folder: pathlib.Path) -> Target:
    """Plain text in documents."""
    path = folder / "x.txt"
    source = config.Source(path=str(path))

    def parse() -> object:
        pieces = [piece for shard in corpora.split(source, 3) for piece in shard]
        return [list(corpora.documents(piece)) for piece in pieces], list(corpora.rows(source))

    return in_file(path, mutate.spoil, parse, seeds=(b"One. Two.\nThree!\n\nFour\n" * 4,))


def zipped_text(folder: pathlib.Path) -> Target:
    """JSONL in a gzip file."""
    content = gzip.compress(b'{"text": "a film", "label": "1"}\n' * 5, mtime=0)
    return table(folder / "x.jsonl.gz", mutate.zipped(mutate.spoil), content)


def jsonl(folder: pathlib.Path) -> Target:
    """JSONL."""
    lines = [{"text": "a film", "label": 1}, {"text": "é", "label": [1, 2]}] * 3
    content = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    return table(folder / "x.jsonl", mutate.spoil_lines, content)


def tsv(folder: pathlib.Path) -> Target:
    """TSV."""
    return table(folder / "x.tsv", mutate.spoil, b"label\ttext\n1\ta film\n0\tb\n" * 3)


def csv(folder: pathlib.Path) -> Target:
    """CSV."""
    content = b'text,label\n"a ""film"",\nof two",1\nb,0\n'
    return table(folder / "x.csv", mutate.spoil, content)


def parquet_file(folder: pathlib.Path) -> Target:
    """Parquet."""
    path = folder / "made.parquet"
    columns = {"text": ["a film", "b", "c"] * 5, "label": [1, 0, 1] * 5}
    parquet.write_table(pyarrow.table(columns), path, row_group_size=4)
    return table(folder / "x.parquet", mutate.spoil, path.read_bytes())


# ---- what a run leaves -------------------------------------------------------------------------


def workdir_in(folder: pathlib.Path, find: Callable[[pathlib.Path], pathlib.Path]) -> Target:
    made = Workdir(folder / "work")
    made.plain("text", "synthetic", 1.4)
    for name in ("pd", "basic"):
        made.train(
            name, objective="mlm", needs=("text",), final=0.9, loss=(3, 1), steps=8, seconds=2.0
        )
    made.write({"PD": "pd", "basic": "basic"})
    path = find(folder / "work")
    lines = path.suffix == ".jsonl"

    def parse() -> object:
        found = report.read_report(folder / "work", "quickstart")
        return found.as_text(), found.write_page()

    content = path.read_bytes()
    seed = b"".join(content.splitlines(keepends=True)[-20:]) if lines else content
    return in_file(path, mutate.spoil_lines if lines else mutate.spoil_json, parse, seeds=(seed,))


def pipeline_record(folder: pathlib.Path) -> Target:
    """pipelines/NAME.json, read by the report."""
    return workdir_in(folder, lambda work: work / "pipelines" / "quickstart.json")


def stage_result(folder: pathlib.Path) -> Target:
    """done.json of a stage, read by the report."""
    return workdir_in(folder, lambda work: next((work / "stages").glob("pd-*/done.json")))


def stage_config(folder: pathlib.Path) -> Target:
    """config.json of a stage, read by the report."""
    return workdir_in(folder, lambda work: next((work / "stages").glob("pd-*/config.json")))


def stage_metrics(folder: pathlib.Path) -> Target:
    """metrics.jsonl of a stage, read by the report."""
    return workdir_in(folder, lambda work: next((work / "stages").glob("pd-*/metrics.jsonl")))


def stage_spans(folder: pathlib.Path) -> Target:
    """spans.jsonl of a stage, read by the report."""
    return workdir_in(folder, lambda work: next((work / "stages").glob("pd-*/spans.jsonl")))


def input_digests(folder: pathlib.Path) -> Target:
    """inputs.json, the memory of a workdir for digests of its inputs."""
    path, read = folder / "inputs.json", folder / "corpus.txt"
    read.write_text("text")
    os.utime(read, (0, 0))  # a file of this moment is not remembered
    first = InputDigests(epath.Path(path))
    first.of(str(read), stage="s")
    first.save()

    def parse() -> object:
        digests = InputDigests(epath.Path(path))
        found = digests.of(str(read), stage="s")
        digests.save()
        return found

    return in_file(path, mutate.spoil_json, parse)


def checkpoint_note(folder: pathlib.Path) -> Target:
    """What a checkpoint says beside its arrays, its digest made to fit."""
    good, at_work = folder / "good", folder / "work"
    state = TrainState(jnp.zeros((), jnp.int32), {"w": jnp.ones(3)}, (), jnp.ones((), bool))
    made = Checkpoints(epath.Path(good), keep=2, warn=print)
    note = {"step": 4, "seconds": 1.5, "metrics": {"train/loss": 1.0}, "totals": {"loss": [1, 2]}}
    made.save(4, state, {**note, "best_step": 2, "best_value": 0.5})
    made.close()
    (path,) = (one for one in (good / "4").iterdir() if "METADATA" in one.name)
    like = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state
    )

    def mutator(chance: random.Random, content: bytes) -> bytes:
        found = mutate.spoil_json(chance, content)
        try:
            value = json.loads(found)
            sealed = value["custom_metadata"]
            sealed["note"] = mutate.spoil_value(chance, sealed["note"])
            del sealed["digest"]
            sealed["digest"] = files.digest_json(sealed)
            return json.dumps(value).encode()
        except (ValueError, TypeError, KeyError, RecursionError):
            return found

    def read(content: bytes) -> object:
        shutil.rmtree(at_work, ignore_errors=True)
        shutil.copytree(good, at_work / "checkpoints")
        (at_work / "checkpoints" / "4" / path.name).write_bytes(content)
        checkpoints = Checkpoints(epath.Path(at_work / "checkpoints"), keep=2, warn=str)
        try:
            restored = checkpoints.restore(like)
        finally:
            checkpoints.close()
        assert restored is not None
        return loop._standing(restored[1]), np.asarray(restored[0].params["w"])

    return Target((path.read_bytes(),), mutator, read)
