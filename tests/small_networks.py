"""Arguments that make large networks small: their layers by name, with few channels."""

SMALL_NETWORKS = {
    "deblurgan_v2/fpn_inception": dict(blocks=(2, 1), pyramid=32, head=16),
    "deblurgan_v2/fpn_inception_simple": dict(blocks=(2, 1), pyramid=32, head=16),
    "ug2/inception_v3": dict(width=1 / 16),
    "ug2/resnet50": dict(width=8),
    "ug2/vgg16": dict(width=8, hidden=32),
    "ug2/vgg19": dict(width=8, hidden=32),
}
