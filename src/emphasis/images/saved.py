"""Trained image networks in a folder: a JSON manifest with the recipe, and parameters as safetensors."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

import emphasis
from emphasis.datasets import ImageFiles
from emphasis.datasets.archives import file_digest
from emphasis.datasets.errors import DamagedFileError
from emphasis.extras import missing_extra
from emphasis.files import replacing, write_text
from emphasis.images.networks import Statistics, build_network, probabilities
from emphasis.tabular.calibration import Calibration
from emphasis.tabular.saved import CHECKSUM, FOLDER, MANIFEST, check_whole, checksum, read_manifest, texts_of
from emphasis.texts import one_line
from emphasis.weighting import Weighting
from emphasis.weighting.serialise import named_from_dict

PARAMETERS = "model.safetensors"
FORMAT, KIND = "images 1", "images"


@dataclass(frozen=True, eq=False)
class SavedImageModel:
    """A network that classifies images.

    Attributes:
        classes: Names of the classes, in the order of the probabilities.
        name: Name of the network, such as "small-cnn".
        options: Options of the network.
        width: Number of features if a frozen network with a linear layer was trained; 0 otherwise.
        network: The network.
        size: Pixels per side that images are scaled to.
        channels: 3 (RGB) or 1 (gray).
        statistics: Mean and standard deviation of the channels, for pixels in [0, 1].
        weighting: Weighting that it was trained with; only the name is saved of a user-defined function.
        calibration: Calibration of the probabilities; None if they are not calibrated.
        recipe: Settings of the training.
        trained: Digests of the training images.
    """

    classes: tuple[str, ...]
    name: str
    options: dict[str, Any]
    width: int
    network: nn.Module
    size: int
    channels: int
    statistics: Statistics
    weighting: Weighting
    calibration: Calibration | None
    recipe: dict[str, Any]
    trained: frozenset[str] = frozenset()

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of input images."""
        return self.channels, self.size, self.size

    def predict_proba(self, images: NDArray[np.uint8] | ImageFiles | Sequence[str | os.PathLike[str]]) -> Any:
        """Return the class probabilities of images, shape (N, C).

        Args:
            images: Paths of image files, or uint8 images of shape (N, channels, size, size).

        Raises:
            DamagedFileError: An image cannot be decoded.
        """
        if not isinstance(images, (np.ndarray, ImageFiles)):
            names = [str(Path(path).absolute()) for path in images]
            images = ImageFiles(Path("/"), names, self.size, self.channels, center_crop=True)
        p = probabilities(self.network, images, self.statistics)
        return p if self.calibration is None else self.calibration.apply(p)

    def predict(self, images: Any) -> NDArray[Any]:
        """Return the most probable class of each image as text, shape (N,)."""
        names: NDArray[Any] = np.array(self.classes)
        return np.asarray(names[self.predict_proba(images).argmax(1)])


def save_model(folder: Path, model: SavedImageModel) -> None:
    """Write the parameters and then the manifest into `folder`/model, each file atomically."""
    from safetensors.torch import save

    target = folder / FOLDER
    target.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.network.state_dict().items()}
    with replacing(target / PARAMETERS) as partial:
        partial.write_bytes(save(tensors))
        digest = file_digest(partial, "sha256")
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "emphasis": emphasis.__version__,
        "kind": KIND,
        "file": PARAMETERS,
        "sha256": digest,
        "network": {"name": model.name, "options": model.options, "width": model.width},
        "input": {
            "size": model.size,
            "channels": model.channels,
            "mean": model.statistics[0].tolist(),
            "std": model.statistics[1].tolist(),
        },
        "classes": list(model.classes),
        "weighting": model.weighting.to_dict(),
        "calibration": None if model.calibration is None else model.calibration.to_dict(),
        "recipe": model.recipe,
        "trained": sorted(model.trained),
    }
    manifest = json.loads(json.dumps(manifest))  # in the form in which it will be read
    manifest[CHECKSUM] = checksum(manifest)
    write_text(target / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False))


def load_model(folder: str | os.PathLike[str]) -> SavedImageModel:
    """Return the model of images in a folder that `emphasis fit` has written, or in its subfolder "model".

    Code that the manifest refers to is not run.

    Raises:
        DataNotFoundError: The folder holds no model.
        DamagedFileError: A file is incomplete, changed, or of a later version of the package.
    """
    try:
        from safetensors.torch import load
    except ModuleNotFoundError as error:
        raise missing_extra("a model of images", "images", error) from None

    source, manifest = read_manifest(folder, (FORMAT,))
    file = source / PARAMETERS
    check_whole(file, manifest.get("sha256"))
    try:
        classes, about, inputs = texts_of(manifest["classes"]), manifest["network"], manifest["input"]
        shape = inputs["channels"], inputs["size"], inputs["size"]
        network = build_network(about["name"], about["options"], shape, len(classes), width=about["width"])
        network.load_state_dict(load(file.read_bytes()))
        curves = manifest["calibration"]
        calibration = None if curves is None else Calibration.from_dict(curves, len(classes))
        return SavedImageModel(
            classes,
            about["name"],
            about["options"],
            about["width"],
            network.eval(),
            inputs["size"],
            inputs["channels"],
            (np.array(inputs["mean"]), np.array(inputs["std"])),
            named_from_dict(manifest["weighting"]),
            calibration,
            manifest["recipe"],
            frozenset(texts_of(manifest["trained"])),
        )
    except ModuleNotFoundError:
        raise
    except Exception as error:  # libraries can raise any error for a damaged file
        raise DamagedFileError(f"{source} cannot be read ({one_line(error)}); fit again with --force") from error
