import itertools
from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablate.ablations.design import Design, fraction
from ablate.ablations.inference import contrasts
from ablate.models.errors import InputError
from ablate.reports.ingest import guess_design

SIZE = st.floats(-5, 5, allow_nan=False)


def build(cells, levels, *, constraints=(), design=None, **options):
    """The contrasts of cells whose design is guessed, as those of a foreign table."""
    return contrasts.build(guess_design(cells, levels, constraints, design), cells, **options)


def factorial(levels, baseline="ref"):
    cells = {
        "/".join(at): dict(zip(levels, at, strict=True))
        for at in product(*(list(v) for v in levels.values()))
    }
    return {**cells, baseline: {}} if baseline else cells


def binary(count):
    return {f"f{i}": ("off", "on") for i in range(count)}


def values(found, cells, means):
    """(kind, name, at) -> value."""
    return {
        (c.kind, c.name, c.at): v
        for c, v in zip(found.rows, found.matrix(cells) @ np.asarray(means), strict=True)
    }


@st.composite
def grids(draw):
    count = draw(st.integers(1, 4))
    return count, draw(st.lists(SIZE, min_size=2**count + 1, max_size=2**count + 1))


@given(grids())
def test_shapley_and_unexplained_sum_to_the_gap(grid):
    count, means = grid
    levels = binary(count)
    cells = factorial(levels)
    found = values(build(cells, levels, baseline="ref"), list(cells), means)
    shapley = sum(v for (kind, _, _), v in found.items() if kind == "shapley")
    assert shapley + found["unexplained", "unexplained", ""] == pytest.approx(
        found["gap", "gap", ""], abs=1e-9
    )


@given(grids())
def test_shapley_is_the_average_over_all_orders_of_switching_on(grid):
    count, means = grid
    levels = binary(count)
    cells = factorial(levels)
    mean = dict(zip(cells, means, strict=True))
    found = values(build(cells, levels, baseline="ref"), list(cells), means)
    total = dict.fromkeys(levels, 0.0)
    orders = list(permutations(levels))
    for order in orders:
        at = dict.fromkeys(levels, "off")
        for factor in order:
            before = mean["/".join(at.values())]
            at[factor] = "on"
            total[factor] += mean["/".join(at.values())] - before
    for factor in levels:
        assert found["shapley", factor, ""] == pytest.approx(total[factor] / len(orders), abs=1e-9)


@given(grids(), st.data())
def test_swapping_a_factors_levels_turns_its_sign_and_leaves_the_other_main_effects(grid, data):
    count, means = grid
    levels = binary(count)
    cells = factorial(levels)
    swapped = data.draw(st.sampled_from(list(levels)))
    turned = {**levels, swapped: ("on", "off")}
    before = values(build(cells, levels, baseline="ref"), list(cells), means)
    after = values(build(cells, turned, baseline="ref"), list(cells), means)
    for (kind, name, at), value in before.items():
        if kind == "main":
            assert after[kind, name, at] == pytest.approx(-value if name == swapped else value, abs=1e-9)
        if kind == "interaction":
            sign = -1 if swapped in name.split(" x ") else 1
            assert after[kind, name, at] == pytest.approx(sign * value, abs=1e-9)


@given(grids())
def test_weights_sum_to_zero_and_only_the_gap_and_unexplained_use_the_baseline(grid):
    count, _ = grid
    levels = binary(count)
    for contrast in build(factorial(levels), levels, baseline="ref").rows:
        assert sum(contrast.weights.values()) == pytest.approx(0, abs=1e-12)
        assert ("ref" in contrast.weights) == (contrast.kind in ("gap", "unexplained"))


def test_signs_on_a_two_by_two():
    levels = {"a": ("off", "on"), "b": ("off", "on")}
    cells = factorial(levels)
    found = values(build(cells, levels, baseline="ref"), list(cells), [1.0, 1.1, 1.3, 1.9, 2.5])
    assert found["gap", "gap", ""] == pytest.approx(1.5)
    assert found["unexplained", "unexplained", ""] == pytest.approx(0.6)
    assert found["main", "a", ""] == pytest.approx((0.3 + 0.8) / 2)
    assert found["interaction", "a x b", ""] == pytest.approx(0.8 - 0.3)
    assert found["leave-one-out", "a", ""] == pytest.approx(0.8)
    assert found["add-one", "a", ""] == pytest.approx(0.3)
    assert found["simple", "b", "a=on"] == pytest.approx(0.6)
    assert found["simple", "b", "a=off"] == pytest.approx(0.1)


def test_more_than_two_levels_are_each_compared_with_the_first():
    levels = {"core": ("lstm", "gru", "mamba"), "b": ("off", "on")}
    cells = factorial(levels, baseline=None)
    found = values(build(cells, levels), list(cells), [0, 1, 10, 12, 100, 103])
    assert found["main", "core=gru", ""] == pytest.approx((10 + 11) / 2)
    assert found["main", "core=mamba", ""] == pytest.approx((100 + 102) / 2)
    assert found["main", "b", ""] == pytest.approx((1 + 2 + 3) / 3)
    assert found["interaction", "core=gru x b", ""] == pytest.approx(1)
    assert found["shapley", "core=mamba", ""] + found["shapley", "b", ""] == pytest.approx(103)
    assert not any(kind == "shapley" and name == "core=gru" for kind, name, _ in found)


def test_a_cell_without_scores_takes_away_what_needs_it_and_is_named():
    levels = {"a": ("off", "on"), "b": ("off", "on")}
    cells = factorial(levels)
    found = build(cells, levels, baseline="ref", available=set(cells) - {"on/off"})
    kept = {(c.kind, c.name, c.at) for c in found.rows}
    assert kept == {
        ("gap", "gap", ""),
        ("unexplained", "unexplained", ""),
        ("leave-one-out", "a", ""),
        ("add-one", "b", ""),
        ("simple", "a", "b=on"),
        ("simple", "b", "a=off"),
    }
    lost = {(n.kind, n.name): n.missing for n in found.not_estimable}
    assert lost["main", "a"] == lost["shapley", "b"] == lost["interaction", "a x b"] == ("on/off",)
    assert found.design == "incomplete"


def test_a_combination_nobody_planned_is_named_by_its_levels():
    levels = {"a": ("off", "on"), "b": ("off", "on")}
    cells = {name: at for name, at in factorial(levels).items() if name != "on/on"}
    found = build(cells, levels, baseline="ref")
    assert ("unexplained", "unexplained", ("a=on,b=on",), "") in found.not_estimable


def test_half_fraction_gives_main_effects_with_their_aliases():
    names = ("a", "b", "c")
    levels = dict.fromkeys(names, ("off", "on"))
    rows = fraction([2, 2, 2])
    cells = {str(r): {n: levels[n][v] for n, v in zip(names, r, strict=True)} for r in rows}
    found = build(cells, levels)
    assert found.design == "fractional"
    assert not [c for c in found.rows if c.kind in ("shapley", "interaction")]
    assert any("does not resolve Shapley values" in note for note in found.notes)
    x = np.array(rows) * 2 - 1
    sign = "" if (x[:, 1] * x[:, 2] == x[:, 0]).all() else "-"
    assert found.aliases["a"] == (f"{sign}b x c",)
    main = next(c for c in found.rows if c.kind == "main" and c.name == "a")
    assert main.weights == {str(r): pytest.approx(0.5 if r[0] else -0.5) for r in rows}


def test_resolution_five_keeps_two_way_interactions_apart():
    names = tuple("abcde")
    levels = dict.fromkeys(names, ("off", "on"))
    rows = [(*r, int(np.prod(np.array(r) * 2 - 1) > 0)) for r in product((0, 1), repeat=4)]
    cells = {str(r): {n: levels[n][v] for n, v in zip(names, r, strict=True)} for r in rows}
    found = build(cells, levels)
    effects = {"a": 0.3, "b": -0.1}
    means = [sum(v for n, v in effects.items() if cells[c][n] == "on") for c in cells]
    means = [m + 0.7 * (cells[c]["a"] == cells[c]["b"] == "on") for m, c in zip(means, cells, strict=True)]
    got = values(found, list(cells), means)
    assert len([1 for kind, _, _ in got if kind == "interaction"]) == 10
    assert got["interaction", "a x b", ""] == pytest.approx(0.7)
    assert got["interaction", "c x d", ""] == pytest.approx(0)
    assert got["main", "a", ""] == pytest.approx(0.3 + 0.35)


@pytest.mark.parametrize("design", ["add-one", "leave-one-out"])
def test_one_factor_at_a_time(design):
    names = ("a", "b", "c")
    levels = dict.fromkeys(names, ("off", "on"))
    start, other = ("off", "on") if design == "add-one" else ("on", "off")
    at = [dict.fromkeys(names, start), *({**dict.fromkeys(names, start), n: other} for n in names)]
    if design == "leave-one-out":
        at.append(dict.fromkeys(names, "off"))
    cells = {f"c{i}": levels_of for i, levels_of in enumerate(at)}
    found = build(cells, levels)
    assert found.design == design
    means = np.random.default_rng(0).normal(size=len(cells))
    got = values(found, list(cells), means)
    for index, name in enumerate(names, 1):
        sign = 1 if design == "add-one" else -1
        assert got["main", name, ""] == pytest.approx(sign * (means[index] - means[0]))
        assert got[design, name, ""] == pytest.approx(got["main", name, ""])
    assert not [kind for kind, _, _ in got if kind in ("shapley", "interaction")]


def test_forbidden_combinations_are_left_out_of_averages():
    levels = {"a": ("off", "on"), "b": ("off", "on")}
    rule = {"a": "off", "b": "on"}
    cells = {name: at for name, at in factorial(levels).items() if at != rule}
    found = build(cells, levels, baseline="ref", constraints=[rule])
    got = values(found, list(cells), [1.0, 2.0, 5.0, 9.0])
    assert got["main", "a", ""] == pytest.approx(1.0)
    assert got["main", "b", ""] == pytest.approx(3.0)
    assert not [kind for kind, _, _ in got if kind in ("shapley", "interaction")]
    assert any("Shapley" in note for note in found.notes)


def test_equal_levels_unknown_levels_and_unknown_designs_are_refused():
    levels = {"a": ("off", "on")}
    with pytest.raises(ValueError, match="'x' and 'y' have the same levels"):
        build({"x": {"a": "on"}, "y": {"a": "on"}}, levels)
    with pytest.raises(ValueError, match="a=maybe"):
        build({"x": {"a": "maybe"}}, levels)
    with pytest.raises(ValueError, match="half"):
        build({"x": {"a": "on"}}, levels, design="half")
    with pytest.raises(ValueError, match="at least two different levels"):
        build({"x": {"a": "on"}}, {"a": ("on",)})


GRIDS = st.lists(st.integers(2, 3), min_size=1, max_size=4)


def named_levels(sizes):
    return {f"f{i}": tuple(f"v{level}" for level in range(size)) for i, size in enumerate(sizes)}


@given(GRIDS, st.sampled_from(["full", "add-one", "leave-one-out", "fractional"]), st.data())
def test_every_main_effect_of_a_design_is_that_of_an_additive_model(sizes, kind, data):
    if kind == "fractional":
        sizes = [2] * max(3, len(sizes))
    design = Design.of(named_levels(sizes), kind)
    found = contrasts.build(design, {str(key): design.named(key) for key in design.keys})
    effects = [[0.0, *(data.draw(SIZE) for _ in range(size - 1))] for size in sizes]
    means = {str(key): sum(e[i] for e, i in zip(effects, key, strict=True)) for key in design.keys}
    main = [c for c in found.rows if c.kind == "main"]
    assert main
    for contrast in main:
        place = design.factors.index(contrast.factors[0])
        level = dict(design.steps(contrast.factors[0]))[contrast.name]
        got = sum(w * means[cell] for cell, w in contrast.weights.items())
        assert got == pytest.approx(effects[place][level], abs=1e-8)


@given(GRIDS, st.sampled_from(["full", "add-one", "leave-one-out"]), st.data())
def test_constraints_never_leave_an_effect_with_weight_on_a_cell_they_exclude(sizes, kind, data):
    levels = named_levels(sizes)
    factor = data.draw(st.sampled_from(list(levels)))
    rule = {factor: levels[factor][-1]}
    if len(levels) > 1 and data.draw(st.booleans()):
        other = data.draw(st.sampled_from([name for name in levels if name != factor]))
        rule[other] = data.draw(st.sampled_from(levels[other]))
    try:
        design = Design.of(levels, kind, [rule])
    except InputError as error:
        assert "constraints leave" in str(error)  # noqa: PT017
        return
    cells = {str(key): design.named(key) for key in design.keys}
    assert not any(rule.items() <= at.items() for at in cells.values())
    found = contrasts.build(design, cells)
    assert all(sum(c.weights.values()) == pytest.approx(0, abs=1e-9) for c in found.rows)
    assert [c for c in found.rows if c.kind == "main"]
    assert all(c.weights for c in found.rows)


@given(st.integers(3, 6), st.sampled_from(["add-one", "leave-one-out", "fractional"]))
def test_what_an_effect_is_said_to_be_mixed_with_is_what_it_picks_up(count, kind):
    design = Design.of(binary(count), kind)
    found = contrasts.build(design, {str(key): design.named(key) for key in design.keys})
    main = next(c for c in found.rows if c.kind == "main")
    on = {str(key): set(itertools.compress(design.factors, key)) for key in design.keys}
    planted = 0.0
    for alias in found.aliases[main.name]:
        factors = set(alias.split()[-1 - 2 * alias.count(" x ") :]) - {"x"}
        share = -1.0 if alias.startswith("-") else 1.0
        head = alias.removeprefix("-").split(" x ")[0].split()
        planted += share * (float(head[0]) if len(head) > 1 else 1.0)
        factors = {name.removeprefix("-") for name in factors}
        value = {cell: (-1.0) ** len(factors - levels) for cell, levels in on.items()}
        got = sum(w * value[cell] for cell, w in main.weights.items()) / 2
        size = float(head[0]) if len(head) > 1 else 1.0
        assert got == pytest.approx(share * size, rel=0.1)


def test_a_middle_level_that_one_out_never_trains_has_no_effect_at_all():
    levels = {"core": ("lstm", "gru", "mamba"), "b": ("off", "on"), "c": ("off", "on")}
    design = Design.of(levels, "leave-one-out")
    found = contrasts.build(design, {str(key): design.named(key) for key in design.keys})
    assert {c.name for c in found.rows if c.kind == "main"} == {"core=mamba", "b", "c"}
    assert any("Not resolved by this design: core=gru" in note for note in found.notes)


def test_simple_effects_of_a_large_grid_are_worked_out_when_asked_for():
    design = Design.of(binary(8))
    cells = {str(key): design.named(key) for key in design.keys}
    assert not [c for c in contrasts.build(design, cells).rows if c.kind == "simple"]
    asked = [c for c in contrasts.build(design, cells, simple=["f3"]).rows if c.kind == "simple"]
    assert len(asked) == 128
