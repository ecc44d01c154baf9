"""A small network of three towers with shared parts, for tests of harmonized gradients."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from zoo_jax.nn.taps import ModuleTower
from zoo_jax.optim.harmonized import Harmonizer
from zoo_jax.task import Aux, TrainState


class Block(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x):
        y = nn.LayerNorm(name="norm")(x)
        q, k, v = (nn.Dense(self.width, name=n)(y) for n in "qkv")
        weights = jax.nn.softmax(q @ k.swapaxes(-1, -2) / self.width**0.5)
        x = x + nn.Dropout(0.3, deterministic=False)(nn.Dense(x.shape[-1])(weights @ v))
        y = nn.gelu(nn.Dense(2 * self.width, name="wi")(x))
        return x + nn.Dense(x.shape[-1], use_bias=False, name="wo")(y)


class Backbone(nn.Module):
    """Stems of their own, one encoder for all of them; text also has a word table."""

    width: int = 6
    remat: bool = False

    def setup(self):
        self.stems = {name: nn.Dense(self.width) for name in ("video", "audio")}
        self.words = nn.Embed(7, self.width)
        self.position = self.param("position", nn.initializers.normal(), (9, self.width))
        block = nn.remat(Block) if self.remat else Block
        self.blocks = [block(self.width) for _ in range(2)]

    def __call__(self, name, x):
        x = self.words(x) if name == "text" else self.stems[name](x)
        x = x + self.position[: x.shape[0]]
        for block in self.blocks:
            x = block(x)
        return x[0]

    def everything(self, batch):
        return [self(name, batch[name][0]) for name in ("video", "audio", "text")]


def make_batch(size=8, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "video": jnp.asarray(rng.normal(size=(size, 5, 4)), jnp.float32),
        "audio": jnp.asarray(rng.normal(size=(size, 4, 3)), jnp.float32),
        "text": jnp.asarray(rng.integers(0, 7, (size, 3))),
    }


def nce(one, other):
    scores = one @ other.T
    both = jnp.concatenate([scores, scores.T], 1)
    return jax.nn.logsumexp(both, axis=1) - jnp.diagonal(scores)


def heads(owned, features, state, batch, key):
    """Two contrastive terms; `video_text` is 0 where a clip has no text."""
    del state, key
    z = {name: h @ owned["heads"][name] for name, h in features.items()}
    mask = batch.get("mask", jnp.ones(z["text"].shape[0]))
    terms = {
        "video_audio": nce(z["video"], z["audio"]),
        "video_text": nce(z["video"], z["text"]) * mask,
    }
    return terms, Aux({}, {"scale": jnp.mean(z["video"] ** 2)})


def make_towers(module):
    def tower(name):
        return ModuleTower(
            module,
            lambda apply, example, key: apply(
                name, example[name], rngs={"dropout": key}
            ),
        )

    return {name: tower(name) for name in ("video", "audio", "text")}


def make_owned(module, batch=None, seed=0):
    batch = make_batch() if batch is None else batch
    rngs = {"params": jax.random.key(seed), "dropout": jax.random.key(1)}
    params = module.init(rngs, batch, method="everything")["params"]
    rng = np.random.default_rng(seed)
    width = module.width
    matrices = {
        n: jnp.asarray(rng.normal(size=(width, 5)), jnp.float32)
        for n in ("video", "audio", "text")
    }
    return {"backbone": params, "heads": matrices}


def make_state(owned, step=0):
    return TrainState(
        step=jnp.int32(step),
        params=owned,
        model_state={},
        opt_state={"player": optax.EmptyState()},
        ema={},
        key=jax.random.key(0),
        skipped=jnp.int32(0),
        streak=jnp.int32(0),
    )


def make(module=None, **options):
    module = module or Backbone()
    options = {"weights": {"video_text": 0.5}, **options}
    return Harmonizer(towers=make_towers(module), heads=heads, **options)


def run(harmonizer, owned, batch, step=0, seed=3):
    """Jitted gradients, terms and metrics."""

    @jax.jit
    def gradient(owned, batch):
        state = make_state(owned, step)
        grads, terms, aux = harmonizer.gradient(
            None, owned, state, batch, jax.random.key(seed)
        )
        return grads, terms, dict(aux.metrics)

    return gradient(owned, batch)


def plain(harmonizer, owned, batch, seed=3):
    """The gradient of the weighted loss."""

    def loss(owned):
        terms, _ = harmonizer.loss(
            owned, make_state(owned), batch, jax.random.key(seed)
        )
        weights = harmonizer.weights
        return sum(weights.get(n, 1.0) * jnp.mean(t) for n, t in terms.items())

    return jax.jit(jax.grad(loss))(owned)
