"""Training of the constituency parser that ships with the package (`python -m research.train_parser`).

`trees` reads bracketed trees, `augmentation` varies them, `grammar` samples modification texts, and `data` mixes all
of them. `objective` has the parser's loss, `training` the loop, `scores` its measures, and `record` its record and
card.
"""
