"""A complete small model with random weights: the real classes, saved by the real functions."""
from dataclasses import asdict
from pathlib import Path

import torch

from clipsonic.checkpoint import load_tensors, save_checkpoint
from clipsonic.clip import ClipConfig, PocketTokenizer, build_clip, state_dict_hash
from clipsonic.mel import MelConfig
from clipsonic.mel_inversion import MelInversion, MelInversionConfig
from clipsonic.pipeline import pack
from clipsonic.prior import PriorConfig, DiffusionPriorNetwork, prior_config_dict
from clipsonic.unet import UNet, UNetConfig
from clipsonic.vocoder import save_vocoder

KNOWS = ['dog', 'rain', 'flute']
TEXTS = ['a photo of a dog barking', 'a photo of rain falling', 'playing the flute', 'the sound of a dog and a picture']

def drawn(module, seed):
    "The module with weights from a generator of its own: the global one is left alone."
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in module.named_parameters():
            drawn = torch.randn(p.shape, generator=g) * (0.1 if p.ndim < 2 else p[0].numel() ** -0.5)
            p.copy_(drawn + 1 if p.ndim == 1 and name.endswith('weight') else drawn)  # a norm's scale lies near 1
    return module

def tiny_clip(folder, seed=0):
    tokenizer = PocketTokenizer.from_corpus(TEXTS)
    sizes = ClipConfig(embed_dim=24, vision="test_resnet", text_width=32, text_heads=2, text_layers=1)
    model = drawn(build_clip(sizes, tokenizer.vocab_size), seed)
    save_checkpoint(folder, {'kind': 'clip', 'name': f'tiny-{seed}', 'model': asdict(sizes),
                             'vocabulary': tokenizer.kept_ids}, {'model': model.state_dict()})
    return {'name': f'tiny-{seed}', 'hash': state_dict_hash(load_tensors(folder, 'model'))}

def tiny_denoiser(folder, clip, mel=MelConfig(), **sampling):
    unet = UNetConfig(model_channels=16, channel_mult=(1, 2), num_res_blocks=1, attention_resolutions=(16,),
                      condition_dim=24, patch_size=2)
    config = {'kind': 'denoiser', 'preset': 'tiny', 'unet': asdict(unet), 'mel': asdict(mel),
              'diffusion': {'timesteps': 4000, 'schedule': 'cosine'}, 'clip': clip, 'template': 'a photo of {}',
              'sampling': sampling or {'steps': 3, 'sampler': 'ddim'}, 'step': 12}
    save_checkpoint(folder, config, {'model': drawn(UNet(unet), 1).state_dict()})

def tiny_distilled(folder, clip):
    "A denoiser that is sampled in two evaluations, at the steps 1000 and 3900."
    unet = UNetConfig(model_channels=16, channel_mult=(1, 2), num_res_blocks=1, attention_resolutions=(16,),
                      condition_dim=24, patch_size=2, guidance_embeds=True)
    config = {'kind': 'denoiser', 'preset': 'tiny-distilled', 'unet': asdict(unet), 'mel': asdict(MelConfig()),
              'diffusion': {'timesteps': 4000, 'schedule': 'cosine', 'prediction_type': 'v_prediction'},
              'clip': clip, 'template': 'a photo of {}', 'sampling': {'steps': 2, 'sampler': 'ddim'}, 'step': 12,
              'distilled': {'timesteps': [1000, 3900], 'starts': [500, 1000, 2000, 3900],
                            'guidance_scales': [1.0, 3.0]}}
    save_checkpoint(folder, config, {'model': drawn(UNet(unet), 1).state_dict()})

def tiny_vocoder(folder):
    save_vocoder(folder, drawn(MelInversion(MelInversionConfig(width=16, depth=1)), 2))

def tiny_prior(folder, clip, seed=3, dim=24):
    config = PriorConfig(dim=dim, depth=1, heads=2, dim_head=8, ff_mult=2, max_text_len=16)
    save_checkpoint(folder, prior_config_dict(config, clip),
                    {'prior': drawn(DiffusionPriorNetwork(config), seed).state_dict()})

def tiny_model(home: Path) -> Path:
    "Runs `clip`, `denoiser`, `vocoder` in `home` as training leaves them, and `model`, packed of the three."
    for name in ('clip', 'denoiser', 'vocoder'): (home/name).mkdir(parents=True)
    clip = tiny_clip(home/'clip'/'model')
    tiny_denoiser(home/'denoiser'/'model', clip)
    tiny_vocoder(home/'vocoder'/'model')
    return pack(home/'clip', home/'denoiser', home/'vocoder', home/'model', known_sounds=KNOWS)
