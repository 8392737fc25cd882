"Checkpoints that are missing, foreign, damaged or half written, and what is said of them."
import json
import signal
import subprocess
import sys

import pytest
import torch

from clipsonic.checkpoint import describe, load_config, load_strict, load_tensors, save_checkpoint, weights_folder
from clipsonic.core import CheckpointError, ClipsonicError, InputError

def network(width=4): return torch.nn.Sequential(torch.nn.Linear(3, width), torch.nn.Linear(width, 1))

@pytest.fixture
def folder(tmp_path):
    save_checkpoint(tmp_path / "run", {"kind": "toy", "width": 4}, {"model": network().state_dict()}, {"card.md": "é", "raw": b"\0"})
    return tmp_path / "run"

def raises(says, f, *args, **kwargs):
    with pytest.raises(CheckpointError) as error: f(*args, **kwargs)
    for text in [says] if isinstance(says, str) else says: assert text in str(error.value)

def test_round_trip(folder):
    assert sorted(p.name for p in folder.iterdir()) == ["card.md", "config.json", "model.safetensors", "raw"]
    assert (folder / "card.md").read_text(encoding="utf-8") == "é" and load_config(folder, "toy")["width"] == 4
    state = network().state_dict()
    save_checkpoint(folder, {"kind": "toy"}, {"a": state, "b": {"w": state["0.weight"].T, "tied": state["0.weight"].T}})
    assert sorted(p.name for p in folder.parent.iterdir()) == ["run"]  # the older one is gone with all its files
    assert not (folder / "card.md").exists()
    assert torch.equal(load_tensors(folder, "b")["tied"], state["0.weight"].T)

@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half(folder, dtype):
    model = network().double()
    save_checkpoint(folder, {"kind": "toy"}, {"model": {**model.state_dict(), "n": torch.tensor(3)}}, dtype=dtype)
    tensors = load_tensors(folder, "model")
    assert tensors["0.weight"].dtype == dtype and tensors.pop("n").dtype == torch.int64
    loaded = load_strict(network(), tensors, folder)
    assert loaded[0].weight.dtype == torch.float32 and torch.allclose(loaded[0].weight, model[0].weight.float(), atol=1e-2)

def test_config_needs_a_kind(tmp_path):
    with pytest.raises(InputError, match="kind"): save_checkpoint(tmp_path / "run", {"width": 4}, {})
    with pytest.raises(InputError, match="make it first"): save_checkpoint(tmp_path / "no" / "run", {"kind": "toy"}, {})
    assert not list(tmp_path.iterdir())

def test_folders_that_are_no_checkpoint(folder, tmp_path):
    raises("does not exist", load_config, tmp_path / "walk")
    raises("is a file", load_config, folder / "card.md")
    raises("nothing", load_config, make(tmp_path / "empty"))
    (make(tmp_path / "photos") / "dog.jpg").write_text("")
    raises("only dog.jpg", load_config, tmp_path / "photos")
    raises(["the folders run", "give one of them"], load_config, tmp_path)
    raises(["holds a toy", "not a denoiser"], load_config, folder, kind="denoiser")
    for text, says in (("{", "not JSON"), ("[]", "names no kind"), ("{}", "names no kind"), ('{"kind": 3}', "names no kind")):
        (folder / "config.json").write_text(text)
        raises(says, load_config, folder)
    (folder / "config.json").write_bytes(b"\xff\xfe\x00")
    raises("not JSON", load_config, folder)

def make(path): path.mkdir(); return path

def test_run_means_its_model(folder, tmp_path):
    run = make(tmp_path / "training")
    folder.rename(run / "model")
    assert load_config(run)["kind"] == describe(run)["kind"] == "toy" and len(load_tensors(run, "model")) == 4

def test_damaged_weights(folder):
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    for part in (whole[:-1], whole[:40], whole[:3], b"", b"<html>not found</html>", whole + b"x"):
        file.write_bytes(part)
        raises(["model.safetensors", "damaged"], load_tensors, folder, "model")
        raises(["model.safetensors", "damaged"], describe, folder)
    file.unlink()
    raises(["lacks model.safetensors", "no safetensors file"], load_tensors, folder, "model")

def test_strict(folder):
    tensors, model = load_tensors(folder, "model"), network()
    before = model[0].weight.clone()
    raises("1 missing: 0.bias", load_strict, model, {k: v for k, v in tensors.items() if k != "0.bias"}, folder)
    raises("1 foreign: 7.bias", load_strict, model, {**tensors, "7.bias": torch.zeros(1)}, folder)
    raises(["3 misshapen: 0.bias (5,) instead of (4,)", "0.weight (5, 3) instead of (4, 3)"],
           load_strict, model, network(5).state_dict(), folder)
    raises(["4 missing", "40 foreign", ", …", str(folder)], load_strict, model, {f"k{i}": torch.zeros(1) for i in range(40)}, folder)
    assert torch.equal(model[0].weight, before)  # refused weights leave the network as it was

def test_describe(folder):
    save_checkpoint(folder / "inner", {"kind": "part"}, {"w": network().state_dict()}, dtype=torch.float16)
    about = describe(folder)
    assert about["parameters"] == 2 * (4*3 + 4 + 4 + 1) and about["files"]["model"]["dtypes"] == ["F32"]
    assert about["parts"]["inner"]["kind"] == "part" and about["parts"]["inner"]["files"]["w"]["dtypes"] == ["F16"]
    assert about["bytes"] == sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    json.dumps(about)

def test_weights_folder(folder, monkeypatch):
    assert weights_folder(folder) == folder and weights_folder(str(folder)) == folder
    for name in ("nonesuch", "", folder / "card.md"): raises("no model", weights_folder, name)
    monkeypatch.chdir(folder)
    assert weights_folder(".").resolve() == folder.resolve()

CUT_SHORT = """
import resource, torch
from clipsonic.checkpoint import save_checkpoint
from clipsonic.core import ClipsonicError
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try: save_checkpoint("run", {"kind": "new"}, {"model": {"w": torch.zeros(10_000)}})
except ClipsonicError as error: print(error)
"""

def test_a_write_cut_short_leaves_the_older_one(folder):
    "The kernel refuses bytes beyond 20 000, as a full disk would."
    done = subprocess.run([sys.executable, "-c", CUT_SHORT], cwd=folder.parent, capture_output=True, text=True)
    assert "could not write" in done.stdout, done.stdout + done.stderr
    assert load_config(folder)["kind"] == "toy" and [p.name for p in folder.parent.iterdir()] == ["run"]

WRITER = """
import torch
from clipsonic.checkpoint import save_checkpoint
for n in range(10**9):
    save_checkpoint("run", {"kind": "toy", "n": n}, {"model": {"w": torch.full((1000,), n)}, "average": {"w": torch.full((1000,), n)}})
    print(n, flush=True)
"""

@pytest.mark.parametrize("after", [2, 5])
def test_killed_writer_leaves_a_whole_checkpoint(tmp_path, after):
    writer = subprocess.Popen([sys.executable, "-c", WRITER], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    for line in writer.stdout:
        if int(line) == after: break
    writer.kill()
    writer.wait()
    assert writer.returncode == -signal.SIGKILL
    run = tmp_path / "run"
    if not run.exists(): run = tmp_path / ".run.previous"  # killed between the two renames; load_config says so
    n = load_config(run)["n"]
    assert n >= after and all((load_tensors(run, name)["w"] == n).all() for name in ("model", "average"))
    save_checkpoint(tmp_path / "run", {"kind": "toy", "n": -1}, {})  # and life goes on
    assert load_config(tmp_path / "run")["n"] == -1

def test_interrupted_swap_is_named(folder):
    folder.rename(folder.with_name(".run.previous"))
    raises(["interrupted", ".run.previous"], load_config, folder)
