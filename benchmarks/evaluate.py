"""How long `evaluate` takes where all features are cached, and whether a fresh run waits for the network or for the
files.

    python benchmarks/evaluate.py              # 20 000 clips, half on each side, then 300 clips of 4 s in two formats
    python benchmarks/evaluate.py --clips 4000 --fresh 50
"""
import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from clipsonic.core import Audio
from clipsonic.embedders import Embedder, load_embedder
from clipsonic.evaluate import FeatureCache, evaluate, find_sounds, load_for_scoring, cache_key, extract_features
from clipsonic.vggish import VGGISH_SAMPLE_RATE, VGGish, embed_vggish


def timed(work, rounds):
    "Median seconds of some rounds, and what the last one returned."
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), result


def warm(folder, clips, dim, rounds):
    """FAD of files whose features are all in the cache: find, stat, read, and the distance, without and with its
    interval."""
    def nobody(waveform): raise AssertionError("a cached clip was embedded")
    embedder, sets = Embedder(f"{dim} dimensions", "0", 16000, nobody), []
    for which in ("made", "real"):
        (folder / which).mkdir(exist_ok=True)
        for i in range(clips): (folder / which / f"{i:06d}.wav").write_text(f"{which} {i}")
        sets.append(folder / which)
    cache = FeatureCache(folder / f"{dim}.sqlite")
    for which, shift in zip(sets, (0.0, 0.1)):
        sounds, features = find_sounds(which), torch.randn(clips, 1, dim) + shift
        digests = cache.file_hashes(sounds)
        cache.put(cache_key(embedder), {digests[s.name]: row for s, row in zip(sounds, features)})
    cache.db.close()
    for n_resamples, n in ((0, rounds), (200, 1)):
        options = dict(cache_file=folder / f"{dim}.sqlite", n_resamples=n_resamples, progress=False)
        seconds, row = timed(lambda: evaluate(*sets, embedder=embedder, metrics=["fad"], **options), n)
        fad = row["fad"]
        print(f"  {dim:5} dimensions, {'with' if n_resamples else 'without'} interval: {seconds:6.2f} s  "
              f"(FAD {fad['value']:.4f} of {fad['n']:,} clips)")


def embedders():
    "The smallest embedder, and one of the published ones, whose time does not depend on its weights."
    torch.manual_seed(0)
    vggish = VGGish().eval()
    def embed(waveform): return embed_vggish(vggish, waveform[None], VGGISH_SAMPLE_RATE)[0]
    return load_embedder("pocket"), Embedder("VGGish with random weights", "0", VGGISH_SAMPLE_RATE, embed)


def alone(embedder, waveforms, clips):
    "The network by itself."
    for i in range(clips): embedder.extract_features(waveforms[i % len(waveforms)])


def fresh(folder, clips, rounds):
    "Feature extraction with and without threads that decode, beside the network alone."
    for kind, rate in ("flac", 44100), ("wav", 16000):
        home = folder / kind
        home.mkdir()
        for i in range(clips): Audio(0.1 * torch.randn(1, 4 * rate), rate).save(home / f"{i}.{kind}")
        for embedder in embedders():
            sounds = find_sounds(home)
            waveforms = [embedder.preprocess(load_for_scoring(s.path)) for s in sounds[:50]]
            ways = {"the network alone": lambda: alone(embedder, waveforms, clips)}
            ways |= {f"with {n} workers": lambda n=n: extract_features(sounds, embedder, FeatureCache(":memory:"), n,
                                                                progress=False) for n in (0, 2)}
            seconds = {name: [] for name in ways}
            with torch.no_grad():
                for _ in range(rounds):  # in turn, so that all meet the same neighbours
                    for name, way in ways.items(): seconds[name].append(timed(way, 1)[0])
            print(f"{clips} files of 4 s, {kind} at {rate} Hz, {embedder.name}:")
            for name, found in seconds.items():
                ratios = sorted(s / one for s, one in zip(found, seconds["the network alone"]))
                print(f"  {name:20}{statistics.median(found) / clips * 1000:6.1f} ms a clip, "
                      f"{statistics.median(ratios):.2f} times the network ({ratios[0]:.2f} to {ratios[-1]:.2f})",
                      flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=20_000, help="files of the warm run, half of them on each side")
    parser.add_argument("--fresh", type=int, default=300, help="files of 4 s to embed, of each format")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        print(f"{args.clips:,} clips, half on each side, all features in the cache "
              f"({torch.get_num_threads()} threads):")
        for dim in (128, 512): warm(Path(home), args.clips // 2, dim, args.rounds)
        fresh(Path(home), args.fresh, args.rounds)
