"""How long a warm `generate` takes: as it is, compiled, in half precision, and with more evaluations of the network, in
one process; with `--beside`, in this checkout and another in turn; or, with `--cold`, how long the command takes from
the prompt to the file, beside `import torch` alone and other checkouts.

    OMP_NUM_THREADS=2 python benchmarks/generate.py
    OMP_NUM_THREADS=2 python benchmarks/generate.py --beside ../older --seconds 60
    python benchmarks/generate.py --cold --peer ../older
    python benchmarks/generate.py --seconds 10 --paper      # and once as the paper samples: minutes
    python benchmarks/generate.py --model my-model --device cuda
"""
import argparse
import os
import subprocess
import sys
import tempfile
import time
from operator import itemgetter
from pathlib import Path
from statistics import median

import torch

from clipsonic.core import clip_generators
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
    generators = clip_generators(1, 1)
    system = pipeline.system("pd" if "pd" in pipeline.priors else "zs")
    text, condition = seconds(lambda: system.embed_query(prompt, generators))
    denoising, mel = seconds(lambda: pipeline.denoiser.sample(condition, generators, length))
    vocoder, _ = seconds(lambda: pipeline.vocoder(mel))
    return {"text and prior": text, "denoising": denoising, "vocoder": vocoder}


def in_turn(ways, one, rounds, warm):
    "Sorted seconds of every way, taken in turn, after some rounds that do not count."
    times = {name: [] for name in ways}
    for k in range(warm + rounds):
        for name, way in ways.items():
            taken = one(*way)
            if k >= warm: times[name].append(taken)
    return {name: sorted(found) for name, found in times.items()}


WORKER = """
import resource, sys, time
from clipsonic.pipeline import generate
for line in sys.stdin:
    start = time.perf_counter()
    generate(sys.argv[1], seconds=float(line), seed=1, progress=False)
    print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, flush=True)
"""


def beside(rounds, prompt, length, checkouts):
    "Warm calls of `generate` in processes of several checkouts, in turn."
    with tempfile.TemporaryDirectory() as folder:
        def start(checkout):
            path = os.pathsep.join([str(checkout), os.environ.get("PYTHONPATH", "")])  # with what older ones depend on
            return subprocess.Popen([sys.executable, "-c", WORKER, prompt], cwd=folder, text=True,
                                    stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                    env=os.environ | {"PYTHONPATH": path})
        workers, memory = {str(checkout): start(checkout) for checkout in checkouts}, {}
        def one(name):
            print(length, file=workers[name].stdin, flush=True)
            taken, memory[name] = map(float, workers[name].stdout.readline().split())
            return taken
        times = in_turn({name: (name,) for name in workers}, one, rounds, warm=2)
        for worker in workers.values(): worker.communicate()
    base = median(times[str(checkouts[0])])
    print(f"{length:g} s of sound, {os.environ.get('OMP_NUM_THREADS', 'all')} threads, medians of {rounds}:")
    for name, found in times.items():
        print(f"  {median(found):7.3f} s ({found[0]:.3f} to {found[-1]:.3f}), {median(found) / base:.2f} times the "
              f"first, peak {memory[name]:.0f} MiB: {name}")


def cold(rounds, prompt, checkouts):
    "Whole processes, in turn."
    command = [sys.executable, "-m", "clipsonic", "generate", prompt, "--seed", "1", "-o", "sound.wav"]
    ways = {"import torch": ([sys.executable, "-c", "import torch"], None), **{str(c): (command, c) for c in checkouts}}
    with tempfile.TemporaryDirectory() as folder:
        def one(words, checkout):
            env = os.environ | ({"PYTHONPATH": str(checkout)} if checkout else {})
            return seconds(lambda: subprocess.run(words, cwd=folder, env=env, check=True, capture_output=True))[0]
        times = in_turn(ways, one, rounds, warm=1)  # the first round warms the disk's cache
    base = median(times["import torch"])
    print(f"from nothing to a written file, medians of {rounds}:")
    for name, found in times.items():
        print(f"  {median(found):6.2f} s ({found[0]:.2f} to {found[-1]:.2f}), {median(found) / base:.2f} times "
              f"`import torch`: {name}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--prompt", default="a dog barking")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--paper", action="store_true", help="also 1 000 ancestral steps, once")
    parser.add_argument("--cold", action="store_true", help="whole processes, and nothing else")
    parser.add_argument("--peer", nargs="*", default=[], metavar="CHECKOUT",
                        help="with --cold: other checkouts of this project")
    parser.add_argument("--beside", nargs="*", default=[], metavar="CHECKOUT",
                        help="other checkouts of this project, for warm calls in turn")
    args = parser.parse_args()
    own, others = Path(__file__).resolve().parent.parent, [Path(p).resolve() for p in args.peer + args.beside]
    if args.cold: sys.exit(cold(args.rounds, args.prompt, [own, *others]))
    if args.beside: sys.exit(beside(args.rounds, args.prompt, args.seconds, [own, *others]))
    plain, compiled, half = (Pipeline.load(args.model, args.device, **how)
                             for how in ({}, {"compile": True}, {"precision": "bfloat16"}))
    ways = {"the default": (plain, {}), "the default, compiled": (compiled, {}), "the default, bfloat16": (half, {}),
            "25 steps of DDIM": (plain, {"sampler": "ddim", "steps": 25} | ALWAYS)}
    def one(pipeline, settings):
        return seconds(lambda: pipeline.generate(args.prompt, seconds=args.seconds, seed=1, progress=False,
                                                 **settings))[0]
    times = in_turn(ways, one, args.rounds, warm=2)
    print(f"{args.seconds:g} s of sound, {args.model}, {args.device}, {torch.get_num_threads()} threads, "
          f"medians of {args.rounds}:")
    for name, found in times.items():
        print(f"  {name:24}{median(found):7.3f} s ({found[0]:.3f} to {found[-1]:.3f})")
    if args.paper:
        print(f"  {'1 000 ancestral steps':24}{one(plain, {'sampler': 'ddpm', 'steps': 1000} | ALWAYS):7.3f} s, once")
    stages = [parts(plain, args.prompt, args.seconds) for _ in range(args.rounds)]
    medians = {name: median(map(itemgetter(name), stages)) for name in stages[0]}
    print("  the default: " + ", ".join(f"{name} {found:.3f} s" for name, found in medians.items()))
