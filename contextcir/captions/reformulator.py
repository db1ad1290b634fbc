"""A local reformulator: a causal language model with a LoRA adapter that writes the change between two captions.

InstructCIR (arXiv 2504.00812, section II-A) fine-tunes the language model that reformulates, so that no service has to
be paid for it. [`Reformulator`] is a [`~contextcir.chat.exchange.ChatBackend`], so the ledger, the second attempt and
the gates are those of any chat server. It runs in this process, and answers concurrent requests in one batch.
`contextcir data reformulator` trains the folder that is loaded here.

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
from pydantic import BaseModel
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from contextcir.captions.recipes import load_prompts
from contextcir.chat.exchange import ChatRequest, Outcome
from contextcir.chat.prompts import Prompt

CONFIG, ADAPTER, RECORD = "adapter_config.json", "adapter_model.safetensors", "training.json"
BATCH = 32  # requests that are answered together
MAX_NEW_TOKENS = 128  # twelve words in bytes; most tokenizers need far fewer
DIGEST_VALUES = 64  # values of each parameter that identify a base model


class Reformulator:
    """
    A causal language model as a [`~contextcir.chat.exchange.ChatBackend`]. The `concurrency` of its
    [`~contextcir.chat.dispatch.Dispatcher`] bounds the size of a batch.

    Args:
        model (`transformers.PreTrainedModel`): Causal, with or without an adapter, on any device.
        tokenizer (`transformers.PreTrainedTokenizerBase`): With an end token.
        name (`str`): The name of the model in outcomes and data.
        digest (`str`): Identifies the weights.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, name: str, digest: str):
        self.model, self.tokenizer, self.name, self.digest = model.eval(), tokenizer, name, digest
        # The model's own config may forbid to repeat words of the prompt, or use beam search.
        self.model.generation_config = GenerationConfig()
        self._waiting: list[tuple[ChatRequest, asyncio.Future[Outcome]]] = []
        self._worker: asyncio.Task[None] | None = None

    @classmethod
    def load(cls, name_or_path: str) -> "Reformulator":
        """
        Load an adapter and the model that it was trained on.

        Args:
            name_or_path (`str`): Folder or Hub name of a reformulator, from `contextcir data reformulator`.

        Raises:
            ValueError: It is no such folder, its weights are damaged, or the base model is missing or has other
                weights than the one it was trained on.
            ImportError: peft is not installed.
        """
        try:
            from peft import PeftModel, get_peft_model_state_dict
        except ImportError as error:
            raise ImportError("An adapter needs peft: pip install contextcir[peft].") from error
        from transformers import AutoModelForCausalLM, AutoTokenizer

        folder = adapter_folder(name_or_path)
        base, expected_digest = _read_base(folder)
        try:
            model = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
        except OSError as error:
            raise ValueError(
                f"{name_or_path} is an adapter for {base}, which is neither a folder here nor can be fetched from the"
                f" Hub ({str(error).splitlines()[0]}). Put it there, or run from where the adapter was trained."
            ) from error
        if base_digest(model) != expected_digest:
            raise ValueError(
                f"{name_or_path} was trained on {base}, and the model of that name has other weights now. Restore"
                " that model, or train the adapter again."
            )
        tensors = _read_adapter(folder)
        model = PeftModel.from_pretrained(model, folder)
        if other := sorted(tensors.keys() ^ get_peft_model_state_dict(model).keys()):
            raise ValueError(
                f"{folder / ADAPTER} does not fit {CONFIG}: {other[0]} is only in one of them ({len(other)} such"
                " weights). Train or download the adapter again."
            )
        model = model.to("cuda" if torch.cuda.is_available() else "cpu")
        weights = hashlib.sha256((folder / ADAPTER).read_bytes()).hexdigest()
        digest = hashlib.sha256(f"{expected_digest} {weights}".encode()).hexdigest()[:16]
        name = Path(name_or_path).resolve().name if Path(name_or_path).is_dir() else name_or_path
        return cls(model, AutoTokenizer.from_pretrained(folder), name=name, digest=digest)

    @property
    def settings(self) -> dict[str, Any]:
        """`dict[str, Any]`: Settings that all answers in one output folder share."""
        return {"reformulator": self.digest, "reformulator_max_new_tokens": MAX_NEW_TOKENS}

    def request_id(self, request: ChatRequest) -> str:
        """Compute the SHA-256, in hex, of everything that the answer depends on."""
        parts = ["contextcir reformulator 2", self.digest, MAX_NEW_TOKENS, request.prompt, request.attempt]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def estimate(self, request: ChatRequest) -> float:
        """Return the cost of a request, 0."""
        return 0.0

    async def complete(self, request: ChatRequest, on_response: Callable[[bool], None] | None = None) -> Outcome:
        """
        Write a change: greedily at the first attempt, and sampled afterwards, with the same result in every run.

        Args:
            request ([`~contextcir.chat.exchange.ChatRequest`]): Its schema, if any, has one field, a text.
            on_response (`Callable[[bool], None]`, *optional*): Never called.
        """
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, future))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await future

    async def _work(self) -> None:
        while self._waiting:
            await asyncio.sleep(0.01)  # for further requests to join the batch
            some, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
            outcomes: Sequence[Outcome | Exception]
            try:
                outcomes = await asyncio.to_thread(self._answer, [request for request, _ in some])
            except Exception as error:  # passed on to every caller
                outcomes = [error] * len(some)
            for (_, future), outcome in zip(some, outcomes, strict=True):
                if future.done():  # the caller was cancelled
                    continue
                future.set_exception(outcome) if isinstance(outcome, Exception) else future.set_result(outcome)

    def _answer(self, requests: Sequence[ChatRequest]) -> list[Outcome]:
        outcomes: dict[int, Outcome] = {}
        first_attempts: dict[int, list[int]] = {}
        longest = longest_input(self.model) - MAX_NEW_TOKENS
        for place, request in enumerate(requests):
            ids = encode_prompt(self.tokenizer, request.prompt)
            if len(ids) > longest:
                error = f"the prompt has {len(ids)} tokens, and {self.name} reads {longest}"
                outcomes[place] = Outcome("failed", error=error, model=self.name)
            elif request.attempt == 0:
                first_attempts[place] = ids
            else:
                with torch.random.fork_rng():
                    torch.manual_seed(int(self.request_id(request)[:15], 16))
                    (written,) = self._generate([ids], do_sample=True)
                outcomes[place] = self._outcome(request, ids, written)
        if first_attempts:
            answers = self._generate(list(first_attempts.values()))
            for (place, ids), written in zip(first_attempts.items(), answers, strict=True):
                outcomes[place] = self._outcome(requests[place], ids, written)
        return [outcomes[place] for place in range(len(requests))]

    def _generate(self, prompts: list[list[int]], do_sample: bool = False) -> list[list[int]]:
        """Return the tokens that follow each prompt."""
        width, pad = max(map(len, prompts)), pad_id(self.tokenizer)
        ids = torch.tensor([[pad] * (width - len(one)) + one for one in prompts])  # (batch_size, width)
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
        tokens = len(ids), len(written)
        if not ended or not text:
            problem = f"the answer has no end within {MAX_NEW_TOKENS} tokens" if text else "the answer is empty"
            return Outcome("malformed", None, text, problem, self.name, *tokens)
        value: BaseModel | str = text
        if request.schema:
            (field,) = request.schema.model_fields
            value = request.schema.model_validate({field: text})
        return Outcome("answered", value, text, "", self.name, *tokens)


def adapter_folder(name_or_path: str) -> Path:
    """
    Return the folder of a trained reformulator, downloaded from the Hub if it is not a local one.

    Raises:
        ValueError: There is none, or files are missing in it.
    """
    folder = Path(name_or_path)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

        try:
            folder = Path(snapshot_download(os.fspath(name_or_path)))
        except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"{name_or_path} is neither a folder nor can it be fetched ({reason}).") from None
    needed = (CONFIG, ADAPTER, "reformulation.txt", RECORD)
    if missing := [name for name in needed if not (folder / name).is_file()]:
        raise ValueError(
            f"{name_or_path} is not a reformulator: {', '.join(missing)} missing. Train one with `contextcir data"
            " reformulator`."
        )
    return folder


def _read_base(folder: Path) -> tuple[str, str]:
    """Return the name of an adapter's base model, and the digest of its weights."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return record["base_model"], record["base_digest"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{folder / RECORD} has no base_model and base_digest ({type(error).__name__}: {error}). Train or"
            " download the adapter again."
        ) from error


def _read_adapter(folder: Path) -> dict[str, torch.Tensor]:
    """Read the weights of an adapter. Raises a `ValueError` if they are damaged or contain NaN."""
    try:
        tensors = load_file(folder / ADAPTER)
    except SafetensorError as error:
        raise ValueError(f"{folder / ADAPTER} is damaged ({error}). Train or download it again.") from error
    if broken := [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]:
        raise ValueError(f"{folder / ADAPTER} holds NaN or infinite values in {broken[0]}. Train the adapter again.")
    return tensors


def adapter_prompt(name_or_path: str) -> Prompt:
    """Return the prompt that an adapter was trained with, and must be used with. Loads no weights."""
    return load_prompts("instructcir", adapter_folder(name_or_path))["reformulation"]


def base_digest(model: PreTrainedModel) -> str:
    """
    Identify the weights of a base model: 16 hex digits from the names, shapes and a sample of values of each tensor.

    The values are read in bfloat16, so that the precision of the loaded weights does not matter. A full digest
    ([`~contextcir.runtime.digests.weights_digest`]) of billions of weights would take minutes.
    """
    digest = hashlib.sha256()
    for name, value in sorted(model.named_parameters()):
        places = torch.linspace(0, value.numel() - 1, min(DIGEST_VALUES, value.numel())).long()
        sample = value.detach().flatten()[places.to(value.device)].to("cpu", torch.bfloat16).float().tolist()
        digest.update(json.dumps([name, list(value.shape), sample]).encode())
    return digest.hexdigest()[:16]


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """Tokenize a prompt up to the beginning of the answer, for training and generation."""
    if tokenizer.chat_template:
        messages = [{"role": "user", "content": prompt}]
        return list(tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False))
    ids = list(tokenizer(f"{prompt}\n\n").input_ids)
    return ids[:-1] if ids[-1] == tokenizer.eos_token_id else ids


def encode_answer(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Tokenize an answer, with the end token."""
    return [*tokenizer(text, add_special_tokens=False).input_ids, tokenizer.eos_token_id]


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the padding token, or the end token if there is none."""
    return tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id


def longest_input(model: PreTrainedModel) -> int:
    """Return the most tokens that a model can read and write."""
    return getattr(model.config, "max_position_embeddings", None) or 1_000_000
