"""How long a warm `generate` takes: as it is, compiled, in half precision, and with more evaluations of the network, in one process.

    OMP_NUM_THREADS=2 python benchmarks/generate.py
    python benchmarks/generate.py --seconds 10 --paper      # and once as the paper samples: minutes
    python benchmarks/generate.py --model my-model --device cuda
"""
import argparse
import time
from statistics import median

import torch

from clipsonic.core import noise_streams
from clipsonic.pipeline import Pipeline

ALWAYS = {"guidance_interval": (0, 1000)}  # as everybody guides who does not say otherwise


def seconds(work):
    if torch.cuda.is_available(): torch.cuda.synchronize()
    start = time.perf_counter()
    result = work()
    if torch.cuda.is_available(): torch.cuda.synchronize()
    return time.perf_counter() - start, result


def parts(pipeline, prompt, length):
    "Seconds of each stage of one sound."
    streams = noise_streams(1, 1)
    text, condition = seconds(lambda: pipeline.system("pd" if "pd" in pipeline.priors else "zs").query(prompt, streams))
    painting, mel = seconds(lambda: pipeline.painter.paint(condition, streams, length))
    vocoder, _ = seconds(lambda: pipeline.vocoder(mel))
    return {"text and prior": text, "painting": painting, "vocoder": vocoder}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--prompt", default="a dog barking")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--paper", action="store_true", help="also 1 000 ancestral steps, once")
    args = parser.parse_args()
    plain, compiled, half = (Pipeline.load(args.model, args.device, **how) for how in ({}, {"compile": True}, {"precision": "bfloat16"}))
    ways = {"the default": (plain, {}), "the default, compiled": (compiled, {}), "the default, bfloat16": (half, {}),
            "25 steps of DDIM": (plain, {"sampler": "ddim", "steps": 25} | ALWAYS)}
    def one(pipeline, settings): return seconds(lambda: pipeline.generate(args.prompt, seconds=args.seconds, seed=1, progress=False, **settings))[0]
    times = [{name: one(*way) for name, way in ways.items()} for _ in range(args.rounds + 2)][2:]  # in turn; the first two rounds warm up
    print(f"{args.seconds:g} s of sound, {args.model}, {args.device}, {torch.get_num_threads()} threads, medians of {args.rounds}:")
    for name in ways:
        found = sorted(t[name] for t in times)
        print(f"  {name:24}{median(found):7.3f} s ({found[0]:.3f} to {found[-1]:.3f})")
    if args.paper: print(f"  {'1 000 ancestral steps':24}{one(plain, {'sampler': 'ddpm', 'steps': 1000} | ALWAYS):7.3f} s, once")
    stages = [parts(plain, args.prompt, args.seconds) for _ in range(args.rounds)]
    print("  the default: " + ", ".join(f"{name} {median(s[name] for s in stages):.3f} s" for name in stages[0]))
