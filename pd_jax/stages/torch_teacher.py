"""A teacher of any architecture: a Hugging Face folder read by transformers, run by torch.

Needs the extra `hf`. torch and transformers are imported only when such a teacher is used.
"""

import dataclasses
import importlib.util
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from etils import epath

from pd_jax import files
from pd_jax.data.logits.logit_shards import Values
from pd_jax.data.text.tables import Row
from pd_jax.data.tokenizers import vocabulary
from pd_jax.errors import ConfigError, WeightsError, no_memory
from pd_jax.progress import warn
from pd_jax.stages.classifier import Read, check_positions, check_values

_TASKS = {
    "single_label_classification": "classification",
    "multi_label_classification": "multilabel",
    "regression": "regression",
}
_ANY_VOCABULARY = (vocabulary.JSON_FILE, "tekken.json")
"""Vocabulary files that transformers reads for a tokenizer of any class."""
_NVIDIA_DRIVER = epath.Path("/proc/driver/nvidia")


@dataclasses.dataclass(frozen=True)
class TorchTeacher:
    """A sequence classifier of transformers, and what its outputs mean."""

    model: Any
    tokenizer: Any
    device: str
    task: str
    labels: tuple[Any, ...]
    """Its outputs as its config calls them, by names or otherwise; empty for regression."""
    fingerprint: str
    """Digest of all files in its folder, its tokenizer included."""

    def states(self) -> tuple[int, int]:
        """Returns the number of layers, each of which has states, and the numbers in a state.

        Raises:
          ConfigError: where the architecture has no such states.
        """
        config = self.model.config.get_text_config()
        layers = getattr(config, "num_hidden_layers", None)
        width = getattr(config, "hidden_size", None)
        if self.model.config.is_encoder_decoder or layers is None or width is None:
            raise ConfigError(
                f"a {type(self.model).__name__} gives no states of its layers; leave states out"
            )
        return layers, width

    def answers(
        self,
        rows: Sequence[Row],
        *,
        batch: int,
        length: int,
        states: Sequence[int] = (),
        told: Callable[[Read], None] = lambda read: None,
    ) -> Iterator[tuple[np.ndarray, Values]]:
        """Yields (places in `rows`, their logits and first tokens' states), shortest texts first.

        Texts are truncated to `length` of the teacher's tokens; a batch is padded to its longest.
        `told` is called with what the tokenizer made of them.
        """
        import torch

        length = min(length, self.tokenizer.model_max_length)
        encoded = self._encoded(rows, truncation=True, max_length=length)
        sizes = np.array([len(inputs["input_ids"]) for inputs in encoded])
        full = self._encoded([rows[at] for at in np.flatnonzero(sizes >= length).tolist()])
        cut = sum(len(inputs["input_ids"]) > length for inputs in full)
        tokens = np.concatenate([inputs["input_ids"] for inputs in encoded])
        told(Read(cut, len(tokens), self._unknown(tokens), int(sizes.max())))
        order = np.argsort(sizes, kind="stable")
        for first in range(0, len(order), batch):
            places = order[first : first + batch]
            part = [encoded[at] for at in places]
            inputs = self.tokenizer.pad(part, return_tensors="pt").to(self.device)
            with torch.inference_mode():
                outputs = self.model(**inputs, output_hidden_states=bool(states))
            values = {"logits": outputs.logits.float().cpu().numpy()}
            if states:
                padded = inputs["input_ids"].shape[1] - sizes[places]
                firsts = padded * (self.tokenizer.padding_side == "left")
                at = np.arange(len(places)), firsts
                kept = [outputs.hidden_states[layer + 1][at] for layer in states]
                values["states"] = torch.stack(kept, dim=1).float().cpu().numpy()
            yield places, values

    def _unknown(self, tokens: np.ndarray) -> int:
        """Returns how many tokens are unknown; 0 where their token is also one of the frame's."""
        tokenizer = self.tokenizer
        frame = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.cls_token_id)
        known = tokenizer.unk_token_id in (None, *frame, tokenizer.sep_token_id)
        return 0 if known else int(np.sum(tokens == tokenizer.unk_token_id))

    def _encoded(self, rows: Sequence[Row], **options: Any) -> list[dict[str, list[int]]]:
        """Returns each row's inputs by name; the tokenizer takes only texts or only pairs."""
        found: list[dict[str, list[int]]] = [{} for _ in rows]
        for paired in (False, True):
            places = [at for at, row in enumerate(rows) if (row.pair is not None) == paired]
            if not places:
                continue
            pairs = [rows[at].pair for at in places] if paired else None
            encoded = self.tokenizer([rows[at].text for at in places], pairs, **options)
            for number, at in enumerate(places):
                found[at] = {name: values[number] for name, values in encoded.items()}
        return found


def require_torch(folder: epath.PathLike) -> None:
    """Raises WeightsError where torch or transformers, which read a folder, is not installed."""
    lacking = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    if lacking:
        raise WeightsError(
            f"{folder} is not a BERT with GELU; reading it needs torch and transformers (no "
            f"{', no '.join(lacking)} here); pip install 'pd_jax[hf]'"
        )


def load_torch(folder: epath.PathLike, *, dtype: str, length: int) -> TorchTeacher:
    """Returns the classifier in a Hugging Face folder, on the first GPU if there is one.

    Raises:
      WeightsError: torch or transformers is not installed, or the folder has no trained sequence
        classifier with its tokenizer.
      ConfigError: it cannot read texts of `length` of its tokens.
    """
    require_torch(folder)
    folder = epath.Path(folder)
    model, tokenizer = _read(folder, dtype)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token_id is None:
        raise WeightsError(
            f"{folder} has a tokenizer without a padding token, which batches need; set pad_token "
            "in its tokenizer_config.json"
        )
    # A decoder answers at a text's last token that is not padding, as its config knows padding.
    for config in (model.config, model.config.get_text_config()):
        config.pad_token_id = tokenizer.pad_token_id
    model = model.eval()
    _check_positions(folder, model, tokenizer, length)
    device = _device(str(folder))
    task = _TASKS.get(model.config.problem_type or "")
    task = task or ("regression" if model.config.num_labels == 1 else "classification")
    check_values(str(folder), task, model.config.num_labels)
    labels = tuple(model.config.id2label.get(index) for index in range(model.config.num_labels))
    return TorchTeacher(
        model.to(device),
        tokenizer,
        device,
        task,
        () if task == "regression" else labels,
        _fingerprint(folder),
    )


def _read(folder: epath.Path, dtype: str) -> tuple[Any, Any]:
    """Returns the classifier and the tokenizer in a folder; raises WeightsError without either."""
    model, tokenizer, loaded = _from_pretrained(folder, dtype)
    if missing := sorted(loaded["missing_keys"]):
        raise WeightsError(
            f"{folder} lacks {', '.join(missing[:4])}: its classifier was never trained; name a "
            "fine-tuned model as teacher"
        )
    # Without a vocabulary file, transformers makes a tokenizer of the special tokens only, and all
    # texts look the same. Tokenizers that split text into bytes or characters name no files.
    names = set(tokenizer.vocab_files_names.values()) - {vocabulary.CONFIG_FILE}
    if names and not any((folder / name).exists() for name in {*names, *_ANY_VOCABULARY}):
        raise WeightsError(
            f"{folder} has no vocabulary ({', '.join(sorted(names))}); save the teacher's "
            "tokenizer there too, with tokenizer.save_pretrained"
        )
    if names and len(tokenizer) <= len(tokenizer.all_special_ids):
        raise WeightsError(
            f"{folder} has a tokenizer with no words, only special tokens; save its whole "
            "vocabulary there"
        )
    return model, tokenizer


def _from_pretrained(folder: epath.Path, dtype: str) -> tuple[Any, Any, dict[str, Any]]:
    """Returns the classifier and the tokenizer in a folder, and what transformers says of the
    weights that it read; raises WeightsError where it cannot read them.
    """
    try:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer, logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        model, loaded = AutoModelForSequenceClassification.from_pretrained(
            str(folder), local_files_only=True, output_loading_info=True, dtype=dtype
        )
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as fault:  # each format's library raises kinds of its own
        if no_memory(fault):
            raise
        reason = " ".join(str(fault).split())[:300] or type(fault).__name__
        if isinstance(fault, ImportError):
            raise WeightsError(
                f"reading {folder} needs a package, or a version of one, that is not installed"
                f" ({reason}); install it"
            ) from None
        raise WeightsError(
            f"{folder} is not a classifier that transformers can read ({reason}); name a folder"
            " with a sequence classifier, whole as it was released (git lfs pull, if it was cloned)"
        ) from None
    return model, tokenizer, loaded


def _device(name: str) -> str:
    """Returns torch's name of the first GPU, or of the CPU without one; warns where there is a GPU
    that torch cannot use.
    """
    import torch

    if torch.cuda.is_available():
        return "cuda"
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    if _NVIDIA_DRIVER.exists() and not hidden:
        warn(
            f"torch {torch.__version__} cannot use this machine's GPU, so {name} runs on"
            " the CPU; install the torch that fits its driver (https://pytorch.org)"
        )
    return "cpu"


def _check_positions(folder: epath.Path, model: Any, tokenizer: Any, length: int) -> None:
    """Raises ConfigError where a teacher cannot read texts of `length` of its tokens.

    No config states how many it can read: RoBERTa numbers positions from after its padding's id,
    and relative or rotary positions have no limit. So where `length` exceeds the config's
    positions, the model is tried, still on the CPU: there an invalid position breaks no device.
    """
    length = min(length, tokenizer.model_max_length)
    positions = getattr(model.config, "max_position_embeddings", None) or 0
    fewest = positions - model.config.pad_token_id - 1
    counts = [count for count in (positions, fewest) if 0 < count < length]
    if not counts or _can_read(model, tokenizer, length):
        return
    for count in counts:
        if _can_read(model, tokenizer, count):
            check_positions(str(folder), count, length)


def _can_read(model: Any, tokenizer: Any, length: int) -> bool:
    """Returns whether a model can read a text of `length` of its tokens."""
    import torch

    inputs = tokenizer("a " * length, truncation=True, max_length=length, return_tensors="pt")
    try:
        with torch.inference_mode():
            model(**inputs)
    except (IndexError, RuntimeError, ValueError):
        return False
    return True


def _fingerprint(folder: epath.Path) -> str:
    """Returns the digest of every file of the folder: weights, shape, labels, tokenizer."""
    found = sorted(path for path in folder.iterdir() if path.is_file())
    return files.digest_json([[path.name, files.digest_file(path)] for path in found])
