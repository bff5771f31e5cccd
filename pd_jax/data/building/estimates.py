"""Estimates the size of a dataset and the time to build it from a sample of its text."""

import dataclasses
import tempfile
import time

from etils import epath

from pd_jax import config
from pd_jax.data.building import build, plans
from pd_jax.data.building.watched import watch
from pd_jax.data.records import manifest
from pd_jax.data.text import corpora
from pd_jax.data.tokenizers.tokenizer import Tokenizer

_SAMPLE_BYTES = 1 << 18
_SAMPLES = 16
_PASSES = 2


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What a build is expected to make. `seconds` are those of one core."""

    examples: int
    tokens: int
    megabytes: float
    seconds: float
    sampled_share: float


def estimate(stage: config.RecordsStage, tokenizer: Tokenizer) -> Estimate:
    """Returns an estimate of the full build, from building pieces from all over the sources.

    Nothing is left out of the sample: duplicates are known only once everything has been read.
    """
    plans.check(stage)
    sources = config.several(stage.source)
    total = source_bytes(sources)
    divided = corpora.split(sources, max(1, total // _SAMPLE_BYTES))
    whole_reads = any(piece.shares > 1 for pieces in divided for piece in pieces)
    count = min(len(divided), _PASSES if whole_reads else _SAMPLES)
    chosen = [divided[number * len(divided) // count] for number in range(count)]
    pieces = tuple(piece for some in chosen for piece in some)
    share = sum(piece.size for piece in pieces) / total
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(epath.Path(folder) / manifest.TOKENIZER_FOLDER)
        one = dataclasses.replace(stage, shards=1, deduplicate=False, exclude=())
        read = watch(file for piece in pieces for file in piece.files)
        task = plans.Task(
            one, pieces, folder, "sample", 0, tokenizer.fingerprint, None, None, "", read
        )
        began = time.monotonic()
        made = build.build_shard(task, lambda read: None)
        seconds = time.monotonic() - began
    return Estimate(
        examples=round(made.rows / share),
        tokens=round(made.tokens / share),
        megabytes=made.bytes / share / 1e6,
        seconds=seconds / share,
        sampled_share=share,
    )


def source_bytes(sources: tuple[config.Source, ...]) -> int:
    """Returns the sum of the sizes of the sources' files."""
    return sum(file.size for source in sources for file in corpora.source_files(source))
