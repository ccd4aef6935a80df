import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from ablate.ablations.inference.contrasts import Contrast
from ablate.ablations.inference.pooled import crossed_model, pooled_effects


def balanced(cells=4, seeds=5, utterances=8, seed=3):
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, 0.2, (cells, seeds, utterances)) + np.arange(cells)[:, None, None] * 0.1
    scores += rng.normal(0, 0.3, (1, 1, utterances)) + rng.normal(0, 0.2, (1, seeds, 1))
    return scores + rng.normal(0, 0.3, (cells, seeds, 1)) + rng.normal(0, 0.25, (cells, 1, utterances))


def differences(cells):
    weights = np.zeros((cells - 1, cells))
    weights[:, 0] = -1
    weights[np.arange(cells - 1), np.arange(1, cells)] = 1
    return weights, [Contrast(f"c{i}", "simple", {}) for i in range(1, cells)]


def test_components_of_planted_variances():
    found = [crossed_model(balanced(6, 8, 30, seed=s)).components for s in range(60)]
    mean = pd.DataFrame(found).mean()
    planted = {"seed x cell": 0.09, "utterance x cell": 0.0625, "residual": 0.04}
    for name, variance in planted.items():
        assert mean[name] == pytest.approx(variance, rel=0.12)


def test_sums_of_squares_are_complete():
    scores = balanced()
    cells, seeds, utterances = scores.shape
    squares = crossed_model(scores).mean_squares
    freedom = {
        "seed x cell": (cells - 1) * (seeds - 1),
        "utterance x cell": (cells - 1) * (utterances - 1),
        "seed": seeds - 1,
        "utterance": utterances - 1,
    }
    rest = cells * seeds * utterances - cells * (seeds + utterances - 1)
    total = sum(squares[name] * df for name, df in freedom.items()) + squares["residual"] * rest
    between = seeds * utterances * ((scores.mean((1, 2)) - scores.mean()) ** 2).sum()
    assert total + between == pytest.approx(((scores - scores.mean()) ** 2).sum())


def test_two_cells_without_an_utterance_part_are_a_paired_t_test():
    rng = np.random.default_rng(0)
    scores = rng.normal(0, 0.3, (2, 6, 1)) + rng.normal(0, 0.2, (2, 6, 10))
    scores -= scores.mean(1, keepdims=True) - scores.mean((1, 2), keepdims=True)
    weights, contrasts = differences(2)
    frame, note = pooled_effects(scores, weights, np.ones((2, 6), bool), contrasts, 0.95)
    expected = stats.ttest_rel(scores[1].mean(-1), scores[0].mean(-1))
    assert note == ""
    assert frame.loc[0, "df"] == pytest.approx(5)
    assert frame.loc[0, "p"] == pytest.approx(expected.pvalue)


def test_only_seeds_that_every_cell_has_are_used():
    scores = balanced()
    weights, contrasts = differences(4)
    present = np.ones((4, 5), bool)
    present[2, 4] = False
    frame, note = pooled_effects(
        np.where(present[..., None], scores, np.nan), weights, present, contrasts, 0.9
    )
    full, _ = pooled_effects(scores[:, :4], weights, present[:, :4], contrasts, 0.9)
    pd.testing.assert_frame_equal(frame, full)
    assert "4 of 5 seeds" in note
    present[0, 1:] = False
    empty, note = pooled_effects(scores, weights, present, contrasts, 0.9)
    assert empty.empty
    assert "share fewer than two seeds" in note


def test_too_little_data_is_refused():
    with pytest.raises(ValueError, match=r"\(2, 1, 5\)"):
        crossed_model(np.zeros((2, 1, 5)))


@pytest.mark.slow
def test_agrees_with_statsmodels_mixedlm():
    """REML and the analysis of variance give the same components where all are positive."""
    import statsmodels.formula.api as smf

    scores = balanced(3, 5, 6, seed=11)
    cells, seeds, _ = scores.shape
    index = np.indices(scores.shape).reshape(3, -1)
    frame = pd.DataFrame(index.T, columns=["cell", "seed", "utterance"]).assign(y=scores.ravel(), all=1)
    frame["seed_cell"] = frame["seed"] * cells + frame["cell"]
    frame["utterance_cell"] = frame["utterance"] * cells + frame["cell"]
    kinds = ("seed", "utterance", "seed_cell", "utterance_cell")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = smf.mixedlm(
            "y ~ C(cell)",
            frame,
            groups="all",
            re_formula="0",
            vc_formula={kind: f"0 + C({kind})" for kind in kinds},
        ).fit(reml=True, method=["powell", "lbfgs"])
    model = crossed_model(scores)
    assert min(model.components.values()) > 0
    variance = dict(zip(fitted.model.exog_vc.names, fitted.vcomp, strict=True))
    for ours, theirs in (
        ("seed x cell", "seed_cell"),
        ("utterance x cell", "utterance_cell"),
        ("seed", "seed"),
    ):
        assert variance[theirs] == pytest.approx(model.components[ours], rel=0.02)
    assert fitted.scale == pytest.approx(model.components["residual"], rel=0.02)
    weights, contrasts = differences(3)
    frame, _ = pooled_effects(scores, weights, np.ones((cells, seeds), bool), contrasts, 0.95)
    assert frame["estimate"].to_numpy() == pytest.approx(fitted.fe_params.iloc[1:].to_numpy(), abs=1e-6)
    assert frame["se"].to_numpy() == pytest.approx(fitted.bse_fe.iloc[1:].to_numpy(), rel=0.01)
