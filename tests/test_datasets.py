"""The datasets: what is in them, how they are found, and what is said when they are missing or broken."""

import gzip
import hashlib
import lzma
import os
import pickle
import struct
import tarfile
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from robustnas.contracts import Dataset
from robustnas.errors import DataError
from robustnas.images import InMemory, Streamed
from robustnas_plugins.datasets import digits, idx, torchvision_sets
from robustnas_plugins.datasets.class_folders import Files
from robustnas_plugins.datasets.digits import Digits
from robustnas_plugins.datasets.image_folder import ImageFolder
from robustnas_plugins.datasets.imagenet import ImageNet
from robustnas_plugins.datasets.torchvision_sets import CIFAR10, CIFAR100, MNIST, SVHN, FashionMNIST

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
"""Real image data beside the checkout, where a developer has it."""


def shared(name):
    """A file of the shared data, or a skip that says which is missing."""
    if not (SHARED / name).exists():
        pytest.skip(f"needs {name} in a folder shared/data beside the checkout")
    return SHARED / name


@pytest.fixture(autouse=True)
def _no_data_of_this_machine(monkeypatch, tmp_path):
    monkeypatch.delenv("ROBUSTNAS_DATA", raising=False)
    monkeypatch.chdir(tmp_path)


def picture(path, size=(8, 8), mode="RGB", seed=0):
    """Write a random image, columns x rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = {"RGB": 3, "L": 1, "RGBA": 4}[mode]
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], channels), dtype=np.uint8)
    Image.fromarray(values.squeeze()).save(path)
    return values


def folders(root, train=("cat", "dog"), test=("cat", "dog"), each=3, size=(8, 8), test_name="test"):
    seed = 0
    for split, classes in (("train", train), (test_name, test)):
        for name in classes:
            for number in range(each):
                seed += 1
                picture(root / split / name / f"{number}.png", size, seed=seed)
    return str(root)


# files


def test_names_of_files_are_the_paths_and_need_no_room_in_a_message_to_a_worker():
    paths = [Path("a/b.png"), Path("ä.png"), Path(os.fsdecode(b"\xff.png")), *(Path(f"{n}.png") for n in range(5000))]
    files = Files(paths, "some", 3, None, None)
    assert len(files) == len(paths)
    assert [files.files[index] for index in (0, 1, 2, 3, 5002)] == [*paths[:4], paths[-1]]
    # tensors go to a worker as shared memory
    assert len(ForkingPickler.dumps(files)) < 2000


# digits


def test_digits_are_the_uci_test_set_in_its_order():
    train, test = Digits().split("train"), Digits().split("test")
    assert (len(train.labels), len(test.labels)) == (1200, 597)
    assert train.labels[:12].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    labels = torch.cat([train.labels, test.labels])
    assert labels.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    first = train.take(torch.tensor([0]))[0]
    assert first.shape == (1, 8, 8)
    assert (first[0, 0] * 16).tolist() == [0, 0, 5, 13, 9, 1, 0, 0]
    assert (first[0, 7] * 16).tolist() == [0, 0, 6, 13, 10, 0, 0, 0]
    pixels = torch.cat([train.pixels, test.pixels])
    assert bool((pixels * 16 == (pixels * 16).round()).all())
    assert (float(pixels.min()), float(pixels.max())) == (0.0, 1.0)


def test_digits_have_no_image_in_both_splits_and_the_statistics_they_say():
    train, test = (Digits().split(name).pixels for name in ("train", "test"))
    seen = {image.numpy().tobytes() for image in train}
    assert len(seen) > 1100
    assert not any(image.numpy().tobytes() in seen for image in test)
    assert float(train.mean()) == pytest.approx(Digits.mean[0], abs=1e-4)
    assert float(train.std()) == pytest.approx(Digits.std[0], abs=1e-4)


def test_digits_that_are_damaged_are_told(monkeypatch, tmp_path):
    monkeypatch.setattr(digits, "files", lambda package: tmp_path)
    with pytest.raises(DataError, match="cannot be read"):
        Digits().split("train")
    (tmp_path / "digits_data").mkdir()
    file = tmp_path / "digits_data" / "digits.csv.gz"
    file.write_bytes(gzip.compress(b"1,2,3\n"))
    with pytest.raises(DataError, match="is damaged"):
        Digits().split("train")
    file.write_bytes(gzip.compress(b"1,2,3\n" * 100)[:-20])
    with pytest.raises(DataError, match="cannot be read"):
        Digits().split("train")


# all

EVERY = (
    Digits(), MNIST(), FashionMNIST(), CIFAR10(), CIFAR100(), SVHN(),
    ImageNet(), ImageFolder("nowhere", size=8),
)  # fmt: skip


@pytest.mark.parametrize("dataset", EVERY, ids=lambda one: type(one).__name__)
def test_a_dataset_is_known_before_it_is_read(dataset):
    channels, rows, columns = dataset.shape
    assert min(rows, columns) >= 8
    assert len(dataset.mean) == len(dataset.std) == channels
    assert all(0 < value < 1 for value in (*dataset.mean, *dataset.std))
    if not isinstance(dataset, ImageFolder):  # its classes are the folders themselves
        assert isinstance(dataset, Dataset)
        assert dataset.classes >= 10
    with pytest.raises(DataError, match=r"'validation'.*'train' and 'test'"):
        dataset.split("validation")


@pytest.mark.parametrize("dataset", EVERY[1:6], ids=lambda one: type(one).__name__)
@pytest.mark.parametrize("split", ["train", "test"])
def test_missing_files_are_told_with_the_three_ways_out(dataset, split, tmp_path, monkeypatch):
    with pytest.raises(DataError) as caught:
        dataset.split(split)
    told = str(caught.value)
    assert str(tmp_path / "data") in told
    for way in ("folder: PATH", "ROBUSTNAS_DATA=PATH", "download: true"):
        assert way in told
    monkeypatch.setenv("ROBUSTNAS_DATA", str(tmp_path / "elsewhere"))
    with pytest.raises(DataError, match=r"elsewhere.*not a folder.*variable ROBUSTNAS_DATA"):
        dataset.split(split)
    with pytest.raises(DataError, match=r"given.*the option folder"):
        type(dataset)(folder=str(tmp_path / "given")).split(split)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(("dataset", "source"), [(MNIST, "MNIST"), (CIFAR10, "CIFAR10"), (SVHN, "SVHN")])
def test_a_download_happens_only_when_asked_for_and_its_failure_is_told(dataset, source, tmp_path, monkeypatch):
    asked = []

    def fail(self):
        asked.append(self.root)
        raise RuntimeError("no such host")

    monkeypatch.setattr(f"torchvision.datasets.{source}.download", fail)
    with pytest.raises(DataError, match="not found"):
        dataset().split("train")
    assert not asked
    with pytest.raises(DataError, match=r"download into .* failed .*no such host"):
        dataset(download=True).split("train")
    assert asked


# MNIST and its family


def idx_bytes(tensor):
    sizes = tensor.shape
    return struct.pack(f">BBBB{len(sizes)}I", 0, 0, 8, len(sizes), *sizes) + tensor.numpy().tobytes()


def test_idx_files_are_read_packed_and_plain(tmp_path):
    values = torch.randint(0, 256, (5, 3, 2), dtype=torch.uint8)
    (tmp_path / "plain").write_bytes(idx_bytes(values))
    (tmp_path / "packed.gz").write_bytes(gzip.compress(idx_bytes(values)))
    for name in ("plain", "packed.gz"):
        assert torch.equal(idx.read(tmp_path / name, (5, 3, 2)), values)


@pytest.mark.parametrize("harm", ["short", "long", "other sizes", "no idx", "cut gz"])
def test_damaged_idx_files_are_refused(tmp_path, harm):
    good = idx_bytes(torch.zeros(5, 3, 2, dtype=torch.uint8))
    path = tmp_path / ("file.gz" if harm == "cut gz" else "file")
    path.write_bytes(
        {
            "short": good[:-1],
            "long": good + b"1",
            "other sizes": idx_bytes(torch.zeros(3, 5, 2, dtype=torch.uint8)),
            "no idx": b"<html>404</html>",
            "cut gz": gzip.compress(good)[:-9],
        }[harm]
    )
    with pytest.raises(DataError, match=r"file.*(damaged or another file|cannot be read)"):
        idx.read(path, (5, 3, 2))


def small_mnist(monkeypatch, folder, packed=True, name="MNIST"):
    """Ten images a split stand for the official files, with checksums of their own."""
    import torchvision

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


@pytest.mark.parametrize("where", ["", "MNIST/raw"])
@pytest.mark.parametrize("packed", [True, False])
def test_mnist_is_found_where_torchvision_puts_it_and_packed_in_the_folder_itself(tmp_path, monkeypatch, where, packed):
    kept = small_mnist(monkeypatch, tmp_path / "d" / where, packed)
    dataset = MNIST(folder=str(tmp_path / "d"))
    if not packed and not where:
        with pytest.raises(DataError, match="not found"):
            dataset.split("train")
        return
    for name, start in (("train", "train"), ("test", "t10k")):
        split = dataset.split(name)
        assert isinstance(split, InMemory)
        assert split.pixels.dtype == torch.uint8
        assert torch.equal(split.pixels.squeeze(1), kept[start][0])
        assert torch.equal(split.labels, kept[start][1].long())


@pytest.mark.parametrize("packed", [True, False])
def test_an_mnist_file_that_is_not_the_official_one_is_refused(tmp_path, monkeypatch, packed):
    small_mnist(monkeypatch, tmp_path / "MNIST" / "raw", packed)
    file = tmp_path / "MNIST" / "raw" / ("train-labels-idx1-ubyte" + (".gz" if packed else ""))
    labels = idx_bytes(torch.zeros(10, dtype=torch.uint8))
    file.write_bytes(gzip.compress(labels) if packed else labels)
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte.*is damaged or another file"):
        MNIST(folder=str(tmp_path)).split("train")


def test_fashion_mnist_does_not_take_the_files_of_mnist(tmp_path, monkeypatch):
    small_mnist(monkeypatch, tmp_path)
    MNIST(folder=str(tmp_path)).split("train")
    with pytest.raises(DataError, match="is damaged or another file"):
        FashionMNIST(folder=str(tmp_path)).split("train")


def test_the_real_mnist(tmp_path, monkeypatch):
    monkeypatch.setenv("ROBUSTNAS_DATA", str(shared("mnist")))
    train, test = (MNIST().split(name) for name in ("train", "test"))
    assert (len(train.labels), len(test.labels)) == (60_000, 10_000)
    assert train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    pixels = train.pixels[::3].float() / 255  # an even stride would not do: writers of two kinds take turns
    assert float(pixels.mean()) == pytest.approx(MNIST.mean[0], abs=1e-3)
    assert float(pixels.std()) == pytest.approx(MNIST.std[0], abs=1e-3)


# CIFAR, SVHN


def small_cifar(monkeypatch, root, source, key):
    """Batches of four images stand for the official ones, with checksums of their own."""
    import torchvision

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


@pytest.mark.parametrize(
    ("dataset", "source", "key"), [(CIFAR10, "CIFAR10", "labels"), (CIFAR100, "CIFAR100", "fine_labels")]
)
def test_cifar_pixels_keep_their_places(tmp_path, monkeypatch, dataset, source, key):
    kept, folder = small_cifar(monkeypatch, tmp_path, source, key)
    for name, which in (("train", "train_list"), ("test", "test_list")):
        split = dataset(folder=str(tmp_path)).split(name)
        assert split.pixels.dtype == torch.uint8
        assert torch.equal(split.pixels, kept[which][0])
        assert split.labels.tolist() == kept[which][1]
    victim = sorted(folder.iterdir())[0]
    victim.write_bytes(victim.read_bytes()[:-1])
    with pytest.raises(DataError, match=f"{victim.name} is damaged or another file"):
        dataset(folder=str(tmp_path)).split("train")
    victim.unlink()
    with pytest.raises(DataError, match=f"{victim.name} not found"):
        dataset(folder=str(tmp_path)).split("train")


def test_svhn_counts_its_tens_as_zeros(tmp_path, monkeypatch):
    import torchvision
    from scipy.io import savemat

    listed = {}
    for part in ("train", "test"):
        path = tmp_path / f"{part}_32x32.mat"
        values = np.random.default_rng(len(part)).integers(0, 256, (32, 32, 3, 3), dtype=np.uint8)
        savemat(path, {"X": values, "y": np.array([[10], [1], [9]], dtype=np.uint8)})
        listed[part] = ["nowhere", path.name, hashlib.md5(path.read_bytes()).hexdigest()]
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", listed)
    split = SVHN(folder=str(tmp_path)).split("test")
    assert split.labels.tolist() == [0, 1, 9]
    assert split.pixels.shape == (3, 3, 32, 32)
    values = np.random.default_rng(4).integers(0, 256, (32, 32, 3, 3), dtype=np.uint8)
    assert torch.equal(split.pixels[2], torch.from_numpy(values[:, :, :, 2]).permute(2, 0, 1))


# image-folder


def test_people_s_own_images(tmp_path):
    dataset = ImageFolder(folders(tmp_path))
    values = picture(tmp_path / "train" / "cat" / "0.png", seed=99)
    assert dataset.shape == (3, 8, 8)
    assert dataset.classes == 2
    train = dataset.split("train")
    assert isinstance(train, InMemory)
    assert train.labels.tolist() == [0, 1, 0, 1, 0, 1], "the first images are balanced over classes"
    torch.testing.assert_close(
        train.take(torch.tensor([0]))[0], torch.from_numpy(values).permute(2, 0, 1).float() / 255
    )
    streamed = ImageFolder(str(tmp_path), stream=True).split("test")
    assert isinstance(streamed, Streamed)
    everything = torch.arange(6)
    assert torch.equal(streamed.take(everything), dataset.split("test").take(everything))


def test_a_folder_val_is_the_test_split_where_there_is_no_test(tmp_path):
    root = folders(tmp_path, test_name="val")
    held = ImageFolder(root).split("test").take(torch.arange(6))
    folders(tmp_path, each=1)
    assert len(ImageFolder(root).split("test").labels) == 2
    assert len(held) == 6


def test_size_resizes_the_shorter_side_and_cuts_the_centre(tmp_path):
    root = folders(tmp_path, size=(24, 12))
    assert ImageFolder(root).shape == (3, 12, 24)
    half = np.zeros((12, 24, 3), dtype=np.uint8)
    half[:, 6:18] = 255
    Image.fromarray(half).save(tmp_path / "train" / "cat" / "0.png")
    dataset = ImageFolder(root, size=6)
    assert dataset.shape == (3, 6, 6)
    images = dataset.split("train").take(torch.arange(6))
    assert images.shape == (6, 3, 6, 6)
    assert float(images[0].min()) > 0.8  # the bright half is the centre
    assert ImageFolder(root, size=24).split("test").take(torch.tensor([0])).shape == (1, 3, 24, 24)


def test_grey_and_colour_images_are_converted(tmp_path):
    root = folders(tmp_path)
    values = picture(tmp_path / "train" / "cat" / "0.png", mode="L")
    picture(tmp_path / "train" / "cat" / "1.png", mode="RGBA")
    colour = ImageFolder(root).split("train").take(torch.tensor([0]))[0]
    assert torch.equal(colour[0], colour[2])
    grey = ImageFolder(root, channels=1)
    assert grey.shape == (1, 8, 8)
    assert grey.mean == (0.5,)
    images = grey.split("train").take(torch.arange(6))
    torch.testing.assert_close(images[0, 0], torch.from_numpy(values[..., 0]).float() / 255)


def test_other_files_and_hidden_ones_are_left_out(tmp_path):
    root = folders(tmp_path)
    (tmp_path / "train" / "cat" / "notes.txt").write_text("a cat")
    (tmp_path / "train" / "cat" / "._0.png").write_text("")
    (tmp_path / "train" / ".cache").mkdir()
    (tmp_path / "train" / "classes.txt").write_text("")
    picture(tmp_path / "train" / "cat" / "deeper" / "9.PNG")
    assert ImageFolder(root).split("train").labels.tolist() == [0, 1, 0, 1, 0, 1, 0]


def broken_text(root):
    (root / "test" / "dog" / "1.png").write_text("not an image")


def broken_cut(root):
    file = root / "train" / "cat" / "1.png"
    file.write_bytes(file.read_bytes()[:-60])


def broken_empty(root):
    (root / "train" / "cat" / "1.png").write_bytes(b"")


def broken_sixteen_bits(root):
    Image.fromarray(np.zeros((8, 8), dtype=np.uint16)).save(root / "train" / "cat" / "1.png")


@pytest.mark.parametrize("harm", [broken_text, broken_cut, broken_empty, broken_sixteen_bits])
@pytest.mark.parametrize("stream", [False, True])
def test_a_broken_image_is_named(tmp_path, harm, stream):
    root = folders(tmp_path)
    harm(tmp_path)
    with pytest.raises(DataError, match=r"1\.png is not an image that can be read .*; replace or remove it"):
        ImageFolder(root, stream=stream).split("train").take(torch.arange(6))


def test_an_image_of_another_size_is_named_with_what_would_do(tmp_path):
    root = folders(tmp_path)
    picture(tmp_path / "test" / "dog" / "2.png", (8, 9))
    with pytest.raises(DataError, match=r"2\.png is 9x8 where the first training image is 8x8; .*size: N"):
        ImageFolder(root).split("train")
    assert len(ImageFolder(root, size=8).split("test").labels) == 6


def no_folder(root):
    return root / "nowhere"


def no_train(root):
    (root / "test" / "a").mkdir(parents=True)
    return root


def no_test(root):
    picture(root / "train" / "a" / "0.png")
    return root


def empty_train(root):
    (root / "train").mkdir()
    return root


def empty_class(root):
    folders(root)
    (root / "train" / "bird").mkdir()
    return root


def other_classes(root):
    return folders(root, test=("cat", "dog", "emu"))


def fewer_classes(root):
    return folders(root, test=("cat",))


def linked_image(root):
    folders(root)
    os.symlink(root / "train" / "cat" / "0.png", root / "test" / "cat" / "7.png")
    return root


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (no_folder, "nowhere is not a folder"),
        (no_train, "train is not a folder"),
        (no_test, "test is not a folder"),
        (empty_train, "train is empty"),
        (empty_class, "bird holds no image"),
        (other_classes, "train has no class folder emu"),
        (fewer_classes, "test has no class folder dog"),
        (linked_image, r"7\.png is a training image too"),
    ],
)
@pytest.mark.parametrize("split", ["train", "test"])
def test_folders_that_do_not_fit_are_told(tmp_path, make, message, split):
    with pytest.raises(DataError, match=message):
        ImageFolder(str(make(tmp_path))).split(split)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 2}, "channels"),
        ({"size": 0}, "size"),
        ({"mean": [0.5]}, "mean must have one number a channel: 3, found 1"),
        ({"std": [0.0, 0.1, 0.1]}, "std"),
        ({"workers": -1}, "workers"),
    ],
)
def test_options_of_an_image_folder_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        ImageFolder("anywhere", **options)


def test_mean_and_std_may_be_given():
    assert ImageFolder("anywhere", mean=[0.1, 0.2, 0.3]).mean == (0.1, 0.2, 0.3)


# imagenet


def test_imagenet_reads_val_as_its_test_split(tmp_path):
    root = folders(tmp_path, size=(20, 14), test_name="val")
    dataset = ImageNet(folder=root, size=8, resize=10, classes=2, workers=0)
    assert dataset.shape == (3, 8, 8)
    test = dataset.split("test")
    assert isinstance(test, Streamed)
    assert test.take(torch.tensor([0, 5])).shape == (2, 3, 8, 8)
    with pytest.raises(DataError, match=r"has 2 classes, 1000 are expected; classes: 2"):
        ImageNet(folder=root).split("train")


def test_imagenet_that_is_missing_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("ROBUSTNAS_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"(?s)train/ not found in .*imagenet.*folder: PATH") as caught:
        ImageNet().split("test")
    assert "download" not in str(caught.value)
    with pytest.raises(ValueError, match="resize must be at least size"):
        ImageNet(size=64, resize=32)


# real images


def test_real_photographs_of_imagenet_classes(tmp_path):
    archive = shared("imagenet-mini.tar")
    with tarfile.open(archive) as tar:
        members = [one for one in tar.getmembers() if one.isfile() and one.name.count("/") == 2]
        chosen, per_class = [], {}
        for member in sorted(members, key=lambda one: one.name):
            folder = member.name.rsplit("/", 1)[0]
            if per_class.setdefault(folder, 0) < 4:
                per_class[folder] += 1
                chosen.append(member)
        tar.extractall(tmp_path, members=chosen, filter="data")
    dataset = ImageNet(folder=str(tmp_path), size=56, resize=64, classes=20)
    train, test = dataset.split("train"), dataset.split("test")
    assert train.labels.bincount().tolist() == [4] * 20
    assert test.labels.bincount().tolist() == [4] * 20
    images = train.take(torch.arange(80))
    assert images.shape == (80, 3, 56, 56)
    assert 0.3 < float(images.mean()) < 0.6
    own = ImageFolder(str(tmp_path))  # val/ is its test split
    assert own.shape == (3, 64, 64)
    assert own.split("test").pixels.shape == (80, 3, 64, 64)


def test_real_photographs_of_cifar_classes(tmp_path):
    # the archive is a stream: its first images are all there is time for, dealt out to both splits
    taken = 0
    with lzma.open(shared("cifar10-jpeg.tar.xz")) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
        for member in tar:
            if not member.isfile():
                continue
            path = tmp_path / ("train", "test")[taken % 2] / ("one", "two")[taken // 2 % 2] / f"{taken}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(tar.extractfile(member).read())
            taken += 1
            if taken == 40:
                break
    dataset = ImageFolder(str(tmp_path))
    assert dataset.shape == (3, 32, 32)
    assert len(dataset.split("train").labels) == len(dataset.split("test").labels) == 20
