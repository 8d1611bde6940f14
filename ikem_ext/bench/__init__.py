"""Measures the operations against plain PyTorch and torch.compile: ``python -m ikem_ext.bench --help``."""
