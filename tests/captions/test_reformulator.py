"""Examples for a reformulator, and a language model in the place of a server: batches, attempts, ends, digests."""

import asyncio
import json
import sqlite3

import datasets
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from contextcir.captions import instructcir, load_prompts
from contextcir.captions.examples import Example, judge_examples, read_examples, split_examples
from contextcir.captions.reformulator import (
    MAX_NEW_TOKENS,
    Reformulator,
    adapter_folder,
    encode_answer,
    encode_prompt,
    weights_digest,
)
from contextcir.captions.schemas import ImageCaption, Reformulation
from contextcir.captions.stages import Conversation
from contextcir.chat import Dispatcher
from contextcir.chat.ledger import Ledger
from contextcir.chat.server import ChatRequest, Outcome
from contextcir.data.pairs import Pair
from datasets_scripts import build_tiny_lm

PROMPT = load_prompts("instructcir")["reformulation"]


# --- examples --------------------------------------------------------------------------------------------------------


def write_lines(path, rows):
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return str(path)


def row(a="a cat", b="a dog", text="make it a dog"):
    return {"caption_a": a, "caption_b": b, "modification_text": text}


def test_lines_and_datasets_are_read_alike(tmp_path):
    rows = [row(), row(text="  turn it\ninto a dog ")]
    expected = [Example("a cat", "a dog", "make it a dog"), Example("a cat", "a dog", "turn it into a dog")]
    assert read_examples(write_lines(tmp_path / "seed.jsonl", [rows[0], "", rows[1]])) == expected
    (tmp_path / "data").mkdir()
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "data" / "dev-00000-of-00001.parquet")
    assert read_examples(str(tmp_path / "data"), "validation") == expected


def test_of_our_own_pairs_what_was_kept_is_read(tmp_path):
    kept, dropped = {"text": "make it a dog", "dropped": None}, {"text": "a dog in image B", "dropped": "names_images"}
    made = {"reference": "a cat", "target": "a dog", "captions": [dropped, kept], "reason": ""}
    failed = made | {"reason": "no_caption_left", "captions": [dropped]}
    assert read_examples(write_lines(tmp_path / "pairs.jsonl", [failed, made])) == [Example(**row())]
    of_objects = made | {"reference": [{"name": "cat", "descriptors": []}]}
    with pytest.raises(ValueError, match="row 1: caption_a is list, expected text. Only the recipe instructcir"):
        read_examples(write_lines(tmp_path / "pairs.jsonl", [of_objects]))


@pytest.mark.parametrize(
    "rows, problem",
    [
        ([], "holds no examples. Give rows with caption_a, caption_b, modification_text"),
        ([row(), {"caption_a": "a", "text": "b"}], "row 2: caption_b, modification_text missing, there are caption_a"),
        ([row(), "{"], "row 2 is not JSON"),
        (["[1]"], "row 1: expected an object with caption_a.*, got list"),
        ([row(b=None)], "row 1: caption_b is NoneType, expected text"),
    ],
)
def test_examples_that_are_none(tmp_path, rows, problem):
    with pytest.raises(ValueError, match=problem):
        read_examples(write_lines(tmp_path / "seed.jsonl", rows))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="There is no file .*seed.jsonl"):
        read_examples(str(tmp_path / "seed.jsonl"))


def test_what_nothing_is_learned_from_is_counted():
    long, longest = " ".join("abcdefghijklm"), " ".join("abcdefghijkl")
    echo = "Speak of the things themselves, not of images, descriptions or captions."
    rows = [
        row(),
        row(),
        row(text=long),
        row(text="dog"),
        row(text=longest),
        row(a=" "),
        row(a="a dog"),
        row(text=echo),
    ]
    examples = [Example(*(text.strip() for text in one.values())) for one in rows]
    kept, left_out = judge_examples(examples, [PROMPT])
    assert [example.modification_text for example in kept] == ["make it a dog", longest]
    assert left_out == {
        "length": 2,
        "repeated": 1,
        "empty_caption": 1,
        "same_captions": 1,
        "echoes_prompt": 1,
    }


def test_a_pair_of_captions_stays_on_one_side():
    pairs = [(str(number), str(number + 1)) for number in range(20)]
    examples = [Example(a, b, text) for a, b in pairs for text in ("make it so", "do it")]
    examples += [Example(b, a, "undo it") for a, b in pairs]
    learned, held_out = split_examples(examples, 0.2, seed=1)
    assert len(held_out) == 12 and sorted(map(str, learned + held_out)) == sorted(map(str, examples))
    sides = [{frozenset((one.caption_a, one.caption_b)) for one in side} for side in (learned, held_out)]
    assert not sides[0] & sides[1]
    assert split_examples(examples, 0.2, seed=1) == (learned, held_out) != split_examples(examples, 0.2, seed=2)
    assert [len(side) for side in split_examples(examples[:4], 0.001)] == [2, 2]
    with pytest.raises(ValueError, match="All 2 examples are of one pair of captions"):
        split_examples(examples[:2], 0.5)


# --- a model in the place of a server --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A model and its tokenizer, of nothing but bytes."""
    folder = tmp_path_factory.mktemp("lm")
    sizes = ["--hidden_size", "32", "--num_layers", "1", "--vocab_size", "257", "--num_texts", "2"]
    build_tiny_lm.main(["--output", str(folder), *sizes])
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


@pytest.fixture
def spoken(tiny, monkeypatch):
    """`spoken(*texts)` -> a reformulator that says these to the next prompts, and the batches that it was given."""
    model, tokenizer = tiny
    calls = []

    def start(*texts):
        waiting = [*texts]

        def generate(input_ids, attention_mask, do_sample, **options):
            calls.append((input_ids, attention_mask, do_sample))
            answers = [encode_answer(tokenizer, waiting.pop(0)) for _ in input_ids]
            longest = max(map(len, answers))
            filled = [answer + [options["pad_token_id"]] * (longest - len(answer)) for answer in answers]
            return torch.cat([input_ids, torch.tensor(filled)], dim=1)

        monkeypatch.setattr(model, "generate", generate)
        return Reformulator(model, tokenizer, name="tiny", digest="d"), calls

    return start


def ask(reformulator, *prompts, attempt=0):
    async def all_at_once():
        requests = [ChatRequest("reformulation", prompt, schema=Reformulation, attempt=attempt) for prompt in prompts]
        return await asyncio.gather(*map(reformulator.complete, requests))

    return asyncio.run(all_at_once())


def test_what_is_asked_at_one_time_is_one_batch(spoken, tiny):
    reformulator, calls = spoken("make it red", " a second one ", "third one")
    outcomes = ask(reformulator, "one", "a longer prompt", "x")
    assert [outcome.value for outcome in outcomes] == [
        Reformulation(change=text) for text in ("make it red", "a second one", "third one")
    ]
    ((ids, mask, sampled),) = calls
    assert not sampled and ids.shape == mask.shape == (3, len("a longer prompt\n\n"))
    assert tiny[1].decode(ids[0][mask[0].bool()]) == "one\n\n" and mask[0].tolist() == [0] * 12 + [1] * 5
    assert (outcomes[0].model, outcomes[0].prompt_tokens, outcomes[0].completion_tokens) == ("tiny", 5, 11)


def test_padding_changes_nothing(tiny):
    reformulator = Reformulator(*tiny, name="tiny", digest="d")
    prompts = ["red", "a much longer prompt than the others", "blue sky"]
    alone = [ask(reformulator, prompt)[0].text for prompt in prompts]
    assert [outcome.text for outcome in ask(reformulator, *prompts)] == alone and len(set(alone)) == 3


def test_a_second_attempt_is_sampled_and_the_same_in_every_run(tiny):
    reformulator = Reformulator(*tiny, name="tiny", digest="d")
    (first,) = ask(reformulator, "red")
    state = torch.random.get_rng_state()
    (second,) = ask(reformulator, "red", attempt=1)
    assert torch.equal(torch.random.get_rng_state(), state)  # nobody else's numbers change
    torch.manual_seed(5)
    assert ask(reformulator, "blue", "red", attempt=1)[1] == second != first


def test_answers_without_words_or_end_are_malformed(spoken, monkeypatch):
    reformulator, _ = spoken("", "make it red")
    empty, good = ask(reformulator, "one", "two")
    assert (empty.kind, empty.error, good.kind) == ("malformed", "the answer is empty", "answered")
    endless = torch.full((1, MAX_NEW_TOKENS), 60)
    monkeypatch.setattr(reformulator.model, "generate", lambda input_ids, **_: torch.cat([input_ids, endless], dim=1))
    (outcome,) = ask(reformulator, "one")
    assert (outcome.kind, outcome.error) == ("malformed", "the answer has no end within 128 tokens")


def test_a_prompt_that_is_too_long_fails_alone(spoken):
    reformulator, calls = spoken("make it red")
    long, good = ask(reformulator, "x" * 2000, "one")
    assert (long.kind, good.kind) == ("failed", "answered")
    assert long.error == "the prompt has 2002 tokens, and tiny reads 1920" and len(calls[0][0]) == 1


def test_a_fault_of_the_model_reaches_who_asked(spoken, monkeypatch):
    reformulator, _ = spoken("good as new")
    generate = reformulator.model.generate

    def fail(**_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(reformulator.model, "generate", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        ask(reformulator, "one")
    monkeypatch.setattr(reformulator.model, "generate", generate)
    assert ask(reformulator, "one")[0].kind == "answered"


def recipe(reformulator, folder):
    """InstructCIR's stages on one pair, with given captions, over a ledger in a folder."""
    captions = {"a.jpg": "a cat", "b.jpg": "a dog"}

    async def go():
        with Ledger(folder, reformulator.settings) as ledger:
            async with Dispatcher(reformulator, ledger) as dispatcher:

                async def ask(request):
                    if request.role == "reformulation":
                        return await dispatcher.ask(request)
                    return Outcome("answered", ImageCaption(caption=captions[request.images[0]]))

                pair = Pair("a.jpg", "b.jpg", "a", "b")
                conversation = Conversation(ask)
                return await instructcir(pair, conversation, load_prompts("instructcir")), conversation.outcomes

    return asyncio.run(go())


def test_a_long_answer_is_asked_for_once_more_and_nothing_is_written_twice(spoken, tmp_path):
    reformulator, calls = spoken(" ".join(["very"] * 13), "make it a dog")
    draft, outcomes = recipe(reformulator, tmp_path)
    assert [caption.text for caption in draft.captions] == ["make it a dog"] and len(outcomes) == 4
    assert [sampled for _, _, sampled in calls] == [False, True]
    again, _ = recipe(reformulator, tmp_path)
    assert again == draft and len(calls) == 2
    rows = sqlite3.connect(tmp_path / "ledger.sqlite").execute("select role, attempt, kind, usd from requests")
    assert sorted(rows) == [("reformulation", 0, "answered", 0.0), ("reformulation", 1, "answered", 0.0)]


def test_an_empty_answer_is_asked_for_once_more(spoken, tmp_path):
    draft, _ = recipe(spoken("", "make it a dog")[0], tmp_path)
    assert draft.captions[0].text == "make it a dog"


def test_another_adapter_has_answers_of_its_own(tiny):
    one, other = (Reformulator(*tiny, name="tiny", digest=digest) for digest in "de")
    request = ChatRequest("reformulation", "red", schema=Reformulation)
    assert one.request_id(request) != other.request_id(request) and one.settings != other.settings
    assert one.request_id(request) != one.request_id(ChatRequest("reformulation", "red", attempt=1))


# --- tokens and weights ----------------------------------------------------------------------------------------------


def test_prompts_of_chat_models_go_through_their_template(tiny, tokenizer):
    _, own = tiny
    assert own.decode(encode_prompt(own, "red")) == "red\n\n" and encode_answer(own, "red")[-1] == own.eos_token_id
    chat = AutoTokenizer.from_pretrained(own.name_or_path)
    chat.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{{ '<answer>' if add_generation_prompt }}"
    )
    assert chat.decode(encode_prompt(chat, "red")) == "<user>red<answer>"
    assert tokenizer.eos_token_id not in encode_prompt(tokenizer, "red")  # which this one adds by itself


def test_the_digest_knows_other_weights_and_no_precision(tiny):
    model, tokenizer = tiny
    digest = weights_digest(model)
    half = AutoModelForCausalLM.from_pretrained(tokenizer.name_or_path, dtype=torch.bfloat16)
    assert weights_digest(half) == digest
    with torch.no_grad():
        half.model.embed_tokens.weight[100:] += 1
    assert weights_digest(half) != digest


def test_folders_that_are_no_adapter(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(
        ValueError, match="no reformulator: adapter_model.safetensors, reformulation.txt, training.json"
    ):
        adapter_folder(str(tmp_path))
    for name in (str(tmp_path / "nowhere"), "nobody/nothing"):
        with pytest.raises(ValueError, match="There is no folder .*, and the Hub gave none"):
            adapter_folder(name)
