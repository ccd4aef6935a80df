from __future__ import annotations

import pytest

from ablate.ablations.scale import Conditions, Setting
from ablate.models.errors import InputError

SMALL = Setting(
    parameters=(150_000, 320_000), steps=(40, 40), trained_on=("vb", "voicebank+demand"), tested_on=("vb",)
)


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("2.3M", (2.3e6, 2.3e6)),
        ("340_000", (340_000, 340_000)),
        (1500, (1500, 1500)),
        ("2.1M..2.5M", (2.1e6, 2.5e6)),
        (["340k", "1e6"], (340_000, 1e6)),
    ],
)
def test_sizes_as_people_write_them(text, span):
    found = Conditions.read({"parameters": text}, "a")
    assert found.parameters == span
    assert Conditions.model_validate(found.model_dump(mode="json")) == found


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"parameter": 3}, "claim for 'a': unknown keys parameter; known: parameters, steps, corpus"),
        ({"parameters": "many"}, "claim for 'a': parameters: 'many' is not a number above zero"),
        ({"steps": -4}, "'-4' is not a number above zero|-4 is not a number above zero"),
        ({"steps": [1, 2, 3]}, "a pair of numbers"),
        ({"steps": "5..3"}, "5 is above 3"),
        ({"corpus": ["a"]}, "corpus: Input should be a valid string"),
        ("2.3M", "expected some of parameters, steps, corpus"),
    ],
)
def test_wrong_conditions_are_one_clear_line(fields, words):
    with pytest.raises(InputError, match=words):
        Conditions.read(fields, "a")


@pytest.mark.parametrize(
    ("claimed", "differs"),
    [
        (None, []),
        (Conditions(), []),
        (Conditions(parameters=(160_000, 300_000), steps=43, corpus="VoiceBank+DEMAND"), []),
        (Conditions(parameters=300_000), ["150,000 to 320,000 parameters instead of 300,000"]),
        (
            Conditions(parameters=(300_000, 1e6)),
            ["150,000 to 320,000 parameters instead of 300,000 to 1,000,000"],
        ),
        (Conditions(parameters=2_139_920), ["150,000 to 320,000 parameters instead of 2,139,920"]),
        (Conditions(steps=(28_930, 231_440)), ["40 steps instead of 28,930 to 231,440"]),
        (Conditions(corpus="WSJ0"), ["vb instead of WSJ0"]),
    ],
)
def test_in_what_a_study_differs(claimed, differs):
    setting = SMALL.model_copy(update={"tested_on": SMALL.trained_on})
    assert setting.differs(claimed) == differs
    assert setting.verdict("contradicted", claimed) == ("at this size: " if differs else "") + "contradicted"


def test_what_a_publication_does_not_state_is_not_taken_for_this_studys():
    published = Conditions(parameters=(150_000, 320_000), corpus="vb", unstated=True)
    assert SMALL.differs(published) == ["40 steps instead of a number not stated"]
    assert SMALL.verdict("contradicted", published) == "at this size: contradicted"
    assert str(published) == "150,000 to 320,000 parameters, steps not stated, vb"
    with pytest.raises(InputError, match="unknown keys unstated"):
        Conditions.read({"unstated": "true"}, "a")


def test_what_is_not_known_of_a_study_is_no_agreement():
    own = SMALL.model_copy(update={"parameters": None, "steps": None})
    assert own.differs(Conditions(steps=40)) == ["an unknown number of steps instead of 40"]
    assert own.differs(Conditions()) == []


def test_another_test_corpus_is_another_condition():
    claimed = Conditions(corpus="voicebank-demand")
    assert SMALL.differs(claimed) == ["vb for test instead of voicebank-demand"]


def test_the_demo_gives_no_verdict_at_all():
    demo = SMALL.model_copy(update={"is_demo": True})
    assert demo.verdict("supported", None) == demo.verdict("", Conditions(steps=40)) == "no verdict"
    for none in ("", "no margin"):
        assert SMALL.verdict(none, Conditions(steps=9)) == none
