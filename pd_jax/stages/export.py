"""A trained model in another program's format, with its tokenizer and a model card."""

import dataclasses
from collections.abc import Sequence

from etils import epath

from pd_jax import config as config_lib
from pd_jax.data.tokenizers.tokenizer import load_tokenizer
from pd_jax.models.export.results import Check
from pd_jax.models.export.write import as_exported, export
from pd_jax.models.weights import hf
from pd_jax.stages import model_card
from pd_jax.stages.context import Context, Done


def run_export(stage: config_lib.ExportStage, context: Context) -> Done:
    """Exports a stage's model, and records how far the export's outputs are from ours."""
    checks = export_model(stage, context.output("export"), name=context.name)
    names = ", ".join(check.file for check in checks)
    return Done(outputs={"files": names, "checks": [dataclasses.asdict(check) for check in checks]})


def export_model(
    stage: config_lib.ExportStage, output: epath.Path, *, name: str
) -> Sequence[Check]:
    """Writes `output` and returns how each file in it compares with the model.

    Raises:
      WeightsError: the outputs differ by more than rounding; then nothing is left behind.
    """
    source = epath.Path(stage.model)
    model, run = as_exported(hf.load(source)), model_card.read_run(source)

    def make_card(checks: Sequence[str]) -> str:
        return model_card.write_card(
            model, run, name=name, format=stage.format, licence=stage.licence, checks=checks
        )

    return export(
        model,
        load_tokenizer(source),
        output,
        format=stage.format,
        int8=stage.int8,
        card=make_card,
    )
