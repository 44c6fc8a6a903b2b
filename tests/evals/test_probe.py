"""The linear probe, and the references that training has to beat."""

from fake_model import FakeModel
import numpy as np
import pytest
from scipy import optimize

from mof_jax import evals
from mof_jax.errors import UserError
from mof_jax.evals.embed.feature_baselines import accuracies
from mof_jax.evals.embed.probe import Probe, fit, predict, standardised
from mof_jax.evals.metrics.paired import paired_interval

RNG = np.random.default_rng(0)
X = RNG.standard_normal((60, 5)).astype(np.float32)
Y = (X @ RNG.standard_normal((5, 4)) + 0.5 * RNG.standard_normal((60, 4)) + [0, 0, 0, 1]).argmax(1)


def loss_and_gradient(flat, strength):
    """The objective in double precision."""
    w = flat.reshape(6, 4)
    scores = X.astype(np.float64) @ w[:-1] + w[-1]
    p = np.exp(scores - scores.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    residual = (p - np.eye(4)[Y]) / len(Y)
    gradient = np.concatenate([X.T @ residual + strength * w[:-1], residual.sum(0, keepdims=True)])
    return -np.log(p[np.arange(len(Y)), Y]).mean() + 0.5 * strength * np.square(w[:-1]).sum(), gradient.reshape(-1)


@pytest.mark.parametrize("strength", [1.0, 1e-2])
def test_the_fit_is_the_optimum(strength):
    """Against SciPy in double precision; from another start the same."""
    want = optimize.minimize(loss_and_gradient, np.zeros(24), (strength,), jac=True, method="BFGS", options=dict(gtol=1e-9))
    got = fit(X, Y, 4, strength, 300, tolerance=1e-6)
    np.testing.assert_allclose(got[:-1], want.x.reshape(6, 4)[:-1], atol=2e-4)
    bias = want.x.reshape(6, 4)[-1]
    np.testing.assert_allclose(got[-1] - np.mean(got[-1]), bias - bias.mean(), atol=2e-4)
    again = fit(X, Y, 4, strength, 300, start=np.asarray(got)[::-1].copy(), tolerance=1e-6)
    np.testing.assert_allclose(again[:-1], got[:-1], atol=3e-4)
    assert (predict(got, X) == Y).mean() > 0.6


def test_no_step_beyond_the_limit():
    one, two = fit(X, Y, 4, 1e-2, 1), fit(X, Y, 4, 1e-2, 2)
    values = [loss_and_gradient(np.asarray(w, np.float64).reshape(-1), 1e-2)[0] for w in (np.zeros((6, 4)), one, two)]
    assert values[0] > values[1] > values[2]


def test_validation_chooses_the_strength():
    """Two informative features of 150, few examples: a weak penalty fits the noise, and the strong one is chosen and better."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((300, 150)).astype(np.float32)
    y = ((x[:, 0] + x[:, 1] + rng.standard_normal(300)) > 0).astype(int)
    probe = Probe(None, None, l2=(1e-6, 0.3))
    np.testing.assert_array_equal(probe.fitted(x, y, 2), fit(x, y, 2, 0.3, 100, start_of(probe, x, y)))
    weak = Probe(None, None, l2=(1e-6,))
    z = rng.standard_normal((4000, 150)).astype(np.float32)
    right = lambda p: (predict(p.fitted(x, y, 2), z) == (z[:, 0] + z[:, 1] > 0)).mean()
    assert right(probe) > right(weak) + 0.02


def start_of(probe, x, y):
    """Where the last fit of `fitted` starts: the weakest strength's optimum on the part that is not held out."""
    rest = np.random.default_rng(probe.seed).permutation(len(x))[round(probe.validation * len(x)):]
    weights = None
    for strength in sorted(probe.l2, reverse=True):
        weights = fit(x[rest], y[rest], 2, strength, 100, weights)
    return weights


def test_features_are_standardised_by_training_records():
    train, test = standardised(X, X[:7] * 3)
    np.testing.assert_allclose(train.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(train.std(0), 1, atol=1e-3)
    np.testing.assert_allclose(test, train[:7], atol=1e-4)  # length does not matter


def test_paired_interval():
    a, b = RNG.random(400) < 0.6, RNG.random(400) < 0.5
    low, high = paired_interval(a, b)
    difference = a.astype(float) - b
    assert low < difference.mean() < high
    half = 1.96 * difference.std() / 20  # the normal approximation
    assert (high - low) / 2 == pytest.approx(half, rel=0.1)
    assert paired_interval(a, a) == (0.0, 0.0)
    # Paired: two that agree but for ten items are told apart, however hard the items are.
    c = a.copy()
    c[np.flatnonzero(a)[:10]] = False
    assert paired_interval(a, c)[0] > 0


class Answers(FakeModel):
    """An encoder whose trained, fresh and pixel features are all different."""

    images = staticmethod(lambda source: "trained")
    pixels = staticmethod(lambda source, side: "pixels")

    def untrained(self):
        return type("Fresh", (), {"images": staticmethod(lambda source: "fresh")})


def test_references_stand_beside_the_accuracy():
    right = {"trained": np.arange(200) < 160, "fresh": np.arange(200) < 20, "pixels": np.arange(200) < 158}
    units = [str(i) for i in range(200)]
    found = accuracies(Answers(), lambda features: right[features(None)], units, True)
    assert (found["acc@1"], found["acc@1_untrained"], found["acc@1_pixels"]) == (80.0, 10.0, 79.0)
    assert found["lead_untrained_low"] > 60 and -1 < found["lead_pixels_low"] <= 0
    assert accuracies(Answers(), lambda features: right[features(None)], units, False) == {"acc@1": 80.0}


def test_mistakes_are_named():
    source = dict(kind="emoji5", split="unseen")
    for change, says in ((dict(l2=[]), "at least one strength"), (dict(l2=[0.0]), "0.0 is not above 0"),
                         (dict(validation=1.0), "validation: 1.0 is not above 0 and below 1")):
        with pytest.raises(UserError, match=says):
            evals.build(dict(kind="probe", train=source, test=source, **change), "evals.0")
    with pytest.raises(UserError, match="leave none to fit"):
        Probe(None, None).fitted(X[:1], Y[:1], 4)
