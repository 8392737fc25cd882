"Edge cases of the mel inversion and its vocoder."
import json

import pytest
import torch

from clipsonic.checkpoint import save_checkpoint
from clipsonic.core import CheckpointError, InputError
from clipsonic.mel import MelConfig, log_mel
from clipsonic.vocoder import GriffinLimVocoder, MelInversion, MelInversionConfig, load_vocoder, mel_inversion_loss, save_mel_inversion


@pytest.fixture(scope="module")
def small():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MelInversion(MelInversionConfig(width=32, depth=1)).eval().requires_grad_(False)


def noise(batch, samples, seed=0): return 0.1 * torch.randn(batch, 1, samples, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("frames", [1, 2, 3, 64, 125])
def test_any_number_of_frames(small, frames):
    for vocoder in (GriffinLimVocoder(small, n_iter=2), GriffinLimVocoder(n_iter=2)):
        sound = vocoder(torch.full((1, 1, 64, frames), -6.0))
        assert sound.shape == (1, 1, frames * 512) and sound.isfinite().all()


def test_a_clip_is_the_same_in_any_batch(small):
    vocoder, mel = GriffinLimVocoder(small, n_iter=4), log_mel(noise(5, 16384))
    together = vocoder(mel)
    for i in range(5): assert torch.equal(vocoder(mel[i : i + 1]), together[i : i + 1])
    assert torch.equal(vocoder(mel.flip(0)), together.flip(0))


def test_the_global_generator_is_left_alone(small):
    before = torch.random.get_rng_state()
    GriffinLimVocoder(small, n_iter=2)(torch.full((1, 1, 64, 4), -6.0))
    mel_inversion_loss(small, noise(2, 4096), MelConfig(), torch.Generator().manual_seed(1))
    assert torch.equal(before, torch.random.get_rng_state())


def test_silence_and_loudness(small):
    vocoder = GriffinLimVocoder(n_iter=4)
    assert vocoder(log_mel(torch.zeros(1, 1, 8192))).abs().max() < 1e-2
    mel = log_mel(noise(1, 8192))
    quiet, loud = vocoder(mel), vocoder(mel + 1)
    assert loud.square().mean() / quiet.square().mean() == pytest.approx(2.71828**2, rel=0.1)


@pytest.mark.parametrize("shape", [(1, 64, 8), (1, 1, 80, 8), (1, 2, 64, 8), (1, 1, 64, 0)])
def test_another_shape_is_refused(small, shape):
    with pytest.raises(InputError, match="expected"): GriffinLimVocoder(small)(torch.zeros(shape))


def test_loss_is_a_function_of_the_generator(small):
    sound = noise(3, 8192)
    one, two, three = (mel_inversion_loss(small, sound, MelConfig(), torch.Generator().manual_seed(s))[0] for s in (0, 0, 1))
    assert one == two != three


def test_another_hop(tmp_path):
    config = MelInversionConfig(mel=MelConfig(hop_length=1024), width=16, depth=1)
    save_mel_inversion(tmp_path / "v", MelInversion(config), dtype=torch.float16)
    vocoder = load_vocoder(tmp_path / "v", device="cpu")
    assert vocoder.config == config.mel and vocoder.inversion.config == config
    assert vocoder(torch.full((1, 1, 64, 4), -6.0)).shape == (1, 1, 4096)
    with pytest.raises(InputError, match="the inversion undoes"): GriffinLimVocoder(vocoder.inversion, MelConfig())


def test_even_kernel_is_refused():
    with pytest.raises(InputError, match="kernel=4"): MelInversionConfig(kernel=4)


def test_what_is_not_a_vocoder(tmp_path, small):
    with pytest.raises(InputError, match="no vocoder 'bigvgun'"): load_vocoder("bigvgun")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError): load_vocoder(tmp_path / "empty")
    save_checkpoint(tmp_path / "other", {"kind": "denoiser"}, {"denoiser": {"w": torch.zeros(1)}})
    with pytest.raises(CheckpointError, match="denoiser"): load_vocoder(tmp_path / "other")
    save_mel_inversion(tmp_path / "torn", small)
    settings = json.loads((tmp_path / "torn" / "config.json").read_text())
    settings["model"]["depth"] = 2
    (tmp_path / "torn" / "config.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError): load_vocoder(tmp_path / "torn")
