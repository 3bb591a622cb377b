"""Decoders: thin loops over the ops."""
