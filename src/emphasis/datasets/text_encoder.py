"""Pretrained encoders of texts, in the formats of Hugging Face and of sentence-transformers, from a local folder.

Weights are read from safetensors only, and code that comes with an encoder is not run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emphasis.datasets.embedding_cache import EmbeddingCache
from emphasis.datasets.errors import DamagedFileError, DataNotFoundError
from emphasis.errors import EmphasisError
from emphasis.extras import missing_extra
from emphasis.json_files import read_json
from emphasis.texts import encodable, one_line

BATCH, SAVED_EVERY = 32, 1024  # texts
_FILES = (".json", ".model", ".safetensors", ".txt")
_POOLINGS = ("cls", "max", "mean")
_LONGEST = 512  # tokens, for encoders without a maximum length
_USER = "an encoder of texts"
_LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
Progress = Callable[[str, int, int], None]


def find_encoder(name: str, download: bool = False) -> Path:
    """Return the folder of an encoder.

    Args:
        name: Folder, or name of an encoder in the local cache of Hugging Face.
        download: Whether the encoder may be downloaded from the Hugging Face Hub.

    Raises:
        DataNotFoundError: The encoder does not exist, or cannot be downloaded.
        DamagedFileError: The folder holds no encoder.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        try:
            from huggingface_hub import snapshot_download
        except ModuleNotFoundError as error:
            raise missing_extra(_USER, "transformers", error) from None
        try:
            patterns = [f"*{suffix}" for suffix in _FILES]
            folder = Path(snapshot_download(name, local_files_only=not download, allow_patterns=patterns))
        except Exception as error:  # errors of the hub, of the network, and of invalid names
            cure = (
                one_line(error) if download else "give a folder, or allow the download with --download (download=True)"
            )
            raise DataNotFoundError(
                f"the encoder {name!r} is neither a folder nor in the local cache of Hugging Face: {cure}"
            ) from error
    inner = _parts(folder)[0]
    if not (inner / "config.json").is_file() or not any(inner.glob("*.safetensors")):
        raise DamagedFileError(
            f"{inner} holds no encoder: it needs a config.json and weights in safetensors (other formats are not read)"
        )
    return folder


def folder_digest(folder: Path) -> str:
    """Return the digest of the files of an encoder."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.suffix in _FILES and path.is_file()):
        if "onnx" in path.parts or "openvino" in path.parts:
            continue
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path.relative_to(folder).as_posix()} {content}\n".encode())
    return digest.hexdigest()


def _parts(folder: Path) -> tuple[Path, list[tuple[str, Path]]]:
    """Return the folder of the network, and the kinds and folders of the modules of sentence-transformers after it."""
    if not (folder / "modules.json").is_file():
        return folder, []
    try:
        modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
        described = [(str(module["type"]).rpartition(".")[2], folder / str(module["path"])) for module in modules]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedFileError(f"{folder / 'modules.json'} is damaged ({one_line(error)})") from error
    inner, parts = folder, []
    for kind, path in described:
        if not path.resolve().is_relative_to(folder.resolve()):
            raise DamagedFileError(f"{folder / 'modules.json'} names a folder outside of the encoder's: {path}")
        if kind == "Transformer":
            inner = path
        elif kind in ("Pooling", "Normalize"):
            parts.append((kind, path))
        else:
            raise DamagedFileError(
                f"{folder} has a part of the kind {kind!r}; only Transformer, Pooling and Normalize are supported"
            )
    return inner, parts


def poolings(folder: Path) -> tuple[str, ...]:
    """Return the poolings of the vectors of tokens: the mean, unless the encoder specifies others."""
    names: list[str] = []
    for kind, path in _parts(folder)[1]:
        if kind != "Pooling":
            continue
        settings = read_json(path / "config.json")
        mode = settings.get("pooling_mode")
        names += [mode] if isinstance(mode, str) else mode or []
        names += [
            key.removeprefix("pooling_mode_").removesuffix("s").removesuffix("_token")
            for key, value in settings.items()
            if key.startswith("pooling_mode_") and value is True
        ]
    if unknown := [name for name in names if name not in _POOLINGS]:
        raise DamagedFileError(f"{folder} pools by {unknown[0]!r}; supported are {', '.join(_POOLINGS)}")
    return tuple(dict.fromkeys(names)) or ("mean",)


def load_tokenizer(folder: Path) -> tuple[Any, int]:
    """Return the tokenizer of an encoder, and the largest number of tokens that the encoder accepts.

    Raises:
        DamagedFileError: The tokenizer cannot be read.
        ModuleNotFoundError: The extra "transformers" is not installed.
    """
    inner = _parts(folder)[0]
    tokenizer = _load("AutoTokenizer", inner, "the tokenizer of the encoder")
    longest = tokenizer.model_max_length
    if longest > 10**6:  # the tokenizer has no limit; positions of RoBERTa begin with 2
        positions = read_json(inner / "config.json").get("max_position_embeddings")
        longest = min(_LONGEST, positions - 2) if isinstance(positions, int) and positions > 2 else _LONGEST
    if (settings := inner / "sentence_bert_config.json").is_file():
        longest = min(longest, read_json(settings).get("max_seq_length") or longest)
    return tokenizer, int(longest)


def load_network(folder: Path) -> Any:
    """Return the network of an encoder.

    Raises:
        DamagedFileError: The network cannot be read.
        ModuleNotFoundError: The extra "transformers" is not installed.
    """
    network = _load("AutoModel", _parts(folder)[0], "the encoder", use_safetensors=True).float()
    return network.get_encoder() if network.config.is_encoder_decoder else network


def load_classifier(folder: Path, classes: Sequence[str] = ()) -> Any:
    """Return an encoder with a layer for classes.

    Args:
        folder: Folder of an encoder, or of a saved classifier.
        classes: Names of the classes of a new layer, which has random weights; () for the saved layer.

    Raises:
        DamagedFileError: The network cannot be read, or has no form with a layer for classes.
        ModuleNotFoundError: The extra "transformers" is not installed.
    """
    names = dict(enumerate(classes))
    layer: dict[str, Any] = {"num_labels": len(names), "id2label": names, "ignore_mismatched_sizes": True}
    layer["label2id"] = {name: index for index, name in names.items()}
    kind, options = "AutoModelForSequenceClassification", layer if classes else {}
    return _load(kind, _parts(folder)[0], "the encoder", use_safetensors=True, **options).float()


def _load(kind: str, folder: Path, name: str, **options: Any) -> Any:
    """Return the object that the class `kind` of transformers reads from a folder.

    Raises:
        DamagedFileError: The folder cannot be read; the message has the `name`.
        ModuleNotFoundError: The extra "transformers" is not installed.
    """
    try:
        import torch  # noqa: F401  # without it, transformers imports and fails later
        import transformers
    except ModuleNotFoundError as error:
        raise missing_extra(_USER, "transformers", error) from None
    try:
        with silent_loading():
            return getattr(transformers, kind).from_pretrained(folder, **_LOCAL, **options)
    except Exception as error:  # the library can raise any error for a damaged file
        raise DamagedFileError(f"{name} {folder} cannot be read ({one_line(error)})") from error


@contextmanager
def silent_loading() -> Iterator[None]:
    """Suppress progress bars and warnings of transformers."""
    from transformers.utils import logging

    shown, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()


def pooled(states: Any, mask: Any, names: Sequence[str]) -> Any:
    """Return the pooled vectors (n, D) of the vectors of tokens (n, T, D) with a mask (n, T)."""
    import torch

    counted = mask[:, :, None].to(states.dtype)
    vectors = {
        "cls": lambda: states[:, 0],
        "max": lambda: states.masked_fill(counted == 0, -torch.inf).amax(1),
        "mean": lambda: (states * counted).sum(1) / counted.sum(1).clamp(min=1.0),
    }
    return torch.cat([vectors[name]() for name in names], dim=1)


@dataclass
class TextEncoder:
    """An encoder that is loaded on first use, and whose vectors are cached on disk.

    Attributes:
        name: Name or folder of the encoder.
        digest: Required digest of the encoder; "" for any.
        download: Whether it may be downloaded.
        progress: Called as `progress(task, done, total)`.
    """

    name: str
    digest: str = ""
    download: bool = False
    progress: Progress = lambda *_: None

    @cached_property
    def folder(self) -> Path:
        """Folder of the encoder.

        Raises:
            DataNotFoundError, DamagedFileError: There is no encoder, or its digest is another.
        """
        try:
            folder = find_encoder(self.name, self.download)
        except DataNotFoundError as error:
            if not self.digest:
                raise
            raise DataNotFoundError(
                f"the encoder {self.name!r} that the model was trained with is missing; give its folder with --encoder"
            ) from error
        digest = folder_digest(folder)
        if self.digest and digest != self.digest:
            raise DamagedFileError(
                f"the files of the encoder {folder} differ from those that the model was trained with; give the "
                "folder of that encoder with --encoder, or fit again"
            )
        self.digest = digest
        return folder

    def locate(self) -> None:
        """Find and check the encoder, so that errors are raised before anything is computed."""
        load_tokenizer(self.folder)
        poolings(self.folder)

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the vectors of n texts, (n, D)."""
        folder = self.folder
        unique = list(dict.fromkeys(encodable(text) for text in texts))
        with EmbeddingCache(self.digest) as cache:
            vectors = cache.get(unique)
            new = sorted((text for text in unique if text not in vectors), key=len, reverse=True)
            for start in range(0, len(new), SAVED_EVERY):
                part = new[start : start + SAVED_EVERY]
                encoded = np.concatenate([*self._batches(folder, part, start, len(new))])
                cache.put(part, encoded)
                vectors.update(zip(part, encoded, strict=True))
        return np.stack([vectors[encodable(text)] for text in texts])

    def _batches(self, folder: Path, texts: Sequence[str], done: int, total: int) -> Any:
        """Yield the vectors of texts in batches."""
        import torch

        tokenizer, network, longest, names, normalize, device = self._loaded
        for start in range(0, len(texts), BATCH):
            self.progress(f"encoding texts with {folder.name}", done + start, total)
            batch = list(texts[start : start + BATCH])
            tokens = tokenizer(batch, padding=True, truncation=True, max_length=longest, return_tensors="pt").to(device)
            with torch.inference_mode():
                vectors = pooled(network(**tokens).last_hidden_state, tokens["attention_mask"], names)
                if normalize:
                    vectors = torch.nn.functional.normalize(vectors, dim=1)
            if not bool(vectors.isfinite().all()):
                raise EmphasisError(f"the encoder {folder} returns NaN or infinite numbers")
            yield vectors.cpu().numpy()

    @cached_property
    def _loaded(self) -> Any:
        import torch

        tokenizer, longest = load_tokenizer(self.folder)
        network = load_network(self.folder)
        normalize = any(kind == "Normalize" for kind, _ in _parts(self.folder)[1])
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return tokenizer, network.eval().to(device), longest, poolings(self.folder), normalize, device
