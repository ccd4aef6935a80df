from __future__ import annotations

from ablate.ablations.factors import Factor, every_claim, with_further
from ablate.ablations.grid import parse_factors
from ablate.ablations.published import PUBLISHED_EFFECTS, published_claims
from ablate.training.config import is_path
from ablate.training.metrics.registry import METRICS


def claims(grid):
    return [
        (name, claim.level, claim.low, claim.high) for name, claim in published_claims(parse_factors(grid))
    ]


def test_every_effect_names_its_source_a_known_metric_and_real_fields():
    for effect in PUBLISHED_EFFECTS:
        assert effect.source
        assert effect.metric in METRICS
        assert effect.field is None or is_path(effect.field[0])
        assert effect.conditions.corpus


def test_they_are_found_whatever_the_factor_is_called():
    direction = [("bidirectional", "on", 0.2, 0.24), ("bidirectional", "on", 0.23, 0.23)]
    assert claims("bidirectional")[:2] == direction
    assert [claim[2:] for claim in claims("direction=uni,bi")] == [
        claim[2:] for claim in claims("bidirectional")
    ]


def test_a_factor_the_other_way_round_has_the_sign_turned():
    assert claims("core=mamba,lstm")[0] == ("core", "lstm", -0.1, -0.1)
    assert claims("core=lstm,gru,mamba")[0] == ("core", "mamba", 0.1, 0.1)


def test_a_level_that_leaves_the_field_as_it_is_says_nothing_of_its_value():
    levels = {"off": {}, "on": {"model.direction": "bi"}}
    assert not list(published_claims([Factor(name="direction", levels=levels)]))
    turned = {"off": {"recipe.consistency_weight": 0.0}, "on": {}}
    assert not list(published_claims([Factor(name="consistency", levels=turned)]))


def test_no_claim_where_nothing_is_known_or_the_change_is_another():
    assert claims("decoder4x,crossband,core=lstm,gru,expand=1,2") == []
    assert claims("consistency_weight=0,0.1")[0][1:] == ("0.1", 0.03, 0.03)


def test_composite_measures_keep_their_convention():
    metrics = {claim.metric for _, claim in published_claims(parse_factors("pcs"))}
    assert metrics == {"pesq_wb", "cbak_ports"}


def test_published_claims_stand_behind_a_factors_own():
    factors = parse_factors("bidirectional")
    both = with_further(factors, published_claims(factors))
    assert with_further(both, published_claims(factors)) == both
    found = every_claim(both, "pesq_wb")
    assert len(found) == 4
    assert found[0][1] == factors[0].claims[0]
