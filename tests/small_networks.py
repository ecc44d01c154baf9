"""Arguments that make large networks small: their layers by name, with few channels."""

_VATT = dict(
    encoder=(1, 8, 12, 2),
    vocabulary=30,
    word_width=6,
    projection=8,
    d_kv=4,
    spaces=(6, 4),
)
_TOWERS = _VATT | dict(audio_encoder=(2, 6, 8, 1), text_encoder=(2, 8, 10, 1))

SMALL_NETWORKS = {
    "deblurgan_v2/fpn_inception": dict(blocks=(2, 1), pyramid=32, head=16),
    "deblurgan_v2/fpn_inception_simple": dict(blocks=(2, 1), pyramid=32, head=16),
    "gradient_harmonization/vatt_medium": _VATT,
    "gradient_harmonization/vatt_bbs": _TOWERS,
    "gradient_harmonization/vatt_mbs": _TOWERS,
    "gradient_harmonization/vatt_lbs": _TOWERS,
    "ug2/inception_v3": dict(width=1 / 16),
    "ug2/resnet50": dict(width=8),
    "ug2/vgg16": dict(width=8, hidden=32),
    "ug2/vgg19": dict(width=8, hidden=32),
}
