"""From nothing to the first step: imports, model, compiling, one step; in a new process each time.

python -m benchmarks.startup

The step is one of fine-tuning Tiny on a batch of 32 rows of 128 tokens. Ours compiles its step once
per machine and caches it (`pd_jax/compilation.py`): `pd_jax` finds it there, as every run but the
first does, and `pd_jax, first time` starts with an empty cache. transformers does the same work on
PyTorch, eagerly and compiled.
"""

import itertools
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator

from benchmarks import side_by_side
from benchmarks.side_by_side import OURS, Case, Peer

ROOT = pathlib.Path(__file__).resolve().parent.parent

IMPORT_OURS = "import pd_jax.pipeline"
IMPORT_THEIRS = "from transformers import BertForSequenceClassification, Trainer, TrainingArguments"
FIRST_STEP_OURS = """
from benchmarks import material, ours
from pd_jax import compilation
compilation.use_cache()
trainer = ours.Trainer(ours.make_objective("fine-tune", material.shape("Tiny")))
trainer.train([material.fixed_batch(32, seed=0)])
"""
FIRST_STEP_THEIRS = """
import torch
from transformers import BertConfig, BertForSequenceClassification
config = BertConfig(
    vocab_size=30522,
    num_hidden_layers=2,
    hidden_size=128,
    num_attention_heads=2,
    intermediate_size=512,
)
model = BertForSequenceClassification(config).train()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
compute = torch.compile(model) if COMPILED else model
ids, labels = torch.randint(1000, 30522, (32, 128)), torch.randint(0, 2, (32,))
loss = compute(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels).loss
loss.backward()
torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
optimizer.step()
loss.item()
"""


def process(name: str, program: str, cache: Iterator[str] | None = None) -> Peer:
    """Returns a peer that runs a program in a new process, each time with the next cache folder.

    If the program fails, `run` raises RuntimeError with the last line of its output.
    """

    def run() -> None:
        folder = {"PD_JAX_CACHE": next(cache)} if cache is not None else {}
        command = [sys.executable, "-W", "ignore", "-c", program]
        environment = {**os.environ, **folder}
        ended = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        if ended.returncode:
            raise RuntimeError((ended.stderr.strip().splitlines() or ["no word"])[-1])

    return Peer(name, run, 1.0)


def cases() -> Iterator[Case]:
    """Yields the comparisons, one at a time."""
    stock, compiled = "transformers, stock", "transformers, compiled"
    yield Case("import", "starts", (process(OURS, IMPORT_OURS), process(stock, IMPORT_THEIRS)))
    with tempfile.TemporaryDirectory() as folder:
        fresh = (os.path.join(folder, str(number)) for number in itertools.count())
        kept = itertools.repeat(os.path.join(folder, "kept"))
        peers = (
            process(OURS, FIRST_STEP_OURS, kept),
            process(f"{OURS}, first time", FIRST_STEP_OURS, fresh),
            process(stock, f"COMPILED = False{FIRST_STEP_THEIRS}"),
            process(compiled, f"COMPILED = True{FIRST_STEP_THEIRS}"),
        )
        yield Case("first step, Tiny", "starts", peers)


def _parser():
    return side_by_side.arguments(__doc__ or "", "startup", repetitions=5)


def main() -> int:
    """Returns 0 after the results are written."""
    options = _parser().parse_args()
    side_by_side.run(
        "Starting up",
        cases(),
        repetitions=options.repetitions,
        output=options.output,
        command=side_by_side.command_line("startup"),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
