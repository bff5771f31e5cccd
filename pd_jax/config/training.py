"""Models, objectives, and the one kind of stage that trains them."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Literal

import pydantic

from pd_jax.config.kinds import (
    Fraction,
    LogitsReference,
    ModelReference,
    Positive,
    Precision,
    ProperFraction,
    RecordsReference,
    Seed,
    frozen,
    require,
    require_name,
    require_rising,
    several,
)
from pd_jax.config.scores import BEST_BY
from pd_jax.errors import did_you_mean


@frozen
class Model:
    """A BERT. `size` is `L4_H256`, or a released name: Tiny, Mini, Small, Medium, Base, Large (any
    case). Learned positions are initialised like all weights, or as sinusoids (`position_init`). A
    model initialised with another's layers has that model's GELU, whatever `gelu` is.
    """

    size: str = "L4_H256"
    heads: Positive | None = None
    intermediate: Positive | None = None
    positions: Positive = 512
    gelu: Literal["exact", "tanh"] = "exact"
    dropout: ProperFraction = 0.1
    attention_dropout: ProperFraction = 0.1
    initializer_range: float = 0.02
    position_init: Literal["normal", "sinusoidal"] = "normal"


@frozen
class Init:
    """Where a model's first weights come from; without `source`, from the seed alone.

    `layers` chooses which layers of a deeper source become this model's; `scope="word_embeddings"`
    takes nothing but the word embeddings; `head="keep"` also takes the source's task head.
    """

    source: ModelReference | None = None
    layers: Literal["all", "bottom", "top", "every_other"] | tuple[int, ...] = "all"
    scope: Literal["model", "embeddings", "word_embeddings"] = "model"
    head: Literal["fresh", "keep"] = "fresh"

    def __post_init__(self) -> None:
        require(
            self.source is not None
            or (self.layers, self.scope, self.head) == ("all", "model", "fresh"),
            "layers, scope and head choose what to take from a source; set init.source",
        )


@frozen
class MaskedLanguageModel:
    """MLM as in BERT, with new masks at every step; with `next_sentence`, the sum with NSP (the
    paper's MLM+). Without it, a pooler and an NSP head of `init.source` are saved with the model as
    they are, if the whole of it is taken (`init.scope="model"`).
    """

    kind: Literal["mlm"] = "mlm"
    mask_rate: Fraction = 0.15
    whole_word: bool = False
    next_sentence: bool = False


@frozen
class Classify:
    """Supervised training on the labelled set's own task: classification, regression or multi-
    label.
    """

    kind: Literal["classify"] = "classify"


@frozen
class Distill:
    """Training on stored teacher logits. The paper's: soft cross-entropy, temperature 1, no hard
    labels.
    """

    kind: Literal["distill"] = "distill"
    loss: Literal["cross_entropy", "mse"] = "cross_entropy"
    temperature: Annotated[float, pydantic.Field(gt=0)] = 1.0
    hard_weight: Fraction = 0.0

    def __post_init__(self) -> None:
        require(
            self.loss == "cross_entropy" or self.temperature == 1.0,
            f"temperature={self.temperature} changes nothing of loss='mse', which compares logits; "
            "leave it out",
        )


@frozen
class Patient:
    """Patient distillation (Sun et al. 2019): soft and hard labels, and the [CLS] states of layers.

    The teacher is a model folder or stage that reads every batch too, or, without `teacher`, the
    logit store of a label stage with `states`. `layers` names the teacher's layer, from 0, for each
    of the student's but the last.
    """

    kind: Literal["patient"] = "patient"
    teacher: ModelReference | None = None
    temperature: Annotated[float, pydantic.Field(gt=0)] = 5.0
    hard_weight: Fraction = 0.5
    patience: Annotated[float, pydantic.Field(ge=0)] = 100.0
    layers: Literal["skip", "last"] | tuple[int, ...] = "skip"
    normalise: bool = True


@frozen
class LanguageDistill:
    """Distillation of a masked language model (Sanh et al. 2019): 5 soft + 2 MLM + 1 cosine, T = 2.

    `positions="masked"` limits the soft loss to the masked tokens, which costs a sixth. The teacher
    is a model folder or stage that reads every batch too, or, without `teacher`, the logit store of
    a label stage with `language`: it requires `positions="masked"` and `cosine_weight=0`, and the
    temperature and the masking that it was made for. What becomes of a pooler and an NSP head is as
    in `MaskedLanguageModel`.
    """

    kind: Literal["lm_distill"] = "lm_distill"
    teacher: ModelReference | None = None
    temperature: Annotated[float, pydantic.Field(gt=0)] = 2.0
    soft_weight: Annotated[float, pydantic.Field(ge=0)] = 5.0
    mlm_weight: Annotated[float, pydantic.Field(ge=0)] = 2.0
    cosine_weight: Annotated[float, pydantic.Field(ge=0)] = 1.0
    positions: Literal["all", "masked"] = "all"
    mask_rate: Fraction = 0.15
    whole_word: bool = False


Objective = Annotated[
    MaskedLanguageModel | Classify | Distill | Patient | LanguageDistill,
    pydantic.Field(discriminator="kind"),
]

# Families of objectives, for whatever depends on more than one kind.
Masked = MaskedLanguageModel | LanguageDistill
"""Objectives that train the MLM head; all others train a classifier."""
Distillation = Distill | Patient | LanguageDistill
"""Objectives that learn from a teacher."""
OnlineDistillation = Patient | LanguageDistill
"""Objectives whose teacher may read every batch, as `objective.teacher`."""
Packable = MaskedLanguageModel | Classify | Distill
"""Objectives that keep the examples of a packed row separate."""


@frozen
class Length:
    """A duration, given in exactly one of three units."""

    steps: Positive | None = None
    examples: Positive | None = None
    epochs: Annotated[float, pydantic.Field(gt=0)] | None = None

    def __post_init__(self) -> None:
        given = [
            name for name in ("steps", "examples", "epochs") if getattr(self, name) is not None
        ]
        require(
            len(given) == 1, f"give exactly one of steps, examples, epochs; got {given or 'none'}"
        )

    def in_steps(self, *, rows: int, batch: int) -> int:
        """Returns the number of steps, at least 1, over `rows` examples an epoch in batches of
        `batch`.
        """
        if self.steps is not None:
            return self.steps
        examples = (
            self.examples if self.examples is not None else round((self.epochs or 0.0) * rows)
        )
        return max(1, -(-examples // batch))


@frozen
class Data:
    """What a training stage reads. `lengths` are the padded lengths that batches may have, shortest
    first.
    """

    records: RecordsReference | tuple[RecordsReference, ...]
    weights: tuple[float, ...] = ()
    """The share of each dataset in every batch; an epoch then ends before a row comes twice."""
    logits: LogitsReference | tuple[LogitsReference, ...] | None = None
    """A store for each teacher. For several datasets: the stores of the first dataset, one for each
    teacher, then those of the second, and so on.
    """
    logit_weights: tuple[float, ...] = ()
    logit_average: Literal["logits", "probabilities"] = "logits"
    """What the mean over several teachers is taken of."""
    batch: Positive
    lengths: tuple[Positive, ...]
    packing: Positive = 1
    """At most so many examples share a row of the longest length; each attends to itself alone, and
    `batch` still counts examples.
    """
    rows: Positive | None = None
    """Train on so many rows of each dataset, drawn by seed; a smaller number is a subset of a
    larger one.
    """
    window: Positive | None = None
    """Shuffle so many neighbouring rows at a time, the windows in random order, in place of all at
    once: of a large dataset on remote storage, every part is then read once an epoch, whole.
    """

    def __post_init__(self) -> None:
        require(
            self.rows is None or self.window is None,
            "rows draws from the entire dataset, which window is meant to avoid; leave out one",
        )
        require_rising(self.lengths)
        records, logits = several(self.records), several(self.logits)
        require(len(records) > 0, "records must name at least one dataset")
        require(
            len(self.weights) in (0, len(records)), "weights must name one number for each dataset"
        )
        require(
            not self.weights or min(self.weights) >= 0 < max(self.weights),
            "weights must be 0 or more, and at least one above 0",
        )
        require(
            len(logits) % len(records) == 0,
            f"logits must name as many stores for each of the {len(records)} datasets in records, "
            "those of the first dataset first",
        )
        require(
            len(self.logit_weights) in (0, len(logits) // len(records)),
            "logit_weights must name one number for each teacher",
        )
        require(
            not self.logit_weights or min(self.logit_weights) >= 0 < max(self.logit_weights),
            "logit_weights must be 0 or more, and at least one above 0",
        )


@frozen
class Optimizer:
    """AdamW as BERT's. `bias_correction=False` and `epsilon=1e-6` are the released code's."""

    learning_rate: Annotated[float, pydantic.Field(gt=0)]
    warmup: Fraction = 0.1
    schedule: Literal["linear", "constant"] = "linear"
    weight_decay: Annotated[float, pydantic.Field(ge=0)] = 0.01
    beta1: ProperFraction = 0.9
    beta2: ProperFraction = 0.999
    epsilon: Annotated[float, pydantic.Field(gt=0)] = 1e-6
    bias_correction: bool = True
    clip: Annotated[float, pydantic.Field(gt=0)] | None = 1.0


@frozen
class Compute:
    """How a step is computed. Parameters, losses and softmaxes are always float32."""

    dtype: Precision = "float32"
    remat: bool = False
    micro_batches: Positive = 1


@frozen
class Evaluation:
    """Datasets scored during training (`sets`) and once at its end (`final`).

    With `best`, for example `dev/accuracy`, the weights that scored highest there are the stage's
    result; otherwise the last ones are.
    """

    sets: Mapping[str, RecordsReference] = dataclasses.field(default_factory=dict)
    final: Mapping[str, RecordsReference] = dataclasses.field(default_factory=dict)
    logits: Mapping[str, LogitsReference | tuple[LogitsReference, ...]] = dataclasses.field(
        default_factory=dict
    )
    """A teacher's logit store for some of these sets: agreement and KL with it are scored too. Of
    several teachers one store each, averaged as those in `data.logits`.
    """
    every: Length | None = None
    best: str | None = None
    batch: Positive = 128

    def __post_init__(self) -> None:
        for name in (*self.sets, *self.final):
            require_name("the evaluation set", name)
        require(
            not set(self.sets) & set(self.final),
            "a dataset is either in sets or in final, not in both",
        )
        strange = sorted(set(self.logits) - set(self.sets) - set(self.final))
        require(
            not strange, f"logits names {', '.join(strange)}, which is neither in sets nor in final"
        )
        empty = [name for name, stores in self.logits.items() if not several(stores)]
        require(not empty, f"logits names no store for {', '.join(empty)}; leave the set out of it")
        if self.best is not None:
            name, _, score = self.best.partition("/")
            require(
                name in self.sets, f"best={self.best!r} must begin with the name of one of sets"
            )
            require(
                score in BEST_BY,
                f"best={self.best!r} must end in a score of which more is better, "
                f"{', '.join(BEST_BY)}{did_you_mean(score, BEST_BY)}",
            )
            require(self.every is not None, "best needs every; set how often to evaluate")


@frozen
class TrainStage:
    """One training job: pre-training, distillation or fine-tuning. They differ in `objective` and
    `data` only.
    """

    kind: Literal["train"] = "train"
    model: Model = dataclasses.field(default_factory=Model)
    init: Init = dataclasses.field(default_factory=Init)
    objective: Objective
    data: Data
    length: Length
    optimizer: Optimizer
    evaluation: Evaluation = dataclasses.field(default_factory=Evaluation)
    compute: Compute = dataclasses.field(default_factory=Compute)
    seed: Seed = 0

    def __post_init__(self) -> None:
        require(
            self.data.packing == 1 or isinstance(self.objective, Packable),
            f"data.packing={self.data.packing} works with objectives mlm, classify and distill "
            f"only; set it to 1 for {self.objective.kind}",
        )
