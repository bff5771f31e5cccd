"""Every parser that reads files from outside, by name."""

import pathlib
from collections.abc import Callable, Mapping

from tests.fuzzing import data, models, runs
from tests.fuzzing.engine import Target

PARSERS: Mapping[str, Callable[[pathlib.Path], Target]] = {
    maker.__name__: maker
    for maker in (
        data.record_frames, data.zipped_frames, data.examples, data.foreign_records,
        data.dataset_manifest, data.dataset_index, data.dataset_shard, data.shard_note,
        data.store_manifest, data.store_shard, data.store_note,
        models.safetensors, models.safetensors_index, models.model_config,
        models.torch_archive, models.torch_stream,
        models.tf1_index, models.tf1_data, models.tf1_config,
        models.vocabulary, models.tokenizer_config, models.tokenizer_json, models.sentence_pieces,
        runs.plain_text, runs.zipped_text, runs.jsonl, runs.tsv, runs.csv, runs.parquet_file,
        runs.pipeline_record, runs.stage_result, runs.stage_config, runs.stage_metrics,
        runs.stage_spans, runs.input_digests, runs.checkpoint_note,
    )
}  # fmt: skip
