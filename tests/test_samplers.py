"""Samplers against the original's sampling runs, and against a normal distribution with an exact denoiser."""
from unittest import mock

import numpy as np
import pytest
import torch
from golden import STEPS, Noise, close, golden, same_as_theirs, wave

from clipsonic.core import InputError, clip_generators, randn_per_clip
from clipsonic.diffusion import TIMESTEP_SPACINGS, Diffusion, cosine_betas
from clipsonic.samplers import SAMPLERS, Distilled, ddim, ddpm, dpmpp_2m, count_nfe, cfg_denoiser
from conftest import naming

def noise_of(noise):
    return mock.patch('clipsonic.samplers.randn_per_clip',
                      lambda shape, generators: noise(torch.empty(len(generators), *shape)))

def test_the_original_step():
    x, i = 1.4 * wave(4, 1, 16, 16), torch.tensor([0, 1, 5, 9])
    schedule, net = Diffusion().respace(STEPS), same_as_theirs()
    with torch.no_grad(): output = net(x, schedule.model_timesteps(i))
    mean, log_variance, _ = schedule.p_mean_variance(output, x, i, clip_denoised=True)
    close(mean + (i > 0).view(-1, 1, 1, 1) * (log_variance / 2).exp() * Noise()(x), golden()['step'])

@pytest.mark.parametrize('name, sampler, options', [('ddpm', ddpm, {}), ('ddim', ddim, {}),
                                                    ('ddim_eta', ddim, {'eta': 0.7})])
def test_the_original_sampling_run(name, sampler, options):
    noise = Noise()
    with noise_of(noise):
        x = sampler(same_as_theirs(), Diffusion(), 1.4 * wave(4, 1, 16, 16), generators=[None] * 4, steps=STEPS,
                    **options)
    close(x, golden()[name], 1e-4)    # ten evaluations: each step is held to 1e-5 above

# ---- data ~ N(mean, std²): the best denoiser and the exact variance of a reverse step are formulas
MEAN, STD = 0.2, 0.15

def exact(diffusion, steps, variance='exact', timestep_spacing='linspace'):
    "The perfect model for normal data. v is the exact variance of this run's steps, or sits at one of its bounds."
    schedule = diffusion.respace(steps, timestep_spacing)
    ab, before = schedule.alpha_bar, schedule.alpha_bar_prev
    total = before * STD**2 + 1 - before        # variance of x_{t−1}
    true = total * schedule.betas / (total * (1 - schedule.betas) + schedule.betas)
    low, high = schedule.posterior_log_variance_clipped, np.log(schedule.betas)
    v = {'exact': 2 * (np.log(true) - low) / (high - low + 1e-300) - 1,
         'large': np.ones(steps), 'small': -np.ones(steps)}[variance]
    def model(x, time):
        i = int(np.abs(schedule.timestep_map - time[0].item()).argmin())
        eps = (1 - ab[i])**0.5 * (x - ab[i]**0.5 * MEAN) / (ab[i] * STD**2 + 1 - ab[i])
        return torch.cat([eps, torch.full_like(x, v[i])], 1)
    return model

def sampled(sampler, steps, n=4096, variance='exact', T=4000, **options):
    diffusion, generators = Diffusion(cosine_betas(T)), clip_generators(0, 4)
    noise = randn_per_clip((1, 1, n), generators).double()
    return sampler(exact(diffusion, steps, variance), diffusion, noise, generators=generators, steps=steps, **options)

@pytest.mark.parametrize('steps', [5, 20, 100])
def test_exact_variance_gives_the_exact_distribution_at_any_number_of_steps(steps):
    x = sampled(ddpm, steps, clip_denoised=False)
    assert x.mean().item() == pytest.approx(MEAN, abs=0.005) and x.std().item() == pytest.approx(STD, rel=0.03)

@pytest.mark.parametrize('sampler, options', [(ddpm, {'variance': 'large'}), (ddpm, {'variance': 'small'}), (ddim, {}),
                                              (ddim, {'eta': 1.}), (dpmpp_2m, {'timestep_spacing': 'linspace'})])
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
    x = SAMPLERS[name](model, Diffusion(), torch.zeros(2, 1, 4, 4), generators=clip_generators(0, 2), steps=steps,
                       callback=lambda done, total, x0: seen.append((done, total, x0.shape)))
    assert len(calls) == steps and calls == sorted(calls, reverse=True) and x.shape == (2, 1, 4, 4)
    assert seen == [(k + 1, steps, x.shape) for k in range(steps)]

def test_all_steps_when_none_are_given():
    calls = []
    ddim(lambda x, time: calls.append(time) or torch.zeros(1, 2, 1, 1), Diffusion(cosine_betas(30)),
         torch.zeros(1, 1, 1, 1))
    assert len(calls) == 30

def test_guidance():
    calls = []
    def denoiser(x, time, condition):
        calls.append(len(x))
        return torch.cat([condition[:, :1, None, None] + 0 * x, 10 * condition[:, :1, None, None] + 0 * x], 1)
    x, time = torch.zeros(3, 1, 2, 2), torch.ones(3)
    q, null = torch.tensor([[1.], [2.], [3.]]), torch.tensor([-1.])
    plain = cfg_denoiser(denoiser, q, null, 1)(x, time)
    close(plain, denoiser(x, time, q))
    strong = cfg_denoiser(denoiser, q, null, 2.5)(x, time)
    close(strong[:, 0, 0, 0], -1.5 * -1 + 2.5 * q[:, 0])
    close(strong[:, 1:], plain[:, 1:])
    close(cfg_denoiser(denoiser, q, null, 0)(x, time)[:, 0, 0, 0], null.expand(3))
    assert calls == [3, 3, 6, 6]

@pytest.mark.parametrize('name, options', [('ddpm', {}), ('ddim', {}), ('ddim', {'eta': 1.}), ('dpm++2m', {})])
def test_a_clip_does_not_depend_on_its_neighbours(name, options):
    net = same_as_theirs()
    def sample(first, n):
        generators = clip_generators(5, n, first)
        noise = randn_per_clip((1, 8, 8), generators)
        return SAMPLERS[name](net, Diffusion(), noise, generators=generators, steps=3, **options)
    close(sample(0, 3)[2:], sample(2, 1), 1e-4)

def test_inputs_are_left_alone():
    noise = wave(1, 1, 4, 4)
    kept = noise.clone()
    for sampler in SAMPLERS.values():
        sampler(lambda x, time: torch.cat([x, x], 1), Diffusion(), noise, generators=clip_generators(0, 1), steps=3)
        assert torch.equal(noise, kept)

def test_no_gradients_are_kept():
    weight = torch.ones(1, requires_grad=True)
    for sampler in SAMPLERS.values():
        x = sampler(lambda x, time: torch.cat([x, x], 1) * weight, Diffusion(), wave(1, 1, 4, 4),
                    generators=clip_generators(0, 1), steps=2)
        assert not x.requires_grad
    assert torch.is_grad_enabled()

@pytest.mark.parametrize('steps', [0, -1, 4001, 1.5])
@pytest.mark.parametrize('name', SAMPLERS)
def test_impossible_steps(name, steps):
    with pytest.raises(InputError, match=naming('steps', steps)):
        SAMPLERS[name](None, Diffusion(), torch.zeros(1, 1, 1, 1), generators=clip_generators(0, 1), steps=steps)

@pytest.mark.parametrize('eta', [-0.1, 1.5])
def test_impossible_eta(eta):
    with pytest.raises(InputError, match=naming('eta', eta)):
        ddim(None, Diffusion(), torch.zeros(1, 1, 1, 1), generators=clip_generators(0, 1), steps=2, eta=eta)

@pytest.mark.parametrize('name, options', [('ddpm', {}), ('ddim', {'eta': 1.})])
@pytest.mark.parametrize('generators', [None, clip_generators(0, 3)])
def test_generators_must_match(name, options, generators):
    with pytest.raises(InputError, match=naming('generators', len(generators) if generators else 'none', 2)):
        SAMPLERS[name](None, Diffusion(), torch.zeros(2, 1, 1, 1), generators=generators, steps=2, **options)

# ---- DPM-Solver++ 2M: the noise-free trajectory between two normals is known, so the error's order is too
def cosine(T): return Diffusion(cosine_betas(T))
def linear(T): return Diffusion(np.linspace(1e-4, 0.02, 1000).repeat(T // 1000) * (1000 / T))

def distance(sampler, diffusion, steps, timestep_spacing='logsnr', s=0.5, prediction_type='epsilon', **options):
    "Root mean square error of the ends of sampling runs with the exact model of N(MEAN, s²)"
    def model(x, time):
        ab = diffusion.alpha_bar[int(np.searchsorted(diffusion.timestep_map, time[0].item() - 1e-4))]
        return (1 - ab)**0.5 * (x - ab**0.5 * MEAN) / (ab * s**2 + 1 - ab)
    ab = diffusion.alpha_bar[diffusion.spaced_timesteps(steps, timestep_spacing)[-1]]
    z = torch.linspace(-2, 2, 9).double().view(1, 1, 9)
    truth = MEAN + s * (z - ab**0.5 * MEAN) / (ab * s**2 + 1 - ab)**0.5
    return (sampler(model, diffusion, z, steps=steps, clip_denoised=False, timestep_spacing=timestep_spacing, **options)
            - truth).pow(2).mean().sqrt().item()

@pytest.mark.parametrize('make, T, counts', [(cosine, 999_000, (40, 80, 160, 320)),
                                                 (linear, 999_000, (40, 80, 160, 320)), (cosine, 4000, (25, 50, 100))])
def test_second_order(make, T, counts):
    diffusion = make(T)
    for sampler, order in (dpmpp_2m, 2), (ddim, 1):
        errors = [distance(sampler, diffusion, k) for k in counts]
        assert -np.polyfit(np.log(counts), np.log(errors), 1)[0] == pytest.approx(order, abs=0.1)

@pytest.mark.parametrize('timestep_spacing', TIMESTEP_SPACINGS)
@pytest.mark.parametrize('s', [0.15, 0.5])
def test_it_ends_nearer_than_ddim(timestep_spacing, s):
    for k in 8, 12, 25, 100:
        errors = [distance(sampler, Diffusion(), k, timestep_spacing, s) for sampler in (dpmpp_2m, ddim)]
        assert errors[0] < errors[1]
    assert distance(dpmpp_2m, Diffusion(), 100, timestep_spacing, s) < 2e-3

@pytest.mark.parametrize('timestep_spacing', TIMESTEP_SPACINGS)
@pytest.mark.parametrize('name', SAMPLERS)
def test_all_reach_the_exact_distribution(name, timestep_spacing):
    diffusion, generators = Diffusion(), clip_generators(0, 4)
    noise = randn_per_clip((1, 1, 4096), generators).double()
    model = exact(diffusion, 200, timestep_spacing=timestep_spacing)
    x = SAMPLERS[name](model, diffusion, noise, generators=generators, steps=200, clip_denoised=False,
                       timestep_spacing=timestep_spacing)
    assert x.mean().item() == pytest.approx(MEAN, abs=0.005) and x.std().item() == pytest.approx(STD, rel=0.05)

def test_a_step_by_hand():
    "Algorithm 2 of the paper, written out with λ, on the steps of a short run."
    diffusion, net = Diffusion(), same_as_theirs()
    x = 1.4 * wave(2, 1, 16, 16)
    ours = dpmpp_2m(net, diffusion, x, steps=6)
    kept = diffusion.spaced_timesteps(6, 'logsnr')[::-1]
    ab = torch.tensor(diffusion.alpha_bar[kept])
    alpha, sigma = ab.sqrt(), (1 - ab).sqrt()
    lam, x = (alpha / sigma).log(), x.double()
    guesses = []
    for i, t in enumerate(kept):
        with torch.no_grad(): eps = net(x.float(), torch.full((2,), diffusion.timestep_map[t]))[:, :1]
        guesses.append(((x - sigma[i] * eps) / alpha[i]).clamp(-1, 1))
        if i == 5: break
        h, D = lam[i + 1] - lam[i], guesses[i]
        if i: D = (1 + h / (lam[i] - lam[i - 1]) / 2) * guesses[i] - h / (lam[i] - lam[i - 1]) / 2 * guesses[i - 1]
        x = sigma[i + 1] / sigma[i] * x - alpha[i + 1] * torch.expm1(-h) * D
    close(ours.double(), guesses[-1], 1e-4)

@pytest.mark.parametrize('T', [1, 2, 3, 50])
@pytest.mark.parametrize('timestep_spacing', TIMESTEP_SPACINGS)
@pytest.mark.parametrize('name', SAMPLERS)
def test_exactly_as_many_evaluations_as_asked(name, timestep_spacing, T):
    for steps in {1, 2, T // 2, T - 1, T} & set(range(1, T + 1)):
        calls = []
        model = lambda x, time: calls.append(time[0].item()) or torch.cat([x, 0 * x], 1)
        x = SAMPLERS[name](model, Diffusion(cosine_betas(T)), torch.ones(1, 1, 2, 2), generators=clip_generators(0, 1),
                           steps=steps, timestep_spacing=timestep_spacing)
        assert len(calls) == steps == len(set(calls)) and calls == sorted(calls, reverse=True) and x.isfinite().all()

@pytest.mark.parametrize('diffusion', [Diffusion(), Diffusion(cosine_betas(1000)), linear(1000),
                                       Diffusion(cosine_betas(37))], ids=['4000', '1000', 'linear', '37'])
def test_spacings(diffusion):
    T = diffusion.T
    counts = {k for k in [*range(1, 65), 100, 250, 999, 1000, 3900, 3984, 3985, T - 1, T] if k <= T}
    for k in counts:
        kept = {spacing: diffusion.spaced_timesteps(k, spacing) for spacing in TIMESTEP_SPACINGS}
        for steps in kept.values():
            assert len(steps) == k and steps[0] >= 0 and steps[-1] < T and (np.diff(steps) > 0).all()
            assert steps.dtype.kind == 'i'
        assert kept['linspace'][-1] == kept['trailing'][-1] == T - 1 and (k == 1 or kept['linspace'][0] == 0)
        assert kept['trailing'][0] == round(T / k) - 1 and np.ptp(np.diff(kept['trailing'])) <= 1 if k > 1 else True
        noisy = int((diffusion.log_snr >= -5.1).sum()) - 1
        assert kept['logsnr'][-1] in (max(noisy, k - 1), max(noisy + 1, k - 1))
        assert k == 1 or kept['logsnr'][0] == 0
    for timestep_spacing in TIMESTEP_SPACINGS:
        assert (diffusion.spaced_timesteps(T, timestep_spacing) == range(T)).all()

def test_logsnr_strides_are_even():
    diffusion = Diffusion()
    for k in 5, 10, 20:
        strides = -np.diff(diffusion.log_snr[diffusion.spaced_timesteps(k, 'logsnr')])
        assert strides.max() < 1.3 * strides.min()
        assert strides.mean() == pytest.approx((5.76 + 5.08) / (k - 1), abs=0.02)
    assert diffusion.spaced_timesteps(1, 'logsnr').tolist() == [3983]
    assert diffusion.log_snr[3983] > -5.1 > diffusion.log_snr[3984]

@pytest.mark.parametrize('name', ['ddim', 'dpm++2m'])
@pytest.mark.parametrize('timestep_spacing', TIMESTEP_SPACINGS)
def test_the_same_run_from_epsilon_velocity_and_sample(name, timestep_spacing):
    def model(prediction_type):
        diffusion = Diffusion(prediction_type=prediction_type)
        def answer(x, time):
            t = torch.tensor([int(diffusion.timestep_map.searchsorted(time[0].item()))])
            eps = torch.tanh(x)
            x0 = diffusion.predict_x0(x, t, eps)
            return diffusion.target(x0, t, eps)
        return answer, diffusion
    start = randn_per_clip((1, 4, 4), clip_generators(0, 2)).double()
    runs = [SAMPLERS[name](*model(prediction_type), start, steps=12, timestep_spacing=timestep_spacing)
             for prediction_type in ('epsilon', 'v_prediction', 'sample')]
    close(runs[1], runs[0], 1e-6)
    close(runs[2], runs[0], 1e-6)

@pytest.mark.parametrize('name', ['ddim', 'dpm++2m'])
def test_variance_is_not_used(name):
    net = same_as_theirs()
    start = wave(1, 1, 8, 8)
    runs = [SAMPLERS[name](lambda x, time: change(net(x, time)), Diffusion(), start, steps=5)
             for change in (lambda out: out, lambda out: out[:, :1],
                            lambda out: torch.cat([out[:, :1], out[:, 1:] * float('nan')], 1))]
    assert torch.equal(runs[0], runs[1]) and torch.equal(runs[0], runs[2])

# ---- guidance in part
def counting(calls):
    def denoiser(x, time, condition):
        calls.append((len(x), time[0].item()))
        return torch.cat([condition[:, :1, None, None] * x, x], 1)
    return denoiser

@pytest.mark.parametrize('w, interval, timestep_spacing', [(1., None, 'linspace'), (1., (0, 1000), 'linspace'),
                                                  (1.5, None, 'logsnr'), (1.5, (0, 1000), 'trailing'),
                                                  (1.5, (200, 950), 'logsnr'), (0., (300, 310), 'linspace'),
                                                  (3., (0, 500), 'trailing')])
def test_the_null_branch_is_evaluated_inside_the_interval_only(w, interval, timestep_spacing):
    calls, condition = [], torch.ones(3, 1)
    model = cfg_denoiser(counting(calls), condition, torch.zeros(1), w, interval)
    dpmpp_2m(model, Diffusion(), torch.zeros(3, 1, 2, 2), steps=12, timestep_spacing=timestep_spacing)
    low, high = interval or (0, 1000)
    assert [n for n, _ in calls] == [3 if w == 1 or not low <= time <= high else 6 for _, time in calls]
    assert sum(n for n, _ in calls) == 3 * count_nfe(Diffusion(), 12, w, interval, timestep_spacing)

@pytest.mark.parametrize('interval', [None, (200, 950)])
def test_a_guidance_scale_for_each_item(interval):
    denoiser, x, null = counting([]), wave(3, 1, 4, 4), torch.tensor([-1.])
    q, scales = torch.tensor([[1.], [2.], [3.]]), torch.tensor([1., 1.5, 3.])
    for time in torch.full((3,), 500.), torch.full((3,), 990.):
        each = cfg_denoiser(denoiser, q, null, scales, interval)(x, time)
        for i, w in enumerate(scales.tolist()):
            close(each[i:i + 1], cfg_denoiser(denoiser, q[i:i + 1], null, w, interval)(x[i:i + 1], time[:1]))

def test_a_distilled_network_takes_an_evaluation_a_step():
    assert count_nfe(Diffusion(), 4, 3., (100, 970), guidance_embeds=True) == 4

@pytest.mark.parametrize('strength, times', [(1., [3900, 1000]), (0.8, [3900, 1000]), (0.6, [2000, 1000]),
                                             (0.26, [1000]), (0.01, [500])])
def test_a_distilled_run_takes_its_own_steps(strength, times):
    few, seen = Distilled((1000, 3900), (500, 1000, 2000, 3900), (1., 3.)), []
    def model(x, time): return seen.append(time[0].item() * 4) or torch.zeros(1, 2, 2, 2)
    ddim(model, few.schedule(Diffusion(), strength), torch.zeros(1, 1, 2, 2))
    assert seen == times

@pytest.mark.parametrize('wrong', [((), (3,), (1., 3.)), ((5, 3), (5, 3), (1., 3.)), ((3, 3), (3,), (1., 3.)),
                                   ((3, 5), (3, 4), (1., 3.)), ((3,), (3,), (3., 1.))])
def test_impossible_distilled_runs(wrong):
    with pytest.raises(InputError): Distilled(*wrong)

def test_sixteen_evaluations():
    assert count_nfe(Diffusion(), 11, 1.5, (100, 970), 'logsnr') == 16

def test_outside_the_interval_the_answer_is_the_conditional_one():
    denoiser, x = counting([]), wave(3, 1, 4, 4)
    q, null = torch.tensor([[1.], [2.], [3.]]), torch.tensor([-1.])
    bounded, always = cfg_denoiser(denoiser, q, null, 2., (200, 400)), cfg_denoiser(denoiser, q, null, 2.)
    for time, inside in (0., False), (199.75, False), (200., True), (400., True), (400.25, False), (999.75, False):
        time = torch.full((3,), time)
        assert torch.equal(bounded(x, time), always(x, time) if inside else denoiser(x, time, q))

def test_rescaling():
    denoiser, x = counting([]), wave(3, 1, 8, 8)
    q, null = torch.tensor([[1.], [2.], [3.]]), torch.tensor([-1.])
    time = torch.ones(3)
    cond, guided = denoiser(x, time, q), cfg_denoiser(denoiser, q, null, 3.)(x, time)
    spread = lambda out: out[:, :1].flatten(1).std(1)
    full, part = (cfg_denoiser(denoiser, q, null, 3., guidance_rescale=share)(x, time) for share in (1., 0.7))
    close(spread(full), spread(cond), 1e-5)
    close(part[:, :1], 0.7 * full[:, :1] + 0.3 * guided[:, :1], 1e-5)
    assert torch.equal(full[:, 1:], cond[:, 1:])
    assert torch.equal(cfg_denoiser(denoiser, q, null, 3., guidance_rescale=0.)(x, time), guided)
    close(cfg_denoiser(denoiser, q[2:], null, 3., guidance_rescale=0.7)(x[2:], time[2:]), part[2:], 1e-6)
    def zero(x, time, condition): return torch.cat([0 * x, x], 1)
    silent = cfg_denoiser(zero, q, null, 3., guidance_rescale=1.)(x, time)
    assert torch.equal(silent[:, :1], 0 * x)

@pytest.mark.parametrize('interval', [(600, 200), (300, 300), (-1, 500), (0, 1001), (float('nan'), 500), 500, (1, 2, 3),
                                      'ab', ('0', '9')])
def test_impossible_intervals(interval):
    says = naming('guidance', 'interval', repr(interval))
    with pytest.raises(InputError, match=says): cfg_denoiser(None, torch.ones(1, 1), torch.ones(1), 1., interval)
    with pytest.raises(InputError, match=says): count_nfe(Diffusion(), 5, 1.5, interval)

@pytest.mark.parametrize('rescale', [-0.1, 1.1, float('nan'), None, '1'])
def test_impossible_rescaling(rescale):
    with pytest.raises(InputError, match=naming('rescale', repr(rescale))):
        cfg_denoiser(None, torch.ones(1, 1), torch.ones(1), 1.5, guidance_rescale=rescale)

@pytest.mark.parametrize('name', SAMPLERS)
@pytest.mark.parametrize('timestep_spacing', ['karras', None, ['linspace']])
def test_impossible_spacings(name, timestep_spacing):
    with pytest.raises(InputError, match=naming('timestep_spacing', repr(timestep_spacing), "'trailing'")):
        SAMPLERS[name](None, Diffusion(), torch.zeros(1, 1, 1, 1), generators=clip_generators(0, 1), steps=2,
                       timestep_spacing=timestep_spacing)
