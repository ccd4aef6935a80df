from __future__ import annotations

import pytest

from ablate.ablations.claim_files import claims_from
from ablate.ablations.claims import Claim
from ablate.ablations.grid import parse_factors
from ablate.ablations.scale import Conditions
from ablate.models.errors import InputError

FACTORS = parse_factors("bidirectional,core=lstm,gru,mamba")


@pytest.fixture
def read(tmp_path):
    def call(text):
        path = tmp_path / "claims.yaml"
        path.write_text(text)
        return claims_from(str(path), FACTORS, "pesq_wb")

    return call


def test_claims_with_their_conditions(read):
    found = read("""
bidirectional:
  claim: [0.2, 0.3]
  source: a paper
  conditions: {parameters: 2.1M..2.2M, steps: 150_000, corpus: VoiceBank+DEMAND}
core:
  claim: {mamba: [0, 0.1]}
  metric: stoi
pcs: {claim: [0.1, 0.2]}
""")
    assert found == [
        (
            "bidirectional",
            Claim(
                low=0.2,
                high=0.3,
                source="a paper",
                level="on",
                conditions=Conditions(parameters=(2.1e6, 2.2e6), steps=150_000, corpus="VoiceBank+DEMAND"),
            ),
        ),
        ("core", Claim(low=0, high=0.1, source="claims.yaml", metric="stoi", level="mamba")),
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("bidirectionl: {claim: [0, 1]}", "no factor 'bidirectionl'; did you mean 'bidirectional'"),
        ("bidirectional: {claims: [0, 1]}", "unknown keys claims; known: claim, source, metric, conditions"),
        ("bidirectional: {source: me}", "source needs a claim"),
        ("bidirectional: {claim: 0.2}", "expected a pair .*, got '0.2'"),
        ("bidirectional: {claim: 12}", "expected a pair .*, got '12'"),
        ("bidirectional: {claim: [0.3, 0.2]}", "low 0.3 is above high 0.2"),
        ("bidirectional: {claim: [0, 1], metric: pesk}", "pesk"),
        ("bidirectional: {claim: [0, 1], conditions: {size: 3}}", "unknown keys size"),
        ("bidirectional: {claim: [0, 1], conditions: {steps: few}}", "'few' is not a number above zero"),
        ("core: {claim: [0, 1]}", "needs a level of the 3"),
        ("- bidirectional", "must map factors to claim"),
        ("a: {b", "claims.yaml"),
    ],
)
def test_what_a_file_gets_wrong_is_said(read, text, words):
    with pytest.raises(InputError, match=words):
        read(text)


def test_a_missing_file_is_said():
    with pytest.raises(InputError, match="--claims publishd: no such file; give 'published' or"):
        claims_from("publishd", FACTORS, "pesq_wb")
