"""Adapters around stock transformers models."""
