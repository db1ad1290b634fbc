"""A chart parser with random weights, small enough to make in a test."""

import torch

from contextcir.phrases.chart_parser import new_parser

LABELS = ["", "NP", "S", "VP", "PP", "S::VP", "NP::NP", "SBAR", "WHNP", "ADVP"]
HPARAMS = {
    "use_pretrained": False,
    "use_chars_lstm": True,
    "use_encoder": True,
    "encoder": "bilstm",
    "predict_tags": True,
    "force_root_constituent": True,
    "tag_loss_scale": 5.0,
    "d_char_emb": 7,
    "char_lstm_input_dropout": 0.1,
    "morpho_emb_dropout": 0.1,
    "attention_dropout": 0.1,
    "relu_dropout": 0.1,
    "residual_dropout": 0.1,
    "encoder_max_len": 128,
    "num_layers": 1,
    "num_heads": 2,
    "d_model": 32,
    "d_kv": 16,
    "d_ff": 36,
    "d_label_hidden": 19,
    "d_tag_hidden": 17,
}


def tiny_parser(seed=0, **hparams):
    torch.manual_seed(seed)
    chars = {chr(code): code for code in range(128)}
    tags = {"UNK": 0, "NN": 1, "DT": 2}
    return new_parser(tags, {label: i for i, label in enumerate(LABELS)}, chars, HPARAMS | hparams)
