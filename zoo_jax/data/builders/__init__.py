"""One package per data set: official files on disk -> prepared files for random access.

`BUILDERS` is what `zoo_jax.data.tfds.prepare_dataset` knows, imported on use.
"""

BUILDERS: dict[str, str] = {
    "cifar10": "zoo_jax.data.builders.cifar10.builder:Cifar10",
    "mnist": "zoo_jax.data.builders.mnist.builder:Mnist",
}
