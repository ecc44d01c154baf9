"""Small data and recognisers that see something, for tests of the harness."""

import pathlib

import numpy as np
from PIL import Image

from zoo_jax.methods.ug2.class_map import class_map_of

COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200)}
# Classes 0, 1, 2 are colours; 3 is a second red, 4 and 5 are never right.
CLASS_MAP = class_map_of({"red": [0, 3], "green": [1], "blue": [2]}, classes=6)


class ColourRecogniser:
    """Scores classes by the mean of each channel: dimmed or mixed colours are missed."""

    def __init__(self, name="colours"):
        self.name = name

    def scores(self, images):
        means = np.array([image.mean(axis=(0, 1)) / 255 for image in images])
        rest = np.full((len(images), 1), 0.3)
        return np.concatenate([means, means[:, :1] / 2, rest, rest], axis=1)


def picture(colour, seed=0, size=(9, 11), dim=1.0):
    noise = np.random.default_rng(seed).integers(-20, 21, (*size, 3))
    values = np.array(COLOURS[colour]) * dim + noise
    return np.clip(values, 0, 255).astype(np.uint8)


def save(path: pathlib.Path, image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def make_folder(folder: pathlib.Path, *, dims=(1.0, 0.55, 0.2)) -> pathlib.Path:
    """``<class>/<video>/<frame>.png``: of each colour a bright, a dim and a dark video.

    Among two guesses, a bright red has both its classes, a dim one has one, a dark one none.
    """
    for i, colour in enumerate(COLOURS):
        for video, dim in enumerate(dims):
            for frame in range(2):
                image = picture(colour, 100 * i + 10 * video + frame)
                image = (image * dim).astype(np.uint8)
                save(folder / colour / f"v{i}{video}" / f"{frame}.png", image)
    return folder


def brighten(x):
    """Undoes the darkness; jax or numpy, [b, h, w, 3]."""
    return x / x.max(axis=(1, 2, 3), keepdims=True)
