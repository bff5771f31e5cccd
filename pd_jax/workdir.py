"""What lies where in a workdir, from which reports, resumed runs and other pipelines read.

`pipelines/NAME.json` records a pipeline (`record.py`). `stages/NAME-FINGERPRINT/` belongs to one
stage: CONFIG and VERSIONS are written as it begins, METRICS, SPANS and CHECKPOINTS while it trains,
DONE last of all. Its result is in the folder that OUTPUT names for its kind.
"""

PIPELINES = "pipelines"
STAGES = "stages"

CONFIG = "config.json"
VERSIONS = "versions.json"
METRICS = "metrics.jsonl"
"""Metrics by step, a line each time that they are logged."""
SPANS = "spans.jsonl"
"""Where the time went."""
CHECKPOINTS = "checkpoints"
PREDICTIONS = "predictions"
"""The outputs for every row of each evaluation set."""
DONE = "done.json"
"""What the stage reached and made. Without it, a stage is not finished."""

OUTPUT = {
    "synthetic": "text",
    "tokenizer": "tokenizer",
    "records": "records",
    "train": "model",
    "label": "logits",
    "export": "export",
    "compare": "comparison",
}
"""Kind of stage -> the folder inside its own that `@name` stands for."""
