"""Captions of the differences between two images, written by a chat model: from pairs of images to training triplets.

`stages` implements the recipes of good4cir and InstructCIR. `inspection` and `leakage` check the images before, and
`gates` the captions after. `pipeline` takes all pairs through these, and `run` and `writing` make a data set.
"""
