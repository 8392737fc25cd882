"The prior against release 1.1.0's figures, from the files of its trainer; and the recipes that train one."
import collections
import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden_prior import FIXTURE, LATER, SMALL, TOKENS, given, weight

from clipsonic.checkpoint import load_config, load_tensors, state_dict_hash
from clipsonic.core import CheckpointError, InputError, clip_generators
from clipsonic.prior import Prior, PriorConfig, DiffusionPriorNetwork, convert_prior, cached_text_model, load_prior
from conftest import naming

OLD = PriorConfig(**SMALL, max_text_len=TOKENS, cosine_attention=False)


@pytest.fixture(scope="module")
def golden():
    with np.load(FIXTURE) as file:
        return {"guess": torch.from_numpy(file["guess"]), "freqs": torch.from_numpy(file["freqs"]),
                "layout": json.loads(file["layout"].item())}


@pytest.fixture
def published(golden):
    return {name: golden["freqs"].clone() if name.endswith("freqs") else weight(name[4:], shape)
            for name, shape in golden["layout"].items()}


def trainer_file(path, state):
    "What the old trainer's `save` leaves: weights, averages, an optimiser, and Python objects."
    import packaging.version
    import pytorch_warmup
    optimizer = torch.optim.AdamW([torch.zeros(3, requires_grad=True)])
    torch.save({"optimizer": optimizer.state_dict(), "warmup_scheduler": pytorch_warmup.LinearWarmup(optimizer, 10),
                "model": {k: torch.zeros_like(v) for k, v in state.items()},
                "version": packaging.version.parse("1.1.0"), "step": torch.tensor([7]),
                "ema": {"initted": torch.tensor([True])}, "ema_model": collections.OrderedDict(state)}, path)
    return path


def test_the_published_prior_says_the_same(golden, published, tmp_path):
    published["noise_scheduler.betas"] = torch.zeros(1000)  # the trainer's file holds its schedule too
    prior = load_prior(convert_prior(trainer_file(tmp_path / "prior.pth", published), tmp_path / "ours", OLD), "cpu")
    image, t, text, encodings = given(SMALL["dim"], TOKENS)
    theirs = prior.network(image, t, text_embed=text, text_encodings=encodings)
    torch.testing.assert_close(theirs, golden["guess"], atol=1e-5, rtol=0)
    for i in range(3):
        network = cached_text_model(prior.network, text[i : i + 1], encodings[i : i + 1])
        quick = network(image[i][None, None], t[i : i + 1].float())
        torch.testing.assert_close(quick[0, 0], golden["guess"][i], atol=1e-5, rtol=0)
    assert prior.clip is None and load_config(tmp_path / "ours")["converted"] == {"file": "prior.pth"}
    plain = tmp_path / "weights.pth"
    torch.save(published, plain)
    assert all(torch.equal(a, b) for a, b in zip(load_prior(convert_prior(plain, tmp_path / "plain", OLD),
        "cpu").network.state_dict().values(), prior.network.state_dict().values()))


@pytest.mark.parametrize("wrap", [lambda state: {"state_dict": {f"module.{k}": v for k, v in state.items()}},
                                  lambda state: {f"_orig_mod.{k}": v for k, v in state.items()},
                                  lambda state: {k.removeprefix("net."): v for k, v in state.items()}],
                         ids=["parallel", "compiled", "bare"])
def test_other_trainers_wrappers_are_taken_off(published, tmp_path, wrap):
    digests = []
    for number, state in enumerate((published, wrap(published))):
        torch.save(state, tmp_path / "prior.pth")
        digests.append(state_dict_hash(load_tensors(convert_prior(tmp_path / "prior.pth", tmp_path / str(number), OLD),
                                                   "prior")))
    assert digests[0] == digests[1]


def test_the_later_release_says_the_same_and_learns_the_same():
    with np.load(LATER) as file:
        guess, gradients = torch.from_numpy(file["guess"]), json.loads(file["gradients"].item())
    network = DiffusionPriorNetwork(PriorConfig(**SMALL, max_text_len=TOKENS))
    with torch.no_grad():
        for name, p in network.named_parameters():
            if p.requires_grad: p.copy_(weight(name, p.shape))
    image, t, text, encodings = given(SMALL["dim"], TOKENS)
    ours = network(image, t, text_embed=text, text_encodings=encodings)
    torch.testing.assert_close(ours, guess, atol=1e-5, rtol=0)
    ours.square().mean().backward()
    ours = {name: p.grad.norm().item() for name, p in network.named_parameters() if p.grad is not None and p.grad.any()}
    assert ours == pytest.approx(gradients, rel=1e-3)


def test_what_is_not_the_published_prior(published, tmp_path, capsys):
    def refused(state, says, config=OLD):
        torch.save(state, tmp_path / "odd.pth")
        with pytest.raises(CheckpointError, match=naming(tmp_path / "odd.pth", *says.split())):
            convert_prior(tmp_path / "odd.pth", tmp_path / "out", config)
        assert not (tmp_path / "out").exists()
    lacking = {k: v for k, v in published.items() if "layers.1.0.to_q" not in k}
    refused(lacking, "1 causal_transformer.layers.1.0.to_q.weight")
    refused(published | {"net.null_text_embeds": torch.zeros(1, 1, 32)}, "1 null_text_embeds")
    refused(published | {"net.learned_query": torch.zeros(9)}, "1 learned_query (9,) (32,)")
    refused({"a": 1}, "prior tensors a")
    refused([1], "prior tensors list")
    refused(published, "110 causal_transformer.layers.10.0.null_kv", PriorConfig(cosine_attention=False))
    with pytest.raises(InputError, match=naming(tmp_path / "none.pth")):
        convert_prior(tmp_path / "none.pth", tmp_path / "out", OLD)
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(CheckpointError, match=naming(tmp_path / "text.pth", "torch.save")):
        convert_prior(tmp_path / "text.pth", tmp_path / "out", OLD)


class Bomb:
    def __reduce__(self): return print, ("a pickle was executed",)


def test_no_pickle_is_executed(published, tmp_path, capsys):
    torch.save(published | {"x": Bomb()}, tmp_path / "bomb.pth")
    with pytest.raises(CheckpointError, match=naming(tmp_path / "bomb.pth", "print")):
        convert_prior(tmp_path / "bomb.pth", tmp_path / "out", OLD)
    assert "executed" not in capsys.readouterr().out and not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def tiny():
    config = PriorConfig(dim=16, depth=2, heads=2, dim_head=8, ff_mult=2, max_text_len=4)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Prior(DiffusionPriorNetwork(config).eval().requires_grad_(False), config)


def texts(count):
    return F.normalize(torch.randn(count, 16, generator=torch.Generator().manual_seed(3)), dim=-1), torch.randn(count,
        3, 16, generator=torch.Generator().manual_seed(4))


def test_a_text_s_embedding_is_its_own(tiny):
    """The same seed gives the same embedding to the bit, in any batch; what is given stays as it was, and the global
    generator too."""
    text, encodings = texts(4)
    before = text.clone(), encodings.clone(), torch.random.get_rng_state()
    together = tiny(text, encodings, clip_generators(0, 4), steps=8)
    for i in range(4):
        assert torch.equal(tiny(text[i : i + 1], encodings[i : i + 1], clip_generators(0, 4)[i : i + 1], steps=8)[0],
                           together[i])
    assert torch.equal(before[0], text) and torch.equal(before[1], encodings)
    assert torch.equal(before[2], torch.random.get_rng_state())
    assert not torch.allclose(tiny(text[:1], encodings[:1], clip_generators(1, 1), steps=8)[0], together[0])
    torch.testing.assert_close(together.norm(dim=-1), torch.ones(4))


def test_of_two_walks_the_nearer_is_kept(tiny):
    text, encodings = texts(6)
    one, many = (tiny(text, encodings, clip_generators(0, 6), steps=4, num_candidates=n) for n in (1, 16))
    assert ((many * text).sum(1)).mean() > ((one * text).sum(1)).mean()


def test_eta_is_the_checkpoints_unless_it_is_given(tiny):
    text, encodings = texts(2)
    def drawn(prior, **more): return prior(text, encodings, clip_generators(0, 2), steps=4, num_candidates=1, **more)
    still = Prior(tiny.network, dataclasses.replace(tiny.config, sampling_eta=0.0))
    assert torch.equal(drawn(still), drawn(tiny, eta=0.0)) and torch.equal(drawn(still, eta=1.0), drawn(tiny))
    assert not torch.allclose(drawn(still), drawn(tiny))


def test_longer_texts_are_cut_and_shorter_ones_padded(tiny):
    text, _ = texts(1)
    encodings = torch.randn(1, 9, 16, generator=torch.Generator().manual_seed(5))
    long, cut = (tiny(text, e, clip_generators(0, 1), steps=4) for e in (encodings, encodings[:, :4]))
    assert torch.equal(long, cut)
    short = F.pad(encodings[:, :2], (0, 0, 0, 2))
    assert torch.equal(tiny(text, short, clip_generators(0, 1), steps=4),
                       tiny(text, encodings[:, :2], clip_generators(0, 1), steps=4))


def test_a_wrapped_network_learns_too(tiny):
    "As several processes train it."
    from clipsonic.prior import prior_diffusion, prior_loss
    text, encodings = texts(4)
    given = prior_diffusion(tiny.config), text, text, encodings, torch.tensor([5, 50, 500, 999]), torch.zeros(4,
        16), torch.tensor([True, False, True, False])
    assert torch.equal(prior_loss(torch.nn.DataParallel(tiny.network), *given), prior_loss(tiny.network, *given))


@pytest.mark.parametrize("T", [100, 999, 2000])
def test_any_number_of_steps_is_counted(T):
    "The network is told the number of the step, of which it has T."
    from clipsonic.prior import prior_diffusion
    assert prior_diffusion(PriorConfig(timesteps=T)).timestep_map.tolist() == list(range(T))


# training

class TinyClip:
    "A CLIP of 16-wide embeddings that texts are hashed into."
    dim = 16
    fingerprint, device = {"name": "made up", "hash": ""}, torch.device("cpu")

    def encode_text_tokens(self, texts):
        embedding = torch.stack([F.one_hot(torch.tensor(sum(map(ord, t)) % 16), 16).float() for t in texts])
        return embedding, embedding[:, None].repeat(1, 3, 1)


@pytest.fixture(scope="module")
def labeled(tmp_path_factory):
    from clipsonic.shards import synthetic_shards, shard_info
    folder = tmp_path_factory.mktemp("labeled")
    synthetic_shards(folder, clips=12, dim=16, seconds=2.0, labels=True)
    assert shard_info(folder)["labeled"] == 12
    return folder


def tiny_recipe(labeled, **more):
    from clipsonic.recipes import PRIORS, SupervisedPriorRecipe
    config = PriorConfig(dim=16, depth=1, heads=2, dim_head=8, ff_mult=2, max_text_len=4)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SupervisedPriorRecipe(labeled, "tiny", config, dataclasses.replace(PRIORS["prior"][1],
            **{"batch_size": 8, "lr": 3e-3, "ema_decay": 0.9, "mixed_precision": "no", "save_every": 2,
               "log_every": 2} | more),
                              clip=TinyClip(), valid=labeled)


@pytest.mark.long
def test_a_prior_learns_labels_and_resumes_to_the_bit(labeled, tmp_path):
    from clipsonic.engine import train
    train(tiny_recipe(labeled), tmp_path / "whole", steps=4, progress=False, cpu=True)
    train(tiny_recipe(labeled), tmp_path / "parts", steps=2, progress=False, cpu=True)
    figures = train(tiny_recipe(labeled), tmp_path / "parts", steps=4, resume=True, progress=False, cpu=True)
    whole, parts = (load_tensors(tmp_path / name / "training", "state") for name in ("whole", "parts"))
    assert whole.keys() == parts.keys() and all(torch.equal(whole[k], parts[k]) for k in whole)
    assert {"cosine", "text"} <= figures.keys()
    long = train(tiny_recipe(labeled, save_every=500), tmp_path / "long", steps=500, progress=False, cpu=True)
    assert long["cosine"] > 0.5 > long["text"], long
    assert load_prior(tmp_path / "long", "cpu").clip == TinyClip.fingerprint


def test_a_prior_of_another_space_is_refused(labeled, tmp_path):
    from clipsonic.recipes import SupervisedPriorRecipe, PRIORS, recipe
    other = TinyClip()
    other.fingerprint = {"name": "another", "hash": "1"}
    with pytest.raises(InputError, match=naming(labeled, "'made up'", "'another'", "--clip")):
        SupervisedPriorRecipe(labeled, "tiny", *PRIORS["prior"], clip=other)
    with pytest.raises(InputError, match=naming("'made up'", "16-wide", "768-wide")):
        SupervisedPriorRecipe(labeled, "prior", *PRIORS["prior"], clip=TinyClip())
    with pytest.raises(InputError, match=naming(tmp_path, "imagetext-0*.tar")): recipe("pocket-prior-pd", tmp_path)
    with pytest.raises(InputError, match=naming("preset 'pocket'", "--clip")):
        recipe("pocket", labeled, clip=TinyClip())


@pytest.mark.slow
def test_the_paper_s_clip_and_prior_from_videos_on(tmp_path):
    """ViT-L/14 in the published layout with random weights: videos become shards, one real step makes a prior of the
    paper's size, and another CLIP is refused by name."""
    import open_clip
    from clipsonic.clip import load_clip
    from clipsonic.cli import main
    from films import film
    file, run = tmp_path / "ViT-L-14.pt", tmp_path / "run"
    shards = tmp_path / "shards"
    torch.save(open_clip.create_model("ViT-L-14-quickgelu").state_dict(), file)
    for n in range(2): film(tmp_path / f"video{n}.mp4", 3.0, n)
    (tmp_path / "index.csv").write_text("video0,0,dog barking,train\nvideo1,0,rain falling,train\n")
    published = ["--clip", "ViT-L-14", "--clip-file", str(file)]
    assert main(["prepare", str(tmp_path), "--index", str(tmp_path / "index.csv"), "--out", str(shards), "--workers",
                 "0", *published]) == 0
    # in processes of their own: accelerate keeps one precision a process
    own = [sys.executable, "-m", "clipsonic", "train", "--data", str(shards), "--steps", "1", "--cpu"]
    subprocess.run([*own, "--preset", "prior", "--out", str(run), "--batch-size", "4", *published], check=True)
    clip, prior = load_clip("ViT-L-14", file, "cpu"), load_prior(run, "cpu")
    assert prior.clip == clip.fingerprint and prior.clip["name"] == "ViT-L-14"
    text, encodings = clip.encode_text_tokens(["a photo of a dog"])
    drawn = prior(text, encodings, clip_generators(0, 1), steps=2)
    assert drawn.shape == (1, 768) and drawn.isfinite().all()
    refused = subprocess.run([*own, "--preset", "pocket", "--out", str(tmp_path / "other")], capture_output=True,
                             text=True)
    assert refused.returncode != 0 and "768" in refused.stderr and "Traceback" not in refused.stderr, refused.stderr

