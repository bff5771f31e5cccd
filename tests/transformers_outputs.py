"""Run by another interpreter: writes what its transformers makes of model folders as one .npz.

python transformers_outputs.py TEXTS OUTPUT CLASSIFIER PRETRAINED

Writes the version, the token ids of every line of TEXTS one after the other (and their counts), and
the classifier's and the masked language model's logits of the first lines, padded together.
"""

import sys

import numpy as np
import torch
import transformers

ROWS, LENGTH = 64, 64


def main(texts: str, output: str, classifier: str, pretrained: str) -> None:
    """Writes OUTPUT."""
    with open(texts, encoding="utf-8") as stream:
        lines = stream.read().split("\n")
    tokenizer = transformers.AutoTokenizer.from_pretrained(classifier)
    ids = tokenizer(lines, verbose=False)["input_ids"]
    inputs = tokenizer(
        lines[:ROWS], padding=True, truncation=True, max_length=LENGTH, return_tensors="pt"
    )
    models = (
        transformers.AutoModelForSequenceClassification.from_pretrained(classifier),
        transformers.AutoModelForMaskedLM.from_pretrained(pretrained),
    )
    with torch.no_grad():
        task, masked = (model.eval()(**inputs).logits.numpy() for model in models)
    np.savez(
        output,
        version=transformers.__version__,
        ids=np.concatenate([np.array(row, np.int32) for row in ids]),
        counts=np.array([len(row) for row in ids]),
        task=task,
        masked=masked,
        **{name: value.numpy() for name, value in inputs.items()},
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
