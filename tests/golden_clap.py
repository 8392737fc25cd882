"""Golden figures of laion_clap 1.1.7, at weights and sounds that a formula gives, so that only answers are stored.

`HF_HUB_OFFLINE=1 python tests/golden_clap.py`, where `pip install laion-clap==1.1.7` and what it asks for went, runs
its network, in small and at the published sizes, and rewrites the fixture. It touches no network: the tokenizers that
laion_clap wants when it is imported are stood in for. Nothing of it is needed to run the tests."""
import json
import tempfile
import zlib
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock, patch

import numpy as np
import torch
from golden_vocoder import wave

from clipsonic.clap import PUBLISHED_CLAP, CLAP_SAMPLES
from clipsonic.core import atomic_file

FIXTURE = Path(__file__).parent / 'fixtures' / 'clap.npz'
SMALL = {'projection_dim': 16, 'projection_hidden_act': 'relu',
         'text_config': PUBLISHED_CLAP['text_config'] | dict(vocab_size=263, hidden_size=16, num_hidden_layers=2,
             num_attention_heads=2, intermediate_size=32, max_position_embeddings=80),
         'audio_config': PUBLISHED_CLAP['audio_config'] | dict(patch_embeds_hidden_size=8, hidden_size=64,
                                                          depths=[1, 2, 1, 1], num_attention_heads=[1, 2, 2, 4])}
TEXTS = ['a dog', 'the sound of rain on a tin roof', 'dogs ' * 40]
SECONDS = (0.7, 3, 10, 10.005, 11, 23)

def weight(name, shape, dtype):
    "The value of a parameter of LAION's, from its name."
    value = wave(*shape, k=zlib.crc32(name.encode()) % 9973)
    if not dtype.is_floating_point: return torch.zeros(shape, dtype=dtype)
    if name.endswith('running_mean'): return (-40 if 'bn0' in name else 0) + value
    if name.endswith('running_var'): return (400 if 'bn0' in name else 1) * (1.2 + value)
    if name.endswith('.weight') and len(shape) == 1: return 1 + 0.1 * value
    return 0.1 * value if len(shape) < 2 else value * 1.7 * float(np.prod(shape[1:])) ** -0.5 * (4
        if 'embeddings' in name else 1)

def sound(seconds):
    "(time,) at 48 kHz: noise whose loudness and a tone whose pitch move on their own periods."
    n = int(seconds * 48000)
    t = torch.arange(n, dtype=torch.float64) / 48000
    return ((0.2 + 0.2 * torch.sin(1.7 * t)) * wave(n, k=1) + 0.2
            * torch.sin(2500 * t + 600 * torch.sin(0.9 * t))).float()

def write_tokenizer(folder, vocab_size=263):
    "Byte pairs that know the word dog; what else the vocabulary must hold is never met."
    from open_clip.tokenizer import bytes_to_unicode
    tokens = ['<s>', '<pad>', '</s>', '<unk>', *bytes_to_unicode().values(), 'do', 'dog']
    tokens += [f'unused{i}' for i in range(vocab_size - len(tokens) - 1)] + ['<mask>']
    (folder / 'vocab.json').write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / 'merges.txt').write_text('#version: 0.2\nd o\ndo g\n')

def laion(sizes):
    "laion_clap's network at these sizes with the weights of the formula, and its module of data."
    import transformers
    for kind in (transformers.BertTokenizer, transformers.RobertaTokenizer, transformers.BartTokenizer):
        kind.from_pretrained = Mock()
    import laion_clap  # noqa: F401, it puts `clap_module` on the path
    from clap_module import htsat, model
    from laion_clap.training import data
    audio, text = sizes['audio_config'], sizes['text_config']
    config = json.loads((Path(model.__file__).parent / 'model_configs' / 'HTSAT-tiny.json').read_text())
    roberta = transformers.RobertaModel(transformers.RobertaConfig(**text | {'type_vocab_size': 1}))
    def small(cfg, enable_fusion, fusion_type):
        return htsat.HTSAT_Swin_Transformer(spec_size=256, patch_size=4, patch_stride=(4, 4), num_classes=cfg.class_num,
                                            embed_dim=audio['patch_embeds_hidden_size'], depths=audio['depths'],
                                            num_heads=audio['num_attention_heads'], window_size=8, config=cfg,
                                            enable_fusion=enable_fusion, fusion_type=fusion_type)
    # laion_clap's CLAP has the text tower's width written into its code
    linear = lambda n, m: torch.nn.Linear(text['hidden_size'] if (n, m) == (768, sizes['projection_dim'])
                                          and text['hidden_size'] != 768 else n, m)
    modules = SimpleNamespace(**vars(torch.nn) | {'Linear': linear})
    with patch.object(model, 'create_htsat_model', small), patch.object(model.RobertaModel, 'from_pretrained',
            lambda name: roberta), patch.object(model, 'nn', modules):
        network = model.CLAP(embed_dim=audio['hidden_size'], audio_cfg=config['audio_cfg'],
                             text_cfg=model.CLAPTextCfg(77, text['vocab_size'], 1, 1, 1, 'roberta'), enable_fusion=True,
                             fusion_type='aff_2d', joint_embed_shape=sizes['projection_dim']).eval()
    kept = ('relative_position_index', 'attn_mask', 'position_ids')
    for name, value in network.state_dict().items():
        if not name.endswith(kept): value.copy_(weight(name, value.shape, value.dtype))
    return network, data, config['audio_cfg']

@torch.no_grad()
def answers(sizes, folder, antialias=False):
    "What laion_clap says to every sound alone and to every text, the lots drawn as ours are; and its state dict."
    import torchvision
    network, data, config = laion(sizes)
    resize = torchvision.transforms.Resize
    heard = []
    for seconds in SECONDS:
        waveform = torch.from_numpy(data.int16_to_float32(data.float32_to_int16(sound(seconds).numpy())))
        more = len(waveform) // 480 - 1000
        starts = iter((0, (more + 1) // 2, more))
        chosen = patch('numpy.random.choice', lambda third: next(starts))
        with chosen, patch('torchvision.transforms.Resize', lambda size: resize(size, antialias=antialias)):
            features = data.get_audio_features({}, waveform, CLAP_SAMPLES, 'fusion', 'repeatpad', config)
            heard.append(network.get_audio_embedding([features]))
    from transformers.models.roberta.tokenization_roberta import RobertaTokenizer
    del RobertaTokenizer.from_pretrained  # the stand-in
    tokens = RobertaTokenizer.from_pretrained(str(folder))(TEXTS, padding='max_length', truncation=True, max_length=77,
                                                           return_tensors='pt')
    return torch.cat(heard), network.get_text_embedding(dict(tokens)), network.state_dict()

def write_file(file, state):
    "As LAION's trainer writes it."
    torch.save({'epoch': np.float64(45), 'name': 'small', 'state_dict': {f'module.{k}': v for k, v in state.items()},
                'optimizer': {'param_groups': [{'lr': np.float64(1e-4)}]}}, file)

def main():
    found = {}
    for kind, sizes in ('small', SMALL), ('full', PUBLISHED_CLAP):
        with tempfile.TemporaryDirectory() as home:
            write_tokenizer(Path(home), sizes['text_config']['vocab_size'])
            heard, read, state = answers(sizes, home)
            smoothed = answers(sizes, home, antialias=True)[0]
        print(kind, f'spread of sounds {heard.std(0).mean():.3f}, of texts {read.std(0).mean():.3f};',
              'smoothed shrinking moves sounds by', smoothed.sub(heard).abs().amax(1).numpy().round(5))
        layout = {name: (list(value.shape), str(value.dtype).removeprefix('torch.')) for name, value in state.items()}
        found |= {f'{kind} audio': heard.numpy(), f'{kind} text': read.numpy(), f'{kind} layout': json.dumps(layout)}
    with atomic_file(FIXTURE) as partial, partial.open('wb') as file: np.savez_compressed(file, **found)

if __name__ == '__main__': main()
