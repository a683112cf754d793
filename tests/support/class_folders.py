"""Images drawn at random, and folders of them for each class and split."""

import numpy as np
from PIL import Image


def picture(path, size=(8, 8), mode="RGB", seed=0):
    """Write a random image, columns x rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = {"RGB": 3, "L": 1, "RGBA": 4}[mode]
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], channels), dtype=np.uint8)
    Image.fromarray(values[..., 0] if mode == "L" else values).save(path)
    return values


def folders(root, train=("cat", "dog"), test=("cat", "dog"), each=3, size=(8, 8), test_name="test"):
    seed = 0
    for split, classes in (("train", train), (test_name, test)):
        for name in classes:
            for number in range(each):
                seed += 1
                picture(root / split / name / f"{number}.png", size, seed=seed)
    return str(root)
