"""Made-up texts of two topics, for tests."""

import numpy as np
import pandas as pd

_WORDS = {
    "cooking": ["simmer", "garlic", "onion", "butter", "flour", "oven", "whisk", "recipe", "pepper", "dough"],
    "sailing": ["anchor", "harbor", "mast", "rudder", "sail", "keel", "tide", "wind", "buoy", "captain"],
}
_COMMON = ["the", "a", "we", "then", "slowly", "with", "again", "near", "before", "after", "some", "every", "old"]


def text_table(rows=300, noise=0.0, seed=0):
    """Return a table of texts in which a third of the words tell the topic, and a number that tells nothing."""
    rng = np.random.default_rng(seed)
    topics = np.array(sorted(_WORDS))[np.arange(rows) % 2]
    bodies = [
        " ".join(
            rng.choice(_WORDS[topic] if rng.random() < 0.3 or place < 2 else _COMMON)
            for place in rng.permutation(rng.integers(8, 14))
        )
        for topic in topics
    ]
    wrong = rng.random(rows) < noise
    given = np.where(wrong, np.where(topics == "cooking", "sailing", "cooking"), topics)
    return pd.DataFrame({"pages": rng.integers(1, 9, rows), "body": bodies, "topic": given}), topics
