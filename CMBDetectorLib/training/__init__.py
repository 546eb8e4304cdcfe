"""Training of both networks on simulated cases: ``python -m CMBDetectorLib train detector --config FILE``.

config (what to train), split (which heads), data (cases, crops, augmentation), heads (domain-randomized images for
the segmenter), targets and losses, loop (the steps, the same for both), detector and segmenter (one entry each),
export (TorchScript and manifest).
"""
