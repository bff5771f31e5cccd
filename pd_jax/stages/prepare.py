"""Stages that make text into records."""

from pd_jax import config as config_lib
from pd_jax.data.building.build import build_records
from pd_jax.data.records.dataset import Dataset
from pd_jax.data.records.doubts import doubts
from pd_jax.data.text.corpora import sentences
from pd_jax.data.text.synthetic import write_synthetic
from pd_jax.data.tokenizers.tokenizer import load_tokenizer, train_tokenizer
from pd_jax.processes import available_cores
from pd_jax.stages.context import Context, Done


def run_synthetic(stage: config_lib.SyntheticStage, context: Context) -> Done:
    """Writes the generated text files."""
    counts = write_synthetic(stage, context.output("synthetic"))
    return Done(examples=sum(counts.values()), outputs=counts)


def run_tokenizer(stage: config_lib.TokenizerStage, context: Context) -> Done:
    """Trains a vocabulary and writes it as a tokenizer folder."""
    sources = config_lib.several(stage.source)
    tokenizer = train_tokenizer((line for source in sources for line in sentences(source)), stage)
    tokenizer.save(context.output("tokenizer"))
    if tokenizer.vocab_size != stage.vocab_size:
        context.warn(
            f"the text gives {tokenizer.vocab_size:,} pieces, not vocab_size={stage.vocab_size:,}"
        )
    return Done(outputs={"vocab_size": tokenizer.vocab_size, "fingerprint": tokenizer.fingerprint})


def run_records(stage: config_lib.RecordsStage, context: Context) -> Done:
    """Builds a dataset with every core that this process may use."""
    tokenizer, folder = load_tokenizer(stage.tokenizer), context.output("records")
    manifest = build_records(
        stage, tokenizer, folder, name=context.name, workers=len(available_cores())
    )
    layout = stage.examples.layout
    for doubt in doubts(Dataset.open(folder), unk_id=tokenizer.unk_id, layout=layout):
        context.warn(doubt)
    return Done(
        examples=manifest.rows,
        outputs={
            "rows": manifest.rows,
            "tokens": manifest.tokens,
            "fingerprint": manifest.fingerprint,
        },
    )
