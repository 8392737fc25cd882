"""Encoders: the pocket's and the published one's layout, tokenizers, refusals."""
import random
import re

import pytest
import torch
from PIL import Image

from clipsonic.checkpoint import save_checkpoint
from clipsonic.clip import (Captioner, ClipConfig, PocketTokenizer, SOUND_CLASSES, build_clip, common_words,
                            contrastive_loss, load_clip, pocket_clip, state_dict_hash)
from clipsonic.core import CheckpointError, InputError
from conftest import naming

TINY = ClipConfig(vision="test_resnet", text_width=32, text_heads=2, text_layers=1, embed_dim=16)

@pytest.fixture
def folder(tmp_path):
    "A tiny pocket CLIP with random weights, saved as a run saves it."
    tokenizer = PocketTokenizer.from_corpus(["a photo of a dog barking", "a cat"])
    model = build_clip(TINY, tokenizer.vocab_size)
    config = {"kind": "clip", "name": "pocket", "model": vars(TINY) | {}, "vocabulary": tokenizer.kept_ids}
    save_checkpoint(tmp_path / "clip", config, {"model": model.state_dict()})
    return tmp_path / "clip"

def test_embeddings_have_length_one_and_do_not_depend_on_the_rest_of_the_batch(folder):
    clip = load_clip(str(folder), device="cpu")
    images = [Image.effect_noise((90, 70), 50 + i).convert("RGB") for i in range(3)]
    together = clip.encode_image(images)
    assert together.shape == (3, 16) and torch.allclose(together.norm(dim=1), torch.ones(3), atol=1e-5)
    assert torch.allclose(together[1:2], clip.encode_image(images[1:2]), atol=1e-5)
    assert clip.encode_text(["a dog", "a cat barking"]).shape == (2, 16) and clip.dim == 16

def test_identity_follows_the_weights_and_survives_half_precision(folder, tmp_path):
    from clipsonic.checkpoint import load_config, load_tensors
    tensors = load_tensors(folder, "model")
    save_checkpoint(tmp_path / "half", load_config(folder), {"model": tensors}, dtype=torch.float16)
    assert pocket_clip(folder).fingerprint == pocket_clip(tmp_path / "half").fingerprint
    tensors["logit_scale"] += 1
    assert state_dict_hash(tensors) != pocket_clip(folder).fingerprint["hash"]

def test_unknown_words_are_left_out_and_long_texts_are_cut(folder):
    tokenizer = pocket_clip(folder).tokenizer
    assert tokenizer.oov_words("A photo of a theremin, barking!") == ["theremin"]
    assert tokenizer.oov_words("a dog") == []
    assert tokenizer(["theremin"])[0].tolist()[:3] == [tokenizer.start, tokenizer.end, 0]
    long = tokenizer(["dog " * 50])[0]
    assert long.shape == (20,) and long[-1] == tokenizer.end

def test_a_missing_or_foreign_tensor_is_named(folder, tmp_path):
    from clipsonic.checkpoint import load_config, load_tensors
    tensors = load_tensors(folder, "model")
    del tensors["logit_scale"]
    save_checkpoint(tmp_path / "bad", load_config(folder), {"model": tensors | {"stray": torch.zeros(1)}})
    with pytest.raises(CheckpointError, match=naming(tmp_path / "bad", "logit_scale", "stray")):
        load_clip(str(tmp_path / "bad"))

def test_refusals(tmp_path):
    with pytest.raises(InputError, match=naming("CLIP 'ViT-Q-99'", '"pocket"', '"ViT-L-14"')): load_clip("ViT-Q-99")
    with pytest.raises(InputError, match=naming("CLIP", tmp_path / "none.pt")):
        load_clip("ViT-L-14", file=tmp_path / "none.pt")
    (tmp_path / "junk.pt").write_bytes(b"junk")
    with pytest.raises(CheckpointError, match=naming("CLIP 'ViT-B-32'", tmp_path / "junk.pt")):
        load_clip("ViT-B-32", file=tmp_path / "junk.pt")

@pytest.mark.slow
def test_a_published_clip_from_a_local_file(tmp_path):
    "ViT-B/32 in the published layout with random weights: the same path as ViT-L/14, a third of its size."
    import open_clip
    model = open_clip.create_model("ViT-B-32-quickgelu")
    torch.save(model.state_dict(), tmp_path / "ViT-B-32.pt")
    clip = load_clip("ViT-B-32", file=tmp_path / "ViT-B-32.pt", device="cpu")
    text = clip.encode_text(["a photo of a dog"])
    tokens = open_clip.get_tokenizer("ViT-B-32")(["a photo of a dog"])
    direct = torch.nn.functional.normalize(model.eval().encode_text(tokens), dim=-1)
    assert clip.fingerprint["name"] == "ViT-B-32" and clip.dim == 512 and torch.allclose(text, direct, atol=1e-5)
    assert clip.encode_image([Image.new("RGB", (300, 200))]).shape == (1, 512) and clip.oov_words("theremin") == []

def test_every_row_of_words_makes_captions_within_the_context():
    import random
    captioner, rng = Captioner([n for w in SOUND_CLASSES.values() for n in w.nouns.split(", ")]), random.Random(0)
    tokenizer = PocketTokenizer.from_corpus(captioner.corpus())
    for noun in captioner.names:
        for _ in range(20):
            text, key = captioner.draw(noun, rng)
            assert text.strip() and key in captioner.keys(noun) and not tokenizer.oov_words(text)

def test_common_words_name_no_class_and_keep_the_key():
    captions = Captioner(["golden retriever", "flute"], common=common_words())
    named = " ".join(f"{c.nouns} {c.names} {c.actions} {c.standalone}" for c in SOUND_CLASSES.values())
    assert not set(captions.common) & set(re.findall(r"\w+", named.lower())) and len(captions.common) > 5000
    rng = random.Random(0)
    drawn = [captions.draw("flute", rng) for _ in range(300)]
    assert {key for _, key in drawn} <= set(captions.keys("flute"))
    with_common = [text for text, _ in drawn if set(text.split()) & set(captions.common)]
    assert 0.3 < len(with_common) / len(drawn) <= 1
    assert Captioner(["flute"]).common == []

def test_the_loss_has_its_least_value_where_matching_pairs_meet():
    e = torch.nn.functional.normalize(torch.randn(6, 8, generator=torch.Generator().manual_seed(0)),
                                      dim=1).requires_grad_()
    keys = torch.tensor([0, 1, 2, 3, 4, 5])
    args = torch.tensor(10.0), keys[:, None].repeat(1, 2), keys
    assert contrastive_loss(e, e, *args) < contrastive_loss(e, e.roll(1, 0), *args)


def test_words_outside_the_vocabulary_are_listed():
    assert load_clip("pocket", device="cpu").oov_words("a dog chasing a zeppelin") == ["chasing", "zeppelin"]
