"""A trained network and its certificates in the formats of the verification community, so that others can check them.

    a run's network     onnx_file       network.onnx, compared with torch
    its test images     box, vnnlib     a property an image: satisfiable exactly if the image is not robust
    its certificates    certificates    what is claimed of each image
                        bundle          all of it in one folder, with a manifest

docs/export.md says what lies in the folder and how it is checked.
"""

from robustnas.export.bundle import export
from robustnas.export.request import TIMEOUT, Request

__all__ = ["TIMEOUT", "Request", "export"]
