from __future__ import annotations

import pytest

from ablate.ablations.audit.train_command import validated_on_test


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
    (found,) = validated_on_test("python train.py", [], {name: tmp_path / name})
    assert (found.code, found.severity) == ("A505", "note")
    assert f"{name}:" in found.evidence


def test_the_command_itself():
    (found,) = validated_on_test("python train.py --train data/train --val_dir data/test", [], {})
    assert "train.command" in found.evidence


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
    assert list(validated_on_test("python train.py --seed 1", [], {"c.yaml": tmp_path / "c.yaml"})) == []
