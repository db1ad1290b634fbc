"""Training on every kind of data: bad images are left out, and what cannot be trained on is said at construction."""

import datasets
import pytest
import torch

from contextcir.data.images import ImageError
from contextcir.data.triplet_images import find_bad_images
from contextcir.training.data_audit import audit, judge
from contextcir.training.trainer import CIRTrainer
from contextcir.training.training_args import CIRTrainingArguments
from contextcir.training.training_data import is_stream
from modeling_contextcir import ContextCIRModel, ContextCIRProcessor
from tests.tiny_triplets import dataset, png, triplet, triplets
from tests.training.conftest import OPTIONS, changed, read_json, undecoded, weights

BAD = triplets(8)
BAD[1]["target_image"] = {"bytes": b"no image", "path": None}
BAD[5]["reference_image"] = {"bytes": BAD[5]["reference_image"]["bytes"][:-80], "path": None}


class Rows(torch.utils.data.Dataset):
    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, row):
        return self.rows[row]


class Stream(torch.utils.data.IterableDataset):
    def __init__(self, rows):
        self.rows = rows

    def __iter__(self):
        return iter(self.rows)


KINDS = {
    "undecoded": undecoded,
    "decoded": dataset,
    "numpy": lambda rows: dataset(rows).with_format("numpy"),
    "list": list,
    "torch": Rows,
    "stream": lambda rows: dataset(rows).to_iterable_dataset(),
    "torch stream": Stream,
}


@pytest.fixture
def train_on(clip_folder, tmp_path):
    """A trainer on data of any kind. All start from the same weights."""

    def train_on(data, output="run", processing_class=True, **options):
        torch.manual_seed(0)
        own = {name: options.pop(name) for name in ("eval_dataset", "compute_metrics") if name in options}
        needed = {"shuffle_buffer": 0} if is_stream(data) else {"train_sampling_strategy": "sequential"}
        return CIRTrainer(
            ContextCIRModel.from_clip_pretrained(clip_folder),
            CIRTrainingArguments(output_dir=str(tmp_path / output), **{**OPTIONS, **needed, **options}),
            train_dataset=data,
            processing_class=ContextCIRProcessor.from_pretrained(clip_folder) if processing_class else None,
            **own,
        )

    return train_on


@pytest.mark.fault("S05", "bad images are left out of data of every kind when on_bad_image is skip")
@pytest.mark.parametrize("kind", KINDS)
def test_bad_images_are_left_out_of_every_kind_of_data(train_on, kind):
    good = train_on(undecoded([row for row in BAD if row["id"] not in ("t1", "t5")]), output="good", max_steps=1)
    good.train()
    trainer = train_on(KINDS[kind](BAD), on_bad_image="skip", max_steps=1)
    trainer.train()
    assert not changed(weights(good), weights(trainer))
    if "stream" not in kind:
        assert trainer.record()["bad_images"]["train"] == 2
        assert [bad["row"] for bad in read_json(trainer, "bad_images.json")["train"]] == [1, 5]
    else:
        assert trainer.record()["bad_images"]["train"] == 1  # of the five rows that were read
        assert trainer.record()["train_triplets"] is None


@pytest.mark.fault("S05", "bad images are left out of data of every kind when on_bad_image is skip")
def test_bad_images_are_left_out_of_several_evaluation_sets(train_on):
    sets = {"a": undecoded(BAD[:3]), "b": BAD[4:]}
    trainer = train_on(undecoded(triplets(8)), eval_dataset=sets, on_bad_image="skip")
    metrics = trainer.evaluate()
    assert [len(rows) for rows in trainer.eval_dataset.values()] == [2, 3] and metrics["eval_b_loss"] > 0
    assert trainer.record()["bad_images"] == {"train": 0, "eval_a": 1, "eval_b": 1}
    with pytest.raises(ValueError, match=r"All 1 evaluation triplets \(eval_b\).*bad_images.json"):
        train_on(triplets(8), eval_dataset={"a": BAD[:1], "b": BAD[1:2]}, on_bad_image="skip").train()


@pytest.mark.fault("S05", "bad images are left out of data of every kind when on_bad_image is skip")
def test_images_that_decode_are_checked_and_named(train_on):
    assert [bad["id"] for bad in find_bad_images(dataset(BAD))] == ["t1", "t5"]
    with pytest.raises(ImageError, match="'t1', target_image"):
        train_on(dataset(BAD)).train()


# Rows that are not quite as `load_triplets` gives them


@pytest.mark.fault("L03", "rows need no noun phrases without the concept loss, and ids may be integers")
def test_no_noun_phrases_and_integer_ids(train_on):
    rows = [
        {name: value for name, value in row.items() if name != "noun_phrases"}
        | {"id": number, "reference_id": number, "target_id": 10 + number}
        for number, row in enumerate(triplets(8))
    ]
    trainer = train_on(rows, cc_weight=0.0)
    trainer.train()
    plain = train_on(triplets(8), output="plain", cc_weight=0.0)
    plain.train()
    assert not changed(weights(plain), weights(trainer))
    for data in (rows, datasets.Dataset.from_list([{"id": "a"}] * 8)):
        with pytest.raises(ValueError, match="noun_phrases.*cc_weight"):
            train_on(data)


@pytest.mark.fault("L04", "a text that is no Unicode is named")
def test_lone_surrogates_are_named(train_on):
    rows = triplets(8)
    rows[2]["modification_text"] = "add a \ud83d dog"
    with pytest.raises(ValueError, match=r"'t2'.*ud83d"):
        train_on(rows).train()


@pytest.mark.fault("L05", "a noun phrase that is given twice counts once")
def test_identical_spans_count_once(train_on):
    rows = triplets(8)
    twice = [row | {"noun_phrases": [phrase for phrase in row["noun_phrases"] for _ in "ab"]} for row in rows]
    once, other = train_on(rows, output="once", max_phrases=2), train_on(twice, max_phrases=2)
    once.train()
    other.train()
    assert not changed(weights(once), weights(other))


@pytest.mark.fault("L06", "metrics of the user are computed from embeddings and keys")
def test_user_metrics(train_on):
    def metrics(prediction):
        consistency, scale, queries, targets, references = prediction.predictions
        assert queries.shape == targets.shape == references.shape and prediction.label_ids.shape == (5, 2)
        return {"own": float((queries @ targets.T).argmax(1).mean())}

    trainer = train_on(triplets(8), eval_dataset=triplets(5), compute_metrics=metrics, metric_for_best_model="own")
    assert trainer.evaluate()["eval_own"] >= 0


@pytest.mark.fault("L09", "a full memory ends in advice: grad_cache_chunk, batch size, activation_checkpointing")
@pytest.mark.parametrize(
    "full", [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("can't allocate memory")]
)
def test_a_full_memory_ends_in_advice(train_on, full, monkeypatch):
    trainer = train_on(triplets(8))

    def fail(*args, **kwargs):
        raise full

    monkeypatch.setattr(trainer, "compute_loss", fail)
    advice = "per_device_train_batch_size=4.*grad_cache_chunk=2.*activation_checkpointing"
    with pytest.raises(RuntimeError, match=advice) as caught:
        trainer.train()
    assert caught.value.exit_code == 1
    trainer.args.grad_cache_chunk = 2
    with pytest.raises(RuntimeError, match="size=4 and grad_cache_chunk=2.*grad_cache_chunk=1"):
        trainer.train()
    full = RuntimeError("something else")
    with pytest.raises(RuntimeError, match="^something else"):
        trainer.train()


@pytest.mark.fault("L10", "model_init works with frozen parts and makes each model float32")
def test_model_init_with_frozen_parts(clip_folder, tmp_path):
    made = []

    def model_init(trial=None):
        made.append(ContextCIRModel.from_clip_pretrained(clip_folder).to(torch.bfloat16))
        return made[-1]

    def trainer(**options):
        return CIRTrainer(
            args=CIRTrainingArguments(output_dir=str(tmp_path / "run"), **{**OPTIONS, **options}),
            model_init=model_init,
            train_dataset=triplets(8),
            processing_class=ContextCIRProcessor.from_pretrained(clip_folder),
        )

    run = trainer(freeze_vision=True)
    run.train()
    assert len(made) == 2 and run.model is made[1]
    start = ContextCIRModel.from_clip_pretrained(clip_folder).to(torch.bfloat16).float().state_dict()
    for name, value in run.model.state_dict().items():
        assert value.dtype == torch.float32
        if name.startswith("vision_model."):
            assert torch.equal(value, start[name])
    assert not torch.equal(run.model.text_model.final_layer_norm.weight, start["text_model.final_layer_norm.weight"])
    with pytest.raises(ValueError, match="ema_momentum.*model_init"):
        trainer(ema_momentum=0.9)


# The audit


@pytest.mark.fault("S10", "faults of the triplets are counted; more than 1 % warn, all of them end the run")
def test_faults_of_triplets_are_counted(tmp_path):
    rows = [*triplets(8), triplet(1, id="again"), triplet(20, modification_text=" ")]
    rows[3]["target_id"], rows[3]["target_image"] = rows[3]["reference_id"], rows[3]["reference_image"]
    rows[4]["target_image"] = rows[4]["reference_image"]  # under another id
    for number, row in enumerate((rows[5], rows[6])):  # a file and bytes
        path = tmp_path / f"{number}.png"
        path.write_bytes(row["reference_image"]["bytes"])
        row["reference_image"] = {"bytes": None, "path": str(path)} if number else row["reference_image"]
    benchmark = [rows[5]["reference_image"]["bytes"], rows[6]["reference_image"], png(99)]
    expected = {"rows": 10, "target_is_reference": 2, "repeated": 1, "empty_texts": 1, "in_benchmark": 2}
    for data in (rows, dataset(rows), undecoded(rows), undecoded(rows).select(range(10)[::-1])):
        assert audit(data, benchmark) == expected
    assert audit(undecoded(rows)) == expected | {"in_benchmark": 0}


@pytest.mark.fault("S10", "faults of the triplets are counted; more than 1 % warn, all of them end the run")
@pytest.mark.parametrize("name", ["target_is_reference", "repeated", "empty_texts", "in_benchmark"])
def test_faults_warn_or_end_the_run(name, monkeypatch):
    warned = []
    monkeypatch.setattr("contextcir.training.data_audit.logger.warning", warned.append)
    counts = {"rows": 200, "target_is_reference": 0, "repeated": 0, "empty_texts": 0, "in_benchmark": 0}
    judge(counts | {name: 2})
    assert not warned
    judge(counts | {name: 3})
    assert len(warned) == 1 and f"{name}: 3 of 200" in warned[0]
    with pytest.raises(ValueError, match=f"{name}: all 200"):
        judge(counts | {name: 200})


@pytest.mark.fault("S10", "faults of the triplets are counted; more than 1 % warn, all of them end the run")
def test_targets_that_are_their_references_are_refused(train_on):
    rows = [row | {"target_id": row["reference_id"], "target_image": row["reference_image"]} for row in triplets(8)]
    with pytest.raises(ValueError, match="target_is_reference: all 8"):
        train_on(undecoded(rows)).train()
    rows[0] = triplet(0)
    trainer = train_on(undecoded(rows))
    trainer.train()
    assert trainer.record()["data_audit"]["target_is_reference"] == 7


# What is given to the trainer


@pytest.mark.fault("L07", "what a trainer lacks is said when it is made")
def test_what_is_missing_is_said_in_one_line(train_on, clip_folder, tmp_path):
    from transformers import TrainingArguments

    with pytest.raises(ValueError, match="processing_class"):
        train_on(triplets(8), processing_class=False)
    model = ContextCIRModel.from_clip_pretrained(clip_folder)
    with pytest.raises(ValueError, match="TrainingArguments.*CIRTrainingArguments"):
        CIRTrainer(model, TrainingArguments(output_dir=str(tmp_path)), train_dataset=triplets(8))
    with pytest.raises(ImportError, match="report_to=trackio.*pip install"):
        train_on(triplets(8), report_to="trackio")
