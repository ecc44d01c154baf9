"""One step on several entries: the same window, the same flip."""

import numpy as np
import pytest

from zoo_jax.core.errors import ConfigError, DataError
from zoo_jax.data.source import open_source
from zoo_jax.data.transforms import make_transform

KEYS = ["image", "segmentation"]


def together(**step):
    return dict(name="together", keys=KEYS, step=step)


def example(h=9, w=12):
    place = np.arange(h * w, dtype=np.int32).reshape(h, w)
    return {"image": np.repeat(place[..., None], 3, axis=2), "segmentation": place}


@pytest.mark.parametrize("seed", range(8))
def test_image_and_mask_stay_in_register(seed):
    steps = [together(name="random_crop", size=5), together(name="horizontal_flip")]
    given = example()
    out = make_transform(steps)(given, np.random.default_rng(seed))
    assert out["segmentation"].shape == (5, 5)
    np.testing.assert_array_equal(out["image"][..., 1], out["segmentation"])
    np.testing.assert_array_equal(given["segmentation"], example()["segmentation"])


def test_draws_are_those_of_the_step_alone():
    crop, flip = dict(name="random_crop", size=5), dict(name="horizontal_flip")
    found = []
    for steps in ([crop, flip], [together(**crop), together(**flip)]):
        transform = make_transform(steps)
        rngs = map(np.random.default_rng, range(9))
        found.append([transform(example(), rng)["image"] for rng in rngs])
    np.testing.assert_array_equal(*found)
    assert len({image.tobytes() for image in found[0]}) > 5


def test_what_cannot_go_together_is_named():
    small = {**example(), "segmentation": np.zeros((8, 12), np.int32)}
    with pytest.raises(DataError, match=r"differ in size: .*\(9, 12\).*\(8, 12\)"):
        make_transform([together(name="horizontal_flip")])(
            small, np.random.default_rng(0)
        )
    for section in (
        dict(name="together", keys=["image"], step=dict(name="horizontal_flip")),
        dict(name="together", keys=KEYS, step=dict(name="horizontal_flip", key="x")),
    ):
        with pytest.raises(ConfigError, match="two keys or more and a step without"):
            make_transform([section])


def test_made_up_masks_mark_the_crests_of_the_class():
    spec = dict(name="synthetic_images", size=4, height=9, width=7, noise=0.0)
    plain, masked = open_source(spec), open_source({**spec, "masks": True})
    for i in range(4):
        np.testing.assert_array_equal(plain[i]["image"], masked[i]["image"])
        mask, light = masked[i]["segmentation"], masked[i]["image"].max(-1)
        assert set(np.unique(mask)) == {masked[i]["label"], 255}
        assert (mask[light > 130] == masked[i]["label"]).all()
        assert (mask[light < 125] == 255).all()
