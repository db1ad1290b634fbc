"""What `datasets_scripts/train_parser.py` makes the shipped constituency parser of.

`trees` reads bracketed trees, `augmentation` makes more of them, `grammar` samples modification texts, `objective` is
the parser's loss, and `scores` says how good it is.
"""
