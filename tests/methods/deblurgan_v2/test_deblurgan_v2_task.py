"""Who plays, in what order, with what weights; and what is refused before anything is trained."""

import numpy as np
import pytest

from experiments.configs.deblurgan_v2 import study
from zoo_jax.core.errors import ConfigError
from zoo_jax.methods.deblurgan_v2 import make_task
from zoo_jax.methods.deblurgan_v2.study import arm_config


def config(**loss):
    c = study.get_config("")
    out = arm_config(c, c.arms.double, 0)
    out.loss.update(loss)
    return out


def test_discriminators_move_first_and_both_sides_weigh_the_game_alike():
    discriminator, generator = make_task(config(adversarial_weight=0.01), 10).players
    assert set(discriminator.owns) == {"patch", "full"}
    assert generator.owns == ("generator",)
    half = {"patch": 0.005, "full": 0.005}  # each of two counts half
    assert dict(discriminator.weights) == half
    assert dict(generator.weights) == {"pixel": 0.5, **half}


def test_without_discriminators_one_player_learns_from_the_content():
    c = config()
    c.discriminators = {}
    (player,) = make_task(c, 10).players
    assert dict(player.weights) == {"pixel": 0.5}


def test_the_gradient_penalty_weighs_ten_times_its_game():
    discriminator, generator = make_task(
        config(adversarial="wgan_gp", adversarial_weight=0.01, penalty=10.0), 10
    ).players
    np.testing.assert_allclose(discriminator.weights["patch_penalty"], 0.05)
    assert not any("penalty" in name for name in generator.weights)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        # Never another loss than the config names.
        ({"features": "vgg19", "vgg19": ""}, "needs loss.vgg19"),
        ({"features": "vgg"}, "did you mean 'vgg19'"),
        ({"adversarial": "ragan-ls"}, "did you mean 'ragan_ls'"),
        ({"pixel_space": "units"}, "did you mean 'unit'"),
        ({"pool": 0}, "from 1, got 0"),
        ({"pixel": -1.0}, "from 0, got -1.0"),
    ],
)
def test_a_wrong_loss_is_one_line(change, message):
    with pytest.raises(ConfigError, match=message) as error:
        make_task(config(**change), 10)
    assert "\n" not in str(error.value)


def test_a_player_without_an_optimiser_is_one_line():
    c = config()
    with c.unlocked():
        del c.optim["discriminator"]
    with pytest.raises(ConfigError, match="lacks the section 'discriminator'"):
        make_task(c, 10)
