import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ablate.models.errors import InputError
from ablate.training.train_command import argv
from ablate.training.train_command.config import CommandConfig, TrainingCommand, override

VALUES = {"seed": "3", "out": "/o ut", "data": "/d", "config": "/c.yaml", "threads": "2"}
OVERRIDES = {"lr": "1e-4", "causal": False, "deep": True, "sizes": ("1", "2"), "model.name": None}
COMMAND = "python train.py --seed {seed} --out {out} {overrides}"


def test_words_are_split_before_placeholders_are_filled():
    filled = argv.fill("run 'a b' --o={out} {{seed}} $HOME;ls", VALUES, "env", {})
    assert filled == ["run", "a b", "--o=/o ut", "{seed}", "$HOME;ls"]


def test_each_style_writes_overrides_its_way():
    text = "p {seed} {out} {overrides}"
    assert argv.fill(text, VALUES, "argparse", OVERRIDES)[3:] == [
        *("--lr=1e-4", "--no-causal", "--deep", "--sizes", "1", "2")
    ]
    assert argv.fill(text, VALUES, "hydra", OVERRIDES)[3:] == [
        *("lr=1e-4", "causal=false", "deep=true", "sizes=[1,2]", "model.name=null")
    ]
    assert argv.variables({"LR": "1", "CAUSAL": False, "SIZES": ("1", "2"), "NAME": None}) == {
        "LR": "1",
        "CAUSAL": "0",
        "SIZES": "1,2",
    }
    assert yaml.safe_load(argv.document({**OVERRIDES, "model.width": "8"})) == {
        "lr": 1e-4,
        "causal": False,
        "deep": True,
        "sizes": [1, 2],
        "model": {"name": None, "width": 8},
    }


@given(st.text(alphabet="abc '\"$`;&|{}", max_size=20))
def test_an_override_is_one_word_whatever_is_in_it(value):
    found = argv.fill("p {seed} {out} {overrides}", VALUES, "argparse", {"x": value})
    assert found[3:] == [f"--x={value}"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"command": "python 'train.py {seed} {out} {overrides}"}, "cannot be split"),
        ({"command": "python train.py {sed} {out} {overrides}"}, r"unknown placeholder \{sed\}.*\{\{sed\}\}"),
        ({"command": "python train.py ${HOME} {seed} {out} {overrides}"}, "no shell reads"),
        ({"command": "python train.py --out {out} {overrides}"}, "every seed would train the same"),
        ({"command": "python train.py {seed} {overrides}"}, "where it writes"),
        ({"command": "python train.py {seed} {out}"}, r"no \{overrides\}"),
        ({"command": "python train.py {seed} {out} --x={overrides}"}, "a word of its own"),
        ({"command": "python train.py {seed} {out} {overrides}", "overrides": "yaml"}, r"no \{config\}"),
        ({"resume": "--resume {data}/latest.pt"}, "name a file|name the file|use"),
        ({"resume": "--resume latest.pt"}, "one file below"),
        ({"scores": "../enhanced"}, "not below"),
        ({"curve": "/tmp/metrics.jsonl"}, "not below"),
    ],
)
def test_a_command_that_cannot_be_called_is_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        TrainingCommand(**{"command": COMMAND, "folder": ".", **changes})


def test_overrides_that_cannot_be_written_are_refused():
    for style, overrides in (
        ("env", {"model.x": "1"}),
        ("yaml", {"a": "1", "a.b": "2"}),
        ("hydra", {"a=b": "1"}),
    ):
        with pytest.raises(InputError):
            argv.check_overrides(style, overrides)


def test_values_stay_as_they_were_written():
    given = {"a": "1.10", "b": "true", "c": "null", "d": ["x", "false"], "e": 0.5}
    config = CommandConfig(overrides=given)
    assert config.overrides == {"a": "1.10", "b": True, "c": None, "d": ("x", False), "e": "0.5"}
    assert CommandConfig.model_validate_json(config.model_dump_json()) == config
    assert override(3) == "3"
