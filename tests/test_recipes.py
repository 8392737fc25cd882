"""The presets: their sizes, their refusals, and a real optimisation step of each."""
import copy
import csv
import dataclasses
import io
import tarfile

import pytest
import timm
import torch
from PIL import Image

from clipsonic.checkpoint import load_config, load_tensors
from clipsonic.clap import ClapConfig, load_clap
from clipsonic.clip import load_clip
from clipsonic.core import CheckpointError, InputError
from clipsonic.engine import Trainer, train
from clipsonic.gan_vocoder import Generator, GeneratorConfig
from clipsonic.mel import MelConfig
from clipsonic.mel_inversion import ISTFTHeadConfig, MelInversionConfig
from clipsonic.recipes import (DENOISERS, PRESETS, VOCODERS, DenoiserRecipe, LockedClipRecipe, PocketClapRecipe,
                               VocoderRecipe, recipe)
from clipsonic.shards import all_clips, synthetic_shards
from clipsonic.unet import UNet
from clipsonic.vocoder import Vocoder
from conftest import naming

@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    "Folders of synthetic shards by width of the embedding."
    made = {}
    def get(dim):
        if dim not in made:
            made[dim] = tmp_path_factory.mktemp(f"shards{dim}")
            synthetic_shards(made[dim], clips=8, dim=dim, seconds=6.0)
        return made[dim]
    return get

@pytest.mark.parametrize("preset", ["music", "vggsound"])
def test_the_paper_s_size(preset):
    config, training = DENOISERS[preset]
    with torch.device("meta"): unet = UNet(config.unet)
    condition = sum(p.numel() for p in unet.project.parameters()) + unet.null.numel()
    assert round((sum(p.numel() for p in unet.parameters()) - condition) / 1e6, 1) == 121.1
    assert (training.lr, training.batch_size, training.ema_decay) == (1e-4, 32, 0.9999)
    assert (config.condition_dropout, config.timesteps, config.seconds) == (0.1, 4000, 2.048)

@pytest.mark.parametrize("preset", ["clipsynth-music", "clipsynth-vggsound"])
def test_clipsynth_s_geometry(preset):
    config, _ = DENOISERS[preset]
    assert config.unet.conditioning == "concat" and config.mel.hop_length == 1024
    assert config.seconds == 4.096
    assert config.template == ("a photo of playing {}" if preset == "clipsynth-music" else "a photo of {}")

@pytest.mark.slow
@pytest.mark.parametrize("preset", ["music", "vggsound", "clipsynth-music", "clipsynth-vggsound"])
def test_a_real_step_at_full_size(preset, shards, tmp_path):
    config, training = DENOISERS[preset]
    training = dataclasses.replace(training, batch_size=1, mixed_precision="no")
    full = DenoiserRecipe(shards(768), preset, config, training)
    engine = Trainer(full, tmp_path / "run", cpu=True)
    before = [p.detach().clone() for p in engine.unwrapped["model"].parameters()]
    metrics = engine.step(next(full.batches(0, 0, 1)))
    assert 0.5 < metrics["mse"] < 2, "a new network predicts nothing, and the noise has variance 1"
    assert metrics["skipped"] == 0
    assert any(not torch.equal(a, b) for a, b in zip(before, engine.unwrapped["model"].parameters()))

def tiny_denoiser(shards, **training):
    "The pocket's denoiser, smaller."
    config, pocket_training = DENOISERS["pocket"]
    unet = dataclasses.replace(config.unet, model_channels=16, channel_mult=(1, 2), attention_resolutions=(),
                               condition_dim=32, norm_num_groups=16)
    return DenoiserRecipe(shards(32), "pocket", dataclasses.replace(config, unet=unet),
                          dataclasses.replace(pocket_training, **training))

@pytest.mark.long
def test_the_pocket_denoiser_learns_what_its_condition_says(shards, tmp_path):
    tiny = tiny_denoiser(shards, batch_size=8, mixed_precision="no", lr=3e-3, warmup_steps=5, lr_schedule="constant")
    engine = Trainer(tiny, tmp_path / "run", steps=60, cpu=True)
    stream = engine.recipe.batches(0, 0, 1)
    losses = [engine.step(next(stream))["mse"] for _ in range(60)]
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])

def test_the_denoiser_reads_no_label(shards):
    assert "label" not in next(tiny_denoiser(shards).batches(0, 0, 1))

def test_refusals(shards, tmp_path):
    with pytest.raises(InputError, match=naming("preset 'pokcet'", "pocket-clip")): recipe("pokcet", shards(32))
    with pytest.raises(InputError, match=naming(shards(32), "32-wide", "vggsound", "768-wide", "--clip ViT-L-14")):
        recipe("vggsound", shards(32))
    with pytest.raises(InputError, match=naming(tmp_path, "imagetext-0*.tar")): recipe("pocket-clip", tmp_path)
    for preset in ("pocket-classifier", "pocket-clap"):
        with pytest.raises(InputError, match=naming(shards(32), 8, "label")): recipe(preset, shards(32))
    with pytest.raises(InputError, match=naming(tmp_path, "shards.json", "clipsonic prepare")):
        recipe("pocket", tmp_path)
    assert set(DENOISERS) < set(PRESETS)

# the pocket CLIP

@pytest.fixture
def pairs(tmp_path):
    "Image-text pairs of two colors: red dogs and blue flutes."
    for name, count in ("imagetext-000", 24), ("imagetext-test", 8):
        with tarfile.open(tmp_path / f"{name}.tar", "w") as tar:
            for i in range(count):
                noun, color = [("dog", "red"), ("flute", "blue")][i % 2]
                jpg = io.BytesIO()
                Image.new("RGB", (64, 64), color).save(jpg, "JPEG")
                for ending, content in ("jpg", jpg.getvalue()), ("txt", noun.encode()), ("json", b"{}"):
                    info = tarfile.TarInfo(f"{i:04d}.{ending}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    return tmp_path

def locked_clip(pairs, **training):
    "The pocket's CLIP, smaller."
    config = dataclasses.replace(PRESETS["pocket-clip"][1], vision="test_resnet", image_size=64, embed_dim=16,
                                 text_width=32, text_heads=2, text_layers=1)
    training = dataclasses.replace(PRESETS["pocket-clip"][2], batch_size=8, warmup_steps=5, save_every=20,
                                   lr_schedule="constant", **training)
    return LockedClipRecipe(pairs, "pocket-clip", config, training)

def imagenet_file(path):
    "Weights as the published file has them: in timm's order, under other names, with a classifier at the end."
    trunk = timm.create_model("test_resnet").state_dict().values()
    torch.save({f"_layer.{i}": value for i, value in enumerate(trunk)}, path)
    return path

def test_a_clip_on_a_frozen_tower_learns_and_resumes_to_the_bit(pairs):
    file, straight, halves = imagenet_file(pairs / "imagenet.pth"), pairs / "straight", pairs / "halves"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert train(locked_clip(pairs), straight, 40, cpu=True, init_from=file)["top1"] == 1
        torch.manual_seed(0)
        train(locked_clip(pairs), halves, 20, cpu=True, init_from=file)
    train(locked_clip(pairs), halves, 40, cpu=True, resume=True)   # it takes the tower from the run
    tensors = [load_tensors(run, "model") for run in (straight, halves)]
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])
    kept = [name for name in tensors[0] if name.startswith("visual.trunk.")]
    wanted = timm.create_model("test_resnet", num_classes=0).state_dict()
    assert len(kept) == len(wanted)
    for (name, _), value in zip(wanted.items(), torch.load(file).values()):
        assert torch.equal(tensors[0][f"visual.trunk.{name}"], value)
    clip = load_clip(straight, device="cpu")
    image = clip.encode_image([Image.new("RGB", (90, 64), color) for color in ("red", "blue")])
    assert (image @ clip.encode_text(["a photo of a dog", "a flute"]).T).argmax(1).tolist() == [0, 1]

def test_what_a_frozen_tower_cannot_begin_with(pairs):
    with pytest.raises(InputError, match=naming("--preset pocket-clip", "--init-from", "efficientnet-lite0")):
        train(locked_clip(pairs), pairs / "run", 1, cpu=True)
    with pytest.raises(InputError, match="no such file"): locked_clip(pairs).init_from(pairs / "absent.pth")
    torch.save({"conv": torch.zeros(3)}, pairs / "other.pth")
    with pytest.raises(CheckpointError, match="other.pth"): locked_clip(pairs).init_from(pairs / "other.pth")
    torch.save([1, 2], pairs / "list.pth")
    with pytest.raises(CheckpointError, match=naming("list.pth", "test_resnet")):
        locked_clip(pairs).init_from(pairs / "list.pth")

@pytest.mark.long
def test_the_pocket_clap_learns_which_words_go_with_which_tone(tmp_path):
    synthetic_shards(tmp_path / "shards", clips=32, dim=8, seconds=4.0, labels=True)
    config = ClapConfig(embed_dim=16, audio_width=16, text_width=32, text_heads=2, text_layers=1)
    training = dataclasses.replace(PRESETS["pocket-clap"][2], batch_size=16, mixed_precision="no", warmup_steps=5,
                                   save_every=120, ema_decay=0.9)
    small = PocketClapRecipe(tmp_path / "shards", "pocket-clap", config, training, valid=tmp_path / "shards")
    assert train(small, tmp_path / "run", 120, cpu=True)["zero_shot"] > 0.6   # of eight tones; twenty seeds: 0.75 to 1
    about = load_config(tmp_path / "run")
    assert about["kind"] == "clap" and about["reads_labels"]
    clap = load_clap(tmp_path / "run", device="cpu")
    clips = list(all_clips(tmp_path / "shards", labels=True))
    sounds = torch.cat([clap.encode_audio(c["waveform"][None], 16000) for c in clips])
    labels = sorted({c["label"] for c in clips})
    best = (sounds @ clap.encode_text([f"the sound of {label}" for label in labels]).T).argmax(1)
    assert sum(labels[i] == c["label"] for i, c in zip(best, clips)) / len(clips) > 0.6

# vocoders

@pytest.mark.parametrize("preset, millions, hop", [("bigvgan-base", 13.9, 512), ("bigvgan", 121.5, 512),
                                                   ("hifigan", 13.9, 512), ("clipsynth-hifigan", 13.9, 1024),
                                                   ("pocket-bigvgan", 0.9, 512)])
def test_the_vocoders_sizes(preset, millions, hop):
    config, _ = VOCODERS[preset]
    with torch.device("meta"): network = Generator(config.network)
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 1) == millions
    assert config.network.mel.hop_length == hop
    assert (config.lambda_features, config.lambda_mel) == (2, 45)

@pytest.mark.slow
@pytest.mark.parametrize("preset", ["bigvgan-base", "bigvgan", "hifigan", "clipsynth-hifigan"])
def test_a_real_vocoder_step_at_full_size(preset, shards, tmp_path):
    config, training = VOCODERS[preset]
    engine = Trainer(VocoderRecipe(shards(8), preset, config, dataclasses.replace(training, batch_size=1,
        mixed_precision="no")), tmp_path / "run", cpu=True)
    before = {name: next(network.parameters()).detach().clone() for name, network in engine.unwrapped.items()}
    metrics = engine.step(next(engine.recipe.batches(0, 0, 1)))
    assert metrics["skipped"] == 0 and metrics["mel"] > 0 and metrics["features"] > 0
    assert all(not torch.equal(before[name], next(network.parameters())) for name, network in engine.unwrapped.items())

TINY = {"inversion": (dict(network=MelInversionConfig(width=16, depth=1), discriminators={"mrd": 0.125}, segment=16384,
                           lambda_magnitude=20.0, lambda_mel=0.0, discriminator_batch=2, augment=True)),
        "head": (dict(network=ISTFTHeadConfig(MelInversionConfig(width=16, depth=1), depth=1),
                      discriminators={"mpd": 1 / 32, "mrd": 1 / 8}, segment=16384, lambda_stft=1.0)),
        "bigvgan": (dict(network=GeneratorConfig(channels=16), discriminators={"mpd": 1 / 32, "mrd": 1 / 8},
                         augment=True)),
        "hifigan": (dict(network=GeneratorConfig(channels=16, activation="leaky_relu"),
                         discriminators={"mpd": 1 / 32, "msd": 1 / 8}, lambda_stft=1.0))}

def tiny_vocoder(shards, kind, save_every=3, **more):
    config, training = VOCODERS["pocket-bigvgan"]
    with torch.random.fork_rng():
        torch.manual_seed(0)   # two of a kind begin alike
        config = dataclasses.replace(config, **{"discriminator_start": 2, "lambda_stft": 0.0, **TINY[kind], **more})
        training = dataclasses.replace(training, batch_size=4, mixed_precision="no", ema_decay=0.5, log_every=3,
                                       save_every=save_every)
        return VocoderRecipe(shards(8), kind, config, training, valid=shards(8))

@pytest.mark.long
@pytest.mark.parametrize("kind", TINY)
def test_a_vocoder_resumes_to_the_bit(shards, tmp_path, kind):
    "Both nets and both optimisers, across the step at which the discriminators join; and what comes out is a vocoder."
    from clipsonic.checkpoint import load_tensors
    from clipsonic.engine import train
    train(tiny_vocoder(shards, kind), tmp_path / "whole", steps=4, progress=False, cpu=True)
    train(tiny_vocoder(shards, kind), tmp_path / "parts", steps=3, progress=False, cpu=True)
    metrics = train(tiny_vocoder(shards, kind), tmp_path / "parts", steps=4, resume=True, progress=False, cpu=True)
    whole, parts = (load_tensors(tmp_path / name / "training", "state") for name in ("whole", "parts"))
    assert whole.keys() == parts.keys() and all(torch.equal(whole[k], parts[k]) for k in whole)
    assert any(k.startswith("optimizer/discriminator") for k in whole)
    assert any(k.startswith("optimizer/generator") for k in whole)
    assert {"mel", "stft"} <= metrics.keys()
    assert (tmp_path / "whole" / "samples" / "0000004" / "spectrograms.png").exists()
    assert (tmp_path / "whole" / "samples" / "0000004" / "0.wav").exists()
    saved = {"inversion": "mel-inversion", "head": "istft-head"}.get(kind, "vocoder")
    saved = load_tensors(tmp_path / "whole" / "model", saved)
    assert not any("parametrizations" in k or "discriminator" in k for k in saved)
    assert Vocoder.load(tmp_path / "whole", "cpu")(torch.full((1, 1, 64, 8), -6.0)).shape == (1, 1, 4096)

def test_discriminators_and_generator_are_both_trained(shards, tmp_path):
    engine = Trainer(tiny_vocoder(shards, "bigvgan", discriminator_start=0), tmp_path / "run", cpu=True)
    before = {name: copy.deepcopy(network) for name, network in engine.unwrapped.items()}
    metrics = engine.step(next(engine.recipe.batches(0, 0, 1)))
    assert {"discriminator/loss", "generator/loss", "adversarial", "features", "mel"} <= metrics.keys()
    for name, network in engine.unwrapped.items():
        assert any(not torch.equal(a, b) for a, b in zip(before[name].parameters(), network.parameters())), name
        assert all(p.requires_grad for p in network.parameters())

@pytest.mark.long
def test_a_vocoder_learns_its_tones(shards, tmp_path):
    "Without discriminators the mel distance falls quickly; a run from a checkpoint starts where that one was."
    from clipsonic.engine import train
    def mel(path):
        with path.open(newline="") as file: return float(list(csv.DictReader(file))[-1]["valid/mel"])
    make = lambda **more: tiny_vocoder(shards, "hifigan", discriminators={}, discriminator_start=0, **more)
    train(make(), tmp_path / "first", steps=3, progress=False, cpu=True)
    first = mel(tmp_path / "first" / "log.csv")
    train(make(save_every=30), tmp_path / "more", steps=30, progress=False, cpu=True)
    assert mel(tmp_path / "more" / "log.csv") < 0.9 * first
    train(make(), tmp_path / "again", steps=3, init_from=tmp_path / "more", progress=False, cpu=True)
    assert mel(tmp_path / "again" / "log.csv") < 0.9 * first

def test_a_head_starts_from_learned_magnitudes(shards, tmp_path):
    from clipsonic.engine import train
    inversion = tiny_vocoder(shards, "inversion", discriminators={})
    train(inversion, tmp_path / "inversion", steps=2, progress=False, cpu=True)
    learned = Vocoder.load(tmp_path / "inversion", "cpu").network.state_dict()
    head = tiny_vocoder(shards, "head")
    head.init_from(tmp_path / "inversion")
    assert all(torch.equal(v, learned[k]) for k, v in head.networks["vocoder"].inversion.state_dict().items())
    narrow = MelInversionConfig(mel=MelConfig(f_max=7000.0), width=16, depth=1)
    other = dataclasses.replace(TINY["head"]["network"], inversion=narrow)
    with pytest.raises(InputError, match=naming("f_max", 7000.0)):
        tiny_vocoder(shards, "head", network=other).init_from(tmp_path / "inversion")
    wide = dataclasses.replace(TINY["head"]["network"], inversion=MelInversionConfig(width=32, depth=1))
    with pytest.raises(CheckpointError, match=naming(tmp_path / "inversion", "(16,)", "(32,)")):
        tiny_vocoder(shards, "head", network=wide).init_from(tmp_path / "inversion")

@pytest.mark.long
def test_what_a_vocoder_cannot_be_trained_on(shards, tmp_path):
    from clipsonic.engine import train
    with pytest.raises(InputError, match=naming("segment=1000", 512)): tiny_vocoder(shards, "bigvgan", segment=1000)
    mel = dataclasses.replace(TINY["bigvgan"]["network"].mel, sample_rate=22050)
    wrong = dataclasses.replace(TINY["bigvgan"]["network"], mel=mel)
    with pytest.raises(InputError, match=naming(16000, 22050)): tiny_vocoder(shards, "bigvgan", network=wrong)
    go = lambda recipe, name, **more: train(recipe, tmp_path / name, progress=False, cpu=True, **more)
    go(tiny_vocoder(shards, "bigvgan"), "run", steps=1)
    with pytest.raises(CheckpointError, match="holds a vocoder, not a mel-inversion"):
        go(tiny_vocoder(shards, "inversion"), "other", init_from=tmp_path / "run")
    other = dataclasses.replace(TINY["bigvgan"]["network"], resblock_kernels=(3,), resblock_dilations=((1, 3, 5),))
    with pytest.raises(CheckpointError, match="model.resblock_kernels"):
        go(tiny_vocoder(shards, "bigvgan", network=other), "other", init_from=tmp_path / "run")
    with pytest.raises(CheckpointError, match="losses"):
        go(tiny_vocoder(shards, "bigvgan", lambda_mel=1.0), "run", resume=True)
    with pytest.raises(InputError, match=naming("init_from", tmp_path / "run")):
        go(tiny_vocoder(shards, "bigvgan"), "run", init_from=tmp_path / "run", resume=True)
