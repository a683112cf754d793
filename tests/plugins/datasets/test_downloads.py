"""Downloads from a server of our own: fetched, checked and read again; and whole or not there, whatever goes wrong."""

import errno
import http.server
import os
import tarfile
import threading
from functools import partial
from pathlib import Path

import pytest
import torch
import torchvision

from robustnas.errors import DataError
from robustnas_plugins.datasets.places import md5
from robustnas_plugins.datasets.torchvision_sets import CIFAR10, CIFAR100, MNIST, SVHN, FashionMNIST
from support.official_sets import small_cifar, small_mnist, small_svhn


class Server:
    """Serves the files of a folder on this machine.

    Args:
        folder: holds them.
    """

    def __init__(self, folder):
        self.asked = []
        self.breaks_off = ""  # a file of this name ends in the middle
        server = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def do_GET(self):
                server.asked.append(self.path)
                if self.path != f"/{server.breaks_off}":
                    return super().do_GET()
                content = (folder / server.breaks_off).read_bytes()
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[: len(content) // 2])

            def log_message(self, *args):
                pass

        handler = partial(Handler, directory=str(folder))
        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()

    def close(self):
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.delenv("ROBUSTNAS_DATA", raising=False)
    # a proxy would be asked for 127.0.0.1 too
    monkeypatch.setenv("no_proxy", "*")
    folder = tmp_path / "served"
    folder.mkdir()
    server = Server(folder)
    server.folder = folder
    yield server
    server.close()


def serve_mnist(monkeypatch, server, dataset=MNIST):
    small_mnist(monkeypatch, server.folder, name=dataset.__name__)
    monkeypatch.setattr(getattr(torchvision.datasets, dataset.__name__), "mirrors", [server.url])
    return dataset, "train-labels-idx1-ubyte.gz"


def serve_cifar(monkeypatch, server, dataset=CIFAR10, key="labels"):
    _, folder = small_cifar(monkeypatch, server.folder, dataset.__name__, key)
    source = getattr(torchvision.datasets, dataset.__name__)
    packed = server.folder / "packed.tar.gz"
    with tarfile.open(packed, "w:gz") as tar:
        tar.add(folder, arcname=folder.name)
    for attribute, value in (("url", server.url + packed.name), ("filename", packed.name), ("tgz_md5", md5(packed))):
        monkeypatch.setattr(source, attribute, value)
    return dataset, packed.name


def serve_svhn(monkeypatch, server):
    small_svhn(monkeypatch, server.folder)
    for listed in torchvision.datasets.SVHN.split_list.values():
        listed[0] = server.url + listed[1]
    return SVHN, "train_32x32.mat"


SERVE = {
    "mnist": serve_mnist,
    "fashion-mnist": partial(serve_mnist, dataset=FashionMNIST),
    "cifar10": serve_cifar,
    "cifar100": partial(serve_cifar, dataset=CIFAR100, key="fine_labels"),
    "svhn": serve_svhn,
}
ONE_OF_EACH_KIND = ["mnist", "cifar10", "svhn"]


def refused(dataset, folder, message):
    """A download that fails with one message, says what to do, and leaves nothing that is taken for data."""
    with pytest.raises(DataError, match=message) as caught:
        dataset(folder=str(folder), download=True).split("train")
    assert "what would do: run again with a network" in str(caught.value)
    assert "remove download: true" in str(caught.value)
    assert not list(folder.rglob("*"))
    with pytest.raises(DataError, match="not found"):
        dataset(folder=str(folder)).split("train")


@pytest.mark.parametrize("name", SERVE)
def test_what_was_fetched_is_read_without_the_network_from_then_on(tmp_path, monkeypatch, server, name):
    dataset, _ = SERVE[name](monkeypatch, server)
    folder = tmp_path / "new" / "data"
    with pytest.raises(DataError, match="not found"):
        dataset(folder=str(folder)).split("train")
    assert not server.asked, "nothing is fetched unless download says so"
    fetched = {split: dataset(folder=str(folder), download=True).split(split) for split in ("train", "test")}
    assert server.asked
    asked = len(server.asked)
    for split, images in fetched.items():
        again = dataset(folder=str(folder)).split(split)
        assert torch.equal(again.pixels, images.pixels)
        assert torch.equal(again.labels, images.labels)
        assert len(again.labels) > 0
    assert dataset(folder=str(folder), download=True).split("train").pixels.shape == fetched["train"].pixels.shape
    assert len(server.asked) == asked, "what is there is not fetched again"
    assert not list(folder.glob(".download-*"))


@pytest.mark.parametrize("name", ONE_OF_EACH_KIND)
def test_a_wrong_checksum_leaves_nothing(tmp_path, monkeypatch, server, name):
    dataset, file = SERVE[name](monkeypatch, server)
    content = bytearray((server.folder / file).read_bytes())
    content[-1] ^= 1
    (server.folder / file).write_bytes(content)
    refused(dataset, tmp_path / "data", f"(?s){name}: the download into .*data failed .*corrupted")


@pytest.mark.parametrize("name", ONE_OF_EACH_KIND)
def test_a_server_that_breaks_off_leaves_nothing_and_the_next_try_has_it_all(tmp_path, monkeypatch, server, name):
    dataset, file = SERVE[name](monkeypatch, server)
    server.breaks_off = file
    refused(dataset, tmp_path / "data", f"(?s){name}: the download into .*data failed")
    server.breaks_off = ""
    assert len(dataset(folder=str(tmp_path / "data"), download=True).split("train").labels) > 0


def test_no_network_is_told(tmp_path, monkeypatch, server):
    datasets = {name: SERVE[name](monkeypatch, server)[0] for name in ONE_OF_EACH_KIND}
    server.close()
    for name, dataset in datasets.items():
        refused(dataset, tmp_path / name, f"(?s){name}: the download into .* failed .*refused")


def test_a_folder_that_cannot_be_written_to_is_told(tmp_path, monkeypatch, server):
    dataset, _ = serve_mnist(monkeypatch, server)
    folder = tmp_path / "data"
    folder.mkdir()
    make = os.mkdir

    def mkdir(path, *args, **options):
        if folder in Path(path).parents:
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        make(path, *args, **options)

    # permissions would stop nobody who is root
    monkeypatch.setattr(os, "mkdir", mkdir)
    refused(dataset, folder, "Read-only file system")
    assert not server.asked


def test_half_a_file_that_somebody_else_left_is_told_and_fetched_again_once_it_is_deleted(
    tmp_path, monkeypatch, server
):
    dataset, file = serve_mnist(monkeypatch, server)
    dataset(folder=str(tmp_path), download=True).split("train")
    half = tmp_path / "MNIST" / "raw" / file
    half.write_bytes(half.read_bytes()[:-5])
    for download in (False, True):
        with pytest.raises(DataError, match=f"{file} is damaged or another file; delete it"):
            dataset(folder=str(tmp_path), download=download).split("train")
    half.unlink()
    half.with_suffix("").unlink()  # torchvision unpacks beside
    assert len(dataset(folder=str(tmp_path), download=True).split("train").labels) == 10
