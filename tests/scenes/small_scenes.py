"""Small scenes that many tests share."""

from contextcir.scenes import Scene, Thing

STAR = Thing((0, 0), "star", "red", "large", "plain")
RING = Thing((1, 1), "ring", "blue", "small", "striped")
HEART = Thing((2, 2), "heart", "green", "small", "dotted")
TWO = Scene("beach", (STAR, RING))
THREE = Scene("beach", (STAR, RING, HEART))
