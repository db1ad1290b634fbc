"""Signals stop a run after a step, with a checkpoint from which it ends with the same bits."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys

import pytest
import torch
from transformers import TrainerCallback

from contextcir.training.checkpoints import checkpoint_problem
from contextcir.training.stop_signals import RUN_AGAIN, SIGNALS, RunStopped, stop_requests
from tests.tiny_triplets import triplets
from tests.training.conftest import REPOSITORY, changed, folder_of, logged, weights

STOP = pytest.mark.fault("J01", "a signal saves a whole checkpoint and ends training with 75; a second one at once")


class SendAt(TrainerCallback):
    """Send a signal to this process at an event of a step."""

    def __init__(self, event, step, number=signal.SIGTERM):
        def send(args, state, control, **kwargs):
            if state.global_step == step:
                os.kill(os.getpid(), number)

        setattr(self, event, send)


@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="workers are shielded where there is sigwaitinfo")
@pytest.mark.parametrize("name", ["get_train_dataloader", "get_eval_dataloader"])
def test_a_worker_outlives_the_signals_of_others(build, name):
    trainer = build(rows=triplets(24), eval_rows=triplets(24), dataloader_num_workers=1, per_device_eval_batch_size=4)
    batches = iter(getattr(trainer, name)())
    next(batches)
    (worker,) = multiprocessing.active_children()
    killers = [f"kill -{number.value} {worker.pid}" for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)]
    subprocess.run(["sh", "-c", "; ".join(killers)], check=True)  # not from the process that the worker belongs to
    assert len(list(batches)) == 5 and worker.exitcode == 0


@STOP
@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.slow
def test_a_stopped_run_goes_on_and_ends_with_the_same_bits(build, number):
    whole = build(output="whole", max_steps=6)
    whole.train(resume_from_checkpoint="auto")  # there is nothing yet
    before = [signal.getsignal(some) for some in SIGNALS]
    trainer = build(max_steps=6)
    trainer.add_callback(SendAt("on_step_begin", 2, number))
    with pytest.raises(RunStopped, match=rf"{number.name} after step 3.*checkpoint-3") as stopped:
        trainer.train(resume_from_checkpoint="auto")
    assert stopped.value.code == RUN_AGAIN == 75
    assert [signal.getsignal(some) for some in SIGNALS] == before
    assert checkpoint_problem(folder_of(trainer) / "checkpoint-3") is None
    resumed = build(max_steps=6)
    resumed.train(resume_from_checkpoint="auto")
    assert [entry["step"] for entry in logged(resumed)] == [1, 2, 3, 4, 5, 6]
    assert not changed(weights(whole), weights(resumed))


@STOP
@pytest.mark.slow
def test_a_stop_between_micro_batches_goes_back_to_the_last_step(build):
    options = {"max_steps": 4, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 2}
    whole = build(output="whole", **options)
    whole.train()
    trainer = build(**options)
    trainer.add_callback(SendAt("on_step_begin", 3))
    with pytest.raises(RunStopped, match="checkpoint-3"):
        trainer.train()
    resumed = build(**options)
    resumed.train(resume_from_checkpoint=True)
    assert not changed(weights(whole), weights(resumed))


@STOP
def test_a_stop_in_an_evaluation_does_not_wait_for_its_end(build):
    ended = []

    def evaluator(model):
        os.kill(os.getpid(), signal.SIGTERM)
        ended.append(1)
        return {}

    trainer = build(evaluator=evaluator, eval_strategy="steps", eval_steps=1)
    with pytest.raises(RunStopped, match="step 1"):
        trainer.train()
    assert not ended and checkpoint_problem(folder_of(trainer) / "checkpoint-1") is None


@pytest.mark.fault("S06", "a run whose steps are all done trains no more when it is resumed")
@pytest.mark.parametrize("resume", [True, "auto"])
@pytest.mark.slow
def test_a_run_that_was_killed_after_its_last_checkpoint_takes_no_further_step(build, resume):
    options = {"max_steps": 5, "per_device_train_batch_size": 2, "save_strategy": "steps", "save_steps": 5}
    whole = build(**options)
    whole.train()
    resumed = build(**options)
    output = resumed.train(resume_from_checkpoint=resume)
    assert resumed.state.global_step == output.global_step == 5
    assert not changed(weights(whole), weights(resumed))
    resumed.save_model()
    assert "train_loss" not in resumed.record()["training"]  # of no step
    fewer = build(**options | {"max_steps": 3})
    fewer.train(resume_from_checkpoint=resume)
    assert fewer.state.global_step == 5 and not changed(weights(whole), weights(fewer))


# Signals


LISTEN = """
import os, signal, sys, time
from contextcir.training.stop_signals import stop_requests
with stop_requests() as stop:
    print("listening", flush=True)
    time.sleep(0.1)
    while stop.signal is None:
        time.sleep(0.01)
    print(stop.signal, flush=True)
    time.sleep(30)
"""


def listen(**environment):
    process = subprocess.Popen(
        [sys.executable, "-c", LISTEN],
        cwd=REPOSITORY,
        env={name: value for name, value in os.environ.items() if name != "LOCAL_RANK"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "listening\n"
    return process


@STOP
@pytest.mark.parametrize("first, second", [("SIGTERM", "SIGTERM"), ("SIGUSR1", "SIGINT"), ("SIGINT", "SIGTERM")])
def test_a_second_signal_ends_at_once(first, second):
    with listen() as process:
        process.send_signal(getattr(signal, first))
        assert process.stdout.readline() == f"{first}\n"
        process.send_signal(getattr(signal, second))
        assert process.wait(5) == -getattr(signal, second)
        assert first in process.stderr.read()


@STOP
def test_what_a_launcher_passes_on_is_no_second_signal():
    with listen(LOCAL_RANK="0") as process:
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "SIGINT\n"
        process.send_signal(signal.SIGTERM)  # of the launcher, which got SIGINT as well
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        process.kill()


@STOP
def test_signals_stop_at_once_where_nothing_is_lost():
    with pytest.raises(RunStopped, match="SIGTERM"), stop_requests() as stop:
        with stop_requests() as inner, stop.deferred():
            os.kill(os.getpid(), signal.SIGTERM)
            assert inner is stop and stop.signal == "SIGTERM"
        with stop.at_once():
            pytest.fail("it was asked to stop before")


ON_TWO_PROCESSES = """
import os, signal, sys, torch
from pathlib import Path
from transformers import TrainerCallback
from contextcir.training.stop_signals import RunStopped
from contextcir.training.trainer import CIRTrainer
from contextcir.training.training_args import CIRTrainingArguments
from modeling_contextcir import ContextCIRModel, ContextCIRProcessor
from tests.tiny_triplets import triplets
from tests.training.conftest import undecoded
from tests.training.test_interruption import SendAt

clip, output, senders = sys.argv[1:]
rank = os.environ["RANK"]
torch.manual_seed(0)
args = CIRTrainingArguments(output_dir=output, max_steps=6, per_device_train_batch_size=2, report_to="none",
                            save_strategy="no", use_cpu=True, disable_tqdm=True, dataloader_num_workers=1)
trainer = CIRTrainer(ContextCIRModel.from_clip_pretrained(clip), args, train_dataset=undecoded(triplets(8)),
                     processing_class=ContextCIRProcessor.from_pretrained(clip))
if rank in senders:
    trainer.add_callback(SendAt("on_step_begin", 2))
try:
    trainer.train(resume_from_checkpoint="auto")
    Path(output, "finished_" + rank).touch()
except RunStopped as stopped:
    Path(output, "stopped_" + rank).write_text(f"{stopped.code} {trainer.state.global_step}")
"""


@pytest.mark.slow
@pytest.mark.fault("J03", "all processes stop at one step, whichever of them the signal has reached")
@pytest.mark.parametrize("senders", ["1", "01"])
def test_all_processes_stop_together(tmp_path, clip_folder, senders):
    def launch(senders):
        script = tmp_path / "script.py"
        script.write_text(ON_TWO_PROCESSES)
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [*command, str(script), clip_folder, str(tmp_path / "run"), senders],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr[-3000:]

    launch(senders)
    assert [(tmp_path / "run" / f"stopped_{rank}").read_text() for rank in (0, 1)] == ["75 3", "75 3"]
    assert checkpoint_problem(tmp_path / "run" / "checkpoint-3") is None
    launch("none")
    assert (tmp_path / "run" / "finished_0").exists() and (tmp_path / "run" / "finished_1").exists()


@pytest.mark.fault("L08", "a run is resumed on as many processes as before, or refused")
def test_another_number_of_processes_is_refused(build):
    trainer = build(save_strategy="steps", save_steps=1)
    trainer.train()
    last = folder_of(trainer) / "checkpoint-2"
    for rank in (0, 1):
        (last / f"rng_state_{rank}.pth").write_bytes((last / "rng_state.pth").read_bytes())
    (last / "rng_state.pth").unlink()
    with pytest.raises(ValueError, match=r"checkpoint-2 .*\b2\b.*\b1\b"):
        build().train(resume_from_checkpoint=True)


# The command


@pytest.mark.slow
@STOP
def test_the_command_ends_with_75_and_goes_on(tmp_path, clip_folder):
    from tests.tiny_triplets import write_parquet

    options = {
        "clip_name_or_path": clip_folder,
        # Ten steps an epoch: the signal finds a worker at work.
        "data": write_parquet(tmp_path / "data", train=triplets(41)),
        "output_dir": tmp_path / "run",
        "per_device_train_batch_size": 4,
        "max_steps": 4000,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "dataloader_num_workers": 1,
        "resume_from_checkpoint": "auto",
    }

    def start(**more):
        flags = [f"--{name}={value}" for name, value in (options | more).items()]
        command = [sys.executable, "-u", "-m", "contextcir.cli.main", "train", *flags]
        environment = os.environ | {"HF_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    for number in (signal.SIGTERM, signal.SIGINT):
        with start() as process:
            while "'loss'" not in process.stdout.readline():
                assert process.poll() is None, process.stderr.read()
            os.killpg(process.pid, number)  # workers too, as Ctrl-C and schedulers do
            out, error = process.communicate(timeout=60)
            assert process.returncode == 75 and f"contextcir train: stopped by {number.name}" in error, error[-2000:]
    steps = sorted(int(path.name.rpartition("-")[2]) for path in (tmp_path / "run").glob("checkpoint-*"))
    assert len(steps) == 2 and not (tmp_path / "run" / "training.json").exists()
    with start(max_steps=steps[-1] + 1) as process:
        assert process.wait(120) == 0, process.stderr.read()[-2000:]
    history = json.loads((tmp_path / "run" / "training.json").read_text())["history"]
    assert history[-1]["step"] == steps[-1] + 1 and torch.isfinite(torch.tensor(history[-1]["train_loss"]))
