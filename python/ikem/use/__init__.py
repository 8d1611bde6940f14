"""What a training is good for: naming actions, finding clips that are alike, exporting."""
