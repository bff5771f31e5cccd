"""A model card, written from the run's own records."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from pd_jax import config as config_lib
from pd_jax import files
from pd_jax.data.text import tfds
from pd_jax.errors import WeightsError
from pd_jax.models.weights import layout
from pd_jax.models.weights.hf import SavedModel
from pd_jax.workdir import CONFIG, DONE, OUTPUT, VERSIONS

_METHODS = {
    "mlm": "masked language modelling",
    "distill": "distillation: soft cross-entropy against a teacher's stored logits",
    "classify": "supervised training on labels",
    "patient": "patient distillation: a teacher's logits and states of its layers, and labels",
    "lm_distill": "distillation of a teacher's masked language modelling",
}
_SQUARED = "distillation: squared error against a teacher's stored logits"
_CALL = 'tokenizer(["A sentence."], truncation=True, padding=True'
_LIBRARIES = {"hf": "transformers", "onnx": "onnx", "stablehlo": "jax"}
"""What runs a format, as model hubs call it."""


class _Kind(NamedTuple):
    """A model hub's tag for a model, the class of transformers that loads it, and its output."""

    tag: str
    loader: str
    output: str


@dataclasses.dataclass(frozen=True)
class Stage:
    """A finished stage of a pipeline, as read from its folder."""

    folder: epath.Path
    config: Mapping[str, Any]
    done: Mapping[str, Any]

    @classmethod
    def read(cls, folder: epath.Path) -> "Stage | None":
        """Returns the stage in a folder, or None where there is no finished one."""
        if not (folder / DONE).exists():
            return None
        config, done = (files.read_json(folder / name, WeightsError) for name in (CONFIG, DONE))
        return cls(folder, config, done)

    def input(self, reference: str) -> "Stage | None":
        """Returns the stage that `@name` stands for here, or None where its folder is gone."""
        named = config_lib.referred(reference)
        digest = self.done["inputs"].get(named.stage) if named else None
        # An equal stage may have been run first under another name.
        found = files.matching(self.folder.parent, f"*-{digest}") if digest else []
        return Stage.read(found[0]) if found else None


def read_run(folder: epath.Path) -> Stage | None:
    """Returns the stage that trained the model in a `model` folder.

    None where the folder is on its own, as a downloaded or imported model is.
    """
    return Stage.read(folder.parent) if folder.name == OUTPUT["train"] else None


def write_card(
    model: SavedModel,
    run: Stage | None,
    *,
    name: str,
    format: str,
    licence: str | None,
    checks: Sequence[str],
) -> str:
    """Returns the card as Markdown with the front matter that model hubs read.

    Args:
      model: the exported model.
      run: what `read_run` found.
      name: the card's title.
      format: hf, onnx or stablehlo; decides the instructions for use.
      licence: an SPDX name, or None where none was given.
      checks: one sentence for each comparison that was made.
    """
    kind = _kind(model)
    front = ["---", *([f"license: {licence}"] if licence else [])]
    front += [f"library_name: {_LIBRARIES[format]}"]
    front += [f"pipeline_tag: {kind.tag}", "tags: [bert, pd_jax]", "---"]
    parts = [
        "\n".join(front),
        f"# {name}",
        _shape(model),
        *_training(run),
        *_results(run),
        "## Use\n\n```python\n" + _use(model, format) + "\n```",
        "## Checked\n\n" + "\n".join(f"* {check}" for check in checks),
        "## Licence\n\n" + (licence or "Not stated: ask whoever made the model."),
    ]
    return "\n\n".join(parts) + "\n"


def _shape(model: SavedModel) -> str:
    config = model.config
    count = sum(int(np.prod(leaf.shape)) for leaf in layout.flatten(model.params).values())
    lines = [
        f"A BERT of {config.layers} layers, hidden size {config.hidden}, {config.heads} heads and "
        f"{config.vocab_size:,} vocabulary entries.",
        f"{count:,} parameters: {4 * count / 1e6:.1f} MB as float32.",
        f"Input: up to {model.reads} tokens. GELU: {config.gelu}.",
        f"Fingerprint: `{model.fingerprint}`.",
    ]
    if model.labels:
        lines.append(f"Labels, in order: {', '.join(model.labels)} ({model.task or 'no task'}).")
    return "\n".join(lines)


def _training(run: Stage | None) -> list[str]:
    """Returns how the model was made: method, data, teacher, settings."""
    if run is None:
        return []
    config, done = run.config, run.done
    first = config["init"]["source"]
    lines = [
        f"* Method: {_method(config)}",
        f"* Steps: {done['steps']:,}, examples: {done['examples']:,}, seed: {config['seed']}",
        f"* First weights: {_described(run, first) if first else 'from the seed'}",
        f"* Data: {_described(run, config['data']['records'])}",
    ]
    # A teacher answered beforehand, or reads every batch too.
    if teacher := config["data"]["logits"] or config["objective"].get("teacher"):
        lines.append(f"* Teacher: {_described(run, teacher)}")
    versions = files.read_json(run.folder / VERSIONS, WeightsError)
    named = ", ".join(f"{name} {value}" for name, value in versions.items() if value is not None)
    settings = files.without_folders(json.dumps(config, indent=2, ensure_ascii=False))
    details = f"<details><summary>Settings</summary>\n\n```json\n{settings}\n```\n</details>"
    return ["## Training\n\n" + "\n".join(lines), f"Made with {named}.", details]


def _results(run: Stage | None) -> list[str]:
    if run is None or not (scores := _scores(run)):
        return []
    rows = [f"| {name} | {_number(name, value)} |" for name, value in scores.items()]
    head = f"## Results\n\nOne run, seed {run.config['seed']}.\n\n| metric | value |\n|---|---|\n"
    return [head + "\n".join(rows)]


def _number(name: str, value: float) -> str:
    return f"{value:,.0f}" if name.endswith("/rows") else f"{value:.4g}"


def _scores(run: Stage) -> dict[str, float]:
    """Returns the scores on evaluation sets; training metrics are less informative."""
    sets = {**run.config["evaluation"]["sets"], **run.config["evaluation"]["final"]}
    return {
        name: value
        for name, value in run.done["metrics"].items()
        if name.split("/")[0] in sets and value is not None
    }


def _method(config: Mapping[str, Any]) -> str:
    kind: str = config["objective"]["kind"]
    if kind == "distill" and config["objective"].get("loss") == "mse":
        return _SQUARED
    return _METHODS.get(kind, kind)


def _described(run: Stage, references: str | Sequence[str]) -> str:
    """Returns a description of what references name: a model, a dataset, a teacher, or a file."""
    if not isinstance(references, str):
        return "; ".join(_described(run, reference) for reference in references)
    if not config_lib.referred(references):
        is_name = references.startswith(tfds.PREFIX)
        return references if is_name else references.rstrip("/").rsplit("/", 1)[-1]
    stage = run.input(references)
    if stage is None:
        return references
    kind, name = stage.config["kind"], f"`{references[1:]}`"
    if kind == "label":
        return _described(stage, stage.config["teacher"])
    if kind == "records":
        source = stage.config["source"]
        sources = source if isinstance(source, list) else [source]
        paths = "; ".join(_described(stage, item["path"]) for item in sources)
        return f"{name}: {stage.done['examples']:,} rows of {paths}"
    if kind != "train":
        return name
    size, count = stage.config["model"]["size"], stage.done["parameters"]
    scores = [f"{key} {value:.4g}" for key, value in _scores(stage).items() if "accuracy" in key]
    return ", ".join([f"{name}: {size}", f"{count:,} parameters", _method(stage.config), *scores])


def _kind(model: SavedModel) -> _Kind:
    """Returns what kind of model this is to a user; without a head it has hidden states only."""
    if "classifier" in model.params:
        return _Kind("text-classification", "AutoModelForSequenceClassification", "logits")
    if "mlm" in model.params:
        return _Kind("fill-mask", "AutoModelForMaskedLM", "logits")
    return _Kind("feature-extraction", "AutoModel", "last_hidden_state")


def _use(model: SavedModel, format: str) -> str:
    """Returns Python that runs the model in the reader's own program."""
    kind = _kind(model)
    lines = {
        "hf": (
            f"from transformers import {kind.loader}, AutoTokenizer",
            "",
            f'model = {kind.loader}.from_pretrained("FOLDER")',
            'tokenizer = AutoTokenizer.from_pretrained("FOLDER")',
            f'inputs = {_CALL}, return_tensors="pt")',
            f"{kind.output} = model(**inputs).{kind.output}",
        ),
        "onnx": (
            "import onnxruntime",
            "from transformers import AutoTokenizer",
            "",
            'session = onnxruntime.InferenceSession("FOLDER/model.onnx")',
            'tokenizer = AutoTokenizer.from_pretrained("FOLDER")',
            f'inputs = {_CALL}, return_tensors="np")',
            f"{kind.output} = session.run(None, dict(inputs))[0]",
        ),
        "stablehlo": (
            "import pathlib",
            "",
            "from jax import export",
            "",
            'model = export.deserialize(pathlib.Path("FOLDER/model.stablehlo").read_bytes())',
            "# int32 arrays [batch, length]",
            "outputs = model.call(input_ids, token_type_ids, attention_mask)",
            f'{kind.output} = outputs["{kind.output}"]',
        ),
    }
    return "\n".join(lines[format])
