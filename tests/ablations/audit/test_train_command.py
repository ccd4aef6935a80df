from __future__ import annotations

import pytest

from ablate.ablations.audit.train_command import read_by_nobody, untoggled, validated_on_test
from ablate.ablations.factors import find
from ablate.ablations.grid import Cell
from ablate.training.train_command.config import CommandConfig


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("conf.yaml", "train: data/clean_trainset_wav\nvalid_clean: data/clean_testset_wav\n"),
        ("conf.toml", "[validation]\nx = 1\nval_dir = 'voicebank/test'\n"),
        ("conf.json", '{"train_list": "train.txt",\n "validation_file": "test.txt"}'),
        ("train.sh", "x=1\npython train.py --dev-set egs/test --lr 1\n"),
    ],
)
def test_a_config_that_validates_on_test_is_named_with_its_line(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    (found,) = validated_on_test("python train.py", [], {name: tmp_path / name}, {})
    assert (found.code, found.severity) == ("A505", "note")
    assert f"{name}:" in found.evidence


def test_the_command_itself():
    (found,) = validated_on_test("python train.py --train data/train --val_dir data/test", [], {}, {})
    assert "train.command" in found.evidence


def test_a_nested_setting_counts_unless_every_cell_overrides_it():
    command, defaults = "python train.py", {"data.valid.clean_dir": "voicebank/clean_testset_wav"}
    (found,) = validated_on_test(command, cells_of(lr="1"), {}, defaults)
    assert "a setting: data.valid.clean_dir=voicebank/clean_testset_wav" in found.evidence
    mended = cells_of(**{"data.valid.clean_dir": "voicebank/dev"})
    assert not list(validated_on_test(command, mended, {}, defaults))


@pytest.mark.parametrize(
    "text",
    [
        "valid_dir: data/validation\ntest_dir: data/clean_testset_wav",
        "validate_every: 10  # then test",
        "test: data/test\nval: data/val",
        "# interval of the latest test: 5",
        "value: test",
        "devices: 2\ntest_set: x",
    ],
)
def test_what_only_names_a_test_set_is_nothing(tmp_path, text):
    (tmp_path / "c.yaml").write_text(text)
    assert list(validated_on_test("python train.py --seed 1", [], {"c.yaml": tmp_path / "c.yaml"}, {})) == []


def cells_of(**overrides) -> list[Cell[CommandConfig]]:
    config = CommandConfig(overrides=overrides)
    return [Cell[CommandConfig](name="base", levels={"x": "off"}, config=config)]


def test_a_name_that_no_program_reads_is_named(tmp_path):
    (tmp_path / "train.py").write_text("p.add_argument('--n-layers'); use(config['optim']['lr'])\n")
    (tmp_path / "conf.json").write_text('{"num_blocks": 4}')
    code = {path.name: path for path in tmp_path.iterdir()}
    known = {"n-layers": "2", "n_layers": "2", "optim.lr": "1"}
    (a, b) = read_by_nobody(cells_of(**known, num_blocks="1", **{"n-layer": "3"}), code)
    assert (a.code, a.where, b.where) == ("A205", "num_blocks", "n-layer")
    assert "train.py" in a.evidence


def test_what_a_program_takes_by_itself_is_no_difference():
    base, baseline = cells_of(lr="1")[0], cells_of()[0].model_copy(update={"levels": {}})
    factors = (
        find("bidirectional").model_copy(update={"name": "x", "levels": {"off": {}, "on": {"y": "2"}}}),
    )
    (found,) = untoggled([base, baseline], factors, {})
    assert "lr 1 -> not given" in found.evidence
    assert not list(untoggled([base, baseline], factors, {"lr": "1"}))
