"""Golden numbers of openai/improved-diffusion, at weights and inputs that a formula gives, so that only answers are
stored.

`python tests/golden.py CHECKOUT`, with CHECKOUT a folder that holds that repository, runs it and rewrites the fixture.
Nothing of it is needed to run the tests."""
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from clipsonic.core import atomic_file
from clipsonic.unet import UNet, UNetConfig

FIXTURE = Path(__file__).parent/'fixtures'/'improved_diffusion.npz'
HOW = ('Made by tests/golden.py from openai/improved-diffusion (commit {commit}) with torch {torch}: '
       'UNetModel(in_channels=1, model_channels=32, out_channels=2, num_res_blocks=1, attention_resolutions=(2, 4), '
       'channel_mult=(1, 2, 2), num_heads=4, use_scale_shift_norm=True), cosine schedule of 4000 steps, '
       'learned variance range, rescaled MSE and time. Weights, inputs and noise are squares modulo a prime: '
       'see fill and wave.')
UNET = dict(model_channels=32, channel_mult=(1, 2, 2), num_res_blocks=1, attention_resolutions=(32, 16), num_heads=4,
            condition_dim=8)
TIMES = torch.tensor([0, 1, 1999, 3999])        # where losses and posteriors are compared
ROWS = np.r_[0:20, 20:3980:20, 3980:4000]       # rows of the tables that are stored
STEPS = 10                                      # of the shortened sampling runs

def wave(*shape, k=0):
    "Numbers in (−1, 1) that look random and are the same everywhere."
    i = torch.arange(int(np.prod(shape)))
    return ((i * i * 7919 + i * 104729 + k * 15485863) % 65521 / 32760.5 - 1).view(shape)

def fill(parameters):
    "Set (name, parameter) pairs, in their order, to waves of a size that keeps the features' size."
    with torch.no_grad():
        for k, (name, p) in enumerate(parameters):
            norm = p.ndim == 1 and name.endswith('weight')
            scale = 0.1 if p.ndim == 1 else 1.5 / p[0].numel()**0.5
            p.copy_(1 + 0.1 * wave(*p.shape, k=k) if norm else wave(*p.shape, k=k) * scale)

def network(config):
    "A network of ours with formula weights, so that nothing is zero and no random state is touched."
    with torch.device('meta'): net = UNet(config)
    net = net.to_empty(device='cpu').eval()
    fill(net.named_parameters())
    return net

def same_as_theirs():
    "Our network at the original's weights: the same parameters in the same order, and no condition."
    net = network(UNetConfig(**UNET))
    fill((n, p) for n, p in net.named_parameters() if not n.startswith(('project', 'null')))
    with torch.no_grad():
        for p in net.project.parameters(): p.zero_()
    return net

def close(a, b, tolerance=1e-5): torch.testing.assert_close(a, b, atol=tolerance, rtol=0)

class Noise:
    "Stands in for a source of random numbers: the nth call gives the nth wave."
    def __init__(self): self.calls = 0
    def __call__(self, like):
        self.calls += 1
        return 1.4 * wave(*like.shape, k=100 + self.calls)

def golden():
    "The stored numbers: name → tensor."
    with np.load(FIXTURE) as f: return {k: torch.from_numpy(f[k]) for k in f.files if k != 'how'}

def make(checkout):
    "Run the original and store what it answers."
    import subprocess
    sys.path.insert(0, str(checkout))
    from improved_diffusion.script_util import create_gaussian_diffusion
    from improved_diffusion.unet import UNetModel
    def process(respacing=''):
        return create_gaussian_diffusion(steps=4000, learn_sigma=True, noise_schedule='cosine', rescale_timesteps=True,
                                         rescale_learned_sigmas=True, timestep_respacing=respacing)
    net = UNetModel(1, 32, 2, 1, (2, 4), channel_mult=(1, 2, 2), num_heads=4, use_scale_shift_norm=True).eval()
    fill(net.named_parameters())
    whole, short = process(), process([STEPS])
    x, x0 = 1.4 * wave(4, 1, 16, 16), wave(4, 1, 16, 16, k=1)
    noise = 1.4 * wave(4, 1, 16, 16, k=2)
    out = {'betas': whole.betas, 'log_variance': whole.posterior_log_variance_clipped[ROWS],
           'mean_x0': whole.posterior_mean_coef1[ROWS], 'mean_xt': whole.posterior_mean_coef2[ROWS],
           'short_betas': short.betas, 'short_times': np.array(short.timestep_map),
           'posterior': whole.q_posterior_mean_variance(x0, x, TIMES)[0]}
    with torch.no_grad(): out['unet'] = net(wave(2, 1, 32, 32), torch.tensor([0.25, 731.5]))
    losses = whole.training_losses(net, x0, TIMES, noise=noise)
    losses['loss'].mean().backward()
    out |= {k: losses[k].detach() for k in ('loss', 'mse', 'vb')}
    out |= {'grad_first': net.input_blocks[0][0].weight.grad, 'grad_last': net.out[2].weight.grad}
    with torch.no_grad(), mock.patch('torch.randn_like', Noise()):
        i = torch.tensor([0, 1, 5, 9])
        out['step'] = short.p_sample(net, x, i)['sample']
    for name, loop in {'ddpm': short.p_sample_loop, 'ddim': short.ddim_sample_loop,
                       'ddim_eta': lambda *a, **k: short.ddim_sample_loop(*a, **k, eta=0.7)}.items():
        with mock.patch('torch.randn_like', Noise()): out[name] = loop(net, x.shape, noise=x)
    commit = subprocess.run(['git', '-C', str(checkout), 'rev-parse', '--short', 'HEAD'], capture_output=True,
                            text=True).stdout.strip() or 'unknown'
    with atomic_file(FIXTURE) as file:
        np.savez_compressed(file, how=HOW.format(commit=commit, torch=torch.__version__),
                            **{k: np.asarray(v) for k, v in out.items()})

if __name__ == '__main__': make(Path(sys.argv[1]))
