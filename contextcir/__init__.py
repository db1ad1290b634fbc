"""Composed image retrieval: everything around the models.

A map, and nothing else (importing this package imports nothing):

- `images` — the one hardened image intake · `triplets` — the data contract · `collator` — rows to a training batch
- `attention` — where noun phrases look, asked of a model
- `noun_phrases` — constituency trees to character spans · `losses` — tensors to scalars
- `training_args`, `trainer`, `training` — `CIRTrainingArguments`, `CIRTrainer` and what it is made of
- `retrieval` — queries, exact search, dense retrievers · `metrics` — recall@k and friends · `benchmarks` — protocols
- `scenes` — a procedural world with exact ground truth · `visualization` — pictures of what a model does

The models live beside this package (`modeling_contextcir`) and arrive here as arguments.
"""
