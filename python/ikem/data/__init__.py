"""Recordings: reading, preparing, and the views of them that the encoders see."""
