"""Image classifiers trained on your images by `emphasis fit` and applied by `emphasis predict`.

    import emphasis
    from emphasis.images import load_model

    result = emphasis.fit("photos", folder="runs/photos")
    load_model("runs/photos").predict(["new/1.jpg", "new/2.jpg"])

The extra `images` is required, and for networks of timm the extra `timm` as well.
"""

from emphasis.images.result import ImageFit
from emphasis.images.saved import SavedImageModel, load_model

__all__ = ["ImageFit", "SavedImageModel", "load_model"]
