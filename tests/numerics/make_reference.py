"""Writes `bert_reference.npz`: a tiny transformers BERT, its inputs, and all that it computes.

Run where torch and transformers are installed: `python tests/numerics/make_reference.py`. Made with
torch 2.13.0 and transformers 5.23.0. Weights are ten times as large as BERT's first ones, so that
attention, GELU and every LayerNorm are far from linear.
"""

import pathlib

import numpy as np
import torch
import transformers

SHAPE = {
    "vocab_size": 60,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 12,
}


def main() -> None:
    """Writes the file beside this one."""
    torch.manual_seed(0)
    inputs = {
        "input_ids": torch.randint(0, 60, (3, 9)),
        "token_type_ids": torch.tensor([[0] * 4 + [1] * 5] * 3),
        "attention_mask": torch.tensor([[1] * 9, [1] * 6 + [0] * 3, [1] * 2 + [0] * 7]),
    }
    kept = {name: value.numpy().astype(np.int32) for name, value in inputs.items()}
    config = transformers.BertConfig(**SHAPE, num_labels=3)
    pretraining = transformers.BertForPreTraining(config).eval()
    task = transformers.BertForSequenceClassification(config).eval()
    task.bert = pretraining.bert
    with torch.no_grad():
        for parameter in [*pretraining.parameters(), *task.classifier.parameters()]:
            parameter.add_(torch.randn_like(parameter) * 0.2)
        for activation in ("gelu", "gelu_new"):
            function = transformers.activations.ACT2FN[activation]
            for layer in pretraining.bert.encoder.layer:
                layer.intermediate.intermediate_act_fn = function
            pretraining.cls.predictions.transform.transform_act_fn = function
            made = pretraining(**inputs, output_hidden_states=True)
            kept |= {
                f"{activation}/states": np.stack([state.numpy() for state in made.hidden_states]),
                f"{activation}/pooled": pretraining.bert(**inputs).pooler_output.numpy(),
                f"{activation}/mlm": made.prediction_logits.numpy(),
                f"{activation}/nsp": made.seq_relationship_logits.numpy(),
                f"{activation}/task": task(**inputs).logits.numpy(),
            }
    tensors = {**pretraining.state_dict(), **task.state_dict()}
    copies = ("bert.embeddings.position_ids", "cls.predictions.decoder.")
    kept |= {
        f"tensor/{name}": value.numpy()
        for name, value in tensors.items()
        if not name.startswith(copies)
    }
    np.savez_compressed(pathlib.Path(__file__).with_name("bert_reference.npz"), **kept)


if __name__ == "__main__":
    main()
