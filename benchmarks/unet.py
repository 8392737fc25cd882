"""The paper's UNet beside openai/improved-diffusion's, with equal weights: an evaluation and a training step.

    python benchmarks/unet.py --original CHECKOUT
    python benchmarks/unet.py --original CHECKOUT --device cuda --batch 32

CHECKOUT is a folder with that repository. Both networks take turns in one process. Printed are medians, the median of
the ratios, and the largest difference of the outputs. Ours runs as it is used: channels last in memory, in full
precision, and under bfloat16 autocast or compiled with `--bf16` or `--compile`. Theirs runs as its code stands, in its
own precision."""
import argparse
import sys
import time
from statistics import median

import torch

from clipsonic.unet import UNet, UNetConfig


def twins(checkout, device):
    "Theirs, and ours with the same numbers: the parameters come in the same order, and no condition is given."
    sys.path.insert(0, checkout)
    from improved_diffusion.unet import UNetModel
    torch.manual_seed(0)
    theirs = UNetModel(1, 128, 2, 3, (4, 8), channel_mult=(1, 2, 3, 4), num_heads=4, use_scale_shift_norm=True)
    ours = UNet(UNetConfig())
    with torch.no_grad():
        for p in theirs.parameters(): p.add_(0.02 * torch.randn_like(p))  # nothing stays zero, as after some training
        mine = [p for name, p in ours.named_parameters() if not name.startswith(("project", "null"))]
        for p, q in zip(mine, theirs.parameters(), strict=True): p.copy_(q.reshape(p.shape))
        for p in ours.project.parameters(): p.zero_()
    return theirs.to(device), ours.to(device, memory_format=torch.channels_last)


def evaluation(network, x, t):
    with torch.no_grad(): return network(x, t)


def training(network, x, t):
    "Forward and backward; the optimizer's part is the same for both."
    network.zero_grad()
    out = network(x, t)
    out.square().mean().backward()
    return out.detach()


def seconds(work, network, x, t, device):
    if device == "cuda": torch.cuda.synchronize()
    start = time.perf_counter()
    out = work(network, x, t)
    if device == "cuda": torch.cuda.synchronize()
    return time.perf_counter() - start, out


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--original", required=True, metavar="CHECKOUT")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, nargs="+", default=[2, 8],
                        help="items: 2 are a clip under guidance, 8 a small training batch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--bf16", action="store_true", help="ours under bfloat16 autocast")
    parser.add_argument("--compile", action="store_true", help="ours through torch.compile, as `compile=True` does")
    args = parser.parse_args()
    theirs, ours = twins(args.original, args.device)
    if args.compile: ours.compile(dynamic=False)
    compiled = "ours compiled, " if args.compile else ""
    print(f"{torch.get_num_threads()} threads, device {args.device}, {compiled}medians of {args.rounds} rounds")
    for batch in args.batch:
        x = torch.randn(batch, 1, 64, 64, device=args.device)
        t = torch.linspace(10, 990, batch, device=args.device)
        for work in evaluation, training:
            times = []
            for i in range(args.rounds + 1):  # the first round warms up
                a, out = seconds(work, theirs, x, t, args.device)
                with torch.autocast(args.device, torch.bfloat16, enabled=args.bf16):
                    b, out2 = seconds(work, ours, x, t, args.device)
                if i: times.append((a, b))
            error = (out - out2.float()).abs().max().item() / out.abs().max().item()
            ratios = sorted(a / b for a, b in times)
            theirs_s, ours_s = median(a for a, _ in times), median(b for _, b in times)
            print(f"{work.__name__}, batch of {batch}: theirs {theirs_s:.3f} s, ours {ours_s:.3f} s, "
                  f"{median(ratios):.2f}× ({ratios[0]:.2f} to {ratios[-1]:.2f}); "
                  f"largest difference {error:.1e} of the largest output", flush=True)
