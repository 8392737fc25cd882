"The mel against librosa and BigVGAN's code, Griffin-Lim in time and in batches, and odd lengths and configs."
import math
import random
from dataclasses import asdict

import pytest
import torch
import torch.nn.functional as F

from clipsonic.core import Audio, InputError
from clipsonic.mel import (MelConfig, denormalize_mel, griffin_lim, hz_to_mel, log_mel, mel_filterbank,
                           mel_pseudo_inverse, normalize_mel, plot_mel, stft_magnitude)
from conftest import naming

CONFIGS = {"papers": MelConfig(), "clipsynth": MelConfig(hop_length=1024),
           "narrow": MelConfig(win_length=1024, hop_length=256),
           "bigvgan 22k": MelConfig(22050, 1024, 1024, 256, 80, 0., 8000.)}

@pytest.fixture
def noise():
    return 0.3 * torch.randn(3, 1, 20480, generator=torch.Generator().manual_seed(0))

def bigvgan(waveform, config):
    "What BigVGAN's meldataset.py computes, in its own terms."
    librosa = pytest.importorskip("librosa")
    matrix = torch.from_numpy(librosa.filters.mel(sr=config.sample_rate, n_fft=config.n_fft, n_mels=config.n_mels,
                                                  fmin=config.f_min, fmax=config.f_max)).float()
    pad = (config.n_fft - config.hop_length) // 2
    spectrum = torch.stft(F.pad(waveform, (pad, pad), mode="reflect")[:, 0], config.n_fft, config.hop_length,
                          config.win_length,
                          torch.hann_window(config.win_length), center=False, onesided=True, return_complex=True)
    magnitude = torch.sqrt(torch.view_as_real(spectrum).pow(2).sum(-1) + 1e-9)
    return matrix, magnitude, torch.log(torch.clamp(matrix @ magnitude, min=1e-5))

@pytest.mark.parametrize("name", CONFIGS)
def test_equals_bigvgan(noise, name):
    config = CONFIGS[name]
    for length in (20480, 20000):  # whole frames, and some samples over
        matrix, magnitude, mel = bigvgan(noise[..., :length], config)
        assert (mel_filterbank(config) - matrix).abs().max() < 1e-6
        assert torch.allclose(stft_magnitude(noise[..., :length], config), magnitude, rtol=1e-5, atol=1e-4)
        assert torch.allclose(log_mel(noise[..., :length], config)[:, 0], mel, atol=1e-4)
        assert mel.shape[-1] == length // config.hop_length

def test_golden():
    "So that no later change moves the mel unseen: a 440 Hz tone of amplitude 0.5, middle frame."
    tone = 0.5 * torch.sin(2 * math.pi * 440 * torch.arange(16384, dtype=torch.float64) / 16000).float()
    middle = log_mel(tone[None, None])[0, 0, :, 16]
    assert torch.allclose(middle[[0, 8, 9, 10, 20]], torch.tensor(GOLDEN), atol=2e-3), middle[[0, 8, 9, 10, 20]]

GOLDEN = [-9.2330, 1.7969, 1.7105, -3.8116, -10.5186]

def test_slaney_scale():
    librosa = pytest.importorskip("librosa")
    hertz = torch.tensor([0., 440., 999., 1000., 1001., 8000.], dtype=torch.float64)
    assert torch.allclose(hz_to_mel(hertz), torch.from_numpy(librosa.hz_to_mel(hertz.numpy())))

@pytest.mark.parametrize("samples, frames", [(1, 1), (300, 1), (768, 1), (769, 1), (1023, 1), (1024, 2), (32768, 64),
                                             (64000, 125), (64511, 125)])
def test_lengths(samples, frames):
    assert log_mel(torch.rand(2, 1, samples)).shape == (2, 1, 64, frames)

@pytest.mark.parametrize("seconds, frames", [(0.001, 1), (2.048, 64), (2.0481, 65), (4., 125), (10, 313), (0.3, 10)])
def test_frames(seconds, frames):
    assert MelConfig().num_frames(seconds) == frames

@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("frames", [0, 1, 64, 125])
def test_seconds_of_frames(name, frames):
    config = CONFIGS[name]
    assert config.seconds(frames) == frames * config.hop_length / config.sample_rate
    assert config.num_frames(config.seconds(frames)) == frames
    assert round(config.seconds(frames) * config.sample_rate) == config.num_samples(frames)

@pytest.mark.parametrize("floor", [5e-6, 1e-5, 1e-4, 1e-3])
def test_silence_is_minus_one_with_any_floor(floor):
    config = MelConfig(floor=floor)
    assert config.log_min == math.log(floor) and config.log_max == 3
    silence = normalize_mel(log_mel(torch.zeros(1, 1, 2048), config), config)
    assert torch.allclose(silence, torch.full((1, 1, 64, 4), -1.), atol=1e-6)
    assert MelConfig(floor=floor, log_min=-9.).log_min == -9  # as an older config has it

@pytest.mark.parametrize("waveform", [torch.zeros(1, 1, 0), torch.zeros(100), torch.zeros(1, 2, 100),
                                      torch.zeros(1, 1, 100).int()])
def test_bad_waveform(waveform):
    with pytest.raises(InputError, match=naming("waveform", waveform.dtype, tuple(waveform.shape))): log_mel(waveform)

@pytest.mark.parametrize("wrong", [{"hop_length": 500}, {"hop_length": 2048}, {"hop_length": 0}, {"win_length": 4096},
                                   {"win_length": 512},
                                   {"f_max": 9000.}, {"f_min": 8000.}, {"f_min": -1.}])
def test_bad_config(wrong):
    with pytest.raises(InputError, match=naming(*wrong, *wrong.values())): MelConfig(**wrong)

def test_config_survives_json():
    import json
    config = MelConfig(hop_length=1024)
    assert MelConfig(**json.loads(json.dumps(asdict(config)))) == config

def test_silence_and_gradient():
    silent = torch.zeros(1, 1, 4096, requires_grad=True)
    mel = log_mel(silent)
    assert torch.allclose(normalize_mel(mel), torch.tensor(-1.), atol=1e-5)
    stft_magnitude(silent).sum().backward()
    assert silent.grad.isfinite().all()
    assert griffin_lim(mel_pseudo_inverse(mel.detach())).abs().max() < 1e-3
    assert griffin_lim(torch.zeros(1, 1025, 4)).abs().max() == 0

def test_autocast_does_not_round(noise):
    with torch.autocast("cpu", torch.bfloat16):
        mel = log_mel(noise)
        magnitude = mel_pseudo_inverse(mel)
    assert torch.equal(mel, log_mel(noise)) and torch.equal(magnitude, mel_pseudo_inverse(mel))

def test_normalizing_is_linear_and_inverted():
    mel = torch.linspace(-20, 10, 100)
    assert torch.allclose(denormalize_mel(normalize_mel(mel)), mel, atol=1e-5)
    assert normalize_mel(mel).max() > 1  # nothing is clamped

@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("frames", [1, 2, 5])
def test_griffin_lim_shapes(name, frames):
    config = CONFIGS[name]
    waveform = griffin_lim(torch.rand(2, config.n_fft // 2 + 1, frames), config, n_iter=2)
    assert waveform.shape == (2, 1, config.num_samples(frames)) and waveform.isfinite().all()

@pytest.mark.parametrize("name", CONFIGS)
def test_griffin_lim_converges(noise, name):
    config = CONFIGS[name]
    magnitude = stft_magnitude(noise[:1], config)
    error = [(stft_magnitude(griffin_lim(magnitude, config, n), config) - magnitude).norm() / magnitude.norm()
             for n in (0, 8, 32)]
    assert error[0] > error[1] > error[2] and error[2] < 0.25, error

@pytest.mark.parametrize("name", CONFIGS)
def test_griffin_lim_is_aligned(name):
    "A burst's energy stays where it was, in the middle and at both ends."
    config = CONFIGS[name]
    length = 16 * config.hop_length
    burst = torch.randn(200, generator=torch.Generator().manual_seed(1))
    for start in (0, length // 2 - 77, length - 200):
        sound = torch.zeros(1, 1, length)
        sound[..., start:start+200] = burst
        energy = griffin_lim(stft_magnitude(sound, config), config)[0, 0]**2
        centers = [(e * torch.arange(length)).sum() / e.sum() for e in (energy, sound[0, 0]**2)]
        assert abs(centers[0] - centers[1]) < config.hop_length / 4, (start, centers)

def test_same_alone_and_in_any_batch(noise):
    batch = torch.cat([noise, noise.flip(0), 0.1 * noise])
    mels = log_mel(batch)
    whole = griffin_lim(mel_pseudo_inverse(mels), n_iter=4)
    state = torch.get_rng_state()
    for i in range(9): assert torch.equal(griffin_lim(mel_pseudo_inverse(mels[i:i+1]), n_iter=4)[0], whole[i])
    assert torch.equal(state, torch.get_rng_state())

def test_audio_mel(noise):
    stereo = Audio(noise[:2, 0], 16000)
    assert torch.allclose(stereo.mel(), log_mel(noise[:2])[:, 0], atol=1e-5)
    with pytest.raises(InputError, match=naming(44100, 16000)): Audio(noise[0], 44100).mel()

def test_plot(noise):
    ax = plot_mel(log_mel(noise[:1]))
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("time (s)", "frequency (Hz)") and ax.get_xlim() == (0, 1.28)
    assert {"500", "1000", "4000"} <= {label.get_text() for label in ax.get_yticklabels()}

@pytest.mark.data
def test_corpus_lies_in_range(pocketav):
    from clipsonic.video import read_audio
    videos = random.Random(0).sample(sorted((pocketav / "videos").glob("*.mp4")), 40)
    unit = torch.cat([normalize_mel(read_audio(video).mel()).flatten() for video in videos])
    assert unit.min() >= -1 - 1e-5 and (unit > 1).float().mean() < 1e-4 and unit.max() > 0.8
