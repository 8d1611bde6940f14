"""What frozen features are worth, one thing a file.

``split`` and ``streams`` say which clips and which modalities are scored, ``features`` encodes clips; ``linear``,
``logistic`` and ``neighbors`` are what learns from features, ``scores`` what is counted, ``controls`` what has to be
beaten; ``stages`` finds the encoders, ``evaluation`` does all of it for each of them, ``table`` prints it.
"""
