"""Pixels: decoding, orientation, resizing, augmentation."""
