"""Samplers against the original's walks, and against a normal distribution whose exact denoiser is a formula."""
from unittest import mock

import numpy as np
import pytest
import torch
from golden import STEPS, Noise, close, golden, same_as_theirs, wave

from clipsonic.core import InputError, noise_streams, randn_streams
from clipsonic.diffusion import Diffusion, cosine_betas
from clipsonic.samplers import SAMPLERS, ddim, ddpm, guided

def streams_of(noise): return mock.patch('clipsonic.samplers.randn_streams', lambda shape, streams: noise(torch.empty(len(streams), *shape)))

def test_the_original_step():
    x, i = 1.4 * wave(4, 1, 16, 16), torch.tensor([0, 1, 5, 9])
    short, net = Diffusion().respace(STEPS), same_as_theirs()
    with torch.no_grad(): mean, log_variance, _ = short.reverse(net(x, short.model_time(i)), x, i, clip=True)
    close(mean + (i > 0).view(-1, 1, 1, 1) * (log_variance / 2).exp() * Noise()(x), golden()['step'])

@pytest.mark.parametrize('name, sampler, options', [('ddpm', ddpm, {}), ('ddim', ddim, {}), ('ddim_eta', ddim, {'eta': 0.7})])
def test_the_original_walk(name, sampler, options):
    noise = Noise()
    with streams_of(noise): x = sampler(same_as_theirs(), Diffusion(), 1.4 * wave(4, 1, 16, 16), streams=[None] * 4, steps=STEPS, **options)
    close(x, golden()[name], 1e-4)    # ten evaluations: each step is held to 1e-5 above

# ---- data ~ N(mean, std²): the best denoiser and the exact variance of a reverse step are formulas
MEAN, STD = 0.2, 0.15

def exact(diffusion, steps, variance='exact'):
    "The perfect model for normal data. v is the exact variance of this walk's steps, or sits at one of its bounds."
    short = diffusion.respace(steps)
    ab, before = short.alpha_bar, short.alpha_bar_prev
    total = before * STD**2 + 1 - before        # variance of x_{t−1}
    true = total * short.betas / (total * (1 - short.betas) + short.betas)
    v = {'exact': 2 * (np.log(true) - short.log_variance) / (np.log(short.betas) - short.log_variance + 1e-300) - 1, 'large': np.ones(steps), 'small': -np.ones(steps)}[variance]
    def model(x, time):
        i = int(np.abs(short.times - time[0].item()).argmin())
        eps = (1 - ab[i])**0.5 * (x - ab[i]**0.5 * MEAN) / (ab[i] * STD**2 + 1 - ab[i])
        return torch.cat([eps, torch.full_like(x, v[i])], 1)
    return model

def sampled(sampler, steps, n=4096, variance='exact', T=4000, **options):
    diffusion, streams = Diffusion(cosine_betas(T)), noise_streams(0, 4)
    noise = randn_streams((1, 1, n), streams).double()
    return sampler(exact(diffusion, steps, variance), diffusion, noise, streams=streams, steps=steps, **options)

@pytest.mark.parametrize('steps', [5, 20, 100])
def test_exact_variance_gives_the_exact_distribution_at_any_number_of_steps(steps):
    x = sampled(ddpm, steps, clip=False)
    assert x.mean().item() == pytest.approx(MEAN, abs=0.005) and x.std().item() == pytest.approx(STD, rel=0.03)

@pytest.mark.parametrize('sampler, options', [(ddpm, {'variance': 'large'}), (ddpm, {'variance': 'small'}), (ddim, {}), (ddim, {'eta': 1.})])
def test_more_steps_come_nearer(sampler, options):
    error = {k: abs(sampled(sampler, k, **options).std().item() - STD) for k in (5, 20, 100)}
    assert error[100] < 0.15 * STD and error[100] < error[20] < error[5]
    assert sampled(sampler, 100, **options).mean().item() == pytest.approx(MEAN, abs=0.02)

def test_ddim_is_the_map_between_two_normals():
    "With no noise added, the k-th quantile of the start becomes the k-th quantile of the data."
    diffusion, z = Diffusion(), torch.linspace(-2, 2, 9).double().view(1, 1, 9)
    x = ddim(exact(diffusion, 1000), diffusion, z, steps=1000)
    close(x, MEAN + STD * z, 2e-3)

@pytest.mark.parametrize('name', SAMPLERS)
@pytest.mark.parametrize('steps', [1, 7, 25])
def test_evaluations_and_progress(name, steps):
    calls, seen = [], []
    model = lambda x, time: calls.append(time[0].item()) or torch.zeros(len(x), 2, *x.shape[2:])
    x = SAMPLERS[name](model, Diffusion(), torch.zeros(2, 1, 4, 4), streams=noise_streams(0, 2), steps=steps,
                       progress=lambda done, total, x0: seen.append((done, total, x0.shape)))
    assert len(calls) == steps and calls == sorted(calls, reverse=True) and x.shape == (2, 1, 4, 4)
    assert seen == [(k + 1, steps, x.shape) for k in range(steps)]

def test_all_steps_when_none_are_given():
    calls = []
    ddim(lambda x, time: calls.append(time) or torch.zeros(1, 2, 1, 1), Diffusion(cosine_betas(30)), torch.zeros(1, 1, 1, 1))
    assert len(calls) == 30

def test_guidance():
    calls = []
    def denoiser(x, time, condition):
        calls.append(len(x))
        return torch.cat([condition[:, :1, None, None] + 0 * x, 10 * condition[:, :1, None, None] + 0 * x], 1)
    x, time, q, null = torch.zeros(3, 1, 2, 2), torch.ones(3), torch.tensor([[1.], [2.], [3.]]), torch.tensor([-1.])
    plain = guided(denoiser, q, null, 1)(x, time)
    close(plain, denoiser(x, time, q))
    strong = guided(denoiser, q, null, 2.5)(x, time)
    close(strong[:, 0, 0, 0], -1.5 * -1 + 2.5 * q[:, 0])
    close(strong[:, 1:], plain[:, 1:])
    close(guided(denoiser, q, null, 0)(x, time)[:, 0, 0, 0], null.expand(3))
    assert calls == [3, 3, 6, 6]

@pytest.mark.parametrize('name, options', [('ddpm', {}), ('ddim', {}), ('ddim', {'eta': 1.})])
def test_a_clip_does_not_depend_on_its_neighbours(name, options):
    net = same_as_theirs()
    def sample(first, n):
        streams = noise_streams(5, n, first)
        return SAMPLERS[name](net, Diffusion(), randn_streams((1, 8, 8), streams), streams=streams, steps=3, **options)
    close(sample(0, 3)[2:], sample(2, 1), 1e-4)

def test_inputs_are_left_alone():
    noise = wave(1, 1, 4, 4)
    kept = noise.clone()
    for sampler in SAMPLERS.values():
        sampler(lambda x, time: torch.cat([x, x], 1), Diffusion(), noise, streams=noise_streams(0, 1), steps=3)
        assert torch.equal(noise, kept)

def test_no_gradients_are_kept():
    weight = torch.ones(1, requires_grad=True)
    for sampler in SAMPLERS.values():
        x = sampler(lambda x, time: torch.cat([x, x], 1) * weight, Diffusion(), wave(1, 1, 4, 4), streams=noise_streams(0, 1), steps=2)
        assert not x.requires_grad
    assert torch.is_grad_enabled()

@pytest.mark.parametrize('steps', [0, -1, 4001, 1.5])
@pytest.mark.parametrize('name', SAMPLERS)
def test_impossible_steps(name, steps):
    with pytest.raises(InputError, match='steps'): SAMPLERS[name](None, Diffusion(), torch.zeros(1, 1, 1, 1), streams=noise_streams(0, 1), steps=steps)

@pytest.mark.parametrize('eta', [-0.1, 1.5])
def test_impossible_eta(eta):
    with pytest.raises(InputError, match='eta'): ddim(None, Diffusion(), torch.zeros(1, 1, 1, 1), streams=noise_streams(0, 1), steps=2, eta=eta)

@pytest.mark.parametrize('name, options', [('ddpm', {}), ('ddim', {'eta': 1.})])
@pytest.mark.parametrize('streams', [None, noise_streams(0, 3)])
def test_streams_must_match(name, options, streams):
    with pytest.raises(InputError, match='streams'): SAMPLERS[name](None, Diffusion(), torch.zeros(2, 1, 1, 1), streams=streams, steps=2, **options)
