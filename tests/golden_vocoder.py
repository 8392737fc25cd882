"""Golden values of NVIDIA/BigVGAN and jik876/hifi-gan, at weights and inputs from formulas.

`python tests/golden_vocoder.py BIGVGAN HIFIGAN`, with two folders that hold those repositories, runs them and rewrites
the fixture. The tests need neither."""
import contextlib
import importlib
import json
import sys
import zlib
from pathlib import Path

import numpy as np
import torch

from clipsonic.core import atomic_file

FIXTURE = Path(__file__).parent / 'fixtures' / 'vocoders.npz'
MEL = dict(num_mels=8, n_fft=1024, win_size=1024, hop_size=32, sampling_rate=16000, fmin=0, fmax=None)
BLOCKS = dict(resblock='1', resblock_kernel_sizes=[3, 7, 11], resblock_dilation_sizes=[[1, 3, 5]] * 3)
PLAIN = dict(resblock='2', resblock_kernel_sizes=[3, 5, 7], resblock_dilation_sizes=[[1, 2], [2, 6], [3, 12]])
UPS = dict(upsample_rates=[4, 4, 2], upsample_kernel_sizes=[8, 8, 4], upsample_initial_channel=16)
GENERATORS = {
    'bigvgan snakebeta': {**MEL, **UPS, **BLOCKS, 'activation': 'snakebeta', 'snake_logscale': True},
    'bigvgan snake': {**MEL, **UPS, **PLAIN, 'activation': 'snake', 'snake_logscale': False},
    'bigvgan v2': {**MEL, **BLOCKS, 'upsample_rates': [8, 2, 2], 'upsample_kernel_sizes': [16, 4, 4],
                   'upsample_initial_channel': 24, 'activation': 'snakebeta', 'snake_logscale': True,
                   'use_tanh_at_final': False, 'use_bias_at_final': False},
    'hifigan 1': {**MEL, **UPS, **BLOCKS, 'num_mels': 80},  # the original has 80 bands written into its code
    'hifigan 2': {**MEL, **UPS, **PLAIN, 'num_mels': 80},
}
DISCRIMINATORS = dict(discriminator_channel_mult=0.125, mpd_reshapes=[2, 3, 5, 7, 11], use_spectral_norm=False,
                      resolutions=[[1024, 120, 600], [2048, 240, 1200], [512, 50, 240]])

def wave(*shape, k=0):
    "Numbers in (−1, 1) that look random and are the same everywhere."
    i = torch.arange(int(np.prod(shape)))
    return ((i * i * 7919 + i * 104729 + k * 15485863) % 65521 / 32760.5 - 1).view(shape)

def weight(name, shape, log_scale=True):
    "The value of a published parameter, from its name."
    value = wave(*shape, k=zlib.crc32(name.encode()) % 9973)
    if name.endswith(('alpha', 'beta')): return 0.3 * value if log_scale else 1 + 0.3 * value
    if name.endswith('weight_g'): return 0.75 + 0.2 * value
    return 0.1 * value if name.endswith('bias') else value

def mel(bands): return 2 * wave(2, bands, 11, k=5) - 3

def sound(k, samples=8192): return 0.3 * wave(1, 1, samples, k=k)

@contextlib.contextmanager
def checkout(folder):
    "Modules of a repository, by name; forgotten afterwards, as the two share names."
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    try: yield importlib.import_module
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            if str(folder) in str(getattr(sys.modules[name], '__file__', '')): del sys.modules[name]

def generators(kind, make, settings_of):
    "Outputs and layouts of the generators of a repository, by name, and the filter of its activations."
    found, layouts = {}, {}
    for name, settings in GENERATORS.items():
        if not name.startswith(kind): continue
        network = make(settings_of(settings)).eval()
        state = network.state_dict()
        for key, value in state.items():
            if 'filter' in key: found['filter'] = value.numpy()
            else: value.copy_(weight(key, value.shape, settings.get('snake_logscale', True)))
        found[name] = network(mel(settings['num_mels'])).numpy()
        layouts[name] = {k: list(v.shape) for k, v in state.items()}
        print(name, 'spread', found[name].std())
    return found, layouts

def discriminators(makes, losses):
    "Scores and losses of the discriminators of a repository, by name."
    found = {}
    for name, make in makes.items():
        network, first = make().eval(), 1 if name == 'msd' else 0  # the first of msd has spectral normalization
        for key, value in network.state_dict().items():
            if name != 'msd' or not key.startswith('discriminators.0'): value.copy_(weight(key, value.shape))
        real, made, real_maps, made_maps = (part[first:] for part in network(sound(1), sound(2)))
        three = [losses.discriminator_loss(real, made)[0], losses.generator_loss(made)[0],
                 losses.feature_loss(real_maps, made_maps)]
        found[f'{name} scores'] = torch.cat([s.flatten() for s in real + made])[::16].numpy()
        found[f'{name} losses'] = np.array(three, np.float32)
        print(name, found[f'{name} losses'], len(found[f'{name} scores']))
    return found

@torch.no_grad()
def main(bigvgan, hifigan):
    with checkout(bigvgan) as module:
        settings_of, networks = module('env').AttrDict, module('discriminators')
        found, layouts = generators('bigvgan', module('bigvgan').BigVGAN, settings_of)
        makes = {'mpd': lambda: networks.MultiPeriodDiscriminator(settings_of(DISCRIMINATORS)),
                 'mrd': lambda: networks.MultiResolutionDiscriminator(settings_of(DISCRIMINATORS))}
        found |= discriminators(makes, module('loss'))
    with checkout(hifigan) as module:
        networks = module('models')
        more, more_layouts = generators('hifigan', networks.Generator, module('env').AttrDict)
        found |= more | discriminators({'msd': networks.MultiScaleDiscriminator}, networks)
        layouts |= more_layouts
    how = (f'Made by tests/golden_vocoder.py from NVIDIA/BigVGAN and jik876/hifi-gan with torch {torch.__version__}; '
           'the settings, weights and inputs are formulas of that file.')
    with atomic_file(FIXTURE) as partial, open(partial, 'wb') as file:
        np.savez_compressed(file, how=how, layouts=json.dumps(layouts), **found)
    print(FIXTURE, FIXTURE.stat().st_size, 'bytes')

if __name__ == '__main__': main(*sys.argv[1:])
