"Learned magnitudes, their training sounds and losses, and the gradient through Griffin-Lim."
import pytest
import torch
from vocoders import noise, small_head, small_inversion

from clipsonic.core import InputError
from clipsonic.mel import log_mel, stft_magnitude
from clipsonic.mel_inversion import AUGMENT_CROP, MelInversionConfig, augment_waveform, griffin_lim_grad
from clipsonic.mel_inversion import log_magnitude_l1, random_tones


def test_even_kernel_is_refused():
    with pytest.raises(InputError, match="kernel=4"): MelInversionConfig(kernel=4)


def test_the_tensors_of_checkpoints_keep_their_names():
    block = ["scale", "around.weight", "around.bias", "norm.weight", "norm.bias",
             "up.weight", "up.bias", "down.weight", "down.bias"]
    around = ["enter.weight", "enter.bias", "norm_in.weight", "norm_in.bias", "norm_out.weight", "norm_out.bias"]
    inversion = {*around, *(f"blocks.0.{k}" for k in block), "leave.weight", "leave.bias"}
    assert small_inversion().state_dict().keys() == inversion
    phases = inversion | {f"blocks.1.{k}" for k in block}
    assert small_head().state_dict().keys() == phases | {f"inversion.{k}" for k in inversion}


def test_augmented_sounds():
    "A function of the generator; as long as promised; never lower; −20 to +2 dB as loud, unless another is mixed in."
    tone = 0.1 * torch.sin(2 * torch.pi * 440 * torch.arange(22528) / 16000).repeat(64, 1, 1)
    one, two, three = (augment_waveform(tone, torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert torch.equal(one, two) and not torch.equal(one, three)
    assert one.shape == (64, 1, int(22528 / AUGMENT_CROP))
    pitch = torch.fft.rfft(one[:, 0]).abs().argmax(1) * 16000 / one.shape[-1]
    assert (pitch > 435).float().mean() > 0.8  # the others are random tones, or have one mixed in
    assert ((460 < pitch) & (pitch < 440 * AUGMENT_CROP)).float().mean() > 0.2
    level = one.std(-1).log10() * 20 - 20 * torch.tensor(0.1 * 0.5**0.5).log10()
    assert level.min() < -15 and -1 < level.max() < 12


def test_augmenting_leaves_the_global_generator_alone():
    before = torch.random.get_rng_state()
    augment_waveform(noise(9, 4096), torch.Generator().manual_seed(1))
    assert torch.equal(before, torch.random.get_rng_state())


def test_random_tones_are_tones():
    made = random_tones(16, 32768, 16000, torch.Generator().manual_seed(0))
    assert made.shape == (16, 1, 32768) and made.isfinite().all()
    assert torch.allclose(made.abs().amax(2), torch.tensor(0.3), atol=0.06)
    spectrum = torch.fft.rfft(made[:, 0, :4096] * torch.hann_window(4096)).abs()
    loudest = spectrum.sort(1, descending=True)[0][:, :200]  # a tenth of the bins has most of the energy
    assert (loudest.square().sum(1) / spectrum.square().sum(1)).min() > 0.8


def test_log_magnitude_l1():
    real = noise(2, 8192)
    true = stft_magnitude(real).log()
    assert log_magnitude_l1(true, real) == 0
    assert log_magnitude_l1(true + 0.5, real).item() == pytest.approx(0.5, abs=1e-5)


def test_the_gradient_through_griffin_lim():
    "Louder magnitudes give a louder waveform, in the gradient as in fact."
    real, given = noise(1, 8192), log_mel(noise(1, 8192))
    guess = stft_magnitude(real).log().requires_grad_()
    energy = griffin_lim_grad(guess, given).square().sum()
    energy.backward()
    with torch.no_grad(): louder = griffin_lim_grad(guess + 0.5, given).square().sum()
    assert guess.grad.sum().item() == pytest.approx(2 * energy.item(), rel=1e-3)  # d e^2g / dg at g = 0
    assert louder > 1.5 * energy
