import pytest
from pydantic import ValidationError

from ablate.ablations.claims import Claim, Endpoint, claim_target, named_claims, parse_claim
from ablate.ablations.factors import Factor, claims_on, with_claims
from ablate.ablations.grid import parse_factors
from ablate.models.errors import InputError

LEVELS = {"a": ("off", "on"), "core": ("lstm", "gru", "mamba")}


def test_a_claim_from_its_text():
    assert parse_claim("a=0.2..0.3") == ("a", Claim(low=0.2, high=0.3))
    assert parse_claim("core=mamba=-1e-2..2", "stoi", "them") == (
        "core=mamba",
        Claim(low=-0.01, high=2, metric="stoi", source="them"),
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a", "write FACTOR=LOW..HIGH"),
        ("a=0.2", "write FACTOR=LOW..HIGH"),
        ("a=x..y", "write FACTOR=LOW..HIGH"),
        ("=0..1", "write FACTOR=LOW..HIGH"),
        ("a=0.3..0.2", "low 0.3 is above high 0.2"),
        ("a=nan..1", "is not a range"),
    ],
)
def test_a_claim_that_says_nothing_is_refused(text, words):
    with pytest.raises(InputError, match=words):
        parse_claim(text)


def test_what_a_claim_speaks_of():
    assert claim_target("a", LEVELS) == claim_target("a=on", LEVELS) == ("a", "on")
    assert claim_target("core=gru", LEVELS) == ("core", "gru")
    for name, words in (
        ("core", "needs a level of the 3, e.g. core=gru"),
        ("core=lstm", "with which the others are compared"),
        ("core=s4", "not a level of this factor"),
        ("b", "no such factor"),
        ("cores=gru", "did you mean 'core'"),
    ):
        with pytest.raises(InputError, match=words):
            claim_target(name, LEVELS)


def test_one_claim_for_each_effect():
    claim = Claim(low=0, high=1)
    assert named_claims([("a=on", claim), ("core=gru", claim)], LEVELS) == {"a": claim, "core=gru": claim}
    with pytest.raises(InputError, match="'a' has two claims"):
        named_claims([("a", claim), ("a=on", claim)], LEVELS)


def test_claims_reach_their_factors():
    factors = parse_factors("bidirectional,core=lstm,gru,mamba")
    stated = [parse_claim("core=mamba=0..1"), parse_claim("bidirectional=1..2", "stoi")]
    new = with_claims(factors, stated)
    assert {name: claim.high for name, claim in claims_on(new, "pesq_wb").items()} == {
        "bidirectional": 0.3,
        "core=mamba": 1,
    }
    assert {name: claim.high for name, claim in claims_on(new, "stoi").items()} == {"bidirectional": 2}
    again = with_claims(new, [parse_claim("bidirectional=0..9")])
    assert claims_on(again, "pesq_wb")["bidirectional"].high == 9
    with pytest.raises(InputError, match="needs a level of the"):
        with_claims(factors, [parse_claim("core=0..1")])
    with pytest.raises(InputError, match="'bidirectional' has two claims; give only one"):
        with_claims(factors, [parse_claim("bidirectional=0..1"), parse_claim("bidirectional=on=0..2")])


def test_of_several_claims_on_a_level_the_first_is_the_studys_own():
    levels = {"off": {"model.direction": "uni"}, "on": {"model.direction": "bi"}}
    one = Factor(name="x", levels=levels, claims=(Claim(low=0, high=1),))
    assert one.claims == (Claim(low=0, high=1, level="on"),)
    assert Factor.model_validate(one.model_dump(mode="json")) == one
    with pytest.raises(ValidationError, match="two claims"):
        Factor(name="x", levels=levels, claims=(Claim(low=0, high=1), Claim(low=0, high=2)))
    several = (Claim(low=0, high=1), Claim(low=0, high=2, source="another"))
    assert claims_on([Factor(name="x", levels=levels, claims=several)], "pesq_wb")["x"].high == 1


def test_an_endpoint_has_its_metrics_margin_and_no_other():
    assert (Endpoint().metric, Endpoint().margin) == ("pesq_wb", 0.05)
    assert Endpoint(metric="stoi").margin is None
    assert Endpoint(metric="stoi", margin=0.01).margin == 0.01
    for fields, words in (({"metric": "stoy"}, "did you mean 'stoi'"), ({"margin": -1}, "is negative")):
        with pytest.raises(ValidationError, match=words):
            Endpoint(**fields)
