"""What each kind of stage does: kind -> runner."""

from collections.abc import Callable, Mapping
from typing import Any

from pd_jax.stages.compare import run_compare
from pd_jax.stages.context import Context, Done
from pd_jax.stages.export import run_export
from pd_jax.stages.label import run_label
from pd_jax.stages.prepare import run_records, run_synthetic, run_tokenizer
from pd_jax.stages.train import run_train

RUNNERS: Mapping[str, Callable[[Any, Context], Done]] = {
    "synthetic": run_synthetic,
    "tokenizer": run_tokenizer,
    "records": run_records,
    "train": run_train,
    "label": run_label,
    "export": run_export,
    "compare": run_compare,
}
