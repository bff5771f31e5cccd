"""Hugging Face folders (`config.json`, `model.safetensors`): how all models here are exchanged.

Weights in several files are read too, by their index (`model.safetensors.index.json`).

What `save` writes, transformers loads with `AutoModel*`; what transformers saves of a BERT, `load`
reads. Names and shapes are checked against the config without exception: nothing is skipped,
nothing stays at random values.
"""

import dataclasses
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from etils import epath

from pd_jax import files
from pd_jax.data.tokenizers import vocabulary
from pd_jax.data.tokenizers.tokenizer import load_tokenizer
from pd_jax.errors import WeightsError
from pd_jax.models.sizes import BertConfig
from pd_jax.models.weights import hf_config, layout, pickles
from pd_jax.workdir import OUTPUT

WEIGHTS_FILE, PICKLED_FILE, CONFIG_FILE = "model.safetensors", "pytorch_model.bin", "config.json"
INDEX_FILE, PICKLED_INDEX_FILE = f"{WEIGHTS_FILE}.index.json", f"{PICKLED_FILE}.index.json"
_SHARD_NAME = re.compile(r"\w[\w.-]{0,200}\.safetensors", re.ASCII)
"""What an index may call a file: a name, and no path that leads out of the folder."""
_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4"}
_PREFIXES = {
    "bert.pooler.": "pooler",
    "cls.predictions.": "mlm",
    "cls.seq_relationship.": "nsp",
    "classifier.": "classifier",
}
_POOLED = {"nsp", "classifier"}
"""The heads that read the pooler's output."""


@dataclasses.dataclass(frozen=True)
class SavedModel:
    """A model as it lies on disk.

    `params` is nested, numpy float32, with the subtrees that the folder holds: bert, and of mlm,
    nsp and classifier those that it has. `labels` are the classifier's in order (empty: unnamed),
    `task` is classification, regression, multilabel or None, and `fingerprint` a digest over
    tensors, config, labels and task. `longest` is how many tokens the longest rows had that it has
    learnt to read; None where that is as many as it has positions.
    """

    config: BertConfig
    params: dict[str, Any]
    labels: tuple[str, ...]
    task: str | None
    fingerprint: str
    longest: int | None = None

    @property
    def reads(self) -> int:
        """How many tokens of a text it reads well: later positions are as they were initialised."""
        return self.longest or self.config.positions


def load(folder: epath.PathLike) -> SavedModel:
    """Returns the model in a Hugging Face folder.

    Raises:
      WeightsError: the folder is incomplete or damaged, is not a BERT of a known kind, or has a
        tensor too many, too few, or of another shape.
    """
    folder = epath.Path(folder)
    config, values = _read_config(folder)
    architectures = values.get("architectures") or []
    if not isinstance(architectures, list) or not all(map(_is_text, architectures)):
        raise WeightsError(f"{folder / CONFIG_FILE} has architectures that are not a list of names")
    if unknown := set(architectures) - set(hf_config.ARCHITECTURES.values()):
        raise WeightsError(
            f"{folder / CONFIG_FILE} is for {', '.join(sorted(unknown))}; only "
            f"{', '.join(hf_config.ARCHITECTURES.values())} can be read; of a BERT with another "
            "head, save `model.bert` with save_pretrained in transformers"
        )
    where, tensors = _read_tensors(folder)
    tensors = _with_current_names(tensors, where)
    wanted = _wanted(config, tensors, architectures)
    shapes = {name: value.shape for name, value in tensors.items()}
    layout.check(shapes, {tensor.hf: tensor.hf_shape() for tensor in wanted}, where=where)
    flat = {}
    for tensor in wanted:
        value = _float32(tensors[tensor.hf], tensor.hf, where)
        flat[tensor.path] = np.ascontiguousarray(value.T if tensor.hf_transposed else value)
    params = layout.nest(flat)
    labels, task = hf_config.labels_from(values, params, folder / CONFIG_FILE)
    digest = fingerprint(params, config, labels=labels, task=task)
    return SavedModel(config, params, labels, task, digest, _longest(folder, config))


def is_bert(folder: epath.PathLike) -> bool:
    """Returns whether a folder's config is that of a BERT for `load`; not so of other architectures
    and of BERTs with another activation than GELU, which torch computes.

    Raises:
      WeightsError: there is no config, or one with other faults.
    """
    path = epath.Path(folder) / CONFIG_FILE
    values = files.read_object(path, WeightsError)
    if values.get("model_type", "bert") != "bert":
        return False
    return not hf_config.has_other_activation(values, where=path)


def is_ours(folder: epath.PathLike) -> bool:
    """Returns whether pd_jax wrote the model in a folder."""
    path = epath.Path(folder) / CONFIG_FILE
    return path.exists() and hf_config.OURS in files.read_object(path, WeightsError)


def load_config(folder: epath.PathLike) -> BertConfig:
    """Returns the shape of the model in a Hugging Face folder; raises WeightsError as `load`."""
    return _read_config(epath.Path(folder))[0]


def reads(folder: epath.PathLike) -> int:
    """Returns `SavedModel.reads` of the model in a folder; raises WeightsError as `load`."""
    config = load_config(folder)
    return _longest(epath.Path(folder), config) or config.positions


def _longest(folder: epath.Path, config: BertConfig) -> int | None:
    """Returns the length that the tokenizer in a model's folder states, where it is below the
    model's positions.
    """
    path = folder / vocabulary.CONFIG_FILE
    if not path.exists():
        return None
    stated = files.read_object(path, WeightsError).get("model_max_length")
    return stated if isinstance(stated, int) and 0 < stated < config.positions else None


def _read_config(folder: epath.Path) -> tuple[BertConfig, dict[str, Any]]:
    """Returns the shape that a folder's config describes, and the config's values."""
    path, inside = folder / CONFIG_FILE, folder / OUTPUT["train"]
    if (inside / CONFIG_FILE).exists():
        raise WeightsError(f"{folder} is the folder of a stage; name {inside}")
    if not path.exists():
        raise WeightsError(
            f"{folder} has no {CONFIG_FILE}; name a folder with a BERT and its config"
        )
    values = files.read_object(path, WeightsError)
    return hf_config.shape_from(values, where=path), values


def save(
    folder: epath.PathLike,
    params: Mapping[str, Any],
    config: BertConfig,
    *,
    labels: Sequence[str] = (),
    task: str | None = None,
    longest: int | None = None,
    add: Callable[[epath.Path], object] | None = None,
) -> str:
    """Saves a model in `folder`, replacing an older folder; returns its fingerprint.

    Args:
      folder: appears in one step, when everything is written.
      params: bert, and of mlm, nsp and classifier those that the model has; numpy or jax arrays.
      config: the shape of the model.
      labels: the classifier's labels in order; empty leaves them unnamed.
      task: classification, regression or multilabel, written as `problem_type`.
      longest: as in SavedModel, written as the tokenizer's `model_max_length`.
      add: called with the unfinished folder, to write more files (tokenizer, model card) before it
        appears; the model's own come after, for its config tells of the tokenizer.

    Raises:
      WeightsError: parameters that are missing, unexpected, or of another shape than the config's;
        `folder` contains something other than a model.
    """
    with files.whole_folder(folder, is_older=is_ours, error=WeightsError) as partial:
        if add is not None:
            add(partial)
        return write(partial, params, config, labels=labels, task=task, longest=longest)


def write_config(
    folder: epath.Path,
    params: Mapping[str, Any],
    config: BertConfig,
    *,
    labels: Sequence[str],
    task: str | None,
    longest: int | None,
) -> None:
    """Writes a model's config, and fits it and the tokenizer in the folder, if any, to each other.

    Without the model's length in the tokenizer's config transformers' pipelines do not know where
    to cut long texts. Without the padding's id in the model's, transformers takes token 0 for it,
    whose embedding would then stay as it is in any later training there.
    """
    values = hf_config.values_of(config, params, labels=labels, task=task)
    path = folder / vocabulary.CONFIG_FILE
    if path.exists():
        values["pad_token_id"] = load_tokenizer(folder).pad_id
        settings = files.read_object(path, WeightsError)
        files.write_json(path, {**settings, "model_max_length": longest or config.positions})
    files.write_json(folder / CONFIG_FILE, values)


def write(
    folder: epath.Path,
    params: Mapping[str, Any],
    config: BertConfig,
    *,
    labels: Sequence[str],
    task: str | None,
    longest: int | None,
) -> str:
    """Returns the fingerprint of the model whose two files are now in `folder`."""
    flat = {
        path: np.asarray(value, np.float32) for path, value in layout.flatten(dict(params)).items()
    }
    wanted = _tensors_of(config, params)
    layout.check(
        {path: value.shape for path, value in flat.items()},
        {tensor.path: tensor.shape for tensor in wanted},
        where="the model to save",
    )
    tensors = {
        tensor.hf: np.ascontiguousarray(
            flat[tensor.path].T if tensor.hf_transposed else flat[tensor.path]
        )
        for tensor in wanted
    }
    content = safetensors.numpy.save(tensors, metadata={"format": "pt"})
    files.write_bytes(folder / WEIGHTS_FILE, content)
    write_config(folder, params, config, labels=labels, task=task, longest=longest)
    return fingerprint(layout.nest(flat), config, labels=labels, task=task)


def fingerprint(
    params: Mapping[str, Any], config: BertConfig, *, labels: Sequence[str], task: str | None
) -> str:
    """Returns the digest of tensors, shape, labels and task, however the model is computed."""
    shape = {field: getattr(config, field) for field in (*hf_config.FIELDS, "gelu")}
    about = {"config": shape, "labels": list(labels), "task": task}
    parts = [json.dumps(about, sort_keys=True).encode()]
    for path, value in sorted(layout.flatten(dict(params)).items()):
        value = np.asarray(value, np.float32)
        parts += [path.encode(), str(value.shape).encode(), value.tobytes()]
    return files.digest_bytes(*parts)


def _tensors_of(config: BertConfig, params: Mapping[str, Any]) -> list[layout.Tensor]:
    """Returns the tensors that a model with these subtrees has."""
    hf_config.architecture(params)
    heads = set(params) - {"bert"}
    if "pooler" in params["bert"] or heads & _POOLED:
        heads.add("pooler")
    outputs = np.shape(params["classifier"]["bias"])[0] if "classifier" in heads else 0
    return layout.tensors(config, heads, outputs=outputs)


def _wanted(
    config: BertConfig, tensors: Mapping[str, np.ndarray], architectures: Sequence[str]
) -> list[layout.Tensor]:
    """Returns the tensors a file must have, with the heads its config names or it has a part of."""
    heads = {
        head
        for parts, name in hf_config.ARCHITECTURES.items()
        if name in architectures
        for head in parts
    }
    heads |= {
        head
        for prefix, head in _PREFIXES.items()
        if any(name.startswith(prefix) for name in tensors)
    }
    if heads & _POOLED:
        heads.add("pooler")
    bias = tensors.get("classifier.bias", np.zeros(2))
    return layout.tensors(config, heads, outputs=bias.shape[0] if bias.ndim else 1)


def _read_tensors(folder: epath.Path) -> tuple[epath.Path, dict[str, np.ndarray]]:
    """Returns the file with the weights, or with their index, and the tensors by name."""
    if (path := folder / WEIGHTS_FILE).exists():
        return path, _read_file(path)
    if (path := folder / INDEX_FILE).exists():
        return path, _read_indexed(path)
    if (path := folder / PICKLED_FILE).exists():
        return path, pickles.load(path)
    if (path := folder / PICKLED_INDEX_FILE).exists():
        raise WeightsError(
            f"{path} is of weights in several torch files, which cannot be read; load the model "
            "in transformers and write it with save_pretrained, as safetensors"
        )
    raise WeightsError(
        f"{folder} has neither {WEIGHTS_FILE} nor {PICKLED_FILE}; "
        "name a folder with a BERT's weights"
    )


def _read_file(path: epath.Path) -> dict[str, np.ndarray]:
    """Returns the tensors of a safetensors file by name."""
    try:
        named = safetensors.deserialize(path.read_bytes())
    except FileNotFoundError:
        raise WeightsError(f"{path} is missing; download or export the whole folder") from None
    except (safetensors.SafetensorError, ValueError) as fault:
        raise WeightsError(f"{path} is damaged ({fault}); download or export it again") from None
    return {name: _array(name, held, where=path) for name, held in named}


def _read_indexed(index: epath.Path) -> dict[str, np.ndarray]:
    """Returns the tensors by name of all files that an index names; each must be where it says."""
    places = files.read_object(index, WeightsError).get("weight_map")
    if not isinstance(places, dict) or not all(
        _is_text(file) and _SHARD_NAME.fullmatch(file) for file in places.values()
    ):
        raise WeightsError(
            f"{index} has no weight_map from tensors to .safetensors files beside it; download or "
            "export the whole folder"
        )
    tensors, found = {}, {}
    for file in sorted(set(places.values())):
        held = _read_file(index.with_name(file))
        tensors |= held
        found |= dict.fromkeys(held, file)
    if wrong := sorted(name for name, _ in found.items() ^ places.items()):
        raise WeightsError(
            f"{index} and the files beside it differ in where {wrong[0]!r} is; download or export "
            "the whole folder"
        )
    return tensors


def _with_current_names(tensors: dict[str, np.ndarray], where: object) -> dict[str, np.ndarray]:
    """Returns the tensors under the names transformers gives them now, without what repeats others.

    Older files use LayerNorm.gamma and .beta, files of a bare BertModel leave `bert.` out, and some
    store the tied decoder or the position numbers, which are not parameters.
    """
    named = {}
    bare = "embeddings.word_embeddings.weight" in tensors
    for name, value in tensors.items():
        name = f"bert.{name}" if bare else name
        name = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace(
            "LayerNorm.beta", "LayerNorm.bias"
        )
        named[name] = value
    named.pop("bert.embeddings.position_ids", None)
    for copy, original in (
        ("cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"),
        ("cls.predictions.decoder.bias", "cls.predictions.bias"),
    ):
        if copy in named and original in named:
            if not np.array_equal(named.pop(copy), named[original]):
                raise WeightsError(
                    f"{where} has a {copy} that differs from {original}; only BERTs whose "
                    "decoder is tied to the word embeddings can be read"
                )
        elif copy in named and copy.endswith("bias"):
            named[original] = named.pop(copy)
    return named


def _array(name: str, held: Mapping[str, Any], *, where: object) -> np.ndarray:
    """Returns a tensor of a safetensors file; numpy has no bfloat16, so that becomes float32."""
    if held["dtype"] not in _DTYPES:
        raise WeightsError(
            f"{where} has {name} as {held['dtype']}; weights must be floating-point numbers"
        )
    flat = np.frombuffer(held["data"], _DTYPES[held["dtype"]])
    if held["dtype"] == "BF16":
        flat = pickles.widened(flat)
    return flat.reshape(held["shape"])


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _float32(value: np.ndarray, name: str, where: object) -> np.ndarray:
    if value.dtype.kind != "f":
        raise WeightsError(
            f"{where} has {name} as {value.dtype}; weights must be floating-point numbers"
        )
    layout.check_finite(value, name, where=where)
    return value.astype(np.float32, copy=False)
