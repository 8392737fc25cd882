"""Schedule, posterior and loss against the original's numbers and against first principles."""
import math

import numpy as np
import pytest
import torch
from golden import ROWS, STEPS, TIMES, close, golden, same_as_theirs, wave

from clipsonic.core import InputError
from clipsonic.diffusion import Diffusion, cosine_betas, discretized_gaussian_log_likelihood, normal_kl
from conftest import naming

def test_the_original_tables():
    d, g = Diffusion(), golden()
    np.testing.assert_allclose(d.betas, g['betas'], atol=1e-14)
    for table, theirs in ((d.posterior_log_variance_clipped, 'log_variance'), (d.posterior_mean_coef1, 'mean_x0'),
                          (d.posterior_mean_coef2, 'mean_xt')):
        np.testing.assert_allclose(table[ROWS], g[theirs], rtol=1e-10)

def test_the_original_posterior():
    x, x0 = 1.4 * wave(4, 1, 16, 16), wave(4, 1, 16, 16, k=1)
    close(Diffusion().q_posterior(x0, x, TIMES)[0], golden()['posterior'])

def test_the_original_loss_and_gradients():
    net, g = same_as_theirs(), golden()
    loss, parts = Diffusion().hybrid_loss(net, wave(4, 1, 16, 16, k=1), TIMES, 1.4 * wave(4, 1, 16, 16, k=2))
    for ours, theirs in (loss, 'loss'), (parts['mse'], 'mse'), (parts['vlb'], 'vb'):
        torch.testing.assert_close(ours, g[theirs], rtol=1e-5, atol=1e-5)
    loss.mean().backward()
    for p, name in (net.down[0].weight, 'grad_first'), (net.out[2].weight, 'grad_last'):
        assert (p.grad - g[name]).norm() < 1e-5 * g[name].norm()

def test_the_original_respacing():
    short, g = Diffusion().respace(STEPS), golden()
    np.testing.assert_allclose(short.betas, g['short_betas'], atol=1e-14)
    np.testing.assert_array_equal(short.timestep_map * 4, g['short_times'])

@pytest.mark.parametrize('steps', [1, 2, 25, 31, 250, 999, 1000, 3999, 4000])
def test_respacing_keeps_the_signal(steps):
    d = Diffusion()
    short = d.respace(steps)
    kept = (short.timestep_map * 4).round().astype(int)
    assert short.T == steps == len(set(kept)) and kept[-1] == 3999
    np.testing.assert_allclose(short.alpha_bar, d.alpha_bar[kept], rtol=1e-9, atol=1e-14)

@pytest.mark.parametrize('steps', [0, -3, 4001, 2.5, None, 'ten'])
def test_impossible_respacing(steps):
    with pytest.raises(InputError, match=naming('steps', steps)): Diffusion().respace(steps)

@pytest.mark.parametrize('betas', [[0.1, 0.], [0.1, 1.], [0.1, float('nan')], [], [[0.1]]])
def test_impossible_schedules(betas):
    with pytest.raises(InputError, match=naming('betas', np.asarray(betas))): Diffusion(betas)

@pytest.mark.parametrize('T', [0, -1, 2.5])
def test_impossible_lengths(T):
    with pytest.raises(InputError, match=naming('T', T)): cosine_betas(T)

def test_posterior_is_bayes():
    "q(x_{t−1}|x_t, x_0) ∝ q(x_t|x_{t−1}) q(x_{t−1}|x_0), multiplied out on a grid"
    d = Diffusion(cosine_betas(50))
    t = 20
    x0, xt = 0.3, -0.4
    x, before = np.linspace(-4, 4, 80001), d.alpha_bar[t-1]
    log_p = -(xt - (1 - d.betas[t])**0.5 * x)**2 / (2 * d.betas[t])
    log_p -= (x - before**0.5 * x0)**2 / (2 * (1 - before))
    p = np.exp(log_p - log_p.max())
    p /= p.sum()
    mean, log_variance = d.q_posterior(torch.tensor([[x0]], dtype=torch.float64),
                                     torch.tensor([[xt]], dtype=torch.float64), torch.tensor([t]))
    assert mean.item() == pytest.approx((p * x).sum(), abs=1e-6)
    assert log_variance.exp().item() == pytest.approx((p * x**2).sum() - (p * x).sum()**2, rel=1e-5)

def test_there_and_back():
    d, t = Diffusion(), torch.tensor([0, 10, 500, 2000, 3000])
    x0, noise = wave(5, 1, 4, 4), wave(5, 1, 4, 4, k=1)
    xt = d.q_sample(x0, t, noise)
    close(d.predict_x0(xt, t, noise), x0, 1e-4)
    close(d.predict_eps(xt[1:], t[1:], x0[1:]), noise[1:], 1e-4)

def test_variance_interpolates_between_its_bounds():
    d = Diffusion()
    x, t = wave(3, 1, 2, 2), torch.tensor([1, 100, 3999])
    at = lambda v: d.p_mean_variance(torch.cat([torch.zeros_like(x), torch.full_like(x, v)], 1), x, t)[1][:, 0, 0, 0]
    np.testing.assert_allclose(at(1.), np.log(d.betas[t]), rtol=1e-5)
    np.testing.assert_allclose(at(-1.), d.posterior_log_variance_clipped[t], rtol=1e-5)
    close(at(0.), (at(1.) + at(-1.)) / 2)

def test_bins_sum_to_one():
    levels = torch.linspace(-1, 1, 256)
    for mean in (-0.97, 0., 0.501):
        mass = discretized_gaussian_log_likelihood(levels, torch.tensor(mean), torch.tensor(-6.)).exp()
        assert mass.sum() == pytest.approx(1, abs=1e-4)

def test_divergence_is_torchs():
    from torch.distributions import Normal, kl_divergence
    a, b, c, d = (wave(7, k=k) for k in range(4))
    close(normal_kl(a, b, c, d), kl_divergence(Normal(a, (b / 2).exp()), Normal(c, (d / 2).exp())))

def test_the_bound_teaches_only_the_variance():
    d, x0 = Diffusion(), wave(2, 1, 4, 4)
    output = wave(2, 2, 4, 4, k=1).requires_grad_()
    noise, t = wave(2, 1, 4, 4, k=2), torch.tensor([0, 700])
    loss, parts = d.hybrid_loss(lambda x, time: output, x0, t, noise)
    grad, = torch.autograd.grad(loss.sum(), output, retain_graph=True)
    mse, = torch.autograd.grad(((noise - output[:, :1])**2).flatten(1).mean(1).sum(), output)
    close(grad[:, :1], mse[:, :1])
    assert grad[:, 1:].any() and not mse[:, 1:].any()
    close(loss.detach(), parts['mse'] + parts['vlb'])

def test_half_precision_model_and_double_data():
    d, x0 = Diffusion(), wave(2, 1, 4, 4)
    model = lambda x, time: torch.cat([x, x], 1).bfloat16()
    loss, _ = d.hybrid_loss(model, x0, torch.tensor([5, 3000]), wave(2, 1, 4, 4, k=1))
    assert loss.dtype == torch.float32 and loss.isfinite().all()
    assert d.q_sample(x0.double(), torch.tensor([5, 6]), x0.double()).dtype == torch.float64

def test_the_network_s_time_runs_to_a_thousand():
    for T in (4000, 1000, 10):
        times = Diffusion(cosine_betas(T)).model_timesteps(torch.tensor([0, T - 1])).tolist()
        assert times == pytest.approx([0, 1000 - 1000 / T])
    assert math.isclose(Diffusion().respace(3).model_timesteps(torch.tensor([1])).item(), 2000 / 4, abs_tol=0.25)

def test_epsilon_and_velocity_give_the_same_step():
    "The true ε and the true velocity imply the same distribution of the step before, and no error."
    eps, velocity = Diffusion(), Diffusion(prediction_type='v_prediction')
    x0, t = wave(4, 1, 4, 4), torch.tensor([1, 400, 2000, 3000])
    noise, v = wave(4, 1, 4, 4, k=1), wave(4, 1, 4, 4, k=2)
    xt, target = eps.q_sample(x0, t, noise), velocity.target(x0, t, noise)
    by_eps = eps.p_mean_variance(torch.cat([noise, v], 1), xt, t)
    by_velocity = velocity.p_mean_variance(torch.cat([target, v], 1), xt, t)
    for a, b in zip(by_eps, by_velocity, strict=True): close(a, b, 1e-4)
    _, parts = velocity.hybrid_loss(lambda x, time: torch.cat([target, v], 1), x0, t, noise)
    close(parts['mse'], torch.zeros(4))
    assert velocity.respace(7).prediction_type == 'v_prediction'
    with pytest.raises(InputError, match=naming('prediction_type', "'sideways'", "'v_prediction'")):
        Diffusion(prediction_type='sideways')
