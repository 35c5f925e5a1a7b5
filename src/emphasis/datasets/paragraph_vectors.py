"""Paragraph vectors (PV-DBOW): one fixed-length vector per document, by gensim.

Source: Q. Le and T. Mikolov, Distributed Representations of Sentences and Documents, ICML 2014; the settings follow
G. Mesnil et al., Ensemble of Generative and Discriminative Techniques for Sentiment Analysis of Movie Reviews, ICLR
Workshop 2015: documents in random order, lower case, and punctuation marks as words.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emphasis.errors import EmphasisValueError
from emphasis.files import replacing

_TOKEN = re.compile(r"\w+(?:'\w+)*|[^\w\s]")
_LINE_BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)


@dataclass(frozen=True)
class ParagraphVectors:
    """The settings of PV-DBOW.

    Attributes:
        size: Length of the vectors.
        epochs: Number of passes over the documents.
        negative: Number of noise words for each word.
        min_count: Number of occurrences below which a word is ignored.
        sample: Threshold of frequency above which words are downsampled; 0 for no downsampling.
        shuffle: Whether documents are used in random order. Documents sorted by label give much weaker vectors.
        seed: Seed of the order of documents and of gensim.
        workers: Number of threads. Results can be repeated with one thread only.

    Raises:
        ValueError: A setting is out of range.
    """

    size: int = 100
    epochs: int = 20
    negative: int = 5
    min_count: int = 2
    sample: float = 0.0
    shuffle: bool = True
    seed: int = 0
    workers: int = 1

    def __post_init__(self) -> None:
        for name in ("size", "epochs", "negative", "min_count", "workers"):
            if getattr(self, name) < 1:
                raise EmphasisValueError(f"{name}={getattr(self, name)} is not allowed; use a whole number >= 1")
        if not 0.0 <= self.sample < 1.0:
            raise EmphasisValueError(f"sample={self.sample} is not allowed; use a number in [0, 1)")


def tokenize(text: str) -> list[str]:
    """Return the words and punctuation marks of a text in lower case, without HTML line breaks."""
    return _TOKEN.findall(_LINE_BREAK.sub(" ", text).lower())


def train_paragraph_vectors(
    texts: Sequence[str], settings: ParagraphVectors, progress: Callable[[int, int], None] = lambda _done, _total: None
) -> NDArray[np.float32]:
    """Return a vector for each text, (len(texts), settings.size) float32.

    Args:
        texts: The documents. As no labels are used, test documents can be included, as in the sources.
        settings: See `ParagraphVectors`.
        progress: Called as `progress(done, total)` with numbers of epochs.

    Raises:
        ModuleNotFoundError: gensim, of the extra "text", is missing.
        ValueError: No document has a word that occurs `min_count` times.
    """
    from gensim.models.callbacks import CallbackAny2Vec
    from gensim.models.doc2vec import Doc2Vec, TaggedDocument

    class Report(CallbackAny2Vec):  # type: ignore[misc]
        done = 0

        def on_epoch_end(self, _model: Any) -> None:
            self.done += 1
            progress(self.done, settings.epochs)

    rng = np.random.default_rng(settings.seed)
    order = rng.permutation(len(texts)) if settings.shuffle else np.arange(len(texts))
    documents = [TaggedDocument(tokenize(texts[row]), [position]) for position, row in enumerate(order.tolist())]
    model = Doc2Vec(
        dm=0,
        vector_size=settings.size,
        negative=settings.negative,
        hs=0,
        sample=settings.sample,
        epochs=settings.epochs,
        min_count=settings.min_count,
        seed=settings.seed,
        workers=settings.workers,
    )
    model.build_vocab(documents)
    if not len(model.wv):
        raise EmphasisValueError(
            f"no word occurs {settings.min_count} times in the {len(texts)} documents; lower min_count"
        )
    model.train(documents, total_examples=len(documents), epochs=settings.epochs, callbacks=[Report()])
    vectors = np.empty((len(texts), settings.size), dtype=np.float32)
    vectors[order] = model.dv.vectors
    return vectors


def cached_paragraph_vectors(
    texts: Sequence[str],
    settings: ParagraphVectors,
    folder: Path,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> NDArray[np.float32]:
    """Return the result of `train_paragraph_vectors`, which is cached in `folder`.

    The name of the file contains a digest of texts and settings.
    """
    path = folder / f"paragraph-vectors-{_digest(texts, settings)}.npy"
    try:
        vectors: NDArray[np.float32] = np.load(path)
        if vectors.shape != (len(texts), settings.size) or vectors.dtype != np.float32:
            raise EmphasisValueError(f"{path} is of other documents")
    except Exception:  # absent, or damaged in any way: train
        vectors = train_paragraph_vectors(texts, settings, progress)
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            np.save(partial, vectors)
    return vectors


def _digest(texts: Sequence[str], settings: ParagraphVectors) -> str:
    digest = hashlib.sha256(repr(sorted(asdict(settings).items())).encode())
    for text in texts:
        digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()[:16]
