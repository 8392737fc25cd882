"Edge cases of the scores and their classifier."
import math

import pytest
import torch
import torch.nn.functional as F

from clipsonic.checkpoint import save_checkpoint
from clipsonic.core import CheckpointError, InputError
from clipsonic.scores import (Classifier, ClassifierConfig, accuracy, augment_mel, clap_score, classifier_loss,
                              classify_clips, diversity, inception_score, kl_divergence, load_classifier,
                              match_by_name, nearest_neighbor, save_classifier, sliding_windows)
from conftest import naming


@pytest.fixture(scope="module")
def classifier():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Classifier(ClassifierConfig(classes=("dog", "rain", "sea"), width=4)).eval().requires_grad_(False)


def mels(n, frames=40, seed=0): return torch.randn(n, 1, 64, frames, generator=torch.Generator().manual_seed(seed)) - 5


@pytest.mark.parametrize("frames", [1, 2, 3, 64, 125])
def test_any_number_of_frames(classifier, frames):
    mel = mels(2, frames)
    assert classifier(mel).shape == (2, 3) and classifier(mel).isfinite().all()
    torch.testing.assert_close(classifier.features(mel).norm(dim=1), torch.ones(2))
    loss, metrics = classifier_loss(classifier, mel, torch.tensor([0, 1]), torch.Generator().manual_seed(0))
    assert math.isfinite(loss.item()) and metrics["cross_entropy"] == loss.item()


def test_a_clip_is_classified_alike_in_any_batch(classifier):
    mel = mels(5)
    torch.testing.assert_close(classifier(mel)[2:3], classifier(mel[2:3]), atol=1e-5, rtol=1e-5)


def test_variation_is_a_function_of_the_generator_and_keeps_its_input():
    mel = mels(4, 125)
    kept = mel.clone()
    one, two, three = (augment_mel(mel, torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert torch.equal(one, two) and not torch.equal(one, three) and torch.equal(mel, kept)
    assert one.shape == (4, 1, 64, 96)


def test_wilson_against_known_values():
    for right, n, low, high in ((0, 10, 0.0, 0.2775), (1, 10, 0.0179, 0.4042), (9, 10, 0.5958, 0.9821),
                                (10, 10, 0.7225, 1.0)):
        share = accuracy([1] * n, [1] * right + [0] * (n - right))
        assert (share.value, share.n) == (right / n, n)
        assert (share.low, share.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))
    with pytest.raises(InputError, match=naming(0, "answers")): accuracy([], [])
    with pytest.raises(InputError, match=naming(2, 1, "answers")): accuracy([1, 2], [1])


def test_nearest_and_diversity():
    apart = F.normalize(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), dim=1)
    similarity, which = nearest_neighbor(apart[:2], apart)
    torch.testing.assert_close(similarity, torch.tensor([1.0, 1.0, 0.5**0.5]))
    assert which[:2].tolist() == [0, 1]
    found = diversity(apart, ["a", "a", "b"])
    assert found["a"] == pytest.approx(1.0) and math.isnan(found["b"])


def test_classify_clips(classifier):
    mel, asked = mels(5), ["dog", "dog", "rain", "sea", "sea"]
    features = classifier.features(mel)
    row = classify_clips(classifier, mel, asked, features, batch_size=2)
    assert row["nearest"] == pytest.approx(1.0, abs=1e-5) and row["top1"].n == 5
    torch.testing.assert_close(row["features"], features)
    assert "nearest" not in classify_clips(classifier, mel, asked)
    with pytest.raises(InputError, match=naming("classes", "'fox'", "'dog'")):
        classify_clips(classifier, mel[:1], ["fox"])


@pytest.mark.parametrize("shape", [(1, 64, 8), (1, 1, 80, 8), (1, 1, 64, 0)])
def test_another_shape_is_refused(classifier, shape):
    with pytest.raises(InputError, match=naming("mel", shape)): classifier(torch.zeros(shape))


@pytest.mark.parametrize("classes", [(), ("dog",), ("dog", "dog")])
def test_classes_must_differ(classes):
    with pytest.raises(InputError, match=naming("classes", classes)): ClassifierConfig(classes=classes)


def test_a_folder_of_the_wrong_kind(tmp_path, classifier):
    save_classifier(tmp_path / "c", classifier)
    assert load_classifier(tmp_path / "c", device="cpu").config == classifier.config
    save_checkpoint(tmp_path / "other", {"kind": "denoiser"}, {"denoiser": {"w": torch.zeros(1)}})
    with pytest.raises(CheckpointError, match=naming(tmp_path / "other", "denoiser", "classifier")):
        load_classifier(tmp_path / "other")
    with pytest.raises(CheckpointError, match=naming(tmp_path / "nowhere")): load_classifier(tmp_path / "nowhere")


def test_scores_of_pairs_do_not_depend_on_order():
    g = torch.Generator().manual_seed(0)
    names = [f"clip {i}" for i in range(60)]
    logs = {n: torch.randn(30, generator=g).log_softmax(0) for n in names}
    real = {n: torch.randn(30, generator=g).log_softmax(0) for n in names}
    sounds = {n: F.normalize(torch.randn(3, 16, generator=g), dim=1) for n in names}
    texts = {n: F.normalize(torch.randn(16, generator=g), dim=0) for n in names}
    turned = lambda d: {n: d[n] for n in reversed(names)}
    assert kl_divergence(real, logs) == kl_divergence(turned(real), logs) == kl_divergence(real, turned(logs))
    assert inception_score(logs) == inception_score(turned(logs)) and 1 < inception_score(logs).value < 30
    assert clap_score(sounds, texts) == clap_score(turned(sounds), texts) == clap_score(sounds, turned(texts))
    assert kl_divergence(logs, logs).value == 0 and kl_divergence(real, logs).n == 60


def test_what_has_no_partner_is_named():
    one = torch.ones(2)
    with pytest.raises(InputError, match=naming(1, 2, "'b'")): match_by_name({"a": one, "b": one}, {"a": one})
    with pytest.raises(InputError, match=naming(4, 5, "'c', 'd', 'e' …")):
        match_by_name({"a": one}, {n: one for n in "acdef"})
    with pytest.raises(InputError, match=naming("one clip")): match_by_name({}, {"a": one})


def test_windows_slide_as_table_5_says():
    ten = sliding_windows(torch.arange(160000.0)[None], 16000)
    assert ten.shape == (13, 1, 64000) and ten[1, 0, 0] == 8000
    assert sliding_windows(torch.zeros(1, 1000), 16000).shape == (1, 1, 1000)
