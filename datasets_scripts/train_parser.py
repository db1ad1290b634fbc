"""Train the compact constituency parser that ships in `contextcir/parser/`.

```bash
python datasets_scripts/train_parser.py --gum $CIR_DATA_ROOT/gum_const --output_dir contextcir/parser --bf16
```

Idea: noun phrases come from a benepar chart parser (Kitaev and Klein, 2018: a label for every span, the best tree by
CKY) that reads characters instead of a pretrained language model, so that it fits in a few megabytes. It learns from
the CC BY / CC BY-SA part of the GUM treebank, from the gold trees of the scenes grammar, and from a small grammar of
modification texts (`modification_grammar.txt`), into which real noun phrases of GUM are put. Two things make 3,600
trees go further: substructure substitution (Shi et al., 2021: a constituent is swapped for another of the same
label), and looking like a caption (lower case, no final stop, fragments, imperatives).

Differs from benepar's own training: cross-entropy for each span instead of a margin over trees ("local" training,
Teng and Zhang, 2018: as good, and no chart in the training step), tags as a second task, averaged weights.
"""

import argparse
import copy
import csv
import gzip
import hashlib
import json
import os
import random
import re
import sys
import time
from collections import Counter, defaultdict
from itertools import islice
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from contextcir import chart_parser
from contextcir.noun_phrases import NounPhraseExtractor, is_concept
from contextcir.scenes import MAX_EDITS, sample_query, sample_trees

# A tree is (label, [children]); a leaf is (tag, word).
PUNCTUATION = {",", ":", ".", "``", "''", "-LRB-", "-RRB-"}
BRACKETS = {"-LRB-": "(", "-RRB-": ")", "-LSB-": "[", "-RSB-": "]", "``": '"', "''": '"'}


def read_tree(text):
    """One bracketed tree -> nested (label, children), without function tags and traces, words as in plain text."""
    stack = [("", [])]
    tokens = re.findall(r"\(|\)|[^\s()]+", text)
    for previous, token in zip(["", *tokens], tokens, strict=False):
        if token == "(":
            stack.append(["", []])
        elif token == ")":
            label, children = stack.pop()
            label = label if label.startswith("-") else re.split(r"[-=|]", label)[0]
            if children and label != "-NONE-":
                stack[-1][1].append((label, children))
        elif previous == "(":
            stack[-1][0] = token
        else:
            stack[-1] = [stack[-1][0], BRACKETS.get(token, token)]
    return stack[0][1][0]


def is_leaf(tree):
    return isinstance(tree[1], str)


def leaves(tree):
    """All (tag, word) pairs of a tree, in order."""
    return [tree] if is_leaf(tree) else [leaf for child in tree[1] for leaf in leaves(child)]


def labelled_spans(tree, start=0):
    """`[(start, end, "S::VP")]`: closed-open word positions, unary chains joined as benepar does, without the root."""
    chain = []
    while not is_leaf(tree):
        if tree[0] not in ("ROOT", "TOP", ""):
            chain.append(tree[0])
        if len(tree[1]) > 1:
            break
        tree = tree[1][0]
    if is_leaf(tree):
        return [(start, start + 1, "::".join(chain))] if chain else []
    spans, end = [], start
    for child in tree[1]:
        spans += labelled_spans(child, end)
        end += len(leaves(child))
    return [(start, end, "::".join(chain)), *spans] if chain else spans


def map_words(tree, function):
    return (tree[0], function(tree[1])) if is_leaf(tree) else (tree[0], [map_words(c, function) for c in tree[1]])


def without_final_punctuation(tree):
    if is_leaf(tree):
        return tree
    children = list(tree[1])
    while len(children) > 1 and children[-1][0] in PUNCTUATION:
        children.pop()
    return (tree[0], [*children[:-1], without_final_punctuation(children[-1])])


# -- augmentation -----------------------------------------------------------------------------------------------------


class Substitution:
    """Swaps constituents for others of the same label and a similar length, and words for others of the same tag."""

    def __init__(self, trees):
        self.constituents = defaultdict(list)  # (label, length class) -> trees
        self.words = defaultdict(list)  # tag -> words, as often as they occur
        for tree in trees:
            self._collect(tree)

    def _collect(self, tree):
        if is_leaf(tree):
            self.words[tree[0]].append(tree[1])
            return
        length = len(leaves(tree))
        if length <= 16:
            self.constituents[tree[0], length.bit_length()].append(tree)
        for child in tree[1]:
            self._collect(child)

    def __call__(self, tree, rng, p_constituent=0.08, p_word=0.06):
        if is_leaf(tree):
            swap = tree[0] in ("NN", "NNS", "JJ", "NNP", "VB", "VBN", "VBG", "CD", "JJR") and rng.random() < p_word
            return (tree[0], rng.choice(self.words[tree[0]])) if swap else tree
        if rng.random() < p_constituent:
            others = self.constituents.get((tree[0], len(leaves(tree)).bit_length()))
            if others:
                return rng.choice(others)
        return (tree[0], [self(child, rng, p_constituent, p_word) for child in tree[1]])


def misspelt(word, rng):
    """Swaps, drops or doubles one letter."""
    if len(word) < 4 or not word.isalpha():
        return word
    i = rng.randrange(1, len(word) - 1)
    return rng.choice(
        [
            word[:i] + word[i + 1] + word[i] + word[i + 2 :],
            word[:i] + word[i + 1 :],
            word[:i] + word[i] + word[i:],
        ]
    )


def like_a_caption(tree, rng):
    """Drops the final punctuation and the capitals, each for a third of the trees, and misspells words in a tenth."""
    if rng.random() < 0.1:
        tree = map_words(tree, lambda word: misspelt(word, rng) if rng.random() < 0.15 else word)
    if rng.random() < 0.35:
        tree = without_final_punctuation(tree)
    draw = rng.random()
    if draw < 0.3:
        tree = map_words(tree, str.lower)
    elif draw < 0.4:
        first = leaves(tree)[0][1]
        tree = map_words(tree, lambda word: word.lower() if word is first else word)
    return tree


def fragments(tree):
    """The noun phrases of 2 to 12 words, and the verb phrases that can stand as imperatives, as trees of their own."""
    if is_leaf(tree):
        return []
    found = [f for child in tree[1] for f in fragments(child)]
    if 2 <= len(leaves(tree)) <= 14:
        if tree[0] == "NP":
            found.append(("ROOT", [tree]))
        elif tree[0] == "VP" and tree[1][0][0] == "VB":
            found.append(("ROOT", [("S", [tree])]))
    return found


class ModificationGrammar:
    """Samples trees of modification texts from `modification_grammar.txt`; `<GUM>` is one of `noun_phrases`."""

    def __init__(self, noun_phrases):
        path = Path(__file__).with_name("modification_grammar.txt")
        self.alternatives, self.weights = defaultdict(list), defaultdict(list)
        self.alternatives["GUM"], self.weights["GUM"] = noun_phrases, [1] * len(noun_phrases)
        for line in path.read_text().splitlines():
            if re.match(r"\w+:$", line):
                symbol = line[:-1]
            elif line.startswith("  ") and symbol.isupper():
                weight, text = line.split(maxsplit=1)
                self.alternatives[symbol].append(text)
                self.weights[symbol].append(int(weight))
            elif line.startswith("  "):
                self.alternatives[symbol] += line.split()
                self.weights[symbol] += [1] * len(line.split())
        plurals = [
            word + ("es" if word.endswith(("s", "x", "ch", "sh")) else "s") for word in self.alternatives["noun"]
        ]
        self.alternatives["nouns"], self.weights["nouns"] = plurals, [1] * len(plurals)

    def sample(self, rng):
        def expand(match):
            symbol = match.group(1)
            return re.sub(r"<(\w+)>", expand, rng.choices(self.alternatives[symbol], self.weights[symbol])[0])

        text = re.sub(r"<(\w+)>", expand, "(ROOT <TEXT>)")
        text = re.sub(r"\(JJ (\w+)-(\w+)\)", r"(ADJP (JJ \1) (HYPH -) (JJ \2))", text)
        tree = read_tree(text)
        if rng.random() < 0.5:
            return capitalized(tree)
        return map_words(tree, str.lower)


def capitalized(tree):
    first = leaves(tree)[0][1]
    return map_words(tree, lambda word: word[:1].upper() + word[1:] if word is first else word)


def to_brackets(tree):
    return f"({tree[0]} {tree[1]})" if is_leaf(tree) else f"({tree[0]} {' '.join(map(to_brackets, tree[1]))})"


# -- the model --------------------------------------------------------------------------------------------------------


class Example:
    """What benepar's `parse` wants of a sentence."""

    tree = None

    def __init__(self, tree):
        self.tags, self.words = map(list, zip(*leaves(tree), strict=True))
        self.space_after = [True] * len(self.words)
        self.spans = labelled_spans(tree)


def hyperparameters(args):
    return {
        "use_pretrained": False,
        "use_chars_lstm": True,
        "use_encoder": True,
        "encoder": args.encoder,
        "predict_tags": True,
        "force_root_constituent": True,
        "tag_loss_scale": 5.0,
        "d_char_emb": 64,
        "char_lstm_input_dropout": args.dropout,
        "morpho_emb_dropout": args.dropout,
        "attention_dropout": args.dropout,
        "relu_dropout": args.dropout / 2,
        "residual_dropout": args.dropout,
        "encoder_max_len": 256,
        "num_layers": args.num_layers,
        "num_heads": 8,
        "d_model": args.d_model,
        "d_kv": args.d_model // 8,
        "d_ff": 2 * args.d_model,
        "d_label_hidden": args.d_label_hidden,
        "d_tag_hidden": args.d_label_hidden,
    }


def new_parser(trees, chars, args):
    label_counts = Counter(label for tree in trees for *_, label in labelled_spans(tree))
    labels = {label for label, count in label_counts.items() if count >= 3 or "::" not in label}
    tags = sorted({tag for tree in trees for tag, _ in leaves(tree)})
    char_vocab = {char: index for index, char in enumerate(["\0", "\1", "\2", "\3", "\4", *sorted(chars)])}
    parser = chart_parser.new_parser(
        {tag: index for index, tag in enumerate(["UNK", *tags])},
        {label: index for index, label in enumerate(["", *sorted(labels)])},
        char_vocab,
        hyperparameters(args),
    )
    nn.init.constant_(parser.f_label[-1].bias, -6.0)  # most spans are no constituents: begin there
    return parser


def gold_labels(parser, example):
    """Label ids `(num_words, num_words)` at [first word, last word], tag ids `(num_words + 2,)`; -100: none."""
    n = len(example.words)
    chart = torch.full((n, n), -100).tril(-1)
    for start, end, label in example.spans:
        while label not in parser.label_vocab:  # a rare unary chain: its inner part
            label = label.partition("::")[2]
        chart[start, end - 1] = parser.label_vocab[label]
    return chart, torch.tensor([-100, *(parser.tag_vocab.get(tag, 0) for tag in example.tags), -100])


def batches(examples, max_tokens, rng):
    """Sentences of similar length together, about `max_tokens` words a batch, in random order."""
    order = sorted(examples, key=lambda example: len(example.words) + rng.uniform(-2, 2))
    found, batch = [], []
    for example in order:
        if batch and (len(batch) + 1) * len(example.words) > max_tokens:
            found.append(batch)
            batch = []
        batch.append(example)
    found.append(batch)
    rng.shuffle(found)
    return found


def loss_of(parser, batch):
    """Cross-entropy of every span's label plus that of the tags, per word."""
    charts, tags = zip(*[gold_labels(parser, example) for example in batch], strict=True)
    size = max(map(len, charts))
    labels = torch.stack([F.pad(chart, (0, size - len(chart)) * 2, value=-100) for chart in charts])
    tags = nn.utils.rnn.pad_sequence(tags, batch_first=True, padding_value=-100)
    boundaries, tag_scores = parser.read(parser.pad_encoded([parser.encode(example) for example in batch]))
    scores = parser.score(boundaries, *(labels != -100).nonzero(as_tuple=True))  # (num_spans, num_labels)
    span_loss = F.cross_entropy(scores.float(), labels[labels != -100], reduction="sum")
    tag_loss = F.cross_entropy(tag_scores.float().flatten(0, 1), tags.flatten(), ignore_index=-100, reduction="sum")
    return (span_loss + 0.5 * tag_loss) / (tags != -100).sum()


def np_brackets(words_tags, spans):
    """The set of NP brackets of a sentence, as positions among its words that are not punctuation."""
    position = [0]
    for tag in words_tags:
        position.append(position[-1] + (tag not in PUNCTUATION))
    brackets = {(position[s], position[e]) for s, e, label in spans if "NP" in label.split("::")}
    return {(s, e) for s, e in brackets if e > s}


def evaluate(parser, trees):
    """NP-F1 (see `np_brackets`), in per cent, with precision, recall, all-label F1 and tag accuracy."""
    examples = [Example(tree) for tree in trees]
    label_from_index = {index: label for label, index in parser.label_vocab.items()}
    tag_from_index = {index: tag for tag, index in parser.tag_vocab.items()}
    counts = Counter()
    outputs = parser.parse(examples, return_compressed=True, subbatch_max_tokens=2000)
    for example, output in zip(examples, outputs, strict=True):
        predicted = [
            (int(s), int(e), label_from_index[int(i)])
            for s, e, i in zip(output.starts, output.ends, output.labels, strict=True)
            if i
        ]
        gold_np, predicted_np = np_brackets(example.tags, example.spans), np_brackets(example.tags, predicted)
        counts["np_hit"] += len(gold_np & predicted_np)
        counts["np_gold"] += len(gold_np)
        counts["np_predicted"] += len(predicted_np)
        counts["hit"] += len(set(example.spans) & set(predicted))
        counts["gold"] += len(example.spans)
        counts["predicted"] += len(predicted)
        counts["tags"] += sum(tag_from_index[int(i)] == tag for i, tag in zip(output.tags, example.tags, strict=True))
        counts["words"] += len(example.words)
    scores = {
        "np_f1": 2 * counts["np_hit"] / max(counts["np_gold"] + counts["np_predicted"], 1),
        "np_precision": counts["np_hit"] / max(counts["np_predicted"], 1),
        "np_recall": counts["np_hit"] / max(counts["np_gold"], 1),
        "all_labels_f1": 2 * counts["hit"] / max(counts["gold"] + counts["predicted"], 1),
        "tag_accuracy": counts["tags"] / max(counts["words"], 1),
    }
    return {name: round(100 * value, 2) for name, value in scores.items()} | {"trees": len(trees)}


def write_card(output_dir):
    """Render `README.md` from `parser.json` and the template in `cards/`."""
    record = json.loads((output_dir / "parser.json").read_text())
    best, runs = record["best"], [record]
    while runs[0].get("initial_run"):
        runs.insert(0, runs[0]["initial_run"])
    columns = ("np_f1", "np_precision", "np_recall", "all_labels_f1", "tag_accuracy")
    row = "| {0} ({trees} trees) | " + " | ".join(f"{{{name}:.1f}}" for name in columns) + " |"
    names = [name for name in ("gum_dev", "scenes_dev", "captions_dev") if name in best]
    card = (
        (Path(__file__).parent / "cards" / "parser.md")
        .read_text()
        .format(
            parameters=record["parameters"],
            megabytes=record["bytes"] / 1e6,
            epochs=sum(run["best"]["epoch"] for run in runs),
            rows="\n".join(row.format(name, **best[name]) for name in names),
            commands="\n".join("    " + run["command"] for run in runs),
            seed=record["arguments"]["seed"],
            cpu_minutes=sum(run["best"]["cpu_minutes"] for run in runs),
            sha256=record["sha256"],
            span_f1=record["scenes_texts"]["span_f1"],
            texts=record["scenes_texts"]["texts"],
            speed=", ".join(f"{rate} {name}" for name, rate in record["captions_per_second"].items()),
            documents="\n".join("| " + " | ".join(map(str, line)) + " |" for line in record["documents"]),
        )
    )
    (output_dir / "README.md").write_text(card)


def documents_of(gum):
    """`[part, genre, licence, documents, trees]` for each genre, from `gum_{train,dev}.docs.tsv`."""
    found = {}
    for part in ("train", "dev"):
        with open(Path(gum) / f"gum_{part}.docs.tsv", newline="", encoding="utf-8") as file:
            for line in csv.DictReader(file, delimiter="\t"):
                counts = found.setdefault((part, line["genre"], line["licence"]), [0, 0])
                counts[0] += 1
                counts[1] += int(line["trees"])
    return [[*key, *counts] for key, counts in found.items()]


def evaluate_texts(extractor, queries):
    """Character spans found in raw texts against the gold ones (both without pronouns), in per cent."""
    hit = gold = found = 0
    for query, phrases in zip(queries, extractor.extract([query.text for query in queries]), strict=True):
        spans = {(phrase["start"], phrase["end"]) for phrase in phrases}
        expected = {(p.start, p.end) for p in query.noun_phrases if is_concept(p.text)}
        hit, gold, found = hit + len(spans & expected), gold + len(expected), found + len(spans)
    return {"span_f1": round(200 * hit / max(gold + found, 1), 2), "texts": len(queries)}


def captions_per_second(extractor, texts):
    """Of CPU time, with the threads that torch is set to."""
    extractor.extract(texts[:100])
    began = time.process_time()
    extractor.extract(texts)
    return round(len(texts) / (time.process_time() - began))


def measure(output_dir, num_texts=500):
    """Adds to `parser.json` what needs raw texts: span scores and speed; then renders the card."""
    record = json.loads((output_dir / "parser.json").read_text())
    extractor = NounPhraseExtractor(output_dir / "parser.pt", max_phrases=1000)
    rng = random.Random("texts")
    queries = [sample_query(rng, rng.randint(1, MAX_EDITS)) for _ in range(num_texts)]
    record["scenes_texts"] = evaluate_texts(extractor, queries)
    record["captions_per_second"] = {"scenes": captions_per_second(extractor, [query.text for query in queries])}
    cirr = Path(os.environ.get("CIR_DATA_ROOT", ".")) / "cirr" / "captions" / "cap.rc2.val.json"
    if cirr.exists():
        captions = [row["caption"] for row in json.loads(cirr.read_text())]
        record["captions_per_second"]["CIRR val"] = captions_per_second(extractor, captions[:2000])
    (output_dir / "parser.json").write_text(json.dumps(record, indent=1) + "\n")
    write_card(output_dir)


def write_record(parser, args, argv, history):
    """`parser.pt` and `parser.json`: how it came about; the last line of `history` is the best."""
    output_dir = Path(args.output_dir)
    chart_parser.save_parser(parser, output_dir / "parser.pt")
    weights = (output_dir / "parser.pt").read_bytes()
    command = " ".join(["python datasets_scripts/train_parser.py", *(sys.argv[1:] if argv is None else argv)])
    if os.environ.get("CIR_DATA_ROOT"):
        command = command.replace(os.environ["CIR_DATA_ROOT"].rstrip("/"), "$CIR_DATA_ROOT")
    record = {
        "command": command,
        "arguments": {name: value for name, value in vars(args).items() if name not in ("gum", "output_dir")},
        "documents": documents_of(args.gum),
        "parameters": sum(p.numel() for p in parser.parameters()),
        "bytes": len(weights),
        "sha256": hashlib.sha256(weights).hexdigest(),
        "best": history[-1],
        "history": history,
        "initial_run": None,
    }
    if args.init_from is not None:
        record["initial_run"] = json.loads(Path(args.init_from).with_suffix(".json").read_text())
    (output_dir / "parser.json").write_text(json.dumps(record, indent=1) + "\n")


def main(argv=None):
    parser_of_arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser_of_arguments.add_argument
    add("--gum", required=True, help="folder with gum_{train,dev}.ptb.gz and gum_{train,dev}.docs.tsv")
    add("--output_dir", default="contextcir/parser", help="where parser.pt, parser.json and README.md go")
    add("--epochs", type=int, default=30)
    add("--scenes_trees", type=int, default=1500, help="trees of the scenes grammar an epoch")
    add("--caption_trees", type=int, default=1500, help="trees of the modification-text grammar an epoch")
    add("--gum_trees", type=int, default=None, help="use the first so many trees of GUM only")
    add("--dev_trees", type=int, default=500, help="held-out trees of each of the two grammars")
    add("--init_from", default=None, help="go on from this parser.pt; its parser.json lies beside it")
    add("--max_words", type=int, default=50, help="longer training sentences are left out")
    add("--batch_tokens", type=int, default=700)
    add("--learning_rate", type=float, default=1e-3)
    add("--dropout", type=float, default=0.3)
    add("--d_model", type=int, default=384)
    add("--d_label_hidden", type=int, default=192)
    add("--encoder", choices=["bilstm", "transformer"], default="bilstm")
    add("--num_layers", type=int, default=2)
    add("--substitution", type=float, default=0.08, help="chance that a constituent is swapped for another")
    add("--bf16", action="store_true", help="train in bfloat16 autocast: twice as fast on CPUs that have it")
    add("--seed", type=int, default=0)
    args = parser_of_arguments.parse_args(argv)
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)
    rng = random.Random(args.seed)

    def read(name):
        with gzip.open(Path(args.gum) / f"gum_{name}.ptb.gz", "rt", encoding="utf-8") as lines:
            return [read_tree(line) for line in lines]

    gum, gum_dev = read("train")[: args.gum_trees], read("dev")
    scenes = scenes_dev = []
    if args.scenes_trees:
        scenes = [read_tree(text) for text in islice(sample_trees(args.scenes_trees, 1), args.scenes_trees)]
        scenes_dev = [read_tree(text) for text in islice(sample_trees(args.dev_trees, 2), args.dev_trees)]
    substitute = Substitution(gum)
    gum_fragments = [f for tree in gum for f in fragments(tree)]
    short = [f[1][0] for f in gum_fragments if f[1][0][0] == "NP" and len(leaves(f)) <= 6]
    short = [to_brackets(t) for t in short if not {w for _, w in leaves(t)} & set("()[]<>")]
    grammar = ModificationGrammar(short)
    captions = [grammar.sample(rng) for _ in range(1000)]
    captions_dev = [grammar.sample(random.Random(f"dev {i}")) for i in range(args.dev_trees)]
    chars = Counter(char for tree in gum for _, word in leaves(tree) for char in word)
    chars = {char for char, count in chars.items() if count >= 3} | {chr(code) for code in range(33, 127)}
    parser = new_parser(gum + scenes + captions, chars, args)
    if args.init_from is not None:
        initial = chart_parser.load_parser(args.init_from)
        vocabularies = initial.tag_vocab, initial.label_vocab, initial.char_vocab
        parser = chart_parser.new_parser(*vocabularies, hyperparameters(args))
        parser.load_state_dict(initial.state_dict())
    average = copy.deepcopy(parser)

    def epoch_examples(epoch):
        trees = [like_a_caption(substitute(tree, rng, args.substitution), rng) for tree in gum]
        trees += [
            like_a_caption(substitute(tree, rng, 0.02), rng) for tree in rng.sample(gum_fragments, len(gum) // 4)
        ]
        trees += [like_a_caption(grammar.sample(rng), rng) for _ in range(args.caption_trees)]
        if args.scenes_trees:
            texts = islice(sample_trees(args.scenes_trees, 1000 + epoch), args.scenes_trees)
            trees += [like_a_caption(read_tree(text), rng) for text in texts]
        examples = [Example(tree) for tree in trees]
        return [example for example in examples if len(example.words) <= args.max_words]

    optimizer = torch.optim.AdamW(parser.parameters(), lr=args.learning_rate, betas=(0.9, 0.98), weight_decay=1e-2)
    steps_per_epoch = len(batches(epoch_examples(0), args.batch_tokens, rng))
    total = args.epochs * steps_per_epoch
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / min(100, total / 10), max(0.02, 1 - step / total))
    )
    Path(args.output_dir).mkdir(parents=True, exist_ok=True)
    best, history, step, began = 0.0, [], 0, time.process_time()
    for epoch in range(args.epochs):
        parser.train()
        total_loss = 0.0
        found = batches(epoch_examples(epoch), args.batch_tokens, rng)
        for batch in found:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.bf16):
                loss = loss_of(parser, batch)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parser.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            step += 1
            decay = min(0.996, step / (step + 10))
            with torch.no_grad():
                torch._foreach_lerp_(list(average.parameters()), list(parser.parameters()), 1 - decay)
            total_loss += loss.item()
        row = {
            "epoch": epoch + 1,
            "loss": round(total_loss / len(found), 4),
            "cpu_minutes": round((time.process_time() - began) / 60, 2),
        }
        row["gum_dev"] = evaluate(average, gum_dev)
        row["captions_dev"] = evaluate(average, captions_dev)
        if scenes_dev:
            row["scenes_dev"] = evaluate(average, scenes_dev)
        history.append(row)
        print(json.dumps(row), flush=True)
        if row["gum_dev"]["np_f1"] >= best:
            best = row["gum_dev"]["np_f1"]
            write_record(average, args, argv, history)
    measure(Path(args.output_dir), args.dev_trees)


if __name__ == "__main__":
    main()
