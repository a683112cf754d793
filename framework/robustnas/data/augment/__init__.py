"""Augmentation on the device, a batch at a time; what happens to each image is drawn beforehand."""
