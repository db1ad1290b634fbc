"""All benchmarks by the names that commands know them by."""

from . import circo, cirr, fashioniq, folder, genecis, grocery, imagenet_r, karpathy, lasco, published, scenes, visdial

BENCHMARKS = {
    "cirr": cirr,
    "circo": circo,
    "fashioniq": fashioniq,
    "genecis": genecis,
    "imagenet_r": imagenet_r,
    "visdial": visdial,
    "flickr30k": karpathy.FLICKR30K,
    "coco": karpathy.COCO,
    "lasco": lasco,
    "grocery": grocery,
    "scenes": scenes,
    "folder": folder,
    "custom": published,
}
