"""One package per data set: official files on disk -> prepared files for random access.

`BUILDERS` is what `zoo_jax.data.tfds.prepare_dataset` knows, imported on use. A
name with a ``/`` is one of several forms of a set, as TFDS writes them.
"""

BUILDERS: dict[str, str] = {
    "cifar10": "zoo_jax.data.builders.cifar10.builder:Cifar10",
    "dvd": "zoo_jax.data.builders.dvd.builder:Dvd",
    "gopro/gamma": "zoo_jax.data.builders.gopro.builder:Gopro",
    "gopro/linear": "zoo_jax.data.builders.gopro.builder:Gopro",
    "koehler": "zoo_jax.data.builders.koehler.builder:Koehler",
    "mnist": "zoo_jax.data.builders.mnist.builder:Mnist",
    "nfs": "zoo_jax.data.builders.nfs.builder:Nfs",
    "reds/blur": "zoo_jax.data.builders.reds.builder:Reds",
    "reds/blur_comp": "zoo_jax.data.builders.reds.builder:Reds",
    "ug2/glider_crops": "zoo_jax.data.builders.ug2.builder:Crops",
    "ug2/glider_frames": "zoo_jax.data.builders.ug2.builder:Frames",
    "ug2/ground_crops": "zoo_jax.data.builders.ug2.builder:Crops",
    "ug2/ground_frames": "zoo_jax.data.builders.ug2.builder:Frames",
    "ug2/uav_crops": "zoo_jax.data.builders.ug2.builder:Crops",
    "ug2/uav_frames": "zoo_jax.data.builders.ug2.builder:Frames",
}
