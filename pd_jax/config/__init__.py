"""What a run is: frozen, typed values made once from a config file.

A config file (`configs/`) returns a locked `ml_collections.ConfigDict`; `config/reading.py` turns
it into the dataclasses below. Nothing else in pd_jax sees a ConfigDict.

A string that starts with `@` refers to the output of another stage (`@corpus`), or to a file in it
(`@text/corpus.txt`); every other path is taken as it is.

`Pipeline.run` holds what may change between two runs of the same experiment without changing its
result (mesh, logging, saving); everything else enters the stages' fingerprints.
"""

from pd_jax.config.kinds import (
    Fraction,
    Positive,
    Precision,
    ReferenceMark,
    Task,
    referred,
    several,
)
from pd_jax.config.pipeline import (
    Compared,
    CompareStage,
    ExportFormat,
    ExportStage,
    LabelStage,
    MaskedTokens,
    Mesh,
    MeshRule,
    Pipeline,
    Program,
    Report,
    Run,
    Stage,
)
from pd_jax.config.study import Cell, Claim, Contrast, Figure, Measure, Study, Term
from pd_jax.config.text import (
    Algorithm,
    Corpus,
    RecordsStage,
    Rows,
    Source,
    SyntheticStage,
    TextFormat,
    TokenizerStage,
)
from pd_jax.config.training import (
    Classify,
    Compute,
    Data,
    Distill,
    Distillation,
    Evaluation,
    Init,
    LanguageDistill,
    Length,
    Masked,
    MaskedLanguageModel,
    Model,
    Objective,
    OnlineDistillation,
    Optimizer,
    Packable,
    Patient,
    TrainStage,
)
