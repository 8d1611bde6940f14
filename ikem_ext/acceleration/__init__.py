"""The parts of :func:`ikem_ext.accelerate`: what it knows, what it checks, and what it says."""
