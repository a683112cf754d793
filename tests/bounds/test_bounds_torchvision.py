"""Small instances of torchvision's networks: each is certified, or refused in a sentence."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import (
    MaxVit,
    MobileNetV3,
    RegNet,
    VisionTransformer,
    convnext,
    densenet,
    efficientnet,
    mobilenetv3,
    regnet,
    resnet,
    shufflenetv2,
    squeezenet,
    swin_transformer,
)
from torchvision.models.googlenet import Inception

from robustnas.bounds import margins
from robustnas.errors import UnsupportedOpError
from robustnas.threat import ThreatModel

CLASSES = 3


def mobile() -> nn.Module:
    settings = [
        mobilenetv3.InvertedResidualConfig(8, 3, 16, 8, True, "RE", 2, 1, 1.0),
        mobilenetv3.InvertedResidualConfig(8, 5, 16, 16, True, "HS", 1, 1, 1.0),
    ]
    return MobileNetV3(settings, 16, num_classes=CLASSES)


def efficient() -> nn.Module:
    settings = [
        efficientnet.FusedMBConvConfig(2, 3, 1, 8, 8, 1),
        efficientnet.MBConvConfig(4, 3, 2, 8, 16, 1),
    ]
    return efficientnet.EfficientNet(settings, 0.1, num_classes=CLASSES, last_channel=16)


def convolutional() -> nn.Module:
    return convnext.ConvNeXt(
        [convnext.CNBlockConfig(8, 12, 1), convnext.CNBlockConfig(12, None, 1)], num_classes=CLASSES
    )


def transformer() -> nn.Module:
    net = VisionTransformer(8, 4, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=8, num_classes=CLASSES)
    # made with zeros
    nn.init.normal_(net.heads.head.weight)
    return net


def windows(block: Callable[..., nn.Module]) -> nn.Module:
    return swin_transformer.SwinTransformer([4, 4], 8, [2], [2], [4, 4], num_classes=CLASSES, block=block)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet": (lambda: resnet.ResNet(resnet.BasicBlock, [1, 1, 1, 1], CLASSES, width_per_group=64), 32),
    "densenet": (lambda: densenet.DenseNet(4, (1, 1), 8, 2, num_classes=CLASSES), 32),
    "squeezenet": (lambda: squeezenet.SqueezeNet("1_1", CLASSES), 32),
    "shufflenet": (lambda: shufflenetv2.ShuffleNetV2([1, 1, 1], [8, 8, 8, 8, 8], CLASSES), 32),
    "inception block": (
        lambda: nn.Sequential(Inception(3, 2, 2, 4, 2, 4, 2), nn.Flatten(), nn.Linear(12 * 64, CLASSES)),
        8,
    ),
    "mobilenet": (mobile, 16),
    "efficientnet": (efficient, 16),
    "regnet": (lambda: RegNet(regnet.BlockParams([1], [8], [4], [1.0], [2], 0.25), CLASSES, 8), 16),
    "convnext": (convolutional, 16),
    "vit": (transformer, 8),
    "maxvit": (lambda: MaxVit((16, 16), 8, 2, [8], [1], 4, 0.0, num_classes=CLASSES), 16),
}
REFUSED = {
    "swin": partial(windows, swin_transformer.SwinTransformerBlock),
    "swin, second version": partial(windows, swin_transformer.SwinTransformerBlockV2),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_is_bounded_soundly_and_exactly_at_epsilon_zero(name: str):
    build, side = NETWORKS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        net = build().eval().double()
        images = torch.rand(2, 3, side, side, dtype=torch.float64)
        noise = torch.rand_like(images).round() * 2 - 1
    labels = net(images).argmax(1)

    def margin(images: Tensor) -> Tensor:
        logits = net(images)
        return (logits.gather(1, labels[:, None]) - logits).scatter(1, labels[:, None], torch.inf).amin(1)

    with torch.no_grad():
        exact = margins(net, images, labels, ThreatModel("linf", 0.0)).amin(1)
        torch.testing.assert_close(exact, margin(images), rtol=1e-3, atol=0)
        for epsilon in (1e-9, 1e-3):
            bound = margins(net, images, labels, ThreatModel("linf", epsilon)).amin(1)
            assert (bound <= margin((images + epsilon * noise).clamp(0, 1)) + 1e-9).all()
            assert bound.isfinite().all()


@pytest.mark.parametrize("name", REFUSED)
def test_windows_in_the_place_of_images_are_refused(name: str):
    images = torch.rand(2, 3, 32, 32)
    with pytest.raises(UnsupportedOpError, match=r"reshape in features\.1\.0\.attn .*the first dimension must stay"):
        margins(REFUSED[name]().eval(), images, torch.tensor([0, 1]), ThreatModel("linf", 1e-3))
