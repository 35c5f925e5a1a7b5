"""Real images as JPEG files in the official layout of Clothing1M, with wrong labels planted in the noisy list."""

import numpy as np
from PIL import Image

from emphasis.datasets import load_digits

PARTS = {"noisy_train": 60, "clean_train": 8, "clean_val": 12, "clean_test": 20}
SIDES = (40, 34)  # height and width of the files: no squares


def digits(number):
    """Scanned digits as (n, 16, 16, 3) uint8, and what they are."""
    split = load_digits()
    gray = (255 * split.train_inputs[:number].reshape(-1, 8, 8)).astype(np.uint8)
    return np.repeat(np.kron(gray, np.ones((1, 2, 2), np.uint8))[..., None], 3, axis=3), split.train_labels[:number]


def write_layout(base, parts=PARTS, wrong=0.25, source=digits, sides=SIDES):
    """Write the layout below `base`; return the keys and the true labels of each part."""
    images, labels = source(sum(parts.values()))
    rng = np.random.default_rng(0)
    noisy, clean, keys, true, start = [], [], {}, {}, 0
    for part, number in parts.items():
        keys[part], true[part] = [], labels[start : start + number].tolist()
        for row in range(start, start + number):
            key = f"images/{row % 10}/{row % 3}/{row},{row * 7919}.jpg"
            path = base / key
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images[row]).resize(sides[::-1], Image.Resampling.BICUBIC).save(path, quality=90)
            keys[part].append(key)
            label = int(labels[row])
            if part == "noisy_train":
                given = (label + int(rng.integers(1, 10))) % 10 if rng.random() < wrong else label
                noisy.append(f"{key} {given}")
            else:
                clean.append(f"{key} {label}")
                if row % 2:  # some images have both
                    noisy.append(f"{key} {(label + 1) % 10}")
        (base / f"{part}_key_list.txt").write_text("".join(f"{key}\n" for key in keys[part]))
        start += number
    (base / "noisy_label_kv.txt").write_text("\n".join(noisy) + "\n")
    (base / "clean_label_kv.txt").write_text("\n".join(clean) + "\n")
    (base / "category_names_eng.txt").write_text("".join(f"class {label}\n" for label in range(14)))
    return keys, true
