"""A few images in the files of MNIST, CIFAR and SVHN, with checksums of their own."""

from __future__ import annotations

import gzip
import hashlib
import pickle
import struct

import numpy as np
import torch
import torchvision
from scipy.io import savemat

from robustnas_plugins.datasets import torchvision_sets


def idx_bytes(tensor):
    sizes = tensor.shape
    return struct.pack(f">BBBB{len(sizes)}I", 0, 0, 8, len(sizes), *sizes) + tensor.numpy().tobytes()


def small_mnist(monkeypatch, folder, packed=True, name="MNIST"):
    """Ten images a split stand for the official files, with checksums of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    resources, plain, kept = [], {}, {}
    for start in ("train", "t10k"):
        images = torch.randint(0, 256, (10, 28, 28), dtype=torch.uint8)
        labels = torch.randint(0, 10, (10,), dtype=torch.uint8)
        kept[start] = (images, labels)
        for file, tensor in ((f"{start}-images-idx3-ubyte", images), (f"{start}-labels-idx1-ubyte", labels)):
            data = idx_bytes(tensor)
            zipped = gzip.compress(data)
            resources.append((f"{file}.gz", hashlib.md5(zipped).hexdigest()))
            plain[file] = hashlib.md5(data).hexdigest()
            (folder / (f"{file}.gz" if packed else file)).write_bytes(zipped if packed else data)
    monkeypatch.setattr(getattr(torchvision.datasets, name), "resources", resources)
    monkeypatch.setattr(torchvision_sets, "UNPACKED_MNIST", plain)
    monkeypatch.setattr(torchvision_sets, "MNIST_SIZES", {"train": 10, "t10k": 10})
    return kept


def small_cifar(monkeypatch, root, source, key):
    """Batches of four images stand for the official ones, with checksums of their own."""
    cls = getattr(torchvision.datasets, source)
    folder = root / cls.base_folder
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)

    def write(name, content):
        data = pickle.dumps(content, protocol=2)
        (folder / name).write_bytes(data)
        return hashlib.md5(data).hexdigest()

    kept = {}
    for which in ("train_list", "test_list"):
        listed, pixels, labels = [], [], []
        for name, _ in getattr(cls, which):
            pixels.append(rng.integers(0, 256, (4, 3072), dtype=np.uint8))
            labels += [1, 0, 3, 2]
            listed.append([name, write(name, {"data": pixels[-1], key: [1, 0, 3, 2]})])
        kept[which] = (torch.from_numpy(np.vstack(pixels)).view(-1, 3, 32, 32), labels)
        monkeypatch.setattr(cls, which, listed)
    names = write(cls.meta["filename"], {cls.meta["key"]: list("abcd")})
    monkeypatch.setattr(cls, "meta", {**cls.meta, "md5": names})
    return kept, folder


def small_svhn(monkeypatch, folder):
    """Three images a split, of the digits 0 (which the files call 10), 1 and 9."""
    folder.mkdir(parents=True, exist_ok=True)
    listed, kept = {}, {}
    for part in ("train", "test"):
        path = folder / f"{part}_32x32.mat"
        values = np.random.default_rng(len(part)).integers(0, 256, (32, 32, 3, 3), dtype=np.uint8)
        savemat(path, {"X": values, "y": np.array([[10], [1], [9]], dtype=np.uint8)})
        listed[part] = ["nowhere", path.name, hashlib.md5(path.read_bytes()).hexdigest()]
        kept[part] = (torch.from_numpy(values).permute(3, 2, 0, 1), [0, 1, 9])
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", listed)
    return kept
