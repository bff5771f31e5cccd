"""transformers on PyTorch, as its example scripts train, and tuned as a user who knows both would.

Stock pads to 128, computes MLM logits at every position and updates with plain AdamW. Tuned gathers
the masked positions, pads to the longest row of a batch of similar lengths, and updates with the
fused AdamW. Both use `scaled_dot_product_attention`, which transformers chooses by itself. Masking
is done beforehand for all of them, and is not measured. Tuned processes keep their memory as ours
do (`tune_memory`).
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np

from benchmarks import material
from benchmarks.ours import OPTIMIZER
from pd_jax.allocation import keep_memory
from pd_jax.models.sizes import BertConfig
from pd_jax.objectives.mlm import predictions_per_row

IGNORED = -100
"""The label that torch's cross-entropy leaves out."""


@dataclasses.dataclass(frozen=True)
class Style:
    """How a torch user trains."""

    name: str
    tuned: bool
    compiled: bool = False


STYLES = (
    Style("transformers, stock", tuned=False),
    Style("transformers, tuned", tuned=True),
    Style("transformers, tuned and compiled", tuned=True, compiled=True),
)


def tune_memory(*, tuned: bool) -> None:
    """Keeps freed memory in the process of a tuned peer; stock is left as it is.

    It gains torch's small models 15 to 40 %, too. A user who tunes sets it by glibc's variables,
    and a comparison in which only our side did so would measure the C library.
    """
    if tuned:
        keep_memory()


def available() -> str | None:
    """Returns None if torch and transformers can be imported, else what is missing."""
    try:
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as fault:
        return str(fault)
    return None


def make_model(job: str, shape: BertConfig) -> Any:
    """Returns the transformers model of a job, with the same shape and dropout as ours."""
    import transformers

    config = transformers.BertConfig(
        vocab_size=shape.vocab_size,
        num_hidden_layers=shape.layers,
        hidden_size=shape.hidden,
        num_attention_heads=shape.heads,
        intermediate_size=shape.intermediate,
        max_position_embeddings=shape.positions,
        hidden_dropout_prob=shape.dropout,
        attention_probs_dropout_prob=shape.attention_dropout,
    )
    config.num_labels = len(material.LABELS)
    kind = (
        transformers.BertForMaskedLM if job == "mlm" else transformers.BertForSequenceClassification
    )
    return kind(config)


class Trainer:
    """A torch model with its optimiser, and one training step in its style."""

    def __init__(self, job: str, shape: BertConfig, style: Style):
        import torch

        self.job, self.style = job, style
        self.model = make_model(job, shape).train()
        plain = [p for n, p in self.model.named_parameters() if "bias" in n or "LayerNorm" in n]
        decayed = [p for n, p in self.model.named_parameters() if p.dim() > 1]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": OPTIMIZER.weight_decay},
                {"params": plain, "weight_decay": 0.0},
            ],
            lr=OPTIMIZER.learning_rate,
            betas=(OPTIMIZER.beta1, OPTIMIZER.beta2),
            eps=OPTIMIZER.epsilon,
            **({"fused": True} if style.tuned else {}),
        )
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: 1.0)
        self.loss = torch.compile(self._loss) if style.compiled else self._loss

    def train(self, batches: Iterable[dict[str, Any]]) -> None:
        """Takes one step per batch; the loss of each is read, as a progress bar would do."""
        import torch

        for batch in batches:
            loss = self.loss(batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), OPTIMIZER.clip or 1.0)
            self.optimizer.step()
            self.scheduler.step()
            self.optimizer.zero_grad()
            loss.item()

    def _loss(self, batch: dict[str, Any]) -> Any:
        import torch
        from torch.nn import functional

        inputs = {name: batch[name] for name in ("input_ids", "token_type_ids", "attention_mask")}
        if self.job == "mlm" and not self.style.tuned:
            return self.model(**inputs, labels=batch["labels"]).loss
        if self.job == "mlm":
            states = self.model.bert(**inputs).last_hidden_state
            index = batch["positions"][..., None].expand(-1, -1, states.shape[-1])
            logits = self.model.cls(torch.gather(states, 1, index))
            return functional.cross_entropy(logits.flatten(0, 1), batch["targets"].flatten())
        if self.job == "fine-tune":
            return self.model(**inputs, labels=batch["labels"]).loss
        logits = self.model(**inputs).logits
        return functional.cross_entropy(logits, batch["teacher"])


def mlm_batches(batches: Sequence[dict[str, np.ndarray]], *, seed: int) -> list[dict[str, Any]]:
    """Returns our batches masked for torch: labels at every position, and at the masked ones."""
    import torch

    generator = np.random.default_rng(seed)
    made = []
    for batch in batches:
        ids = batch["input_ids"].astype(np.int64)
        rows, length = ids.shape
        count = predictions_per_row(length, 0.15)
        positions = np.argsort(generator.random((rows, length - 2)), axis=1)[:, :count] + 1
        targets = np.take_along_axis(ids, positions, axis=1)
        labels = np.full_like(ids, IGNORED)
        np.put_along_axis(labels, positions, targets, axis=1)
        np.put_along_axis(ids, positions, material.MASK, axis=1)
        arrays = {
            "input_ids": ids,
            "token_type_ids": batch["segment_ids"].astype(np.int64),
            "attention_mask": batch["input_mask"].astype(np.int64),
            "labels": labels,
            "positions": positions,
            "targets": targets,
        }
        made.append({name: torch.from_numpy(values) for name, values in arrays.items()})
    return made


Order = Literal["random", "grouped", "sorted"]


class Rows:
    """Tokenised rows in memory, batched as a `Dataset` and a collator would do."""

    def __init__(self, tokens: list[np.ndarray], labels: np.ndarray, teacher: np.ndarray):
        self.tokens, self.labels, self.teacher = tokens, labels, teacher

    def batches(self, rows: int, *, order: Order) -> Iterator[dict[str, Any]]:
        """Yields every row once; `random` pads to 128, the others to the longest of a batch.

        `grouped` is `group_by_length` of transformers' trainer: similar lengths within a random
        selection. `sorted` orders all rows by length, for work that needs no randomness.
        """
        numbers = self._numbers(rows, order)
        for first in range(0, len(numbers), rows):
            chosen = numbers[first : first + rows]
            longest = max(len(self.tokens[row]) for row in chosen)
            yield self._collate(chosen, material.LENGTH if order == "random" else longest)

    def _numbers(self, rows: int, order: Order) -> list[int]:
        lengths = [len(tokens) for tokens in self.tokens]
        if order == "sorted":
            return np.argsort(lengths, kind="stable").tolist()
        if order == "grouped":
            from transformers.trainer_pt_utils import get_length_grouped_indices

            return get_length_grouped_indices(lengths, rows)
        import torch

        return torch.randperm(len(lengths)).tolist()

    def _collate(self, chosen: list[int], length: int) -> dict[str, Any]:
        import torch

        ids = np.full((len(chosen), length), material.PAD, np.int64)
        mask = np.zeros_like(ids)
        for row, number in enumerate(chosen):
            tokens = self.tokens[number]
            ids[row, : len(tokens)], mask[row, : len(tokens)] = tokens, 1
        return {
            "input_ids": torch.from_numpy(ids),
            "attention_mask": torch.from_numpy(mask),
            "token_type_ids": torch.zeros(ids.shape, dtype=torch.int64),
            "labels": torch.from_numpy(self.labels[chosen].astype(np.int64)),
            "teacher": torch.softmax(torch.from_numpy(self.teacher[chosen]), dim=-1),
        }
