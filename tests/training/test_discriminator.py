import pytest
import torch

from ablate.training.discriminator import Discriminator, discriminator_loss, target

pytestmark = pytest.mark.numerics


def test_exact_size():
    assert sum(p.numel() for p in Discriminator().parameters()) == 181_650


def test_one_judgement_an_item_below_the_ceiling():
    torch.manual_seed(0)
    judge = Discriminator(4).eval()
    clean, other = torch.rand(3, 257, 60), torch.rand(3, 257, 60)
    judged = judge(clean, other)
    assert judged.shape == (3,)
    assert ((judged > 0) & (judged < 1.2)).all()
    assert torch.allclose(judge(clean[1:2], other[1:2]), judged[1:2], atol=1e-6)
    assert not torch.allclose(judge(other, clean), judged, atol=1e-6)


def test_dropout_is_on_in_training_only_and_its_parts_make_the_whole():
    torch.manual_seed(0)
    judge, x, y = Discriminator(4), torch.rand(4, 257, 40), torch.rand(4, 257, 40)
    judge.eval()
    assert (judge(x, y) == judge(x, y)).all()
    mask = judge.dropout_mask(4)
    parts = torch.cat([judge(x[i : i + 2], y[i : i + 2], mask[i : i + 2]) for i in (0, 2)])
    assert torch.allclose(parts, judge(x, y, mask), atol=1e-6)
    judge.train()
    assert (judge(x, y) != judge(x, y)).any()


def test_dropout_keeps_the_mean():
    torch.manual_seed(0)
    mask = Discriminator().dropout_mask(2000)
    assert mask.unique().tolist() == pytest.approx([0.0, 1 / 0.7])
    assert mask.mean().item() == pytest.approx(1, abs=0.01)


def test_weights_are_spectrally_normalised():
    torch.manual_seed(0)
    judge = Discriminator(4).train()
    for _ in range(30):
        judge(torch.rand(1, 257, 40), torch.rand(1, 257, 40))
    judge.eval()
    for layer in (judge.convolutions[0], judge.hidden, judge.output):
        largest = torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2)
        assert largest.item() == pytest.approx(1, abs=0.02)


def test_the_maximum_is_that_of_adaptive_pooling_bit_for_bit():
    torch.manual_seed(0)
    judge, x = Discriminator(4).eval(), torch.rand(2, 257, 60)
    x[1] = x[0, :1, :1]  # a constant magnitude: every place ties
    one, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    features = judge.convolutions(torch.stack([other, other], 1))
    hidden = judge.hidden(torch.nn.AdaptiveMaxPool2d(1)(features).flatten(1))
    wanted = 1.2 * torch.sigmoid(judge.slope * judge.output(judge.activation(hidden)).squeeze(-1))
    found = judge(one, one)
    assert torch.equal(found, wanted)
    found.sum().backward()
    wanted.sum().backward()
    assert torch.equal(one.grad, other.grad)


def test_judged_together_is_as_judged_one_after_the_other():
    torch.manual_seed(0)
    apart, together = Discriminator(4).train(), Discriminator(4).train()
    for _ in range(50):
        apart(torch.rand(1, 257, 40), torch.rand(1, 257, 40))
    together.load_state_dict(apart.state_dict())
    pairs = [(torch.rand(2, 257, 40), torch.rand(2, 257, 40)) for _ in range(3)]
    masks = torch.stack([apart.dropout_mask(2) for _ in pairs])
    wanted = [apart(*pair, mask=mask) for pair, mask in zip(pairs, masks, strict=True)]
    found = together.judge_together(pairs, masks)
    for one, other in zip(found, wanted, strict=True):
        assert torch.allclose(one, other, atol=1e-3)
    for (name, one), other in zip(together.state_dict().items(), apart.state_dict().values(), strict=True):
        assert torch.allclose(one, other, atol=1e-5), name


def test_target():
    assert target(4.5) == 1
    assert target(-0.5) == 0


def test_a_failed_clip_is_dropped_alone():
    judged = torch.tensor([0.2, 0.4, 0.6])
    loss, dropped = discriminator_loss(torch.ones(3), [(judged, [target_of(0.2), None, target_of(0.5)])])
    assert dropped == 1
    assert loss.item() == pytest.approx(0.1**2 / 2)
    loss, dropped = discriminator_loss(torch.tensor([0.5]), [(judged, [None, None, None])])
    assert dropped == 3
    assert loss.item() == pytest.approx(0.25)


def target_of(quality: float) -> float:
    """The PESQ whose target this is."""
    return 5 * quality - 0.5
