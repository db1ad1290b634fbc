"""A transformers pipeline as a role: its input, the parsing of its answers, and a real (tiny) one."""

import asyncio
from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, pipeline

from contextcir.chat.exchange import ChatRequest
from contextcir.retrieval.imagescope.local import pipeline_ask
from contextcir.retrieval.imagescope.roles import ImageCaption, Questions, load_prompts
from tests.tiny_triplets import png


class Scripted:
    """A stand-in for a pipeline of transformers, with given answers."""

    def __init__(self, *answers, task="image-text-to-text"):
        self.task, self.model, self.answers, self.calls = task, SimpleNamespace(name_or_path="tiny"), [*answers], []

    def __call__(self, *messages, **options):
        self.calls.append((messages, options))
        return [{"generated_text": self.answers.pop(0)}]


@pytest.fixture(scope="module")
def questions():
    return Questions(load_prompts())


def ask(pipe, request):
    return asyncio.run(pipeline_ask(pipe, max_new_tokens=7)(request))


def test_images_come_before_the_text_with_the_schema(questions):
    pipe = Scripted('Sure! {"caption": "a dog",}')
    outcome = ask(pipe, questions.caption(png(1)))
    assert (outcome.kind, outcome.value, outcome.model) == ("answered", ImageCaption(caption="a dog"), "tiny")
    ((_, options),) = pipe.calls
    (message,) = options.pop("text")
    assert options == {"max_new_tokens": 7, "return_full_text": False, "generate_kwargs": {"do_sample": False}}
    image, text = message["content"]
    assert image["image"].size == (34, 30) and '<schema name="ImageCaption">' in text["text"]


def test_a_malformed_answer_is_asked_for_once_more_with_sampling(questions):
    pipe = Scripted("a dog", '{"caption": "a dog"}')
    assert ask(pipe, questions.caption(png(1))).kind == "answered"
    assert [options["generate_kwargs"]["do_sample"] for _, options in pipe.calls] == [False, True]
    outcome = ask(Scripted("a dog", "a cat", '{"caption": "a dog"}'), questions.caption(png(1)))
    assert (outcome.kind, outcome.text) == ("malformed", "a cat") and "ImageCaption" in outcome.error


def test_images_for_a_text_pipeline_are_refused(questions):
    with pytest.raises(ValueError, match="captioner.*text-generation"):
        ask(Scripted(task="text-generation"), questions.caption(png(1)))


def test_a_real_pipeline(tokenizer, questions):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=37, num_hidden_layers=1, num_attention_heads=4
    )
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    pipe = pipeline("text-generation", model=LlamaForCausalLM(config), tokenizer=tokenizer, device="cpu")
    outcome = ask(pipe, ChatRequest("reasoner", "red"))
    assert outcome.kind == "answered" and isinstance(outcome.value, str) and not outcome.value.startswith("red")
    assert ask(pipe, questions.reason("red", None, composed=False)).kind == "malformed"
