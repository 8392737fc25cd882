"""The analysis of listening tests: intervals, exclusion, agreement, A/B tests, and what it refuses."""
import csv
import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize

from clipsonic import ratings as module
from clipsonic.cli import main
from clipsonic.core import InputError
from clipsonic.listening import Plan
from clipsonic.ratings import (
    VARIANCES, TwoWay, analyze_ratings, apply_rules, bradley_terry, coverage, expected_half_width, holm,
    krippendorff_alpha, order_effect, read_ratings, required_size, simulate_ratings, size_components, true_means,
    two_way_difference, two_way_mean, two_way_variance, variance_components)
from conftest import naming, root

COLUMNS = ('plan listener list part check trial position question method item system other value seconds plays time '
           'expect').split()

def row(listener='ada', trial='t1', value=4, **others):
    "A row of ratings.csv, with the fields given"
    return {'plan': 'p1', 'listener': listener, 'list': 0, 'part': 'test', 'check': '', 'trial': trial, 'position': 1,
            'question': 'fidelity', 'method': 'mos', 'item': 'a dog', 'system': 'PD', 'other': '', 'value': value,
            'seconds': 8.0, 'plays': 1, 'time': '2026-01-01T00:00:00Z', 'expect': '', **others}

def write(path, rows):
    with open(path, 'w', newline='', encoding='utf-8') as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return path

def write_plan(folder, **fields):
    "A plan.json, with the fields given, in a new or existing folder"
    none = {'stimuli': {}, 'items': [], 'lists': [], 'training': [], 'rules': {}, 'protocol': {}, 'questions': []}
    plan = Plan(**{'title': 'Noise', 'method': 'ab', 'seed': 0, 'seconds': 4.0, **none, **fields})
    folder.mkdir(exist_ok=True)
    (folder/'plan.json').write_text(json.dumps(plan.to_dict()))
    return plan

def cells(y):
    "Values, listeners and items of an array (listener, item); nan: no answer"
    return y[~np.isnan(y)], *np.nonzero(~np.isnan(y))

# intervals

def test_the_variance_of_a_ragged_mean_is_right_on_average():
    rng, means, variances = np.random.default_rng(0), [], []
    present = rng.random((12, 10)) < 0.6
    for _ in range(1500):
        y = rng.normal(0, 0.5, (12, 1)) + rng.normal(0, 0.4, (1, 10)) + rng.normal(0, 0.6, (12, 10))
        values, listener, item = cells(np.where(present, y, np.nan))
        means.append(values.mean())
        variances.append(two_way_variance((values - values.mean()) / len(values), listener, item)[0])
    assert np.mean(variances) / np.var(means) == pytest.approx(1, abs=0.12)  # four standard errors of both

def test_names_of_listeners_and_items_do_not_matter_and_neither_does_the_order_of_rows():
    rng = np.random.default_rng(1)
    values, listener, item = cells(rng.normal(3, 1, (7, 6)))
    order = rng.permutation(len(values))
    named = [np.array([f'{prefix}{k}' for k in codes]) for prefix, codes in (('l', listener), ('i', item))]
    plain, other = two_way_mean(values, listener, item), two_way_mean(*(x[order] for x in (values, *named)))
    assert other.half_width == pytest.approx(plain.half_width) and other.df == pytest.approx(plain.df)
    assert (plain.n_listeners, plain.n_items, plain.n_ratings) == (7, 6, 42)

def test_complete_pairs_make_a_paired_difference_and_other_listeners_an_unpaired_one():
    rng = np.random.default_rng(2)
    y = rng.normal(0, 1, (15, 1, 1)) + rng.normal(0, 0.3, (15, 12, 2)) + [3.4, 3.0]
    first, second = cells(y[..., 0]), cells(y[..., 1])
    paired = two_way_difference(first, second)
    assert paired.half_width == pytest.approx(two_way_mean(*cells(y[..., 0] - y[..., 1])).half_width)
    strangers = two_way_difference(first, (second[0], second[1] + 100, second[2]))
    assert strangers.half_width > 2 * paired.half_width and strangers.value == pytest.approx(paired.value)
    assert paired.p < strangers.p

@pytest.mark.parametrize('y', [[[4.0, 5.0, 3.0]], [[4.0], [5.0]], [[3.0, np.nan], [np.nan, 4.0]]])
def test_no_interval_where_nothing_can_be_said_about_others(y):
    few = two_way_mean(*cells(np.array(y)))
    assert few.half_width is None and few.p is None and str(few) == f'{few.value:.2f}'

def test_equal_ratings_have_no_interval_as_nothing_says_how_others_vary():
    same = two_way_mean(*cells(np.full((4, 3), 5.0)), null=0.0)
    assert str(same) == '5.00' and same.p is None
    assert holm([same.p, 0.01]) == [None, 0.01]

def test_the_components_of_a_large_table_are_found():
    rng = np.random.default_rng(3)
    y = rng.normal(0, 0.6, (150, 1)) + rng.normal(0, 0.3, (1, 200)) + rng.normal(0, 0.5, (150, 200))
    y[rng.random(y.shape) < 0.5] = np.nan
    values, listener, item = cells(y)
    found = variance_components((values - values.mean()) / len(values), listener, item)
    assert found == {'listener': pytest.approx(0.36, rel=0.4), 'item': pytest.approx(0.09, rel=0.4),
                     'rest': pytest.approx(0.25, rel=0.05)}

def test_holm_as_in_a_worked_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == [] and holm([0.6, 0.7]) == [1.0, 1.0]

# simulation

def test_the_stored_coverage_is_that_of_two_thousand_tests_and_near_95_percent():
    stored = json.loads((root/'nbs'/'results'/'coverage.json').read_text(encoding='utf-8'))
    settings = {name: stored['simulated'][name] for name in ('n', 'listeners', 'items', 'systems', 'variances')}
    assert settings == {'n': 2000, 'listeners': 21, 'items': 20, 'systems': 4, 'variances': VARIANCES}
    for kind in ('mean', 'difference'):
        assert 0.93 <= stored[kind]['two-way']['coverage'] <= 0.97
        assert stored[kind]['naive']['coverage'] < 0.6 and stored[kind]['listeners']['coverage'] < 0.9

def test_coverage_is_a_function_of_its_seed_and_writes_a_file(tmp_path):
    first = coverage(4, seed=3, out=tmp_path/'coverage.json')
    assert json.loads((tmp_path/'coverage.json').read_text()) == first == coverage(4, seed=3) != coverage(4, seed=4)
    with pytest.raises(InputError, match='absent'): coverage(4, out=tmp_path/'absent'/'coverage.json')

@pytest.mark.long
def test_intervals_cover_also_where_nobody_rates_two_systems_for_one_item():
    rng, truth, held = np.random.default_rng(4), true_means([2.8, 3.4]), []
    for _ in range(300):
        y = np.clip(np.rint(module._simulate(rng, 20, 20, np.array([2.8, 3.4]), 20, 0.05, VARIANCES)), 1, 5)
        only = rng.integers(0, 2, (20, 20, 1)) == [0, 1]
        y[~only] = np.nan
        found = two_way_difference(cells(y[..., 0]), cells(y[..., 1]))
        held.append(abs(found.value - truth[0] + truth[1]) <= found.half_width)
    assert 0.91 <= np.mean(held) <= 0.99  # four standard errors below 0.95, and not too wide

@pytest.mark.long
def test_intervals_of_scores_and_strengths_cover_the_truth_of_equal_systems():
    held = {'score': [], 'strength': [], 'first': []}
    for seed in range(120):
        rows = simulate_ratings(30, 30, 3, 'ab', items_per_list=12, latent_means=[3.0] * 3, seed=seed)
        analysis = analyze_ratings(rows, rules={})
        fitted = analysis.strengths['fidelity']
        for name, estimates, truth in (('score', analysis.means['fidelity'].values(), 0.5),
                                       ('strength', fitted['strengths'].values(), 0), ('first', [fitted['first']], 0)):
            held[name] += [abs(each.value - truth) <= each.half_width for each in estimates]
    assert all(0.87 <= np.mean(holds) for holds in held.values())  # four standard errors of 120 tests below 0.95
    assert np.mean(held['score']) < 0.995

@pytest.mark.parametrize('method, values', [('mos', {1, 2, 3, 4, 5}), ('ab', {0, 0.5, 1}), ('mushra', set(range(101)))])
def test_simulated_ratings_are_on_the_scale_labeled_and_ragged(method, values, tmp_path):
    rows = simulate_ratings(12, 10, ['PD', 'ZS', 'real'], method, ('fidelity', 'relevance'), seed=2)
    assert {each['value'] for each in rows} <= values and {each['plan'] for each in rows} == {'simulated'}
    assert rows == simulate_ratings(12, 10, ['PD', 'ZS', 'real'], method, ('fidelity', 'relevance'), seed=2)
    analysis = analyze_ratings(rows, rules={})
    assert analysis.simulated and 'Simulated ratings' in analysis.markdown() and 'Simulated' in analysis.caption()
    complete = {(each['listener'], each['item']) for each in rows if not each['check']}
    assert len(complete) < 2 * 12 * 10 and len({each['listener'] for each in rows}) == 12
    assert [*read_ratings(write(tmp_path/'r.csv', [{k: each[k] for k in COLUMNS if k in each} for each in rows]))] \
        == [{**each, 'plays': 1.0} for each in rows]

def test_a_simulation_of_an_unknown_method_is_refused():
    with pytest.raises(InputError, match=naming('method', 'abx')): simulate_ratings(method='abx')

# exclusion

GOLD = {'check': 'gold', 'item': 'noise', 'system': 'noise', 'expect': '1..2'}

@pytest.mark.parametrize('rows, rules, broken', [
    ([row(), row(trial='g1', value=3, **GOLD)], {'gold_failures': 0}, ['gold_failures']),
    ([row(), row(trial='g1', value=3, **GOLD)], {'gold_failures': 1}, []),
    ([row(), row(trial='g1', value=2, **GOLD)], {'gold_failures': 0}, []),
    ([row(), row(trial='g1', value=3, **GOLD, part='training')], {'gold_failures': 0}, []),
    ([row(value=5), row(trial='t2', value=3, check='repeat')], {'repeat_difference': 1.5}, ['repeat_difference']),
    ([row(value=5), row(trial='t2', value=4, check='repeat')], {'repeat_difference': 1.5}, []),
    ([row(value=5), row(trial='t2', value=1, check='repeat', item='rain')], {'repeat_difference': 1.5}, []),
    ([row(seconds=0.3), row(trial='t2', seconds=0.5), row(trial='t3', seconds=9)], {'min_seconds': 1}, ['min_seconds']),
    ([row(seconds=''), row(trial='t2', seconds='')], {'min_seconds': 1}, []),
    ([row(), row('ben'), row('ben', 't2'), row('ben', 't3')], {'min_share': 0.5}, ['min_share']),
    ([row(), row('ben', list=1), row('ben', 't2', list=1)], {'min_share': 0.8}, []),
])
def test_rules_exclude_listeners_by_name(rows, rules, broken):
    kept, excluded = apply_rules(module.check_ratings(rows, [str(k) for k in range(len(rows))]), rules)
    assert excluded['listeners'].get('ada', []) == broken
    assert ('ada' in {each['listener'] for each in kept}) == (not broken)
    assert not any(each['check'] or each['part'] != 'test' for each in kept)
    assert len(kept) + sum(excluded['rows'].values()) == len(rows)

def test_a_repeat_of_a_pair_may_be_swapped():
    pair = {'method': 'ab', 'question': 'quality'}
    rows = [row(value=1, system='PD', other='ZS', **pair),
            row(trial='t2', value=0, system='ZS', other='PD', check='repeat', **pair)]
    assert module._repeat_difference(rows) == 0
    rows[1]['value'] = 1
    assert module._repeat_difference(rows) == 1

def test_mushra_excludes_by_the_hidden_reference_and_compares_no_anchor():
    rows, usual = [], (('reference', 98), ('anchor', 10), ('PD', 70), ('ZS', 50))
    for listener, k, (system, value) in product('abc', range(5), usual):
        value = 60 if listener == 'c' and system == 'reference' and k < 2 else value + k
        rows.append(row(listener, f't{k}', min(value, 100), method='mushra', item=f'item {k}', system=system))
    analysis = analyze_ratings(rows, rules={'reference_below': 90, 'reference_share': 0.15})
    assert analysis.excluded['listeners'] == {'c': ['reference_below']}
    assert [*analysis.means['fidelity']] == ['PD', 'ZS', 'anchor', 'reference']
    assert [(each['first'], each['second']) for each in analysis.differences] == [('PD', 'ZS')]
    assert analysis.differences[0]['estimate'].value == pytest.approx(20)
    assert 'MUSHRA score (0–100)' in analysis.markdown() and '| PD | 72.0 ± ' in analysis.mean_table()

def test_the_plan_beside_the_csv_gives_rules_lengths_and_directions(tmp_path):
    trial = {'questions': ['noise']}
    plan = write_plan(tmp_path, questions=[{'id': 'noise', 'lower_is_better': True}], lists=[[trial] * 10],
                      rules={'gold_failures': 1, 'min_share': 0.8})
    pair = {'plan': plan.id, 'method': 'ab', 'question': 'noise', 'system': 'PD', 'other': 'ZS'}
    rows = [row(name, f't{k}', k % 2, item=f'item {k}', **pair) for name in ('ada', 'ben', 'cy')
            for k in range(6 if name == 'cy' else 9)]
    analysis = analyze_ratings(write(tmp_path/'ratings.csv', rows), tmp_path/'analysis.json')
    assert analysis.excluded == {'listeners': {'cy': ['min_share']}, 'rows': {'excluded listeners': 6}}
    assert (analysis.title, analysis.lower_is_better) == ('Noise', ['noise'])
    assert 'noise ↓' in analysis.mean_table() and analysis.markdown().startswith('**Noise**')
    assert 'fewer than 0.8' in analysis.caption() and '1 (cy)' in analysis.caption()
    stored = json.loads((tmp_path/'analysis.json').read_text())
    assert stored['rules'] == plan.rules and stored['means']['noise']['PD']['n_listeners'] == 2
    assert analyze_ratings(tmp_path/'ratings.csv', rules={}).excluded['listeners'] == {}
    (tmp_path/'plan.json').write_text('{')
    with pytest.raises(InputError, match='plan.json'): analyze_ratings(tmp_path/'ratings.csv')

def test_a_plan_of_another_test_or_a_changed_one_is_refused(tmp_path):
    own, other = write_plan(tmp_path/'own', rules={'gold_failures': 1}), write_plan(tmp_path/'other', seed=1)
    path = write(tmp_path/'own'/'ratings.csv', [row(plan=own.id), row('ben', plan=own.id)])
    assert analyze_ratings(path).rules == {'gold_failures': 1}
    for extra in ({}, {'rules': {}}):
        with pytest.raises(InputError, match=naming(own.id, other.id, '--plan')):
            analyze_ratings(path, plan=tmp_path/'other'/'plan.json', **extra)
    with pytest.raises(InputError, match=naming(own.id)): analyze_ratings([row(plan='')], plan=path.parent/'plan.json')
    new = write_plan(tmp_path/'own', rules={'gold_failures': 0})
    (tmp_path/'own'/'plan.json').write_text(json.dumps({**new.to_dict(), 'id': own.id}))
    with pytest.raises(InputError, match=naming(own.id, new.id)): analyze_ratings(path)
    for content in ([], {**own.to_dict(), 'version': 2}, {**own.to_dict(), 'kind': 'other'}, {'id': own.id}):
        (tmp_path/'own'/'plan.json').write_text(json.dumps(content))
        with pytest.raises(InputError, match='plan.json'): analyze_ratings(path)

def test_without_a_plan_the_caption_names_the_default_rules(tmp_path):
    path = write(tmp_path/'ratings.csv', [row(), row('ben')])
    caption = analyze_ratings(path).caption()
    assert 'No plan.json was found' in caption and all(f'{rule} {value:g}' in caption for rule, value in
                                                       module.DEFAULT_RULES.items())
    assert 'No plan.json' not in analyze_ratings(path, rules={'min_share': 0.8}).caption()
    plan = write_plan(tmp_path, rules={'min_share': 0.8})
    write(path, [row(plan=plan.id), row('ben', plan=plan.id)])
    assert 'No plan.json' not in analyze_ratings(path).caption()

@pytest.mark.parametrize('check, rule', [('gold', 'gold_failures'), ('repeat', 'repeat_difference')])
def test_a_rule_is_reported_only_where_the_ratings_hold_what_it_looks_at(check, rule):
    rows, rules = [row(), row('ben')], {rule: 1, 'min_share': 0.8}
    without = analyze_ratings(rows, rules=rules).caption()
    assert rule not in without and 'min_share' in without
    training = row(trial='x', check=check, part='training')
    assert rule not in analyze_ratings([*rows, training], rules=rules).caption()
    assert rule in analyze_ratings([*rows, row(trial='x', check=check)], rules=rules).caption()

# agreement, order, A/B

@pytest.mark.parametrize('values, unit, ordinal, alpha', [
    ([1, 1, 2, 2, 5, 5], [0, 0, 1, 1, 2, 2], True, 1.0), ([1, 2, 2, 1], [0, 0, 1, 1], True, -0.5),
    ([1, 2, 3], [0, 1, 2], True, None), ([2, 2, 2, 2], [0, 0, 1, 1], False, None)])
def test_agreement_at_its_ends(values, unit, ordinal, alpha):
    assert krippendorff_alpha(values, unit, ordinal) == (alpha if alpha is None else pytest.approx(alpha))

@pytest.mark.parametrize('ordinal', [True, False])
def test_agreement_is_that_of_the_definition(ordinal):
    rng = np.random.default_rng(5)
    units = [list(rng.integers(1, 6, m)) for m in (2, 3, 4, 1, 5, 3)]
    pairable = [values for values in units if len(values) > 1]
    every = [value for values in pairable for value in values]
    def distance(a, b):
        a, b = sorted((a, b))
        if not ordinal: return float((a - b) ** 2)
        return (sum(a <= x <= b for x in every) - (every.count(a) + every.count(b)) / 2) ** 2
    n = len(every)
    observed = sum(distance(a, b) / (len(values) - 1) for values in pairable for a, b in product(values, values)) / n
    expected = sum(distance(a, b) for a, b in product(every, every)) / (n * (n - 1))
    unit = [k for k, values in enumerate(units) for _ in values]
    flat = [value for values in units for value in values]
    assert krippendorff_alpha(flat, unit, ordinal) == pytest.approx(1 - observed / expected)

def test_the_order_of_a_pair_is_seen_and_the_position_needs_positions():
    pair = {'method': 'ab', 'system': 'PD', 'other': 'ZS'}
    pairs = [row(f'l{k % 5}', f't{k}', 1.0 if k % 4 else 0.0, item=f'item {k // 5}', **pair) for k in range(40)]
    assert order_effect(pairs).value == 0.75 and order_effect(pairs).p < 0.1
    assert order_effect([row(position=None), row('ben', position=None)]) is None
    assert order_effect([row(position=1), row('ben', position=1)]) is None

def comparisons(rng, n, strengths, first, tie):
    "Outcomes of Davidson's model"
    a, b = rng.permuted(np.tile(np.arange(len(strengths)), (n, 1)), axis=1)[:, :2].T
    utility = np.stack([strengths[a] + first / 2, strengths[b] - first / 2, tie + (strengths[a] + strengths[b]) / 2])
    outcome = (utility + rng.gumbel(size=utility.shape)).argmax(0)
    return a, b, np.array([1, 0, 0.5])[outcome], rng.integers(0, 30, n), rng.integers(0, 30, n)

def test_strengths_are_those_that_were_simulated_and_sum_to_zero():
    strengths = np.array([-0.8, 0.1, 0.7])
    found = bradley_terry(*comparisons(np.random.default_rng(6), 20_000, strengths, first=0.3, tie=-0.5))
    assert [found['strengths'][name].value for name in '012'] == pytest.approx(strengths, abs=0.08)
    assert sum(each.value for each in found['strengths'].values()) == pytest.approx(0, abs=1e-6)
    assert found['first'].value == pytest.approx(0.3, abs=0.1) and found['first'].p < 1e-4

def test_strengths_have_the_highest_likelihood():
    a, b, value, listener, item = comparisons(np.random.default_rng(7), 80, np.array([0.0, 0.4, -0.4]), 0.2, -1.0)
    def loss(theta):
        lam, first, tie = theta[:3], theta[3], theta[4]
        utility = np.stack([lam[a] + first / 2, lam[b] - first / 2, tie + (lam[a] + lam[b]) / 2])
        chosen = np.select([value == 1, value == 0], [utility[0], utility[1]], utility[2])
        return (np.log(np.exp(utility).sum(0)) - chosen).sum() + lam.sum() ** 2  # the sum is free: hold it at 0
    best = minimize(loss, np.zeros(5), method='BFGS').x
    found = bradley_terry(a, b, value, listener, item)
    fitted = [*(found['strengths'][name].value for name in '012'), found['first'].value]
    assert fitted == pytest.approx(best[:4], abs=1e-3)

@pytest.mark.parametrize('wins, draws, losses, swapped', [
    (20, 0, 0, True), (10, 10, 0, True), (0, 20, 0, True), (0, 10, 10, True), (10, 0, 10, False)])
def test_no_strengths_without_a_loss_and_a_win_or_for_one_that_is_always_first(wins, draws, losses, swapped):
    value = np.repeat([1.0, 0.5, 0.0], [wins, draws, losses])
    a, b = np.repeat('PD', 20), np.repeat('ZS', 20)
    if swapped: a[::2], b[::2], value[::2] = 'ZS', 'PD', 1 - value[::2]
    assert bradley_terry(a, b, value, np.arange(20) % 5, np.arange(20) // 5) is None

def test_strengths_without_draws():
    a, b = np.tile(['PD', 'ZS'], 12), np.tile(['ZS', 'PD'], 12)
    value = np.where(a == 'PD', 1.0, 0.0)
    value[:4] = 1 - value[:4]  # PD wins 20 of 24
    found = bradley_terry(a, b, value, np.arange(24) % 4, np.arange(24) // 4)['strengths']
    assert found['PD'].value - found['ZS'].value == pytest.approx(np.log(5), abs=1e-6)

def test_scores_as_clipsynth_counts_them():
    pairs = [('PD', 'ZS', 1), ('ZS', 'PD', 0.5), ('PD', 'SD', 0), ('SD', 'ZS', 0.5), ('ZS', 'SD', 0)]
    rows = [row('ada', f't{k}', value, method='ab', item=f'item {k}', system=a, other=b)
            for k, (a, b, value) in enumerate(pairs)]
    analysis = analyze_ratings(rows, rules={})
    scores = {system: estimate.value for system, estimate in analysis.means['fidelity'].items()}
    assert scores == pytest.approx({'PD': 1.5 / 3, 'SD': 2.5 / 3, 'ZS': 1 / 4})
    direct = {(each['first'], each['second']): each['estimate'].value for each in analysis.differences}
    assert direct == {('PD', 'SD'): 0, ('PD', 'ZS'): 0.75, ('SD', 'ZS'): 0.75}

# form

def test_the_form_of_the_papers_tables():
    "The papers' printed values, as examples of the wording and format; clipsonic did not compute them."
    printed = {'3.04 ± 0.20': (3.04, 0.20, 2), '2.01 ± 0.27': (2.01, 0.27, 2), '0.511': (0.511, None, 3)}
    for text, (value, half, digits) in printed.items():
        assert TwoWay(value, half, None, None, 21, 0, 0).text(digits) == text
    assert TwoWay(-0.001, 0.1, None, None, 2, 2, 4).text() == '0.00 ± 0.10'

def test_tables_and_figure_say_on_what_they_stand():
    rows = simulate_ratings(10, 8, ['PD', 'ZS'], questions=('fidelity', 'relevance'), missing=0.0, items_per_list=8)
    analysis = analyze_ratings(rows, rules={'gold_failures': 1, 'min_seconds': 1.0})
    caption = analysis.caption()
    assert 'fidelity: 10 listeners, 8 items, 160 ratings' in caption and '60 of gold' in caption
    for rule in analysis.rules: assert rule in caption
    figure = analysis.figure()
    text = ' '.join(figure._supxlabel.get_text().split())
    assert text == caption and figure.axes[0].get_ylabel() == 'mean opinion score (1–5)'
    assert [each.get_text() for each in figure.axes[0].get_xticklabels()] == ['PD', 'ZS']
    document = analysis.markdown()
    assert caption in document and "Krippendorff's α" in document and 'p (Holm)' in document
    assert analysis._repr_markdown_() == document

@pytest.mark.parametrize('method, low, high, scale', [('mos', 1, 5, '1 and 5'), ('mushra', 0, 100, '0 and 100')])
def test_the_figure_keeps_to_the_scale_and_the_caption_names_wide_intervals(method, low, high, scale):
    values = {'PD': (low, low, low, high), 'ZS': (high, high, high, high)}
    rows = [row(f'l{k // 2}', f't{k}', value, method=method, item=f'item {k % 2}', system=system)
            for system, four in values.items() for k, value in enumerate(four)]
    analysis = analyze_ratings(rows, rules={})
    wide = analysis.means['fidelity']['PD']
    assert 2 * wide.half_width > high - low and '±' in analysis.mean_table()
    caption = analysis.caption()
    assert f'ends of the scale, {scale}' in caption
    assert 'wider than the scale' in caption and 'PD in fidelity' in caption and 'ZS in' not in caption
    axes = analysis.figure().axes[0]
    ends = np.concatenate([segment[:, 1] for bars in axes.collections for segment in bars.get_segments()])
    assert (ends.min(), ends.max()) == (pytest.approx(low), pytest.approx(high))

def test_scores_end_at_0_and_1_and_intervals_inside_the_scale_are_drawn_whole():
    assert module._on_scale_ends('ab', TwoWay(0.9, 0.3, 3.0, None, 2, 2, 4)) == (pytest.approx(0.6), 1.0)
    assert module._on_scale_ends('ab', TwoWay(0.5, 0.3, 3.0, None, 2, 2, 4)) == (0.2, 0.8)
    inside = analyze_ratings(simulate_ratings(10, 8, 2, missing=0.0, items_per_list=8), rules={})
    assert 'scale,' not in inside.caption() and 'wider' not in inside.caption()
    for bars, each in zip(inside.figure().axes[0].collections, inside.means['fidelity'].values()):
        assert np.ptp(bars.get_segments()[0][:, 1]) == pytest.approx(2 * each.half_width)

def test_one_listener_has_means_without_intervals():
    rows = [row(trial=f't{k}', value=3 + k % 2, item=f'item {k // 2}', system='PD' if k % 2 else 'ZS')
            for k in range(8)]
    analysis = analyze_ratings(rows)
    assert analysis.means['fidelity']['PD'].text() == '4.00' and analysis.differences[0]['p_holm'] is None
    assert analysis.components['fidelity'] == {'mean': None, 'difference': None}
    assert '| PD | 4.00 |' in analysis.markdown() and 'No ±' in analysis.caption() and analysis.figure()

def test_rows_of_the_panel_hold_none_where_a_column_does_not_apply():
    none = dict.fromkeys(('other', 'expect', 'seconds', 'plays'))
    rows = [row(name, list=k, **none) for k, name in enumerate(('ada', 'ben'))]
    analysis = analyze_ratings(rows)
    assert analysis.seconds == {} and analysis.counts['fidelity']['n_ratings'] == 2

# refusals

@pytest.mark.parametrize('change, words', [
    ({'value': 'four'}, ('line 3', 'value', 'four')), ({'value': 6}, ('line 3', 'value', 6)),
    ({'value': ''}, ('line 3', 'value')), ({'method': 'abx'}, ('method', 'abx')),
    ({'seconds': 'long'}, ('seconds', 'long')), ({'value': 'nan'}, ('value', 'nan')),
    ({'method': 'ab', 'value': 1}, ('line 3', 'other')), ({'trial': 't1'}, ('line 3', 'line 2', 't1', 'ada')),
    ({'listener': ''}, ('line 3', 'listener'))])
def test_wrong_rows_are_refused_by_line(tmp_path, change, words):
    path = write(tmp_path/'ratings.csv', [row(), {**row(trial='t2'), **change}])
    with pytest.raises(InputError, match=naming(*words)): read_ratings(path)

def test_what_cannot_be_analyzed_is_refused(tmp_path):
    with pytest.raises(InputError, match=naming('plan', 'p2')): analyze_ratings([row(), row('ben', plan='p2')])
    with pytest.raises(InputError, match=naming('gold')): analyze_ratings([row()], rules={'gold': 1})
    with pytest.raises(InputError, match='min_seconds'): analyze_ratings([row(seconds=0.2)])
    with pytest.raises(InputError, match='absent.json'): analyze_ratings([row()], plan=tmp_path/'absent.json')
    with pytest.raises(InputError, match=naming('expect', 'low')):
        analyze_ratings([row(), row(trial='g', **{**GOLD, 'expect': 'low..high'})])
    with pytest.raises(InputError, match='absent'): analyze_ratings([row()], out=tmp_path/'absent'/'a.json')
    assert not [*tmp_path.iterdir()]

def test_no_ratings_that_remain_are_told_in_words():
    with pytest.raises(InputError) as caught: analyze_ratings([row(seconds=0.2), row('ben', seconds=0.3)])
    said = str(caught.value)
    assert 'none of 2 ratings' in said and 'median of less than 1 s' in said and '2 (ada, ben)' in said
    assert '{' not in said and 'gold_failures' not in said

def test_outputs_never_replace_inputs(tmp_path):
    plan = write_plan(tmp_path/'test')
    path = write(tmp_path/'test'/'ratings.csv', [row(plan=plan.id), row('ben', plan=plan.id)])
    (tmp_path/'link.json').symlink_to(path)
    (tmp_path/'figure.png').symlink_to(tmp_path/'test'/'plan.json')
    before = [each.read_bytes() for each in sorted(path.parent.iterdir())]
    for words in ({'out': path}, {'out': path.parent/'plan.json'}, {'out': tmp_path/'link.json'},
                  {'figure': tmp_path/'figure.png'}):
        given, = words.values()
        with pytest.raises(InputError, match=naming(given.name, 'overwritten')): analyze_ratings(path, **words)
    with pytest.raises(InputError, match=naming('both.png')):
        analyze_ratings(path, tmp_path/'both.png', figure=tmp_path/'both.png')
    assert [each.read_bytes() for each in sorted(path.parent.iterdir())] == before

@pytest.mark.parametrize('name', ['figure.xyz', 'figure'])
def test_a_figure_of_an_unknown_ending_is_refused_before_the_analysis(tmp_path, name):
    with pytest.raises(InputError, match=naming(name, '.png', '.pdf')):
        analyze_ratings(tmp_path/'absent.csv', figure=tmp_path/name)

@pytest.mark.parametrize('ending', [*module.FIGURE_ENDINGS, '.PNG'])
def test_a_figure_of_each_ending_is_written(tmp_path, ending):
    analyze_ratings([row(), row('ben')], figure=tmp_path/f'figure{ending}')
    assert (tmp_path/f'figure{ending}').stat().st_size > 1000 and len([*tmp_path.iterdir()]) == 1

def test_the_command_takes_the_folder_of_a_test(tmp_path, capsys):
    plan = write_plan(tmp_path/'TEST')
    def run(*words):
        status = main(['listen', 'analyze', *map(str, words)])
        return status, ''.join(capsys.readouterr())
    for given in (tmp_path/'TEST', tmp_path/'TEST'/'ratings.csv'):
        status, said = run(given)
        assert status == 2 and f"clipsonic listen read {tmp_path/'TEST'}" in said
    write(tmp_path/'TEST'/'ratings.csv', [row(plan=plan.id), row('ben', plan=plan.id)])
    status, said = run(tmp_path/'TEST', '--figure', tmp_path/'figure.png')
    assert status == 0 and '**Noise**' in said and (tmp_path/'figure.png').is_file()
    status, said = run(tmp_path/'TEST', '--figure', tmp_path/'figure.xyz')
    assert status == 2 and 'figure.xyz' in said and '.svg' in said and len(said.splitlines()) == 1

# the size of a test

def test_the_required_size_reaches_the_half_width_and_no_smaller_one_does():
    for size in required_size(0.25, size_components('mean')):
        if size['listeners'] is None: assert size['half_width'] > 0.25
        else:
            at = expected_half_width(size['listeners'] - np.arange(2), size['items'], size_components('mean'))
            assert at[0] <= 0.25 < at[1] and size['half_width'] == pytest.approx(at[0])
    assert required_size(0.25)[0]['listeners'] is None  # ten items

def test_a_pilot_plans_the_test():
    pilot = analyze_ratings(simulate_ratings(30, 40, 2, items_per_list=40, missing=0.0, seed=8), rules={})
    planned = expected_half_width(30, 40, pilot.components['fidelity']['difference'])
    assert planned == pytest.approx(pilot.differences[0]['estimate'].half_width, rel=0.05)

@pytest.mark.parametrize('give, words', [
    (lambda: required_size(0), ('half_width', 0)), (lambda: required_size(0.2, items=(1, 20)), ('items', 1)),
    (lambda: required_size(0.2, most=1), ('most', 1)), (lambda: size_components('median'), ('kind', 'median'))])
def test_sizes_that_make_no_test_are_refused(give, words):
    with pytest.raises(InputError, match=naming(*words)): give()

def test_importing_the_module_loads_no_heavy_one():
    import subprocess
    import sys
    code = ('import sys, clipsonic.ratings; '
            'print([name for name in ("numpy", "scipy", "matplotlib", "torch") if name in sys.modules])')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True, cwd=Path(root))
    assert done.stdout.strip() == '[]'
