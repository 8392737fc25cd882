"""How long work takes beside processes that keep a core busy each, next to what would be fair, and next to another
checkout.

    python benchmarks/busy.py                                  # medians of five, about a quarter of an hour
    python benchmarks/busy.py --peer ../older --work generate  # another checkout of this project in the same run

The fair time beside k busy processes is that of one thread on an idle machine, times (k + 1) processes, over the cores;
and never less than the idle time on all cores. Training chooses its number of threads before each step, outside of the
time, as it does at a checkpoint."""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from importlib import util
from pathlib import Path
from statistics import median

WORKS = ("generate", "train", "prepare", "evaluate")


def prepared(name, folder):
    "The work as a function without parameters, and what precedes it; everything is loaded and has been done once."
    def settle(): pass
    if name == "generate":
        from clipsonic.pipeline import Pipeline
        pipeline = Pipeline.load("pocket", "cpu")
        work = lambda: pipeline.generate("a dog barking", seed=1, progress=False)
    elif name == "train":
        from clipsonic.engine import Trainer
        from clipsonic.recipes import recipe
        from clipsonic.shards import synthetic_shards
        synthetic_shards(folder / "shards", clips=64, dim=192)
        made = recipe("pocket", folder / "shards")
        engine, batches = Trainer(made, folder / "run", cpu=True), made.batches(0, 0, 1)
        def work(): engine.step(next(batches))
        if util.find_spec("clipsonic.threads"):
            from clipsonic.threads import steady_threads
            def settle(): engine.threads = steady_threads()  # as at a checkpoint
    elif name == "prepare":
        import numpy as np
        from clipsonic.core import Audio
        from clipsonic.prepare import prepare
        from clipsonic.video import write_video
        import torch
        sound, rng = Audio(torch.randn(1, 320_000, generator=torch.Generator().manual_seed(0)) / 10,
                           16_000), np.random.default_rng(0)
        (folder / "videos").mkdir()
        for i in range(4):
            write_video(folder / "videos" / f"{i}.mp4", rng.integers(0, 255, (100, 96, 128, 3), dtype=np.uint8), 5.0,
                        sound)
        work = lambda: prepare(folder / "videos", Path(tempfile.mkdtemp(dir=folder)) / "shards", progress=False)
    else:
        import torch
        from clipsonic.core import Audio
        from clipsonic.evaluate import evaluate
        (folder / "sounds").mkdir()
        for i in range(160):
            Audio(torch.randn(1, 64_000, generator=torch.Generator().manual_seed(i)) / 10,
                  16_000).save(folder / "sounds" / f"{i}.wav")
        work = lambda: evaluate(folder / "sounds", folder / "sounds", metrics=["fad"], n_resamples=0,
                                cache_file=":memory:", device="cpu", progress=False)
    work()
    return work, settle


def serve(name):
    "Does the work once for every line that comes in, and prints the seconds."
    with tempfile.TemporaryDirectory() as folder:
        answers = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)  # what the work prints is no answer
        # as `clipsonic train` does
        if name == "train" and util.find_spec("clipsonic.threads"): os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        work, settle = prepared(name, Path(folder))
        print("ready", file=answers)
        for _ in sys.stdin:
            settle()
            start = time.perf_counter()
            work()
            print(time.perf_counter() - start, file=answers)


@contextmanager
def worker(name, checkout, **settings):
    "A process that does the work in another checkout: a function that gives its seconds."
    process = subprocess.Popen([sys.executable, __file__, "--serve", name],
                               env={**os.environ, "PYTHONPATH": str(checkout), **settings}, text=True,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                               cwd=tempfile.gettempdir())
    def seconds():
        process.stdin.write("go\n")
        process.stdin.flush()
        return float(process.stdout.readline())
    try:
        if process.stdout.readline() != "ready\n": sys.exit(f"{name} does not run with {checkout}")
        yield seconds
    finally: process.kill(); process.wait()


@contextmanager
def busy(count):
    "So many processes that never sleep."
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        time.sleep(0.5)
        yield
    finally:
        for other in others: other.kill(); other.wait()


def table(name, checkouts, loads, rounds):
    "Seconds of every checkout under every load, a line each."
    here, cores = checkouts[0], len(os.sched_getaffinity(0))
    with worker(name, here, OMP_NUM_THREADS="1") as one: alone = median(one() for _ in range(rounds))
    times = {}
    for load in loads:
        for checkout in checkouts:
            with worker(name, checkout) as work, busy(load):
                times[checkout, load] = sorted(work() for _ in range(rounds))
    idle = median(times[here, 0])
    print(f"{name}: one thread alone {alone:.2f} s, medians of {rounds} in seconds (from … to), {cores} cores")
    for load in loads:
        fair = max(idle, alone * (load + 1) / cores)
        row = "".join(f"{median(times[c, load]):9.2f} ({times[c, load][0]:.2f} … {times[c, load][-1]:.2f})"
                      for c in checkouts)
        print(f"  beside {load}: {row}   fair {fair:.2f}, ours {median(times[here, load]) / fair:.2f} of it",
              flush=True)
    return {"alone": alone, "times": {f"{c}, {load}": t for (c, load), t in times.items()}}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", nargs="+", default=WORKS, choices=WORKS)
    parser.add_argument("--loads", nargs="+", type=int, default=[0, 1, 2, 4], help="busy processes (default: 0 1 2 4)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer", nargs="*", default=[], metavar="CHECKOUT",
                        help="other checkouts of this project, for columns of their own")
    parser.add_argument("--json", metavar="FILE", help="every time, for later")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve: serve(args.serve)
    else:
        checkouts = [Path(__file__).resolve().parent.parent, *(Path(p).resolve() for p in args.peer)]
        loads = [0, *(load for load in args.loads if load)]
        found = {name: table(name, checkouts, loads, args.rounds) for name in args.work}
        if args.json: Path(args.json).write_text(json.dumps(found, indent=1) + "\n")
