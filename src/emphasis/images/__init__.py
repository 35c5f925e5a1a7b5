"""Classifiers of one's own images, as trained by `emphasis fit` and applied by `emphasis predict`.

    import emphasis
    from emphasis.images import load_model

    result = emphasis.fit("photos", folder="runs/photos")
    load_model("runs/photos").predict(["new/1.jpg", "new/2.jpg"])

Needs the extra `images`; networks of timm need the extra `timm` as well.
"""

from emphasis.images.result import ImageFit
from emphasis.images.saved import SavedImageModel, load_model

__all__ = ["ImageFit", "SavedImageModel", "load_model"]
