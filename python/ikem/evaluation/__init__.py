"""What frozen encoders are worth, one thing a file.

``stages`` says whose encoders are evaluated, ``split`` and ``streams`` on which clips and which modalities, ``looks``
how clips are seen, and ``features`` encodes them. ``linear``, ``logistic`` and ``neighbors`` learn from features,
``fusion`` weighs streams by what ``folds`` of the training clips say, ``controls`` is what has to be beaten. ``scores``
counts and keeps the rows, ``evaluation`` does all of it for a stage, ``table`` prints it.
"""
