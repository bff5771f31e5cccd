"""A BERT as an ONNX graph, built node by node with `onnx.helper`.

Batch and length are symbolic. The graph uses operators that ONNX defines for the purpose
(LayerNormalization of opset 17, Gelu of opset 20), so that a runtime can fuse what it likes.
"""

import logging
import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from pd_jax.errors import WeightsError
from pd_jax.models.export.forward import INPUTS, output_axes
from pd_jax.models.sizes import BertConfig

OPSET = 20
IR_VERSION = 9
"""The oldest version with OPSET's operators, so that runtimes of 2023 and later read the file."""

_MASKED = -1e30


def require_onnx() -> Any:
    """Returns the onnx package; raises WeightsError naming the extra to install."""
    try:
        import onnx
    except ImportError:
        raise WeightsError(
            "ONNX export needs the onnx package; pip install 'pd_jax[export]'"
        ) from None
    return onnx


class _Graph:
    """Nodes and constants in the making; every method returns the name of what it adds."""

    def __init__(self, config: BertConfig) -> None:
        self.config = config
        self.onnx = require_onnx()
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}

    def constant(self, name: str, value: Any, dtype: Any = np.float32) -> str:
        if name not in self.constants:
            array = np.asarray(value, dtype, order="C")
            self.constants[name] = self.onnx.numpy_helper.from_array(array, name)
        return name

    def integers(self, *values: int) -> str:
        name = "integers_" + "_".join(str(value).replace("-", "m") for value in values)
        return self.constant(name, values, np.int64)

    def node(self, kind: str, name: str, *inputs: str, **attributes: Any) -> str:
        made = self.onnx.helper.make_node(kind, list(inputs), [name], name=name, **attributes)
        self.nodes.append(made)
        return name

    def dense(self, name: str, states: str, params: Mapping[str, Any]) -> str:
        kernel = self.constant(f"{name}/kernel", params["kernel"])
        bias = self.constant(f"{name}/bias", params["bias"])
        product = self.node("MatMul", f"{name}/product", states, kernel)
        return self.node("Add", name, product, bias)

    def norm(self, name: str, states: str, params: Mapping[str, Any]) -> str:
        scale = self.constant(f"{name}/scale", params["scale"])
        bias = self.constant(f"{name}/bias", params["bias"])
        return self.node(
            "LayerNormalization",
            name,
            states,
            scale,
            bias,
            axis=-1,
            epsilon=self.config.norm_epsilon,
        )

    def gelu(self, name: str, states: str) -> str:
        approximate = "tanh" if self.config.gelu == "tanh" else "none"
        return self.node("Gelu", name, states, approximate=approximate)


def build(config: BertConfig, params: Mapping[str, Any]) -> Any:
    """Returns the onnx.ModelProto that computes what `make_forward` does, checked by onnx.

    Inputs are int64 [batch, length]: input_ids, token_type_ids (0 or 1), attention_mask (1 where
    there is a token).
    """
    graph = _Graph(config)
    helper, kind = graph.onnx.helper, graph.onnx.TensorProto
    states = _embeddings(graph, params["bert"]["embeddings"])
    bias = _mask_bias(graph)
    states = _layers(graph, states, bias, params)
    outputs = _outputs(graph, states, params)
    axes = output_axes(params)
    made = helper.make_graph(
        graph.nodes,
        "bert",
        [helper.make_tensor_value_info(name, kind.INT64, ("batch", "length")) for name in INPUTS],
        [helper.make_tensor_value_info(name, kind.FLOAT, axes[name]) for name in outputs],
        list(graph.constants.values()),
    )
    model = helper.make_model(
        made,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="pd_jax",
    )
    graph.onnx.checker.check_model(model, full_check=True)
    return model


def quantise(model: bytes) -> bytes:
    """Returns the model with int8 weights, a scale a channel; activations are quantised live."""
    try:
        from onnxruntime import quantization
    except ImportError:
        raise WeightsError("int8 needs onnxruntime; pip install 'pd_jax[export]'") from None
    # It logs a warning that the graph was not run through its optimiser, which changes operators.
    logging.disable(logging.WARNING)
    try:
        with tempfile.TemporaryDirectory() as folder:
            target = pathlib.Path(folder) / "int8.onnx"
            quantization.quantize_dynamic(
                require_onnx().load_from_string(model),
                target,
                op_types_to_quantize=["MatMul", "Gather"],
                per_channel=True,
                weight_type=quantization.QuantType.QInt8,
                # Without VNNI, products of 8 bits overflow 16 in pairs; 7-bit weights do not.
                reduce_range=True,
            )
            return target.read_bytes()
    finally:
        logging.disable(logging.NOTSET)


def _embeddings(graph: _Graph, params: Mapping[str, Any]) -> str:
    shape = graph.node("Shape", "embeddings/length", INPUTS[0], start=1, end=2)
    rows = graph.constant("embeddings/position", params["position"]["embedding"])
    first, axis = graph.integers(0), graph.integers(0)
    position = graph.node("Slice", "embeddings/positions", rows, first, shape, axis)
    found = []
    for name, ids in (("word", INPUTS[0]), ("token_type", INPUTS[1])):
        table = graph.constant(f"embeddings/{name}", params[name]["embedding"])
        found.append(graph.node("Gather", f"embeddings/{name}/rows", table, ids, axis=0))
    summed = graph.node("Add", "embeddings/summed", *found)
    summed = graph.node("Add", "embeddings/placed", summed, position)
    return graph.norm("embeddings/norm", summed, params["norm"])


def _mask_bias(graph: _Graph) -> str:
    """Adds what keeps padding out of every softmax, [batch, 1, 1, length]."""
    zero = graph.constant("zero", 0, np.int64)
    tokens = graph.node("Greater", "mask/tokens", INPUTS[2], zero)
    unmasked, masked = graph.constant("unmasked", 0.0), graph.constant("masked", _MASKED)
    bias = graph.node("Where", "mask/flat", tokens, unmasked, masked)
    return graph.node("Unsqueeze", "mask/bias", bias, graph.integers(1, 2))


def _layers(graph: _Graph, states: str, bias: str, params: Mapping[str, Any]) -> str:
    """Adds the layers; of a classifier's last one for the first token alone."""
    for index in range(graph.config.layers):
        queries = states
        if "classifier" in params and index == graph.config.layers - 1:
            begin, end, axis = graph.integers(0), graph.integers(1), graph.integers(1)
            queries = graph.node("Slice", "first_token", states, begin, end, axis)
        states = _layer(graph, f"layer_{index}", queries, states, bias, params)
    return states


def _layer(
    graph: _Graph, name: str, queries: str, states: str, bias: str, params: Mapping[str, Any]
) -> str:
    weights = params["bert"][name]
    attended = _attention(graph, f"{name}/attention", queries, states, bias, weights["attention"])
    summed = graph.node("Add", f"{name}/attention_residual", queries, attended)
    queries = graph.norm(f"{name}/attention_norm", summed, weights["attention_norm"])
    inner = graph.dense(f"{name}/mlp_in", queries, weights["mlp_in"])
    inner = graph.gelu(f"{name}/gelu", inner)
    output = graph.dense(f"{name}/mlp_out", inner, weights["mlp_out"])
    summed = graph.node("Add", f"{name}/mlp_residual", queries, output)
    return graph.norm(f"{name}/mlp_norm", summed, weights["mlp_norm"])


def _attention(
    graph: _Graph, name: str, queries: str, states: str, bias: str, params: Mapping[str, Any]
) -> str:
    head_size = graph.config.hidden // graph.config.heads
    split = graph.integers(0, 0, graph.config.heads, head_size)

    def heads(which: str, states: str, order: tuple[int, ...]) -> str:
        flat = graph.dense(f"{name}/{which}", states, params[which])
        parts = graph.node("Reshape", f"{name}/{which}/heads", flat, split)
        return graph.node("Transpose", f"{name}/{which}/turned", parts, perm=order)

    query = heads("query", queries, (0, 2, 1, 3))
    key = heads("key", states, (0, 2, 3, 1))
    value = heads("value", states, (0, 2, 1, 3))
    scaled = graph.node(
        "Mul", f"{name}/scaled", query, graph.constant("head_scale", head_size**-0.5)
    )
    scores = graph.node("MatMul", f"{name}/scores", scaled, key)
    scores = graph.node("Add", f"{name}/masked", scores, bias)
    weights = graph.node("Softmax", f"{name}/weights", scores, axis=-1)
    mixed = graph.node("MatMul", f"{name}/mixed", weights, value)
    turned = graph.node("Transpose", f"{name}/turned", mixed, perm=(0, 2, 1, 3))
    joined = graph.node(
        "Reshape", f"{name}/joined", turned, graph.integers(0, 0, graph.config.hidden)
    )
    return graph.dense(f"{name}/output", joined, params["output"])


def _pooled(graph: _Graph, states: str, params: Mapping[str, Any]) -> str:
    """Adds the pooler of the first tokens' states."""
    first = graph.node("Gather", "first", states, graph.constant("zero", 0, np.int64), axis=1)
    return graph.node("Tanh", "pooled", graph.dense("pooler", first, params["bert"]["pooler"]))


def _outputs(graph: _Graph, states: str, params: Mapping[str, Any]) -> list[str]:
    """Adds the heads; returns the graph's outputs in the order of `output_axes`."""
    names = list(output_axes(params))
    if "classifier" in params:
        outputs = [graph.dense("classifier", _pooled(graph, states, params), params["classifier"])]
    elif "mlm" in params:
        transformed = graph.dense("mlm/transform", states, params["mlm"]["transform"])
        transformed = graph.gelu("mlm/gelu", transformed)
        transformed = graph.norm("mlm/norm", transformed, params["mlm"]["norm"])
        # The decoder is the word embedding: the same constant, turned when the model is loaded.
        decoder = graph.node("Transpose", "mlm/decoder", "embeddings/word", perm=(1, 0))
        product = graph.node("MatMul", "mlm/product", transformed, decoder)
        bias = graph.constant("mlm/bias", params["mlm"]["bias"])
        outputs = [graph.node("Add", "mlm", product, bias)]
        if "nsp" in params:
            outputs.append(graph.dense("nsp", _pooled(graph, states, params), params["nsp"]))
    else:
        outputs = [states, _pooled(graph, states, params)]
    for name, output in zip(names, outputs, strict=True):
        graph.node("Identity", name, output)
    return names
