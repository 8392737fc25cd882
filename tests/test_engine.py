"""The training loop's edges: refusing, resuming, killed runs, losses that are not numbers."""
import csv
import importlib.util
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import time

import pytest
import torch
from torch import nn

from clipsonic.checkpoint import load_config, load_tensors, save_checkpoint, write_config
from clipsonic.core import CheckpointError, ClipsonicError, InputError, seeded_generator
from clipsonic.engine import Recipe, Trainer, TrainingConfig, flatten, train
from clipsonic.threads import cpu_count, exactly_threads
from conftest import naming

SLOW_LINE = """
import sys, time; sys.path.insert(0, {tests!r})
from test_engine import Pair
from clipsonic.engine import train
class Slow(Pair):
    def losses(self, batch, generator):
        time.sleep(0.02)
        yield from super().losses(batch, generator)
train(Slow(steps=100000), {out!r}, progress=False, cpu=True)
"""

class Pair(Recipe):
    "Two networks with an optimiser each; the second learns to follow the first."
    name = "pair"
    def __init__(self, steps=12, **kwargs):
        self.training = TrainingConfig(steps=steps, batch_size=4, lr=0.05, save_every=6, log_every=3, ema_decay=0.9,
                                       **kwargs)
        self.networks = {k: nn.Linear(2, 1) for k in ("leader", "follower")}
        for n in self.networks.values():
            for p in n.parameters(): nn.init.constant_(p, 0.1)
    @property
    def optimizers(self): return {k: [k] for k in self.networks}
    def batches(self, start, rank, world_size):
        while True:
            yield {"x": torch.randn(4, 2, generator=seeded_generator(9, start, rank))}
            start += 1
    def losses(self, batch, generator):
        noise = torch.randn((), generator=generator)
        leader, follower = self.networks["leader"], self.networks["follower"]
        yield "leader", ((leader(batch["x"]) - batch["x"].sum(1, keepdim=True) - noise) ** 2).mean(), {}
        yield "follower", ((follower(batch["x"]) - leader(batch["x"]).detach()) ** 2).mean(), {"noise": noise}
    def validate(self, networks): return {"w": networks["leader"].weight.sum().item()}
    def checkpoint_config(self): return {"kind": "pair"}

def state(folder): return load_tensors(folder / "training", "state")

def test_two_optimisers_resume_exactly(tmp_path):
    train(Pair(), tmp_path / "whole", progress=False, cpu=True)
    train(Pair(), tmp_path / "parts", steps=6, progress=False, cpu=True)
    train(Pair(), tmp_path / "parts", resume=True, progress=False, cpu=True)
    whole, parts = state(tmp_path / "whole"), state(tmp_path / "parts")
    assert whole.keys() == parts.keys() and all(torch.equal(whole[k], parts[k]) for k in whole)
    def log(name):
        rows = list(csv.DictReader((tmp_path / name / "log.csv").open()))
        for row in rows: del row["seconds_per_step"]
        return rows
    assert log("whole") == log("parts")

def test_threads_are_chosen_at_checkpoints_and_taken_up_again(tmp_path):
    "Gradients are sums over what each thread has: up to its next checkpoint a resumed run takes the saved number."
    seen, saved = [], lambda: load_config(tmp_path / "run" / "training")["threads"]
    class Watched(Pair):
        def losses(self, batch, generator):
            seen.append(torch.get_num_threads())
            yield from super().losses(batch, generator)
    def go(threads, **how):
        seen.clear()
        with exactly_threads(threads): train(Watched(), tmp_path / "run", progress=False, cpu=True, **how)
        return set(seen)
    most, before = cpu_count(), torch.get_num_threads()
    assert go(most, steps=6) == {most} and saved() == most
    assert go(most + 1, resume=True) == {most} and saved() == most + 1
    with pytest.warns(UserWarning, match=naming(tmp_path / "run", "threads", most + 1, most)):
        assert go(1, steps=13, resume=True) == {1}
    assert torch.get_num_threads() == before

class Mel(Pair):
    "With settings that had other names before 0.1.0."
    def checkpoint_config(self):
        return {"kind": "denoiser", "mel": {"log_min": -11.5, "log_max": 2.0}, "unet": {"model_channels": 8},
                "diffusion": {"prediction_type": "v_prediction"}}

def test_a_run_of_before_the_renaming_is_resumed(tmp_path):
    train(Mel(), tmp_path / "whole", progress=False, cpu=True)
    train(Mel(), tmp_path / "old", steps=6, progress=False, cpu=True)
    old = {"kind": "denoiser", "mel": {"low": -11.5, "high": 2.0}, "unet": {"channels": 8},
           "diffusion": {"prediction": "velocity"}}
    write_config(tmp_path / "old" / "training", {"kind": "training", "recipe": "pair", "config": old, "next": 6,
                                                 "threads": load_config(tmp_path / "old" / "training")["threads"]})
    training = {"ema": 0.9, "precision": "no", "warmup": 0}
    write_config(tmp_path / "old" / "model", old | {"step": 6, "training": training})
    with pytest.warns() as warned: train(Mel(), tmp_path / "old", resume=True, progress=False, cpu=True)
    assert len(warned) == 1 and "config.diffusion.prediction" in str(warned[0].message)
    whole, resumed = state(tmp_path / "whole"), state(tmp_path / "old")
    assert whole.keys() == resumed.keys() and all(torch.equal(whole[k], resumed[k]) for k in whole)
    assert load_config(tmp_path / "old" / "training")["config"] == Mel().checkpoint_config()
    assert "next" not in load_config(tmp_path / "old" / "training")

def test_tensorboard_hides_the_steps_after_the_checkpoint(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    events = tmp_path / "run" / "tensorboard" / "pair"
    def go(number, **more):
        train(Pair(), tmp_path / "run", progress=False, cpu=True, **more)
        file = max(events.iterdir(), key=lambda path: path.stat().st_mtime_ns)   # names order them by the second
        file.rename(events / f"events.out.tfevents.000000000{number}")
    go(1, steps=6)
    kept = shutil.copytree(tmp_path / "run", tmp_path / "kept")
    go(2, steps=9, resume=True)
    for name in "model", "training":   # killed after step 9 was logged, and before it was saved
        shutil.rmtree(tmp_path / "run" / name)
        shutil.copytree(kept / name, tmp_path / "run" / name)
    go(3, resume=True)
    board = EventAccumulator(str(events)).Reload()
    assert [e.step for e in board.Scalars("leader/loss")] == [3, 6, 9, 12]
    assert [e.step for e in board.Scalars("valid/w")] == [6, 12]
    with (tmp_path / "run" / "log.csv").open() as file:
        logged = [row["leader/loss"] for row in csv.DictReader(file) if row["leader/loss"]]
    assert logged == [f"{e.value:.6g}" for e in board.Scalars("leader/loss")]

TWO = """
import sys; sys.path.insert(0, {tests!r})
from test_engine import Pair
from clipsonic.engine import train
train(Pair(), {out!r}, progress=False, cpu=True)
"""

@pytest.mark.long
def test_two_processes_train_one_model(tmp_path):
    "Each has its own batches, the gradients are averaged, and only one of them writes."
    script = tmp_path / "two.py"
    script.write_text(TWO.format(tests=os.path.dirname(__file__), out=str(tmp_path / "run")))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    subprocess.run(launch, check=True, capture_output=True)
    with (tmp_path / "run" / "log.csv").open() as file: rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [3, 6, 6, 9, 12, 12]
    train(Pair(), tmp_path / "alone", progress=False, cpu=True)
    both, alone = state(tmp_path / "run"), state(tmp_path / "alone")
    assert both.keys() == alone.keys()
    assert not torch.equal(both["network/leader/weight"], alone["network/leader/weight"])

def test_a_tracker_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match="pigeon"): Trainer(Pair(), tmp_path, cpu=True, log_with="pigeon")
    absent = next(name for name in ("aim", "dvclive", "comet_ml", "mlflow") if importlib.util.find_spec(name) is None)
    with pytest.raises(InputError, match=naming("log_with", absent)), pytest.warns(UserWarning, match=absent):
        Trainer(Pair(), tmp_path, cpu=True, log_with=absent)

def test_nested_settings_are_compared_one_by_one(tmp_path):
    assert flatten({"a": {"b": {"c": 1}, "d": 2}, "e": [3]}) == {"a.b.c": 1, "a.d": 2, "e": [3]}
    train(Mel(), tmp_path / "run", steps=1, progress=False, cpu=True)
    other, config = Mel(), Mel().checkpoint_config()
    other.checkpoint_config = lambda: config | {"mel": {"log_min": -9.0, "log_max": 2.0}}
    with pytest.raises(CheckpointError, match=naming("mel.log_min", -11.5, -9.0)): other.init_from(tmp_path / "run")
    Mel().init_from(tmp_path / "run")

def test_a_killed_run_continues_from_its_checkpoint(tmp_path):
    code = SLOW_LINE.format(tests=os.path.dirname(__file__), out=str(tmp_path / "run"))
    process = subprocess.Popen([sys.executable, "-c", code])
    while process.poll() is None and not (tmp_path / "run" / "training" / "config.json").exists(): time.sleep(0.1)
    time.sleep(0.3)   # it is killed anywhere in a step, or while it saves again
    process.send_signal(signal.SIGKILL); process.wait()
    reached = load_config(tmp_path / "run" / "training")["global_step"]
    assert reached >= 6 and reached % 6 == 0
    train(Pair(), tmp_path / "run", steps=reached + 6, resume=True, progress=False, cpu=True)
    train(Pair(), tmp_path / "whole", steps=reached + 6, progress=False, cpu=True)
    run, whole = state(tmp_path / "run"), state(tmp_path / "whole")
    assert all(torch.equal(run[k], whole[k]) for k in whole)

def test_a_run_that_is_done_says_so(tmp_path):
    train(Pair(steps=6), tmp_path, progress=False, cpu=True)
    with pytest.warns(UserWarning, match=naming(tmp_path, 6, "--steps")):
        assert train(Pair(steps=6), tmp_path, resume=True, progress=False, cpu=True) == {}

def test_a_run_is_not_overwritten_and_not_mixed(tmp_path):
    train(Pair(), tmp_path / "run", steps=1, progress=False, cpu=True)
    with pytest.raises(InputError, match=naming(tmp_path / "run", "--resume")):
        train(Pair(), tmp_path / "run", steps=2, progress=False, cpu=True)
    other = Pair(); other.name = "other"
    with pytest.raises(CheckpointError, match=naming(tmp_path / "run", "--preset", "pair", "other")):
        train(other, tmp_path / "run", resume=True, progress=False, cpu=True)
    wider = Pair(); wider.checkpoint_config = lambda: Pair().checkpoint_config() | {"width": 7}
    train(wider, tmp_path / "wider", steps=1, progress=False, cpu=True)
    with pytest.raises(CheckpointError, match=naming(tmp_path / "wider", "width 7", "None")):
        train(Pair(), tmp_path / "wider", resume=True, progress=False, cpu=True)
    with pytest.raises(CheckpointError): train(Pair(), tmp_path / "nowhere", resume=True, progress=False, cpu=True)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=naming(tmp_path / "file", "is a file")):
        train(Pair(), tmp_path / "file", progress=False, cpu=True)
    with pytest.raises(InputError, match="batch_size=0"):
        train(Pair(), tmp_path / "none", batch_size=0, progress=False, cpu=True)
    with pytest.raises(InputError, match="steps=0"): train(Pair(), tmp_path / "zero", steps=0, progress=False, cpu=True)

# states that are damaged

@pytest.fixture(scope="module")
def half(tmp_path_factory):
    "A run of twelve steps after six."
    train(Pair(), tmp_path_factory.mktemp("half") / "run", steps=6, progress=False, cpu=True)
    return next(tmp_path_factory.getbasetemp().glob("half*/run"))

def resumed(run, *words):
    with pytest.raises(CheckpointError, match=naming(*words)): train(Pair(), run, resume=True, progress=False, cpu=True)

def test_a_changed_state_is_found_by_its_digest(half, tmp_path):
    run = shutil.copytree(half, tmp_path / "run")
    for name in "training/state.safetensors", "training/config.json":
        file = run / name
        whole = file.read_bytes()
        at = len(whole) - 9 if name.endswith("safetensors") else whole.index(b'"global_step": 6') + 15
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1:])
        resumed(run, run / name, "another copy")
        file.write_bytes(whole)
    train(Pair(), run, resume=True, progress=False, cpu=True)

def add(value): return lambda tensor: tensor + value
def fill(value): return lambda tensor: torch.full_like(tensor, value)

STATES = [
    ("network/leader/weight", fill(float("nan")), "finite network/leader/weight"),
    ("average/follower/bias", fill(float("inf")), "finite average/follower/bias"),
    ("optimizer/leader/0.exp_avg", fill(float("nan")), "finite optimizer/leader/0.exp_avg"),
    ("optimizer/leader/0.exp_avg_sq", fill(-1.0), "leader 0 mean square"),
    ("optimizer/leader/1.step", add(1), "leader 1 7.0 6"), ("optimizer/leader/1.step", add(0.5), "leader 1 6.5 6"),
    ("optimizer/leader/1.step", fill(0), "leader 1 0.0 6"),
    ("optimizer/leader/0.exp_avg", lambda t: t[:, :1], "leader 0 exp_avg (1, 1)"),
    ("optimizer/leader/0.exp_avg", lambda t: t.int(), "leader 0 exp_avg int32"),
    ("optimizer/follower/0.step", None, "follower 0 exp_avg exp_avg_sq"),
    ("network/leader/bias", None, "1 bias"), ("network/leader/weight", lambda t: t.T, "1 weight (2, 1) (1, 2)"),
    ("network/leader/weight", lambda t: t.long(), "1 weight torch.int64 torch.float32")]

@pytest.mark.parametrize("name, change, says", STATES)
def test_what_a_state_holds_is_checked(half, tmp_path, name, change, says):
    "Saved so, digest and all."
    run, config = shutil.copytree(half, tmp_path / "run"), load_config(half / "training")
    tensors = state(half)
    value = tensors.pop(name)
    if change: tensors[name] = change(value)
    save_checkpoint(run / "training", config, {"state": tensors})
    resumed(run, run / "training", *says.split())

ELSE = ["optimizer/leader/7.step", "optimizer/leader/x.step", "optimizer/leader/step", "network/third/weight", "other"]

@pytest.mark.parametrize("name", ELSE)
def test_a_state_of_something_else_is_named(half, tmp_path, name):
    run = shutil.copytree(half, tmp_path / "run")
    save_checkpoint(run / "training", load_config(half / "training"), {"state": state(half) | {name: torch.ones(())}})
    resumed(run, run / "training/state.safetensors", name.split("/")[-1].removesuffix(".step"))

CONFIGS = [
    ("global_step", 0), ("global_step", -6), ("global_step", 6.0), ("global_step", "6"), ("global_step", None),
    ("global_step", 10**30), ("recipe", 7), ("recipe", None),
    ("config", None), ("config", []), ("config", {}), ("threads", 0), ("threads", "two")]

@pytest.mark.parametrize("key, value", CONFIGS)
def test_what_a_state_s_config_says_is_checked(half, tmp_path, key, value):
    run = shutil.copytree(half, tmp_path / "run")
    write_config(run / "training", load_config(run / "training") | {key: value})
    if value == {}: resumed(run, run, "kind None", "'pair'")
    else: resumed(run, run / "training", "config.json", key, "null" if value is None else repr(value))

def test_a_state_and_a_model_of_two_runs_are_told_apart(half, tmp_path):
    run = shutil.copytree(half, tmp_path / "run")
    write_config(run / "training", load_config(run / "training") | {"global_step": 7})
    resumed(run, run, "model/", 6, "training/", 7)
    shutil.copytree(half / "training", run / "training", dirs_exist_ok=True)
    write_config(run / "model", load_config(run / "model") | {"kind": "toy"})
    resumed(run, run / "model", "toy", "pair")
    wider = Pair()
    wider.checkpoint_config = lambda: {"kind": "pair", "width": 7}
    write_config(run / "training", load_config(half / "training") | {"config": wider.checkpoint_config()})
    write_config(run / "model", load_config(half / "model") | {"width": 8})
    with pytest.raises(CheckpointError, match=naming(run, "model/", "training/", "width")):
        train(wider, run, resume=True, progress=False, cpu=True)
    shutil.copytree(half / "training", run / "training", dirs_exist_ok=True)
    write_config(run / "model", load_config(half / "model") | {"step": 9})  # killed between the two: the model is newer
    train(Pair(), run, resume=True, progress=False, cpu=True)

@pytest.mark.parametrize("text", [b"", b"step\nx\n", b"a,b\n1,2\n", b"loss,step\n1\n", b"\xff\xfe"])
def test_a_damaged_log_is_named(half, tmp_path, text):
    run = shutil.copytree(half, tmp_path / "run")
    (run / "log.csv").write_bytes(text)
    resumed(run, run / "log.csv", "rename")

def test_training_that_went_wrong_stops_and_says_so(tmp_path):
    class Lost(Pair):
        def losses(self, batch, generator):
            for name, loss, logs in super().losses(batch, generator): yield name, loss * float("nan"), logs
    engine = Trainer(Lost(), tmp_path, cpu=True)
    with pytest.raises(ClipsonicError, match=naming("step 19", "20 losses", "learning rate", 0.05)):
        for batch in engine.recipe.batches(0, 0, 1): engine.step(batch)
    assert engine.unwrapped["leader"].weight.eq(0.1).all(), "no bad step was taken"

def test_the_average_warms_up(tmp_path):
    train(Pair(steps=30), tmp_path, progress=False, cpu=True)
    tensors = state(tmp_path)
    used = load_tensors(tmp_path / "model", "leader")["weight"]
    assert torch.equal(used, tensors["average/leader/weight"])
    assert not torch.equal(used, tensors["network/leader/weight"])
    assert (used - 0.1).abs().max() > 0.1, "the random start is forgotten"

SEEN = """
import sys, time; sys.path.insert(0, {tests!r})
from test_engine import Pair
from clipsonic.engine import train
class Slow(Pair):
    def losses(self, batch, generator):
        time.sleep(0.15)
        yield from super().losses(batch, generator)
train(Slow(), {out!r}, cpu=True)
"""

def test_a_terminal_shows_the_first_loss_and_what_takes_time(tmp_path):
    fcntl, termios = pytest.importorskip("fcntl"), pytest.importorskip("termios")
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 160, 0, 0))
    code = SEEN.format(tests=os.path.dirname(__file__), out=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", code], stderr=theirs)
    os.close(theirs)
    shown = b""
    while True:
        try: piece = os.read(ours, 4096)
        except OSError: break   # Linux's end of a terminal whose other side is closed
        if not piece: break
        shown += piece
    os.close(ours)
    assert process.wait() == 0
    first = next(bar for bar in shown.decode().split("\r") if " 1/12 " in bar)
    assert "leader/loss=" in first and "follower/loss=" in first
    for word in "saving", "validating", "rendering samples": assert f"pair: {word}" in shown.decode()

def test_a_log_file_has_a_line_for_each_checkpoint(tmp_path):
    code = SEEN.format(tests=os.path.dirname(__file__), out=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = [line for line in done.stderr.replace("\r", "\n").splitlines() if "pair: " in line and " step " in line]
    assert [re.findall(r"step (\d+)", line) for line in lines] == [["6"], ["12"]]
    assert all("leader/loss " in line and "valid/w " in line for line in lines) and "validating" not in done.stderr
    assert done.stderr.count("it/s") + done.stderr.count("s/it") <= 6, "the bar is drawn seldom"
