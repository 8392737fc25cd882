"Checkpoints that are missing, foreign, damaged, half written or from before 0.1.0, and the errors that name it."
import json
import re
import shutil
import signal
import subprocess
import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import pytest
import torch

from clipsonic.checkpoint import (RENAMED, config_digest, describe, load_config, load_network, load_strict,
                                  load_tensors, parsed, rename_settings, resolve_model, save_checkpoint, unwrapped,
                                  write_config)
from clipsonic.clap import load_clap
from clipsonic.clip import load_clip
from clipsonic.core import CheckpointError, Count, InputError, Size
from clipsonic.engine import train
from clipsonic.mel_inversion import ISTFTHead, ISTFTHeadConfig
from clipsonic.pipeline import Pipeline, pack
from clipsonic.prior import load_prior
from clipsonic.request import SamplingConfig
from clipsonic.scores import load_classifier
from clipsonic.systems import load_denoiser
from clipsonic.vocoder import Vocoder, save_vocoder
from conftest import naming
from test_engine import Pair, state
from tiny import drawn

OLDER = json.loads((Path(__file__).parent / "fixtures" / "older_configs.json").read_text(encoding="utf-8"))

def network(width=4): return torch.nn.Sequential(torch.nn.Linear(3, width), torch.nn.Linear(width, 1))

@pytest.fixture
def folder(tmp_path):
    save_checkpoint(tmp_path / "run", {"kind": "toy", "width": 4}, {"model": network().state_dict()},
                    {"card.md": "é", "raw": b"\0"})
    return tmp_path / "run"

def raises(says, f, *args, **kwargs):
    with pytest.raises(CheckpointError, match=naming(*says.split())): f(*args, **kwargs)

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
    assert loaded[0].weight.dtype == torch.float32
    assert torch.allclose(loaded[0].weight, model[0].weight.float(), atol=1e-2)

def test_config_needs_a_kind(tmp_path):
    with pytest.raises(InputError, match="kind"): save_checkpoint(tmp_path / "run", {"width": 4}, {})
    with pytest.raises(InputError, match=naming(tmp_path / "no", "folder")):
        save_checkpoint(tmp_path / "no" / "run", {"kind": "toy"}, {})
    assert not list(tmp_path.iterdir())

def test_folders_that_are_no_checkpoint(folder, tmp_path):
    raises(f"{tmp_path}/none", load_config, tmp_path / "none")
    raises(f"{folder}/card.md file", load_config, folder / "card.md")
    raises(f"{tmp_path}/empty config.json", load_config, make(tmp_path / "empty"))
    (make(tmp_path / "photos") / "dog.jpg").write_text("")
    raises(f"{tmp_path}/photos config.json dog.jpg", load_config, tmp_path / "photos")
    raises(f"{tmp_path} folders run", load_config, tmp_path)
    raises(f"{folder} toy denoiser", load_config, folder, kind="denoiser")
    for text, says in ("{", "JSON"), ("[]", "kind"), ("{}", "kind"), ('{"kind": 3}', "kind"):
        (folder / "config.json").write_text(text)
        raises(f"{folder}/config.json {says}", load_config, folder)
    (folder / "config.json").write_bytes(b"\xff\xfe\x00")
    raises(f"{folder}/config.json JSON", load_config, folder)

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
        raises(f"{file} damaged", load_tensors, folder, "model")
        raises(f"{file} damaged", describe, folder)
    file.unlink()
    raises(f"{folder} model.safetensors no safetensors file", load_tensors, folder, "model")

def test_strict(folder):
    tensors, model = load_tensors(folder, "model"), network()
    before = model[0].weight.clone()
    raises(f"{folder} 1 0.bias", load_strict, model, {k: v for k, v in tensors.items() if k != "0.bias"}, folder)
    raises(f"{folder} 1 7.bias", load_strict, model, {**tensors, "7.bias": torch.zeros(1)}, folder)
    raises("3 0.bias (5,) (4,) 0.weight (5, 3) (4, 3)", load_strict, model, network(5).state_dict(), folder)
    raises(f"{folder} 4 0.bias 40 k0 …", load_strict, model, {f"k{i}": torch.zeros(1) for i in range(40)}, folder)
    assert torch.equal(model[0].weight, before)  # refused weights leave the network as it was

def test_describe(folder):
    save_checkpoint(folder / "inner", {"kind": "part"}, {"w": network().state_dict()}, dtype=torch.float16)
    about = describe(folder)
    assert about["parameters"] == 2 * (4*3 + 4 + 4 + 1) and about["files"]["model"]["dtypes"] == ["F32"]
    assert about["parts"]["inner"]["kind"] == "part" and about["parts"]["inner"]["files"]["w"]["dtypes"] == ["F16"]
    assert about["bytes"] == sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    json.dumps(about)

def test_weights_folder(folder, monkeypatch):
    assert resolve_model(folder) == folder and resolve_model(str(folder)) == folder
    for name in ("nonesuch", "", folder / "card.md"): raises(f"model '{name}' clipsonic train", resolve_model, name)
    monkeypatch.chdir(folder)
    assert resolve_model(".").resolve() == folder.resolve()

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
    assert "File too large" in done.stdout, done.stdout + done.stderr
    assert load_config(folder)["kind"] == "toy" and [p.name for p in folder.parent.iterdir()] == ["run"]

WRITER = """
import torch
from clipsonic.checkpoint import save_checkpoint
for n in range(10**9):
    tensors = {"w": torch.full((1000,), n)}
    save_checkpoint("run", {"kind": "toy", "n": n}, {"model": tensors, "average": tensors})
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

# digests

def test_every_change_of_a_weight_is_found(folder):
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    for at in range(len(whole) - 60, len(whole)):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1:])
        raises(f"{file} SHA-256 config.json another copy", load_tensors, folder, "model")
    assert describe(folder)["files"]["model"]["agrees"] is False and describe(folder)["agrees"]
    file.write_bytes(whole)
    assert describe(folder)["files"]["model"]["agrees"] and len(load_tensors(folder, "model")) == 4

def test_files_that_take_each_other_s_place(folder):
    save_checkpoint(folder, {"kind": "toy"}, {"a": network().state_dict(), "b": network().state_dict()})
    (folder / "a.safetensors").rename(folder / "c.safetensors")
    (folder / "b.safetensors").rename(folder / "a.safetensors")
    raises(f"{folder}/a.safetensors SHA-256 config.json", load_tensors, folder, "a")
    raises(f"{folder}/c.safetensors", load_tensors, folder, "c")
    raises(f"{folder} b.safetensors a.safetensors c.safetensors", load_tensors, folder, "b")

def test_a_config_that_was_changed_by_hand(folder):
    "Another order or layout is the same config; another value is refused, until its digest is taken out."
    file = folder / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(dict(reversed(config.items()))))
    assert load_config(folder)["width"] == 4
    file.write_text(json.dumps(config | {"width": 5}))
    raises(f'{file} line "config.json" sha256', load_config, folder)
    assert describe(folder)["agrees"] is False
    del config["sha256"]["config.json"]
    file.write_text(json.dumps(config | {"width": 5}))
    assert load_config(folder)["width"] == 5 and len(load_tensors(folder, "model")) == 4
    assert describe(folder)["agrees"] is None
    for odd in (3, "x", ["a"], {"config.json": 1}):
        file.write_text(json.dumps(config | {"sha256": odd}))
        raises(f"{file} sha256 {odd!r}" if not isinstance(odd, dict) else f"{file} sha256.config.json 1", load_config,
               folder)

def older(folder):
    "As it was saved before there were digests."
    for file in folder.rglob("config.json"):
        config = json.loads(file.read_text())
        config.pop("sha256", None)
        file.write_text(json.dumps(config))
    return folder

def test_an_older_folder_is_taken_if_its_weights_are_finite(folder):
    assert load_config(older(folder)) == {"kind": "toy", "width": 4} and len(load_tensors(folder, "model")) == 4
    assert describe(folder)["agrees"] is None and describe(folder)["files"]["model"]["agrees"] is None
    save_checkpoint(folder, {"kind": "toy"}, {"model": {"w": torch.tensor([1.0, float("nan")])}})
    raises(f"{folder}/model.safetensors finite w", load_tensors, older(folder), "model")

def test_a_digest_is_of_what_is_saved():
    digest = config_digest({"a": 1, "b": (1, 2)})
    assert digest == config_digest({"b": [1, 2], "a": 1, "sha256": {"x": "y"}}) != config_digest({"a": 2, "b": [1, 2]})

def test_shipped_weights_are_as_they_were_saved():
    def agree(about): return about["agrees"] and all(f["agrees"] for f in about["files"].values())
    for name in ("pocket", "pocket-clap", "pocket-listener", "pocket-bigvgan"):
        about = describe(resolve_model(name))
        assert agree(about) and all(map(agree, about["parts"].values())), name

# settings that had another name

BEFORE = {"model_channels": "channels", "channel_mult": "mult", "num_res_blocks": "blocks", "num_heads": "heads",
          "attention_resolutions": "attention", "patch_size": "patch", "norm_num_groups": "groups"}

def as_before(folder):
    "A denoiser as a version before 0.1.0 saved it: with the names of then, under its digests."
    config = json.loads((folder / "config.json").read_text())
    config["unet"] = {BEFORE.get(key, key): value for key, value in config["unet"].items()}
    write_config(folder, config)
    return folder

def assert_same(a, b):
    a, b = a.state_dict(), b.state_dict()
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)

def test_a_denoiser_with_older_names_is_read(runs, tmp_path):
    today = runs / "denoiser" / "model"
    before = as_before(shutil.copytree(today, tmp_path / "denoiser"))
    assert "mult" in json.loads((before / "config.json").read_text())["unet"]
    says = r"denoiser has names from before 0.1.0 \(unet.channels, unet.mult.*model_channels, unet.channel_mult"
    with pytest.warns(UserWarning, match=says):
        old = load_denoiser(before, "cpu")
    new = load_denoiser(today, "cpu")
    assert old.unet.config == new.unet.config
    assert_same(old.unet, new.unet)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_denoiser(before, "cpu")  # once is enough
    about = describe(before)
    assert about["agrees"] and about["config"]["unet"] == load_config(today)["unet"]

def test_packing_keeps_todays_names(runs, tmp_path):
    before = as_before(shutil.copytree(runs / "denoiser" / "model", tmp_path / "denoiser"))
    with pytest.warns(UserWarning, match="names from before"):
        model = pack(runs / "clip", before, runs / "vocoder", tmp_path / "model")
    assert load_config(model / "denoiser", "denoiser")["unet"] == load_config(runs / "denoiser")["unet"]
    assert not BEFORE.keys() - json.loads((model / "denoiser" / "config.json").read_text())["unet"].keys()
    assert describe(model)["parts"]["denoiser"]["agrees"]

def test_older_names_excuse_nothing_else(runs, tmp_path):
    before = as_before(shutil.copytree(runs / "denoiser" / "model", tmp_path / "denoiser"))
    file = before / "config.json"
    saved = file.read_text()
    file.write_text(saved.replace('"channels": 16', '"channels": 32'))
    raises("damaged, or was changed", load_denoiser, before)
    config = json.loads(saved)
    config["unet"]["model_channels"] = 16  # and "channels" is there
    write_config(before, config)
    raises("unet has the unknown ['channels']", load_denoiser, before)
    config["unet"] = 3
    write_config(before, config)
    raises("unet is 3: expected an object", load_denoiser, before)

RETRAINED = {"pocket/clip": "pocket/clip", "pocket/denoiser": "pocket/denoiser-teacher",
             "pocket/prior-pd": "pocket/prior-pd", "pocket/prior-sd": "pocket/prior-sd"}  # today's other values

@pytest.mark.parametrize("name", OLDER)
def test_shipped_configs_from_before_have_todays_names(name):
    "The fixture holds what the shipped configs said before 0.1.0, where it was something else (long lists: the first)."
    today = load_config(resolve_model("pocket").parent / RETRAINED.get(name, name))
    config = json.loads(json.dumps(OLDER[name]))
    assert rename_settings(config)
    for key, value in config.items():
        if name in RETRAINED and isinstance(value, dict): assert value.keys() <= today[key].keys(), key
        elif name in RETRAINED: assert type(value) is type(today[key]), key
        elif key == "known_sounds": assert value == today[key][:len(value)]
        elif key == "known_words": assert value == {sound: today[key][sound] for sound in value}
        else: assert value == today[key], key
    assert config.keys() <= today.keys() and rename_settings(config) == {}

def before(config):
    "A config with the names and values of before 0.1.0."
    config = json.loads(json.dumps(config))
    for older, entry in RENAMED[config["kind"]].items():
        now, values = (entry, {}) if isinstance(entry, str) else entry
        *above, key = now.split(".")
        section = config
        for name in above: section = section.get(name) or {}
        if key not in section: continue
        value = section.pop(key)
        put(config, older, {new: old for old, new in values.items()}.get(value, value) if values else value)
    return config

def older_copy(folder, copy):
    "A copy of a checkpoint as a version before 0.1.0 saved it, under its digests."
    shutil.copytree(folder, copy)
    for file in copy.rglob("config.json"):
        write_config(file.parent, before(json.loads(file.read_text(encoding="utf-8"))))
    return copy

LOADED = {  # kind → folder of today, function that loads it, its network
    "clip": ("pocket/clip", load_clip, lambda loaded: loaded.model),
    "clap": ("pocket-clap", load_clap, lambda loaded: loaded.model),
    "classifier": ("pocket-listener", load_classifier, lambda loaded: loaded),
    "prior": ("pocket/prior-pd", load_prior, lambda loaded: loaded.network),
    "vocoder": ("pocket-bigvgan", Vocoder.load, lambda loaded: loaded.network),
    "mel-inversion": ("pocket/vocoder", Vocoder.load, lambda loaded: loaded.network),
    "denoiser": ("pocket/denoiser", load_denoiser, lambda loaded: loaded.unet)}

@pytest.mark.parametrize("kind", LOADED)
def test_a_checkpoint_from_before_is_loaded(kind, tmp_path):
    name, load, network = LOADED[kind]
    today = resolve_model("pocket").parent / name
    old = older_copy(today, tmp_path / "old")
    assert load_config(today, kind) and json.loads((old / "config.json").read_text()) != load_config(today, kind)
    with pytest.warns(UserWarning, match="names from before 0.1.0"): loaded = load(old, device="cpu")
    assert_same(network(loaded), network(load(today, device="cpu")))

def test_an_istft_head_from_before_is_loaded(tmp_path):
    head = drawn(ISTFTHead(ISTFTHeadConfig()), 5)
    save_vocoder(tmp_path / "head", head, about={"losses": {"discriminators": None, "lambda_mel": 45.0}})
    old = older_copy(tmp_path / "head", tmp_path / "old")
    config = json.loads((old / "config.json").read_text())
    assert config["losses"] == {"critics": None, "mel": 45.0} and "low" in config["model"]["inversion"]["mel"]
    with pytest.warns(UserWarning, match="model.inversion.mel.low.*losses.critics"): loaded = Vocoder.load(old, "cpu")
    assert_same(loaded.network, head)

def test_a_pipeline_from_before_is_loaded(runs, tmp_path):
    old = older_copy(runs / "model", tmp_path / "old")
    assert "knows" in json.loads((old / "config.json").read_text())
    with pytest.warns(UserWarning, match="knows.*known_sounds") as caught: pipeline = Pipeline.load(old, "cpu")
    one, = caught  # for the model and all its parts
    assert re.search(naming(old, "clipsonic pack"), str(one.message))
    today = Pipeline.load(runs / "model", "cpu")
    assert pipeline.config["known_sounds"] == today.config["known_sounds"]
    assert pipeline.denoiser.sampling == today.denoiser.sampling
    assert_same(pipeline.denoiser.unet, today.denoiser.unet)

def test_the_remedy_for_an_older_model_works(runs, tmp_path):
    old = older_copy(runs / "model", tmp_path / "old")
    with pytest.warns(UserWarning, match="old has names from before 0.1.0") as caught:
        model = pack(old / "clip", old / "denoiser", old / "vocoder", tmp_path / "new")
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipeline = Pipeline.load(model, "cpu")
    assert pipeline.denoiser.sampling == SamplingConfig(steps=3, sampler="ddim")

def test_a_denoiser_whose_sampling_has_no_section_of_its_own_is_read(tmp_path):
    "As 0.1.0's first checkpoints: steps, sampler and guidance_interval beside the other settings."
    today = resolve_model("pocket") / "denoiser-teacher"
    old = older_copy(today, tmp_path / "old")
    config = json.loads((old / "config.json").read_text())
    assert config["sampling"] == {} and (config["steps"], config["sampler"]) == (11, "dpm++2m")
    del config["sampling"]
    write_config(old, config)
    with pytest.warns(UserWarning, match="steps.*sampling.steps"): loaded = load_denoiser(old, "cpu")
    assert loaded.sampling == load_denoiser(today, "cpu").sampling == SamplingConfig(
        steps=11, sampler="dpm++2m", guidance_interval=(100, 970))

def test_a_run_from_before_goes_on(tmp_path):
    train(Pair(), tmp_path / "whole", progress=False, cpu=True)
    train(Pair(), tmp_path / "run", steps=6, progress=False, cpu=True)
    for part in "model", "training":
        config = json.loads((tmp_path / "run" / part / "config.json").read_text())
        if part == "training": config["next"] = config.pop("global_step")
        write_config(tmp_path / "run" / part, config)
    with pytest.warns(UserWarning, match="next.*global_step"):
        train(Pair(), tmp_path / "run", resume=True, progress=False, cpu=True)
    whole, parts = state(tmp_path / "whole"), state(tmp_path / "run")
    assert whole.keys() == parts.keys() and all(torch.equal(whole[key], parts[key]) for key in whole)

def test_names_and_values_of_any_kind_are_renamed(monkeypatch):
    monkeypatch.setitem(RENAMED, "toy", {
        "guidance": "guidance_scale", "how.prediction": ("how.prediction_type", {"velocity": "v_prediction"}),
        "steps": "sampling.steps", "way": ("way", {"left": "west"}), "part.a.b": "part.a.c"})
    config = {"kind": "toy", "guidance": 2.0, "how": {"prediction": "velocity"}, "steps": 3, "way": "left",
              "part": {"a": {"b": [1]}}}
    new = {"kind": "toy", "guidance_scale": 2.0, "how": {"prediction_type": "v_prediction"}, "sampling": {"steps": 3},
           "way": "west", "part": {"a": {"c": [1]}}}
    run = {"kind": "training", "config": json.loads(json.dumps(config))}
    assert rename_settings(config) == {"guidance": "guidance_scale", "how.prediction": "how.prediction_type",
                                       "steps": "sampling.steps", "way": "way", "part.a.b": "part.a.c"}
    assert config == new and rename_settings(config) == {}
    assert list(rename_settings(run))[0] == "config.guidance" and run["config"] == new
    for same in ({"kind": "other", "guidance": 2.0}, {"kind": "toy", "how": 3, "part": {"a": None}},
                 {"kind": "toy", "steps": 3, "sampling": 4}, {"kind": "toy", "guidance": 1, "guidance_scale": 2},
                 {"kind": "toy", "way": "right"}):
        assert rename_settings(again := json.loads(json.dumps(same))) == {} and again == same

def test_no_setting_of_today_is_an_older_name():
    for names in RENAMED.values():
        today = [entry if isinstance(entry, str) else entry[0] for entry in names.values()]
        assert len(set(today)) == len(today)
        assert not {before for before, now in zip(names, today) if before != now} & set(today)

# what a config says

@dataclass
class Part:
    size: Size
    rate: float = 1.0

@dataclass
class Whole:
    count: Count = 2
    parts: tuple[Part, ...] = ()
    pair: tuple[int, int] = (0, 0)
    name: str | None = None
    way: Literal["up", "down"] = "up"
    on: bool = True
    share: Annotated[float, 0, 1] = 0.5
    words: dict[str, list[str]] = field(default_factory=dict)

def test_a_config_becomes_what_it_is_annotated_as():
    given = {"count": 3, "parts": [{"size": 1}, {"size": 2, "rate": 4}], "pair": [5, -6], "way": "down", "share": 1,
             "words": {"a": ["b"]}}
    assert parsed(Whole, given, "model") == Whole(3, (Part(1), Part(2, 4)), (5, -6), None, "down", True, 1,
                                                  {"a": ["b"]})

REFUSED = [
    ("count", "3"), ("count", 3.0), ("count", True), ("count", None), ("count", 0), ("count", -1), ("count", 10**9),
    ("count", 10**40), ("count", [3]), ("pair", [1]), ("pair", [1, 2, 3]), ("pair", 7), ("pair", "12"),
    ("pair", [1, 2**60]), ("parts", {}), ("parts", [{}]), ("parts", [{"size": 1, "zzz": 2}]),
    ("parts", [{"size": 0}]), ("parts", [7]), ("parts", [{"size": 1, "rate": "fast"}]),
    ("parts", [{"size": 1, "rate": float("nan")}]), ("parts", [{"size": 1, "rate": True}]), ("name", 7),
    ("name", []), ("way", "left"), ("way", None), ("way", ["up"]), ("on", 1), ("on", "true"), ("share", 1.01),
    ("share", float("inf")), ("share", False), ("words", []), ("words", {"a": "b"}), ("words", {"a": [1]}),
    ("zzz", 1)]

@pytest.mark.parametrize("key, value", REFUSED, ids=str)
def test_what_a_config_says_is_checked(key, value):
    with pytest.raises(ValueError, match=f"^model.*{key}"): parsed(Whole, {key: value}, "model")

def test_a_network_larger_than_its_weights_is_not_built():
    def deep(): return torch.nn.Sequential(*[torch.nn.Linear(1000, 1000) for _ in range(10**6)])
    raises("run config larger weights", load_network, deep, network().state_dict(), "run")
    raises("run config embed_dim num_heads", load_network, lambda: torch.nn.MultiheadAttention(4, 3),
           network().state_dict(), "run")
    whole = {k: v.int() if k[0] == "0" else v for k, v in network().state_dict().items()}
    raises("run 2 0.bias torch.int32 torch.float32", load_network, network, whole, "run")

def put(config, path, value):
    *above, last = path.split(".")
    for key in above: config = config[key]
    config[last] = value

DAMAGE = [
    ("denoiser", "unet.model_channels", "16"), ("denoiser", "unet.model_channels", 4096),
    ("denoiser", "unet.channel_mult", [1, 0]),
    ("denoiser", "unet.attention_resolutions", None), ("denoiser", "mel.hop_length", 0),
    ("denoiser", "mel.log_min", [0]),
    ("denoiser", "mel", 3), ("denoiser", "diffusion.timesteps", 10**9), ("denoiser", "diffusion.schedule", "linear"),
    ("denoiser", "diffusion.prediction_type", 1), ("denoiser", "clip", "tiny"), ("denoiser", "frames", 10**6),
    ("denoiser", "sampling", None), ("denoiser", "sampling", 3), ("denoiser", "sampling.steps", 0),
    ("denoiser", "sampling.steps", None), ("denoiser", "sampling.sampler", "none"),
    ("denoiser", "sampling.guidance_interval", [900, 100]), ("denoiser", "sampling.guidance_interval", [0]),
    ("denoiser", "sampling.guidance_scale", 3.0), ("denoiser", "sampling.cfg", 3.0),
    ("clip", "model.text_heads", 3), ("clip", "model.std", [0, 1, 1]),
    ("clip", "model.mean", [0, 0]), ("clip", "model.image_size", None),
    ("clip", "model.vision", "hf-hub:somebody/model"), ("clip", "model.text_layers", 900),
    ("clip", "vocabulary", [3, 2, 1]), ("clip", "vocabulary", [10**9]), ("clip", "vocabulary", None),
    ("vocoder", "model.depth", 1.5), ("vocoder", "model.kernel", 4), ("vocoder", "model.width", 65536),
    ("vocoder", "model.mel.n_fft", float("nan")), ("vocoder", "model", []), ("", "known_sounds", [7]),
    ("", "known_threshold", "high"), ("", "template", False)]

@pytest.mark.parametrize("part, path, value", DAMAGE, ids=str)
def test_a_damaged_config_is_named(runs, tmp_path, part, path, value):
    "Without digests, as in an older folder: types and bounds alone."
    model = older(shutil.copytree(runs / "model", tmp_path / "model"))
    config = json.loads((model / part / "config.json").read_text())
    put(config, path, value)
    (model / part / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=naming(model / part, "config", "another copy")):
        Pipeline.load(model, "cpu")

def test_other_loaders_name_a_damaged_config(runs, tmp_path):
    for load, source, path, value in ((load_clap, resolve_model("pocket-clap"), "model.audio_width", 0),
                                      (load_classifier, resolve_model("pocket-listener"), "model.classes", [1, 2]),
                                      (load_denoiser, runs / "denoiser" / "model", "unet.num_heads", -1)):
        folder = shutil.copytree(source, tmp_path / load.__name__)
        config = load_config(folder)
        put(config, path, value)
        write_config(folder, config)
        raises(f"{folder} config.json {path} another copy", load, folder)

# what others have saved

STATE = {"conv.weight": torch.ones(2), "conv.bias": torch.zeros(1), "out.bias": torch.zeros(1)}
def under(prefix, state=STATE): return {prefix + k: v for k, v in state.items()}
OTHER = {k: v + 7 for k, v in STATE.items()}
WRAPPED = [
    STATE, {"state_dict": STATE},
    {"model": STATE, "epoch": 3, "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}}},
    {"generator": under("module.")}, under("net."), under("_orig_mod."), under("module._orig_mod."),
    {"state_dict": under("model.generator.") | under("model.discriminator.", {"out.bias": torch.ones(1)})},
    {"model": OTHER, "ema_model": STATE},
    {"ema": under("ema_model.") | under("online_model.", OTHER) | {"step": torch.tensor(3)}},
    {"conv._orig_mod.weight": STATE["conv.weight"], "conv._orig_mod.bias": STATE["conv.bias"],
     "out.bias": STATE["out.bias"]}]

@pytest.mark.parametrize("saved", WRAPPED, ids=lambda saved: ", ".join(map(str, saved)))
def test_wrappers_of_trainers_are_taken_off(saved):
    found = unwrapped(saved, ["conv.bias", "out.bias"], "their.pt", "generator")
    assert found.keys() == STATE.keys() and all(torch.equal(found[k], STATE[k]) for k in STATE)

def test_what_holds_no_network_is_named():
    for saved in ({}, [1], None, torch.zeros(1), {"state_dict": {}}, {"conv.bias": 3},
                  {"optimizer": {"out": torch.zeros(1)}}):
        raises("their.pt generator tensors", unwrapped, saved, ["conv.bias", "out.bias"], "their.pt", "generator")
    round_ = {"out.bias": torch.zeros(1)}
    round_["model"] = round_  # a dictionary may hold itself
    raises("their.pt toy tensors", unwrapped, round_, ["conv.bias"], "their.pt", "toy")

def test_interrupted_swap_is_named(folder):
    folder.rename(folder.with_name(".run.previous"))
    raises(f"{folder} rename {folder.parent}/.run.previous", load_config, folder)
