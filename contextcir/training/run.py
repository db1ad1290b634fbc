"""One run of training: its output folder, its checkpoints, its record, and the model card rendered from it."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import fields
from typing import Any

from transformers import TrainingArguments

from contextcir.runtime.provenance import versions
from contextcir.training.checkpoints import last_whole_checkpoint
from contextcir.training.data_audit import audit, judge
from contextcir.training.output_folder import claim_folder
from contextcir.training.publishing import Publishing
from contextcir.training.resuming import ResumableTraining, Resume
from contextcir.training.sharding import own_class
from contextcir.training.stop_signals import stop_requests
from contextcir.training.training_data import TripletStream, is_stream

ALWAYS_RECORDED = {"seed", "optim", "per_device_train_batch_size", "gradient_accumulation_steps", "warmup_steps"}
NEVER_RECORDED = {"output_dir", "run_name", "hub_token", "accelerator_config", "disable_tqdm", "push_to_hub"}
NEVER_RECORDED |= {"resume_from_checkpoint", "hub_public", "hub_private_repo", "hub_license", "hub_strategy"}


class TrainingRun(Publishing, ResumableTraining):
    """The part of [`~contextcir.training.trainer.CIRTrainer`] that starts, resumes and records a run."""

    _owns_output_dir = False
    data_audit: dict[str, int] | None

    def train(self, resume_from_checkpoint: Resume = None, **kwargs: Any) -> Any:
        """
        Train as in transformers, in an output folder that belongs to one run. A folder with the results of another run
        is refused unless that run is resumed. `resume_from_checkpoint=True` takes the last whole checkpoint, `"auto"`
        the same or, where there is none, begins. SIGTERM, SIGUSR1 and Ctrl-C save a checkpoint and end training.

        Raises:
            ValueError: The folder is in use or holds results, no checkpoint is whole, the given one is not whole or
                does not fit this run, the data do not fill one batch, no evaluation image can be read, every triplet
                has the same fault, or there is no such `metric_for_best_model`.
            FloatingPointError: The loss, a gradient or a weight is NaN or infinite. They are checked at each log and
                before each save.
            OSError: The disk is full.
            RunStopped: A signal has stopped training. It is a `SystemExit` with code 75.
        """
        with self.claim_output_dir(resume_from_checkpoint):
            checkpoint = self.checkpoint_to_resume(resume_from_checkpoint)
            if self.is_world_process_zero() and self.bad_images:
                with open(os.path.join(self.args.output_dir, "bad_images.json"), "w", encoding="utf-8") as file:
                    file.write(json.dumps(self.bad_images, indent=2, ensure_ascii=False) + "\n")
            self._check_numbers_of_triplets()
            self.check_best_metric()
            self.audit_triplets()
            self.watch_gradients()
            average = self.moving_average
            if checkpoint and average is not None:
                average.load(checkpoint)
            with self._stop.deferred() if self._stop else nullcontext():
                output = super().train(resume_from_checkpoint=checkpoint, **kwargs)
            if average is not None and self.args.publish_moving_average:
                self.weights_are_final()
                average.copy_to(self.model)
            return output

    @contextmanager
    def claim_output_dir(self, resuming: Resume = None) -> Iterator[None]:
        """
        Reserve the output folder for this run within a context, in which signals stop the run. [`train`] does so
        itself; code that writes into the folder after training encloses both.

        Raises:
            ValueError: Another run uses the folder or, unless it is `resuming`, has left results. All processes raise
                it.
        """
        if self._owns_output_dir:
            yield
            return
        folder = self.args.output_dir
        if resuming == "auto":
            resuming = last_whole_checkpoint(folder) is not None
        with claim_folder(folder, resuming=bool(resuming), is_main_process=self.is_world_process_zero()):
            with stop_requests() as self._stop:
                self._owns_output_dir = True
                try:
                    yield
                finally:
                    self._owns_output_dir, self._stop = False, None

    def audit_triplets(self) -> None:
        """Look through the training triplets once, see [`~contextcir.training.data_audit.audit`]."""
        if self.data_audit is None and self.train_dataset is not None and not is_stream(self.train_dataset):
            self.data_audit = audit(self.train_dataset, getattr(self.evaluator, "image_contents", tuple)())
            judge(self.data_audit)

    def _check_numbers_of_triplets(self) -> None:
        left_out = self.num_left_out()
        batch = self.args.train_batch_size * self.args.world_size
        countable = self.train_dataset is not None and not is_stream(self.train_dataset)
        if countable and self.args.dataloader_drop_last and len(self.train_dataset) < batch:
            others = f"; {left_out['train']} others are left out, see bad_images.json" if left_out.get("train") else ""
            raise ValueError(
                f"{len(self.train_dataset)} training triplets do not fill one batch of {batch} over all processes"
                f"{others}. Lower per_device_train_batch_size."
            )
        for split, rows in self.evaluation_sets().items():
            if left_out.get(split) and not is_stream(rows) and not len(rows):
                raise ValueError(
                    f"All {left_out[split]} evaluation triplets ({split}) have unreadable images, see bad_images.json."
                    " Replace them, or train without evaluation triplets."
                )

    def evaluation_sets(self) -> dict[str, Any]:
        """Return the evaluation sets by the prefix of their metrics: `eval`, or `eval_NAME` for each of several."""
        if isinstance(self.eval_dataset, dict):
            return {f"eval_{name}": rows for name, rows in self.eval_dataset.items()}
        return {} if self.eval_dataset is None else {"eval": self.eval_dataset}

    def record(self) -> dict[str, Any]:
        """Return the content of `training.json` and the model card: `run_info`, the model, the arguments that decide
        the result, the metrics, the history of the log, and the versions. All of it is JSON."""
        history = self.state.log_history
        finished = [entry for entry in history if "train_runtime" in entry]
        evaluated = [entry for entry in history if any(key.startswith("eval_") for key in entry)]
        last = [entry for entry in evaluated if entry["step"] == evaluated[-1]["step"]]  # one for each set
        trained = [entry for entry in history if "loss" in entry]
        parameters = list(self.model.parameters())
        return {
            **self.run_info,
            "model": {
                "class": own_class(self.model).__name__,
                "parameters": sum(parameter.numel() for parameter in parameters),
                "trainable_parameters": sum(p.numel() for p in parameters if p.requires_grad),
                "scalars": self.scalars(),
                **self.run_info.get("model", {}),
            },
            "train_triplets": len(self.train_dataset) if hasattr(self.train_dataset, "__len__") else None,
            "bad_images": self.num_left_out(),
            "data_audit": self.data_audit,
            "processes": self.args.world_size,
            "arguments": _recorded_arguments(self.args),
            "training": {**(trained[-1] if trained else {}), **(finished[-1] if finished else {})},
            "protocol_id": getattr(self.evaluator, "protocol_id", None),
            "metrics": {key: value for entry in last for key, value in entry.items()},
            "history": history,
            "versions": versions(),
        }

    def num_left_out(self) -> dict[str, int]:
        """Return the number of triplets of each split that are left out for unreadable images."""
        streams = {"train": self.train_dataset, **self.evaluation_sets()}
        counted = {split: len({image["row"] for image in bad}) for split, bad in self.bad_images.items()}
        return counted | {
            split: rows.num_left_out for split, rows in streams.items() if isinstance(rows, TripletStream)
        }


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
