"""Streams: every row once per pass, over processes and workers, and a resumed run sees the same batches."""

import hashlib
from itertools import islice

import datasets
import pytest
import torch
from transformers.models.clip.modeling_clip import CLIPAttention

from contextcir.data.streamed_triplets import mix_streams, stream_triplets
from contextcir.training import streams
from contextcir.training.collator import STREAM_PASS
from contextcir.training.streams import StreamLoader
from contextcir.training.trainer import CIRTrainer
from contextcir.training.training_args import CIRTrainingArguments
from contextcir.training.training_data import TripletStream
from modeling_contextcir import ContextCIRModel, ContextCIRProcessor
from tests.tiny_triplets import mined_negatives, triplet, triplets, write_parquet
from tests.training.conftest import OPTIONS, SAVING, changed, folder_of, logged, undecoded, weights

SIZES = (9, 7, 6, 5)  # rows of each file
RESUMES = pytest.mark.fault("L02", "a stream trains, and a resumed run sees the same batches, in any pass")
ONCE = pytest.mark.fault("L11", "a stream is read once per pass over all processes and workers, and none waits")
REFUSED = pytest.mark.fault("L12", "what a stream cannot do is refused before anything runs")
PROCESSES = pytest.mark.parametrize("processes", [1, 2])
WORKERS = pytest.mark.parametrize("workers", [0, 2])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Parquet files of different sizes."""
    folder, start = tmp_path_factory.mktemp("streamed"), 0
    for number, size in enumerate(SIZES):
        rows = [triplet(row) for row in range(start, start + size)]
        name = f"train-{number:05d}-of-{len(SIZES):05d}"
        write_parquet(folder, **{name: rows})
        start += size
        (folder / f"{name}-00000-of-00001.parquet").rename(folder / f"{name}.parquet")
    return str(folder)


def ids_and_passes(rows):
    return [(row["id"], row[STREAM_PASS]) for row in rows]


def loaders(folder, processes, workers, batch=1, make=stream_triplets, **options):
    return [
        StreamLoader(
            TripletStream(make(folder)),
            ids_and_passes,
            batch,
            process=(process, processes),
            num_workers=workers,
            **({"shuffle_buffer": 4, "seed": 3} | options),
        )
        for process in range(processes)
    ]


def mixed(folder):
    return mix_streams([stream_triplets(folder), stream_triplets(folder)], [1, 1], seed=1)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """`datasets` waits five seconds for threads whenever it has read one of several sources."""
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)


# Sharding


@ONCE
@PROCESSES
@WORKERS
@pytest.mark.parametrize("files", [1, 3, 4])
def test_each_row_is_read_once_per_pass(folder, processes, workers, files):
    def first_files(folder):
        names = [f"{folder}/train-{number:05d}-of-00004.parquet" for number in range(files)]
        return datasets.load_dataset("parquet", data_files=names, split="train", streaming=True)

    found = []
    for loader in loaders(folder, processes, workers, make=first_files):
        found += [row for batch in islice(loader, 3 * sum(SIZES)) for row in batch]
    for number in (0, 1):  # which all workers have left behind by then
        seen = [id_ for id_, in_pass in found if in_pass == number]
        assert sorted(seen) == sorted(f"t{row}" for row in range(sum(SIZES[:files])))
    orders = [[id_ for id_, in_pass in found if in_pass == number] for number in (0, 1)]
    assert orders[0] != orders[1]


@ONCE
def test_the_order_is_that_of_the_files_without_a_buffer(folder):
    (loader,) = loaders(folder, 1, 0, batch=27, shuffle_buffer=0)
    first, second = islice(loader, 2)
    assert first == [(f"t{row}", 0) for row in range(27)]
    assert second == [(f"t{row}", 1) for row in range(27)]


@ONCE
@pytest.mark.parametrize(
    "processes, workers, expected",
    [
        (8, 0, "each process reads all rows"),
        (2, 4, "some stay idle"),
        (3, 0, "begin their next pass earlier"),
        (2, 2, None),
    ],
)
def test_too_few_shards_are_said_once(folder, monkeypatch, processes, workers, expected):
    warned = []
    monkeypatch.setattr(streams.logger, "warning", warned.append)
    made = loaders(folder, processes, workers)
    assert len(warned) == (expected is not None)
    if expected:
        assert expected in warned[0] and "4 shards" in warned[0]
    assert [loader.num_workers for loader in made] == [min(workers, loader.fixed["num_shards"]) for loader in made]


@ONCE
def test_one_file_is_shared_out_by_its_row_groups(tmp_path):
    rows = undecoded(triplets(12)).cast_column("reference_image", datasets.Image())
    rows.cast_column("target_image", datasets.Image()).to_parquet(tmp_path / "train.parquet", batch_size=3)
    first, second = loaders(str(tmp_path), 2, 2)
    assert first.fixed["num_shards"] == second.fixed["num_shards"] == 2


# Resuming


@RESUMES
@PROCESSES
@WORKERS
@pytest.mark.parametrize("make", [stream_triplets, mixed])
def test_a_position_is_exact(folder, processes, workers, make):
    for process in range(processes):
        loader = loaders(folder, processes, workers, batch=5, make=make)[process]
        batches, states = [], []
        for batch in islice(loader, 24):
            batches.append(batch)
            states.append(loader.state_dict())
        assert len({in_pass for batch in batches for _, in_pass in batch}) >= 2
        for cut in (1, 8, 19):  # in the first passes and later ones
            again = loaders(folder, processes, workers, batch=5, make=make)[process]
            again.load_state_dict(states[cut - 1])
            assert list(islice(again, 24 - cut)) == batches[cut:]


@RESUMES
def test_little_is_read_again(folder):
    read = []

    def counted(folder):
        return stream_triplets(folder).map(lambda row: read.append(row["id"]) or row)

    (loader,) = loaders(folder, 1, 0, batch=3, make=counted)
    batches = iter(loader)
    for _ in range(7):
        next(batches)
    state = loader.state_dict()
    expected = next(batches)
    read.clear()
    (again,) = loaders(folder, 1, 0, batch=3, make=counted)
    again.load_state_dict(state)
    assert next(iter(again)) == expected
    block_and_batch = 2 * 4 + 3
    assert len(read) <= block_and_batch + 4  # 21 rows were trained on


@RESUMES
@pytest.mark.parametrize("name", ["shuffle_buffer", "seed", "num_workers", "num_shards"])
def test_another_order_is_refused(folder, name):
    (loader,) = loaders(folder, 1, 0)
    state = loader.state_dict()
    state["fixed"][name] += 1
    with pytest.raises(ValueError, match=f"{name}.*Resume as before"):
        loader.load_state_dict(state)


class Stream(torch.utils.data.IterableDataset):
    """A stream of PyTorch that begins each pass at another row."""

    def __init__(self, rows):
        self.rows, self.epoch = rows, 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        yield from self.rows[self.epoch :] + self.rows[: self.epoch]


@pytest.fixture
def train_on(clip_folder, tmp_path):
    """A trainer on a stream, with what its batches hold in `seen`. All start from the same weights."""

    def train_on(data, output="run", **options):
        torch.manual_seed(0)
        needed = {"shuffle_buffer": 4, "augmentation": "crop"}
        own = {name: options.pop(name) for name in ("negatives",) if name in options}
        model = ContextCIRModel.from_clip_pretrained(clip_folder)
        for module in model.text_model.modules():  # so that a run depends on the random state
            if isinstance(module, CLIPAttention):
                module.dropout = 0.1
        trainer = CIRTrainer(
            model,
            CIRTrainingArguments(output_dir=str(tmp_path / output), **{**OPTIONS, **needed, **options}),
            train_dataset=data,
            processing_class=ContextCIRProcessor.from_pretrained(clip_folder),
            **own,
        )
        trainer.seen, step = [], trainer.training_step

        def training_step(model, inputs, *args):
            pixels = hashlib.sha256(inputs["pixel_values"].numpy().tobytes()).hexdigest()
            trainer.seen.append((inputs["triplet_ids"], pixels))
            return step(model, inputs, *args)

        trainer.training_step = training_step
        return trainer

    return train_on


@RESUMES
@pytest.mark.parametrize("workers, gradients, kind", [(0, 1, "folder"), (2, 2, "folder"), (0, 1, "torch")])
@pytest.mark.parametrize("step", [1, 9])
def test_a_resumed_run_ends_with_the_same_bits(folder, train_on, tmp_path, workers, gradients, kind, step):
    def stream():
        return stream_triplets(folder) if kind == "folder" else Stream(triplets(8))

    options = {"max_steps": 12, "dataloader_num_workers": workers, "gradient_accumulation_steps": gradients, **SAVING}
    whole = train_on(stream(), output="whole", **options)
    whole.train()
    (tmp_path / "again").mkdir()
    (folder_of(whole) / f"checkpoint-{step}").rename(tmp_path / "again" / f"checkpoint-{step}")
    resumed = train_on(stream(), output="again", **options)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.seen == whole.seen[step * gradients :] and len(whole.seen) == 12 * gradients
    assert not changed(weights(whole), weights(resumed))
    history = [[entry["step"], entry["epoch"], entry["loss"]] for entry in logged(whole)]
    assert history == [[entry["step"], entry["epoch"], entry["loss"]] for entry in logged(resumed)]
    assert history[5][1] == 0.5 and len({pixels for _, pixels in whole.seen}) == 12 * gradients


@RESUMES
def test_bad_images_are_counted_over_a_stop(train_on, tmp_path):
    rows = triplets(8)
    rows[1]["target_image"] = {"bytes": b"no image", "path": None}
    options = {"on_bad_image": "skip", "max_steps": 7, **SAVING}
    whole = train_on(Stream(rows), output="whole", **options)
    whole.train()
    assert whole.record()["bad_images"]["train"] == 4  # once in each of four passes over seven good rows
    (tmp_path / "again").mkdir()
    (folder_of(whole) / "checkpoint-4").rename(tmp_path / "again" / "checkpoint-4")
    resumed = train_on(Stream(rows), output="again", **options)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.record()["bad_images"]["train"] == 4
    assert not changed(weights(whole), weights(resumed))


@RESUMES
def test_a_checkpoint_of_other_data_is_not_resumed_on_a_stream(train_on):
    train_on(undecoded(triplets(8)), shuffle_buffer=None, **SAVING).train()
    with pytest.raises(ValueError, match="stream_position.json"):
        train_on(Stream(triplets(8)), max_steps=3).train(resume_from_checkpoint=True)


# What works with a stream, and what does not


@REFUSED
@pytest.mark.parametrize(
    "options, message",
    [
        ({"max_steps": -1, "gradient_accumulation_steps": 2}, "max_steps: one takes 8 rows"),
        ({"encode_images_once": True, "freeze_vision": True, "augmentation": "none"}, "encode_images_once.*stream"),
        ({"batch_by": "half"}, "batch_by.*stream"),
        ({"family_by": "reference_id"}, "family_by.*stream"),
        ({"distinct_targets": True}, "distinct_targets.*stream"),
        ({"train_sampling_strategy": "sequential"}, "train_sampling_strategy.*shuffle_buffer=0"),
        ({"save_strategy": "epoch"}, "save_strategy to steps"),
        ({"accelerator_config": {"dispatch_batches": True}}, "dispatch_batches"),
        ({"accelerator_config": {"split_batches": True}}, "split_batches"),
        ({"shuffle_buffer": -1}, "shuffle_buffer must not be negative"),
    ],
    ids=str,
)
def test_what_a_stream_cannot_do_is_refused_at_construction(train_on, options, message):
    with pytest.raises(ValueError, match=message):
        train_on(Stream(triplets(8)), **options)


@REFUSED
def test_streams_that_cannot_be_resumed_are_refused(folder, train_on):
    rows = stream_triplets(folder)
    with pytest.raises(ValueError, match="shuffle buffer.*Leave out its shuffle"):
        train_on(rows.shuffle(seed=0, buffer_size=10).map(lambda row: row))
    with pytest.raises(ValueError, match="split over processes already"):
        train_on(datasets.distributed.split_dataset_by_node(rows, 0, 2))
    with pytest.raises(ValueError, match="shuffle_buffer is for streams"):
        train_on(undecoded(triplets(8)), shuffle_buffer=10)


@REFUSED
def test_the_steps_of_a_pass_are_said(folder, train_on):
    rows = stream_triplets(folder)
    rows.info.splits = datasets.SplitDict()
    rows.info.splits.add(datasets.SplitInfo("train", num_examples=27))
    with pytest.raises(ValueError, match="max_steps: 6 for a pass over its 27 rows"):
        train_on(rows, max_steps=-1)


@REFUSED
def test_a_stream_without_rows_is_an_error(train_on):
    rows = [row | {"target_image": {"bytes": b"no image", "path": None}} for row in triplets(3)]
    with pytest.raises(ValueError, match="no row that can be used"):
        train_on(Stream(rows), on_bad_image="skip").train()


def test_mined_negatives_work_with_a_stream(train_on):
    rows = [row | {"negative_ids": ["n0", "n1", "n2"]} for row in triplets(8)]
    trainer = train_on(Stream(rows), hard_negatives=2, negatives=mined_negatives(3))
    trainer.train()
    assert len(trainer.seen) == 2 and all(entry["loss"] > 0 for entry in logged(trainer))


def test_rows_of_one_batch_are_augmented_by_their_own_pass(processor, monkeypatch):
    from contextcir.training.collator import TripletCollator

    collator = TripletCollator(processor, augmentation="crop")
    rows = triplets(2)
    collator.set_epoch(1)
    one = collator(rows)["pixel_values"]
    collator.set_epoch(0)
    mixed = collator([rows[0], rows[1] | {STREAM_PASS: 1}])["pixel_values"]
    assert torch.equal(mixed[[1, 3]], one[[1, 3]]) and not torch.equal(mixed[[0, 2]], one[[0, 2]])
