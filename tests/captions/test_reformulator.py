"""A language model as a chat backend: batches, attempts, ends of answers, and digests."""

import asyncio
import sqlite3

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from contextcir.captions.recipes import load_prompts
from contextcir.captions.reformulator import (
    MAX_NEW_TOKENS,
    Reformulator,
    adapter_folder,
    base_digest,
    encode_answer,
    encode_prompt,
)
from contextcir.captions.schemas import ImageCaption, Reformulation
from contextcir.captions.stages import Conversation, instructcir
from contextcir.chat.dispatch import Dispatcher
from contextcir.chat.exchange import ChatRequest, Outcome
from contextcir.chat.ledger import Ledger
from contextcir.data.pairs import Pair
from research import build_tiny_lm


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A tiny model and its tokenizer of bytes."""
    folder = tmp_path_factory.mktemp("lm")
    sizes = ["--hidden_size", "32", "--num_layers", "1", "--vocab_size", "257", "--num_texts", "2"]
    build_tiny_lm.main(["--output", str(folder), *sizes])
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


@pytest.fixture
def spoken(tiny, monkeypatch):
    """`spoken(*texts)` -> a reformulator that answers the next prompts with these, and a list of its batches."""
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


def test_concurrent_requests_are_one_batch(spoken, tiny):
    reformulator, calls = spoken("make it red", " a second one ", "third one")
    outcomes = ask(reformulator, "one", "a longer prompt", "x")
    assert [outcome.value for outcome in outcomes] == [
        Reformulation(change=text) for text in ("make it red", "a second one", "third one")
    ]
    ((ids, mask, sampled),) = calls
    assert not sampled and ids.shape == mask.shape == (3, len("a longer prompt\n\n"))
    assert tiny[1].decode(ids[0][mask[0].bool()]) == "one\n\n" and mask[0].tolist() == [0] * 12 + [1] * 5
    assert (outcomes[0].model, outcomes[0].prompt_tokens, outcomes[0].completion_tokens) == ("tiny", 5, 11)


def test_padding_does_not_change_answers(tiny):
    reformulator = Reformulator(*tiny, name="tiny", digest="d")
    prompts = ["red", "a much longer prompt than the others", "blue sky"]
    alone = [ask(reformulator, prompt)[0].text for prompt in prompts]
    assert [outcome.text for outcome in ask(reformulator, *prompts)] == alone and len(set(alone)) == 3


def test_a_second_attempt_is_sampled_and_reproducible(tiny):
    reformulator = Reformulator(*tiny, name="tiny", digest="d")
    (first,) = ask(reformulator, "red")
    state = torch.random.get_rng_state()
    (second,) = ask(reformulator, "red", attempt=1)
    assert torch.equal(torch.random.get_rng_state(), state)  # the global state is restored
    torch.manual_seed(5)
    assert ask(reformulator, "blue", "red", attempt=1)[1] == second != first


def test_empty_and_endless_answers_are_malformed(spoken, monkeypatch):
    reformulator, _ = spoken("", "make it red")
    empty, good = ask(reformulator, "one", "two")
    assert (empty.kind, good.kind) == ("malformed", "answered") and empty.error
    endless = torch.full((1, MAX_NEW_TOKENS), 60)
    monkeypatch.setattr(reformulator.model, "generate", lambda input_ids, **_: torch.cat([input_ids, endless], dim=1))
    (outcome,) = ask(reformulator, "one")
    assert outcome.kind == "malformed" and "128" in outcome.error


def test_a_prompt_that_is_too_long_fails_only_its_own_request(spoken):
    reformulator, calls = spoken("make it red")
    long, good = ask(reformulator, "x" * 2000, "one")
    assert (long.kind, good.kind) == ("failed", "answered")
    assert "2002" in long.error and "tiny reads 1920" in long.error and len(calls[0][0]) == 1


def test_an_error_of_the_model_is_raised_to_the_caller(spoken, monkeypatch):
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


def test_a_long_answer_is_requested_once_more_and_answers_are_kept(spoken, tmp_path):
    reformulator, calls = spoken(" ".join(["very"] * 13), "make it a dog")
    draft, outcomes = recipe(reformulator, tmp_path)
    assert [caption.text for caption in draft.captions] == ["make it a dog"] and len(outcomes) == 4
    assert [sampled for _, _, sampled in calls] == [False, True]
    again, _ = recipe(reformulator, tmp_path)
    assert again == draft and len(calls) == 2
    rows = sqlite3.connect(tmp_path / "ledger.sqlite").execute("select role, attempt, kind, usd from requests")
    assert sorted(rows) == [("reformulation", 0, "answered", 0.0), ("reformulation", 1, "answered", 0.0)]


def test_an_empty_answer_is_requested_once_more(spoken, tmp_path):
    draft, _ = recipe(spoken("", "make it a dog")[0], tmp_path)
    assert draft.captions[0].text == "make it a dog"


def test_requests_to_another_adapter_have_other_ids(tiny):
    one, other = (Reformulator(*tiny, name="tiny", digest=digest) for digest in "de")
    request = ChatRequest("reformulation", "red", schema=Reformulation)
    assert one.request_id(request) != other.request_id(request) and one.settings != other.settings
    assert one.request_id(request) != one.request_id(ChatRequest("reformulation", "red", attempt=1))


# --- tokens and weights ----------------------------------------------------------------------------------------------


def test_chat_models_use_their_template(tiny, tokenizer):
    _, own = tiny
    assert own.decode(encode_prompt(own, "red")) == "red\n\n" and encode_answer(own, "red")[-1] == own.eos_token_id
    chat = AutoTokenizer.from_pretrained(own.name_or_path)
    chat.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{{ '<answer>' if add_generation_prompt }}"
    )
    assert chat.decode(encode_prompt(chat, "red")) == "<user>red<answer>"
    assert tokenizer.eos_token_id not in encode_prompt(tokenizer, "red")  # which this tokenizer adds


def test_the_digest_depends_on_the_weights_and_not_on_their_precision(tiny):
    model, tokenizer = tiny
    digest = base_digest(model)
    half = AutoModelForCausalLM.from_pretrained(tokenizer.name_or_path, dtype=torch.bfloat16)
    assert base_digest(half) == digest
    with torch.no_grad():
        half.model.embed_tokens.weight[100:] += 1
    assert base_digest(half) != digest


def test_other_folders_are_refused(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match=f"{tmp_path}.*: adapter_model.safetensors, reformulation.txt, training.json"):
        adapter_folder(str(tmp_path))
    for name in (str(tmp_path / "nowhere"), "nobody/nothing"):
        with pytest.raises(ValueError, match=name):
            adapter_folder(name)
