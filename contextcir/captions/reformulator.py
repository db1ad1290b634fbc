"""A reformulator of one's own: a causal language model and a LoRA adapter, which write the change between captions.

InstructCIR (arXiv 2504.00812, section II-A): the language model that reformulates is fine-tuned, so that none has to
be paid for. To a dispatcher, [`Reformulator`] is a server: the ledger, the second attempt and the gates are those of
any other, and what it has written is never written again. Only it runs in this process, and answers what is asked at
one time in one batch. `datasets_scripts/train_reformulator.py` makes the folder that is loaded here.

Left out: schemas (the answer is the change and nothing else) and images.
"""

import asyncio
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import GenerationConfig

from contextcir.captions.recipes import load_prompts
from contextcir.chat.server import ChatRequest, Outcome

CONFIG, ADAPTER, RECORD = "adapter_config.json", "adapter_model.safetensors", "training.json"
BATCH = 32  # requests that are answered together
MAX_NEW_TOKENS = 128  # twelve words in bytes; ends much earlier where tokens are words
_DIGEST_VALUES = 64  # of each parameter


class Reformulator:
    """
    What writes changes. Takes the place of a [`~contextcir.chat.server.ChatServer`] in a
    [`~contextcir.chat.server.Dispatcher`], whose `concurrency` bounds how many requests meet in a batch.

    Args:
        model (`transformers.PreTrainedModel`): Causal, with or without an adapter; where it is, it runs.
        tokenizer (`transformers.PreTrainedTokenizerBase`): With an end token.
        name (`str`): For the column `model` of data that are made with it.
        digest (`str`): Of all that answers depend on.
    """

    def __init__(self, model, tokenizer, *, name: str, digest: str):
        self.model, self.tokenizer, self.name, self.digest = model.eval(), tokenizer, name, digest
        # Not the model's own, which may forbid to repeat the words of a prompt, or search with beams.
        self.model.generation_config = GenerationConfig()
        self._waiting: list[tuple[ChatRequest, str, asyncio.Future]] = []
        self._worker: asyncio.Task | None = None

    @classmethod
    def load(cls, name_or_path: str) -> "Reformulator":
        """
        Load an adapter and the model that it was trained on.

        Args:
            name_or_path (`str`): Folder or Hub name, as `train_reformulator.py` leaves it.

        Raises:
            ValueError: It is no such folder, its weights are damaged, and the model is not there or is another than
                the one it was trained on.
            ImportError: peft is not installed.
        """
        try:
            from peft import PeftModel, get_peft_model_state_dict
        except ImportError as error:
            raise ImportError("An adapter needs peft: pip install contextcir[peft].") from error
        from transformers import AutoModelForCausalLM, AutoTokenizer

        folder = adapter_folder(name_or_path)
        base, base_digest = read_base(folder)
        try:
            model = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
        except OSError as error:
            raise ValueError(
                f"{name_or_path} is an adapter for {base}, which is neither a folder here nor can be fetched from the"
                f" Hub ({str(error).splitlines()[0]}). Put it there, or go to where the adapter was trained."
            ) from error
        if weights_digest(model) != base_digest:
            raise ValueError(
                f"{name_or_path} is an adapter for the {base} of its training, and the model of that name is another"
                " one now. Put that one back, or train the adapter again."
            )
        tensors = read_adapter(folder)
        model = PeftModel.from_pretrained(model, folder)
        if other := sorted(tensors.keys() ^ get_peft_model_state_dict(model).keys()):
            raise ValueError(
                f"{folder / ADAPTER} is not of the model in {CONFIG} beside it: {other[0]} is on one side only"
                f" ({len(other)} such). Train or download the adapter again."
            )
        model = model.to("cuda" if torch.cuda.is_available() else "cpu")
        weights = hashlib.sha256((folder / ADAPTER).read_bytes()).hexdigest()
        digest = hashlib.sha256(f"{base_digest} {weights}".encode()).hexdigest()[:16]
        name = Path(name_or_path).resolve().name if Path(name_or_path).is_dir() else name_or_path
        return cls(model, AutoTokenizer.from_pretrained(folder), name=name, digest=digest)

    @property
    def settings(self) -> dict[str, Any]:
        """What all answers of one output folder should have in common."""
        return {"reformulator": self.digest, "reformulator_max_new_tokens": MAX_NEW_TOKENS}

    def request_id(self, request: ChatRequest) -> str:
        """SHA-256, in hex, of all that the answer depends on."""
        parts = ["contextcir reformulator 2", self.digest, MAX_NEW_TOKENS, request.prompt, request.attempt]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def estimate(self, request: ChatRequest) -> float:
        """What a request costs, in USD: nothing."""
        return 0.0

    async def complete(self, request: ChatRequest, on_response: Callable[[bool], None] | None = None) -> Outcome:
        """
        Write a change: the likeliest at the first attempt, and one that is sampled afterwards, the same in every run.

        Args:
            request ([`ChatRequest`]): Its schema has one field, a text.
            on_response (`Callable[[bool], None]`, *optional*): Never called: nobody turns a request down.
        """
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((request, self.request_id(request), future))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await future

    async def _work(self) -> None:
        while self._waiting:
            await asyncio.sleep(0.01)  # others that are about to ask come along
            some, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
            try:
                outcomes = await asyncio.to_thread(self._answer, [(request, id_) for request, id_, _ in some])
            except Exception as error:  # whoever waits must hear of it
                outcomes = [error] * len(some)
            for (_, _, future), outcome in zip(some, outcomes, strict=True):
                if future.done():  # who asked is gone
                    continue
                future.set_exception(outcome) if isinstance(outcome, Exception) else future.set_result(outcome)

    def _answer(self, requests: Sequence[tuple[ChatRequest, str]]) -> list[Outcome]:
        outcomes: list[Outcome | None] = [None] * len(requests)
        firsts = []
        for place, (request, request_id) in enumerate(requests):
            ids = encode_prompt(self.tokenizer, request.prompt)
            if len(ids) + MAX_NEW_TOKENS > (most := longest_input(self.model)):
                error = f"the prompt has {len(ids)} tokens, and {self.name} reads {most - MAX_NEW_TOKENS}"
                outcomes[place] = Outcome("failed", error=error, model=self.name)
            elif request.attempt == 0:
                firsts.append((place, ids))
            else:
                with torch.random.fork_rng():
                    torch.manual_seed(int(request_id[:15], 16))
                    (written,) = self._generate([ids], do_sample=True)
                outcomes[place] = self._outcome(request, ids, written)
        if firsts:
            for (place, ids), written in zip(firsts, self._generate([ids for _, ids in firsts]), strict=True):
                outcomes[place] = self._outcome(requests[place][0], ids, written)
        return outcomes

    def _generate(self, prompts: list[list[int]], do_sample: bool = False) -> list[list[int]]:
        """The tokens that follow each prompt."""
        width, pad = max(map(len, prompts)), pad_id(self.tokenizer)
        ids = torch.tensor([[pad] * (width - len(one)) + one for one in prompts])
        mask = torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in prompts])
        with torch.inference_mode():
            written = self.model.generate(
                input_ids=ids.to(self.model.device),
                attention_mask=mask.to(self.model.device),
                max_new_tokens=MAX_NEW_TOKENS,
                do_sample=do_sample,
                eos_token_id=self.tokenizer.eos_token_id,
                pad_token_id=pad,
            )
        return written[:, width:].tolist()

    def _outcome(self, request: ChatRequest, ids: list[int], written: list[int]) -> Outcome:
        ended = self.tokenizer.eos_token_id in written
        if ended:
            written = written[: written.index(self.tokenizer.eos_token_id)]
        text = self.tokenizer.decode(written, skip_special_tokens=True).strip()
        facts = {"text": text, "model": self.name, "prompt_tokens": len(ids), "completion_tokens": len(written)}
        if not ended or not text:
            problem = f"the answer has no end within {MAX_NEW_TOKENS} tokens" if text else "the answer is empty"
            return Outcome("malformed", error=problem, **facts)
        (name,) = request.schema.model_fields
        return Outcome("answered", request.schema.model_validate({name: text}), **facts)


def adapter_folder(name_or_path: str) -> Path:
    """
    The folder of a trained reformulator, fetched from the Hub where it is no local one.

    Raises:
        ValueError: There is none, or it holds something else.
    """
    folder = Path(name_or_path)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

        try:
            folder = Path(snapshot_download(os.fspath(name_or_path)))
        except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"There is no folder {name_or_path}, and the Hub gave none ({reason})") from None
    needed = (CONFIG, ADAPTER, "reformulation.txt", RECORD)
    if missing := [name for name in needed if not (folder / name).is_file()]:
        raise ValueError(
            f"{name_or_path} is no reformulator: {', '.join(missing)} missing. Make one with"
            " datasets_scripts/train_reformulator.py."
        )
    return folder


def read_base(folder: Path) -> tuple[str, str]:
    """The base model of an adapter, as its training called it, and the digest of its weights."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return record["base_model"], record["base_digest"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{folder / RECORD} does not say base_model and base_digest ({type(error).__name__}: {error}). Train or"
            " download the adapter again."
        ) from error


def read_adapter(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of an adapter. A `ValueError` names the file, where it is damaged or holds NaN."""
    try:
        tensors = load_file(folder / ADAPTER)
    except SafetensorError as error:
        raise ValueError(f"{folder / ADAPTER} is damaged ({error}). Train or download it again.") from error
    if broken := [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]:
        raise ValueError(f"{folder / ADAPTER} holds NaN or infinite values in {broken[0]}. Train the adapter again.")
    return tensors


def adapter_prompt(name_or_path: str):
    """The [`Prompt`] that an adapter was trained with, and is to be asked with. Loads no weights."""
    return load_prompts("instructcir", adapter_folder(name_or_path))["reformulation"]


def encode_prompt(tokenizer, prompt: str) -> list[int]:
    """A prompt as tokens, up to where the answer begins: the same in training and afterwards."""
    if tokenizer.chat_template:
        messages = [{"role": "user", "content": prompt}]
        return list(tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False))
    ids = list(tokenizer(f"{prompt}\n\n").input_ids)
    return ids[:-1] if ids[-1] == tokenizer.eos_token_id else ids


def encode_answer(tokenizer, text: str) -> list[int]:
    """An answer as tokens, with the end."""
    return [*tokenizer(text, add_special_tokens=False).input_ids, tokenizer.eos_token_id]


def pad_id(tokenizer) -> int:
    """What fills shorter rows, and is never looked at."""
    return tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id


def longest_input(model) -> int:
    """Most tokens that a model reads and writes in one go."""
    return getattr(model.config, "max_position_embeddings", None) or 1_000_000


def weights_digest(model) -> str:
    """
    16 digits that tell one model's weights from another's: of the names, the shapes, and some values of each from all
    over it, in bfloat16, which a model may be stored in or loaded as. A model of billions takes a second.
    """
    digest = hashlib.sha256()
    for name, value in sorted(model.named_parameters()):
        places = torch.linspace(0, value.numel() - 1, min(_DIGEST_VALUES, value.numel())).long()
        some = value.detach().flatten()[places.to(value.device)].to("cpu", torch.bfloat16).float().tolist()
        digest.update(json.dumps([name, list(value.shape), some]).encode())
    return digest.hexdigest()[:16]
