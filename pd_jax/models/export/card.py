"""A model card, written from what the run says of itself."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from pd_jax import files
from pd_jax.errors import WeightsError
from pd_jax.models.weights import layout
from pd_jax.models.weights.hf import SavedModel

_METHODS = {
    "mlm": "masked language modelling",
    "distill": "distillation: soft cross-entropy against a teacher's stored logits",
    "classify": "supervised training on labels",
}


def read_run(folder: epath.Path) -> Mapping[str, Any]:
    """Returns what the stage around a `model` folder recorded: config, done, versions.

    Empty where the folder stands by itself, as a downloaded or imported model does.
    """
    stage = folder.parent
    if folder.name != "model" or not (stage / "done.json").exists():
        return {}
    names = ("config", "done", "versions")
    return {name: files.read_json(stage / f"{name}.json", WeightsError) for name in names}


def write_card(
    model: SavedModel,
    run: Mapping[str, Any],
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
      format: hf, onnx or stablehlo; decides what is said of its use.
      licence: an SPDX name, or None where none was given.
      checks: one sentence for each comparison that was made.
    """
    kind = "text-classification" if "classifier" in model.params else "fill-mask"
    front = ["---", *([f"license: {licence}"] if licence else []), "library_name: transformers"]
    front += [f"pipeline_tag: {kind}", "tags: [bert, pd_jax]", "---"]
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
        f"Input: up to {config.positions} tokens. GELU: {config.gelu}.",
        f"Fingerprint: `{model.fingerprint}`.",
    ]
    if model.labels:
        lines.append(f"Labels, in order: {', '.join(model.labels)} ({model.task or 'no task'}).")
    return "\n".join(lines)


def _training(run: Mapping[str, Any]) -> list[str]:
    if not run:
        return []
    config, done = run["config"], run["done"]
    lines = [
        f"* Method: {_METHODS.get(config['objective']['kind'], config['objective']['kind'])}",
        f"* Steps: {done['steps']:,}, examples: {done['examples']:,}, seed: {config['seed']}",
        f"* First weights: {config['init']['source'] or 'from the seed'}",
        f"* Data: {_plain(config['data']['records'])}",
    ]
    if config["data"]["logits"]:
        lines.append(f"* Teacher's logits: {_plain(config['data']['logits'])}")
    lines += [f"* Input `{name}`: `{digest}`" for name, digest in done["inputs"].items()]
    versions = ", ".join(f"{key} {value}" for key, value in _flat(run["versions"]).items())
    settings = json.dumps(config, indent=2, ensure_ascii=False)
    details = f"<details><summary>Settings</summary>\n\n```json\n{settings}\n```\n</details>"
    return ["## Training\n\n" + "\n".join(lines), f"Made with {versions}.", details]


def _results(run: Mapping[str, Any]) -> list[str]:
    if not run or not run["done"]["metrics"]:
        return []
    rows = [f"| {name} | {value:.4g} |" for name, value in run["done"]["metrics"].items()]
    head = "## Results\n\nOne run, one seed.\n\n| metric | value |\n|---|---|\n"
    return [head + "\n".join(rows)]


def _use(model: SavedModel, format: str) -> str:
    """Returns Python that runs the model in the reader's own program."""
    task = "SequenceClassification" if "classifier" in model.params else "MaskedLM"
    lines = {
        "hf": (
            f"from transformers import AutoModelFor{task}, AutoTokenizer",
            "",
            f'model = AutoModelFor{task}.from_pretrained("FOLDER")',
            'inputs = AutoTokenizer.from_pretrained("FOLDER")("A sentence.", return_tensors="pt")',
            "logits = model(**inputs).logits",
        ),
        "onnx": (
            "import onnxruntime",
            "from transformers import AutoTokenizer",
            "",
            'session = onnxruntime.InferenceSession("FOLDER/model.onnx")',
            'tokenizer = AutoTokenizer.from_pretrained("FOLDER")',
            'inputs = tokenizer(["A sentence."], return_tensors="np")',
            "logits = session.run(None, dict(inputs))[0]",
        ),
        "stablehlo": (
            "import pathlib",
            "",
            "from jax import export",
            "",
            'model = export.deserialize(pathlib.Path("FOLDER/model.stablehlo").read_bytes())',
            "# int32 arrays [batch, length]",
            'logits = model.call(input_ids, token_type_ids, attention_mask)["logits"]',
        ),
    }
    return "\n".join(lines[format])


def _plain(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value)


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if isinstance(value, (str, int))}
