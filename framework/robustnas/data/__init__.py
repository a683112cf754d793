"""Labelled images and the batches made of them: stored bytes, splits, augmentation, read-ahead."""
