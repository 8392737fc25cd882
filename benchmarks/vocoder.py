"""Vocoders on this machine's CPU: against the original code at the same weights, against real time, and in memory.

    python benchmarks/vocoder.py --bigvgan CHECKOUT --hifigan CHECKOUT

CHECKOUT is a folder that holds NVIDIA/BigVGAN or jik876/hifi-gan; without one its rows are left out. Theirs and ours
decode the same mel of 4 s at 16 kHz in turn, in one process, and the medians and the median of the ratios are printed.
Memory is the peak of a separate process that decodes a sound of that length."""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / 'tests'))
from golden_vocoder import checkout  # noqa: E402

from clipsonic.gan_vocoder import Generator, GeneratorConfig  # noqa: E402
from clipsonic.vocoder import Vocoder, convert_vocoder  # noqa: E402

SETTINGS = dict(upsample_rates=[8, 8, 4, 2], upsample_kernel_sizes=[16, 16, 8, 4],
                resblock='1', resblock_kernel_sizes=[3, 7, 11], resblock_dilation_sizes=[[1, 3, 5]] * 3,
                n_fft=2048, win_size=2048, hop_size=512, sampling_rate=16000, fmin=0, fmax=8000)
ROWS = {'BigVGAN-base': ('bigvgan', 512), 'BigVGAN, 256 channels': ('bigvgan', 256),
        'BigVGAN, 128 channels': ('bigvgan', 128), 'HiFi-GAN V1': ('hifigan', 512), 'HiFi-GAN V2': ('hifigan', 128)}

@torch.inference_mode()
def original(folder, kind, settings):
    "The original generator at random weights, weight normalization removed."
    with checkout(folder) as module:
        make = module('bigvgan').BigVGAN if kind == 'bigvgan' else module('models').Generator
        network = make(module('env').AttrDict(settings)).eval()
        network.remove_weight_norm()
    g = torch.Generator().manual_seed(0)
    for name, value in network.state_dict().items():
        scale = value[0].numel() ** -0.5 * (0.5 if 'resblocks' in name else 1) if value.ndim else 1
        if name.endswith(('alpha', 'beta')): value.copy_(0.3 * torch.randn(value.shape, generator=g))
        elif value.ndim == 3 and 'filter' not in name: value.copy_(torch.randn(value.shape, generator=g) * scale)
    return network

@torch.inference_mode()
def compare(kind, channels, folder, rounds):
    "Parameters, seconds of theirs and ours in pairs, and the largest difference of their waveforms."
    bands = 80 if kind == 'hifigan' else 64  # the original HiFi-GAN has 80 written into its code
    settings = SETTINGS | dict(num_mels=bands, upsample_initial_channel=channels)
    if kind == 'bigvgan': settings |= dict(activation='snakebeta', snake_logscale=True)
    theirs = original(folder, kind, settings)
    with tempfile.TemporaryDirectory() as home:
        torch.save({'generator': theirs.state_dict()}, f'{home}/generator')
        Path(home, 'config.json').write_text(json.dumps(settings))
        ours = Vocoder.load(convert_vocoder(f'{home}/generator', f'{home}/config.json', f'{home}/ours'), 'cpu')
    mel = torch.randn(1, 1, bands, 125, generator=torch.Generator().manual_seed(1)) - 4
    error, pairs = (theirs(mel[:, 0]) - ours(mel)).abs().max().item(), []
    for _ in range(rounds):
        t0 = time.perf_counter(); theirs(mel[:, 0])
        t1 = time.perf_counter(); ours(mel)
        pairs.append((t1 - t0, time.perf_counter() - t1))
    return sum(p.numel() for p in ours.network.parameters()), pairs, error

def decode(name, seconds):
    "Decodes a mel of this length; prints the process's peak memory in MB and the seconds it took."
    if name in ('pocket', 'griffin-lim'): vocoder = Vocoder.load(name, 'cpu')
    else: vocoder = Vocoder(Generator(GeneratorConfig(channels=int(name))).eval().requires_grad_(False))
    mel = torch.randn(1, 1, 64, round(seconds * 31.25), generator=torch.Generator().manual_seed(0)) - 4
    vocoder(mel[..., :32])
    t = time.perf_counter()
    vocoder(mel)
    took = time.perf_counter() - t
    status = Path('/proc/self/status').read_text().splitlines()  # ru_maxrss would hold the parent's
    peak = next(line for line in status if line.startswith('VmHWM'))
    print(json.dumps([int(peak.split()[1]) / 1024, took]))

def table_of_generators(args):
    print(f'{"generator":24}{"parameters":>12}{"original":>12}{"ours":>10}'
          f'{"faster":>9}{"× real time":>13}{"error":>10}')
    for name, (kind, channels) in ROWS.items():
        if not (folder := getattr(args, kind)): continue
        parameters, pairs, error = compare(kind, channels, folder, args.rounds)
        theirs, ours = (median(x) for x in zip(*pairs))
        faster = median(x / y for x, y in pairs)
        print(f'{name:24}{parameters / 1e6:>10.1f} M{theirs:>10.3f} s{ours:>8.3f} s{faster:>8.2f}×'
              f'{4 / ours:>13.1f}{error:>10.0e}', flush=True)

def table_of_lengths(args):
    print(f'\n{"vocoder":24}{"sound":>12}{"took":>12}{"× real time":>13}{"peak memory":>14}')
    for name, title in ('pocket', 'pocket'), ('griffin-lim', 'griffin-lim'), ('128', 'BigVGAN, 128 channels'):
        for seconds in 10, 120, 600:  # one piece, a few, many
            command = [sys.executable, __file__, '--threads', str(args.threads), '--decode', name, str(seconds)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            memory, took = json.loads(done.stdout)
            print(f'{title:24}{seconds:>10} s{took:>10.2f} s{seconds / took:>13.1f}{memory:>11.0f} MB', flush=True)

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--bigvgan', help='folder of NVIDIA/BigVGAN')
    p.add_argument('--hifigan', help='folder of jik876/hifi-gan')
    p.add_argument('--threads', type=int, default=os.cpu_count())
    p.add_argument('--rounds', type=int, default=7)
    p.add_argument('--decode', nargs=2, help=argparse.SUPPRESS)
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    if args.decode: return decode(args.decode[0], float(args.decode[1]))
    print(f'torch {torch.__version__}, {args.threads} threads, {args.rounds} rounds, 4 s at 16 kHz\n')
    table_of_generators(args)
    table_of_lengths(args)

if __name__ == '__main__': main()
