"""One run of training: its output folder, its checkpoints, its record, and the model card rendered from it."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from transformers import Trainer, TrainingArguments

from contextcir.runtime.provenance import versions
from contextcir.training.checkpoints import checkpoint_problem, last_whole_checkpoint
from contextcir.training.ema import AVERAGE_FILE
from contextcir.training.output_folder import claim_folder

ALWAYS_RECORDED = {"seed", "optim", "per_device_train_batch_size", "gradient_accumulation_steps", "warmup_steps"}
NEVER_RECORDED = {"output_dir", "run_name", "hub_token", "accelerator_config", "disable_tqdm", "push_to_hub"}
NEVER_RECORDED |= {"resume_from_checkpoint"}


class TrainingRun(Trainer):
    """The part of [`~contextcir.training.trainer.CIRTrainer`] that starts, resumes and records a run."""

    _owns_output_dir = False

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """
        Train as in transformers, in an output folder that belongs to one run. A folder with the results of another run
        is refused unless that run is resumed. `resume_from_checkpoint=True` takes the last whole checkpoint.

        Raises:
            ValueError: The folder is in use or holds results, no checkpoint is whole, the given one is not whole or
                does not fit `ema_momentum`, the data do not fill one batch, or no evaluation image can be read.
            FloatingPointError: The loss is NaN or infinite. It is checked at each log.
        """
        with self.claim_output_dir(bool(resume_from_checkpoint)):
            checkpoint: Any = resume_from_checkpoint or None
            if checkpoint and not (self.is_deepspeed_enabled or self.is_fsdp_enabled):  # which have other layouts
                checkpoint = self._checked_checkpoint(checkpoint)
            if self.is_world_process_zero() and self.bad_images:
                with open(os.path.join(self.args.output_dir, "bad_images.json"), "w", encoding="utf-8") as file:
                    file.write(json.dumps(self.bad_images, indent=2, ensure_ascii=False) + "\n")
            self._check_numbers_of_triplets()
            average = self.moving_average
            if checkpoint and average is not None:
                average.load(checkpoint)
            output = super().train(resume_from_checkpoint=checkpoint, **kwargs)
            if average is not None and self.args.publish_moving_average:
                average.copy_to(self.model)
            return output

    @contextmanager
    def claim_output_dir(self, resuming: bool = False) -> Iterator[None]:
        """
        Reserve the output folder for this run within a context. [`train`] does so itself; code that writes into the
        folder after training encloses both.

        Raises:
            ValueError: Another run uses the folder or, unless `resuming`, has left results. All processes raise it.
        """
        if self._owns_output_dir:
            yield
            return
        with claim_folder(self.args.output_dir, resuming=resuming, is_main_process=self.is_world_process_zero()):
            self._owns_output_dir = True
            try:
                yield
            finally:
                self._owns_output_dir = False

    def _checked_checkpoint(self, given: str | bool) -> str:
        """Return the given checkpoint, or the last whole one for `True`; refuse one that cannot be resumed from."""
        # A checkpoint holds tied tensors once, under the first name.
        tensors = self.model.state_dict().keys() - getattr(self.model, "all_tied_weights_keys", {}).keys()
        others = {} if self.moving_average is None else {AVERAGE_FILE: self.moving_average.names}
        if isinstance(given, bool):
            checkpoint = last_whole_checkpoint(self.args.output_dir, tensors, others)
            if checkpoint is None:
                raise ValueError(f"Nothing to resume: no whole checkpoint in {self.args.output_dir}.")
        else:
            checkpoint = given
            if problem := checkpoint_problem(checkpoint, tensors, others):
                raise ValueError(
                    f"Cannot resume from {given}: {problem}. resume_from_checkpoint=True takes the last whole one."
                )
        if self.moving_average is None and os.path.isfile(os.path.join(checkpoint, AVERAGE_FILE)):
            raise ValueError(
                f"{checkpoint} has targets from a moving average ({AVERAGE_FILE}). Give the ema_momentum of that run,"
                " or delete that file to continue with targets from the model itself."
            )
        return checkpoint

    def _save_checkpoint(self, model, trial):
        if self.moving_average is not None and self.args.should_save:
            # Before the other files: `trainer_state.json`, which marks a checkpoint as whole, is written last.
            folder = f"checkpoint-{self.state.global_step}"
            self.moving_average.save(os.path.join(self.args.output_dir, folder))
        super()._save_checkpoint(model, trial)

    def _check_numbers_of_triplets(self) -> None:
        left_out = self.num_left_out()
        batch = self.args.train_batch_size * self.args.world_size
        if self.args.dataloader_drop_last and len(self.train_dataset) < batch:
            others = f"; {left_out['train']} others are left out, see bad_images.json" if left_out.get("train") else ""
            raise ValueError(
                f"{len(self.train_dataset)} training triplets do not fill one batch of {batch} over all processes"
                f"{others}. Lower per_device_train_batch_size."
            )
        if left_out.get("eval") and not len(self.eval_dataset):
            raise ValueError(
                f"All {left_out['eval']} evaluation triplets have unreadable images, see bad_images.json. Replace"
                " them, or train without evaluation triplets."
            )

    def record(self) -> dict[str, Any]:
        """Return the content of `training.json` and the model card: `run_info`, the model, the arguments that decide
        the result, the metrics, the history of the log, and the versions. All of it is JSON."""
        history = self.state.log_history
        finished = [entry for entry in history if "train_runtime" in entry]
        evaluated = [entry for entry in history if any(key.startswith("eval_") for key in entry)]
        trained = [entry for entry in history if "loss" in entry]
        parameters = list(self.model.parameters())
        return {
            **self.run_info,
            "model": {
                "class": type(self.model).__name__,
                "parameters": sum(parameter.numel() for parameter in parameters),
                "trainable_parameters": sum(p.numel() for p in parameters if p.requires_grad),
                "scalars": {name: p.item() for name, p in self.model.named_parameters() if p.dim() == 0},
                **self.run_info.get("model", {}),
            },
            "train_triplets": len(self.train_dataset) if self.train_dataset is not None else None,
            "bad_images": self.num_left_out(),
            "processes": self.args.world_size,
            "arguments": _recorded_arguments(self.args),
            "training": {**(trained[-1] if trained else {}), **(finished[-1] if finished else {})},
            "metrics": evaluated[-1] if evaluated else {},
            "history": history,
            "versions": versions(),
        }

    def num_left_out(self) -> dict[str, int]:
        """Return the number of triplets of each split that are left out for unreadable images."""
        return {split: len({image["row"] for image in bad}) for split, bad in self.bad_images.items()}

    def create_model_card(self, model_name: str | None = None, **kwargs: Any) -> None:
        """Render `README.md` of the output folder from the record, with `model_name` (by default the folder's name) as
        its title. Without a template, transformers writes its own card."""
        if self.card_template is None:
            super().create_model_card(model_name=model_name, **kwargs)
        elif self.is_world_process_zero():
            record, folder = self.record(), Path(self.args.output_dir)
            # The Hub refuses names that it does not know.
            datasets = [name for name in record.get("data", {}).get("names", []) if not os.path.exists(name)]
            base_model = record["model"].get("base_model")
            data = ModelCardData(
                library_name="transformers",
                tags=["composed-image-retrieval", "contextcir"],
                base_model=None if base_model is None or os.path.exists(base_model) else base_model,
                datasets=datasets or None,
            )
            name, template = model_name or folder.resolve().name, str(self.card_template)
            card = ModelCard.from_template(data, template_path=template, model_name=name, **record)
            card.save(folder / "README.md")


def _recorded_arguments(args: TrainingArguments) -> dict[str, Any]:
    """Return the arguments of this library, and those of transformers that decide the result or are no defaults."""
    values, own = args.to_dict(), [kind for kind in type(args).__mro__ if kind.__module__.startswith("contextcir.")]
    always = ALWAYS_RECORDED.union(*(kind.__annotations__ for kind in own))
    return {
        option.name: values[option.name]
        for option in fields(args)
        if option.name not in NEVER_RECORDED
        and (option.name in always or values[option.name] not in (option.default, None, "", [], {}))
    }
