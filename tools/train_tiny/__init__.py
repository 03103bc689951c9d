"""Trains `tiny:cogvideox-i2v-trained`, the small image-to-video model that is shipped as package data."""
