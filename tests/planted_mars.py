"""A small MARS in the official layout, made of scikit-learn's digits, in which it is known which frames are wrong.

A person is one scan. A frame shows it moved about by up to two pixels; each camera has its own brightness, contrast and
place, and camera 3 shows negatives, so that pixels of one person differ more between cameras than those of two persons
in one. Frames of training tracklets are replaced by background, by a detector's misses and by other persons.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy.io import savemat
from sklearn.datasets import load_digits

SIDE = 20
FRAMES = (4, 8)  # of a tracklet, from and to, both included
CAMERAS = {1: (0.7, 70.0, 0), 2: (0.9, 10.0, 2), 3: (-0.8, 230.0, -2)}  # contrast, brightness, pixels to the right
WRONG = ("background", "junk", "person")


@dataclass(frozen=True)
class Planted:
    """`wrong` (F,): "", or what a frame of the training part shows instead of its person."""

    wrong: np.ndarray


def write_planted_mars(root, *, train_persons=40, test_persons=15, distractors=6, junk=6, wrong_share=0.2, seed=0):
    """Write lists, names and JPEG images below `root`, and return what is wrong in the training part."""
    rng = np.random.default_rng(seed)
    scans = np.kron(load_digits().images, np.ones((2, 2))) * (255 / 16)  # 16 x 16
    scans = scans[rng.permutation(len(scans))]
    odd = iter(scans[train_persons + test_persons :])
    own = {2 * i + 1: scans[i] for i in range(train_persons)}
    wrong = []

    def tracklets(part, shown):
        """Write (person, camera, picture of each frame) one after the other."""
        rows, names, first = [], [], 1
        for number, (person, camera, pictures) in enumerate(shown, start=1):
            folder = root / f"bbox_{part}" / ("00-1" if person == -1 else f"{person:04d}")
            folder.mkdir(parents=True, exist_ok=True)
            for place, picture in enumerate(pictures, start=1):
                names.append(f"{folder.name}C{camera}T{number:04d}F{place:03d}.jpg")
                Image.fromarray(picture).save(folder / names[-1], quality=95)
            rows.append((first, first + len(pictures) - 1, person, camera))
            first += len(pictures)
        (root / "info").mkdir(parents=True, exist_ok=True)
        (root / "info" / f"{part}_name.txt").write_text("\n".join(names) + "\n")
        savemat(root / "info" / f"tracks_{part}_info.mat", {f"track_{part}_info": np.array(rows, np.int32)})
        return np.array(rows)

    def train_shown():
        for person, scan in own.items():
            for camera in CAMERAS:
                kinds = rng.choice(["", *WRONG], frames(rng), p=[1 - wrong_share, *[wrong_share / 3] * 3])
                wrong.extend(kinds)
                yield person, camera, [picture(rng, camera, instead(kind, person) if kind else scan) for kind in kinds]

    def instead(kind, person):
        if kind == "background":
            return np.full((16, 16), rng.uniform(0, 60)) + rng.normal(0, 10, (16, 16))
        if kind == "junk":  # half a digit, beside the frame's middle
            return np.roll(scans[rng.integers(len(scans))], 8, axis=int(rng.integers(2)))
        return own[int(rng.choice([other for other in own if other != person]))]

    def test_shown():
        for _ in range(junk):
            half = np.roll(next(odd), 8, axis=1)
            yield -1, int(rng.integers(1, 4)), [picture(rng, 1, half) for _ in range(frames(rng))]
        for _ in range(distractors):
            scan, camera = next(odd), int(rng.integers(1, 4))
            yield 0, camera, [picture(rng, camera, scan) for _ in range(frames(rng))]
        for i in range(test_persons):
            for camera in (*CAMERAS, 1):  # one camera sees a person twice
                yield 2 * i + 2, camera, [picture(rng, camera, scans[train_persons + i]) for _ in range(frames(rng))]

    tracklets("train", train_shown())
    rows = tracklets("test", test_shown())
    first_seen = np.unique(rows[:, 2:], axis=0, return_index=True)[1]
    query = np.sort(first_seen[rows[first_seen, 2] > 0])
    savemat(root / "info" / "query_IDX.mat", {"query_IDX": (query + 1).astype(np.uint16)[None]})
    return Planted(np.array(wrong))


def frames(rng):
    return int(rng.integers(FRAMES[0], FRAMES[1] + 1))


def picture(rng, camera, scan):
    """Return one frame, (SIDE, SIDE) uint8."""
    contrast, brightness, right = CAMERAS[camera]
    canvas = np.zeros((SIDE + 8, SIDE + 8))
    top, left = rng.integers(4, 9, 2)
    canvas[top : top + 16, left + right : left + right + 16] = scan
    seen = brightness + contrast * canvas[4 : 4 + SIDE, 4 : 4 + SIDE] + rng.normal(0, 5, (SIDE, SIDE))
    return np.clip(seen, 0, 255).astype(np.uint8)
