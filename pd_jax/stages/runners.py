"""What each kind of stage does: kind -> runner."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pd_jax.parallel import distributed
from pd_jax.stages.compare import run_compare
from pd_jax.stages.context import Context, Done
from pd_jax.stages.export import run_export
from pd_jax.stages.label import run_label
from pd_jax.stages.prepare import run_records, run_synthetic, run_tokenizer
from pd_jax.stages.train import run_together, run_train

RUNNERS: Mapping[str, Callable[[Any, Context], Done]] = {
    "synthetic": run_synthetic,
    "tokenizer": run_tokenizer,
    "records": run_records,
    "train": run_train,
    "label": run_label,
    "export": run_export,
    "compare": run_compare,
}

_ALONE = ("synthetic", "tokenizer", "records", "export", "compare")
"""Kinds of stage that process 0 runs while the others wait; all others need every process."""


def carry_out(stages: Sequence[Any], contexts: Sequence[Context]) -> Sequence[Done | Exception]:
    """Returns the result of a stage, or of several training stages in one program
    (`planning.vmap_groups`); what process 0 does alone has a result only there.
    """
    if len(stages) > 1:
        return run_together(stages, contexts)
    (stage,), (context,) = stages, contexts
    run = RUNNERS[stage.kind]
    if stage.kind not in _ALONE:
        return [run(stage, context)]
    done = distributed.by_writer(f"stage {context.name}", lambda: run(stage, context))
    return [Done() if done is None else done]
