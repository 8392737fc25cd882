"""Reading shards: order, resuming, sharing among processes, damage."""
import io
import json
from itertools import islice

import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F

from clipsonic.core import ClipsonicError, InputError
from clipsonic.shards import all_clips, batches, crop, epoch_order, pack_clip, read_shard, shard_info, write_info, write_shard

def sample(n, seconds=3.):
    "Clip n: its sound is a ramp that tells the time, its embedding says n."
    flac = io.BytesIO()
    soundfile.write(flac, (np.arange(round(seconds * 16000)) / 4).astype(np.int16), 16000, format='FLAC')
    times = [k + .5 for k in range(int(seconds))]
    embedding = F.normalize(torch.eye(32)[[n] * len(times)] + .1*torch.eye(32)[24:24 + len(times)], dim=-1)
    meta = dict(id=f'clip-{n}', file=f'{n}.mp4', start=0., seconds=seconds, times=times, label=f'label {n}')
    return pack_clip(f'{n:09d}', flac.getvalue(), embedding, meta)

def make(folder, sizes, **info):
    "Shards with so many clips."
    folder.mkdir()
    numbers = iter(range(sum(sizes)))
    for k, size in enumerate(sizes): write_shard(folder/f'clipsonic-{k:06d}.tar', map(sample, islice(numbers, size)))
    settings = dict(clip={'name': 'toy', 'hash': '0'}, dim=32, sample_rate=16000, total_seconds=3. * sum(sizes), labelled=sum(sizes)) | info
    write_info(folder, {f'clipsonic-{k:06d}.tar': size for k, size in enumerate(sizes)}, **settings)
    return folder

@pytest.fixture(scope='module')
def shards(tmp_path_factory): return make(tmp_path_factory.mktemp('shards')/'set', [5, 7, 1, 4, 6])

def take(shards, n, *args, **kwargs): return list(islice(batches(shards, *args, **kwargs), n))

def same(a, b):
    return len(a) == len(b) and all(torch.equal(x['waveform'], y['waveform']) and torch.equal(x['embedding'], y['embedding'])
                                    and x['id'] == y['id'] for x, y in zip(a, b))

ROOM = {'all in memory': 4e9, 'two shards in memory': 1e6}

@pytest.mark.parametrize('memory', ROOM.values(), ids=ROOM)
def test_a_resumed_stream_goes_on_as_if_nothing_had_happened(shards, memory):
    whole = take(shards, 15, 4, seed=3, memory=memory)  # more than two epochs of 23
    for start in 1, 5, 6, 11: assert same(whole[start:], take(shards, 15 - start, 4, seed=3, start_batch=start, memory=memory))
    assert not same(whole, take(shards, 15, 4, seed=4, memory=memory))

@pytest.mark.parametrize('memory', ROOM.values(), ids=ROOM)
def test_every_epoch_has_every_clip_once(shards, memory):
    ids = [id for batch in take(shards, 3 * 23, 1, memory=memory) for id in batch['id']]
    epochs = [ids[at:at + 23] for at in (0, 23, 46)]
    assert all(len(set(epoch)) == 23 for epoch in epochs) and len({tuple(epoch) for epoch in epochs}) == 3

@pytest.mark.parametrize('world', [2, 3])
def test_ranks_share_an_epoch(shards, world):
    parts = [[id for batch in take(shards, 23 // (2 * world), 2, rank=rank, world=world) for id in batch['id']] for rank in range(world)]
    everyone = sum(parts, [])
    assert len(set(everyone)) == len(everyone)
    together = take(shards, 23 // (2 * world), 2 * world)
    assert sorted(everyone) == sorted(id for batch in together for id in batch['id'])  # the same clips as one process would see

def test_the_order_is_pinned():
    order, draws = epoch_order([2, 3], seed=0, epoch=0, group=2)
    assert sorted(map(tuple, order.tolist())) == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)] and draws.shape == (5, 2)
    again, _ = epoch_order([2, 3], seed=0, epoch=0, group=2)
    assert torch.equal(order, again)

def test_windows_lie_around_their_frames(shards):
    clip = read_shard(shards, 'clipsonic-000000.tar')[0]
    for frame, start in [(0, 0), (1, 24000 - 8000), (2, 48000 - 16000)]:  # centred, and shifted inside at the ends
        wave, embedding = crop(clip, 16000, (frame / 3 + .01, .5))
        assert wave.shape == (1, 16000) and torch.equal(embedding, clip['clip'][frame])
        assert round(wave[0, 0].item() * 32768 * 4) in range(start, start + 4)
    starts = [crop(clip, 16000, (.34, draw), jitter=.25)[0][0, 0].item() * 32768 * 4 / 16000 for draw in (0., .5, .999)]
    assert starts == pytest.approx([.75, 1., 1.25], abs=.01)

def test_short_clips_are_followed_by_silence_and_counted(shards):
    batch = next(batches(shards, 23, seconds=4.))
    assert batch['padded'] == 23 and batch['waveform'].shape == (23, 1, 64000)
    assert (batch['waveform'][..., 48000:] == 0).all() and (batch['waveform'][..., 47999] > 0).all()
    assert next(batches(shards, 23, seconds=3.))['padded'] == 0

def test_batches_are_float32_and_of_length_one(shards):
    batch = next(batches(shards, 4))
    assert batch['waveform'].dtype == batch['embedding'].dtype == torch.float32 and batch['waveform'].shape == (4, 1, 32768)
    assert torch.allclose(batch['embedding'].norm(dim=-1), torch.ones(4), atol=1e-6)

def test_labels_only_on_request(shards, tmp_path):
    assert 'label' not in next(batches(shards, 4)) and 'label' not in next(all_clips(shards))
    batch = next(batches(shards, 4, labels=True))
    assert batch['label'] == [id.replace('clip-', 'label ') for id in batch['id']]
    unlabelled = make(tmp_path/'set', [2], labelled=1)
    for read in lambda: batches(unlabelled, 2, labels=True), lambda: next(all_clips(unlabelled, labels=True)):
        with pytest.raises(InputError, match='1 of 2 clips have no label'): read()

def test_the_same_clips_give_the_same_bytes(shards, tmp_path):
    again = make(tmp_path/'again', [5, 7, 1, 4, 6])
    for tar in shards.glob('*.tar'): assert tar.read_bytes() == (again/tar.name).read_bytes()

def test_addresses(shards):
    near = take(shards, 3, 4)
    for address in f'file://{shards}', f'file://{shards}/', f'pipe:cat {shards}/{{}}':
        assert shard_info(address) == shard_info(shards) and same(near, take(address, 3, 4))

def test_odd_folder_names(shards, tmp_path):
    odd = tmp_path/'a {1..3}::b #?'
    odd.symlink_to(shards)
    assert same(take(odd, 2, 4), take(shards, 2, 4))

def test_what_is_not_shards(tmp_path):
    with pytest.raises(InputError, match='clipsonic prepare'): shard_info(tmp_path)
    (tmp_path/'parts').mkdir()
    with pytest.raises(InputError, match='has not ended'): shard_info(tmp_path)
    for text in '{', '[]', '{"kind": "denoiser"}':
        (tmp_path/'shards.json').write_text(text)
        with pytest.raises(InputError, match='shards.json'): batches(tmp_path, 4)

def test_damage_is_named(tmp_path):
    folder = make(tmp_path/'set', [3, 3])
    tar = folder/'clipsonic-000001.tar'
    tar.write_bytes(tar.read_bytes()[:5000])
    with pytest.raises(ClipsonicError, match='clipsonic-000001.tar'): list(all_clips(folder))
    with pytest.raises(ClipsonicError, match='clipsonic-000001.tar'): take(folder, 2, 3)
    tar.unlink()
    with pytest.raises(ClipsonicError, match='clipsonic-000001.tar'): take(folder, 2, 3)

def test_a_shard_with_fewer_clips_than_it_should_have_is_named(tmp_path):
    folder = make(tmp_path/'set', [3])
    info = json.loads((folder/'shards.json').read_text())
    (folder/'shards.json').write_text(json.dumps(info | dict(count=4, shards={'clipsonic-000000.tar': 4})))
    with pytest.raises(ClipsonicError, match='clipsonic-000000.tar'): take(folder, 2, 4)

@pytest.mark.parametrize('wrong', [dict(batch_size=0), dict(batch_size=2, seconds=0), dict(batch_size=2, rank=1), dict(batch_size=2, world=0)])
def test_wrong_parameters(shards, wrong):
    with pytest.raises(InputError): batches(shards, **wrong)

def test_the_global_generator_is_left_alone(shards):
    state = torch.get_rng_state()
    take(shards, 2, 4)
    assert torch.equal(state, torch.get_rng_state())
