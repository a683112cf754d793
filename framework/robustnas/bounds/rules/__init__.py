"""The rules that ship with robustnas, one family a file; importing this package registers them."""

from robustnas.bounds.rules import affine, arithmetic, average_pool, max_pool, rectifier, shape

__all__ = ["affine", "arithmetic", "average_pool", "max_pool", "rectifier", "shape"]
