"""Wrong labels in JAX with optax: python examples/jax_optax.py (extras jax and sklearn, and optax).

Scikit-learn's handwritten digits, 40 % of whose training labels are wrong, and a perceptron of 512 hidden units,
written out in jax.numpy. It is trained with cross-entropy and with Derivative Manipulation, from the same start; the
test labels are true. What to copy is the line with `emphasis_loss`, which stands where
`optax.softmax_cross_entropy_with_integer_labels(...).mean()` would.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from emphasis import CCE, DM, Weighting
from emphasis.corruption import symmetric
from emphasis.jax import emphasis_loss

STEPS, BATCH, HIDDEN = 1500, 128, 512
Params = dict[str, jax.Array]


def initial(key: jax.Array) -> Params:
    """Return random weights."""
    first, second = jax.random.split(key)
    return {
        "W1": jax.random.normal(first, (64, HIDDEN)) / 8.0,
        "b1": jnp.zeros(HIDDEN),
        "W2": jax.random.normal(second, (HIDDEN, 10)) / HIDDEN**0.5,
        "b2": jnp.zeros(10),
    }


def logits_of(params: Params, x: jax.Array) -> jax.Array:
    """Return (N, 10) logits of (N, 64) inputs."""
    return jax.nn.relu(x @ params["W1"] + params["b1"]) @ params["W2"] + params["b2"]


def train(weighting: Weighting, x: np.ndarray, labels: np.ndarray, seed: int) -> Params:
    """Return the weights after STEPS steps of SGD with momentum."""
    optimizer = optax.sgd(optax.cosine_decay_schedule(0.1, STEPS), momentum=0.9)

    @jax.jit
    def step(params: Params, state: optax.OptState, x: jax.Array, labels: jax.Array) -> tuple[Params, optax.OptState]:
        gradient = jax.grad(lambda params: emphasis_loss(logits_of(params, x), labels, weighting))(params)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state

    params = initial(jax.random.key(seed))
    state, rng = optimizer.init(params), np.random.default_rng(seed)
    for _ in range(STEPS):
        chosen = rng.choice(len(x), BATCH, replace=False)
        params, state = step(params, state, x[chosen], labels[chosen])
    return params


def main() -> None:
    """Train and print the test accuracies."""
    X, y = load_digits(return_X_y=True)
    X = (X / 16.0).astype(np.float32)
    X, X_test, y, y_test = train_test_split(X, y, test_size=0.3, stratify=y, random_state=0)
    noisy = symmetric(y, 0.4, num_classes=10, seed=0).labels
    for name, weighting in {"cross-entropy": CCE(), "DM, vanishing": DM(lam=0.5, beta=8, vanishing=True)}.items():
        predicted = logits_of(train(weighting, X, noisy, seed=0), X_test).argmax(1)
        print(f"{name:<14} {100 * np.mean(np.asarray(predicted) == y_test):5.1f} %")


if __name__ == "__main__":
    main()
