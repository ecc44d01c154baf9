"""Official annotations of video and sound sets -> a manifest of their clips.

`MANIFESTS` is what `make_manifest` knows, imported on use. A reader takes the folder of the
official files and yields `Row`s; it never opens a video.
"""

MANIFESTS: dict[str, str] = {
    "audioset": "zoo_jax.data.builders.clips.sounds:audioset",
    "captioned_folder": "zoo_jax.data.builders.clips.captions:captioned_folder",
    "esc50": "zoo_jax.data.builders.clips.sounds:esc50",
    "hmdb51/1": "zoo_jax.data.builders.clips.actions:hmdb51",
    "hmdb51/2": "zoo_jax.data.builders.clips.actions:hmdb51",
    "hmdb51/3": "zoo_jax.data.builders.clips.actions:hmdb51",
    "howto100m": "zoo_jax.data.builders.clips.captions:howto100m",
    "kinetics/400": "zoo_jax.data.builders.clips.actions:kinetics",
    "kinetics/600": "zoo_jax.data.builders.clips.actions:kinetics",
    "kinetics/700": "zoo_jax.data.builders.clips.actions:kinetics",
    "msrvtt": "zoo_jax.data.builders.clips.captions:msrvtt",
    "msrvtt/1k": "zoo_jax.data.builders.clips.captions:msrvtt_1k",
    "ucf101/1": "zoo_jax.data.builders.clips.actions:ucf101",
    "ucf101/2": "zoo_jax.data.builders.clips.actions:ucf101",
    "ucf101/3": "zoo_jax.data.builders.clips.actions:ucf101",
    "youcook2": "zoo_jax.data.builders.clips.captions:youcook2",
    "youtube8m": "zoo_jax.data.builders.clips.youtube8m:youtube8m",
}
