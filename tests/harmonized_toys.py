"""A small network of two towers with a shared encoder, for tests of harmonized gradients."""

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
        q, k = (nn.Dense(self.width, name=n)(y) for n in "qk")
        x = x + nn.Dropout(0.3, deterministic=False)(jax.nn.softmax(q @ k.T) @ y)
        return x + nn.Dense(x.shape[-1], use_bias=False, name="out")(jnp.tanh(x))


class Backbone(nn.Module):
    """Video and text have stems of their own, and share an encoder and positions."""

    width: int = 6

    def setup(self):
        self.stem = nn.Dense(self.width)
        self.words = nn.Embed(7, self.width)
        self.position = self.param(
            "position", nn.initializers.normal(), (9, self.width)
        )
        self.blocks = [Block(self.width)]

    def __call__(self, name, x):
        x = self.words(x) if name == "text" else self.stem(x)
        x = x + self.position[: x.shape[0]]
        for block in self.blocks:
            x = block(x)
        return x[0]

    def everything(self, batch):
        return [self(name, batch[name][0]) for name in ("video", "text")]


def make_batch(size=8, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "video": jnp.asarray(rng.normal(size=(size, 5, 4)), jnp.float32),
        "audio": jnp.asarray(rng.normal(size=(size, 5)), jnp.float32),
        "text": jnp.asarray(rng.integers(0, 7, (size, 3))),
        "mask": jnp.ones(size),
    }


def nce(one, other):
    scores = one @ other.T
    both = jnp.concatenate([scores, scores.T], 1)
    return jax.nn.logsumexp(both, axis=1) - jnp.diagonal(scores)


def heads(owned, features, state, batch, key):
    """Two contrastive terms; sound is not encoded; `video_text` is 0 without a text."""
    del state, key
    z = {name: h @ owned["heads"][name] for name, h in features.items()}
    terms = {
        "video_audio": nce(z["video"], batch["audio"]),
        "video_text": nce(z["video"], z["text"]) * batch["mask"],
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

    return {name: tower(name) for name in ("video", "text")}


def make_owned(module, batch=None, seed=0):
    batch = make_batch() if batch is None else batch
    rngs = {"params": jax.random.key(seed), "dropout": jax.random.key(1)}
    params = module.init(rngs, batch, method="everything")["params"]
    rng = np.random.default_rng(seed)
    width = module.width
    matrices = {
        n: jnp.asarray(rng.normal(size=(width, 5)) / width, jnp.float32)
        for n in ("video", "text")
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


def jit(function):
    """These networks are small: time goes into compiling them."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def run(harmonizer, seed=3):
    """``(owned, batch, step) -> gradients, terms, metrics``, jitted."""

    @jit
    def gradient(owned, batch, step):
        state = make_state(owned, step)
        key = jax.random.key(seed)
        grads, terms, aux = harmonizer.gradient(None, owned, state, batch, key)
        return grads, terms, dict(aux.metrics)

    return gradient


def plain(harmonizer, seed=3):
    """``(owned, batch) -> gradient of the weighted loss``, jitted."""

    def loss(owned, batch):
        key = jax.random.key(seed)
        terms, _ = harmonizer.loss(owned, make_state(owned), batch, key)
        return sum(
            harmonizer.weights.get(n, 1.0) * jnp.mean(t) for n, t in terms.items()
        )

    return jit(jax.grad(loss))


def each_gradient(harmonizer, seed=3):
    """``(owned, batch) -> leaves [k, b, ...]``: every example has parameters of its own."""

    def terms(copies, owned, batch):
        key, size = jax.random.key(seed), batch["text"].shape[0]
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(size))
        features = {
            name: jax.vmap(tower)(copies, batch, keys)
            for name, tower in harmonizer.towers.items()
        }
        terms, _ = heads({"heads": owned["heads"]}, features, None, batch, None)
        return jnp.stack(
            [harmonizer.weights.get(n, 1.0) * jnp.mean(terms[n]) for n in sorted(terms)]
        )

    def gradient(owned, batch):
        size = batch["text"].shape[0]
        copies = jax.tree.map(
            lambda x: jnp.broadcast_to(x, (size, *x.shape)), owned["backbone"]
        )
        return jax.jacrev(terms)(copies, owned, batch)

    return jit(gradient)
