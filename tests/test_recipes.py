"""The presets: their sizes, their refusals, and a real optimisation step of each."""
import dataclasses

import pytest
import torch

from clipsonic.core import InputError
from clipsonic.engine import Engine
from clipsonic.recipes import DENOISERS, Denoiser, PRESETS, pocket, recipe
from clipsonic.shards import made_up_shards
from clipsonic.unet import UNet

@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    "Folders of made-up shards by width of the embedding."
    made = {}
    def get(dim):
        if dim not in made: made_up_shards(made.setdefault(dim, tmp_path_factory.mktemp(f"shards{dim}")), clips=8, dim=dim, seconds=6.0)
        return made[dim]
    return get

@pytest.mark.parametrize("preset", ["music", "vggsound"])
def test_the_paper_s_size(preset):
    config, training = DENOISERS[preset]
    with torch.device("meta"): unet = UNet(config.unet)
    condition = sum(p.numel() for p in unet.project.parameters()) + unet.null.numel()
    assert round((sum(p.numel() for p in unet.parameters()) - condition) / 1e6, 1) == 121.1
    assert (training.lr, training.batch_size, training.ema, config.condition_dropout, config.timesteps) == (1e-4, 32, 0.9999, 0.1, 4000)
    assert config.frames * config.mel.hop_length / config.mel.sample_rate == 2.048

@pytest.mark.parametrize("preset", ["clipsynth-music", "clipsynth-vggsound"])
def test_clipsynth_s_geometry(preset):
    config, _ = DENOISERS[preset]
    assert config.unet.conditioning == "concat" and config.mel.hop_length == 1024
    assert config.frames * config.mel.hop_length / config.mel.sample_rate == 4.096
    assert config.template == ("a photo of playing {}" if preset == "clipsynth-music" else "a photo of {}")

@pytest.mark.slow
@pytest.mark.parametrize("preset", ["music", "vggsound", "clipsynth-music", "clipsynth-vggsound"])
def test_a_real_step_at_full_size(preset, shards, tmp_path):
    config, training = DENOISERS[preset]
    full = Denoiser(shards(768), preset, config, dataclasses.replace(training, batch_size=1, precision="no"))
    engine = Engine(full, tmp_path / "run", cpu=True)
    before = [p.detach().clone() for p in engine.bare["model"].parameters()]
    figures = engine.step(next(full.batches(0, 0, 1)))
    assert 0.5 < figures["mse"] < 2 and figures["skipped"] == 0, "a new network predicts nothing, and the noise has variance 1"
    assert any(not torch.equal(a, b) for a, b in zip(before, engine.bare["model"].parameters()))

def test_the_pocket_denoiser_learns_what_its_condition_says(shards, tmp_path):
    tiny = dataclasses.replace(pocket, unet=dataclasses.replace(pocket.unet, channels=16, mult=(1, 2), attention=(), condition_dim=32, groups=16))
    training = dataclasses.replace(DENOISERS["pocket"][1], batch_size=8, precision="no", lr=3e-3, warmup=5, decay="constant")
    engine = Engine(Denoiser(shards(32), "pocket", tiny, training), tmp_path / "run", steps=60, cpu=True)
    stream = engine.recipe.batches(0, 0, 1)
    losses = [engine.step(next(stream))["mse"] for _ in range(60)]
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])

def test_the_denoiser_reads_no_label(shards, tmp_path):
    tiny = dataclasses.replace(pocket, unet=dataclasses.replace(pocket.unet, channels=16, mult=(1, 2), attention=(), condition_dim=32, groups=16))
    batch = next(Denoiser(shards(32), "pocket", tiny, DENOISERS["pocket"][1]).batches(0, 0, 1))
    assert "label" not in batch

def test_refusals(shards, tmp_path):
    with pytest.raises(InputError, match="preset 'pokcet': expected one of pocket"): recipe("pokcet", shards(32))
    with pytest.raises(InputError, match="32-wide.*768-wide.*--clip ViT-L-14"): recipe("vggsound", shards(32))
    with pytest.raises(InputError, match="no image-text shards"): recipe("pocket-clip", tmp_path)
    with pytest.raises(InputError, match="no label"): recipe("pocket-classifier", shards(32))
    with pytest.raises(InputError, match="shards.json"): recipe("pocket", tmp_path)
    assert set(DENOISERS) < set(PRESETS)
