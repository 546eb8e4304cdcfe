"""The networks alone: they know tensors, not files.

blocks (convolution blocks), detector (backbone, feature fusion, proposal head), anchors (its boxes in mm),
prototypes (the loss that keeps mimics apart), segmenter (MARS regions).
"""
