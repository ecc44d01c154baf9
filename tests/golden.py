"""Golden files of networks: outputs of published code. Weights and inputs follow from a rule."""

import importlib.util
import json
import pathlib

import jax.numpy as jnp
import numpy as np

FOLDER = pathlib.Path(__file__).resolve().parent / "fixtures" / "golden"

_spec = importlib.util.spec_from_file_location("golden_rule", FOLDER / "rule.py")
rule = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(rule)


def channels_to_end(x):
    """NCHW or NCTHW -> channels last; anything with fewer axes as it is."""
    x = jnp.asarray(x, jnp.float32)
    return jnp.moveaxis(x, 1, -1) if x.ndim > 3 else x


class Golden:
    """One golden file with the weights and inputs that belong to it.

    Inputs get their channels last. So must outputs be, unless the file has them so itself.
    """

    def __init__(self, path, *, channels_last=False):
        self.channels_last = channels_last
        self.stored = np.load(FOLDER / path)
        self.meta = json.loads(str(self.stored["meta"]))
        seed = self.meta["seed"]
        self.weights = rule.weights(self.meta["manifest"], seed, self.meta["gain"])
        self.inputs = {
            name: channels_to_end(getattr(rule, kind)(shape, seed, **options))
            for name, (kind, shape, options) in self.meta["inputs"].items()
        }

    def compare(self, outputs, *, of=None):
        """The given outputs, within the tolerance that the file states.

        They must be those that `of` lists, and no others; without it, all of the file.
        """
        assert set(outputs) == set(self.meta["outputs"] if of is None else of)
        assert outputs
        for name, value in outputs.items():
            value, how = np.asarray(value), self.meta["outputs"][name]
            if value.ndim == 4 and not self.channels_last:
                value = value.transpose(0, 3, 1, 2)
            assert value.shape == tuple(how["shape"]), name
            got = value.reshape(-1)
            if how["stored"] != "full":
                got = rule.sample(value, int(how["stored"].split(":")[1]))
            error = np.abs(got - self.stored[f"out/{name}"].reshape(-1)).max()
            # Set in the file: ten times what the reference itself loses in float32.
            assert error <= how["atol"], (name, error)
