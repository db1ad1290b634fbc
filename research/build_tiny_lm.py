"""Build a tiny causal language model with random weights, to try `contextcir data reformulator` offline.

    python -m research.build_tiny_lm --output data/tiny_lm

It has the architecture of Llama, and a byte-pair vocabulary learned from the texts of the scenes grammar. So every
text can be tokenized, and texts of scenes take few tokens. Same arguments, same files.
"""

import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers.hf_argparser import HfArg

from contextcir.cli.options import CommandParser
from contextcir.cli.running import run
from contextcir.scenes import describe, realise, sample_query

END = "<|end|>"


@dataclass
class Arguments:
    """Options of the builder."""

    _argument_group_name = "Model"

    output: str = HfArg(help="Folder of the model and its tokenizer.")
    hidden_size: int = HfArg(default=128, help="Width of the transformer.")
    num_layers: int = HfArg(default=2, help="Number of layers.")
    vocab_size: int = HfArg(default=1000, help="Most tokens; at least the 256 bytes and the end token.")
    num_texts: int = HfArg(default=2000, help="Texts that the vocabulary is learned from.")
    seed: int = HfArg(default=0, help="Seed of the texts and the weights.")


def train_tokenizer(args: Arguments) -> Tokenizer:
    """Learn byte pairs from captions and modification texts."""
    rng, texts = random.Random(f"tiny lm {args.seed}"), []
    for _ in range(args.num_texts // 2):
        query = sample_query(rng, 2)
        texts += [query.text, realise(describe(rng, query.reference))[0]]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=args.vocab_size, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def main(argv: Sequence[str]) -> None:
    """Build and save the model and its tokenizer."""
    (args,) = CommandParser([Arguments], "python -m research.build_tiny_lm", __doc__).parse(argv)
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=train_tokenizer(args), eos_token=END)
    torch.manual_seed(args.seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=args.hidden_size,
            intermediate_size=2 * args.hidden_size,
            num_hidden_layers=args.num_layers,
            num_attention_heads=4,
            max_position_embeddings=2048,
            # Logits up to about 16. With the default of 0.02, no token would get a high probability.
            initializer_range=16 / args.hidden_size,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    model.save_pretrained(args.output)
    tokenizer.save_pretrained(args.output)
    print(f"{model.num_parameters():,} parameters, {len(tokenizer):,} tokens: {args.output}")


if __name__ == "__main__":
    sys.exit(run(main, "python -m research.build_tiny_lm"))
