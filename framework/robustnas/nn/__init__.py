"""Layers and cells of networks, and how a network is looked at without being changed."""
