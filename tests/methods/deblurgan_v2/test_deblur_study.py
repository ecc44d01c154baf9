"""The study: what an arm is given, what it goes on from, and how differences are judged."""

import json

import ml_collections
import numpy as np
import pytest

from experiments.configs.deblurgan_v2 import study as configs
from zoo_jax.core.errors import ConfigError
from zoo_jax.methods.deblurgan_v2 import study
from zoo_jax.methods.deblurgan_v2.study import arm_config


def test_an_arm_is_the_config_with_its_own_sections():
    config = configs.get_config("")
    plain = arm_config(config, config.arms.plain, 7)
    assert plain.model.name == "plain_residual"
    assert (plain.seed, plain.steps) == (7, config.steps)
    assert "procedure" not in plain
    assert dict(plain.optim) == dict(config.optim)
    double = arm_config(config, config.arms.double, 0)
    assert set(double.discriminators) == {"patch", "full"}
    assert double.model == config.model
    assert double.optim.discriminator == config.optim.discriminator
    assert double.optim.generator.lr < config.optim.generator.lr
    # Streams that training does not read stay closed.
    assert set(double.data) == {"train", "valid"}
    total = config.arms.base.steps + config.arms.double.steps
    assert total == config.steps  # all arms train for the same number of steps
    with pytest.raises(ConfigError, match="data"):
        arm_config(config, {"data": {}}, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"study.baseline": "bsae"}, "did you mean 'base'"),
        ({"study.streams": ["photo"]}, "did you mean 'photos'"),
        ({"arms.double.start": "patch"}, "must be an arm that starts afresh"),
        ({"study.seeds": []}, "needs streams, seeds"),
    ],
)
def test_a_wrong_section_is_one_line(change, message):
    config = configs.get_config("")
    with config.unlocked():
        config.update_from_flattened_dict(change)
    with pytest.raises(ConfigError, match=message) as error:
        study.deblur_study(config, None)
    assert "\n" not in str(error.value)


class Writer:
    def __init__(self):
        self.tables = {}

    def table(self, name, rows, *, caption=""):
        self.tables[name] = rows

    def figure(self, name, figure, *, caption=""):
        figure.canvas.draw()


class Pictures:
    """A source of noise, and of the noise made darker."""

    def __init__(self):
        self.info = {"groups": ("a", "a", "b")}

    def __len__(self):
        return 3

    def __getitem__(self, index):
        sharp = np.random.default_rng(index).random((16, 16, 3), np.float32)
        return {"image": 0.9 * sharp, "sharp": sharp}


class Context:
    """Trains by adding one to what a network starts from."""

    def __init__(self, workdir):
        self.workdir, self.writer, self.fits = workdir, Writer(), []

    def load_source(self, spec):
        return Pictures()

    def progress(self, total, description):
        from zoo_jax.train.profile import progress_bar

        return progress_bar(total, description)

    def fit(self, name, task, config, variables=None):
        (self.workdir / name).mkdir(parents=True, exist_ok=True)
        self.fits.append((name, variables))
        return {"trained": (variables or {"trained": 0})["trained"] + config.steps}


def test_arms_go_on_from_the_same_seed_and_are_all_measured_alike(
    tmp_path, monkeypatch
):
    """With training replaced by counting, and restoring by brightening a little per step."""
    monkeypatch.setattr(study, "make_task", lambda config, steps: None)
    facts = {"parameters": 1, "gmacs": 1.0}
    monkeypatch.setattr(study, "_facts", lambda config, variables: dict(facts))
    monkeypatch.setattr(
        study,
        "_restore",
        lambda task, variables: lambda b: (1 + variables["trained"] / 100) * b["image"],
    )
    config = ml_collections.ConfigDict(
        {
            "task": "deblurgan_v2",
            "steps": 10,
            "model": {},
            "eval": {},
            "data": {"train": {}, "test": {"name": "x", "batch_size": 2}},
            "arms": {"later": {"start": "zero", "steps": 5}, "zero": {"steps": 3}},
            "study": {
                "streams": ["test"],
                "seeds": [0, 1],
                "baseline": "identity",
                "resamples": 50,
                "pictures": 2,
                "zoom": 8,
            },
        }
    )
    ctx = Context(tmp_path)
    found = study.deblur_study(config, ctx)
    names = [name for name, _ in ctx.fits]
    assert names == ["zero/seed0", "zero/seed1", "later/seed0", "later/seed1"]
    assert [v and v["trained"] for _, v in ctx.fits] == [None, None, 3, 3]
    # 0.9 (1 + 3 %), 0.9 (1 + 8 %): an error of 1 - that, by hand.
    sharp = np.stack([Pictures()[i]["sharp"] for i in range(3)])
    for arm, factor in (("identity", 0.9), ("zero", 0.927), ("later", 0.972)):
        mse = np.mean(((1 - factor) * sharp) ** 2, axis=(1, 2, 3))
        psnr = -10 * np.log10(mse).mean()
        assert found[f"test/{arm}/psnr"] == pytest.approx(psnr, rel=1e-4)
        gain = 20 * np.log10(0.1 / (1 - factor))
        for key in ("gain", "gain_low", "gain_high"):
            assert found[f"test/{arm}/{key}"] == pytest.approx(gain, abs=1e-3)
        assert found[f"test/{arm}/sharpness"] == pytest.approx(factor**2, rel=1e-4)
    rows = {row["arm"]: row for row in ctx.writer.tables["deblurring"]}
    assert [rows[a]["steps"] for a in ("identity", "zero", "later")] == [0, 3, 8]
    assert rows["later"]["seeds"] == 2
    assert rows["later"]["pictures"] == 3
    known = json.loads((tmp_path / "zero/seed0/trained.json").read_text())
    assert known["seconds"] >= 0
