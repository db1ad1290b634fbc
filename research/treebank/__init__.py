"""Training of the constituency parser that ships with the package (`python -m research.train_parser`).

`trees` reads bracketed trees, `augmentation` varies them, `grammar` samples modification texts over the words that
`words` collects, `agreement` takes trees of real captions from two parsers, and `data` mixes all of them. `objective`
has the parser's loss, `training` the loop, `scores` and `labelled` its measures, and `record` its record and card.
"""
