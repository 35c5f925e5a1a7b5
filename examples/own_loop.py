"""DM in one's own training loop: python examples/own_loop.py (needs the extras torch and experiments).

Trains a small network on scikit-learn's digits, 40 % of whose training labels are wrong, with cross-entropy, with DM
and with a weighting of one's own, and prints the accuracy on clean test labels.
"""

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from emphasis import CCE, DM
from emphasis.corruption import symmetric
from emphasis.torch import EmphasisLoss


def train(weighting, x, labels, steps: int = 1000) -> torch.nn.Module:
    """Return a network trained on (x, labels) with the given weighting."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 96), torch.nn.ReLU(), torch.nn.Linear(96, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    criterion = EmphasisLoss(weighting)
    for _ in range(steps):
        batch = torch.randint(len(x), (128,))
        optimizer.zero_grad()
        criterion(model(x[batch]), labels[batch]).backward()
        optimizer.step()
    return model


def main() -> None:
    """Train and print."""
    images, labels = load_digits(return_X_y=True)
    x, x_test, y, y_test = train_test_split(images / 16.0, labels, test_size=500, stratify=labels, random_state=0)
    x, x_test = (torch.tensor(part, dtype=torch.float32) for part in (x, x_test))
    noisy = torch.from_numpy(symmetric(y, noise_rate=0.4, seed=0).labels)
    weightings = {
        "cross-entropy": CCE(),
        "DM": DM(lam=0.5, beta=12),
        "DM, vanishing": DM(lam=0.5, beta=12, vanishing=True),
        "my own": lambda p: p**0.5 * (1 - p) ** 1.5,
    }
    for name, weighting in weightings.items():
        model = train(weighting, x, noisy)
        right = (model(x_test).argmax(1) == torch.from_numpy(y_test)).float().mean().item()
        print(f"{name:14} {right:.1%}")


if __name__ == "__main__":
    main()
