"""The Fréchet distance on this machine's CPU: beside the statistic of the frechet-audio-distance package, on the same
features.

    pip install --no-deps --target FOLDER frechet-audio-distance
    python benchmarks/fad.py --package FOLDER

Ours and theirs go in turn, in one process, from features (float32) to the number, and from kept statistics (theirs mean
and covariance, ours `Moments`) to the number; medians, the median of the ratios and the relative difference of the
numbers are printed. On a machine that is shared, go by the ratio of the CPU's seconds ("less work"). Only the package's
statistic is run (mean, covariance, scipy's sqrtm): the embedders and readers that it imports besides are replaced by
stand-ins, so that nothing else need be installed. Without --package its columns are left out. The last rows are ours
alone: many clips at once, and in batches."""
import argparse
import os
import sys
import time
import warnings
from statistics import median
from unittest import mock

import torch

from clipsonic.fad import Moments, frechet_distance

STAND_INS = ('laion_clap', 'encodec', 'resampy', 'torchlibrosa', 'torchlibrosa.stft', 'torchlibrosa.augmentation')
PAIRS = ((4096, 2048, 'more clips than dimensions'), (4096, 2048, 'a steep spectrum'),
         (512, 2048, 'fewer: the low-rank path'), (4096, 512, 'CLAP\'s dimension'), (4096, 128, 'VGGish\'s dimension'))

def package(folder):
    "The package's statistic in two steps: features (numpy) → mean and covariance; two of those → a number."
    sys.path.insert(0, folder)
    with mock.patch.dict(sys.modules, {name: mock.MagicMock() for name in STAND_INS}):
        from frechet_audio_distance.fad import FrechetAudioDistance
    theirs = object.__new__(FrechetAudioDistance)   # its constructor loads a network
    return theirs.calculate_embd_statistics, lambda a, b: theirs.calculate_frechet_distance(*a, *b)

def features(n, d, seed):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) * torch.linspace(0.5, 2, d)

def timed(function, *sets):
    "What a function gives, and its seconds: on the clock, and of the CPU."
    t, cpu = time.perf_counter(), time.process_time()
    value = function(*sets)
    return value, torch.tensor([time.perf_counter() - t, time.process_time() - cpu])

def measured(statistics, distance, a, b):
    "The number, and the seconds from features and from statistics."
    (ka, t1), (kb, t2) = timed(statistics, a), timed(statistics, b)
    value, t = timed(distance, ka, kb)
    return float(value), t1 + t2 + t, t

def streamed(a, b):
    "As an evaluation does: the features come in batches of 500."
    a, b = (list(x.split(500)) for x in (a, b))
    moments = [Moments.of(x[0]) for x in (a, b)]
    for i, x in enumerate((a, b)):
        for batch in x[1:]: moments[i] = moments[i].add(batch)
    return frechet_distance(*moments)

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--package', help='folder that frechet-audio-distance was installed to')
    p.add_argument('--threads', type=int, default=os.cpu_count())
    p.add_argument('--rounds', type=int, default=3)
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    warnings.simplefilter('ignore', DeprecationWarning)   # of scipy, for what the package asks of it
    theirs = package(args.package) if args.package else None
    frechet_distance(features(64, 32, 0), features(64, 32, 1))   # libraries are loaded
    print(f'torch {torch.__version__}, {args.threads} threads, {args.rounds} rounds\n')
    print(f'{"clips":>7}{"dimensions":>12}  {"from":12}{"theirs":>10}{"ours":>11}{"faster":>9}{"less work":>11}'
          f'{"difference":>12}')
    for n, d, remark in PAIRS:
        a, b = features(n, d, 0), features(n, d, 1) + 0.1
        if 'steep' in remark: a, b = (x * torch.logspace(0, -3, d) for x in (a, b))
        rounds = [(measured(*theirs, a.numpy(), b.numpy()) if theirs else None,
                   measured(Moments.of, frechet_distance, a, b)) for _ in range(args.rounds)]
        for i, start in (1, 'features'), (2, 'statistics'):
            ours = median(o[i][0].item() for _, o in rounds)
            if not theirs:
                print(f'{n:>7}{d:>12}  {start:12}{"":10}{ours:>9.3f} s  {remark}')
                continue
            their = median(t[i][0].item() for t, _ in rounds)
            faster = median((t[i][0] / o[i][0]).item() for t, o in rounds)
            less = median((t[i][1] / o[i][1]).item() for t, o in rounds)
            off = abs(rounds[0][0][0] / rounds[0][1][0] - 1)
            print(f'{n:>7}{d:>12}  {start:12}{their:>8.2f} s{ours:>9.3f} s{faster:>8.1f}×{less:>10.1f}×{off:>12.0e}'
                  f'  {remark}', flush=True)
    for d in 128, 512:
        a, b = features(20_000, d, 0), features(20_000, d, 1) + 0.1
        for function, remark in (frechet_distance, 'at once'), (streamed, 'in batches of 500'):
            seconds = median(timed(function, a, b)[1][0].item() for _ in range(args.rounds))
            print(f'{20_000:>7}{d:>12}  {"features":12}{"":10}{seconds:>9.3f} s  {remark}', flush=True)

if __name__ == '__main__': main()
