"""CLAP: LAION's own answers at equal weights, the same numbers in any batch, strict files, refusals."""
import json
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from golden_clap import FIXTURE, SECONDS, SMALL, TEXTS, sound, weight, write_file, write_tokenizer

from clipsonic.clap import (CLAP_FRAMES, CLAP_SAMPLES, UNUSED_TENSORS, RobertaTokens, clap_input_features, fusion_views,
                            laion_tensors, load_clap, published_clap, quantize_int16, rename_state_dict, repeat_pad,
                            resample)
from clipsonic.core import CheckpointError, InputError
from conftest import naming

golden = np.load(FIXTURE)

def formula_state(kind):
    "LAION's state dict, from its names and shapes."
    return {name: weight(name, shape, getattr(torch, dtype))
            for name, (shape, dtype) in json.loads(str(golden[f'{kind} layout'])).items()}

@pytest.fixture(scope='module')
def transformers():
    return pytest.importorskip('transformers', reason='the extra is not installed: pip install "clipsonic[clap]"')

@pytest.fixture(scope='module')
def state(): return formula_state('small')

@pytest.fixture(scope='module')
def folder(state, tmp_path_factory):
    "The small network in a file as LAION writes it, the tokenizer beside it."
    folder = tmp_path_factory.mktemp('laion')
    write_file(folder / '630k-fusion-best.pt', state)
    write_tokenizer(folder)
    return folder

@pytest.fixture(scope='module')
def clap(transformers, folder):
    return published_clap('630k-fusion', folder / '630k-fusion-best.pt', 'cpu', config=SMALL)

@pytest.mark.parametrize('i', range(len(SECONDS)), ids=[f'{s} s' for s in SECONDS])
def test_a_sound_is_embedded_as_laion_clap_embeds_it(clap, i):
    assert (clap.encode_audio(sound(SECONDS[i])[None, None], 48000)[0]
            - torch.from_numpy(golden['small audio'][i])).abs().max() < 1e-5

def test_texts_are_embedded_as_laion_clap_embeds_them(clap):
    assert (clap.encode_text(TEXTS) - torch.from_numpy(golden['small text'])).abs().max() < 1e-5
    # the golden ones do differ
    assert golden['small audio'].std(0).mean() > 0.03 and golden['small text'].std(0).mean() > 0.03

@pytest.mark.parametrize('seconds', SECONDS)
def test_the_way_to_the_network_is_transformers_with_its_lots_drawn(transformers, clap, seconds):
    waveform, more = sound(seconds), int(seconds * 48000) // 480 - 1000
    starts = iter((0, (more + 1) // 2, more))
    extractor = transformers.ClapFeatureExtractor(truncation='fusion', frequency_min=50)
    with patch('numpy.random.choice', lambda third: next(starts)):
        views = extractor(quantize_int16(waveform).numpy(), sampling_rate=48000, return_tensors='pt')['input_features']
    ours, longer = clap_input_features(waveform, 48000)
    # decibels; theirs are computed with 64-bit floats, which shows in quiet bands
    assert (ours - views).abs().mean() < 1e-3 and longer.item() == (more > 0)
    with torch.no_grad(): theirs = torch.nn.functional.normalize(clap.model.encode_audio(views.float(), longer), dim=1)
    assert (clap.encode_audio(waveform[None, None], 48000) - theirs).abs().max() < 1e-5

def test_an_embedding_depends_on_nothing_but_the_clip(clap):
    sounds = torch.stack([sound(11), sound(11).flip(0), torch.zeros(528000)])[:, None]
    before = torch.random.get_rng_state()
    together = clap.encode_audio(sounds, 48000)
    assert torch.equal(together, clap.encode_audio(sounds, 48000))
    assert torch.equal(torch.cat([clap.encode_audio(s[None], 48000) for s in sounds]), together)
    assert torch.equal(clap.encode_audio(sounds.flip(0), 48000).flip(0), together)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(clap.encode_text(TEXTS)[1:], clap.encode_text(TEXTS[1:]))
    assert torch.allclose(together.norm(dim=1), torch.ones(3), atol=1e-5) and together.shape == (3, clap.dim) == (3, 16)

def test_other_rates_come_through_the_pinned_resampler(clap):
    slow = sound(3)[::3]  # at 16 kHz
    direct = clap.encode_audio(resample(slow, 16000, 48000)[None, None], 48000)
    assert torch.equal(clap.encode_audio(slow[None, None], 16000), direct)
    assert json.loads(json.dumps(clap.protocol))['resampler']['library'] == 'torchaudio'
    assert clap.sample_rate == clap.protocol['sample_rate'] == 48000

def test_identity_is_the_hash_of_what_is_used(transformers, clap, state, folder, tmp_path):
    again = published_clap('630k-fusion', folder / '630k-fusion-best.pt', 'cpu', folder, SMALL)
    assert again.fingerprint == clap.fingerprint == {'name': '630k-fusion', 'hash': clap.fingerprint['hash']}
    changed = {k: v + 1 if k.startswith('text_transform.') else v for k, v in state.items()}
    write_file(tmp_path / 'a.pt', changed)
    write_file(tmp_path / 'b.pt', state | {'audio_projection.0.bias': state['audio_projection.0.bias'] + 1})
    assert published_clap('630k-fusion', tmp_path / 'a.pt', 'cpu', folder, SMALL).fingerprint == clap.fingerprint
    assert published_clap('630k-fusion', tmp_path / 'b.pt', 'cpu', folder, SMALL).fingerprint != clap.fingerprint

def test_missing_foreign_and_misshapen_tensors_are_named(transformers, state, folder, tmp_path):
    bad = {k: v for k, v in state.items() if k != 'logit_scale_a'} | {'audio_branch.stray': torch.zeros(1),
                                                                      'text_projection.2.bias': torch.zeros(3)}
    write_file(tmp_path / 'bad.pt', bad)
    with pytest.raises(CheckpointError,
                       match=naming('logit_scale_a', 'stray', 'text_projection.linear2.bias', '(3,)', '(16,)')):
        published_clap('630k-fusion', tmp_path / 'bad.pt', 'cpu', folder, SMALL)
    with pytest.raises(CheckpointError, match=naming(folder, 263, 50265)):
        load_clap('630k-fusion', folder / '630k-fusion-best.pt', 'cpu')

def test_every_name_of_laions_has_its_place_or_is_left_out_by_name(state):
    kept = {k: v for k, v in state.items() if not UNUSED_TENSORS.match(k)}
    named = rename_state_dict(kept)
    assert len(named) == len(kept) + 2 * sum('.qkv.' in k for k in kept)
    assert all(k.startswith(('text_model.', 'audio_model.audio_encoder.', 'text_projection.linear',
                             'audio_projection.linear', 'logit_scale_')) for k in named)
    left = {'.'.join(k.split('.')[:2]) for k in state if UNUSED_TENSORS.match(k)}
    assert left == {'audio_branch.tscam_conv', 'audio_branch.head', 'audio_branch.spectrogram_extractor',
                    'audio_branch.logmel_extractor', 'audio_branch.layers',
                    'audio_transform.sequential', 'text_transform.sequential'}

def test_a_file_is_read_without_running_anything(tmp_path, state):
    with pytest.raises(InputError, match=naming(tmp_path / 'none.pt')): laion_tensors(tmp_path / 'none.pt')
    def refused(name, *words):
        with pytest.raises(CheckpointError, match=naming(tmp_path / name, *words)): laion_tensors(tmp_path / name)
    (tmp_path / 'junk.pt').write_bytes(b'junk')
    refused('junk.pt', 'torch.save')
    torch.save({'state_dict': Path('x')}, tmp_path / 'object.pt')
    refused('object.pt', 'pathlib')
    torch.save({'state_dict': {'a': 1}}, tmp_path / 'numbers.pt')
    refused('numbers.pt', 'CLAP', 'state_dict')
    torch.save([torch.zeros(1)], tmp_path / 'list.pt')
    refused('list.pt', 'CLAP', 'list')
    write_file(tmp_path / 'nan.pt', state | {'text_projection.0.bias': torch.full((16,), torch.nan)})
    refused('nan.pt', 'finite', 'text_projection.0.bias')

def test_other_trainers_wrappers_are_taken_off(tmp_path, state):
    compiled, silent = {f'_orig_mod.module.{k}': v for k, v in state.items()}, {k: v * 0 for k, v in state.items()}
    for wrapped in state, {'model': compiled}, {'ema': state, 'model': silent}:
        torch.save(wrapped, tmp_path / 'theirs.pt')
        found = laion_tensors(tmp_path / 'theirs.pt')
        assert found.keys() == {k for k in state if not UNUSED_TENSORS.match(k)}
        assert all(torch.equal(found[k], state[k]) for k in found)

def test_a_tokenizer_that_is_missing_or_anothers_is_refused(transformers, tmp_path):
    with pytest.raises(InputError, match=naming(tmp_path, 'vocab.json', 'merges.txt', 'roberta-base')):
        RobertaTokens(tmp_path)
    write_tokenizer(tmp_path)
    with pytest.raises(CheckpointError, match=naming(tmp_path, 263, 50265)): RobertaTokens(tmp_path)
    swapped = json.loads((tmp_path / 'vocab.json').read_text()) | {'<s>': 2, '</s>': 0}
    (tmp_path / 'vocab.json').write_text(json.dumps(swapped))
    with pytest.raises(CheckpointError, match=naming(tmp_path, '[2, 1, 0]', '[0, 1, 2]')): RobertaTokens(tmp_path, 263)
    (tmp_path / 'vocab.json').write_text('no json')
    with pytest.raises(CheckpointError, match=naming(tmp_path, 'line 1 column 2')): RobertaTokens(tmp_path, 263)

def test_what_has_no_room_among_its_tokens_is_known(transformers, tmp_path):
    write_tokenizer(tmp_path)
    tokens = RobertaTokens(tmp_path, 263, context_length=6)
    assert tokens.overflow('dog') == [] and tokens.overflow('dogdogdogdog') == []
    assert tokens.overflow('dogdogdogdogcat') == ['cat']

@pytest.mark.parametrize('waveforms, rate, says', [(torch.zeros(2, 9), 48000, 'batch, 1, time'),
                                                   (torch.zeros(1, 2, 9), 48000, 'batch, 1, time'),
                                                   (torch.zeros(1, 1, 0), 48000, 'batch, 1, time'),
                                                   (torch.zeros(1, 1, 9, dtype=torch.int16), 48000, 'int16'),
                                                   (np.zeros((1, 1, 9)), 48000, 'ndarray'),
                                                   (torch.zeros(1, 1, 9), 0, 'sample_rate'),
                                                   (torch.zeros(1, 1, 9), 16000.0, 'sample_rate'),
                                                   (torch.zeros(1, 1, 9), 1_000_000, 'sample_rate'),
                                                   (torch.tensor([[[0.]], [[torch.nan]]]), 48000, 'waveforms [1]')],
                         ids=lambda v: str(v)[:20])
def test_wrong_sounds_are_refused(clap, waveforms, rate, says):
    with pytest.raises(InputError, match=naming(says, *([rate] if says == 'sample_rate' else ['waveforms']))):
        clap.encode_audio(waveforms, rate)

@pytest.mark.parametrize('texts', ['a dog', [], [1], None])
def test_wrong_texts_are_refused(clap, texts):
    with pytest.raises(InputError, match=naming('texts', repr(texts))): clap.encode_text(texts)

def test_names_and_what_is_not_there(transformers, monkeypatch):
    import huggingface_hub
    with pytest.raises(InputError, match=naming("CLAP '630k'", "'pocket'", "'630k-audioset-fusion'", "'630k-fusion'")):
        load_clap('630k')
    def absent(*args): raise OSError('no network')
    monkeypatch.setattr(huggingface_hub, 'try_to_load_from_cache', lambda *args: None)
    monkeypatch.setattr(huggingface_hub, 'hf_hub_download', absent)
    with pytest.raises(CheckpointError,
                       match=naming('630k-audioset-fusion-best.pt', 'https://huggingface.co/lukewys/laion_clap',
                                    'no network', 'file=')):
        load_clap('630k-audioset-fusion')

def test_without_transformers_the_extra_is_named_and_the_import_is_light():
    code = ("import sys; sys.modules['transformers'] = None\nfrom clipsonic.clap import load_clap\n"
            "assert not {'torchaudio', 'tokenizers', 'huggingface_hub', 'librosa'} & set(sys.modules)\n"
            "load_clap('630k-fusion')")
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert 'InputError' in done.stderr and 'pip install "clipsonic[clap]"' in done.stderr

def test_short_clips_repeat_whole_and_one_sample_is_enough():
    assert torch.equal(repeat_pad(torch.ones(CLAP_SAMPLES)), torch.ones(CLAP_SAMPLES))
    padded = repeat_pad(torch.arange(1., 200_001))
    assert torch.equal(padded[200_000:400_000], padded[:200_000]) and (padded[400_000:] == 0).all()
    assert clap_input_features(torch.tensor([0.5]), 48000)[0].isfinite().all()

def test_views_of_clips_just_over_ten_seconds():
    mel = torch.arange(CLAP_FRAMES + 1.)[:, None].expand(-1, 64)
    assert fusion_views(mel)[1:, 0, 0].tolist() == [0, 1, 1]
    assert torch.equal(fusion_views(mel[:-1]), mel[:-1].expand(4, -1, -1))

@pytest.mark.slow
def test_the_published_sizes_answer_as_laion_clap_does(transformers, tmp_path):
    write_file(tmp_path / '630k-audioset-fusion-best.pt', formula_state('full'))
    write_tokenizer(tmp_path, 50265)
    clap = load_clap('630k-audioset-fusion', tmp_path / '630k-audioset-fusion-best.pt', 'cpu')
    heard = torch.cat([clap.encode_audio(sound(seconds)[None, None], 48000) for seconds in SECONDS])
    assert clap.dim == 512 and (heard - torch.from_numpy(golden['full audio'])).abs().max() < 1e-5
    assert (clap.encode_text(TEXTS) - torch.from_numpy(golden['full text'])).abs().max() < 1e-5

# the pocket's

@pytest.fixture(scope='module')
def pocket(): return load_clap(device='cpu')

def test_the_pocket_clap_comes_with_the_package_and_says_that_it_has_seen_labels(pocket):
    assert pocket.fingerprint['name'] == 'pocket-clap' and pocket.dim == 128 and pocket.protocol['labels'] == 'seen'
    texts = pocket.encode_text(['the sound of a dog barking', 'bow wow', 'a violin'])
    assert texts[0] @ texts[1] > texts[0] @ texts[2] + 0.3  # words that it has learned

def test_the_pocket_clap_gives_the_same_in_any_batch_and_at_any_rate(pocket):
    sounds = torch.stack([sound(3), sound(3).flip(0), torch.zeros(144000)])[:, None]
    together = pocket.encode_audio(sounds, 48000)
    for i in range(3): assert torch.equal(pocket.encode_audio(sounds[i:i + 1], 48000)[0], together[i])
    assert (together.norm(dim=1) - 1).abs().max() < 1e-5 and together.isfinite().all()
    at_16k = pocket.encode_audio(resample(sounds, 48000, 16000), 16000)
    assert (at_16k[:2] - together[:2]).abs().max() < 1e-3
    assert pocket.encode_audio(torch.ones(1, 1, 1) * 0.1, 16000).isfinite().all()  # a single sample

def test_what_is_not_read_of_a_text_is_known(pocket):
    assert pocket.overflow('a dog barking, a violin') == [] and pocket.overflow('a zebra, a dog') == ['zebra']
    long = pocket.overflow('a dog barking ' * 6)
    assert len(long) == 1 and long[0].endswith('a dog barking')
    # there they are cut
    assert torch.equal(pocket.encode_text(['a dog barking ' * 6]),
                       pocket.encode_text(['a dog barking ' * 5 + 'a violin']))

def test_a_pocket_clap_that_is_none_is_refused(tmp_path):
    import shutil

    from clipsonic.checkpoint import load_config, resolve_model, write_config
    with pytest.raises(CheckpointError, match=naming('pocket-listener', 'classifier', 'clap')):
        load_clap(resolve_model('pocket-listener'))
    with pytest.raises(InputError, match=naming("'pocket'", "'words'")): load_clap('pocket', tokenizer='words')
    folder = shutil.copytree(resolve_model('pocket-clap'), tmp_path / 'clap')
    config = load_config(folder)
    words = config['vocabulary']
    for change, says in [({'vocabulary': None}, 'config.json vocabulary null'),
                         ({'model': {'width': 3}}, "config.json model 'width'"),
                         ({'vocabulary': words[::-1]}, 'vocabulary order'),
                         ({'vocabulary': words[:9]}, 'text.token_embedding.weight (12, 128)')]:
        write_config(folder, config | change)
        with pytest.raises(CheckpointError, match=naming(folder, *says.split())): load_clap(folder)
