"""The Fréchet distance against fifty digits and against sets whose distance is a formula; FAD∞ and intervals against
simulations."""
import math
import subprocess
import sys

import pytest
import torch

from clipsonic.checkpoint import save_checkpoint
from clipsonic.core import CheckpointError, InputError
from clipsonic.fad import (Moments, bootstrap_interval, cached_moments, check_features, fad_floor, fad_infinity,
                           frechet_distance, random_halves, load_moments, moments_from_covariance, save_moments)
from conftest import naming


def draw(*shape, seed=0): return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def spread(*sets): return sum(Moments.of(x).covariance().trace().item() for x in sets)


def slack(size):
    """How far off a distance may be, by any BLAS, of sets whose covariances have traces that sum to `size`.
    `nuclear_norm` promises 1e-10 of itself; the distance takes it twice, and twice a nuclear norm is at most `size`.
    Sums of n products round by n·ε of the sum of their absolute values, which is 1e-12 for n = 4500."""
    return (1e-10 + 1e-12) * size


def rotated(x, seed=5):
    "Rows after four reflections: an orthogonal change of axes, cheap in any dimension"
    for v in torch.nn.functional.normalize(draw(4, x.shape[1], seed=seed), dim=1): x = x - 2 * (x @ v)[:, None] * v
    return x


def exactly(mean, rows):
    "Clips with this mean and the covariance rowsᵀ·rows"
    half = rows * math.sqrt((2 * len(rows) - 1) / 2)
    return mean + torch.cat([half, -half])


# ---- fifty digits
def oracle(a, b):
    "The distance from float64 features, in fifty digits"
    mp = pytest.importorskip("mpmath").mp.clone()
    mp.dps = 50

    def centred(x):
        x = mp.matrix(x.tolist())
        mean = [mp.fsum(x.column(j)) / x.rows for j in range(x.cols)]
        for i in range(x.rows):
            for j in range(x.cols): x[i, j] = (x[i, j] - mean[j]) / mp.sqrt(x.rows - 1)
        return mean, x

    (mean_a, fa), (mean_b, fb) = centred(a), centred(b)
    m = fa * fb.T
    roots = [mp.sqrt(max(0, value)) for value in mp.eigsy(m * m.T, eigvals_only=True)]
    squares = [(p - q) ** 2 for p, q in zip(mean_a, mean_b)] + [v**2 for v in fa] + [v**2 for v in fb]
    return float(mp.fsum(squares) - 2 * mp.fsum(roots))


def with_constants(x): return torch.where(torch.arange(x.shape[1]) % 3 == 0, 2.5, x)


def with_duplicates(x): return x[:, torch.arange(x.shape[1]) // 2]


CASES = {
    "more clips": (draw(30, 6), draw(25, 6, seed=1) + 1), "fewer clips": (draw(10, 24), draw(15, 24, seed=1)),
    "mixed": (draw(12, 24), 2 * draw(40, 24, seed=1)),
    "wide": (draw(56, 48), 0.9 * draw(52, 48, seed=1)), "two clips": (draw(2, 48), draw(2, 48, seed=1)),
    "steep": (draw(30, 24) * torch.logspace(0, -7, 24), draw(30, 24, seed=1) * torch.logspace(-7, 0, 24)),
    "far away": (draw(30, 12) + 1e6, draw(30, 12, seed=1) + 1e6),
    "constant": (with_constants(draw(30, 12)), with_constants(draw(20, 12, seed=1))),
    "duplicated": (with_duplicates(draw(30, 12)), with_duplicates(draw(20, 12, seed=1))),
    "nearly equal": (draw(30, 12), draw(30, 12) + 1e-3 * draw(30, 12, seed=1)),
    "low rank": (draw(40, 3) @ draw(3, 24, seed=2), draw(40, 24, seed=1)),
    "low rank twice": (draw(40, 3) @ draw(3, 24, seed=2), draw(40, 5, seed=1) @ draw(5, 24, seed=3)),
}


@pytest.mark.parametrize("name", CASES)
def test_fifty_digits(name):
    a, b = CASES[name]
    expected, found = oracle(a, b), frechet_distance(a, b)
    assert abs(found - expected) <= 1e-9 * expected + slack(spread(a, b))  # the promise is 1e-6
    assert abs(found - frechet_distance(b, a)) <= 1e-12 * expected + 2 * slack(spread(a, b))


# ---- formulas
@pytest.mark.long
@pytest.mark.parametrize("d", [1, 7, 128, 512, 2048])
def test_rotated_commuting_covariances(d):
    lam, delta = torch.linspace(0, 3, d + 1, dtype=torch.float64)[1:] ** 2, draw(d)
    kap = torch.linspace(2, 0, d, dtype=torch.float64)
    a, b = (Moments.of(rotated(exactly(mean, torch.diag(v.sqrt())))) for mean, v in ((0 * delta, lam), (delta, kap)))
    expected = (delta.square().sum() + (lam.sqrt() - kap.sqrt()).square().sum()).item()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-12, abs=slack((lam + kap).sum().item()))
    assert frechet_distance(a, a) <= slack(2 * lam.sum())  # equal sets


@pytest.mark.parametrize("d, rank", [(16, 1), (64, 20), (512, 100), (2048, 256)])
def test_low_rank_at_known_angles(d, rank):
    "Two flat clouds, with 2·rank clips each, whose axes meet at chosen angles"
    alpha, beta = draw(rank).square() + 0.01, draw(rank, seed=1).square()
    angle = torch.linspace(0, math.pi / 2, rank, dtype=torch.float64)
    first = torch.eye(rank, d, dtype=torch.float64)
    second = angle.cos()[:, None] * first + angle.sin()[:, None] * torch.eye(rank * 2, d, dtype=torch.float64)[rank:]
    a = rotated(exactly(torch.zeros(d), alpha.sqrt()[:, None] * first))
    b = rotated(exactly(torch.ones(d), beta.sqrt()[:, None] * second))
    expected = (alpha + beta - 2 * (alpha * beta).sqrt() * angle.cos()).sum().item() + rotated(torch.ones(1, d,
        dtype=torch.float64)).square().sum().item()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-12, abs=slack((alpha + beta).sum().item()))


@pytest.mark.parametrize("a", [draw(200, 20), draw(10, 20), with_constants(draw(50, 20)),
                               with_duplicates(draw(50, 20))], ids=["full", "few", "constant", "duplicated"])
def test_shift_rotation_scale_and_order(a):
    b, delta = draw(30, 20, seed=1), draw(20, seed=2)
    value, size = frechet_distance(a, b), spread(a, b)
    assert frechet_distance(a, a + delta) == pytest.approx(delta.square().sum().item(), rel=1e-12,
                                                           abs=slack(spread(a, a)))
    assert frechet_distance(rotated(a), rotated(b)) == pytest.approx(value, rel=1e-12, abs=2 * slack(size))
    assert frechet_distance(1e-6 * a, 1e-6 * b) == pytest.approx(1e-12 * value, rel=1e-12, abs=2e-12 * slack(size))
    assert frechet_distance(a.flip(0), b.roll(3, 0)) == pytest.approx(value, rel=1e-12, abs=2 * slack(size))
    assert 0 <= frechet_distance(a, a.flip(0)) <= slack(spread(a, a))
    # to a point
    assert frechet_distance(a, torch.full((5, 20), 3.0)) == pytest.approx(spread(a)
        + (a.mean(0) - 3).square().sum().item(), rel=1e-12)


@pytest.mark.parametrize("offset, scale", [(0, 1), (10, 1), (1000, 0.01)])
def test_float32_moves_it_no_more_than_the_bound(offset, scale):
    for seed in range(5):
        a, b = scale * draw(40, 32, seed=seed) + offset, scale * draw(60, 32, seed=seed + 9) + offset
        bound = 2**-24 * sum((x.square().sum() / (len(x) - 1)).sqrt().item() for x in (a, b))
        assert abs(math.sqrt(frechet_distance(a.float(), b.float())) - math.sqrt(frechet_distance(a, b))) <= bound


# ---- moments
@pytest.mark.parametrize("sizes", [[200], [1] * 200, [1, 199], [64, 64, 72], [3, 150, 47]])
@pytest.mark.parametrize("d", [4, 60, 300])
def test_pieces_in_any_order_make_the_whole(d, sizes):
    x = draw(200, d) * torch.linspace(0.1, 3, d) + 5 + 20 * (torch.arange(200) > 120)[:, None]
    pieces, whole = [Moments.of(piece) for piece in x.split(sizes)], Moments.of(x)
    for order in (pieces, pieces[::-1], pieces[1::2] + pieces[::2]):
        merged = order[0]
        for piece in order[1:]: merged = merged.merge(piece)
        assert merged.n == 200 and len(merged.factor) <= max(2 * d, 400)
        torch.testing.assert_close(merged.mean, whole.mean, rtol=1e-12, atol=0)
        torch.testing.assert_close(merged.covariance(), x.T.cov(), rtol=1e-10, atol=1e-10)
        other = draw(50, d, seed=3)
        assert frechet_distance(merged, other) == pytest.approx(frechet_distance(x, other), rel=1e-12,
                                                                abs=2 * slack(spread(x, other)))


def test_an_input_is_left_as_it_was():
    x = draw(30, 4)
    kept = x.clone()
    Moments.of(x).add(x); frechet_distance(x, x + 1)
    assert torch.equal(x, kept)
    assert frechet_distance(x.requires_grad_(), kept + 1) == pytest.approx(4)


@pytest.mark.parametrize("features, said", [
    ([[1.0]], "list"), (torch.ones(3), "(3,)"), (torch.ones(0, 3), "(0, 3)"), (torch.ones(3, 0), "(3, 0)"),
    (torch.ones(3, 2, dtype=torch.int64), "int64"), (torch.ones(3, 2).half(), "float16"),
    (torch.ones(3, 2).bfloat16(), "bfloat16"), (torch.tensor([[1.0], [math.inf], [math.nan]]), "2 3 finite 1")])
def test_features_that_are_refused(features, said):
    words = naming("features", *([said] if "(" in said else said.split()))
    with pytest.raises(InputError, match=words): check_features(features)
    with pytest.raises(InputError, match=words): frechet_distance(features, torch.ones(3, 2))


def test_sets_that_are_refused():
    with pytest.raises(InputError, match=naming("dimensions", 3, 2)): frechet_distance(draw(9, 3), draw(9, 2))
    with pytest.raises(InputError, match=naming("clips", 1, 9)): frechet_distance(draw(1, 3), draw(9, 3))
    with pytest.raises(InputError, match=naming("covariance", "clips", 1)): Moments.of(draw(1, 3)).covariance()
    with pytest.raises(InputError, match=naming("dimensions", 2, 3)): Moments.of(draw(9, 3)).add(draw(9, 2))


def test_moments_from_published_statistics():
    a, b = draw(100, 12), 2 * draw(80, 12, seed=1)
    theirs = moments_from_covariance(80, b.mean(0), b.T.cov())
    assert frechet_distance(a, theirs) == pytest.approx(frechet_distance(a, b), rel=1e-12, abs=2 * slack(spread(a, b)))
    rounded = moments_from_covariance(80, b.mean(0).float(), b.T.cov().float())
    assert frechet_distance(a, rounded) == pytest.approx(frechet_distance(a, b), rel=1e-5)
    flat = moments_from_covariance(9, torch.zeros(12), torch.zeros(12, 12))
    assert frechet_distance(a, flat) == pytest.approx(spread(a) + a.mean(0).square().sum().item())
    lowest = torch.linalg.eigvalsh(-b.T.cov()).min()
    for n, mean, covariance, said in ((1, b.mean(0), b.T.cov(), "n=1"), (9, b.mean(0), b.T.cov()[1:], "(11, 12)"),
                                      (9, b.mean(0), b.T.cov().tril(), "asymmetric"),
                                      (9, b.mean(0), -b.T.cov(), f"eigenvalues from {lowest:.2f}"),
                                      (9, b.mean(0) * math.nan, b.T.cov(), "finite")):
        with pytest.raises(InputError, match=naming(said)): moments_from_covariance(n, mean, covariance)


# ---- on disk
def test_kept_moments_are_the_same_to_the_last_bit(tmp_path):
    for n in (5, 100):
        moments = Moments.of(draw(n, 8))
        save_moments(tmp_path / "real", moments, {"clips": n})  # the second replaces the first
        again = load_moments(tmp_path / "real", {"clips": n})
        assert again.n == n and torch.equal(again.mean, moments.mean) and torch.equal(again.factor, moments.factor)


def test_moments_of_something_else_are_not_taken(tmp_path):
    save_moments(tmp_path / "real", Moments.of(draw(9, 8)), {"embedder": "pocket"})
    with pytest.raises(CheckpointError,
                       match=naming(tmp_path / "real", "{'embedder': 'pocket'}", "{'embedder': 'vggish'}")):
        load_moments(tmp_path / "real", {"embedder": "vggish"})
    save_checkpoint(tmp_path / "model", {"kind": "denoiser"}, {})
    with pytest.raises(InputError, match=naming(tmp_path / "model", "moments", "denoiser")):
        save_moments(tmp_path / "model", Moments.of(draw(9, 8)), {})
    with pytest.raises(CheckpointError, match=naming(tmp_path / "model", "moments", "denoiser")):
        load_moments(tmp_path / "model")
    save_checkpoint(tmp_path / "half", {"kind": "moments", "n": 3, "of": {}}, {"moments": {"mean": torch.ones(3)}})
    with pytest.raises(CheckpointError, match=naming(tmp_path / "half", "moments", "n=3")):
        load_moments(tmp_path / "half")


def test_the_cache_makes_what_it_lacks_or_what_is_damaged(tmp_path):
    made = []
    def make(): made.append(1); return Moments.of(draw(9, 8))
    def cached(stamp): return cached_moments(tmp_path / "real", stamp, make).n
    assert [cached({"a": 1}), cached({"a": 1}), len(made)] == [9, 9, 1]
    assert [cached({"a": 2}), len(made)] == [9, 2]  # another stamp
    file = tmp_path / "real" / "moments.safetensors"
    file.write_bytes(file.read_bytes()[:-50])
    assert [cached({"a": 2}), cached({"a": 2}), len(made)] == [9, 9, 3]


def test_a_disk_that_takes_no_moments_ends_nothing(tmp_path):
    "A file system of 32 kB, where this process may mount one"
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", tmp_path], capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        with pytest.warns(UserWarning, match=naming(tmp_path / "real", "No space left", "moments")):
            moments = cached_moments(tmp_path / "real", {"a": 1}, lambda: Moments.of(draw(200, 100)))
        assert moments.n == 200 and not list(tmp_path.iterdir())
    finally: subprocess.run(["umount", tmp_path], check=True)
    with pytest.raises(InputError, match=naming(tmp_path / "no/real", "folder")):
        cached_moments(tmp_path / "no" / "real", {"a": 1}, lambda: moments)


# ---- simulations: clouds of independent normals, where the truth is a formula
def cloud(mean, std, n, generator):
    return mean + std * torch.randn(n, len(std), generator=generator, dtype=torch.float64)


def clouds(name, d):
    "Means and standard deviations of both clouds, and their distance"
    one, steep = torch.ones(d, dtype=torch.float64), torch.arange(1, d + 1, dtype=torch.float64) ** -0.75
    mean, a, b = {"equal": (0, one, one), "shifted": (0.3, one, one), "wider": (0, one, one * 2**0.5),
                  "steep": (0.2, steep, steep * 1.2**0.5), "near": (0.03, one, one * 1.05**0.5),
                  "equal and steep": (0, steep, steep)}[name]
    return (0 * one, a), (mean * one, b), (d * mean**2 + (a - b).square().sum()).item()


def simulate(name, d, n, times, n_splits, n_b=None):
    "Raw FAD's bias, FAD∞'s bias and its standard error, and the share of intervals that hold the truth"
    (mean_a, a), (mean_b, b), truth = clouds(name, d)
    g = torch.Generator().manual_seed(11)  # not 7, with which the interval's width was found
    found = []
    for _ in range(times):
        x, y = cloud(mean_a, a, n, g), cloud(mean_b, b, n_b or n, g)
        e = fad_infinity(x, y, g, n_splits=n_splits)
        found.append((frechet_distance(x, y) - truth, e.value - truth, float(e.low <= truth <= e.high)))
    found = torch.tensor(found, dtype=torch.float64)
    return *found.mean(0).tolist(), (found[:, 1].std() / times**0.5).item()


@pytest.mark.parametrize("name", ["equal", "shifted", "wider"])
def test_infinity_in_a_short_simulation(name):
    raw, bias, coverage, error = simulate(name, 8, 128, 80, n_splits=25)
    assert abs(bias) <= 0.1 * raw + 3 * error and raw > 0.3
    assert 0.87 <= coverage <= 1


@pytest.mark.slow
@pytest.mark.parametrize("name, d, n, n_b, least", [
    ("equal", 16, 256, 256, 0.93), ("shifted", 16, 256, 256, 0.93), ("wider", 16, 256, 256, 0.93),
    ("steep", 16, 256, 256, 0.93), ("near", 16, 256, 256, 0.93), ("shifted", 32, 512, 512, 0.93),
    ("shifted", 16, 256, 1000, 0.93),
    # all that differs is chance, in two or three directions: the notebook says so
    ("equal and steep", 16, 256, 256, 0.89)])
def test_infinity_in_a_thousand_simulations(name, d, n, n_b, least, capsys):
    raw, bias, coverage, error = simulate(name, d, n, 1000, 100, n_b)
    with capsys.disabled():
        print(f"\n{name}, {d} dimensions, {n} and {n_b} clips: raw bias {raw:.4f}, "
              f"FAD∞ {bias / raw:+.3f} ± {error / raw:.3f} of it, coverage {coverage:.3f}")
    assert abs(bias) <= 0.1 * raw + 2 * error
    assert least <= coverage <= 0.97


def test_infinity_where_features_are_degenerate():
    g = torch.Generator().manual_seed(0)
    constant = fad_infinity(torch.ones(64, 4), torch.zeros(64, 4), g, n_splits=3)
    assert (constant.value, constant.low, constant.high, constant.n) == (4, 4, 4, 64)
    doubled = fad_infinity(with_duplicates(draw(64, 4)), with_duplicates(draw(70, 4, seed=1)), g)
    single = fad_infinity(draw(64, 4)[:, :2], draw(70, 4, seed=1)[:, :2], torch.Generator().manual_seed(0), n_splits=50)
    assert doubled.value == pytest.approx(2 * single.value, abs=single.high - single.low)


def test_infinity_against_kept_moments():
    "A reference as moments is not halved: only the features' own bias goes"
    g, means = torch.Generator().manual_seed(3), torch.zeros(8, dtype=torch.float64)
    real = Moments.of(cloud(means, means + 1, 40_000, g))
    values = [fad_infinity(cloud(means + 0.2, means + 1, 128, g), real, g, n_splits=10).value for _ in range(60)]
    mean = torch.tensor(values).mean().item()
    assert abs(mean - 8 * 0.04) < 3 * torch.tensor(values).std().item() / 60**0.5 + 0.01


def test_infinity_refuses_too_few_clips():
    g = torch.Generator().manual_seed(0)
    with pytest.raises(InputError, match=naming("features", 63, 4, "FAD∞", 64)):
        fad_infinity(draw(63, 4), draw(64, 4), g)
    with pytest.raises(InputError, match=naming("reference", 63)): fad_infinity(draw(64, 4), draw(63, 4), g)
    with pytest.raises(InputError, match="n_splits=1"): fad_infinity(draw(64, 4), draw(64, 4), g, n_splits=1)


def test_halves_deal_every_clip_once_and_ask_the_generator_only():
    before, x = torch.get_rng_state(), torch.arange(9.0)[:, None]
    one, two = random_halves(x, torch.Generator().manual_seed(1))
    assert len(one) == 5 and torch.equal(torch.cat([one, two]).sort(0).values, x)
    first, again = (fad_infinity(draw(64, 4), draw(64, 4) + 1, torch.Generator().manual_seed(1), n_splits=5)
                    for _ in range(2))
    assert first == again
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("d, n", [(8, 128), (32, 16)])
def test_the_bootstrap_interval_holds_the_mean_of_plain_fad(d, n):
    (mean_a, a), (mean_b, b), _ = clouds("shifted", d)
    g = torch.Generator().manual_seed(2)
    def interval():
        e = bootstrap_interval(cloud(mean_a, a, n, g), cloud(mean_b, b, n, g), g, n_resamples=40)
        return e.value, e.low, e.high
    found = torch.tensor([interval() for _ in range(60)])
    expected = found[:, 0].mean()
    assert ((found[:, 1] <= expected) & (expected <= found[:, 2])).float().mean() > 0.88
    assert ((found[:, 2] - found[:, 1]) / 3.92).mean() < 2 * found[:, 0].std()  # wide, but not absurd
    with pytest.raises(InputError, match="n_resamples=19"):
        bootstrap_interval(draw(5, 2), draw(5, 2), g, n_resamples=19)


def test_the_floor_is_plain_fad_of_two_sets_of_one_distribution():
    (mean, a), _, _ = clouds("shifted", 32)
    g = torch.Generator().manual_seed(3)
    real = cloud(mean, a, 400, g)
    expected = sum(frechet_distance(cloud(mean, a, 16, g), cloud(mean, a, 384, g)) for _ in range(40)) / 40
    floor = fad_floor(real, 16, torch.Generator().manual_seed(0), n_splits=40)
    assert abs(floor.value / expected - 1) < 0.1 and floor.value > 1 and (floor.n, floor.low) == (16, None)
    assert floor == fad_floor(real, 16, torch.Generator().manual_seed(0), n_splits=40)
    listed = fad_floor([x[None] for x in real], 16, torch.Generator().manual_seed(0), n_splits=2)
    assert listed == fad_floor(real, 16, torch.Generator().manual_seed(0), n_splits=2)
    assert fad_floor(real[:20], 16, g).n == 10  # no more than half
    with pytest.raises(InputError, match=naming(1, 400)): fad_floor(real, 1, g)


def test_a_single_clip_of_several_rows_has_no_interval():
    assert bootstrap_interval([draw(50, 2)], draw(60, 2), torch.Generator()).low is None


def test_importing_costs_torch_only():
    heavy = "scipy", "librosa", "matplotlib", "IPython", "open_clip", "transformers", "webdataset"
    code = f"import sys, clipsonic.fad; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
