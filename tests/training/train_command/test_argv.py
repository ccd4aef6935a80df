import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ablate.models.errors import InputError
from ablate.training.train_command import argv, config_files
from ablate.training.train_command.config import CommandConfig, TrainingCommand, override

VALUES = {"seed": "3", "out": "/o ut", "data": "/d", "config": "/c.yaml", "threads": "2", "port": "99"}
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
    assert argv.fill(text, VALUES, "flags", OVERRIDES)[3:] == ["--lr=1e-4", "--deep", "--sizes", "1", "2"]
    assert argv.fill(text, VALUES, "-p {key} {value}", OVERRIDES)[3:] == [
        *("-p", "lr", "1e-4", "-p", "causal", "false", "-p", "deep", "true"),
        *("-p", "sizes", "1,2", "-p", "model.name", "null"),
    ]
    assert argv.variables({"LR": "1", "CAUSAL": False, "SIZES": ("1", "2"), "NAME": None}) == {
        "LR": "1",
        "CAUSAL": "0",
        "SIZES": "1,2",
    }
    assert yaml.safe_load(config_files.text({}, {**OVERRIDES, "model.width": "8"}, ".yaml")) == {
        "lr": 1e-4,
        "causal": False,
        "deep": True,
        "sizes": [1, 2],
        "model": {"name": None, "width": 8},
    }


@given(st.text(alphabet="abc '\"$`;&|", max_size=20))
def test_an_override_is_one_word_whatever_is_in_it(value):
    found = argv.fill("p {seed} {out} {overrides}", VALUES, "argparse", {"x": value})
    assert found[3:] == [f"--x={value}"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"command": "python 'train.py {seed} {out} {overrides}"}, "cannot be split"),
        ({"command": "python train.py {sed} {out} {overrides}"}, r"unknown placeholder \{sed\}.*\{\{sed\}\}"),
        ({"command": "python train.py ${HOME} {seed} {out} {overrides}"}, "no shell reads"),
        ({"command": "python train.py --out {out} {overrides}"}, "every seed trains the same"),
        ({"command": "python train.py {seed} {overrides}"}, "its outputs cannot be found"),
        ({"command": "python train.py {seed} {out}"}, r"no \{overrides\}"),
        ({"command": "python train.py {seed} {out} --x={overrides}"}, "must be a separate word"),
        ({"command": "python train.py {seed} {out} {overrides}", "overrides": "yaml"}, r"no \{config\}"),
        ({"resume": "--resume {data}/latest.pt"}, "name a file|name the file|use"),
        ({"resume": "--resume latest.pt"}, "one file below"),
        ({"scores": "../enhanced"}, "not below"),
        ({"curve": "/tmp/metrics.jsonl"}, "not below"),
    ],
)
def test_a_command_that_cannot_be_called_is_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        TrainingCommand(**{"command": COMMAND, "folder": ".", **changes}).check_overrides({})


def test_placeholders_in_values_are_filled_where_they_are_known():
    assert argv.filled(("{out}/x", True, "{{out}}"), VALUES) == ("/o ut/x", True, "{out}")
    assert argv.filled("${a}-{port}", VALUES) == "${a}-99"
    argv.check_overrides([COMMAND], "argparse", {"a": "{out}/{seed}", "b": "${name}", "c": "{a: 1}"})
    with pytest.raises(InputError, match=r"unknown placeholder \{outt\} in '\{outt\}/x'; known: .*\{port\}"):
        argv.check_overrides([COMMAND], "argparse", {"a": ("x", "{outt}/x")})


TEXTS = st.one_of(
    st.text(min_size=0, max_size=12, alphabet="abz019 ,=:'\"\\[](){}$%@?|*+-./~!#_\t"),
    st.text(max_size=8),
    st.sampled_from(["a,b", "k=v", "lr: 1e-3", "'a,b'", "two words", "1e-4", "[1,2]", "x\\", "a\\'b"]),
)


def read_as(text, value):
    """Whether Hydra has read a text as itself, or as the number that it is."""
    if isinstance(value, bool) or value is None:
        return text.lower() in ("true", "false", "null")
    if isinstance(value, int | float):
        return value == float(text) or value != value
    return value == text


@settings(deadline=None, max_examples=1000)
@given(TEXTS | st.lists(TEXTS | st.booleans() | st.none(), max_size=3))
def test_hydra_reads_every_value_as_it_was_given(value):
    from hydra.core.override_parser.overrides_parser import OverridesParser

    value = tuple(value) if isinstance(value, list) else value
    items = value if isinstance(value, tuple) else (value,)
    assume(
        not any(
            isinstance(item, str) and set(item) & set("\n\r\0\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029")
            for item in items
        )
    )
    (word,) = argv.as_words("hydra", {"key": value})
    (override,) = OverridesParser.create().parse_overrides([word])
    found = override.value()
    if isinstance(value, tuple):
        assert len(found) == len(value)
        assert all(read_as(a, b) if isinstance(a, str) else a == b for a, b in zip(value, found, strict=True))
    else:
        assert read_as(value, found), (word, found)


BASES = {
    ".yaml": "lr: 1e-4\nmodel:\n  name: '8'\n  width: 8\n  scale: 1.0\n  sizes: [1, 2]\n",
    ".json": '{"lr": "1e-4", "model": {"name": "8", "width": 8, "scale": 1.0, "sizes": [1, 2]}}',
    ".toml": "lr = '1e-4'\n[model]\nname = '8'\nwidth = 8\nscale = 1.0\nsizes = [1, 2]\n",
}


@pytest.mark.parametrize("ending", BASES)
def test_overrides_are_merged_into_a_file_of_the_program(ending, tmp_path):
    path = tmp_path / f"base{ending}"
    path.write_text(BASES[ending])
    base = config_files.read(path)
    given = {
        "model.name": "16",
        "model.width": "16",
        "model.scale": "2",
        "model.sizes": ("3",),
        "new.x": True,
    }
    path.write_text(config_files.text(base, given | {"gone": None}, ending))
    found = config_files.read(path)
    model = {"name": "16", "width": 16, "scale": 2.0, "sizes": [3]}
    rest = {} if ending == ".toml" else {"gone": None}
    assert found == {"lr": "1e-4", "model": model, "new": {"x": True}} | rest
    assert isinstance(found["model"]["scale"], float)
    assert dict(config_files.flat(base))["model.width"] == 8
    for wrong in ({"model": "x"}, {"lr.x": "1"}):
        with pytest.raises(InputError, match=r"a group|already a value"):
            config_files.text(base, wrong, ending)
    removed = config_files.merged(base, {"~model": None, "~lr": None, "new.x": "1"}, ending)
    assert (removed, "model" in base) == ({"new": {"x": 1}}, True)
    with pytest.raises(InputError, match="no such setting to remove"):
        config_files.merged(base, {"~model.widht": None}, ending)


def test_a_later_command_and_a_base_file_are_part_of_the_signature():
    plain = TrainingCommand(command=COMMAND, folder=".")
    assert set(plain.signed_fields()) == {"code", "command", "overrides"}
    two = TrainingCommand(commands=[COMMAND, "python test.py {out}"], folder=".")
    assert (two.command, two.then) == (COMMAND, ("python test.py {out}",))
    assert TrainingCommand.model_validate_json(two.model_dump_json()) == two
    assert {*two.signed_fields()} == {"code", "command", "overrides", "then"}
    with pytest.raises(ValueError, match="command, or commands"):
        TrainingCommand(command=COMMAND, commands=[COMMAND], folder=".")


def test_seed_and_folder_may_be_values_of_overrides():
    train = TrainingCommand(command="python train.py -C {config}", overrides="yaml", folder=".")
    train.check_overrides({"exp.seed": "{seed}", "exp.path": "{out}/exp"})
    with pytest.raises(InputError, match=r"no \{seed\} in the command"):
        train.check_overrides({"exp.path": "{out}/exp"})


def test_overrides_that_cannot_be_written_are_refused():
    for style, overrides in (
        ("env", {"model.x": "1"}),
        ("yaml", {"a": "1", "a.b": "2"}),
        ("hydra", {"a=b": "1"}),
    ):
        with pytest.raises(InputError):
            argv.check_overrides([COMMAND], style, overrides)


def test_values_stay_as_they_were_written():
    given = {"a": "1.10", "b": "true", "c": "null", "d": ["x", "false"], "e": 0.5}
    config = CommandConfig(overrides=given)
    assert config.overrides == {"a": "1.10", "b": True, "c": None, "d": ("x", False), "e": "0.5"}
    assert CommandConfig.model_validate_json(config.model_dump_json()) == config
    assert override(3) == "3"
