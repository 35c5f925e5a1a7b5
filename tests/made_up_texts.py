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


def tiny_encoder(folder, seed=0):
    """Write a BERT of one layer with random weights, and a WordPiece tokenizer of the words of these texts."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    words += [word for topic in _WORDS.values() for word in topic] + [word for word in _COMMON if len(word) > 1]
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(words), max_position_embeddings=64, **sizes)).save_pretrained(folder)
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder
