"""Images in folders: what is read, what is refused, and what tells them from others; image-folder and imagenet."""

import errno
import os
import unicodedata
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from robustnas.data.images import InMemory, Streamed
from robustnas.errors import DataError
from robustnas_plugins.datasets.class_folders import Files, read, scan
from robustnas_plugins.datasets.image_folder import ImageFolder
from support.class_folders import folders, picture

pytestmark = pytest.mark.usefixtures("no_data_of_this_machine")


def test_names_of_files_are_the_paths_and_need_no_room_in_a_message_to_a_worker():
    paths = [Path("a/b.png"), Path("ä.png"), Path(os.fsdecode(b"\xff.png")), *(Path(f"{n}.png") for n in range(5000))]
    files = Files(paths, "some", 3, None, None)
    assert len(files) == len(paths)
    assert [files.files[index] for index in (0, 1, 2, 3, 5002)] == [*paths[:4], paths[-1]]
    # tensors go to a worker as shared memory
    assert len(ForkingPickler.dumps(files)) < 2000


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


SIZES = [(500, 334), (640, 427), (427, 640), (375, 500), (333, 257), (257, 256), (256, 256), (255, 300), (1, 1), (1, 9),
         (7, 3), (31, 500), (1000, 13), (225, 224), (224, 449), (97, 1023), (256, 301), (300, 255)]  # fmt: skip
"""Columns and rows of photographs: landscape and portrait, tiny, long, smaller than the crop, halves to be rounded."""


@pytest.mark.parametrize(
    ("resize", "crop", "mode"), [(256, 224, "RGB"), (63, 32, "RGB"), (33, 33, "RGB"), (48, 31, "L")]
)
def test_pixels_are_those_of_torchvision_to_the_byte(tmp_path, resize, crop, mode):
    from torchvision.transforms import CenterCrop, Compose, Resize

    theirs = Compose([Resize(resize), CenterCrop(crop)])
    for seed, size in enumerate(SIZES):
        # random pixels, not a photograph: a shift by a single pixel shows everywhere
        picture(tmp_path / "0.png", size, mode, seed)
        ours = read(tmp_path / "0.png", "some", len(mode) // 3 * 2 + 1, resize, crop)
        with Image.open(tmp_path / "0.png") as image:
            expected = np.asarray(theirs(image.convert(mode))).reshape(crop, crop, -1)
        assert np.array_equal(ours.permute(1, 2, 0).numpy(), expected), f"{size} to {resize}, {crop}"


def test_an_image_so_long_that_resizing_it_would_take_all_memory_is_named(tmp_path):
    Image.fromarray(np.zeros((1, 9000), dtype=np.uint8)).save(tmp_path / "0.png")
    told = r"0\.png is not .* 1x9000 pixels: with a shorter side of 256 the longer one has"
    with pytest.raises(DataError, match=told):
        read(tmp_path / "0.png", "some", 3, 256, 224)


def test_images_are_read_as_they_are_stored(tmp_path):
    """What cameras and editors add is left alone, as torchvision's loader leaves it: turns, transparency, animation."""
    values = picture(tmp_path / "0.png", (6, 4))
    turned = Image.Exif()
    turned[0x112] = 6
    image = Image.fromarray(values)
    image.save(tmp_path / "turned.PNG", exif=turned)
    image.save(tmp_path / "animated.tiff", save_all=True, append_images=[image.rotate(180)])
    Image.fromarray(np.dstack([values, np.zeros((4, 6, 1), dtype=np.uint8)])).save(
        tmp_path / "transparent.webp", lossless=True, exact=True
    )
    for name in ("0.png", "turned.PNG", "animated.tiff", "transparent.webp"):
        assert np.array_equal(read(tmp_path / name, "some", 3, None, None).permute(1, 2, 0).numpy(), values), name
    palette = image.quantize(8)
    palette.save(tmp_path / "palette.gif")
    image.convert("CMYK").save(tmp_path / "cmyk.tif")
    for name, expected in (("palette.gif", palette), ("cmyk.tif", image.convert("CMYK"))):
        assert np.array_equal(
            read(tmp_path / name, "some", 3, None, None).permute(1, 2, 0).numpy(), np.asarray(expected.convert("RGB"))
        ), name


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
    for name in ("._0.png", ".DS_Store", "Thumbs.db"):
        (tmp_path / "train" / "cat" / name).write_text("")
    (tmp_path / "train" / ".cache").mkdir()
    (tmp_path / "train" / "classes.txt").write_text("")
    picture(tmp_path / "train" / "cat" / "deeper" / "9.PNG")
    picture(tmp_path / "train" / "cat" / ".ipynb_checkpoints" / "0-checkpoint.png")
    assert ImageFolder(root).split("train").labels.tolist() == [0, 1, 0, 1, 0, 1, 0]


def test_links_to_folders_are_followed_and_each_folder_of_a_class_counts_once(tmp_path):
    from torchvision.datasets import ImageFolder as Theirs

    root = tmp_path / "data"
    folders(root)
    for name in ("cat", "dog"):
        for number in range(4):
            picture(tmp_path / "elsewhere" / name / "deeper" / f"{number}.png")
        os.symlink(tmp_path / "elsewhere" / name, root / "train" / name / "more")
    os.symlink(root / "train" / "dog", root / "train" / "emu")
    picture(root / "test" / "emu" / "0.png", seed=5)
    theirs = [Path(file) for file, _ in Theirs(str(root / "train")).samples]
    # torchvision goes round until the system stops it, or finds images once for each way to them
    os.symlink(root / "train" / "cat", root / "train" / "cat" / "round")
    os.symlink("more", root / "train" / "cat" / "z")
    os.symlink("..", root / "train" / "cat" / "up")
    os.symlink(root, root / "train" / "dog" / "top")
    files = scan(root / "train", "some").files
    assert sorted(files) == theirs
    assert len(files) == 21


def test_a_class_is_one_whatever_unicode_form_its_name_has(tmp_path):
    forms = [unicodedata.normalize(form, "café") for form in ("NFC", "NFD")]
    one = ImageFolder(folders(tmp_path / "one", train=("cat", forms[0]), test=("cat", forms[1])))
    assert one.classes == 2
    other = ImageFolder(folders(tmp_path / "other", train=("cat", forms[1]), test=("cat", forms[0])))
    assert one.contents == other.contents, "copied to another file system, they are the same images"
    picture(tmp_path / "one" / "train" / forms[1] / "0.png")
    with pytest.raises(DataError, match="two folders café, whose names differ in their Unicode form alone"):
        _ = ImageFolder(str(tmp_path / "one")).classes


def test_a_message_is_one_line_of_characters_whatever_a_file_is_called(tmp_path):
    root = folders(tmp_path)
    bad = "a\n\x1b[31m" + os.fsdecode(b"\xff") + ".png"
    (tmp_path / "train" / "cat" / bad).write_bytes(b"")
    with pytest.raises(DataError, match=r"a\\n\\x1b\[31m\\udcff\.png is not an image") as told:
        ImageFolder(root).split("train")
    assert str(told.value).isprintable()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
def test_what_is_no_file_is_never_opened(tmp_path):
    root = folders(tmp_path)
    os.mkfifo(tmp_path / "test" / "dog" / "9.png")
    with pytest.raises(DataError, match=r"9\.png cannot be read, as it is a link to nothing or no file"):
        ImageFolder(root).split("train")


BROKEN = {
    "text": ("test/dog/1.png", lambda file: file.write_text("not an image")),
    "cut": ("train/cat/1.png", lambda file: file.write_bytes(file.read_bytes()[:-60])),
    "empty": ("train/cat/1.png", lambda file: file.write_bytes(b"")),
    "of 16 bits": ("train/cat/1.png", lambda file: Image.fromarray(np.zeros((8, 8), dtype=np.uint16)).save(file)),
}


@pytest.mark.parametrize("harm", BROKEN)
@pytest.mark.parametrize("stream", [False, True])
def test_a_broken_image_is_named(tmp_path, harm, stream):
    root = folders(tmp_path)
    name, change = BROKEN[harm]
    change(tmp_path / name)
    with pytest.raises(DataError, match=r"1\.png is not an image that can be read .*; replace or remove it"):
        ImageFolder(root, stream=stream).split("train").take(torch.arange(6))


def test_an_image_of_another_size_is_named_with_what_would_do(tmp_path):
    root = folders(tmp_path)
    picture(tmp_path / "test" / "dog" / "2.png", (8, 9))
    with pytest.raises(DataError, match=r"2\.png is 9x8 where the first training image is 8x8; .*size: N"):
        ImageFolder(root).split("train")
    assert len(ImageFolder(root, size=8).split("test").labels) == 6


def test_images_are_the_same_ones_wherever_their_folder_lies(tmp_path):
    here = ImageFolder(folders(tmp_path / "here"))
    there = ImageFolder(folders(tmp_path / "deeper" / "there", test_name="val"))
    assert here.contents == there.contents
    known = [here.contents]
    for changed, change in (
        ("train", lambda root: picture(root / "train" / "cat" / "3.png")),
        ("train", lambda root: picture(root / "train" / "cat" / "0.png", size=(9, 9))),
        ("train", lambda root: (root / "train" / "cat" / "3.png").rename(root / "train" / "dog" / "3.png")),
        ("test", lambda root: picture(root / "test" / "dog" / "0.png", size=(9, 9))),
        ("train test", lambda root: (root / "train" / "dog" / "3.png").rename(root / "test" / "dog" / "3.png")),
        ("train test", lambda root: [(root / name / "dog").rename(root / name / "emu") for name in ("train", "test")]),
    ):
        change(tmp_path / "here")
        known.append(ImageFolder(str(tmp_path / "here")).contents)
        differ = [split for split in ("train", "test") if known[-1][split] != known[-2][split]]
        assert " ".join(differ) == changed, "each split is known by its own files"
    os.symlink("nowhere.png", tmp_path / "here" / "train" / "cat" / "9.png")
    with pytest.raises(DataError, match=r"9\.png cannot be read, .*; replace or remove it"):
        _ = ImageFolder(str(tmp_path / "here")).contents


@pytest.mark.parametrize("stream", [False, True])
def test_training_images_are_read_as_larger_squares_in_the_same_order(tmp_path, stream):
    dataset = ImageFolder(folders(tmp_path, size=(24, 12)), size=6, stream=stream)
    larger, own = dataset.training_images(12), dataset.split("train")
    assert torch.equal(larger.labels, own.labels)
    whole = ImageFolder(str(tmp_path)).split("train").take(torch.arange(6))
    assert torch.equal(larger.take(torch.arange(6)), whole[..., 6:18]), "the square in the middle, no pixel changed"
    assert ImageFolder(str(tmp_path)).training_images is None, "without size images need not be squares"


def linked(source, place, link=os.symlink, **classes):
    """Folders whose test split has a file or folder of the training split under another name."""

    def make(root):
        folders(root, **classes)
        link(root / source, root / place)
        return root

    return make


def having(path):
    """Nothing but one folder, or one image."""

    def make(root):
        if path.endswith(".png"):
            picture(root / path)
        else:
            (root / path).mkdir(parents=True)
        return root

    return make


def empty_class(root):
    folders(root)
    (root / "train" / "bird").mkdir()
    return root


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: root / "nowhere", "nowhere is not a folder"),
        (having("test/a"), "train is not a folder"),
        (having("train/a/0.png"), "test is not a folder"),
        (having("train"), "train has no folder in it; it should hold one folder for each class"),
        (empty_class, "bird holds no image"),
        (lambda root: folders(root, test=("cat", "dog", "emu")), "train has no class folder emu"),
        (lambda root: folders(root, test=("cat",)), "test has no class folder dog"),
        (
            lambda root: folders(root, train=("cat",), test=("cat",)),
            "train has one class folder, cat; .* two folders or more would do",
        ),
        (linked("train/cat/0.png", "test/cat/7.png"), r"7\.png is a training image too"),
        (linked("train/cat/0.png", "test/cat/7.png", os.link), r"7\.png is a training image too"),
        (linked("train/dog", "test/dog/more"), r"more.0\.png is a training image too"),
        (linked("train/dog", "test/dog", test=("cat",)), r"dog.0\.png is a training image too"),
    ],
)
@pytest.mark.parametrize("split", ["train", "test"])
def test_folders_that_do_not_fit_are_told(tmp_path, make, message, split):
    with pytest.raises(DataError, match=message):
        ImageFolder(str(make(tmp_path))).split(split)


@pytest.mark.parametrize("closed", ["train", "train/dog"])
def test_a_folder_that_may_not_be_read_is_told(tmp_path, monkeypatch, closed):
    root, look = folders(tmp_path), os.scandir

    def scandir(path):
        if str(path) == str(tmp_path / closed):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return look(path)

    # permissions would stop nobody who is root
    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError, match=f"{closed} cannot be read .*Permission denied"):
        _ = ImageFolder(root).classes


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
