"""Writes a model in another program's format, compared with ours before the folder appears."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etils import epath

from pd_jax import config as config_lib
from pd_jax import files
from pd_jax.data.tokenizers.tokenizer import Tokenizer
from pd_jax.errors import WeightsError
from pd_jax.models.export import onnx_graph, programs, stablehlo
from pd_jax.models.export.forward import Difference, difference
from pd_jax.models.export.results import Check
from pd_jax.models.weights import hf

ONNX_FILE, INT8_FILE, STABLEHLO_FILE = "model.onnx", "model_int8.onnx", "model.stablehlo"
CARD_FILE = "README.md"
_KNOWN_BY = {"hf": CARD_FILE, "onnx": ONNX_FILE, "stablehlo": STABLEHLO_FILE}
"""What an older export has, which may be replaced, and a trained model has not."""
TOLERANCE = 1e-5
"""How far a float32 export may be from ours, relative to outputs above 1."""

_TEXTS = (
    "A compact model, distilled.",
    "Ça coûte 3,50 €, n'est-ce pas?",
    "naïve CAFÉ résumé; İstanbul, straße",
    "E\u0301cole A\u0300 U\u0308ber: accents apart from their letters",
    "O\u0323\u0300ro\u0323\u0300 \u042f\u0301 G\u0303: marks that no letter is composed with",
    "\u0645\u0651\u064e vi\u00ea\u0323t \ufb01\u0301\u200d \u2460\u0301 \u0301\x85",
    "中文和 English mixed 日本語",
    "unbelievably antidisestablishmentarian words 123456 7.5e-3",
    "emoji 🙂 and\ttabs\u00a0and \u200b zero width",
    "",
    "x" * 200,
)


def as_exported(model: hf.SavedModel) -> hf.SavedModel:
    """Returns a masked language model without the pooler, which transformers' class for it does not
    have and no export of it reads; any other model as it is.
    """
    if set(model.params) != {"bert", "mlm"} or "pooler" not in model.params["bert"]:
        return model
    bert = {name: part for name, part in model.params["bert"].items() if name != "pooler"}
    params = {**model.params, "bert": bert}
    digest = hf.fingerprint(params, model.config, labels=model.labels, task=model.task)
    return dataclasses.replace(model, params=params, fingerprint=digest)


def export(
    model: hf.SavedModel,
    tokenizer: Tokenizer,
    folder: epath.PathLike,
    *,
    format: config_lib.ExportFormat,
    int8: bool = False,
    card: Callable[[Sequence[str]], str],
) -> list[Check]:
    """Writes an export to `folder`, replacing an older folder; returns the checks of its files.

    Args:
      model: what to export, `as_exported`.
      tokenizer: its files go beside the model.
      folder: where to write.
      format: hf, onnx or stablehlo.
      int8: with onnx, also write a file whose weights are 8-bit integers.
      card: makes the model card from the checks' sentences.

    Raises:
      WeightsError: a package is not installed, the tokenizer does not fit the model, a float32
        export computes something else than the model, or an 8-bit one gives numbers that are not
        finite.
    """
    if tokenizer.vocab_size > model.config.vocab_size:
        raise WeightsError(
            f"the tokenizer has {tokenizer.vocab_size} entries, but the model has "
            f"{model.config.vocab_size}; take both from one folder"
        )
    forward = programs.jax_program(model.config, model.params, programs.host_device())

    def is_older(folder: epath.Path) -> bool:
        return (folder / _KNOWN_BY[format]).exists() and hf.is_ours(folder)

    with files.whole_folder(folder, is_older=is_older, error=WeightsError) as partial:
        tokenizer.save(partial)
        checks = _WRITERS[format](model, partial, forward)
        if int8:
            checks.append(_write_int8(model, partial, forward))
        sentences = [check.sentence() for check in checks]
        sentences.append(_check_tokenizer(tokenizer, partial))
        files.write_text(partial / CARD_FILE, card(sentences))
    return checks


def _write_hf(model: hf.SavedModel, folder: epath.Path, forward: programs.Program) -> list[Check]:
    written = hf.write(folder, model.params, model.config, **_about(model))
    if hf.load(folder).fingerprint != written:
        raise WeightsError(f"{folder} reads back differently from what was written; check the disk")
    program = programs.transformers_program(folder)
    return [_check(model, folder / hf.WEIGHTS_FILE, "transformers", forward, program)]


def _write_onnx(model: hf.SavedModel, folder: epath.Path, forward: programs.Program) -> list[Check]:
    _write_config(model, folder)
    path = folder / ONNX_FILE
    path.write_bytes(onnx_graph.build(model.config, model.params).SerializeToString())
    return [_check(model, path, "onnxruntime", forward, programs.onnx_program(path.read_bytes()))]


def _write_config(model: hf.SavedModel, folder: epath.Path) -> None:
    hf.write_config(folder, model.params, model.config, **_about(model))


def _about(model: hf.SavedModel) -> dict[str, Any]:
    return {"labels": model.labels, "task": model.task, "longest": model.longest}


def _write_int8(model: hf.SavedModel, folder: epath.Path, forward: programs.Program) -> Check:
    path = folder / INT8_FILE
    path.write_bytes(onnx_graph.quantise((folder / ONNX_FILE).read_bytes()))
    program = programs.onnx_program(path.read_bytes())
    return _check(model, path, "onnxruntime", forward, program, tolerance=math.inf)


def _write_stablehlo(
    model: hf.SavedModel, folder: epath.Path, forward: programs.Program
) -> list[Check]:
    _write_config(model, folder)
    path = folder / STABLEHLO_FILE
    path.write_bytes(stablehlo.serialise(model.config, model.params))
    return [_check(model, path, "jax.export", forward, programs.stablehlo_program(path))]


_WRITERS: Mapping[str, Callable[[hf.SavedModel, epath.Path, programs.Program], list[Check]]] = {
    "hf": _write_hf,
    "onnx": _write_onnx,
    "stablehlo": _write_stablehlo,
}


def _check(
    model: hf.SavedModel,
    path: epath.Path,
    name: str,
    forward: programs.Program,
    program: programs.Program | None,
    *,
    tolerance: float = TOLERANCE,
) -> Check:
    """Returns the comparison; raises WeightsError where it is worse than `tolerance`."""
    megabytes = files.size(path) / 1e6
    if program is None:
        return Check(path.name, megabytes, name)
    found: Difference = difference(model.config, forward, program)
    if not found.fits(tolerance):
        raise WeightsError(
            f"{path.name} does not compute what the model does: {name}'s outputs differ by up to "
            f"{found.largest:.3g} where ours reach {found.scale:.3g}; nothing was written"
        )
    theirs, ours = (programs.milliseconds(run, model.config) for run in (program, forward))
    tokens = min(programs.LENGTH, model.config.positions)
    return Check(path.name, megabytes, name, found.largest, found.scale, theirs, ours, tokens)


def _check_tokenizer(tokenizer: Tokenizer, folder: epath.Path) -> str:
    """Returns what a comparison with AutoTokenizer showed; raises WeightsError where ids differ."""
    second = _TEXTS[0]
    found = programs.transformers_tokens(folder, [*_TEXTS, *((text, second) for text in _TEXTS)])
    if found is None:
        return "tokenizer: not compared, because transformers is not installed"
    encoded = [ids.tolist() for ids in tokenizer.encode(_TEXTS)]
    single = [([tokenizer.cls_id, *ids, tokenizer.sep_id], [0] * (len(ids) + 2)) for ids in encoded]
    behind = [*encoded[0], tokenizer.sep_id]
    paired = [([*ids, *behind], [*segments, *[1] * len(behind)]) for ids, segments in single]
    for text, ours, theirs in zip(_TEXTS * 2, single + paired, found, strict=True):
        if ours != theirs:
            raise WeightsError(
                f"transformers makes ids and segments {theirs} of {text!r}, but pd_jax {ours}; the "
                "tokenizer's files do not fit each other: save its own ones again with transformers"
            )
    return (
        f"tokenizer: transformers' ids equal ours on {len(_TEXTS)} probe texts, alone and paired "
        "(of a pair too long, transformers may keep a token more of one text, less of the other)"
    )
