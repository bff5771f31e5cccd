"""Exported folders in environments of their own: transformers 4 and 5, and onnxruntime.

A classifier and a pre-trained model are exported by the command, then run by each environment's
transformers: outputs within 1e-5 of ours, and equal token ids on 10,000 lines of real text. With
`-s` the figures are printed. PD_JAX_TRAINED=CLASSIFIER:PRETRAINED uses models from your own runs,
with one vocabulary, instead of random ones.
"""

import itertools
import os
import pathlib
import subprocess
import venv

import jax
import numpy as np
import pytest

from pd_jax import config as config_lib
from pd_jax.data.tokenizers.tokenizer import load_tokenizer
from pd_jax.models.export import programs
from pd_jax.models.export.forward import make_forward
from pd_jax.models.heads import PretrainingModel, TaskModel
from pd_jax.models.sizes import bert_config
from pd_jax.models.weights import hf
from pd_jax.tools import export

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tests" / "transformers_outputs.py"
TORCH = "2.13.0"
IDS = np.zeros((1, 4), np.int32)
TEXTS = ("corpus/wiki", "corpus/novels", "transfer/imdb_unsup", "tasks/sst2/train")


@pytest.fixture(scope="module")
def texts(data_folder, tmp_path_factory) -> pathlib.Path:
    """10,000 lines of four kinds."""
    found: list[str] = []
    for name in TEXTS:
        (path,) = data_folder.glob(f"{name}.t*")
        with path.open(encoding="utf-8") as stream:
            lines = (line.strip() for line in stream)
            found += itertools.islice((line for line in lines if line), 2500)
    assert len(found) == 10_000
    path = tmp_path_factory.mktemp("texts") / "texts.txt"
    path.write_text("\n".join(found), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def folders(data_folder, tmp_path_factory) -> tuple[pathlib.Path, pathlib.Path]:
    """A classifier and a pre-trained model, exported; random ones of size Mini by default."""
    root = tmp_path_factory.mktemp("models")
    trained = os.environ.get("PD_JAX_TRAINED", "")
    names = ("classifier", "pretrained")
    own = (
        dict(zip(names, trained.split(":"), strict=True)) if trained else _random(root, data_folder)
    )
    for name, folder in own.items():
        assert export.main(["--model", str(folder), "--output", str(root / name)]) == 0
    return root / "classifier", root / "pretrained"


def _random(root: pathlib.Path, data_folder: pathlib.Path) -> dict[str, pathlib.Path]:
    tokenizer = load_tokenizer(data_folder / "vocab" / "vocab.txt")
    config = bert_config(config_lib.Model(size="Mini"), vocab_size=tokenizer.vocab_size)
    made = {
        "classifier": TaskModel(config, 3).init(jax.random.key(0), IDS, IDS, IDS)["params"],
        "pretrained": PretrainingModel(config).init(jax.random.key(1), IDS, IDS, IDS, IDS)[
            "params"
        ],
    }
    for name, params in made.items():
        # Five times BERT's first weights: a model that is not linear.
        params = jax.tree.map(lambda x: np.asarray(x) * (5 if x.ndim > 1 else 1), params)
        told = {"labels": ("no", "perhaps", "yes"), "task": "classification"}
        told = told if name == "classifier" else {}
        hf.save(root / "own" / name, params, config, add=tokenizer.save, **told)
    return {name: root / "own" / name for name in made}


def environment(folder: pathlib.Path, transformers: str) -> str:
    """Returns the interpreter of a new environment; PD_JAX_ENVIRONMENTS keeps it for next time."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if subprocess.run([*pip, f"torch=={TORCH}+cpu"], check=False).returncode:
        subprocess.run([*pip, f"torch=={TORCH}"], check=True)
    subprocess.run([*pip, f"transformers{transformers}"], check=True)
    return str(python)


@pytest.mark.parametrize(("major", "wanted"), [("4", ">=4.57,<5"), ("5", ">=5,<6")])
def test_transformers_computes_and_tokenises_the_same(
    texts, folders, tmp_path, major: str, wanted: str
) -> None:
    kept = pathlib.Path(os.environ.get("PD_JAX_ENVIRONMENTS", tmp_path))
    output = tmp_path / "outputs.npz"
    command = [environment(kept / f"transformers{major}", wanted), str(SCRIPT), str(texts)]
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    subprocess.run([*command, str(output), *map(str, folders)], check=True, env=clean)
    theirs = np.load(output)
    assert str(theirs["version"]).startswith(f"{major}.")
    tokenizer = load_tokenizer(folders[0])
    ours = tokenizer.encode(texts.read_text(encoding="utf-8").split("\n"))
    framed = [np.array([tokenizer.cls_id, *ids, tokenizer.sep_id]) for ids in ours]
    assert [len(row) for row in framed] == theirs["counts"].tolist()
    assert np.array_equal(np.concatenate(framed), theirs["ids"])
    inputs = [theirs[name] for name in ("input_ids", "token_type_ids", "attention_mask")]
    told = [f"transformers {theirs['version']}: {len(framed)} lines tokenised equally"]
    for name, folder in zip(("task", "masked"), folders, strict=True):
        saved = hf.load(folder)
        forward = make_forward(saved.config, saved.params)
        found = np.asarray(forward(*(np.int32(value) for value in inputs))["logits"])
        tokens = np.ones(len(found), bool) if name == "task" else inputs[2] > 0
        difference = float(np.abs(found[tokens] - theirs[name][tokens]).max())
        scale = float(np.abs(found).max())
        told.append(f"{name} logits differ by {difference:.2g} (up to {scale:.3g})")
        assert difference <= 1e-5 * max(1.0, scale)
    print("; ".join(told))


def test_onnxruntime_computes_the_same_on_real_text(texts, folders, tmp_path) -> None:
    pytest.importorskip("onnxruntime")
    arguments = ["--model", str(folders[0]), "--format", "onnx", "--int8"]
    assert export.main([*arguments, "--output", str(tmp_path / "onnx")]) == 0
    saved, tokenizer = hf.load(folders[0]), load_tokenizer(folders[0])
    lines = texts.read_text(encoding="utf-8").split("\n")[:64]
    ids = np.zeros((64, 64), np.int64)
    mask = np.zeros_like(ids)
    for row, tokens in enumerate(tokenizer.encode(lines, limit=62)):
        framed = [tokenizer.cls_id, *tokens[:62], tokenizer.sep_id]
        ids[row, : len(framed)], mask[row, : len(framed)] = framed, 1
    ours = np.asarray(make_forward(saved.config, saved.params)(ids, ids * 0, mask)["logits"])
    found = {}
    for name, limit in (("model.onnx", 1e-5), ("model_int8.onnx", 0.5)):
        run = programs.onnx_program((tmp_path / "onnx" / name).read_bytes())
        found[name] = float(np.abs(run(ids, ids * 0, mask)["logits"] - ours).max())
        assert found[name] <= limit * max(1.0, float(np.abs(ours).max()))
    print(f"onnxruntime, logits up to {np.abs(ours).max():.3g}: {found}")
