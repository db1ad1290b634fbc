"""Publish a trained model: weights, configs, code, card and records, in a repository that is private by default."""

import json
import os
from pathlib import Path
from typing import Any

from transformers import Trainer
from transformers.dynamic_module_utils import get_relative_import_files

from contextcir.data.hub import COMMIT, publish_folder
from contextcir.training.card import render_card

MODEL_FILES = (
    "README.md",
    "config.json",
    "model.safetensors",
    "model-*-of-*.safetensors",
    "model.safetensors.index.json",
    "adapter_config.json",
    "adapter_model.safetensors",
    "processor_config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "modules.json",  # of sentence-transformers, as the two that follow
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "training.json",
    "metrics.json",
    "figures/*.png",
)


def code_files(folder: str | os.PathLike) -> list[str]:
    """Return the files of the code that a saved model needs: those that its configs name, and what they import."""
    found: set[str] = set()
    for name in ("config.json", "processor_config.json", "preprocessor_config.json", "tokenizer_config.json"):
        path = Path(folder, name)
        names = json.loads(path.read_text(encoding="utf-8")).get("auto_map", {}) if path.is_file() else {}
        for targets in names.values():
            for target in targets if isinstance(targets, list) else [targets]:
                module = Path(folder, f"{(target or '').split('.')[0]}.py")
                if module.is_file():
                    found |= {module.name, *(Path(file).name for file in get_relative_import_files(str(module)))}
    return sorted(found)


def publish_model(folder: str | os.PathLike, name: str, **options: Any) -> str:
    """Publish the folder of a model: `MODEL_FILES` and its code. Other arguments, results and errors as for
    [`~contextcir.data.hub.publish_folder`]."""
    files = (*MODEL_FILES, *code_files(folder))
    return publish_folder(folder, name, files=files, replace=("model*.safetensors*",), **options)


class Publishing(Trainer):
    """The part of [`~contextcir.training.trainer.CIRTrainer`] that renders the card and publishes the model, once, at
    the end."""

    card_template: str | os.PathLike | None
    hub_model_id: str | None

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Create the repository, private unless `hub_public`, so that a missing right to it is found before the
        training. An existing one stays as it is."""
        super().init_hf_repo(token=token, private=not self._public if private is None else private)

    @property
    def _public(self) -> bool:
        return bool(getattr(self.args, "hub_public", False))

    def create_model_card(
        self, model_name: str | None = None, *, hub_name: str | None = None, revision: str | None = None, **kwargs: Any
    ) -> None:
        """
        Render `README.md` of the output folder from the record. Without a template, transformers writes its own card.

        Args:
            model_name (`str`, *optional*): Title; by default the folder's name.
            hub_name (`str`, *optional*): Name on the Hub, for the snippet.
            revision (`str`, *optional*): Commit on the Hub, for the snippet.
            **kwargs: For the card of transformers.
        """
        if self.card_template is None:
            super().create_model_card(model_name=model_name, **kwargs)
        elif self.is_world_process_zero():
            folder = Path(str(self.args.output_dir))
            title, licence = model_name or folder.resolve().name, getattr(self.args, "hub_license", None)
            record = self.record()  # type: ignore[attr-defined]  # of `TrainingRun`
            names = {"hub_name": hub_name, "revision": revision, "licence": licence}
            render_card(folder, record, self.card_template, title=title, **names)

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """
        Save the model and publish it with its code, card, records and figures. Nothing else in the output folder is
        published; see [`~contextcir.data.hub.publish_folder`], also for its errors.

        Args:
            commit_message (`str`): Message of the commit.
            blocking (`bool`): Must be `True`.
            token (`str`, *optional*): Token of the Hub; by default `args.hub_token` or that of `hf auth login`.
            revision (`str`, *optional*): Branch; by default `args.hub_revision`, or the main one.
            private (`bool`, *optional*): Whether a repository that is created is private; by default it is, unless
                `args.hub_public`.
            **kwargs: Of [`create_model_card`].

        Returns:
            `str`: The commit, on the main process.
        """
        if not blocking:
            raise ValueError("A model is published when all of it is written: leave blocking=True.")
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        token = token if token is not None else self.args.hub_token
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        folder, name = str(self.args.output_dir), str(self.hub_model_id)
        title = kwargs.pop("model_name", None) or name.split("/")[-1]
        own_card = self.card_template is not None
        self.create_model_card(title, **({"hub_name": name, "revision": COMMIT} if own_card else {}), **kwargs)
        options = {"message": commit_message, "revision": revision or self.args.hub_revision, "token": token}
        public = self._public if private is None else not private
        commit = publish_model(folder, name, public=public, **options)
        if own_card:
            self.create_model_card(title, hub_name=name, revision=commit, **kwargs)
        return commit

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Publish nothing during training: transformers would upload the whole folder, with its pickles. Other values
        of `hub_strategy` than `end` are refused."""
