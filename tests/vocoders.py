"Small networks of every kind of vocoder, and noise to decode."
import torch

from clipsonic.gan_vocoder import Generator, GeneratorConfig, convolutions
from clipsonic.mel_inversion import GriffinLim, ISTFTHead, ISTFTHeadConfig, MelInversion, MelInversionConfig


def frozen(make, seed=0):
    "The network that `make` builds, from a seed; the global generator is left as it was."
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make().eval().requires_grad_(False)


def small_inversion(): return frozen(lambda: MelInversion(MelInversionConfig(width=32, depth=1)))


def small_head(): return frozen(lambda: ISTFTHead(ISTFTHeadConfig(MelInversionConfig(width=32, depth=1), depth=2)))


def small_generator(**settings):
    "A generator whose output is neither silent nor saturated."
    def make():
        network = Generator(GeneratorConfig(**{"channels": 16, **settings}))
        for conv in convolutions(network): torch.nn.init.normal_(conv.weight, 0, 0.6 * conv.weight[0].numel() ** -0.5)
        return network
    return frozen(make)


def small_networks():
    "By name, one of each kind."
    leaky = small_generator(activation="leaky_relu", resblock_pairs=False)
    return {"griffin-lim": GriffinLim(), "mel inversion": small_inversion(), "istft head": small_head(),
            "snakebeta": small_generator(), "leaky_relu": leaky}


def noise(batch, samples, seed=0):
    return 0.1 * torch.randn(batch, 1, samples, generator=torch.Generator().manual_seed(seed))
